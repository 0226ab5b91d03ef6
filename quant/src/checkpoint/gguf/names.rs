//! Tensors of a GGUF file under their Hugging Face names, and in the shapes that these have there.
//!
//! llama.cpp's converter renames tensors and changes some: it drops the middle dimension of convolutions, adds one to
//! A and D, splits `[gate | up]`, stacks experts, turns the rows of q and k where positions rotate neighbours instead
//! of halves, and stores A for A_log. All but the last is undone here, without touching the data: a tensor is a list
//! of [parts](Part), each of which lies in one piece in the file. `A` is handed on under that name.

use std::collections::BTreeMap;

use super::GgufError;
use super::metadata::Listed;
use crate::checkpoint::{Part, SourceDtype, TensorInfo};

/// Parts that all tensors of a file may have together. The largest models have some tens of thousands.
const PARTS_LIMIT: usize = 1 << 20;

/// What has been done to a tensor, and is undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Nothing.
    Same,
    /// `[C][K]` for `[C][1][K]`.
    Conv,
    /// `[n][1]` or `[g][n / g]` for `[n]`.
    Flat,
    /// Rows of each query head turned: `0, n/2, 1, n/2 + 1, …` for `0, 1, 2, …`.
    TurnedQ,
    /// The same for key heads.
    TurnedK,
    /// The upper part of `[gate | up]`, along the last dimension but one; the other part has this name in its layer.
    First(&'static str),
    /// The lower part; see [`First`](Self::First) with the name of the upper one.
    Second(&'static str),
    /// `[E][rows][cols]` for E matrices `experts.{e}.NAME`.
    Experts,
}

/// Names of an architecture: in the file, in Hugging Face checkpoints, and the form.
pub(super) type Names = [(&'static str, &'static str, Form)];

/// Where a family's tensors are found.
#[derive(Debug)]
pub(super) struct Map {
    /// Tensors outside the layers.
    pub(super) outside: &'static [(&'static str, &'static str)],
    /// What stands before the number of a layer.
    pub(super) layers: &'static str,
    /// Tensors in a layer: what stands between its number and their names, and these.
    pub(super) inside: &'static [(&'static str, &'static Names)],
}

/// Sizes that the shapes do not tell.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Heads {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
}

/// A listed tensor, found to lie inside the file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) listed: Listed,
    pub(super) dtype: SourceDtype,
    /// First byte in the file.
    pub(super) offset: u64,
}

impl Found {
    fn columns(&self) -> usize {
        self.listed.shape.last().copied().unwrap_or(1)
    }

    fn rows(&self) -> usize {
        self.listed.shape.iter().rev().skip(1).product()
    }

    /// `rows` rows from number `row` on, which become the elements from `start` on.
    fn part(&self, row: usize, start: usize) -> Part {
        // A row is whole blocks, and the tensor lies inside the file.
        let bytes = self.dtype.bytes(self.columns()).unwrap_or(0) as u64;
        Part { dtype: self.dtype.clone(), start, file: 0, offset: self.offset + row as u64 * bytes }
    }

    fn info(&self, shape: Vec<usize>, parts: Vec<Part>) -> TensorInfo {
        TensorInfo { dtype: self.dtype.clone(), shape, parts, row_major: true }
    }

    fn whole(&self, shape: Vec<usize>) -> TensorInfo {
        self.info(shape, vec![self.part(0, 0)])
    }
}

