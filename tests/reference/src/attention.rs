//! Causal attention with grouped queries over a growing cache, and rotary positions.

use crate::linalg::{dot, softmax};
use crate::weights::At;

/// All keys and values so far, each `[kv heads · head_dim]`.
pub(crate) struct Cache {
    window: Option<usize>,
    keys: Vec<Vec<f64>>,
    values: Vec<Vec<f64>>,
}

impl Cache {
    pub(crate) fn new(window: Option<usize>) -> Self {
        Self { window, keys: Vec::new(), values: Vec::new() }
    }
}

/// What the shapes of an attention layer's tensors do not tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attention {
    /// Query heads; runs of equal length share one key and value head.
    pub(crate) heads: usize,
    /// What the scores are multiplied by.
    pub(crate) scale: f64,
    /// Rotary positions, if any.
    pub(crate) rope: Option<Rope>,
}

impl Attention {
    /// The whole layer: `[d]` in, `[d]` out.
    pub(crate) fn mix(&self, w: &At, cache: &mut Cache, u: &[f64]) -> Vec<f64> {
        let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| w.linear(name, u));
        w.linear("o_proj", &self.attend(cache, q, k, v))
    }

    /// Takes in this token's key and value, and for each query head gives
    /// `Σ_s softmax_s(scale · q·k_s) v_s` over the positions `s` it may see, its own the last.
    pub(crate) fn attend(
        &self,
        cache: &mut Cache,
        mut q: Vec<f64>,
        mut k: Vec<f64>,
        v: Vec<f64>,
    ) -> Vec<f64> {
        let head_dim = q.len() / self.heads;
        let heads_per_key = self.heads / (k.len() / head_dim);
        if let Some(rope) = self.rope {
            let position = cache.keys.len();
            rope.rotate(&mut q, head_dim, position);
            rope.rotate(&mut k, head_dim, position);
        }
        cache.keys.push(k);
        cache.values.push(v);
        let seen = cache.keys.len();
        let visible = seen - cache.window.unwrap_or(seen).min(seen)..seen;

        let mut out = vec![0.0; q.len()];
        for (head, q) in q.chunks_exact(head_dim).enumerate() {
            let shared = head / heads_per_key * head_dim;
            let part = |row: &[f64]| row[shared..][..head_dim].to_vec();
            let scores: Vec<f64> =
                visible.clone().map(|s| self.scale * dot(q, &part(&cache.keys[s]))).collect();
            for (s, p) in visible.clone().zip(softmax(&scores)) {
                let v = part(&cache.values[s]);
                for i in 0..head_dim {
                    out[head * head_dim + i] += p * v[i];
                }
            }
        }
        out
    }
}

/// Rotary position embedding of the first `dims` of every head, in halves: dimension `i` turns with `i + dims/2`
/// by the angle `position · theta^(-2i/dims)`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rope {
    pub(crate) theta: f64,
    pub(crate) dims: usize,
}

impl Rope {
    fn rotate(&self, x: &mut [f64], head_dim: usize, position: usize) {
        let half = self.dims / 2;
        for head in x.chunks_exact_mut(head_dim) {
            for i in 0..half {
                let angle = position as f64 * self.theta.powf(-((2 * i) as f64) / self.dims as f64);
                let (sin, cos) = angle.sin_cos();
                let (a, b) = (head[i], head[i + half]);
                head[i] = a * cos - b * sin;
                head[i + half] = b * cos + a * sin;
            }
        }
    }
}
