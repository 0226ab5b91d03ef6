//! The kernels through NVRTC, which needs no device. Without NVRTC the tests say that they did nothing; with
//! `SARIT_NVRTC=required`, as in CI, they fail.

use sarit_core::{DType, Model};
use sarit_cpu::AlignedBytes;
use sarit_cuda::{CudaError, Prompts, Special, compile, dispatch, file_name, has_compiler, kernels};
use sarit_tests::mamba2_of;

/// Jetson Orin, H100, Jetson Thor.
const ARCHS: [&str; 3] = ["sm_87", "sm_90", "sm_110"];

fn can_compile() -> bool {
    let required = std::env::var_os("SARIT_NVRTC").is_some_and(|value| value == "required");
    let there = has_compiler();
    assert!(there || !required, "NVRTC is not there");
    if !there {
        println!("skipped: NVRTC is not there");
    }
    there
}

#[test]
fn without_a_device_there_is_an_error_that_says_so() {
    match sarit_cuda::devices() {
        Ok(devices) => assert!(!devices.is_empty()),
        Err(error) => {
            assert!(matches!(error, CudaError::NoDriver | CudaError::NoDevice), "{error:?}");
            assert!(error.to_string().contains("on this machine"), "{error}");
            assert_eq!(sarit_cuda::Cuda::open(0).err(), Some(error));
        }
    }
    if !has_compiler() {
        assert_eq!(compile("sm_90", None), Err(CudaError::NoCompiler));
    }
}

/// `dispatch.cuh` of the bundled model.
fn bundled(prompts: Prompts) -> String {
    let file =
        std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/indic-qa-natural.sarit")).unwrap();
    let mut bytes = AlignedBytes::zeroed(file.len()).unwrap();
    bytes.copy_from_slice(&file);
    dispatch(&Model::from_bytes(&bytes).unwrap(), 2, 99 << 10, prompts).unwrap()
}

/// That of a model with long products, for a device that has room for their weights: a warp group of its own has them come.
fn long_products() -> String {
    let file = mamba2_of(4, 1840, 31, 16, 4608, DType::Q8);
    let dispatch = dispatch(&Model::from_bytes(&file).unwrap(), 1, 227 << 10, Prompts::Exact).unwrap();
    assert!(dispatch.contains("SARIT_FEEDS"));
    dispatch
}

#[test]
fn kernels_compile_for_every_architecture() {
    if !can_compile() {
        return;
    }
    // Which have all operations that the exact ones have.
    let dispatch = bundled(Prompts::NEAR);
    let special = Special { dispatch: &dispatch, blocks: 16 };
    let long = long_products();
    let feeds = Special { dispatch: &long, blocks: 132 };
    let compiles = |arch: &str, what: &str, special: Option<Special<'_>>| {
        let start = std::time::Instant::now();
        let cubin = compile(arch, special).unwrap_or_else(|error| panic!("{error}"));
        assert!(cubin.starts_with(b"\x7fELF"), "{arch}");
        println!("{arch}, {what}: {} bytes in {} s", cubin.len(), start.elapsed().as_secs());
    };
    std::thread::scope(|scope| {
        for arch in ARCHS {
            scope.spawn(move || {
                compiles(arch, "any model", None);
                compiles(arch, "bundled model", Some(special));
                // Which no device has before compute capability 9.0.
                if arch != ARCHS[0] {
                    compiles(arch, "long products", Some(feeds));
                }
            });
        }
    });
    assert!(matches!(compile("sm_1", None), Err(CudaError::Compile { .. })));
}

/// Functions of the kernels for any model that only programs without the contract's bits run.
const NEAR: [&str; 3] = ["op_chunks", "op_parts", "convolve_halves"];

/// Nothing in the kernels is contracted, flushed to zero or approximate, but where that was asked for: it is the compiler's word, in PTX.
#[test]
fn arithmetic_is_exact() {
    if !can_compile() {
        return;
    }
    let dispatch = bundled(Prompts::Exact);
    for special in [None, Some(Special { dispatch: &dispatch, blocks: 16 })] {
        let ptx = compile("compute_87", special).unwrap_or_else(|error| panic!("{error}"));
        let ptx = String::from_utf8(ptx).expect("PTX is text");
        // Each function begins with its name in a line of its own kind.
        let functions = ptx.split("\n.").filter(|text| {
            let head = text.lines().take(3).collect::<String>();
            !NEAR.iter().any(|name| head.contains(name))
        });
        let ptx: String = functions.collect();
        for wanted in ["div.rn.f32", "mul.rn.f32", "mma.sync.aligned.m16n8k32", "dp4a"] {
            assert!(ptx.contains(wanted), "{wanted} is missing");
        }
        for refused in ["fma.", ".ftz", ".approx", "div.full", "mad.f32"] {
            let line = ptx.lines().find(|line| line.contains(refused));
            assert!(line.is_none(), "{}", line.unwrap_or_default());
        }
    }
}

#[test]
fn compiled_kernels_are_kept_and_damaged_ones_made_again() {
    if !can_compile() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = Some(folder.path());
    // PTX, which takes less time. Kernels for one model and for any have different names.
    assert_ne!(file_name("sm_90", None), file_name("sm_90", Some(Special { dispatch: "", blocks: 1 })));
    let first = kernels("compute_87", None, cache).unwrap();
    let path = folder.path().join(file_name("compute_87", None));
    let kept = std::fs::read(&path).unwrap();
    assert!(kept.ends_with(&first));
    std::fs::write(&path, &kept[..kept.len() / 2]).unwrap();
    assert_eq!(kernels("compute_87", None, cache).unwrap(), first);
    assert_eq!(std::fs::read(&path).unwrap(), kept);
}
