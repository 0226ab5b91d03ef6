"""The random checkpoints as GGUF files, as llama.cpp's own converter lays them out, and quantized by llama.cpp itself."""
import json
import sys
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

NAMES = {
    "in_proj.weight": "ssm_in.weight",
    "conv1d.weight": "ssm_conv1d.weight",
    "conv1d.bias": "ssm_conv1d.bias",
    "x_proj.weight": "ssm_x.weight",
    "dt_proj.weight": "ssm_dt.weight",
    "dt_proj.bias": "ssm_dt.bias",
    "dt_bias": "ssm_dt.bias",
    "A_log": "ssm_a",
    "D": "ssm_d",
    "norm.weight": "ssm_norm.weight",
    "out_proj.weight": "ssm_out.weight",
}
# What is stored in the file's element type; all else is f32, as the converter has it.
MATRICES = {"ssm_in.weight", "ssm_x.weight", "ssm_dt.weight", "ssm_out.weight", "token_embd.weight"}


def write(checkpoint, path, weights):
    """Writes `checkpoint` (a Hugging Face folder) with matrices in `weights`: f32, f16, q8 (Q8_0) or q4 (Q4_0)."""
    path = Path(path)
    if weights in ("f32", "f16"):
        part = path.with_suffix(".part")
        _write_float(Path(checkpoint), part, np.dtype({"f32": "f4", "f16": "f2"}[weights]))
    else:
        whole = path.with_name(path.name.replace(f".{weights}.", ".f16."))
        if not whole.exists():
            write(checkpoint, whole, "f16")
        part = path.with_suffix(".part")
        _quantize(whole, part, weights)
    part.replace(path)


def tensors(config, checkpoint):
    """Yields llama.cpp's name and the array for each tensor of a checkpoint, given as name -> array."""
    yield "token_embd.weight", checkpoint["backbone.embeddings.weight"]
    yield "output_norm.weight", checkpoint["backbone.norm_f.weight"]
    mamba2 = config["model_type"] == "mamba2"
    for i in range(config["num_hidden_layers"]):
        layer = f"backbone.layers.{i}."
        yield f"blk.{i}.attn_norm.weight", checkpoint[f"{layer}norm.weight"]
        for theirs, ours in NAMES.items():
            tensor = checkpoint.get(f"{layer}mixer.{theirs}")
            if tensor is None:
                continue
            if theirs == "A_log":
                tensor = -np.exp(tensor.astype(np.float32))
            if theirs == "conv1d.weight":
                tensor = tensor.squeeze(1)
            if mamba2 and theirs in ("A_log", "D"):
                tensor = tensor[:, None]
            if theirs == "norm.weight":
                tensor = tensor.reshape(config["n_groups"], -1)
            yield f"blk.{i}.{ours}", tensor


def _write_float(checkpoint, path, dtype):
    config = json.loads((checkpoint / "config.json").read_text())
    writer = gguf.GGUFWriter(path, config["model_type"])
    inner = config["expand"] * config["hidden_size"]
    writer.add_context_length(2**20)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_ssm_conv_kernel(config["conv_kernel"])
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(config["state_size"])
    writer.add_layer_norm_rms_eps(config["layer_norm_epsilon"])
    if config["model_type"] == "mamba2":
        writer.add_ssm_time_step_rank(config["num_heads"])
        writer.add_ssm_group_count(config["n_groups"])
    else:
        writer.add_ssm_time_step_rank(config["time_step_rank"])
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(config["vocab_size"])
    for name, tensor in tensors(config, load_file(checkpoint / "model.safetensors")):
        matrix = name.split(".", 2)[-1] in MATRICES or name in MATRICES
        writer.add_tensor(name, np.ascontiguousarray(tensor, dtype if matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _quantize(source, path, weights):
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype = {"q4": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0, "q8": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0}[weights]
    # Without this the tied embedding becomes Q6_K, which Sarit's q4 would have to read 1.46 times the bytes for.
    params.pure = True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(path).encode(), params) != 0:
        raise RuntimeError(f"llama.cpp cannot quantize {source}")


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: gguf_files.py CHECKPOINT OUT.gguf f32|f16|q8|q4")
    write(*sys.argv[1:])
