"""Random checkpoints of full-size models, in Hugging Face's layout: speed does not depend on the values.

    python checkpoints.py OUT_DIR NAME...      (names: the keys of SHAPES)
"""
import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

_MAMBA2 = dict(model_type="mamba2", vocab_size=50288, expand=2, conv_kernel=4, n_groups=1, chunk_size=256,
               rms_norm=True, use_bias=False, time_step_limit=[0.0, {"__float__": "Infinity"}])
SHAPES = {
    "mamba-130m": dict(model_type="mamba", vocab_size=50280, hidden_size=768, num_hidden_layers=24, state_size=16,
                       time_step_rank=48, expand=2, conv_kernel=4, use_bias=False),
    "mamba2-8m": _MAMBA2 | dict(hidden_size=128, num_hidden_layers=12, state_size=64, head_dim=32, num_heads=8),
    "mamba2-130m": _MAMBA2 | dict(hidden_size=768, num_hidden_layers=24, state_size=128, head_dim=64, num_heads=24),
    "mamba2-370m": _MAMBA2 | dict(hidden_size=1024, num_hidden_layers=48, state_size=128, head_dim=64, num_heads=32),
    "mamba2-2.7b": _MAMBA2 | dict(hidden_size=2560, num_hidden_layers=64, state_size=128, head_dim=64, num_heads=80),
}
COMMON = dict(hidden_act="silu", layer_norm_epsilon=1e-5, use_conv_bias=True, residual_in_fp32=True,
              tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=0, dtype="float16")


def config(shape):
    """config.json of a shape."""
    architecture = {"mamba": "MambaForCausalLM", "mamba2": "Mamba2ForCausalLM"}[shape["model_type"]]
    inner = shape["expand"] * shape["hidden_size"]
    return COMMON | shape | {"architectures": [architecture], "intermediate_size": inner}


def tensors(shape, seed=0):
    """Name -> f16 array. Matrices are normal with deviation 1/sqrt(columns), so that activations stay near 1; decays
    and steps lie where trained models have them. All layers are the same one, so that 2.7 billion numbers take seconds."""
    rng = np.random.default_rng(seed)
    d, n, k = shape["hidden_size"], shape["state_size"], shape["conv_kernel"]
    inner = shape["expand"] * d

    def matrix(rows, cols):
        return (rng.standard_normal((rows, cols), dtype=np.float32) / np.sqrt(cols)).astype(np.float16)

    def steps(count):  # the inverse of softplus at steps of 0.001 to 0.1
        dt = np.exp(rng.uniform(np.log(1e-3), np.log(1e-1), count))
        return np.log(np.expm1(dt)).astype(np.float16)

    def ones(*size):
        return np.ones(size, np.float16)

    out = {"backbone.embeddings.weight": matrix(shape["vocab_size"], d), "backbone.norm_f.weight": ones(d)}
    if shape["model_type"] == "mamba":
        rank, channels = shape["time_step_rank"], inner
        mixer = {
            "in_proj.weight": matrix(2 * inner, d),
            "x_proj.weight": matrix(rank + 2 * n, inner),
            "dt_proj.weight": matrix(inner, rank),
            "dt_proj.bias": steps(inner),
            "A_log": np.tile(np.log(np.arange(1, n + 1)), (inner, 1)).astype(np.float16),
            "D": ones(inner),
        }
    else:
        heads, channels = shape["num_heads"], inner + 2 * shape["n_groups"] * n
        mixer = {
            "in_proj.weight": matrix(inner + channels + heads, d),
            "dt_bias": steps(heads),
            "A_log": np.log(rng.uniform(1, 16, heads)).astype(np.float16),
            "D": ones(heads),
            "norm.weight": ones(inner),
        }
    mixer |= {
        "conv1d.weight": matrix(channels, k).reshape(channels, 1, k),
        "conv1d.bias": rng.uniform(-0.1, 0.1, channels).astype(np.float16),
        "out_proj.weight": matrix(d, inner),
    }
    for i in range(shape["num_hidden_layers"]):
        layer = f"backbone.layers.{i}"
        out[f"{layer}.norm.weight"] = ones(d)
        out |= {f"{layer}.mixer.{name}": tensor for name, tensor in mixer.items()}
    return out


def parameters(shape):
    """Numbers in a checkpoint; the large matrices are counted from the shape alone."""
    d, inner = shape["hidden_size"], shape["expand"] * shape["hidden_size"]
    n, k = shape["state_size"], shape["conv_kernel"]
    if shape["model_type"] == "mamba":
        rank = shape["time_step_rank"]
        mixer = 3 * inner * d + inner * (rank + 2 * n) + inner * rank + inner * n + inner * (k + 1) + 2 * inner
    else:
        heads, channels = shape["num_heads"], inner + 2 * shape["n_groups"] * n
        mixer = d * (inner + channels + heads) + d * inner + channels * (k + 1) + 3 * heads + inner
    return shape["vocab_size"] * d + d + shape["num_hidden_layers"] * (mixer + d)


def write(shape, folder):
    """Writes config.json and model.safetensors, the latter last and atomically: where it is, the folder is whole."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(shape), indent=1) + "\n")
    part = folder / "model.safetensors.part"
    save_file(tensors(shape), part, metadata={"format": "pt"})
    part.replace(folder / "model.safetensors")


if __name__ == "__main__":
    if len(sys.argv) < 3 or not set(sys.argv[2:]) <= set(SHAPES):
        sys.exit(f"usage: checkpoints.py OUT_DIR NAME...    names: {', '.join(SHAPES)}")
    for name in sys.argv[2:]:
        write(SHAPES[name], Path(sys.argv[1]) / name)
