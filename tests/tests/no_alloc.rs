//! Stepping, feeding, saving and loading allocate nothing, on every back end.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sarit_core::{DType, Engine, Model, Scratch, Shape, State, StateDType, argmax};
use sarit_cpu::AlignedBytes;
use sarit_tests::{Lent, backends, converted, families, golden, golden_frames, tokens};

/// Counts allocations of all threads while the trap is set.
struct Trap;

static SET: AtomicBool = AtomicBool::new(false);
static CAUGHT: AtomicUsize = AtomicUsize::new(0);

fn catch() {
    if SET.load(Ordering::SeqCst) {
        CAUGHT.fetch_add(1, Ordering::SeqCst);
    }
}

// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Trap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        catch();
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        catch();
        // SAFETY: `ptr` came from `System` with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        catch();
        // SAFETY: `ptr` came from `System` with this layout.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static TRAP: Trap = Trap;

/// No test harness: libtest has a thread of its own that allocates to say when a test takes longer than a minute.
fn main() {
    nothing_is_allocated_after_set_up();
    println!("\ntest result: ok. 1 passed; 0 failed");
}

fn nothing_is_allocated_after_set_up() {
    for name in &families() {
        for weights in DType::ALL {
            let file = converted(&golden(name), weights);
            // The format of the weights and that of the state have nothing to do with each other.
            let state_dtype = StateDType::ALL[weights as usize % 3];
            let model = Model::from_bytes(&file).unwrap().with_state(state_dtype);
            let ids = tokens(100, model.vocab_len());
            let shape = Shape { chunk: 16, streams: 2 };
            let scratch_bytes = model.memory(shape).unwrap().scratch_bytes;
            let mut snapshot = vec![0; State::snapshot_bytes(&model)];
            for cpu in backends() {
                let mut lent = Lent::new(&model, 16);
                let mut again = Lent::new(&model, 16);
                let mut working = AlignedBytes::zeroed(scratch_bytes).unwrap();

                SET.store(true, Ordering::SeqCst);
                let model = Model::from_bytes(&file).unwrap().with_state(state_dtype);
                let mut state = State::init(&model, &mut lent.state).unwrap();
                let mut scratch = Scratch::new(&model, &mut working, shape).unwrap();
                let engine = Engine::new(model, &cpu);
                engine.feed(&mut state, &mut scratch, &ids).unwrap();
                let mut token = 1;
                for _ in 0..1000 {
                    token = argmax(engine.step(&mut state, &mut scratch, token).unwrap());
                }
                state.save(&mut snapshot).unwrap();
                let mut loaded = State::load(&model, &snapshot, &mut again.state).unwrap();
                engine.step_many(&mut [&mut state, &mut loaded], &mut scratch, &[1, 1]).unwrap();
                SET.store(false, Ordering::SeqCst);

                assert_eq!(loaded.hash(), state.hash());
                assert_eq!(CAUGHT.load(Ordering::SeqCst), 0, "{name} {} {cpu:?}", weights.name());
            }
        }
    }
    let file = converted(&golden_frames("mambalite-kws"), DType::Q8);
    let model = Model::from_bytes(&file).unwrap();
    for cpu in backends() {
        let mut lent = Lent::new(&model, 16);
        SET.store(true, Ordering::SeqCst);
        let mut state = State::init(&model, &mut lent.state).unwrap();
        let mut scratch = Scratch::new(&model, &mut lent.scratch, 16).unwrap();
        let engine = Engine::new(model, &cpu);
        for _ in 0..100 {
            engine.feed_frames(&mut state, &mut scratch, &[0.5; 17 * 40], 1.0).unwrap();
            engine.step_frame(&mut state, &mut scratch, &[0.25; 40], 2.0).unwrap();
        }
        SET.store(false, Ordering::SeqCst);
        assert_eq!(CAUGHT.load(Ordering::SeqCst), 0, "{cpu:?}");
    }
    // The trap does catch.
    SET.store(true, Ordering::SeqCst);
    drop(std::hint::black_box(vec![1u8; 100]));
    SET.store(false, Ordering::SeqCst);
    assert_eq!(CAUGHT.load(Ordering::SeqCst), 2);
}
