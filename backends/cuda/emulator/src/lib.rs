//! A CUDA device that is emulated: the kernels of `sarit-cuda`, compiled as C++, run thread by thread.
//!
//! `emulator.h` says how. Memory is the host's; around every buffer there is a guard, which is checked when the buffer is
//! dropped, and a buffer starts as bytes that are not numbers: what is read before it is written shows. A model that is
//! dropped before its user has waited for the kernels, which would still read it on a real device, shows too.

use sarit_cuda::{BlockSize, CudaError, Device, Params};
use std::cell::{Cell, UnsafeCell};

unsafe extern "C" {
    fn emulator_run(many: bool, params: *const Params, grid: u32, threads: u32, shared_bytes: u64, seed: u64);
    fn emulator_sizes(sizes: *mut u64);
    fn emulator_function(number: u32, x: *const f32, y: *mut f32, n: u64);
    fn emulator_half(bits: u16) -> f32;
    fn emulator_sin_cos(turns: u64, sine: *mut f32, cosine: *mut f32);
}

/// Fibers are global: one launch at a time.
static RUNNING: std::sync::Mutex<()> = std::sync::Mutex::new(());

thread_local! {
    /// Whether a kernel that this thread has launched may still run, as far as its user can know.
    static LAUNCHED: Cell<bool> = const { Cell::new(false) };
}

/// Runs the kernels, those for many rows or for one: parameters, blocks, a block's threads and bytes of shared memory, order of threads.
type Run = unsafe extern "C" fn(bool, *const Params, u32, u32, u64, u64);

/// An emulated device.
#[derive(Debug, Clone, Copy)]
pub struct Emulator {
    /// Blocks that run at the same time.
    pub grid: usize,
    /// Order in which threads run; 0 for the order of their numbers.
    pub seed: u64,
    shared_bytes: usize,
    kernels: Kernels,
}

/// Which kernels run.
#[derive(Debug, Clone, Copy)]
enum Kernels {
    /// Those for any model.
    General,
    /// Those made for the model, once they are.
    Special(Option<Run>),
}

impl Emulator {
    /// A device whose kernels run any model.
    pub const fn new(grid: usize, seed: u64) -> Self {
        Self { grid, seed, shared_bytes: SHARED_BYTES, kernels: Kernels::General }
    }

    /// The same with other shared memory of a block.
    pub const fn with_shared_bytes(self, shared_bytes: usize) -> Self {
        Self { shared_bytes, ..self }
    }

    /// A device whose kernels are made for each model, as on a real one; that takes seconds, and a C++ compiler at run time
    /// (`CXX`, or `c++`).
    pub const fn special(grid: usize, seed: u64) -> Self {
        Self { grid, seed, shared_bytes: SHARED_BYTES, kernels: Kernels::Special(None) }
    }
}

/// The kernels with a model's `dispatch.cuh`, for `grid` blocks.
fn compiled(dispatch: &str, grid: usize) -> Run {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::write(folder.path().join("dispatch.cuh"), dispatch).expect("it takes a file");
    // `sarit.cu` finds its own folder's file first, so it is copied to where the other one lies.
    std::fs::copy(sources.join("../kernels/sarit.cu"), folder.path().join("sarit.cu")).expect("it is there");
    let library = folder.path().join("kernels.so");
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let status = std::process::Command::new(compiler)
        .args([
            "-std=c++17",
            "-O1",
            "-shared",
            "-fPIC",
            "-w",
            "-ffp-contract=off",
            "-fno-strict-aliasing",
            "-U_FORTIFY_SOURCE",
        ])
        .args(["-DSARIT_EMULATOR", "-DSARIT_SPECIAL", &format!("-DSARIT_BLOCKS={grid}u"), "-I"])
        .arg(folder.path())
        .args([
            "-I".as_ref(),
            sources.join("src").as_os_str(),
            "-I".as_ref(),
            sources.join("../kernels").as_os_str(),
            "-o".as_ref(),
        ])
        .arg(&library)
        .arg(sources.join("src/emulator.cpp"))
        .status()
        .expect("a C++ compiler");
    assert!(status.success(), "the kernels made for a model do not compile:\n{dispatch}");
    // SAFETY: the library is this crate's own, and is never unloaded.
    unsafe {
        let library = libloading::Library::new(library).expect("a library");
        let run = *library.get::<Run>(b"emulator_run").expect("it has that function");
        std::mem::forget(library);
        run
    }
}

/// Shared memory of a block, unless said otherwise: that of an NVIDIA device of compute capability 8.7.
const SHARED_BYTES: usize = 163 << 10;

/// Bytes on each side of a buffer.
const GUARD_BYTES: usize = 256;
const GUARD: u64 = 0xa5a5_a5a5_a5a5_a5a5;
/// Two floats that are not numbers.
const FRESH: u64 = 0x7fc1_2345_7fc1_2345;

/// Memory of the emulated device.
#[derive(Debug)]
pub struct Buffer {
    words: UnsafeCell<Vec<u64>>,
    start: usize,
    bytes: usize,
}

