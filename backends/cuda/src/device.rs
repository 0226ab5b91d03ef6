//! What [`Streams`](crate::Streams) needs of a device: memory, and the two kernels. [`Cuda`](crate::Cuda) is one; the
//! emulator of the tests is another.

use crate::error::CudaError;
use crate::program::Params;

/// What a block of a launch has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockSize {
    /// Threads; those beyond 512 have weights come for the others.
    pub threads: usize,
    /// Bytes of shared memory.
    pub shared_bytes: usize,
}

/// A device with memory of its own.
pub trait Device {
    /// Memory on the device, given back when dropped.
    type Buffer;
    /// A model's bytes, in memory that the device can read.
    type Model<'m>;

    /// Makes the kernels for a model's shapes ready ([`dispatch`](crate::dispatch)): compiled at the first use on this
    /// machine, which takes seconds.
    ///
    /// # Errors
    /// If they can neither be found nor compiled.
    fn load(&mut self, dispatch: &str) -> Result<(), CudaError>;

    /// Shared memory that a block can have, in bytes.
    ///
    /// # Errors
    /// If the device has failed.
    fn shared_bytes(&self) -> Result<usize, CudaError>;

    /// Blocks that run at the same time, for one row of activations or many.
    ///
    /// # Errors
    /// If not even one does.
    fn grid(&self, many: bool, block: BlockSize) -> Result<usize, CudaError>;

    /// Brings a model where the device can read it.
    ///
    /// # Errors
    /// If there is too little memory.
    fn model<'m>(&self, bytes: &'m [u8]) -> Result<Self::Model<'m>, CudaError>;

    /// The device's address of a model.
    fn model_address(&self, model: &Self::Model<'_>) -> u64;

    /// Bytes of the device's own memory that a model takes.
    fn model_bytes(&self, model: &Self::Model<'_>) -> usize;

    /// Memory, whatever it holds.
    ///
    /// # Errors
    /// If there is too little.
    fn allocate(&self, bytes: usize) -> Result<Self::Buffer, CudaError>;

    /// The device's address of a buffer.
    fn address(&self, buffer: &Self::Buffer) -> u64;

    /// Writes `bytes` from byte `start` on.
    ///
    /// # Errors
    /// If the device has failed.
    fn write(&self, buffer: &mut Self::Buffer, start: usize, bytes: &[u8]) -> Result<(), CudaError>;

    /// Reads from byte `start` on, after all that was launched.
    ///
    /// # Errors
    /// If the device has failed.
    fn read(&self, buffer: &Self::Buffer, start: usize, bytes: &mut [u8]) -> Result<(), CudaError>;

    /// Sets `bytes` bytes from byte `start` on to zero.
    ///
    /// # Errors
    /// If the device has failed.
    fn clear(&self, buffer: &mut Self::Buffer, start: usize, bytes: usize) -> Result<(), CudaError>;

    /// Waits until all that was launched is done.
    ///
    /// # Errors
    /// If the device has failed.
    fn wait(&self) -> Result<(), CudaError>;

    /// Runs a kernel, the one for many rows or that for one, on `grid` blocks that all run at the same time.
    ///
    /// # Errors
    /// If the device has failed.
    ///
    /// # Safety
    /// `params` must name a model and buffers of this device that are large enough for the program, and a program for
    /// them. They and the device must stay until the kernel is done, for which [`wait`](Self::wait) waits.
    unsafe fn run(&self, many: bool, grid: usize, block: BlockSize, params: &Params)
    -> Result<(), CudaError>;
}
