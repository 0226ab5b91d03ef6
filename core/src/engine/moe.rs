//! Mixtures of experts; equations at [`crate::plan::MoeRecord`].

use super::linear::linear_buffers;
use super::{Chunk, Engine};
use crate::kernels::{Kernels, Rows, RowsMut};
use crate::math::{exp, sigmoid};
use crate::plan::{Moe, Routing};
use crate::scratch::Scratch;

impl<'m, K: Kernels> Engine<'m, K> {
    /// Token after token: each chooses experts of its own.
    #[inline(never)]
    pub(super) fn moe(&self, p: &Moe<'m>, chunk: &Chunk<'_, '_, '_>, s: &mut Scratch<'_>) {
        let (len, d_model, width) = (chunk.input_len, self.model.d_model(), p.width);
        for t in 0..chunk.count {
            let u = Rows::new(&s.hidden[t * len..], 1, len, len);
            let (logits, weights) = s.scores[..2 * p.experts].split_at_mut(p.experts);
            self.product(&p.router, u, &mut s.quantized, row(logits, p.experts));
            route(p, logits, weights);

            if let Some((latent_in, _)) = &p.latent {
                self.linear(latent_in, u, linear_buffers!(s), s.select, width);
            } else {
                s.select[..width].copy_from_slice(u.row(0));
            }
            let v = Rows::new(s.select, 1, width, width);
            s.normed[..width].fill(0.0);
            for (e, &weight) in weights.iter().enumerate().filter(|(_, w)| **w != NOT_CHOSEN) {
                let expert = self.model.expert(p, e);
                self.product(&expert.up, v, &mut s.quantized, row(s.inner, p.d_ff));
                if let Some(gate) = &expert.gate {
                    self.product(gate, v, &mut s.quantized, row(s.proj, p.d_ff));
                }
                let gate = expert.gate.map(|_| Rows::new(s.proj, 1, p.d_ff, p.d_ff));
                self.kernels.activate(p.activation, gate, row(s.inner, p.d_ff));
                let x = Rows::new(s.inner, 1, p.d_ff, p.d_ff);
                self.product(&expert.down, x, &mut s.quantized, row(s.adapted, width));
                s.normed[..width].iter_mut().zip(&*s.adapted).for_each(|(sum, y)| *sum += weight * y);
            }
            let output = &mut s.output[t * d_model..(t + 1) * d_model];
            if let Some((_, latent_out)) = &p.latent {
                let sum = Rows::new(s.normed, 1, width, width);
                self.linear(latent_out, sum, linear_buffers!(s), output, d_model);
            } else {
                output.copy_from_slice(&s.normed[..width]);
            }
        }
    }
}

/// One row of `len`.
fn row(buffer: &mut [f32], len: usize) -> RowsMut<'_> {
    RowsMut::new(buffer, 1, len, len)
}

/// In place of a weight, which is never infinite: a share of at most 1 by a finite factor.
const NOT_CHOSEN: f32 = f32::INFINITY;

/// Turns router logits into the weights of the chosen experts; the others get [`NOT_CHOSEN`].
fn route(p: &Moe<'_>, scores: &mut [f32], weights: &mut [f32]) {
    let is_sigmoid = matches!(p.routing, Routing::Sigmoid | Routing::SigmoidNormalized);
    if is_sigmoid {
        scores.iter_mut().for_each(|score| *score = sigmoid(*score));
    }
    // Choose by score plus correction, among the best groups only.
    let group_len = p.experts / p.groups;
    weights.fill(NOT_CHOSEN);
    for _ in 0..p.chosen {
        let in_reach = |e: &usize| p.groups == 1 || group_place(p, scores, e / group_len) < p.chosen_groups;
        let free = (0..p.experts).filter(|e| weights[*e] == NOT_CHOSEN).filter(in_reach);
        let best = free.reduce(|best, e| if rank(p, scores, e) > rank(p, scores, best) { e } else { best });
        // There is one: no more are chosen than are in reach. The weight is a mark until all are chosen.
        best.into_iter().for_each(|e| weights[e] = 0.0);
    }
    let largest = scores.iter().fold(f32::NEG_INFINITY, |m, &s| if s > m { s } else { m });
    let weight = |score: f32| if is_sigmoid { score } else { exp(score - largest) };
    let chosen = |e: &usize, weights: &[f32]| weights[*e] != NOT_CHOSEN;
    let total = match p.routing {
        Routing::Sigmoid => 1.0,
        Routing::SoftmaxOfAll => scores.iter().map(|&s| weight(s)).sum(),
        Routing::SoftmaxOfChosen => {
            (0..p.experts).filter(|e| chosen(e, weights)).map(|e| weight(scores[e])).sum::<f32>()
        }
        Routing::SigmoidNormalized => {
            (0..p.experts).filter(|e| chosen(e, weights)).map(|e| weight(scores[e])).sum::<f32>() + 1e-20
        }
    };
    for e in 0..p.experts {
        if chosen(&e, weights) {
            weights[e] = weight(scores[e]) / total * p.weight_scale;
        }
    }
}

/// By what an expert is chosen: its score plus the correction, below all numbers if that is none.
fn rank(p: &Moe<'_>, scores: &[f32], e: usize) -> f32 {
    let rank = scores[e] + p.correction.map_or(0.0, |c| c[e]);
    if rank.is_nan() { f32::NEG_INFINITY } else { rank }
}

/// How many groups of experts are better than this one, by the sum of their two best ranks.
fn group_place(p: &Moe<'_>, scores: &[f32], group: usize) -> usize {
    let group_len = p.experts / p.groups;
    let value = |group: usize| {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for e in group * group_len..(group + 1) * group_len {
            let rank = rank(p, scores, e);
            if rank > first {
                (first, second) = (rank, first);
            } else if rank > second {
                second = rank;
            }
        }
        if group_len == 1 { first } else { first + second }
    };
    let own = value(group);
    (0..p.groups).filter(|&g| value(g) > own || (value(g) == own && g < group)).count()
}
