//! [`Cuda`]: an NVIDIA device through its driver. Found and loaded at run time.

use crate::compile::{self, Special};
use crate::device::{BlockSize, Device};
use crate::error::CudaError;
use crate::program::Params;
use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtr, DeviceRepr, DriverError, LaunchConfig,
    PushKernelArg, sys,
};
use cudarc::nvrtc::Ptx;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::Instant;

/// The least compute capability with the tensor cores' products of bytes that the kernels use.
const LEAST_CAPABILITY: (u32, u32) = (8, 0);

/// Shared memory of a block above which the driver has to be asked.
const SHARED_DEFAULT_BYTES: usize = 48 << 10;

// SAFETY: `Params` is a plain struct of numbers, laid out as the kernels' own.
unsafe impl DeviceRepr for Params {}

/// What is known of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its number.
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Compute capability, as in `sm_90`.
    pub arch: String,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Memory in bytes, and how much of it is free.
    pub memory_bytes: usize,
    /// See `memory_bytes`.
    pub free_bytes: usize,
    /// Whether it shares the host's memory, as on a Jetson.
    pub is_integrated: bool,
}

/// A device.
pub struct Cuda {
    context: Arc<CudaContext>,
    stream: Arc<CudaStream>,
    /// For one row, and for many, once they are loaded.
    kernels: Vec<CudaFunction>,
    info: Info,
}

/// All devices of this machine.
///
/// # Errors
/// [`CudaError::NoDriver`] or [`CudaError::NoDevice`] where there is none; what the driver reports.
pub fn devices() -> Result<Vec<Info>, CudaError> {
    (0..count()?).map(|index| info(&*open(index)?, index)).collect()
}

/// Number of devices, at least 1.
fn count() -> Result<usize, CudaError> {
    // SAFETY: it loads a library by its name and nothing else.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::NoDriver);
    }
    match CudaContext::device_count() {
        Ok(0) => Err(CudaError::NoDevice),
        Ok(count) => Ok(count as usize),
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Err(CudaError::NoDevice),
        Err(error) => Err(driver("count the devices")(error)),
    }
}

fn open(index: usize) -> Result<Arc<CudaContext>, CudaError> {
    CudaContext::new(index).map_err(driver("open the device"))
}

