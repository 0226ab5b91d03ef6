//! Writes a `.sarit` file from a recipe, a few rows of each tensor in memory at a time.

use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::num::NonZero;
use std::thread;

use bytemuck::Zeroable;
use half::f16;
use sarit_core::format::{
    FINGERPRINT_START, Header, MAGIC, Section, TensorEntry, TensorTable, VERSION, section,
};
use sarit_core::{ALIGN, DType, Hasher, TILE_ROWS};

use crate::convert::{ConvertError, TensorReport};
use crate::quantize::{self, Loss, TooLarge};
use crate::recipe::{Recipe, Source, TensorRecipe};

/// Reads elements of a checkpoint tensor: name, first element, where to.
pub(crate) type ReadTensor<'a> = dyn FnMut(&str, usize, &mut [f32]) -> Result<(), ConvertError> + 'a;

/// Everything that goes into a file.
pub(crate) struct Content<'a> {
    pub(crate) recipe: &'a Recipe,
    /// Type of each tensor.
    pub(crate) dtypes: &'a [DType],
    /// `tokenizer.json`.
    pub(crate) tokenizer: Option<&'a [u8]>,
}

/// Writes the file and returns the length in bytes. `meta` makes the last section, from the report of what was
/// written before it.
pub(crate) fn write(
    file: &mut File,
    content: &Content<'_>,
    read: &mut ReadTensor<'_>,
    meta: impl FnOnce(Vec<TensorReport>) -> Vec<u8>,
) -> Result<u64, ConvertError> {
    let recipe = content.recipe;
    let sections_len = if content.tokenizer.is_some() { 4 } else { 3 };
    let mut at = (size_of::<Header>() + sections_len * size_of::<Section>()) as u64;
    let mut place = |kind: u32, bytes: u64| {
        let offset = at.next_multiple_of(ALIGN as u64);
        at = offset + bytes;
        Section { kind, reserved: 0, offset, bytes }
    };

    let plan = place(section::PLAN, recipe.plan.len() as u64);
    let tokenizer = content.tokenizer.map(|json| place(section::TOKENIZER, json.len() as u64));
    let names: String = recipe.tensors.iter().map(|t| t.name.as_str()).collect();
    let table_bytes =
        size_of::<TensorTable>() + recipe.tensors.len() * size_of::<TensorEntry>() + names.len();
    let table_offset = place(section::TENSORS, table_bytes as u64).offset;
    let entries = entries(content, &mut place)?;
    let end = entries.last().map_or(table_offset + table_bytes as u64, |e| e.offset + e.bytes);
    let tensors =
        Section { kind: section::TENSORS, reserved: 0, offset: table_offset, bytes: end - table_offset };

    let mut out = BufWriter::with_capacity(1 << 20, file);
    write_at(&mut out, plan.offset, &recipe.plan)?;
    if let (Some(place), Some(json)) = (&tokenizer, content.tokenizer) {
        write_at(&mut out, place.offset, json)?;
    }
    let table = TensorTable { count: entries.len() as u32, names_bytes: names.len() as u32 };
    write_at(&mut out, tensors.offset, bytemuck::bytes_of(&table))?;
    out.write_all(bytemuck::cast_slice(&entries))?;
    out.write_all(names.as_bytes())?;
    let mut report = Vec::new();
    for ((tensor, entry), &dtype) in recipe.tensors.iter().zip(&entries).zip(content.dtypes) {
        let loss = write_tensor(&mut out, tensor, dtype, entry.offset, read)?;
        if let Source::Rows { .. } = tensor.source {
            report.push(TensorReport {
                name: tensor.name.clone(),
                dtype,
                rows: tensor.rows,
                cols: tensor.cols,
                relative_error: loss.relative(),
            });
        }
    }
    let meta_json = meta(report);
    let meta = place(section::META, meta_json.len() as u64);
    write_at(&mut out, meta.offset, &meta_json)?;

    let file_bytes = meta.offset + meta.bytes;
    let mut header = Header {
        magic: MAGIC,
        version: VERSION,
        section_count: sections_len as u32,
        file_bytes,
        ..Header::zeroed()
    };
    write_at(&mut out, 0, bytemuck::bytes_of(&header))?;
    for section in [Some(plan), tokenizer, Some(tensors), Some(meta)].into_iter().flatten() {
        out.write_all(bytemuck::bytes_of(&section))?;
    }
    out.flush()?;
    let file = out.into_inner().map_err(|e| e.into_error())?;
    header.fingerprint = fingerprint(file)?;
    file.rewind()?;
    file.write_all(bytemuck::bytes_of(&header))?;
    Ok(file_bytes)
}

