//! Choosing the next token from logits, in place and without a heap.

use crate::error::SampleError;
use crate::math::exp;

/// Index of the largest logit; of equal ones the first, and 0 if none is a number.
pub fn argmax(logits: &[f32]) -> u32 {
    let mut best = (f32::NEG_INFINITY, 0);
    for (i, &logit) in logits.iter().enumerate() {
        if logit > best.0 {
            best = (logit, i as u32);
        }
    }
    best.1
}

/// How to choose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// 0: always the most likely token; otherwise logits are divided by it.
    pub temperature: f32,
    /// Only this many of the most likely tokens are considered; 0 for all.
    pub top_k: usize,
    /// Only the most likely tokens that together reach this probability are considered; 1 for all.
    pub top_p: f32,
    /// Start of the random sequence: the same seed and logits give the same tokens.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy.
    fn default() -> Self {
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, seed: 0 }
    }
}

/// Chooses tokens one after another.
#[derive(Debug, Clone)]
pub struct Sampler {
    sampling: Sampling,
    random: u64,
}

impl Sampler {
    /// A sampler at the start of its random sequence.
    ///
    /// # Errors
    /// A temperature that is negative or not finite; a `top_p` outside 0 (exclusive) to 1 (inclusive).
    pub fn new(sampling: Sampling) -> Result<Self, SampleError> {
        if !(sampling.temperature >= 0.0 && sampling.temperature.is_finite()) {
            return Err(SampleError::Temperature);
        }
        if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
            return Err(SampleError::TopP);
        }
        Ok(Self { sampling, random: sampling.seed })
    }

    /// What a sampler is made of that goes on as this one would.
    pub fn sampling(&self) -> Sampling {
        Sampling { seed: self.random, ..self.sampling }
    }

    /// The next token. Overwrites `logits` unless the sampling is greedy.
    ///
    /// First `top_k`, then temperature, then `top_p`. Logits that are not numbers are never chosen. With `top_p`,
    /// tokens as likely as the last one considered are considered too.
    pub fn sample(&mut self, logits: &mut [f32]) -> u32 {
        let best = argmax(logits);
        let highest = logits.get(best as usize).copied().unwrap_or(f32::NAN);
        if self.sampling.temperature == 0.0 || !highest.is_finite() {
            return best;
        }
        if (1..logits.len()).contains(&self.sampling.top_k) {
            keep_top_k(logits, self.sampling.top_k);
        }
        // From here on logits are weights: probabilities but for a common factor; positive, so their bits are in
        // the order of their values.
        for logit in logits.iter_mut() {
            let weight = exp((*logit - highest) / self.sampling.temperature);
            *logit = if weight.is_nan() { 0.0 } else { weight };
        }
        let weights = &*logits;
        let sum_from = |least: u32| -> f64 {
            weights.iter().filter(|w| w.to_bits() >= least).map(|&w| f64::from(w)).sum()
        };
        let all = sum_from(0);
        let wanted = all * f64::from(self.sampling.top_p);
        let least = if self.sampling.top_p < 1.0 { last_where(|bits| sum_from(bits) >= wanted) } else { 0 };
        let mut left = self.uniform() * sum_from(least);
        let mut chosen = best;
        for (i, w) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0 && w.to_bits() >= least) {
            chosen = i as u32;
            left -= f64::from(*w);
            if left < 0.0 {
                break;
            }
        }
        chosen
    }

    /// The next number of the random sequence, 0 <= x < 1: SplitMix64 (Steele, Lea, Flood 2014).
    fn uniform(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The largest number for which `holds` is true; it is true up to some number and false above, and true for 0.
fn last_where(holds: impl Fn(u32) -> bool) -> u32 {
    (0..32).rev().fold(0, |found, bit| if holds(found | 1 << bit) { found | 1 << bit } else { found })
}

/// Sets all but the `k` largest logits to minus infinity; of equal ones the first stay.
fn keep_top_k(logits: &mut [f32], k: usize) {
    // Bits in the order of the values: negative floats mirrored below the positive ones, NaN below all.
    let rank = |x: f32| match x.to_bits() {
        _ if x.is_nan() => 0,
        bits if bits >> 31 == 1 => !bits,
        bits => bits | 1 << 31,
    };
    let least = last_where(|least| logits.iter().filter(|&&x| rank(x) >= least).count() >= k);
    let mut equal = k - logits.iter().filter(|&&x| rank(x) > least).count();
    for logit in logits {
        if rank(*logit) < least {
            *logit = f32::NEG_INFINITY;
        } else if rank(*logit) == least {
            if equal == 0 {
                *logit = f32::NEG_INFINITY;
            }
            equal = equal.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::vec::Vec;

    fn draw(sampling: Sampling, logits: &[f32], times: usize) -> Vec<usize> {
        let mut counts = std::vec![0; logits.len()];
        let mut sampler = Sampler::new(sampling).unwrap();
        for _ in 0..times {
            counts[sampler.sample(&mut logits.to_vec()) as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_the_largest() {
        assert_eq!(argmax(&[f32::NAN, 1.0, 3.0, 3.0, f32::NEG_INFINITY]), 2);
        assert_eq!(argmax(&[f32::NAN; 3]), 0);
        assert_eq!(argmax(&[]), 0);
        assert_eq!(draw(Sampling::default(), &[0.0, 5.0, 1.0], 10), [0, 10, 0]);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let logits = [0.0, 1.0, 2.0, f32::NEG_INFINITY, f32::NAN];
        let sampling = Sampling { temperature: 0.5, seed: 7, ..Sampling::default() };
        let counts = draw(sampling, &logits, 100_000);
        let weights: Vec<f64> = logits[..3].iter().map(|l| (f64::from(*l) / 0.5).exp()).collect();
        let all: f64 = weights.iter().sum();
        for (count, weight) in counts.iter().zip(&weights) {
            assert!((*count as f64 / 1e5 - weight / all).abs() < 0.005, "{counts:?}");
        }
        assert_eq!(counts[3..], [0, 0]);
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = [-1.0, 2.0, 1.0, 2.0, -0.0, 0.0];
        let hot = Sampling { temperature: 100.0, seed: 1, ..Sampling::default() };
        let considered = |sampling| draw(sampling, &logits, 2000).iter().map(|&n| n > 0).collect::<Vec<_>>();
        assert_eq!(considered(Sampling { top_k: 1, ..hot }), [false, true, false, false, false, false]);
        assert_eq!(considered(Sampling { top_k: 3, ..hot }), [false, true, true, true, false, false]);
        assert_eq!(considered(Sampling { top_k: 5, ..hot }), [false, true, true, true, true, true]);
        assert_eq!(considered(Sampling { top_k: 99, ..hot }), [true; 6]);
        // At temperature 1 the two logits of 2 hold 0.74 of the probability.
        let p = |top_p| considered(Sampling { temperature: 1.0, top_p, seed: 3, ..Sampling::default() });
        assert_eq!(p(0.7), [false, true, false, true, false, false]);
        assert_eq!(p(0.8), [false, true, true, true, false, false]);
        assert_eq!(p(1.0), [true; 6]);
    }

    #[test]
    fn the_seed_decides() {
        let logits = [0.0; 50];
        let run = |seed| draw(Sampling { temperature: 1.0, seed, ..Sampling::default() }, &logits, 20);
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }

    #[test]
    fn wrong_settings_are_refused() {
        let new =
            |temperature, top_p| Sampler::new(Sampling { temperature, top_p, ..Sampling::default() }).err();
        assert_eq!(new(-1.0, 1.0), Some(SampleError::Temperature));
        assert_eq!(new(f32::NAN, 1.0), Some(SampleError::Temperature));
        assert_eq!(new(1.0, 0.0), Some(SampleError::TopP));
        assert_eq!(new(1.0, f32::NAN), Some(SampleError::TopP));
        assert_eq!(new(1.0, 0.5), None);
    }
}
