//! Zamba2: Mamba-2 layers, into some of which a shared transformer block feeds, adapted to each by low-rank pairs.

use std::collections::BTreeMap;

use sarit_core::plan::{JoinRecord, LinearBlockRecord, LinearRecord, MlpRecord, input, output};

use super::ImportError;
use super::attention::{Heads, Rope, record, window_of};
use super::builder::{Builder, Frame, NormStyle, Slice, join};
use super::config::{Kind, activation_of, count, eps, find_count, flag, layer_kinds, positive, refused};
use super::ssm::{Mamba2, mamba2};
use crate::checkpoint::Checkpoint;
use crate::recipe::{Recipe, Role};

/// Of the gate's norm, whatever `rms_norm_eps` says.
const GATE_EPS: f32 = 1e-5;

pub(super) fn import(checkpoint: &Checkpoint, window: Option<usize>) -> Result<Recipe, ImportError> {
    let mut b = Builder::new(checkpoint);
    let config = b.config();
    let norm = NormStyle::rms(eps(config, "rms_norm_eps", 1e-5)?);
    b.language_model(&Frame {
        embedding: "model.embed_tokens.weight",
        embedding_scale: 1.0,
        final_norm: "model.final_layernorm",
        norm,
        logits_scale: 1.0,
    })?;
    let kinds = layer_kinds(config)?.ok_or_else(|| refused(config, "layers_block_type"))?;
    let hybrids: Vec<usize> = (0..kinds.len()).filter(|&i| kinds[i] == Kind::Hybrid).collect();
    let groups = count(config, "mamba_ngroups", 1)?;
    let limits = (positive(config, "time_step_min", 1e-3)? as f32, f32::INFINITY);
    let mut shared = Shared { norm, window, hybrids, stored: BTreeMap::new() };

    for (i, kind) in kinds.into_iter().enumerate() {
        let layer = format!("model.layers.{i}");
        let (decoder, input) = match kind {
            Kind::Mamba => (layer, input::RESIDUAL),
            Kind::Hybrid => {
                shared.blocks(&mut b, i)?;
                (format!("{layer}.mamba_decoder"), input::RESIDUAL_PLUS_BRANCH)
            }
            _ => return Err(refused(config, "layers_block_type")),
        };
        let join = JoinRecord { input, ..b.join(&format!("{decoder}.input_layernorm"), norm)? };
        mamba2(&mut b, join, &Mamba2::new(&format!("{decoder}.mamba"), groups, limits, GATE_EPS))?;
    }
    b.finish()
}

/// The shared transformer blocks.
struct Shared {
    norm: NormStyle,
    window: Option<usize>,
    /// Layers that a shared block feeds into.
    hybrids: Vec<usize>,
    /// Linear maps that are in the recipe already, by name.
    stored: BTreeMap<String, LinearRecord>,
}

