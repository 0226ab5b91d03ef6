//! Tensor names of the architectures that are imported: llama.cpp's, Hugging Face's, and what the converter did.

use super::names::Form::{Conv, Experts, First, Flat, Same, Second, TurnedK, TurnedQ};
use super::names::{Map, Names};

/// A Mamba-1 mixer.
const MAMBA1: &Names = &[
    ("ssm_in.weight", "in_proj.weight", Same),
    ("ssm_in.bias", "in_proj.bias", Same),
    ("ssm_conv1d.weight", "conv1d.weight", Conv),
    ("ssm_conv1d.bias", "conv1d.bias", Same),
    ("ssm_x.weight", "x_proj.weight", Same),
    ("ssm_dt.weight", "dt_proj.weight", Same),
    ("ssm_dt.bias", "dt_proj.bias", Same),
    ("ssm_a", "A", Same),
    ("ssm_d", "D", Same),
    ("ssm_out.weight", "out_proj.weight", Same),
    ("ssm_out.bias", "out_proj.bias", Same),
];

/// A Mamba-2 mixer.
const MAMBA2: &Names = &[
    ("ssm_in.weight", "in_proj.weight", Same),
    ("ssm_in.bias", "in_proj.bias", Same),
    ("ssm_conv1d.weight", "conv1d.weight", Conv),
    ("ssm_conv1d.bias", "conv1d.bias", Same),
    ("ssm_dt.bias", "dt_bias", Same),
    ("ssm_a", "A", Flat),
    ("ssm_d", "D", Flat),
    ("ssm_norm.weight", "norm.weight", Flat),
    ("ssm_out.weight", "out_proj.weight", Same),
    ("ssm_out.bias", "out_proj.bias", Same),
];

/// Attention.
const ATTENTION: &Names = &[
    ("attn_q.weight", "q_proj.weight", Same),
    ("attn_q.bias", "q_proj.bias", Same),
    ("attn_k.weight", "k_proj.weight", Same),
    ("attn_k.bias", "k_proj.bias", Same),
    ("attn_v.weight", "v_proj.weight", Same),
    ("attn_v.bias", "v_proj.bias", Same),
    ("attn_output.weight", "o_proj.weight", Same),
    ("attn_output.bias", "o_proj.bias", Same),
];

/// The same with turned rows, as the converter writes all families that it derives from Llama.
const TURNED_ATTENTION: &Names = &[
    ("attn_q.weight", "q_proj.weight", TurnedQ),
    ("attn_q.bias", "q_proj.bias", TurnedQ),
    ("attn_k.weight", "k_proj.weight", TurnedK),
    ("attn_k.bias", "k_proj.bias", TurnedK),
    ("attn_v.weight", "v_proj.weight", Same),
    ("attn_v.bias", "v_proj.bias", Same),
    ("attn_output.weight", "o_proj.weight", Same),
    ("attn_output.bias", "o_proj.bias", Same),
];

/// An MLP, gated or not.
const MLP: &Names = &[
    ("ffn_gate.weight", "gate_proj.weight", Same),
    ("ffn_gate.bias", "gate_proj.bias", Same),
    ("ffn_up.weight", "up_proj.weight", Same),
    ("ffn_up.bias", "up_proj.bias", Same),
    ("ffn_down.weight", "down_proj.weight", Same),
    ("ffn_down.bias", "down_proj.bias", Same),
];

pub(super) const MAMBA_MAP: Map = Map {
    outside: &[
        ("token_embd.weight", "backbone.embeddings.weight"),
        ("output_norm.weight", "backbone.norm_f.weight"),
        ("output.weight", "lm_head.weight"),
    ],
    layers: "backbone.layers.",
    inside: &[("", &[("attn_norm.weight", "norm.weight", Same)]), ("mixer.", MAMBA1)],
};

pub(super) const MAMBA2_MAP: Map =
    Map { inside: &[("", &[("attn_norm.weight", "norm.weight", Same)]), ("mixer.", MAMBA2)], ..MAMBA_MAP };

pub(super) const FALCON_H1_MAP: Map = Map {
    outside: &[
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.final_layernorm.weight"),
        ("output.weight", "lm_head.weight"),
    ],
    layers: "model.layers.",
    inside: &[
        ("mamba.", MAMBA2),
        ("self_attn.", ATTENTION),
        ("feed_forward.", MLP),
        (
            "",
            &[
                ("attn_norm.weight", "input_layernorm.weight", Same),
                // The converter forgets the suffix.
                ("ffn_norm", "pre_ff_layernorm.weight", Same),
                ("ffn_norm.weight", "pre_ff_layernorm.weight", Same),
            ],
        ),
    ],
};