fn info(context: &CudaContext, index: usize) -> Result<Info, CudaError> {
    let ask = driver("describe the device");
    let (major, minor) = context.compute_capability().map_err(&ask)?;
    let (free_bytes, memory_bytes) = context.mem_get_info().map_err(&ask)?;
    let attribute = |attribute| context.attribute(attribute).map_err(&ask);
    Ok(Info {
        index,
        name: context.name().map_err(&ask)?,
        arch: format!("sm_{major}{minor}"),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as usize,
        memory_bytes,
        free_bytes,
        is_integrated: attribute(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0,
    })
}

/// What to make of the driver's errors in doing something.
fn driver(action: &'static str) -> impl Fn(DriverError) -> CudaError {
    move |error| {
        let text = error.error_string().map(|text| text.to_string_lossy().into_owned());
        CudaError::Driver { action, reason: text.unwrap_or_else(|_| format!("{:?}", error.0)) }
    }
}

impl Cuda {
    /// Device `index`.
    ///
    /// # Errors
    /// If there is no such device, or it is too old.
    pub fn open(index: usize) -> Result<Self, CudaError> {
        if index >= count()? {
            return Err(CudaError::NoSuchDevice(index));
        }
        let context = open(index)?;
        let info = info(&context, index)?;
        let (major, minor) = context.compute_capability().map_err(driver("describe the device"))?;
        let capability = (major as u32, minor as u32);
        if capability < LEAST_CAPABILITY {
            let (major, minor) = capability;
            return Err(CudaError::TooOld { name: info.name, major, minor });
        }
        let stream = context.new_stream().map_err(driver("make a stream"))?;
        // One stream: nothing has to wait for events of others.
        // SAFETY: no buffer is used on another stream.
        unsafe { context.disable_event_tracking() };
        Ok(Self { context, stream, kernels: Vec::new(), info })
    }

    /// What is known of it.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Bytes of its memory that are free.
    ///
    /// # Errors
    /// If the device has failed.
    pub fn free_bytes(&self) -> Result<usize, CudaError> {
        let (free, _) = self.context.mem_get_info().map_err(driver("describe the device"))?;
        Ok(free)
    }

    /// Bytes per second that copies from device memory to device memory read and write together: the fastest of five times
    /// 16 copies of `bytes` bytes each.
    ///
    /// # Errors
    /// If there is too little memory, or the device has failed.
    pub fn copy_bandwidth(&self, bytes: usize) -> Result<f64, CudaError> {
        /// So many that neither starting nor waiting counts.
        const COPIES: usize = 16;
        let (source, mut target) = (self.allocate(bytes)?, self.allocate(bytes)?);
        let copy = driver("copy");
        let mut fastest = f64::INFINITY;
        self.stream.synchronize().map_err(&copy)?;
        for _ in 0..5 {
            // By the host's clock: the driver's function for the time between events that cudarc calls is not in drivers
            // before CUDA 12.8.
            let start = Instant::now();
            for _ in 0..COPIES {
                self.stream.memcpy_dtod(&source, &mut target).map_err(&copy)?;
            }
            self.stream.synchronize().map_err(&copy)?;
            fastest = fastest.min(start.elapsed().as_secs_f64());
        }
        Ok(2.0 * (COPIES * bytes) as f64 / fastest)
    }
}

/// A model where the device can read it.
pub enum DeviceModel<'m> {
    /// Copied to the device.
    Copied(CudaSlice<u8>),
    /// The host's memory, which an integrated device reads where it is.
    Mapped(Registered<'m>),
}

/// Host memory that the driver has pinned.
pub struct Registered<'m> {
    context: Arc<CudaContext>,
    bytes: &'m [u8],
    address: u64,
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        let _ = self.context.bind_to_thread();
        // SAFETY: it was registered when this was made, and only this unregisters it. No kernel reads it any more: who runs
        // one keeps this until it is done.
        let _ = unsafe { sys::cuMemHostUnregister(self.bytes.as_ptr().cast_mut().cast()) };
    }
}

/// Pins host memory for the device; `None` where the driver cannot.
fn register<'m>(context: &Arc<CudaContext>, bytes: &'m [u8]) -> Option<Registered<'m>> {
    context.bind_to_thread().ok()?;
    let start: *mut c_void = bytes.as_ptr().cast_mut().cast();
    let flags = sys::CU_MEMHOSTREGISTER_DEVICEMAP | sys::CU_MEMHOSTREGISTER_READ_ONLY;
    // SAFETY: the bytes outlive the registration, which `Registered` ends, and the kernels only read them.
    unsafe {
        sys::cuMemHostRegister_v2(start, bytes.len(), flags).result().ok()?;
        let mut registered = Registered { context: context.clone(), bytes, address: 0 };
        sys::cuMemHostGetDevicePointer_v2(&raw mut registered.address, start, 0).result().ok()?;
        Some(registered)
    }
}

impl Device for Cuda {
    type Buffer = CudaSlice<u8>;
    type Model<'m> = DeviceModel<'m>;

    fn load(&mut self, dispatch: &str) -> Result<(), CudaError> {
        // Blocks are so large that a multiprocessor has one.
        let special = Special { dispatch, blocks: self.info.multiprocessors };
        let cubin = compile::kernels(&self.info.arch, Some(special), compile::cache_folder().as_deref())?;
        let load = driver("load the kernels");
        let module = self.context.load_module(Ptx::from_binary(cubin)).map_err(&load)?;
        let kernel = |name| module.load_function(name).map_err(&load);
        self.kernels = vec![kernel("sarit_one")?, kernel("sarit_many")?];
        Ok(())
    }

