#!/usr/bin/env python3
"""Makes the files of this folder: small random models as llama.cpp's own converter writes them to GGUF.

  make LLAMA_CPP OUT   Hugging Face checkpoints under OUT/hf, and OUT/*.gguf from them (needs torch, transformers
                       and the source of llama.cpp: its conversion/ and gguf-py/)
  run OUT              OUT/tokens.json: the greedy tokens of llama.cpp for OUT/*.gguf; OUT/blocks.gguf: a tensor of
                       every type of elements, and OUT/blocks.f32: the numbers that gguf's own dequantize gives for
                       them, one tensor after the other; OUT/spm.gguf: a SentencePiece tokenizer as the converter
                       writes it, and OUT/spm.json: the ids that sentencepiece gives for the first 100 lines of lines.txt
                       (needs llama-cpp-python, gguf and sentencepiece)

What the converter does not do by itself is done here, in the open: it knows only the tokenizers of published models,
wants the layer names of older transformers, and takes a Nemotron-H that mentions experts to have some.
"""
import json, pathlib, shutil, sys

# Chosen for a wide gap between the best two tokens: llama.cpp rounds activations to F16 where weights are.
SEEDS = {"mamba": 25, "falcon-mamba": 23, "mamba2": 24, "falcon-h1": 25, "granite-dense": 23, "granite-experts": 22,
         "jamba": 20, "nemotron-h": 24, "lfm2": 21}
TEXT = pathlib.Path(__file__).parent / "lines.txt"
# The vocabulary is longer than the tokenizer: the converter fills it with [PAD…] tokens.
VOCAB, TOKENS = 400, 393
HEADS = dict(num_attention_heads=4, num_key_value_heads=2)
SSM = dict(mamba_n_heads=8, mamba_d_head=16, mamba_n_groups=2, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2,
           mamba_chunk_size=16)
MODELS = {
    "mamba": dict(model_type="mamba", hidden_size=64, state_size=16, num_hidden_layers=2, expand=2, conv_kernel=4,
                  time_step_rank=4),
    "falcon-mamba": dict(model_type="falcon_mamba", hidden_size=64, state_size=16, num_hidden_layers=2, expand=2,
                         conv_kernel=4, time_step_rank=4, mixer_rms_eps=1e-5, tie_word_embeddings=False),
    "mamba2": dict(model_type="mamba2", hidden_size=64, state_size=16, num_hidden_layers=2, expand=2, head_dim=16,
                   num_heads=8, n_groups=2, conv_kernel=4, chunk_size=16, tie_word_embeddings=False),
    "falcon-h1": dict(model_type="falcon_h1", hidden_size=64, intermediate_size=96, num_hidden_layers=2, **HEADS,
                      **SSM, head_dim=16, mamba_d_ssm=128, mamba_rms_norm=True, mamba_norm_before_gate=False,
                      embedding_multiplier=1.7, lm_head_multiplier=0.6, key_multiplier=0.8,
                      attention_out_multiplier=0.9, attention_in_multiplier=1.1, ssm_in_multiplier=1.2,
                      ssm_out_multiplier=0.7, mlp_multipliers=[0.9, 0.6], ssm_multipliers=[0.5, 0.6, 0.7, 0.8, 0.9],
                      rope_theta=50000.0),
    "granite-dense": dict(model_type="granitemoehybrid", hidden_size=64, intermediate_size=96,
                          shared_intermediate_size=96, num_hidden_layers=3,
                          layer_types=["mamba", "attention", "mamba"], **HEADS, **SSM, num_local_experts=0,
                          num_experts_per_tok=0, position_embedding_type="nope", embedding_multiplier=2.0,
                          logits_scaling=1.5, residual_multiplier=0.5, attention_multiplier=0.2,
                          tie_word_embeddings=True),
    "granite-experts": dict(model_type="granitemoehybrid", hidden_size=64, intermediate_size=32,
                            shared_intermediate_size=64, num_hidden_layers=2, layer_types=["mamba", "attention"],
                            **HEADS, **SSM, num_local_experts=4, num_experts_per_tok=2,
                            position_embedding_type="nope", embedding_multiplier=2.0, logits_scaling=1.5,
                            residual_multiplier=0.5, attention_multiplier=0.2, tie_word_embeddings=True),
    "jamba": dict(model_type="jamba", hidden_size=64, intermediate_size=32, num_hidden_layers=3, **HEADS,
                  attn_layer_period=3, attn_layer_offset=1, expert_layer_period=2, expert_layer_offset=0,
                  num_experts=4, num_experts_per_tok=2, mamba_d_state=16, mamba_d_conv=4, mamba_expand=2,
                  mamba_dt_rank=4, use_mamba_kernels=False),
    "nemotron-h": dict(model_type="nemotron_h", hidden_size=64, intermediate_size=96,
                       hybrid_override_pattern="M-M*-", num_hidden_layers=5,
                       layers_block_type=["mamba", "mlp", "mamba", "attention", "mlp"], **HEADS, head_dim=24,
                       attention_head_dim=24, mamba_num_heads=8, mamba_head_dim=16, n_groups=2, ssm_state_size=16,
                       conv_kernel=4, expand=2, chunk_size=16, use_mamba_kernels=False),
    "lfm2": dict(model_type="lfm2", hidden_size=64, intermediate_size=96, num_hidden_layers=3, **HEADS,
                 layer_types=["conv", "full_attention", "conv"], conv_L_cache=3, block_auto_adjust_ff_dim=False),
}
TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


