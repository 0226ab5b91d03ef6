//! Quantizing weights: from rows of f32 to the tiles that [`sarit_core`] reads.
//!
//! Each row and group of 32 columns has one f16 scale. For `q8` the largest magnitude becomes ±127. For `q4` with
//! its 16 levels (-8..=7) the scale is searched: candidates that put the largest magnitude near -8 or +8 are
//! rounded, the best scale for those codes follows by least squares, and the candidate with the least squared
//! error wins (the search of llama.cpp's quantizers, without importance weights).

use std::ops::AddAssign;

use half::f16;
use sarit_core::math::ROUND;
use sarit_core::{DType, GROUP, TILE_ROWS};

/// Squared error and squared magnitude of what was quantized so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Loss {
    /// Sum of `(w - ŵ)²`.
    pub error: f64,
    /// Sum of `w²`.
    pub energy: f64,
}

impl Loss {
    /// Root of error over energy; 0 for a tensor of zeros.
    pub fn relative(&self) -> f64 {
        if self.energy == 0.0 { 0.0 } else { (self.error / self.energy).sqrt() }
    }

    fn add(&mut self, w: f32, quantized: f32) {
        self.error += (f64::from(w) - f64::from(quantized)).powi(2);
        self.energy += f64::from(w).powi(2);
    }
}

impl AddAssign for Loss {
    fn add_assign(&mut self, other: Self) {
        self.error += other.error;
        self.energy += other.energy;
    }
}

/// A weight that a scale or an f16 cannot hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TooLarge(pub f32);

/// Encodes up to [`TILE_ROWS`] rows of `cols` weights as one tile row of a quantized `dtype`: appends
/// `[groups][16]` scales and `[groups][tile]` codes.
///
/// # Errors
/// [`TooLarge`] if a scale would not be finite as f16.
pub fn tile_row(
    dtype: DType,
    rows: &[f32],
    cols: usize,
    scales: &mut Vec<f16>,
    codes: &mut Vec<u8>,
    loss: &mut Loss,
) -> Result<(), TooLarge> {
    for start in (0..cols).step_by(GROUP) {
        let end = (start + GROUP).min(cols);
        let mut tile = [[0i8; GROUP]; TILE_ROWS];
        let mut tile_scales = [f16::ZERO; TILE_ROWS];
        for (r, row) in rows.chunks_exact(cols).enumerate() {
            let mut group = [0.0; GROUP];
            group[..end - start].copy_from_slice(&row[start..end]);
            let scale = if dtype == DType::Q8 { scale_q8(&group) } else { scale_q4(&group) };
            tile_scales[r] = f16::from_f32(scale);
            if !tile_scales[r].is_finite() {
                return Err(TooLarge(
                    group.into_iter().fold(0.0, |m, w| if w.abs() > f32::abs(m) { w } else { m }),
                ));
            }
            // Codes are taken with the scale as it will be read.
            let scale = tile_scales[r].to_f32();
            let (low, high) = if dtype == DType::Q8 { (-127.0, 127.0) } else { (-8.0, 7.0) };
            for (code, w) in tile[r].iter_mut().zip(group) {
                *code = if scale == 0.0 { 0 } else { rounded(w / scale).clamp(low, high) as i8 };
                loss.add(w, f32::from(*code) * scale);
            }
        }
        scales.extend_from_slice(&tile_scales);
        if dtype == DType::Q8 {
            pack_q8(&tile, codes)
        } else {
            pack_q4(&tile, codes)
        };
    }
    Ok(())
}

/// Encodes weights as f16.
///
/// # Errors
/// [`TooLarge`] if a weight would become infinite.
pub fn to_f16(weights: &[f32], out: &mut Vec<u8>, loss: &mut Loss) -> Result<(), TooLarge> {
    for &w in weights {
        let half = f16::from_f32(w);
        if !half.is_finite() {
            return Err(TooLarge(w));
        }
        loss.add(w, half.to_f32());
        out.extend_from_slice(&half.to_le_bytes());
    }
    Ok(())
}

/// The nearest integer, the even one of two, for magnitudes below 2^22; larger ones stay beyond all codes. Without a call for each
/// weight, which `f32::round_ties_even` is where the build is for any processor.
fn rounded(x: f32) -> f32 {
    x + ROUND - ROUND
}

fn scale_q8(group: &[f32; GROUP]) -> f32 {
    group.iter().fold(0.0f32, |m, w| m.max(w.abs())) / 127.0
}

fn scale_q4(group: &[f32; GROUP]) -> f32 {
    let extreme = group.iter().fold(0.0, |m: f32, &w| if w.abs() > m.abs() { w } else { m });
    if extreme == 0.0 {
        return 0.0;
    }
    let mut best = (f32::NEG_INFINITY, 0.0);
    for step in -10..=10 {
        for level in [-8.0f32, 8.0] {
            let inverse = (level + level.signum() * 0.1 * step as f32) / extreme;
            let (mut product, mut square) = (0.0f32, 0.0f32);
            for w in group {
                let code = rounded(w * inverse).clamp(-8.0, 7.0);
                product += w * code;
                square += code * code;
            }
            // The best scale for these codes is product / square; it takes product² / square off the error.
            if square > 0.0 && product * product / square > best.0 {
                best = (product * product / square, product / square);
            }
        }
    }
    best.1
}

/// 8 lines of 16 rows × 4 codes.
fn pack_q8(tile: &[[i8; GROUP]; TILE_ROWS], out: &mut Vec<u8>) {
    for column in (0..GROUP).step_by(4) {
        for row in tile {
            out.extend(row[column..column + 4].iter().map(|&code| code as u8));
        }
    }
}

/// 4 lines of 16 rows × 4 bytes: columns 0–3 in the low nibbles, 4–7 in the high ones, each code plus 8.
fn pack_q4(tile: &[[i8; GROUP]; TILE_ROWS], out: &mut Vec<u8>) {
    let nibble = |code: i8| (code + 8) as u8;
    for column in (0..GROUP).step_by(8) {
        for row in tile {
            out.extend((column..column + 4).map(|c| nibble(row[c]) | nibble(row[c + 4]) << 4));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_standard_library() {
        for eighths in -2048..=2048 {
            let x = eighths as f32 / 8.0;
            for x in [x, x.next_up(), x.next_down()] {
                assert_eq!(rounded(x), x.round_ties_even(), "{x}");
            }
        }
        for x in [4_194_303.5, -4_194_303.5, f32::MIN_POSITIVE, 1e38, -1e38, f32::INFINITY] {
            assert_eq!(rounded(x).clamp(-8.0, 7.0), x.round_ties_even().clamp(-8.0, 7.0), "{x}");
        }
        assert!(rounded(f32::NAN).is_nan());
    }
}
