//! The kernels, compiled by NVRTC for an architecture, and kept on disk.
//!
//! They are made for a model's shapes and a grid ([`Special`]), or for any. A file of the cache is named after the hash of
//! the sources and options and the architecture; it is a hash of its content followed by the content (a cubin). A file that
//! is damaged is made again; where files cannot be kept, kernels are compiled each time.

use crate::error::CudaError;
use cudarc::nvrtc::sys;
use sarit_core::{Hasher, hash};
use std::ffi::{CStr, CString, c_char};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Name and text of every source file; the first includes the others, the second is the one that models replace.
const SOURCES: [(&CStr, &str); 23] = [
    (c"sarit.cu", include_str!("../kernels/sarit.cu")),
    (c"dispatch.cuh", include_str!("../kernels/dispatch.cuh")),
    (c"attention.cuh", include_str!("../kernels/attention.cuh")),
    (c"block.cuh", include_str!("../kernels/block.cuh")),
    (c"choose.cuh", include_str!("../kernels/choose.cuh")),
    (c"chunks.cuh", include_str!("../kernels/chunks.cuh")),
    (c"device.cuh", include_str!("../kernels/device.cuh")),
    (c"grid.cuh", include_str!("../kernels/grid.cuh")),
    (c"half.cuh", include_str!("../kernels/half.cuh")),
    (c"math.cuh", include_str!("../kernels/math.cuh")),
    (c"matrix.cuh", include_str!("../kernels/matrix.cuh")),
    (c"moe.cuh", include_str!("../kernels/moe.cuh")),
    (c"operations.cuh", include_str!("../kernels/operations.cuh")),
    (c"product.cuh", include_str!("../kernels/product.cuh")),
    (c"program.cuh", include_str!("../kernels/program.cuh")),
    (c"ring.cuh", include_str!("../kernels/ring.cuh")),
    (c"row.cuh", include_str!("../kernels/row.cuh")),
    (c"scan.cuh", include_str!("../kernels/scan.cuh")),
    (c"scan_one.cuh", include_str!("../kernels/scan_one.cuh")),
    (c"ssm.cuh", include_str!("../kernels/ssm.cuh")),
    (c"steps.cuh", include_str!("../kernels/steps.cuh")),
    (c"through.cuh", include_str!("../kernels/through.cuh")),
    (c"walk.cuh", include_str!("../kernels/walk.cuh")),
];

/// What the numeric contract asks for: no contraction, subnormals, IEEE division. To the compilers of CUDA 12.6 and 13.0 functions without a
/// name are the host's unless all are the device's.
const OPTIONS: [&CStr; 6] = [
    c"--std=c++17",
    c"--device-as-default-execution-space",
    c"--fmad=false",
    c"--ftz=false",
    c"--prec-div=true",
    c"--prec-sqrt=true",
];

/// What kernels are made for; without it they run any model on any grid, with more instructions.
#[derive(Debug, Clone, Copy)]
pub struct Special<'a> {
    /// `dispatch.cuh` of a model ([`dispatch`](crate::dispatch)).
    pub dispatch: &'a str,
    /// Blocks of the grid.
    pub blocks: usize,
}

/// The sources, with a model's own `dispatch.cuh`.
fn sources(special: Option<Special<'_>>) -> [(&'static CStr, &str); SOURCES.len()] {
    let mut sources = SOURCES;
    sources[1].1 = special.map_or(sources[1].1, |special| special.dispatch);
    sources
}

/// All options but the architecture.
fn options(special: Option<Special<'_>>) -> Vec<CString> {
    let own = special.map(|special| {
        let blocks = format!("--define-macro=SARIT_BLOCKS={}u", special.blocks);
        [c"--define-macro=SARIT_SPECIAL".to_owned(), CString::new(blocks).expect("it holds no zeros")]
    });
    OPTIONS.into_iter().map(CStr::to_owned).chain(own.into_iter().flatten()).collect()
}

/// Bytes of the hash that a file of the cache begins with.
const HASH_BYTES: usize = 8;

/// Where compiled kernels are kept: `SARIT_CACHE`, or `sarit` in the user's cache folder.
pub fn cache_folder() -> Option<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    variable("SARIT_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("sarit")))
        .or_else(|| variable("HOME").map(|folder| folder.join(".cache").join("sarit")))
}

/// The kernels for `arch`, such as `sm_90`: out of `cache`, or compiled and put there.
///
/// # Errors
/// If NVRTC is not there or refuses the kernels.
pub fn kernels(arch: &str, special: Option<Special<'_>>, cache: Option<&Path>) -> Result<Vec<u8>, CudaError> {
    let path = cache.map(|folder| folder.join(file_name(arch, special)));
    let Some(path) = path else { return compile(arch, special) };
    if let Some(cubin) = std::fs::read(&path).ok().and_then(|bytes| checked(&bytes).map(<[u8]>::to_vec)) {
        return Ok(cubin);
    }
    let cubin = compile(arch, special)?;
    // Whoever cannot keep it compiles it again.
    let _ = keep(&path, &cubin);
    Ok(cubin)
}