    fn shared_bytes(&self) -> Result<usize, CudaError> {
        let most = Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        Ok(self.context.attribute(most).map_err(driver("describe the device"))? as usize)
    }

    fn grid(&self, many: bool, block: BlockSize) -> Result<usize, CudaError> {
        let kernel = &self.kernels[usize::from(many)];
        let ask = driver("fit the kernels to the device");
        if block.shared_bytes > SHARED_DEFAULT_BYTES {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            kernel.set_attribute(attribute, block.shared_bytes as i32).map_err(&ask)?;
        }
        let blocks = kernel
            .occupancy_max_active_blocks_per_multiprocessor(block.threads as u32, block.shared_bytes, None)
            .map_err(&ask)?;
        if blocks == 0 { Err(CudaError::RowTooLong) } else { Ok(self.info.multiprocessors) }
    }

    fn model<'m>(&self, bytes: &'m [u8]) -> Result<DeviceModel<'m>, CudaError> {
        if self.info.is_integrated
            && let Some(registered) = register(&self.context, bytes)
        {
            return Ok(DeviceModel::Mapped(registered));
        }
        let mut copy = self.allocate(bytes.len())?;
        self.write(&mut copy, 0, bytes)?;
        Ok(DeviceModel::Copied(copy))
    }

    fn model_address(&self, model: &DeviceModel<'_>) -> u64 {
        match model {
            DeviceModel::Copied(copy) => self.address(copy),
            DeviceModel::Mapped(registered) => registered.address,
        }
    }

    fn model_bytes(&self, model: &DeviceModel<'_>) -> usize {
        match model {
            DeviceModel::Copied(copy) => copy.len(),
            DeviceModel::Mapped(_) => 0,
        }
    }

    fn allocate(&self, bytes: usize) -> Result<CudaSlice<u8>, CudaError> {
        self.stream.alloc_zeros(bytes).map_err(|error| match error {
            DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY) => CudaError::OutOfMemory(bytes),
            error => driver("allocate memory")(error),
        })
    }

    fn address(&self, buffer: &CudaSlice<u8>) -> u64 {
        buffer.device_ptr(&self.stream).0
    }

    fn write(&self, buffer: &mut CudaSlice<u8>, start: usize, bytes: &[u8]) -> Result<(), CudaError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut part = buffer.slice_mut(start..start + bytes.len());
        self.stream.memcpy_htod(bytes, &mut part).map_err(driver("write to the device"))
    }

    fn read(&self, buffer: &CudaSlice<u8>, start: usize, bytes: &mut [u8]) -> Result<(), CudaError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let part = buffer.slice(start..start + bytes.len());
        let read = driver("run the model, or read from the device");
        self.stream.memcpy_dtoh(&part, bytes).map_err(&read)?;
        self.stream.synchronize().map_err(&read)
    }

    fn clear(&self, buffer: &mut CudaSlice<u8>, start: usize, bytes: usize) -> Result<(), CudaError> {
        if bytes == 0 {
            return Ok(());
        }
        let mut part = buffer.slice_mut(start..start + bytes);
        self.stream.memset_zeros(&mut part).map_err(driver("clear memory of the device"))
    }

    fn wait(&self) -> Result<(), CudaError> {
        self.stream.synchronize().map_err(driver("run the model"))
    }

    unsafe fn run(
        &self,
        many: bool,
        grid: usize,
        block: BlockSize,
        params: &Params,
    ) -> Result<(), CudaError> {
        let config = LaunchConfig {
            grid_dim: (grid as u32, 1, 1),
            block_dim: (block.threads as u32, 1, 1),
            shared_mem_bytes: block.shared_bytes as u32,
        };
        let mut launch = self.stream.launch_builder(&self.kernels[usize::from(many)]);
        launch.arg(params);
        // SAFETY: the kernels take one `Params`, which the caller vouches for; a cooperative launch runs all blocks at
        // the same time or fails.
        unsafe { launch.launch_cooperative(config) }.map(drop).map_err(driver("launch a kernel"))
    }
}
