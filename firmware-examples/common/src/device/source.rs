//! The sensor: an interrupt that takes one frame after another out of flash into a queue.

use core::cell::RefCell;
use core::sync::atomic::{AtomicU32, Ordering};
use critical_section::Mutex;
use heapless::spsc::{Consumer, Producer, Queue};

/// Frames that wait at most, plus one.
const QUEUE: usize = 3;

/// What the timer interrupt works on.
pub struct Source<const WIDTH: usize> {
    sensor: Mutex<RefCell<Option<Sensor<WIDTH>>>>,
    lost: AtomicU32,
}

struct Sensor<const WIDTH: usize> {
    frames: core::slice::Iter<'static, [f32; WIDTH]>,
    queue: Producer<'static, [f32; WIDTH]>,
}

/// The queue's memory.
pub type Frames<const WIDTH: usize> = Queue<[f32; WIDTH], QUEUE>;

impl<const WIDTH: usize> Source<WIDTH> {
    /// A sensor that is switched off.
    pub const fn new() -> Self {
        Self { sensor: Mutex::new(RefCell::new(None)), lost: AtomicU32::new(0) }
    }

    /// Switches the sensor on: from now on each interrupt brings a frame.
    pub fn start(
        &self,
        frames: &'static [[f32; WIDTH]],
        queue: &'static mut Frames<WIDTH>,
    ) -> Consumer<'static, [f32; WIDTH]> {
        let (producer, consumer) = queue.split();
        let sensor = Sensor { frames: frames.iter(), queue: producer };
        critical_section::with(|cs| self.sensor.borrow_ref_mut(cs).replace(sensor));
        consumer
    }

    /// To be called by the timer interrupt.
    pub fn tick(&self) {
        critical_section::with(|cs| {
            let mut sensor = self.sensor.borrow_ref_mut(cs);
            let Some(sensor) = sensor.as_mut() else { return };
            if let Some(frame) = sensor.frames.next()
                && sensor.queue.enqueue(*frame).is_err()
            {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Frames that found the queue full.
    pub fn lost(&self) -> u32 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl<const WIDTH: usize> Default for Source<WIDTH> {
    fn default() -> Self {
        Self::new()
    }
}