impl Buffer {
    fn new(bytes: usize, fresh: u64) -> Self {
        let mut words = vec![GUARD; (bytes + 3 * GUARD_BYTES).div_ceil(8)];
        // As aligned as a device's memory, so that the guard begins at once.
        let start = GUARD_BYTES + words.as_ptr().cast::<u8>().align_offset(GUARD_BYTES);
        words[start / 8..(start + bytes).div_ceil(8)].fill(fresh);
        Self { words: UnsafeCell::new(words), start, bytes }
    }

    fn pointer(&self) -> *mut u8 {
        // SAFETY: within the allocation.
        unsafe { (*self.words.get()).as_mut_ptr().cast::<u8>().add(self.start) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let (first, last) = (self.start / 8, (self.start + self.bytes).div_ceil(8));
        let words = self.words.get_mut();
        let is_whole = words[..first].iter().chain(&words[last..]).all(|&word| word == GUARD);
        assert!(
            is_whole || std::thread::panicking(),
            "a kernel has written outside a buffer of {} bytes",
            self.bytes
        );
    }
}

/// A model in the host's memory, where the kernels read it.
#[derive(Debug)]
pub struct Mapped<'m>(&'m [u8]);

impl Drop for Mapped<'_> {
    fn drop(&mut self) {
        assert!(
            !LAUNCHED.get() || std::thread::panicking(),
            "a model is given back while a kernel may still read it"
        );
    }
}

impl Device for Emulator {
    type Buffer = Buffer;
    type Model<'m> = Mapped<'m>;

    fn load(&mut self, dispatch: &str) -> Result<(), CudaError> {
        if let Kernels::Special(run) = &mut self.kernels {
            *run = Some(compiled(dispatch, self.grid));
        }
        Ok(())
    }

    fn shared_bytes(&self) -> Result<usize, CudaError> {
        Ok(self.shared_bytes)
    }

    fn grid(&self, _: bool, _: BlockSize) -> Result<usize, CudaError> {
        Ok(self.grid)
    }

    fn model<'m>(&self, bytes: &'m [u8]) -> Result<Mapped<'m>, CudaError> {
        Ok(Mapped(bytes))
    }

    fn model_address(&self, model: &Mapped<'_>) -> u64 {
        model.0.as_ptr().addr() as u64
    }

    fn model_bytes(&self, _: &Mapped<'_>) -> usize {
        0
    }

    fn allocate(&self, bytes: usize) -> Result<Buffer, CudaError> {
        Ok(Buffer::new(bytes, FRESH))
    }

    fn address(&self, buffer: &Buffer) -> u64 {
        buffer.pointer().expose_provenance() as u64
    }

    fn write(&self, buffer: &mut Buffer, start: usize, bytes: &[u8]) -> Result<(), CudaError> {
        assert!(start + bytes.len() <= buffer.bytes);
        // SAFETY: within the buffer.
        unsafe { buffer.pointer().add(start).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        Ok(())
    }

    fn read(&self, buffer: &Buffer, start: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        assert!(start + bytes.len() <= buffer.bytes);
        // SAFETY: within the buffer.
        unsafe { bytes.as_mut_ptr().copy_from_nonoverlapping(buffer.pointer().add(start), bytes.len()) };
        self.wait()
    }

    fn clear(&self, buffer: &mut Buffer, start: usize, bytes: usize) -> Result<(), CudaError> {
        self.write(buffer, start, &vec![0; bytes])
    }

    fn wait(&self) -> Result<(), CudaError> {
        LAUNCHED.set(false);
        Ok(())
    }

    unsafe fn run(
        &self,
        many: bool,
        grid: usize,
        block: BlockSize,
        params: &Params,
    ) -> Result<(), CudaError> {
        let _one = RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let run = match self.kernels {
            Kernels::Special(Some(run)) => run,
            _ => emulator_run,
        };
        // SAFETY: as the caller promises.
        unsafe { run(many, params, grid as u32, block.threads as u32, block.shared_bytes as u64, self.seed) };
        LAUNCHED.set(true);
        Ok(())
    }
}

/// Sizes of the kernels' records, as [`sarit_cuda::SIZES`].
pub fn sizes() -> [u64; 20] {
    let mut sizes = [0; 20];
    // SAFETY: there are 20.
    unsafe { emulator_sizes(sizes.as_mut_ptr()) };
    sizes
}

/// The kernels' elementary functions.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "as in sarit_core::math")]
#[repr(u32)]
pub enum Function {
    Exp2,
    Exp,
    Softplus,
    Silu,
    Sigmoid,
    Rsqrt,
    Gelu,
    GeluTanh,
}

/// A function of each number.
pub fn function(function: Function, x: &[f32]) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    // SAFETY: both are as long as stated.
    unsafe { emulator_function(function as u32, x.as_ptr(), y.as_mut_ptr(), x.len() as u64) };
    y
}

/// A 16-bit float as the kernels read it.
pub fn half(bits: u16) -> f32 {
    // SAFETY: any bits are allowed.
    unsafe { emulator_half(bits) }
}

/// Sine and cosine as the kernels compute them.
pub fn sin_cos(turns: u64) -> (f32, f32) {
    let (mut sine, mut cosine) = (0.0, 0.0);
    // SAFETY: both are written.
    unsafe { emulator_sin_cos(turns, &raw mut sine, &raw mut cosine) };
    (sine, cosine)
}
