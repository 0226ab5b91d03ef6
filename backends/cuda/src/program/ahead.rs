//! Which weights come to the device's cache while an operation runs that does not read them.
//!
//! Weights are read once a token, in the order of the operations, and memory would rest while blocks wait for each other
//! and scan. So it runs ahead of them, by a window that the cache has room for.

use super::Program;
use sarit_core::ALIGN;
use std::ops::Range;

/// The window is the cache divided by this: what has been read stays in the cache for a while, too.
const WINDOW_DIVISOR: usize = 3;

/// Weights closer together than so many bytes are fetched with what lies between.
const GAP_BYTES: usize = 64 << 10;

/// Weights that an operation reads whole, in bytes of the model.
#[derive(Debug, Clone)]
pub(super) struct Weights {
    pub(super) op: usize,
    pub(super) bytes: Range<usize>,
}

/// Says for each operation of `program`, on `grid` blocks, what to fetch to a cache of `cache_bytes`. Weights that stay in the
/// cache from token to token are not fetched.
pub(super) fn plan(program: &mut Program, grid: usize, cache_bytes: usize) {
    let window = cache_bytes / WINDOW_DIVISOR;
    let Program { ops, weights, head, .. } = program;
    let token_bytes: usize = weights.iter().map(|w| w.bytes.len()).sum();
    if token_bytes <= 2 * window {
        return;
    }
    // Both in bytes in the order in which they are read; what the second token does is what all after it do.
    let (mut fetched, mut used) = (0, 0);
    for i in (0..*head).chain(0..*head) {
        used += weights.iter().filter(|w| w.op == i).map(|w| w.bytes.len()).sum::<usize>();
        let from = used.max(fetched);
        let (bytes, count) = next(weights, from % token_bytes, used + window - from);
        fetched = from + count;
        ops[i].ahead = (bytes.start / ALIGN) as u32;
        ops[i].ahead_share = (bytes.len() / ALIGN / grid) as u32;
    }
}

/// Bytes of the model that hold the next of the weights, from the one of number `at` on: `room` at most, as far as they lie together.
/// And how many of the weights they are.
fn next(weights: &[Weights], mut at: usize, room: usize) -> (Range<usize>, usize) {
    let (mut bytes, mut count) = (0..0, 0);
    for w in weights {
        if at >= w.bytes.len() {
            at -= w.bytes.len();
            continue;
        }
        let start = w.bytes.start + std::mem::take(&mut at);
        if count == 0 {
            bytes = start..start;
        } else if !(bytes.end..=bytes.end + GAP_BYTES).contains(&start) {
            break;
        }
        let len = (w.bytes.end - start).min(room - count);
        bytes.end = start + len;
        count += len;
        if count == room {
            break;
        }
    }
    (bytes, count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::records::{Choose, Kind, Op, Vector};

    /// A program whose operations read these weights, if any.
    fn program(weights: &[Option<Range<usize>>]) -> Program {
        let record = Choose { logits: Vector::NONE, vocab: 0 };
        let ops = vec![Op::new(Kind::Choose as u16, 0, &record); weights.len()];
        let read =
            |(op, bytes): (usize, &Option<Range<usize>>)| bytes.clone().map(|bytes| Weights { op, bytes });
        let read = weights.iter().enumerate().filter_map(read).collect();
        Program { head: ops.len(), body: 0, tables: Vec::new(), weights: read, ops }
    }

    #[test]
    fn each_byte_is_fetched_once_a_token_before_it_is_read_and_not_long_before() {
        // The second lies behind the first, the third somewhere else.
        let (a, b, c) = (0..64 << 10, 65 << 10..165 << 10, 1 << 20..(1 << 20) + (100 << 10));
        let mut program = program(&[Some(a.clone()), None, Some(b.clone()), None, None, Some(c.clone())]);
        let window = 110 << 10;
        plan(&mut program, 1, WINDOW_DIVISOR * window);
        // Numbers of the fetched bytes, from the beginning of the token in which they are fetched.
        let order: Vec<usize> = a.chain(b).chain(c).collect();
        let token_bytes = order.len();
        let mut fetched = vec![0; token_bytes];
        for (i, op) in program.ops.iter().enumerate() {
            let used: usize = program.weights.iter().filter(|w| w.op <= i).map(|w| w.bytes.len()).sum();
            let start = op.ahead as usize * ALIGN;
            for byte in start..start + op.ahead_share as usize * ALIGN {
                let Ok(n) = order.binary_search(&byte) else { continue };
                fetched[n] += 1;
                let distance = if n < used { n + token_bytes - used } else { n - used };
                assert!(distance < window, "operation {i} fetches byte {byte}, {distance} bytes ahead");
            }
        }
        assert!(fetched.iter().all(|&times| times == 1));
    }

    #[test]
    fn what_the_cache_holds_is_not_fetched() {
        let mut program = program(&[Some(0..1 << 20), Some(1 << 20..2 << 20)]);
        plan(&mut program, 1, WINDOW_DIVISOR << 20);
        assert!(program.ops.iter().all(|op| op.ahead_share == 0));
    }
}