def rough_init(model, torch, seed):
    """Weights large enough that every term matters, and rows of the head far enough apart for clear choices."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            r = torch.randn(p.shape, generator=g)
            if name.endswith("A_log"):
                p.copy_(torch.log(torch.rand(p.shape, generator=g) * 6 + 0.2))
            elif "dt_bias" in name or name.endswith("dt_proj.bias"):
                p.copy_(-2.0 + r)
            elif name.endswith(".D") or "norm" in name:
                p.copy_(1.0 + 0.3 * r)
            elif p.dim() == 1:
                p.copy_(0.2 * r)
            elif "embed" in name:
                # A tied embedding must not make every token its own successor.
                p.copy_((0.1 if model.config.tie_word_embeddings else 0.5) * r)
            elif "conv" in name:
                p.copy_(0.5 * r)
            else:
                p.copy_(r / p.shape[-1] ** 0.5)
            # Exactly what an F16 file can hold, so that all agree on the weights.
            if p.dim() >= 2 and not name.endswith("A_log"):
                p.copy_(p.half().float())
    model.tie_weights()


def byte_level_tokenizer(folder):
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [AddedToken(t, special=True, normalized=False) for t in ("<|end|>", "<|user|>", "<|assistant|>")]
    trainer = trainers.BpeTrainer(vocab_size=TOKENS - 2, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train([str(TEXT)], trainer)
    tokenizer.add_tokens([AddedToken("    ", normalized=True), AddedToken("<tab>", normalized=True)])
    save_tokenizer(tokenizer, folder, "<|end|>", "<|end|>")


def save_tokenizer(tokenizer, folder, bos, eos):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = dict(tokenizer_class="PreTrainedTokenizerFast", bos_token=bos, eos_token=eos, add_bos_token=False,
                  chat_template=TEMPLATE)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def make(llama_cpp, out):
    import torch, transformers
    from transformers import AutoConfig, AutoModelForCausalLM
    sys.path[:0] = [llama_cpp, f"{llama_cpp}/gguf-py"]
    import gguf
    from conversion import ModelBase, TextModel, get_model_architecture, get_model_class, ModelType
    TextModel.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
    ModelBase.load_hparams = staticmethod(lambda folder, *_, **__: json.loads((folder / "config.json").read_text()))
    get_model_class("JambaForCausalLM").set_vocab = TextModel._set_vocab_gpt2
    for name, options in MODELS.items():
        seed = SEEDS[name]
        folder = out / "hf" / name
        shutil.rmtree(folder, ignore_errors=True)
        config = AutoConfig.for_model(vocab_size=VOCAB, bos_token_id=0, eos_token_id=0, pad_token_id=0, **options)
        config._attn_implementation = "eager"
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        rough_init(model, torch, seed)
        model.save_pretrained(folder)
        byte_level_tokenizer(folder)

        hparams = json.loads((folder / "config.json").read_text())
        saved = dict(hparams)
        for key in ("layer_types", "layers_block_type"):
            if isinstance(hparams.get(key), list):
                old = {"linear_attention": "mamba", "full_attention": "attention"}
                hparams[key] = hparams[key] if name == "lfm2" else [old.get(k, k) for k in hparams[key]]
        if name == "nemotron-h":
            hparams = {k: v for k, v in hparams.items() if k not in
                       ("num_experts_per_tok", "layers_block_type", "n_routed_experts", "n_group", "topk_group")}
            hparams["hybrid_override_pattern"] = options["hybrid_override_pattern"]
            hparams["num_hidden_layers"] = options["num_hidden_layers"]
        (folder / "config.json").write_text(json.dumps(hparams))
        with torch.inference_mode():
            arch = get_model_architecture(ModelBase.load_hparams(folder, False), ModelType.TEXT)
            get_model_class(arch)(folder, gguf.LlamaFileType.MOSTLY_F16, out / f"{name}.gguf",
                                  model_name=name).write()
        (folder / "config.json").write_text(json.dumps(saved))
    shutil.copy(folder / "tokenizer.json", out)


PROMPT = [5, 17, 301, 42, 99, 3, 250, 11]
STEPS = 64


def greedy(path):
    """Greedy tokens, and the smallest gap between the best two logits in standard deviations of all."""
    import llama_cpp, numpy
    model = llama_cpp.Llama(str(path), n_ctx=512, n_threads=1, n_gpu_layers=0, logits_all=True, verbose=False,
                            type_k=0, type_v=0, flash_attn=False)
    model.eval(PROMPT)
    tokens, gap = [], numpy.inf
    for _ in range(STEPS):
        logits = model.scores[model.n_tokens - 1]
        second, best = numpy.sort(logits)[-2:]
        gap = min(gap, (best - second) / logits.std())
        tokens.append(int(logits.argmax()))
        model.eval([tokens[-1]])
    return tokens, float(gap)


def blocks(out):
    import gguf, numpy
    from gguf.quants import dequantize, quantize
    rng = numpy.random.default_rng(7)
    # A model with one layer that nothing runs: what matters is how its tensors are read.
    writer = gguf.GGUFWriter(out / "blocks.gguf", "mamba")
    for key in ("block_count", "embedding_length"):
        getattr(writer, f"add_{key}")(1)
    writer.add_layer_norm_rms_eps(1e-5)
    numbers = []
    q = gguf.GGMLQuantizationType
    for kind in (q.F32, q.F16, q.BF16, q.F64, q.Q4_0, q.Q4_1, q.Q5_0, q.Q5_1, q.Q8_0, q.Q4_K, q.Q5_K, q.Q6_K):
        elements, size = gguf.GGML_QUANT_SIZES[kind]
        rows, cols = 2, 512
        if kind == q.F64:
            data = rng.standard_normal((rows, cols))
            truth = data.astype(numpy.float32)
        elif kind in (q.F32, q.F16, q.BF16):
            data = quantize(rng.standard_normal((rows, cols)).astype(numpy.float32), kind)
            truth = dequantize(data, kind)
        else:
            # Any bytes are codes; only the scales must be finite.
            data = rng.integers(0, 256, (rows, cols // elements, size), dtype=numpy.uint8)
            at = {q.Q6_K: [208]}.get(kind, [0, 2] if kind in (q.Q4_1, q.Q5_1, q.Q4_K, q.Q5_K) else [0])
            for i in at:
                scales = rng.standard_normal((rows, cols // elements)).astype(numpy.float16)
                data[:, :, i:i + 2] = scales.view(numpy.uint8).reshape(rows, -1, 2)
            data = data.reshape(rows, -1)
            truth = dequantize(data, kind)
        writer.add_tensor(f"{kind.name}.weight", data, raw_dtype=kind)
        numbers.append(truth.astype(numpy.float32).tobytes())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (out / "blocks.f32").write_bytes(b"".join(numbers))


def sentence_piece(out):
    import gguf, io, numpy, sentencepiece
    model = io.BytesIO()
    lines = TEXT.read_text(encoding="utf-8").split("\n")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=900, model_type="bpe", byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False,
        split_digits=True, minloglevel=2)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(pieces.vocab_size())
    t = gguf.TokenType
    kind = lambda i: (t.UNKNOWN if pieces.IsUnknown(i) else t.CONTROL if pieces.IsControl(i) else
                      t.BYTE if pieces.IsByte(i) else t.NORMAL)
    writer = gguf.GGUFWriter(out / "spm.gguf", "jamba")
    writer.add_block_count(1)
    writer.add_embedding_length(1)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    # Two more, as the converter pads.
    writer.add_token_list([pieces.IdToPiece(i).encode() for i in ids] + [b"[PAD900]", b"[PAD901]"])
    writer.add_token_scores([pieces.GetScore(i) for i in ids] + [-10000.0] * 2)
    writer.add_token_types([kind(i) for i in ids] + [t.UNUSED] * 2)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_tensor("token_embd.weight", numpy.zeros((902, 1), dtype=numpy.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (out / "spm.json").write_text(json.dumps([pieces.EncodeAsIds(line, add_bos=True) for line in lines[:100]]))


def run(out):
    import importlib.metadata as versions
    models = {}
    for path in sorted(out.glob("*.gguf")):
        if path.stem in MODELS:
            tokens, gap = greedy(path)
            models[path.stem] = dict(smallest_gap=round(gap, 4), tokens=tokens)
            print(path.stem, gap, len(set(tokens)))
    made = {name: versions.version(name) for name in ("llama-cpp-python", "gguf", "sentencepiece", "numpy")}
    (out / "tokens.json").write_text(json.dumps(dict(versions=made, prompt=PROMPT, models=models)))
    blocks(out)
    sentence_piece(out)


def main():
    command, *arguments = sys.argv[1:]
    if command == "make":
        make(arguments[0], pathlib.Path(arguments[1]))
    else:
        run(pathlib.Path(arguments[0]))


if __name__ == "__main__":
    main()
