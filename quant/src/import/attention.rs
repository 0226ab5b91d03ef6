//! Attention blocks, and rotary positions in the forms that configurations write them.

use sarit_core::plan::{AttentionRecord, JoinRecord, LinearRecord, NONE, NormRecord};
use serde_json::Value;

use super::ImportError;
use super::builder::{Builder, NormStyle, Slice};
use super::config::{count, find_size, finite, positive, refused};
use crate::recipe::Role;

/// The most positions that a window gets unless it is asked for.
const DEFAULT_WINDOW: usize = 4096;

/// Sizes that the attention layers of a model have in common.
#[derive(Clone)]
pub(super) struct Heads {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// Positions kept.
    pub(super) window: usize,
    /// Factor on the scores.
    pub(super) scale: f32,
    /// Dimensions rotated and turns per position, if any.
    pub(super) rope: Option<Rope>,
}

impl Heads {
    /// From the keys that most families use; scores are divided by the root of the head's length.
    pub(super) fn of(b: &Builder<'_>, window: Option<usize>) -> Result<Self, ImportError> {
        let config = b.config();
        let heads = count(config, "num_attention_heads", 0)?;
        let head_dim = match find_size(config, "head_dim")? {
            Some(n) if n > 0 => n,
            _ => b.d_model() / heads,
        };
        Ok(Self {
            heads,
            kv_heads: count(config, "num_key_value_heads", heads)?,
            head_dim,
            window: window_of(config, window)?,
            scale: (1.0 / (head_dim as f64).sqrt()) as f32,
            rope: None,
        })
    }
}

/// The window asked for, or as many positions as the model was trained for, up to [`DEFAULT_WINDOW`].
pub(super) fn window_of(config: &Value, asked: Option<usize>) -> Result<usize, ImportError> {
    match asked {
        Some(window) if (1..1 << 24).contains(&window) => Ok(window),
        Some(window) => Err(ImportError::Window(window)),
        None => Ok(count(config, "max_position_embeddings", DEFAULT_WINDOW)?.min(DEFAULT_WINDOW)),
    }
}