impl Shared {
    /// What comes before the mixer of hybrid layer `i`: `branch = linear(ffn(norm(attn(norm([r | e])))))`.
    fn blocks(&mut self, b: &mut Builder<'_>, i: usize) -> Result<(), ImportError> {
        let config = b.config();
        let nth = self.hybrids.iter().position(|&hybrid| hybrid == i).unwrap_or(0);
        let blocks = find_count(config, "num_mem_blocks")?.filter(|n| *n > 0).unwrap_or(1);
        // The blocks take turns. Each is stored at least with the first layer that uses it.
        let own = format!("model.layers.{i}.shared_transformer");
        let prefix = if b.has(&format!("{own}.input_layernorm.weight")) {
            own
        } else {
            format!("model.layers.{}.shared_transformer", self.hybrids[nth % blocks])
        };
        let d_model = b.d_model();
        let branch = |input, norm| JoinRecord { norm, output: output::BRANCH, ..join(input) };

        let heads = count(config, "num_attention_heads", 0)?;
        let q_name = format!("{prefix}.self_attn.q_proj");
        let [q_len, width] = b.shape(&format!("{q_name}.weight"))?;
        let [kv_len, _] = b.shape(&format!("{prefix}.self_attn.k_proj.weight"))?;
        let head_dim = q_len / heads;
        if head_dim == 0 || q_len % heads != 0 || kv_len % head_dim != 0 {
            return Err(b.bad_shape(&format!("{q_name}.weight")));
        }
        let rotated = flag(config, "use_mem_rope", false)?;
        // Positions would turn more slowly.
        if rotated && flag(config, "use_long_context", false)? {
            return Err(refused(config, "use_long_context"));
        }
        let heads = Heads {
            heads,
            kv_heads: kv_len / head_dim,
            head_dim,
            window: window_of(config, self.window)?,
            scale: (1.0 / (head_dim as f64 / 2.0).sqrt()) as f32,
            rope: if rotated { Some(Rope::of_config(config, head_dim, 10_000.0)?) } else { None },
        };
        let norm = b.norm(&format!("{prefix}.input_layernorm"), width, self.norm)?;
        let adapted = flag(config, "use_shared_attention_adapter", false)?;
        let mut parts = [LinearRecord::NONE; 4];
        for (part, (letter, rows)) in parts.iter_mut().zip([("q", q_len), ("k", kv_len), ("v", kv_len)]) {
            let name = format!("{prefix}.self_attn.{letter}_proj");
            *part = self.linear(b, &name, 0..rows, rows, width)?;
            if adapted {
                let list = format!("{prefix}.self_attn.linear_{letter}_adapter_list");
                *part = self.adapter(b, *part, (&list, nth), 0..rows, [rows, width])?;
            }
        }
        parts[3] = self.linear(b, &format!("{prefix}.self_attn.o_proj"), 0..d_model, d_model, q_len)?;
        let attention = record(b, branch(input::RESIDUAL_AND_EMBEDDING, norm), &heads, parts);
        b.push(&attention);

        let norm = b.norm(&format!("{prefix}.pre_ff_layernorm"), d_model, self.norm)?;
        let both = format!("{prefix}.feed_forward.gate_up_proj");
        let [rows, _] = b.shape(&format!("{both}.weight"))?;
        let d_ff = rows / 2;
        let list = format!("{prefix}.feed_forward.gate_up_proj_adapter_list");
        let mut half = |part: std::ops::Range<usize>| {
            let linear = self.linear(b, &both, part.clone(), rows, d_model)?;
            self.adapter(b, linear, (&list, nth), part, [rows, d_model])
        };
        let (gate, up) = (half(0..d_ff)?, half(d_ff..2 * d_ff)?);
        let down = self.linear(b, &format!("{prefix}.feed_forward.down_proj"), 0..d_model, d_model, d_ff)?;
        let activation = activation_of(config, "hidden_act", "gelu")?;
        let join = branch(input::BRANCH, norm);
        b.push(&MlpRecord { join, d_ff: d_ff as u32, activation, gate, up, down });

        let linear = b.linear(&format!("model.layers.{i}.linear"), Role::Projection, d_model, d_model)?;
        let join = branch(input::BRANCH, sarit_core::plan::NormRecord::IDENTITY);
        b.push(&LinearBlockRecord { join, linear });
        Ok(())
    }

    /// The rows `part` of a shared map `[rows][cols]`, written once however many layers use it.
    fn linear(
        &mut self,
        b: &mut Builder<'_>,
        name: &str,
        part: std::ops::Range<usize>,
        rows: usize,
        cols: usize,
    ) -> Result<LinearRecord, ImportError> {
        let key = format!("{name}[{}]", part.start);
        if let Some(linear) = self.stored.get(&key) {
            return Ok(*linear);
        }
        let linear = b.linear_of(name, Role::Projection, &[Slice::of(part)], rows, cols)?;
        self.stored.insert(key, linear);
        Ok(linear)
    }

    /// `linear` with the low-rank pair of the `nth` hybrid layer in `list`: `0` `[rank][cols]`, and of `1`
    /// `[rows][rank]` the rows `part`.
    fn adapter(
        &self,
        b: &mut Builder<'_>,
        linear: LinearRecord,
        (list, nth): (&str, usize),
        part: std::ops::Range<usize>,
        [rows, cols]: [usize; 2],
    ) -> Result<LinearRecord, ImportError> {
        // Copies of a block that are not shared keep the pairs of other layers too.
        for other in 0..self.hybrids.len() {
            ["0", "1"].into_iter().for_each(|half| b.ignore(&format!("{list}.{other}.{half}.weight")));
        }
        let [rank, _] = b.shape(&format!("{list}.{nth}.0.weight"))?;
        let down = b.matrix(&format!("{list}.{nth}.0.weight"), Role::Projection, rank, cols)?;
        let up = b.linear_of(&format!("{list}.{nth}.1"), Role::Projection, &[Slice::of(part)], rows, rank)?;
        Ok(LinearRecord { down, up: up.matrix, ..linear })
    }
}
