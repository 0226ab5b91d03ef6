//! The two state-space mixers that all families share.

use sarit_core::plan::{
    JoinRecord, LinearRecord, MlpRecord, NONE, NormRecord, SsmRecord, activation, decay, input, norm_kind,
};

use super::ImportError;
use super::builder::{Builder, Slice, join};
use crate::recipe::Role;

/// A Mamba-1 mixer: what the shapes of its tensors do not tell.
pub(super) struct Mamba1<'a> {
    /// Prefix of the tensor names, without the last dot.
    pub(super) prefix: &'a str,
    /// Whether the configuration says that the convolution has a bias.
    pub(super) conv_bias: Option<bool>,
    /// Whether it says that the projections in and out have biases.
    pub(super) bias: Option<bool>,
    /// What is done to dt_low, B and C.
    pub(super) norms: SelectionNorms,
}

/// Norms of dt_low, B and C.
#[derive(Clone, Copy)]
pub(super) enum SelectionNorms {
    None,
    /// RMS norms without weights (FalconMamba).
    Bare {
        eps: f32,
    },
    /// RMS norms `dt_layernorm`, `b_layernorm`, `c_layernorm` (Jamba).
    Weighted {
        eps: f32,
    },
}

/// Adds a Mamba-1 block.
pub(super) fn mamba1(b: &mut Builder<'_>, join: JoinRecord, p: &Mamba1<'_>) -> Result<(), ImportError> {
    let name = |part: &str| format!("{}.{part}", p.prefix);
    let a = b.decay_name(p.prefix);
    let [d_inner, d_state] = b.shape(&a)?;
    let [_, dt_rank] = b.shape(&name("dt_proj.weight"))?;
    let [_, _, conv_width] = b.shape(&name("conv1d.weight"))?;
    let d_model = b.d_model();
    b.agree(p.conv_bias, &name("conv1d.bias"))?;
    b.agree(p.bias, &name("in_proj.bias"))?;
    b.agree(p.bias, &name("out_proj.bias"))?;
    let mut norm = |part: &str, len: usize| match p.norms {
        SelectionNorms::None => Ok(NormRecord::IDENTITY),
        SelectionNorms::Bare { eps } => {
            Ok(NormRecord { kind: norm_kind::RMS, weight: NONE, bias: NONE, eps })
        }
        SelectionNorms::Weighted { eps } => {
            let weight = b.vector(&name(&format!("{part}_layernorm.weight")), len)?;
            Ok::<_, ImportError>(NormRecord { kind: norm_kind::RMS, weight, bias: NONE, eps })
        }
    };
    let norms = [norm("dt", dt_rank)?, norm("b", d_state)?, norm("c", d_state)?];
    // [x | z] in the checkpoint, [z | x] in the engine.
    let halves = [Slice::of(d_inner..2 * d_inner), Slice::of(0..d_inner)];
    let record = SsmRecord {
        join,
        heads: d_inner as u32,
        head_dim: 1,
        d_state: d_state as u32,
        n_groups: 1,
        conv_width: conv_width as u32,
        conv_silu: 1,
        in_proj: b.linear_of(&name("in_proj"), Role::Projection, &halves, 2 * d_inner, d_model)?,
        conv_weight: b.conv_weight(&name("conv1d.weight"), d_inner, conv_width)?,
        conv_bias: b.vector_if_any(&name("conv1d.bias"), d_inner)?,
        x_proj: b.matrix(&name("x_proj.weight"), Role::Selection, dt_rank + 2 * d_state, d_inner)?,
        dt_proj: b.matrix(&name("dt_proj.weight"), Role::Selection, d_inner, dt_rank)?,
        dt_norm: norms[0],
        b_norm: norms[1],
        c_norm: norms[2],
        decay: decay::EXP,
        dt_bias: b.vector(&name("dt_proj.bias"), d_inner)?,
        dt_min: 0.0,
        dt_max: f32::INFINITY,
        a_log2: b.a_log2(&a, &[d_inner, d_state])?,
        d: b.vector(&name("D"), d_inner)?,
        gate_norm: NormRecord::IDENTITY,
        norm_before_gate: 0,
        out_proj: b.linear(&name("out_proj"), Role::Projection, d_model, d_inner)?,
    };
    b.push(&record);
    Ok(())
}

/// A Mamba-2 mixer: what the shapes of its tensors do not tell.
#[derive(Clone)]
pub(super) struct Mamba2<'a> {
    /// Prefix of the tensor names, without the last dot.
    pub(super) prefix: &'a str,
    pub(super) n_groups: usize,
    /// Bounds of dt.
    pub(super) dt_limits: (f32, f32),
    /// Of the gate's norm; used if the checkpoint has one.
    pub(super) eps: f32,
    pub(super) norm_before_gate: bool,
    /// Whether the configuration says that the convolution has a bias.
    pub(super) conv_bias: Option<bool>,
    /// Factor on the input of in_proj.
    pub(super) in_factor: f32,
    /// Factors on the z, x, B, C and dt that in_proj makes.
    pub(super) part_factors: [f32; 5],
    /// Factor on the output of out_proj.
    pub(super) out_factor: f32,
}

