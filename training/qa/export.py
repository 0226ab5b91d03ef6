"""Checkpoint parts -> a Hugging Face folder (bfloat16), which `sarit convert` reads.

    python export.py --weights run/ckpt --out indic-qa-natural
"""
import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Mamba2Config

import checkpoint
from model import Config

HERE = Path(__file__).parent


def hf_config(cfg, dtype="float32"):
    return Mamba2Config(
        vocab_size=cfg.vocab, hidden_size=cfg.hidden, num_hidden_layers=cfg.layers, state_size=cfg.states,
        head_dim=cfg.head, num_heads=cfg.heads, n_groups=1, expand=cfg.expand, conv_kernel=cfg.kernel, chunk_size=64,
        layer_norm_epsilon=cfg.eps, use_bias=False, use_conv_bias=True, hidden_act="silu", rms_norm=True,
        residual_in_fp32=True, tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2, dtype=dtype,
        time_step_limit=(0.0, float("inf")))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--weights", required=True)
    p.add_argument("--tokenizer", default=str(HERE / "tokenizer.json"))
    p.add_argument("--layers", type=int, default=Config.layers)
    p.add_argument("--hidden", type=int, default=Config.hidden)
    p.add_argument("--out", required=True)
    args = p.parse_args()
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    weights = {k: v.to(torch.bfloat16).contiguous() for k, v in checkpoint.load_parts(args.weights).items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    config = hf_config(Config(layers=args.layers, hidden=args.hidden), "bfloat16")
    config.architectures = ["Mamba2ForCausalLM"]
    config.save_pretrained(out)
    shutil.copy(args.tokenizer, out / "tokenizer.json")
    for name, content in {
        "generation_config.json": dict(bos_token_id=1, eos_token_id=2, pad_token_id=0, do_sample=False, max_new_tokens=40),
        "tokenizer_config.json": dict(
            tokenizer_class="PreTrainedTokenizerFast", bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
            additional_special_tokens=["<ctx>", "<q>", "<a>"], clean_up_tokenization_spaces=False,
            model_max_length=1024, add_prefix_space=True),
    }.items():
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(out, sum(v.numel() for v in weights.values()), "parameters")


if __name__ == "__main__":
    main()