/// Places the data of all tensors.
fn entries(
    content: &Content<'_>,
    place: &mut impl FnMut(u32, u64) -> Section,
) -> Result<Vec<TensorEntry>, ConvertError> {
    let mut name_offset = 0;
    let mut entry = |t: &TensorRecipe, dtype: DType| {
        let too_large = || ConvertError::TensorSize(t.name.clone());
        let bytes = dtype.bytes(t.rows, t.cols).ok_or_else(too_large)? as u64;
        let entry = TensorEntry {
            offset: place(section::TENSORS, bytes).offset,
            bytes,
            name_offset,
            name_bytes: t.name.len() as u32,
            dtype: dtype as u32,
            rows: u32::try_from(t.rows).map_err(|_| too_large())?,
            cols: u32::try_from(t.cols).map_err(|_| too_large())?,
            reserved: 0,
        };
        name_offset += entry.name_bytes;
        Ok(entry)
    };
    content.recipe.tensors.iter().zip(content.dtypes).map(|(t, &dtype)| entry(t, dtype)).collect()
}

fn write_at(out: &mut BufWriter<&mut File>, offset: u64, bytes: &[u8]) -> Result<(), ConvertError> {
    out.seek(SeekFrom::Start(offset))?;
    Ok(out.write_all(bytes)?)
}

/// A tile row of weights as it goes into the file.
#[derive(Default)]
struct Encoded {
    scales: Vec<f16>,
    bytes: Vec<u8>,
    loss: Loss,
}

fn encode(dtype: DType, weights: &[f32], cols: usize) -> Result<Encoded, TooLarge> {
    let mut to = Encoded::default();
    match dtype {
        DType::F32 => to.bytes.extend_from_slice(bytemuck::cast_slice(weights)),
        DType::F16 => quantize::to_f16(weights, &mut to.bytes, &mut to.loss)?,
        DType::Q8 | DType::Q4 => {
            quantize::tile_row(dtype, weights, cols, &mut to.scales, &mut to.bytes, &mut to.loss)?
        }
    }
    Ok(to)
}

/// Writes one tensor's data. A tile row of weights for each processor, and the scales, are in memory.
fn write_tensor(
    out: &mut BufWriter<&mut File>,
    tensor: &TensorRecipe,
    dtype: DType,
    offset: u64,
    read: &mut ReadTensor<'_>,
) -> Result<Loss, ConvertError> {
    let pieces = match &tensor.source {
        Source::Values(values) => {
            write_at(out, offset, bytemuck::cast_slice(values))?;
            return Ok(Loss::default());
        }
        Source::Rows { pieces, .. } => pieces,
    };
    let cols = tensor.cols;
    let scale_count = tensor.rows.div_ceil(TILE_ROWS) * cols.div_ceil(sarit_core::GROUP) * TILE_ROWS;
    let codes_offset = match dtype {
        DType::F32 | DType::F16 => offset,
        DType::Q8 | DType::Q4 => (offset + 2 * scale_count as u64).next_multiple_of(ALIGN as u64),
    };
    out.seek(SeekFrom::Start(codes_offset))?;
    let mut loss = Loss::default();
    let mut scales: Vec<f16> = Vec::new();
    let mut rows = pieces.iter().flat_map(|p| (0..p.rows).map(move |r| (p, r))).peekable();
    let at_once = thread::available_parallelism().map_or(1, NonZero::get);
    let mut block = vec![0.0; at_once * TILE_ROWS * cols];
    while rows.peek().is_some() {
        let mut filled = 0;
        for (piece, row) in rows.by_ref().take(at_once * TILE_ROWS) {
            let out = &mut block[filled * cols..(filled + 1) * cols];
            read(&piece.tensor, piece.start + row * piece.stride, out)?;
            if piece.factor != 1.0 {
                out.iter_mut().for_each(|w| *w *= piece.factor);
            }
            filled += 1;
        }
        let tile_rows = block[..filled * cols].chunks(TILE_ROWS * cols);
        let encoded: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                tile_rows.map(|weights| scope.spawn(move || encode(dtype, weights, cols))).collect();
            threads.into_iter().map(|thread| thread.join().expect("encoding does not panic")).collect()
        });
        for tile_row in encoded {
            let tile_row = tile_row.map_err(|e| tensor.too_large(e))?;
            scales.extend_from_slice(&tile_row.scales);
            loss += tile_row.loss;
            out.write_all(&tile_row.bytes)?;
        }
    }
    if !scales.is_empty() {
        write_at(out, offset, bytemuck::cast_slice(&scales))?;
    }
    Ok(loss)
}

impl TensorRecipe {
    fn too_large(&self, weight: TooLarge) -> ConvertError {
        ConvertError::WeightSize { tensor: self.name.clone(), weight: weight.0 }
    }
}

/// Hash of the file from [`FINGERPRINT_START`] on.
fn fingerprint(file: &mut File) -> Result<u64, ConvertError> {
    file.seek(SeekFrom::Start(FINGERPRINT_START as u64))?;
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.update(&buffer[..n]),
        }
    }
}
