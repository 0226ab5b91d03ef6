//! Makes the cases of the firmware examples: `cases OUT` writes a folder for each, `cases damage ELF MODEL OUT` writes
//! a copy of a firmware in which one bit of the model in flash is flipped, `cases disturb ELF FRAMES OUT` one in which
//! a bit of the first frame is.
//!
//! A case is `model.sarit`, `frames.bin` (f32) and `case.rs`: sizes, and the digests of what the host computes with the
//! definitions, which the firmware must reproduce. `classes.txt` is what it must say of each series. C takes `case.h` and
//! all results themselves, `results.bin`.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use safetensors::SafeTensors;
use sarit_core::{DType, Engine, Model, Scalar, Scratch, State, argmax};
use sarit_cpu::AlignedBytes;
use sarit_firmware::Digest;
use sarit_quant::{Options, convert};

/// Largest difference of a logit from the golden ones in f32.
const GOLDEN_BOUND: f32 = 1e-4;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match &args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [out] => make(Path::new(out)),
        ["damage", elf, model, out] => flip(elf, &fs::read(model)?, |len| len / 2, out),
        ["disturb", elf, frames, out] => flip(elf, &fs::read(frames)?, |_| 3, out),
        _ => bail!("usage: cases OUT | cases damage ELF MODEL OUT | cases disturb ELF FRAMES OUT"),
    }
}

fn make(out: &Path) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let kws = root.join("tests/golden-frames/mambalite-kws");
    let golden = fs::read(kws.join("golden.safetensors"))?;
    let (frames, logits) = (tensor(&golden, "input")?, tensor(&golden, "logits")?);
    for weights in [DType::F32, DType::Q8] {
        let folder = out.join(format!("kws-{}", weights.name()));
        fs::create_dir_all(&folder)?;
        let path = folder.join("model.sarit");
        let options = Options { weights, ..Options::default() };
        convert(&kws, &path, &options, &mut |_| ControlFlow::Continue(()))?;
        let results = write(&folder, &fs::read(path)?, &frames, 100)?;
        let worst = results.iter().zip(&logits).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        println!("kws-{}: logits within {worst:.1e} of the golden ones after every frame", weights.name());
        ensure!(weights != DType::F32 || worst <= GOLDEN_BOUND, "the logits are not the golden ones");
    }
    let folder = out.join("motion");
    fs::create_dir_all(&folder)?;
    fs::copy(root.join("models/motion.sarit"), folder.join("model.sarit"))?;
    let frames = numbers(&root.join("tests/data/motion/test.csv"), 2)?;
    write(&folder, &fs::read(folder.join("model.sarit"))?, &frames, 100)?;
    Ok(())
}

/// The columns of a CSV file from column `first` on, row after row.
fn numbers(path: &Path, first: usize) -> Result<Vec<f32>> {
    let mut all = Vec::new();
    for row in csv::Reader::from_path(path)?.records() {
        for field in row?.iter().skip(first) {
            all.push(field.parse()?);
        }
    }
    Ok(all)
}

/// A tensor of f32.
fn tensor(file: &[u8], name: &str) -> Result<Vec<f32>> {
    let tensors = SafeTensors::deserialize(file)?;
    Ok(tensors.tensor(name)?.data().as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect())
}

/// Runs the model over series of `series_len` frames and writes the case; returns all results.
fn write(folder: &Path, model: &[u8], frames: &[f32], series_len: usize) -> Result<Vec<f32>> {
    let mut bytes = AlignedBytes::zeroed(model.len())?;
    bytes.copy_from_slice(model);
    let model = Model::from_bytes(&bytes)?;
    let need = model.memory(1).context("one frame fits always")?;
    let (mut state, mut scratch) =
        (AlignedBytes::zeroed(need.state_bytes)?, AlignedBytes::zeroed(need.scratch_bytes)?);
    let mut state = State::init(&model, &mut state)?;
    let mut scratch = Scratch::new(&model, &mut scratch, 1)?;
    let (width, engine) = (model.frame_len(), Engine::new(model, Scalar));
    let (mut results, mut states, mut all) = (Digest::default(), Digest::default(), Vec::new());
    let mut classes = Vec::new();
    for series in frames.chunks(series_len * width) {
        state.reset();
        for frame in series.chunks(width) {
            let result = engine.step_frame(&mut state, &mut scratch, frame, 1.0)?;
            results.update(bytemuck::cast_slice(result));
            all.extend_from_slice(result);
        }
        states.update(state.data());
        classes.push(argmax(&all[all.len() - model.output_len()..]));
    }
    fs::write(folder.join("frames.bin"), bytemuck::cast_slice(frames))?;
    fs::write(folder.join("results.bin"), bytemuck::cast_slice(&all))?;
    fs::write(
        folder.join("classes.txt"),
        classes.iter().map(|c| format!("class {c}\n")).collect::<String>(),
    )?;
    let case = format!(
        "pub const WIDTH: usize = {width};\npub const SERIES_LEN: usize = {series_len};\n\
         pub const MODEL_BYTES: usize = {};\npub const FRAME_BYTES: usize = {};\n\
         pub const STATE_BYTES: usize = {};\npub const SCRATCH_BYTES: usize = {};\n\
         pub const RESULTS: u64 = {:#x};\npub const STATES: u64 = {:#x};\n",
        model.file_bytes(),
        frames.len() * 4,
        need.state_bytes,
        need.scratch_bytes,
        results.value(),
        states.value(),
    );
    fs::write(folder.join("case.rs"), case)?;
    let header = format!(
        "#define WIDTH {width}\n#define FRAMES {}\n#define OUTPUTS {}\n#define MODEL_BYTES {}\n\
         #define STATE_BYTES {}\n#define SCRATCH_BYTES {}\n#define STATE_HASH {:#x}u\n",
        frames.len() / width,
        model.output_len(),
        model.file_bytes(),
        need.state_bytes,
        need.scratch_bytes,
        state.hash(),
    );
    fs::write(folder.join("case.h"), header)?;
    Ok(all)
}

/// Copies a firmware with the lowest bit of one byte of `part` flipped: the byte that `at` chooses by the length.
fn flip(elf: &str, part: &[u8], at: impl Fn(usize) -> usize, out: &str) -> Result<()> {
    let mut bytes = fs::read(elf)?;
    let start = bytes.windows(part.len()).position(|window| window == part);
    bytes[start.context("the firmware does not hold it")? + at(part.len())] ^= 1;
    Ok(fs::write(out, bytes)?)
}
