"""A first set of weights from an earlier, smaller checkpoint with another tokenizer (here indic-qa-base).

Embeddings: a new token gets the mean of the old pieces of its text. Layers: the old ones in order, with copies in
between whose output projection is zero, so that the deeper model starts as the same function.
"""
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer


def old_pieces(piece, old):
    """Old token ids for the text of a new token."""
    hit = old.token_to_id(piece)
    if hit is not None:
        return [hit]
    ids = old.encode(piece.replace("▁", " ").lstrip(" "), add_special_tokens=False).ids
    return ids or [0]


def weights(model, folder, tokenizer):
    """The state dict for `model` from the Hugging Face folder of the smaller checkpoint."""
    old_tokenizer = Tokenizer.from_file(f"{folder}/tokenizer.json")
    old = {k: v.float() for k, v in load_file(f"{folder}/model.safetensors").items()}
    new = {k: v.clone() for k, v in model.state_dict().items()}
    table = old["backbone.embeddings.weight"]
    for piece, i in tokenizer.get_vocab().items():
        new["backbone.embeddings.weight"][i] = table[old_pieces(piece, old_tokenizer)].mean(0)
    new["backbone.norm_f.weight"] = old["backbone.norm_f.weight"]

    depth = 1 + max(int(k.split(".")[2]) for k in old if k.startswith("backbone.layers."))
    seen = set()
    for i in range(model.cfg.layers):
        source = i * depth // model.cfg.layers
        for name in [k for k in new if k.startswith(f"backbone.layers.{i}.")]:
            tail = name.split(".", 3)[3]
            new[name] = old[f"backbone.layers.{source}.{tail}"].clone()
            if source in seen and tail == "mixer.out_proj.weight":
                new[name] = torch.zeros_like(new[name])
        seen.add(source)
    return new