/// Names and factors of one attention layer.
pub(super) struct Layer<'a> {
    /// Names of q, k, v and the output projection, without `.weight`.
    pub(super) names: [&'a str; 4],
    /// Factors on the weights of the four.
    pub(super) weights: [f32; 4],
    /// Factors on their biases.
    pub(super) biases: [f32; 4],
    /// Names of the norms of each query and key head, without `.weight`, and their style.
    pub(super) norms: Option<([&'a str; 2], NormStyle)>,
}

impl<'a> Layer<'a> {
    /// A layer without factors and norms.
    pub(super) fn new(names: [&'a str; 4]) -> Self {
        Self { names, weights: [1.0; 4], biases: [1.0; 4], norms: None }
    }
}

/// Names of the four projections under a prefix, as most families have them.
pub(super) fn names(prefix: &str) -> [String; 4] {
    ["q_proj", "k_proj", "v_proj", "o_proj"].map(|part| format!("{prefix}.{part}"))
}

/// Adds an attention block with separate q, k and v.
pub(super) fn attention(
    b: &mut Builder<'_>,
    join: JoinRecord,
    heads: &Heads,
    layer: &Layer<'_>,
) -> Result<(), ImportError> {
    let d_model = b.d_model();
    let (q_len, kv_len) = (heads.heads * heads.head_dim, heads.kv_heads * heads.head_dim);
    let mut project = |i: usize, rows: usize, cols: usize| {
        let slice = Slice { rows: 0..rows, weight: layer.weights[i], bias: layer.biases[i] };
        b.linear_of(layer.names[i], Role::Projection, &[slice], rows, cols)
    };
    let q = project(0, q_len, d_model)?;
    let k = project(1, kv_len, d_model)?;
    let v = project(2, kv_len, d_model)?;
    let o = project(3, d_model, q_len)?;
    let mut record = record(b, join, heads, [q, k, v, o]);
    if let Some((names, style)) = layer.norms {
        record.q_norm = b.norm(names[0], heads.head_dim, style)?;
        record.k_norm = b.norm(names[1], heads.head_dim, style)?;
    }
    b.push(&record);
    Ok(())
}

/// An attention record without norms and convolution.
pub(super) fn record(
    b: &mut Builder<'_>,
    join: JoinRecord,
    heads: &Heads,
    [q, k, v, o]: [LinearRecord; 4],
) -> AttentionRecord {
    let (rotary_dims, turns) = match &heads.rope {
        Some(rope) => (rope.dims, b.push_values("rope.turns", 2, rope.turns.clone())),
        None => (0, NONE),
    };
    AttentionRecord {
        join,
        heads: heads.heads as u32,
        kv_heads: heads.kv_heads as u32,
        head_dim: heads.head_dim as u32,
        window: heads.window as u32,
        scale: heads.scale,
        rotary_dims: rotary_dims as u32,
        turns,
        q,
        k,
        v,
        o,
        q_norm: NormRecord::IDENTITY,
        k_norm: NormRecord::IDENTITY,
        conv_width: 1,
        conv_weight: NONE,
        conv_bias: NONE,
    }
}

/// Rotary positions, ready for the engine.
#[derive(Debug, Clone)]
pub(super) struct Rope {
    dims: usize,
    /// `[2][dims / 2]`: turns per position of each pair as a high and a low part.
    turns: Vec<f32>,
}

impl Rope {
    /// Plain rotary positions: pair `i` turns by `theta^(-2i / dims)` radians a position.
    pub(super) fn plain(dims: usize, theta: f64) -> Self {
        Self::of(dims, theta, |radians| radians)
    }

    fn of(dims: usize, theta: f64, scaled: impl Fn(f64) -> f64) -> Self {
        let turns: Vec<f64> = (0..dims / 2)
            .map(|i| scaled(theta.powf(-2.0 * i as f64 / dims as f64)) / std::f64::consts::TAU)
            .collect();
        let high = turns.iter().map(|t| *t as f32);
        let low = turns.iter().map(|t| (t - f64::from(*t as f32)) as f32);
        Self { dims, turns: high.chain(low).collect() }
    }

    /// As the configuration says, for `dims` rotated dimensions.
    ///
    /// Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before). Scaling: `linear` and
    /// `llama3` (Dubey et al. 2024, frequencies divided by a factor above a wavelength); others are refused.
    pub(super) fn of_config(config: &Value, dims: usize, default_theta: f64) -> Result<Self, ImportError> {
        let key = if config["rope_parameters"].is_object() { "rope_parameters" } else { "rope_scaling" };
        let scaling = &config[key];
        let theta_from = if scaling["rope_theta"].is_null() { config } else { scaling };
        let theta = positive(theta_from, "rope_theta", default_theta)?;
        if dims == 0 || !dims.is_multiple_of(2) {
            return Err(refused(config, "head_dim"));
        }
        let kind = scaling["rope_type"].as_str().or(scaling["type"].as_str()).unwrap_or("default");
        match kind {
            "default" => Ok(Self::plain(dims, theta)),
            "linear" => {
                let factor = positive(scaling, "factor", 1.0)?;
                Ok(Self::of(dims, theta, |radians| radians / factor))
            }
            "llama3" => {
                let factor = positive(scaling, "factor", 8.0)?;
                let low = positive(scaling, "low_freq_factor", 1.0)?;
                let high = positive(scaling, "high_freq_factor", 4.0)?;
                let trained = positive(scaling, "original_max_position_embeddings", 8192.0)?;
                Ok(Self::of(dims, theta, |radians| {
                    // Turns within the trained length: many stay as they are, few are stretched, smoothly between.
                    let turns = trained * radians / std::f64::consts::TAU;
                    let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    radians * (keep + (1.0 - keep) / factor)
                }))
            }
            _ => Err(refused(config, key)),
        }
    }
}

/// `config[key]` as a share of a head that is rotated.
pub(super) fn rotated(config: &Value, head_dim: usize, default: f64) -> Result<usize, ImportError> {
    let from = &config["rope_parameters"];
    let from = if from["partial_rotary_factor"].is_null() { config } else { from };
    Ok((head_dim as f64 * finite(from, "partial_rotary_factor", default)?) as usize)
}
