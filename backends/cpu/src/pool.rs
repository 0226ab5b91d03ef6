//! Threads that share one operation.
//!
//! An operation of a step takes microseconds, so handing it out must take far less: workers are made once, wait for
//! work in a spin loop for a short while before they sleep, and take pieces from one atomic word.
//!
//! ```text
//! caller:  job = f;  open = (0, pieces);  wake sleepers;  run own pieces;  wait until unfinished = 0
//! worker:  take a piece or wait;  run it;  unfinished -= 1
//! ```
//!
//! 1. The caller takes pieces from the front, workers from the back. So nobody waits for a worker that sleeps or that
//!    the system has not let run: it only takes less. And a piece of the same operation tends to go to the same
//!    thread in each step, whose cache may still hold its part of the state.
//! 2. A worker looks at `job` only after it has taken a piece, and the caller does not return before that piece is
//!    finished. So `job` may borrow from the caller's stack, and a worker that comes late finds nothing to take.
//!    It may take a piece of the next operation by a comparison made with the word of an earlier one; that is a
//!    proper taking of that piece, because everything else is read afterwards.
//! 3. Whoever waits gives up its CPU after [`SPIN`], so more threads than CPUs are slow but go on.
//! 4. A panic in a piece is kept, the other pieces are done, and the caller panics with it.
//! 5. A caller that finds the pool taken, by another thread or by itself further up, does its operation alone, and ends
//!    with the first piece that panics.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// How long a thread waits in a loop before it sleeps: longer than what lies between two shared operations of a
/// step (1 to 20 µs), so that workers stay awake through a step and little longer.
const SPIN: Duration = Duration::from_micros(50);

/// One operation: called with the number of each piece.
type Job<'a> = dyn Fn(usize) + Sync + 'a;

/// A number of worker threads that wait for operations.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// Pieces that nobody has taken: first in the low half, end in the high half.
    open: AtomicU64,
    /// Pieces that are not finished.
    unfinished: AtomicUsize,
    /// The operation; valid while `unfinished` is not 0.
    job: UnsafeCell<Option<*const Job<'static>>>,
    /// Whether a caller uses the pool.
    taken: AtomicBool,
    /// What the first piece that panicked has panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Held to fall asleep and to wake.
    sleep: Mutex<()>,
    /// Workers that sleep, or are about to.
    sleepers: AtomicUsize,
    /// There are pieces, or there will never be any again.
    wake: Condvar,
    /// Whether the caller sleeps, or is about to.
    caller_sleeps: AtomicBool,
    /// All pieces are finished.
    finished: Condvar,
    /// Workers that have started.
    running: AtomicUsize,
    /// Workers are to end.
    stop: AtomicBool,
}