impl<'a> Mamba2<'a> {
    /// A mixer without multipliers, gated before its norm.
    pub(super) fn new(prefix: &'a str, n_groups: usize, dt_limits: (f32, f32), eps: f32) -> Self {
        Self {
            prefix,
            n_groups,
            dt_limits,
            eps,
            norm_before_gate: false,
            conv_bias: None,
            in_factor: 1.0,
            part_factors: [1.0; 5],
            out_factor: 1.0,
        }
    }
}

/// Adds a Mamba-2 block; and, where in_proj begins with `[z0 | x0]` (state-spaces' `d_ssm`), the gated MLP beside it.
pub(super) fn mamba2(b: &mut Builder<'_>, join: JoinRecord, p: &Mamba2<'_>) -> Result<(), ImportError> {
    let name = |part: &str| format!("{}.{part}", p.prefix);
    let a = b.decay_name(p.prefix);
    let [heads] = b.shape(&a)?;
    let [in_rows, d_model] = b.shape(&name("in_proj.weight"))?;
    let [_, out_cols] = b.shape(&name("out_proj.weight"))?;
    let [conv_channels, _, conv_width] = b.shape(&name("conv1d.weight"))?;
    b.agree(p.conv_bias, &name("conv1d.bias"))?;

    // in_proj: [z0 (M) | x0 (M) | z (D) | x B C | dt]; out_proj takes [M | D].
    let d_mlp = in_rows.checked_sub(conv_channels + heads + out_cols).filter(|m| *m < out_cols);
    let d_mlp = d_mlp.ok_or_else(|| b.bad_shape(&name("in_proj.weight")))?;
    let d_inner = out_cols - d_mlp;
    let bc = conv_channels.checked_sub(d_inner).filter(|n| *n > 0 && n % (2 * p.n_groups) == 0);
    let bc = bc.ok_or_else(|| b.bad_shape(&name("conv1d.weight")))?;
    if d_inner % heads != 0 || heads % p.n_groups != 0 {
        return Err(b.bad_shape(&a));
    }

    let mut start = 2 * d_mlp;
    let lens = [d_inner, d_inner, bc / 2, bc / 2, heads];
    let slices = [0, 1, 2, 3, 4].map(|i| {
        let rows = start..start + lens[i];
        start = rows.end;
        Slice { rows, weight: p.in_factor * p.part_factors[i], bias: p.part_factors[i] }
    });
    // D is one number per head or one per channel.
    let skip = name("D");
    let per_head = b.shape(&skip).is_ok_and(|[n]| n == heads);
    let mut d = b.values(&skip, &[if per_head { heads } else { d_inner }])?;
    if per_head {
        d = d.iter().flat_map(|d| std::iter::repeat_n(*d, d_inner / heads)).collect();
    }
    let gate_norm = match b.vector_if_any(&name("norm.weight"), d_inner)? {
        NONE => NormRecord::IDENTITY,
        weight => NormRecord { kind: norm_kind::RMS, weight, bias: NONE, eps: p.eps },
    };
    let whole = [Slice { rows: 0..d_model, weight: p.out_factor, bias: p.out_factor }];
    let out_proj = if d_mlp == 0 {
        b.linear_of(&name("out_proj"), Role::Projection, &whole, d_model, out_cols)?
    } else {
        let bias = b.vector_if_any(&name("out_proj.bias"), d_model)?;
        LinearRecord {
            bias,
            ..b.columns(&name("out_proj"), d_mlp..out_cols, d_model, out_cols, p.out_factor)?
        }
    };
    let record = SsmRecord {
        join,
        heads: heads as u32,
        head_dim: (d_inner / heads) as u32,
        d_state: (bc / 2 / p.n_groups) as u32,
        n_groups: p.n_groups as u32,
        conv_width: conv_width as u32,
        conv_silu: 1,
        in_proj: b.linear_of(&name("in_proj"), Role::Projection, &slices, in_rows, d_model)?,
        conv_weight: b.conv_weight(&name("conv1d.weight"), conv_channels, conv_width)?,
        conv_bias: b.vector_if_any(&name("conv1d.bias"), conv_channels)?,
        x_proj: NONE,
        dt_proj: NONE,
        dt_norm: NormRecord::IDENTITY,
        b_norm: NormRecord::IDENTITY,
        c_norm: NormRecord::IDENTITY,
        decay: decay::EXP,
        dt_bias: b.vector(&name("dt_bias"), heads)?,
        dt_min: p.dt_limits.0,
        dt_max: p.dt_limits.1,
        a_log2: b.a_log2(&a, &[heads])?,
        d: b.push_values(&skip, 1, d),
        gate_norm,
        norm_before_gate: p.norm_before_gate.into(),
        out_proj,
    };
    b.push(&record);
    if d_mlp > 0 {
        let mut part =
            |rows| b.linear_of(&name("in_proj"), Role::Projection, &[Slice::of(rows)], in_rows, d_model);
        let (gate, up) = (part(0..d_mlp)?, part(d_mlp..2 * d_mlp)?);
        let down = b.columns(&name("out_proj"), 0..d_mlp, d_model, out_cols, p.out_factor)?;
        let same = JoinRecord { scale: join.scale, ..join_same() };
        b.push(&MlpRecord { join: same, d_ff: d_mlp as u32, activation: activation::SILU, gate, up, down });
    }
    Ok(())
}

/// A block beside the one before it.
pub(super) fn join_same() -> JoinRecord {
    join(input::SAME)
}