pub(super) const GRANITE_MAP: Map = Map {
    outside: &[
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("output_norm.weight", "model.norm.weight"),
        ("output.weight", "lm_head.weight"),
    ],
    layers: "model.layers.",
    inside: &[
        ("mamba.", MAMBA2),
        ("self_attn.", TURNED_ATTENTION),
        (
            "",
            &[
                ("attn_norm.weight", "input_layernorm.weight", Same),
                ("ffn_norm.weight", "post_attention_layernorm.weight", Same),
                ("ffn_gate.weight", "shared_mlp.input_linear.weight", First("ffn_up.weight")),
                ("ffn_up.weight", "", Second("ffn_gate.weight")),
                ("ffn_down.weight", "shared_mlp.output_linear.weight", Same),
                ("ffn_gate_shexp.weight", "shared_mlp.input_linear.weight", First("ffn_up_shexp.weight")),
                ("ffn_up_shexp.weight", "", Second("ffn_gate_shexp.weight")),
                ("ffn_down_shexp.weight", "shared_mlp.output_linear.weight", Same),
                ("ffn_gate_inp.weight", "block_sparse_moe.router.layer.weight", Same),
                ("ffn_gate_exps.weight", "block_sparse_moe.input_linear.weight", First("ffn_up_exps.weight")),
                ("ffn_up_exps.weight", "", Second("ffn_gate_exps.weight")),
                ("ffn_down_exps.weight", "block_sparse_moe.output_linear.weight", Same),
            ],
        ),
    ],
};

pub(super) const JAMBA_MAP: Map = Map {
    inside: &[
        ("mamba.", MAMBA1),
        ("self_attn.", ATTENTION),
        ("feed_forward.", MLP),
        (
            "",
            &[
                ("ssm_dt_norm.weight", "mamba.dt_layernorm.weight", Same),
                ("ssm_b_norm.weight", "mamba.b_layernorm.weight", Same),
                ("ssm_c_norm.weight", "mamba.c_layernorm.weight", Same),
                ("attn_norm.weight", "input_layernorm.weight", Same),
                ("ffn_norm.weight", "pre_ff_layernorm.weight", Same),
                ("ffn_gate_inp.weight", "feed_forward.router.weight", Same),
                ("ffn_gate_exps.weight", "feed_forward.experts.{e}.gate_proj.weight", Experts),
                ("ffn_up_exps.weight", "feed_forward.experts.{e}.up_proj.weight", Experts),
                ("ffn_down_exps.weight", "feed_forward.experts.{e}.down_proj.weight", Experts),
            ],
        ),
    ],
    ..FALCON_H1_MAP
};

pub(super) const NEMOTRON_H_MAP: Map = Map {
    inside: &[
        ("", &[("attn_norm.weight", "norm.weight", Same)]),
        ("mixer.", MAMBA2),
        ("mixer.", TURNED_ATTENTION),
        ("mixer.", MLP),
    ],
    ..MAMBA_MAP
};

pub(super) const LFM2_MAP: Map = Map {
    outside: &[
        ("token_embd.weight", "model.embed_tokens.weight"),
        // Newer files have the second name, which is what it is.
        ("token_embd_norm.weight", "model.embedding_norm.weight"),
        ("output_norm.weight", "model.embedding_norm.weight"),
        ("output.weight", "lm_head.weight"),
    ],
    layers: "model.layers.",
    inside: &[(
        "",
        &[
            ("attn_norm.weight", "operator_norm.weight", Same),
            ("ffn_norm.weight", "ffn_norm.weight", Same),
            ("shortconv.conv.weight", "conv.conv.weight", Conv),
            ("shortconv.conv.bias", "conv.conv.bias", Same),
            ("shortconv.in_proj.weight", "conv.in_proj.weight", Same),
            ("shortconv.in_proj.bias", "conv.in_proj.bias", Same),
            ("shortconv.out_proj.weight", "conv.out_proj.weight", Same),
            ("shortconv.out_proj.bias", "conv.out_proj.bias", Same),
            ("attn_q.weight", "self_attn.q_proj.weight", Same),
            ("attn_k.weight", "self_attn.k_proj.weight", Same),
            ("attn_v.weight", "self_attn.v_proj.weight", Same),
            ("attn_output.weight", "self_attn.out_proj.weight", Same),
            ("attn_q_norm.weight", "self_attn.q_layernorm.weight", Same),
            ("attn_k_norm.weight", "self_attn.k_layernorm.weight", Same),
            ("ffn_gate.weight", "feed_forward.w1.weight", Same),
            ("ffn_up.weight", "feed_forward.w3.weight", Same),
            ("ffn_down.weight", "feed_forward.w2.weight", Same),
        ],
    )],
};