/// All tensors under the names and in the shapes of Hugging Face checkpoints. One that the map does not know keeps
/// its own name, so that the importer refuses it.
pub(super) fn rename(
    found: &BTreeMap<String, Found>,
    map: &Map,
    heads: Heads,
) -> Result<BTreeMap<String, TensorInfo>, GgufError> {
    let mut tensors = BTreeMap::new();
    let mut parts = 0;
    let mut add = |name: String, info: TensorInfo| {
        parts += info.parts.len();
        if parts > PARTS_LIMIT {
            return Err(GgufError::Count { what: "parts of tensors", count: parts as u64 });
        }
        match tensors.insert(name.clone(), info) {
            Some(_) => Err(GgufError::Duplicate(name)),
            None => Ok(()),
        }
    };
    for (name, tensor) in found {
        let shape = tensor.listed.shape.clone();
        if let Some((_, new)) = map.outside.iter().find(|(old, _)| old == name) {
            add((*new).to_owned(), tensor.whole(shape))?;
            continue;
        }
        let Some((layer, new, form)) = inside(name, map) else {
            add(name.clone(), tensor.whole(shape))?;
            continue;
        };
        let beside = |part: &str| found.get(&format!("blk.{layer}.{part}"));
        match (form, shape.as_slice()) {
            (Form::Conv, &[channels, width]) => {
                add(new, tensor.whole(vec![channels, 1, width]))?;
            }
            (Form::Flat, _) => add(new, tensor.whole(vec![shape.iter().product()]))?,
            (Form::TurnedQ, _) => add(new, turned(tensor, heads.heads)?)?,
            (Form::TurnedK, _) => add(new, turned(tensor, heads.kv_heads)?)?,
            (Form::First(second), _) if let Some(second) = beside(second) => {
                add(new, stacked(tensor, second)?)?;
            }
            // Taken with the first.
            (Form::Second(first), _) if beside(first).is_some() => {}
            (Form::First(_) | Form::Second(_), _) => add(name.clone(), tensor.whole(shape))?,
            (Form::Experts, &[experts, rows, cols]) => {
                if experts > PARTS_LIMIT {
                    return Err(GgufError::Count { what: "experts", count: experts as u64 });
                }
                for e in 0..experts {
                    let part = tensor.part(e * rows, 0);
                    add(new.replace("{e}", &e.to_string()), tensor.info(vec![rows, cols], vec![part]))?;
                }
            }
            (Form::Same | Form::Conv | Form::Experts, _) => add(new, tensor.whole(shape))?,
        }
    }
    Ok(tensors)
}

/// Layer, new name and form of a tensor of a layer.
fn inside(name: &str, map: &Map) -> Option<(usize, String, Form)> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    let number = layer.parse().ok().filter(|n: &usize| n.to_string() == layer)?;
    map.inside.iter().find_map(|(prefix, names)| {
        let (_, new, form) = names.iter().find(|(old, ..)| *old == part)?;
        Some((number, format!("{}{number}.{prefix}{new}", map.layers), *form))
    })
}

/// Rows of each head in the order of halves, from that of pairs.
fn turned(tensor: &Found, heads: usize) -> Result<TensorInfo, GgufError> {
    // A bias is a row of its own for every number.
    let flat = tensor.listed.shape.len() == 1;
    let (rows, cols) = if flat { (tensor.columns(), 1) } else { (tensor.rows(), tensor.columns()) };
    let head = rows.checked_div(heads).filter(|head| head * heads == rows && head % 2 == 0);
    let head = head.ok_or_else(|| GgufError::Contradiction {
        tensor: tensor.listed.name.clone(),
        key: "attention.head_count".into(),
    })?;
    if rows > PARTS_LIMIT {
        return Err(GgufError::Count { what: "rows of heads", count: rows as u64 });
    }
    let size = tensor.dtype.bytes(cols);
    let size = size.ok_or_else(|| GgufError::PartBlock(tensor.listed.name.clone()))? as u64;
    let part = |row: usize| {
        let (first, within) = (row / head * head, row % head);
        let from = first + within % (head / 2) * 2 + within / (head / 2);
        let offset = tensor.offset + from as u64 * size;
        Part { dtype: tensor.dtype.clone(), start: row * cols, file: 0, offset }
    };
    Ok(tensor.info(tensor.listed.shape.clone(), (0..rows).map(part).collect()))
}

/// `[first | second]` along the last dimension but one, matrix by matrix.
fn stacked(first: &Found, second: &Found) -> Result<TensorInfo, GgufError> {
    let mut shape = first.listed.shape.clone();
    if shape.len() < 2 || shape != second.listed.shape {
        return Err(GgufError::Contradiction {
            tensor: second.listed.name.clone(),
            key: first.listed.name.clone(),
        });
    }
    let at = shape.len() - 2;
    let (rows, cols) = (shape[at], shape[at + 1]);
    let matrices: usize = shape[..at].iter().product();
    if matrices > PARTS_LIMIT {
        return Err(GgufError::Count { what: "experts", count: matrices as u64 });
    }
    shape[at] *= 2;
    let both = |m: usize| {
        let start = m * 2 * rows * cols;
        [first.part(m * rows, start), second.part(m * rows, start + rows * cols)]
    };
    Ok(first.info(shape, (0..matrices).flat_map(both).collect()))
}