// SAFETY: everything but `job` is `Sync`. `job` is written by the one caller who has set `taken`, while no piece is
// unfinished, and read only by threads that have taken a piece since then (see the essay above).
unsafe impl Sync for Shared {}
// SAFETY: as above; what `job` points to is `Sync`, so any thread may call it.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool with up to `workers` workers: fewer, where the system does not allow as many. Returns once they run,
    /// so that what a new thread allocates is behind them.
    pub(crate) fn new(workers: usize) -> Self {
        let shared = Arc::new(Shared {
            open: AtomicU64::new(0),
            unfinished: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            taken: AtomicBool::new(false),
            panic: Mutex::new(None),
            sleep: Mutex::new(()),
            sleepers: AtomicUsize::new(0),
            wake: Condvar::new(),
            caller_sleeps: AtomicBool::new(false),
            finished: Condvar::new(),
            running: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let spawn = |_| {
            let shared = Arc::clone(&shared);
            let work = move || {
                shared.running.fetch_add(1, SeqCst);
                shared.work();
            };
            Builder::new().name("sarit".into()).spawn(work).ok()
        };
        let workers: Vec<_> = (0..workers).map_while(spawn).collect();
        while shared.running.load(SeqCst) < workers.len() {
            std::thread::yield_now();
        }
        Self { shared, workers }
    }

    /// Number of workers.
    pub(crate) fn workers(&self) -> usize {
        self.workers.len()
    }

    /// Calls `job` once with each of `0..pieces`, on this thread and the workers, in any order.
    ///
    /// # Panics
    /// If a call of `job` panics: once all others are done, or at once where the pool is taken.
    pub(crate) fn run(&self, pieces: u32, job: &Job<'_>) {
        let shared = &*self.shared;
        if shared.taken.swap(true, SeqCst) {
            return (0..pieces as usize).for_each(job);
        }
        // SAFETY: only the lifetime changes. Nobody calls `job` after `wait` below has returned.
        let lasting = unsafe { core::mem::transmute::<&Job<'_>, &'static Job<'static>>(job) };
        // SAFETY: `taken` makes this thread the only one that writes, and there is no piece whose taker might read.
        unsafe { *shared.job.get() = Some(lasting) };
        shared.unfinished.store(pieces as usize, SeqCst);
        shared.open.store(pack(0, pieces), SeqCst);
        if shared.sleepers.load(SeqCst) > 0 {
            drop(shared.lock());
            shared.wake.notify_all();
        }
        while let Some(piece) = shared.take(|first, end| (first, pack(first + 1, end))) {
            shared.finish(piece);
        }
        shared.wait();
        let panic = shared.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
        shared.taken.store(false, SeqCst);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        drop(self.shared.lock());
        self.shared.wake.notify_all();
        for worker in self.workers.drain(..) {
            // A worker keeps the panics of its pieces, so it cannot end by one.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// What a worker does.
    fn work(&self) {
        while !self.stop.load(SeqCst) {
            match self.take(|first, end| (end - 1, pack(first, end - 1))) {
                Some(piece) => self.finish(piece),
                None => {
                    if !spin_until(|| self.is_called()) {
                        let mut guard = self.lock();
                        self.sleepers.fetch_add(1, SeqCst);
                        while !self.is_called() {
                            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
                        }
                        self.sleepers.fetch_sub(1, SeqCst);
                    }
                }
            }
        }
    }

    /// Whether there is something to do for a worker.
    fn is_called(&self) -> bool {
        let (first, end) = unpack(self.open.load(SeqCst));
        first < end || self.stop.load(SeqCst)
    }

    /// Takes one of the open pieces: `choose(first, end)` gives its number and what stays open.
    fn take(&self, choose: impl Fn(u32, u32) -> (u32, u64)) -> Option<u32> {
        let mut open = self.open.load(SeqCst);
        loop {
            let (first, end) = unpack(open);
            if first >= end {
                return None;
            }
            let (piece, rest) = choose(first, end);
            match self.open.compare_exchange_weak(open, rest, SeqCst, Relaxed) {
                Ok(_) => return Some(piece),
                Err(now) => open = now,
            }
        }
    }

    /// Runs a piece that this thread has taken.
    fn finish(&self, piece: u32) {
        let call = || {
            // SAFETY: this thread has taken a piece, so `job` was written before and is not written again until the
            // piece is finished, and what it points to lives as long.
            let job = unsafe { &*(*self.job.get()).expect("a job was set before its pieces") };
            job(piece as usize);
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
            self.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
        }
        if self.unfinished.fetch_sub(1, SeqCst) == 1 && self.caller_sleeps.load(SeqCst) {
            drop(self.lock());
            self.finished.notify_all();
        }
    }

    /// Waits until all pieces are finished.
    fn wait(&self) {
        let done = || self.unfinished.load(SeqCst) == 0;
        if spin_until(done) {
            return;
        }
        let mut guard = self.lock();
        // Not a plain store: QEMU (7.2, AArch64 on x86-64) lets one pass the load that follows, and then the worker that
        // finishes last sees nobody asleep and the caller sleeps for ever.
        self.caller_sleeps.swap(true, SeqCst);
        while !done() {
            guard = self.finished.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.caller_sleeps.store(false, SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.sleep.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits in a loop, for at most [`SPIN`]; returns whether the condition was met.
fn spin_until(condition: impl Fn() -> bool) -> bool {
    /// Looks at the condition per look at the clock.
    const LOOKS: usize = 16;
    let mut start = None;
    loop {
        for _ in 0..LOOKS {
            if condition() {
                return true;
            }
            core::hint::spin_loop();
        }
        if start.get_or_insert_with(Instant::now).elapsed() > SPIN {
            return false;
        }
    }
}

fn pack(first: u32, end: u32) -> u64 {
    u64::from(first) | u64::from(end) << 32
}

fn unpack(open: u64) -> (u32, u32) {
    (open as u32, (open >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `pieces` pieces and checks that each ran once.
    fn check(pool: &Pool, pieces: u32) {
        let runs: Vec<AtomicUsize> = (0..pieces).map(|_| AtomicUsize::new(0)).collect();
        pool.run(pieces, &|piece| {
            runs[piece].fetch_add(1, SeqCst);
        });
        assert!(runs.iter().all(|r| r.load(SeqCst) == 1), "{runs:?}");
    }

    #[test]
    fn each_piece_runs_once() {
        // More threads than CPUs, too.
        for workers in [0, 1, 2, 7] {
            let pool = Pool::new(workers);
            assert_eq!(pool.workers(), workers);
            for round in 0..if cfg!(miri) { 10 } else { 2000 } {
                check(&pool, round % 23);
            }
        }
    }

    #[test]
    fn workers_that_sleep_are_woken() {
        let pool = Pool::new(2);
        for _ in 0..20 {
            std::thread::sleep(3 * SPIN);
            check(&pool, 8);
        }
    }

    #[test]
    fn a_caller_that_sleeps_is_woken() {
        let pool = Pool::new(1);
        for _ in 0..20 {
            let caller = std::thread::current().id();
            pool.run(2, &|_| {
                if std::thread::current().id() != caller {
                    std::thread::sleep(5 * SPIN);
                } else {
                    std::thread::sleep(SPIN);
                }
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_goes_on() {
        let pool = Pool::new(2);
        for _ in 0..10 {
            let ran = AtomicUsize::new(0);
            let run = || {
                pool.run(12, &|piece| {
                    ran.fetch_add(1, SeqCst);
                    assert!(piece % 5 != 4, "piece {piece}");
                });
            };
            let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
            assert!(panic.downcast::<String>().unwrap().starts_with("piece "));
            assert_eq!(ran.load(SeqCst), 12);
            check(&pool, 12);
        }
    }

    #[test]
    fn a_pool_that_is_taken_is_not_waited_for() {
        let pool = Pool::new(1);
        pool.run(4, &|_| check(&pool, 5));
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| (0..500).for_each(|_| check(&pool, 9)));
            }
        });
    }
}
