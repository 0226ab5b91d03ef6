//! Why a device cannot be used.

use sarit_core::{SampleError, StateError, StepError};

/// Why a model cannot run, or not go on, on a device.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CudaError {
    /// The driver's library is not there.
    #[error("there is no CUDA driver on this machine (libcuda.so): use the CPU, or install NVIDIA's driver")]
    NoDriver,
    /// The driver finds no device.
    #[error("there is no CUDA device on this machine: use the CPU")]
    NoDevice,
    /// There is no device with this number.
    #[error("there is no CUDA device {0}: `sarit devices` lists those there are")]
    NoSuchDevice(usize),
    /// The device is older than the kernels ask for.
    #[error("CUDA device {name} has compute capability {major}.{minor}; Sarit needs 8.0 or later")]
    TooOld {
        /// Its name.
        name: String,
        /// Of its compute capability.
        major: u32,
        /// Of its compute capability.
        minor: u32,
    },
    /// The compiler's library is not there.
    #[error(
        "NVRTC, which compiles the kernels for this device, is not installed (libnvrtc.so): install the CUDA toolkit, 12.6 or later"
    )]
    NoCompiler,
    /// The compiler refused the kernels.
    #[error("the kernels do not compile for {arch}: {log}")]
    Compile {
        /// Architecture, such as `sm_90`.
        arch: String,
        /// What the compiler says.
        log: String,
    },
    /// The device has too little memory.
    #[error(
        "the device has too little memory: {0} bytes more are needed; use fewer streams, a smaller chunk or a smaller model"
    )]
    OutOfMemory(usize),
    /// The driver reports an error.
    #[error("CUDA failed to {action}: {reason}")]
    Driver {
        /// What was tried.
        action: &'static str,
        /// What the driver says.
        reason: String,
    },
    /// Scratch or states would not fit into what places can name.
    #[error(
        "the model needs more scratch or states than the kernels can address: use fewer streams or a smaller chunk"
    )]
    TooLarge,
    /// A row of activations does not fit into a block's shared memory.
    #[error("the model's rows are longer than the kernels can hold in shared memory")]
    RowTooLong,
    /// The scan keeps the state of a channel in registers.
    #[error("the kernels hold at most 256 state elements a channel, not {0}")]
    DState(usize),
    /// The sums of a norm have a fixed place.
    #[error("the kernels hold at most 256 groups of a norm, not {0}")]
    Groups(usize),
    /// The kernels hold states in f32 so far.
    #[error("states in {0} do not run on a GPU yet; use states in f32")]
    StateType(&'static str),
    /// The model takes frames of numbers.
    #[error("models of frames do not run on a GPU; use the CPU")]
    Frames,
    /// A number of streams, rows or steps of 0.
    #[error("at least one stream and a chunk of one token are needed")]
    Empty,
    /// A token or state does not belong to the model.
    #[error(transparent)]
    Step(#[from] StepError),
    /// A state does not fit.
    #[error(transparent)]
    State(#[from] StateError),
    /// Tokens cannot be chosen so.
    #[error(transparent)]
    Sample(#[from] SampleError),
    /// A way of choosing tokens that the device does not have.
    #[error("the device chooses greedily or among at most {0} tokens (top-k)")]
    Sampling(usize),
}
