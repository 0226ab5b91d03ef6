//! Phi-Mamba and Hybrid Phi-Mamba (MOHAWK): Phi's parallel blocks with a discrete Mamba-2 in place of attention.

use serde_json::Value;

use crate::attention::{Attention, Rope};
use crate::config::{find_size, size, text_or};
use crate::linalg::{activation, add, gelu_tanh, map, multiply, sigmoid, silu, split};
use crate::state::{Layer, Stream};
use crate::weights::{At, Weights};

pub(crate) fn step(w: &Weights, stream: &mut Stream, id: u32) -> Vec<f64> {
    const EPS: f64 = 1e-5;
    let mut r = w.embed("backbone.embedding.weight", id); // [d]
    for (i, block) in blocks(&w.config).into_iter().enumerate() {
        let layer = w.at(format!("backbone.layers.{i}"));
        let state = stream.layer(i);
        let u = layer.layer_norm("input_layernorm", &r, EPS);
        let core = text_or(block, "CoreType", "");
        let mixer = layer.at("mixer");
        let mixed = match core.rsplit('.').next() {
            Some("discrete_mamba2") => discrete_mamba2(&mixer, state, &block["core_input"], &u),
            Some("phi_attention") => attention(&mixer.at("self_attn"), state, &block["core_input"], &u),
            _ => panic!("config.json: the reference knows no CoreType {core:?}"),
        };
        let fed = layer.linear("mlp.fc2", &map(&layer.linear("mlp.fc1", &u), gelu_tanh));
        r = add(&r, &add(&mixed, &fed));
    }
    w.at("lm_head").apply(&w.at("backbone").layer_norm("final_layernorm", &r, EPS))
}

/// `Block1`, `Block2`, ... in order, each as often as its `n_layers` says.
fn blocks(config: &Value) -> Vec<&Value> {
    let blocks = (1..).map(|i| &config[format!("Block{i}")]).take_while(|block| block.is_object());
    blocks.flat_map(|block| vec![block; size(block, "n_layers")]).collect()
}

/// Mamba-2 without A and dt: the decay is projected from the input, and the input enters as it is.
fn discrete_mamba2(w: &At, state: &mut Layer, config: &Value, u: &[f64]) -> Vec<f64> {
    let skip = w.vector("D"); // [H]
    let heads = skip.len();
    let channels = w.tensor("out_proj.weight").shape[1]; // D
    let convolved = w.tensor("conv1d.weight").shape[0]; // D + 2·G·N
    let bc = (convolved - channels) / 2; // G·N
    let groups = find_size(config, "n_qk_heads").unwrap_or(32); // G
    let (head_dim, states) = (channels / heads, bc / groups); // P, N

    let projected = w.linear("in_proj", u);
    let [xbc, z, a] = split(&projected, [convolved, channels, heads]);
    let xbc = state.conv.step(&w.at("conv1d"), xbc);
    let xbc = map(&xbc, activation(text_or(config, "activation", "identity")));
    let [x, b, c] = split(&xbc, [channels, bc, bc]);

    state.ssm.resize(channels * states, 0.0);
    let mut y = vec![0.0; channels];
    for h in 0..heads {
        let decay = sigmoid(-a[h]);
        let group = h / (heads / groups);
        let (b, c) = (&b[group * states..][..states], &c[group * states..][..states]);
        for i in h * head_dim..(h + 1) * head_dim {
            for n in 0..states {
                let s = &mut state.ssm[i * states + n];
                *s = decay * *s + x[i] * b[n];
                y[i] += c[n] * *s;
            }
            y[i] += skip[h] * x[i];
        }
    }
    // Absent where in_proj has a bias of its own.
    let z = w.find("z_bias").map_or(z.to_vec(), |bias| add(z, &bias.data));
    w.linear("out_proj", &multiply(&y, &map(&z, silu)))
}

/// Attention with Phi's defaults: half of each head is rotated.
fn attention(w: &At, state: &mut Layer, config: &Value, u: &[f64]) -> Vec<f64> {
    let [q, k, v] = ["q_proj", "k_proj", "v_proj"].map(|name| w.linear(name, u));
    let heads = find_size(config, "num_attention_heads").unwrap_or(32);
    let head_dim = q.len() / heads;
    let rope = Some(Rope { theta: 10_000.0, dims: head_dim / 2 });
    let attention = Attention { heads, scale: 1.0 / (head_dim as f64).sqrt(), rope };
    w.linear("dense", &attention.attend(&mut state.cache, q, k, v))
}
