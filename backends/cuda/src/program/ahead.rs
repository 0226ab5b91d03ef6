//! Which weights come to the device's cache while an operation runs that does not read them.
//!
//! Memory would rest while blocks scan and norm, and for most of a long product it is what they wait for. So an operation before a long
//! product has its weights fetched meanwhile, as far as the cache has room for them.

use super::Program;
use sarit_core::ALIGN;
use std::ops::Range;

/// The part of the cache that may be filled with what is not yet read.
const CACHE_PART: usize = 3;

/// Bytes that the threads of a block ask for before they wait for a product's input: six loads of 16 bytes each. Products with no
/// more than that gain nothing.
const EARLY_BYTES: usize = 6 * 16 * super::THREADS;

/// Weights that an operation reads whole, in bytes of the model.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    pub(super) op: usize,
    pub(super) bytes: Range<usize>,
}

/// Says for each operation of `program`, on `grid` blocks, what to fetch to a cache of `cache_bytes`. Models that stay in the cache from
/// token to token fetch nothing.
pub(super) fn plan(program: &mut Program, grid: usize, cache_bytes: usize) {
    let Program { ops, weights, head, .. } = program;
    if 2 * weights.iter().map(|w| w.bytes.len()).sum::<usize>() <= cache_bytes {
        return;
    }
    for w in weights.iter().filter(|w| w.bytes.len() > grid * EARLY_BYTES) {
        let before = &mut ops[(w.op + *head - 1) % *head];
        before.ahead = (w.bytes.start / ALIGN) as u32;
        before.ahead_share = (w.bytes.len().min(cache_bytes / CACHE_PART) / ALIGN / grid) as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::records::{Choose, Kind, Op, Vector};

    /// A program whose operations read these weights, if any.
    fn planned(weights: &[Option<Range<usize>>], grid: usize, cache_bytes: usize) -> Vec<Range<usize>> {
        let record = Choose { logits: Vector::NONE, vocab: 0 };
        let ops = vec![Op::new(Kind::Choose as u16, 0, &record); weights.len()];
        let read =
            |(op, bytes): (usize, &Option<Range<usize>>)| bytes.clone().map(|bytes| Weights { op, bytes });
        let read = weights.iter().enumerate().filter_map(read).collect();
        let mut program = Program { head: ops.len(), body: 0, tables: Vec::new(), weights: read, ops };
        plan(&mut program, grid, cache_bytes);
        let fetched = program.ops.iter().map(|op| {
            let start = op.ahead as usize * ALIGN;
            start..start + op.ahead_share as usize * ALIGN * grid
        });
        fetched.collect()
    }

    #[test]
    fn long_products_have_their_weights_fetched_by_the_operation_before() {
        let (first, second) = (1 << 20..3 << 20, 3 << 20..(3 << 20) + 4096);
        let got = planned(&[Some(first), None, Some(second)], 3, 3 << 20);
        // As many bytes as the cache has room for, in equal parts of whole lines.
        assert_eq!(got, [0..0, 0..0, 1 << 20..(2 << 20) - (1 << 20) % (3 * ALIGN)]);
    }

    #[test]
    fn what_the_cache_holds_is_not_fetched() {
        let got = planned(&[Some(0..1 << 20), Some(1 << 20..2 << 20)], 3, 4 << 20);
        assert_eq!(got, [0..0, 0..0]);
    }
}