/// Name of the kernels' file in the cache.
pub fn file_name(arch: &str, special: Option<Special<'_>>) -> String {
    let mut hasher = Hasher::new();
    for (_, text) in sources(special) {
        hasher.update(text.as_bytes());
    }
    options(special).iter().for_each(|option| hasher.update(option.to_bytes()));
    format!("kernels-{:016x}-{arch}.cubin", hasher.finish())
}

/// The content of a file of the cache, if its hash is right.
fn checked(bytes: &[u8]) -> Option<&[u8]> {
    let (stated, cubin) = bytes.split_first_chunk::<HASH_BYTES>()?;
    (hash(cubin).to_le_bytes() == *stated && !cubin.is_empty()).then_some(cubin)
}

/// Writes a file of the cache, whole or not at all.
fn keep(path: &Path, cubin: &[u8]) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&hash(cubin).to_le_bytes())?;
    file.write_all(cubin)?;
    file.persist(path)?;
    Ok(())
}

/// Whether NVRTC is there.
pub fn has_compiler() -> bool {
    // SAFETY: it loads a library by its name and nothing else.
    unsafe { sys::is_culib_present() }
}

/// Compiles the kernels for `arch`: a cubin for a device such as `sm_90`, PTX for a virtual one such as `compute_90`.
///
/// # Errors
/// If NVRTC is not there or refuses them.
pub fn compile(arch: &str, special: Option<Special<'_>>) -> Result<Vec<u8>, CudaError> {
    if !has_compiler() {
        return Err(CudaError::NoCompiler);
    }
    let refused = |log: String| CudaError::Compile { arch: arch.to_owned(), log };
    let text = |text: &str| CString::new(text).expect("sources and architectures hold no zeros");
    let sources = sources(special);
    let headers = sources[1..].iter();
    let texts: Vec<CString> = headers.clone().map(|(_, source)| text(source)).collect();
    let texts: Vec<*const c_char> = texts.iter().map(|text| text.as_ptr()).collect();
    let names: Vec<*const c_char> = headers.map(|(name, _)| name.as_ptr()).collect();
    let (name, source) = (sources[0].0, text(sources[0].1));
    // With what that architecture alone has: products by groups of warps.
    let own = if arch == "sm_90" { "a" } else { "" };
    let arch_option = text(&format!("--gpu-architecture={arch}{own}"));
    let options = options(special);
    let options: Vec<*const c_char> = options.iter().chain([&arch_option]).map(|o| o.as_ptr()).collect();

    let mut program = std::ptr::null_mut();
    let call = |result: sys::nvrtcResult| result.result().map_err(|error| refused(error.to_string()));
    // SAFETY: all pointers are to strings that end with zero and outlive the program, which is destroyed once, below.
    unsafe {
        call(sys::nvrtcCreateProgram(
            &raw mut program,
            source.as_ptr(),
            name.as_ptr(),
            names.len() as i32,
            texts.as_ptr(),
            names.as_ptr(),
        ))?;
        let compiled = sys::nvrtcCompileProgram(program, options.len() as i32, options.as_ptr()).result();
        let result = match compiled {
            Ok(()) => {
                let compiled = if arch.starts_with("compute_") {
                    output(program, sys::nvrtcGetPTXSize, sys::nvrtcGetPTX)
                } else {
                    output(program, sys::nvrtcGetCUBINSize, sys::nvrtcGetCUBIN)
                };
                compiled.map_err(|error| refused(error.to_string()))
            }
            Err(error) => {
                let log = output(program, sys::nvrtcGetProgramLogSize, sys::nvrtcGetProgramLog);
                let log =
                    log.map_or_else(|_| error.to_string(), |log| String::from_utf8_lossy(&log).into_owned());
                Err(refused(log.trim_matches('\0').trim().to_owned()))
            }
        };
        sys::nvrtcDestroyProgram(&raw mut program);
        result
    }
}

/// Bytes that NVRTC hands out through a pair of functions: one says how many, one writes them.
///
/// # Safety
/// `program` must be a program, and the functions of NVRTC.
unsafe fn output(
    program: sys::nvrtcProgram,
    size: unsafe fn(sys::nvrtcProgram, *mut usize) -> sys::nvrtcResult,
    write: unsafe fn(sys::nvrtcProgram, *mut c_char) -> sys::nvrtcResult,
) -> Result<Vec<u8>, cudarc::nvrtc::result::NvrtcError> {
    let mut len = 0;
    // SAFETY: as the caller promises; `bytes` is as long as NVRTC says it must be.
    unsafe {
        size(program, &raw mut len).result()?;
        let mut bytes = vec![0u8; len];
        write(program, bytes.as_mut_ptr().cast()).result()?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_of_the_cache_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("kernels");
        keep(&path, b"cubin").unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        assert_eq!(checked(&bytes), Some(&b"cubin"[..]));
        for i in 0..bytes.len() {
            bytes[i] ^= 1;
            assert_eq!(checked(&bytes), None, "byte {i}");
            bytes[i] ^= 1;
        }
        for len in 0..bytes.len() {
            assert_eq!(checked(&bytes[..len]), None, "{len} bytes");
        }
    }
}
