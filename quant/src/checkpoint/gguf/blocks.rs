//! Block types of GGUF files: a few numbers share one or two scales. Every formula is evaluated in f32 in the order
//! that llama.cpp and the `gguf` package evaluate it, so the numbers have the same bits.

use std::fmt;

use half::f16;

/// A type of blocks. Names are llama.cpp's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockType {
    /// 32 numbers: scale f16, codes of 4 bits less 8.
    Q4_0,
    /// 32 numbers: scale and minimum f16, codes of 4 bits.
    Q4_1,
    /// 32 numbers: scale f16, codes of 5 bits less 16.
    Q5_0,
    /// 32 numbers: scale and minimum f16, codes of 5 bits.
    Q5_1,
    /// 32 numbers: scale f16, codes i8.
    Q8_0,
    /// 256 numbers: scale and minimum f16 of 8 scales and 8 minima of 6 bits, codes of 4 bits.
    Q4K,
    /// 256 numbers: as [`Q4K`](Self::Q4K) with codes of 5 bits.
    Q5K,
    /// 256 numbers: scale f16 of 16 scales i8, codes of 6 bits less 32.
    Q6K,
}

/// The most numbers in a block.
pub(in crate::checkpoint) const MOST_ELEMENTS: usize = 256;

impl BlockType {
    /// Numbers in a block.
    pub fn elements(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q5K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    pub fn bytes(self) -> usize {
        match self {
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// The numbers of one block: `block` has [`bytes`](Self::bytes), `out` [`elements`](Self::elements).
    pub(in crate::checkpoint) fn decode(self, block: &[u8], out: &mut [f32]) {
        let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
        // What the first four bytes are in most types; every block is longer.
        let (scale, minimum) = (half(0), half(2));
        match self {
            Self::Q4_0 => nibbles(&block[2..], out, |_, q| scale * (i32::from(q) - 8) as f32),
            Self::Q4_1 => nibbles(&block[4..], out, |_, q| scale * f32::from(q) + minimum),
            Self::Q5_0 => {
                let high = fifth_bits(&block[2..6]);
                nibbles(&block[6..], out, |i, q| scale * (i32::from(q | high(i)) - 16) as f32);
            }
            Self::Q5_1 => {
                let high = fifth_bits(&block[4..8]);
                nibbles(&block[8..], out, |i, q| scale * f32::from(q | high(i)) + minimum);
            }
            Self::Q8_0 => {
                for (x, q) in out.iter_mut().zip(&block[2..]) {
                    *x = scale * f32::from(q.cast_signed());
                }
            }
            Self::Q4K => scaled_groups(block, out, |_, _| 0, &block[16..]),
            Self::Q5K => scaled_groups(block, out, |g, l| (block[16 + l] >> g & 1) << 4, &block[48..]),
            Self::Q6K => sixth_k(block, half(208), out),
        }
    }
}

impl fmt::Display for BlockType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
        })
    }
}

/// 32 codes of 4 bits: those of the first half in the low bits of 16 bytes, those of the second in the high ones.
fn nibbles(codes: &[u8], out: &mut [f32], number: impl Fn(usize, u8) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for (i, ((low, high), code)) in low.iter_mut().zip(high).zip(codes).enumerate() {
        *low = number(i, code & 15);
        *high = number(i + 16, code >> 4);
    }
}

/// Bit 4 of the code of element `i`.
fn fifth_bits(bits: &[u8]) -> impl Fn(usize) -> u8 {
    move |i| (bits[i / 8] >> (i % 8) & 1) << 4
}

/// Q4_K and Q5_K: 8 groups of 32, each `d · scale · code - dmin · minimum`. `high` gives bit 4 of element `l` of
/// group `g`. The low bits of two groups share 32 bytes of `codes`.
fn scaled_groups(block: &[u8], out: &mut [f32], high: impl Fn(usize, usize) -> u8, codes: &[u8]) {
    let half = |at: usize| f16::from_le_bytes([block[at], block[at + 1]]).to_f32();
    let (d, dmin) = (half(0), half(2));
    for (g, group) in out.chunks_exact_mut(32).enumerate() {
        let (scale, minimum) = six_bits(&block[4..16], g);
        let (scale, minimum) = (d * f32::from(scale), dmin * f32::from(minimum));
        for (l, x) in group.iter_mut().enumerate() {
            let code = codes[g / 2 * 32 + l] >> (4 * (g % 2)) & 15 | high(g, l);
            *x = scale * f32::from(code) - minimum;
        }
    }
}

/// Scale and minimum of group `g`: those of the first four groups are in the low 6 bits of a byte each, those of the
/// others in 4 bits of a third row and the upper 2 bits of the first two.
fn six_bits(packed: &[u8], g: usize) -> (u8, u8) {
    if g < 4 {
        (packed[g] & 63, packed[g + 4] & 63)
    } else {
        (packed[g + 4] & 15 | packed[g - 4] >> 6 << 4, packed[g + 4] >> 4 | packed[g] >> 6 << 4)
    }
}

/// Q6_K: two halves of 128, in each the low 4 bits in 64 bytes and the upper 2 in 32; a scale for every 16.
fn sixth_k(block: &[u8], d: f32, out: &mut [f32]) {
    for (i, x) in out.iter_mut().enumerate() {
        let (half, quarter, l) = (i / 128, i % 128 / 32, i % 32);
        let low = block[64 * half + 32 * (quarter % 2) + l] >> (4 * (quarter / 2)) & 15;
        let high = block[128 + 32 * half + l] >> (2 * quarter) & 3;
        let scale = f32::from(block[192 + i / 16].cast_signed());
        *x = d * scale * (i32::from(low | high << 4) - 32) as f32;
    }
}
