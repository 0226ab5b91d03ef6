"""The training forward against Hugging Face's Mamba2ForCausalLM in float32 on the CPU."""
import sys
from pathlib import Path

import torch
from transformers import Mamba2ForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))
from export import hf_config
from model import BOS, EOS, Config, LanguageModel, greedy, slots
from optim import orthogonal

SMALL = Config(vocab=512, hidden=128, layers=3, states=32, head=32)


def models():
    torch.manual_seed(0)
    ours = LanguageModel(SMALL)
    for p in ours.parameters():
        if p.ndim == 1:
            p.data += torch.randn_like(p) * 0.05
    theirs = Mamba2ForCausalLM(hf_config(SMALL)).eval()
    missing = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not missing.unexpected_keys and set(missing.missing_keys) <= {"lm_head.weight"}
    theirs.tie_weights()
    return ours, theirs


@torch.no_grad()
def test_same_logits():
    ours, theirs = models()
    ids = torch.randint(6, 512, (2, 201))
    ids[:, 0] = BOS
    assert (ours.logits(ids, chunk=64) - theirs(ids).logits).abs().max() < 2e-5


@torch.no_grad()
def test_a_packed_document_does_not_see_the_one_before():
    ours, theirs = models()
    ids = torch.randint(6, 512, (2, 200))
    ids[:, 0] = ids[:, 77] = BOS
    assert (ours.logits(ids, chunk=64)[:, 77:] - theirs(ids[:, 77:]).logits).abs().max() < 2e-5


@torch.no_grad()
def test_chunk_size_does_not_matter():
    ours, _ = models()
    ids = torch.randint(6, 512, (1, 256))
    assert (ours.logits(ids, chunk=32) - ours.logits(ids, chunk=128)).abs().max() < 2e-5


def test_slots_neither_overlap_nor_leave_their_row():
    sizes = [5, 9, 3, 10, 1, 1, 8, 2]
    groups = list(slots(sizes, 2, 10))
    assert [i for group in groups for i, _, _ in group] == list(range(len(sizes))) and len(groups) > 1
    for group in groups:
        taken = [(row, column + n) for i, row, column in group for n in range(sizes[i])]
        assert len(set(taken)) == len(taken) and all(row < 2 and column < 10 for row, column in taken)


@torch.no_grad()
def test_packed_prompts_are_answered_as_alone():
    ours, _ = models()
    prompts = [[BOS] + torch.randint(6, 512, (n,)).tolist() for n in (20, 90, 33, 7, 61)]
    for prompt, answer in zip(prompts, greedy(ours, prompts, max_new=8, batch=2, length=128)):
        ids = list(prompt)
        for _ in range(8):
            ids.append(int(ours.logits(torch.tensor([ids]))[0, -1].argmax()))
        alone = ids[len(prompt):]
        assert answer == (alone[:alone.index(EOS)] if EOS in alone else alone)


def test_orthogonal_update():
    values = torch.linalg.svdvals(orthogonal(torch.randn(3, 48, 16)).float())
    assert 0.5 < values.min() and values.max() < 1.5
