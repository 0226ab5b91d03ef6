//! Mamba-2 (Dao and Gu, 2024): `mamba2` checkpoints of Hugging Face and of state-spaces, and the mixer that
//! most hybrids share.

use serde_json::Value;

use crate::config::{find_size, flag_or, number_or, numbers_or, size, text_or};
use crate::linalg::{activation, add, group_rms_norm, map, multiply, silu, softplus, split};
use crate::mamba;
use crate::state::{Layer, Stream};
use crate::weights::{At, Weights};

/// What the shapes of a mixer's tensors do not tell.
pub(crate) struct Mixer {
    pub(crate) groups: usize,
    /// dt is clamped to this range after softplus.
    pub(crate) dt_limit: [f64; 2],
    pub(crate) conv_activation: fn(f64) -> f64,
    pub(crate) gate: Gate,
}

/// How the output `y` meets its gate `z`. The norm is over each group by itself, with the weight `norm.weight`.
pub(crate) enum Gate {
    /// `norm(y · silu(z))`
    ThenNorm { eps: f64 },
    /// `norm(y) · silu(z)`
    AfterNorm { eps: f64 },
    /// `y · silu(z)`
    Alone,
}

/// The range of dt that clamps nothing.
pub(crate) const ANY_DT: [f64; 2] = [0.0, f64::INFINITY];

/// One token through the Hugging Face form.
pub(crate) fn step(w: &Weights, stream: &mut Stream, id: u32) -> Vec<f64> {
    let eps = number_or(&w.config, "layer_norm_epsilon", 1e-5);
    let mixer = Mixer {
        groups: size(&w.config, "n_groups"),
        dt_limit: numbers_or(&w.config, "time_step_limit", ANY_DT),
        conv_activation: activation(text_or(&w.config, "hidden_act", "silu")),
        gate: Gate::ThenNorm { eps },
    };

    let mut r = w.embed("backbone.embeddings.weight", id); // [d]
    for i in 0..size(&w.config, "num_hidden_layers") {
        let layer = w.at(format!("backbone.layers.{i}"));
        let u = layer.rms_norm("norm", &r, eps);
        r = add(&r, &mixer.mix(&layer.at("mixer"), stream.layer(i), &u));
    }
    w.head("backbone.embeddings.weight", &w.at("backbone").rms_norm("norm_f", &r, eps))
}

/// One token through the state-spaces form, whose config leaves a constructor's defaults unsaid.
pub(crate) fn step_original(w: &Weights, stream: &mut Stream, id: u32) -> Vec<f64> {
    let config = &w.config["ssm_cfg"];
    let eps = 1e-5;
    let gate = match (flag_or(config, "rmsnorm", true), flag_or(config, "norm_before_gate", false)) {
        (true, false) => Gate::ThenNorm { eps },
        (true, true) => Gate::AfterNorm { eps },
        (false, _) => Gate::Alone,
    };
    let mixer = Mixer {
        groups: find_size(config, "ngroups").unwrap_or(1),
        dt_limit: numbers_or(config, "dt_limit", ANY_DT),
        conv_activation: silu,
        gate,
    };
    mamba::original(w, stream, id, |w, state, u| mixer.mix(w, state, u))
}

impl Mixer {
    /// The mixer of Granite and Bamba, which share their config keys.
    pub(crate) fn of_hybrid(config: &Value, eps: f64) -> Self {
        Self {
            groups: size(config, "mamba_n_groups"),
            dt_limit: numbers_or(config, "time_step_limit", ANY_DT),
            conv_activation: activation(text_or(config, "hidden_act", "silu")),
            gate: Gate::ThenNorm { eps },
        }
    }

    /// The whole mixer: `[d]` in, `[d]` out.
    pub(crate) fn mix(&self, w: &At, state: &mut Layer, u: &[f64]) -> Vec<f64> {
        let v = self.recur(w, state, &w.linear("in_proj", u));
        w.linear("out_proj", &v)
    }

    /// What lies between the projections: `[z0 (M) | x0 (M) | z (D) | x (D) | B (G·N) | C (G·N) | dt (H)]` in,
    /// `[M + D]` out. The gated MLP of width `M` is found in some state-spaces checkpoints only; elsewhere M = 0.
    pub(crate) fn recur(&self, w: &At, state: &mut Layer, projected: &[f64]) -> Vec<f64> {
        let a_log = w.vector("A_log"); // [H]
        let dt_bias = w.vector("dt_bias"); // [H]
        let skip = w.vector("D"); // [H], in some state-spaces checkpoints [D]
        let heads = a_log.len();
        let convolved = w.tensor("conv1d.weight").shape[0]; // D + 2·G·N
        let out = w.tensor("out_proj.weight").shape[1]; // M + D
        let mlp = projected.len() - convolved - heads - out; // 2·M + D - (M + D)
        let channels = out - mlp; // D
        let bc = (convolved - channels) / 2; // G·N
        let (head_dim, states) = (channels / heads, bc / self.groups); // P, N

        let [z0, x0, z, xbc, dt] = split(projected, [mlp, mlp, channels, convolved, heads]);
        let xbc = map(&state.conv.step(&w.at("conv1d"), xbc), self.conv_activation);
        let [x, b, c] = split(&xbc, [channels, bc, bc]);

        state.ssm.resize(channels * states, 0.0);
        let mut y = vec![0.0; channels];
        for h in 0..heads {
            let dt = softplus(dt[h] + dt_bias[h]).clamp(self.dt_limit[0], self.dt_limit[1]);
            let a = -a_log[h].exp();
            let decay = (dt * a).exp();
            let group = h / (heads / self.groups);
            let (b, c) = (&b[group * states..][..states], &c[group * states..][..states]);
            for i in h * head_dim..(h + 1) * head_dim {
                for n in 0..states {
                    let s = &mut state.ssm[i * states + n];
                    *s = decay * *s + dt * x[i] * b[n];
                    y[i] += c[n] * *s;
                }
                y[i] += skip[if skip.len() == heads { h } else { i }] * x[i];
            }
        }

        let z = map(z, silu);
        let norm = |x: &[f64], eps| group_rms_norm(x, w.vector("norm.weight"), self.groups, eps);
        let v = match self.gate {
            Gate::ThenNorm { eps } => norm(&multiply(&y, &z), eps),
            Gate::AfterNorm { eps } => multiply(&norm(&y, eps), &z),
            Gate::Alone => multiply(&y, &z),
        };
        [multiply(&map(z0, silu), x0), v].concat()
    }
}
