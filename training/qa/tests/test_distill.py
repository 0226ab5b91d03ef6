"""Mixers as matrices, the transfer, and each stage of the distillation on a tiny model and task."""
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
import checkpoint
import distill
from batches import ANSWER, TEXT
from model import BOS, Config, LanguageModel, Mixer
from norm import rms_norm
from optim import optimizers

CHUNK = 16
TINY = dict(vocab=48, hidden=32, layers=2, states=16, head=16)


def models():
    torch.manual_seed(0)
    return LanguageModel(Config(**TINY)), LanguageModel(Config(**TINY, mixer="attention"))


def rows(count):
    """[count,33]: two documents of 8 random tokens and the same again, the second time as the answer."""
    half = torch.randint(6, 48, (count, 2, 7))
    document = torch.cat([torch.full((count, 2, 1), BOS), half, half], 2).flatten(1)
    ids = F.pad(document, (0, 33 - document.shape[1]))
    classes = torch.zeros_like(ids, dtype=torch.uint8)
    for at in (0, 15):
        classes[:, at + 1:at + 8], classes[:, at + 8:at + 15] = TEXT, ANSWER
    return ids, classes


def train(model, loss_of, steps):
    """The mean loss over the first and over the last five steps."""
    losses, optims = [], optimizers(model, 3e-3, "muon")
    for _ in range(steps):
        loss = loss_of(*rows(32))
        loss.backward()
        for o in optims:
            o.step()
        model.zero_grad(set_to_none=True)
        losses.append(loss.item())
    return sum(losses[:5]) / 5, sum(losses[-5:]) / 5


def gate_and_values(mixer, x, start, same):
    """Gate [B,T,D] and what the matrix mixes, [B,T,H,P]."""
    if isinstance(mixer, Mixer):
        return mixer.inputs(x, same, torch.float32)[:2]
    gate, values = mixer.inputs(x, start, torch.float32)[:2]
    return gate, values.transpose(1, 2)


@torch.no_grad()
def test_the_matrix_is_the_mixer():
    for model in models():
        start, same = model.documents(rows(3)[0][:, :32])
        mixer, x = model.backbone.layers[0].mixer, torch.randn(3, 32, 32)
        gate, values = gate_and_values(mixer, x, start, same)
        y = torch.einsum("bhij,bjhp->bihp", mixer.matrix(x, start, same, torch.float32), values).flatten(2)
        y = rms_norm(y * F.silu(gate), mixer.norm.weight, 1e-5) @ mixer.out_proj.weight.T
        assert (y - mixer(x, start, same, CHUNK, torch.float32)).abs().max() < 1e-5


@torch.no_grad()
def test_the_teacher_sees_neither_the_future_nor_another_document():
    teacher = models()[1]
    ids = rows(2)[0][:, :32]
    logits = teacher.logits(ids, CHUNK)
    changed = ids.clone()
    changed[:, 3] = 47 - changed[:, 3] + 6
    other = (teacher.logits(changed, CHUNK) - logits).abs().amax((0, 2))
    assert (other[3:15] > 0).all() and other[:3].max() == 0 and other[15:].max() == 0


@torch.no_grad()
def test_transfer_leaves_only_the_matrix_to_learn():
    student, teacher = models()
    distill.transfer(student, teacher)
    x, (start, same) = torch.randn(2, 32, 32), teacher.documents(rows(2)[0][:, :32])
    ours, theirs = (gate_and_values(m.backbone.layers[1].mixer, x, start, same) for m in (student, teacher))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs))


def test_each_stage_lowers_its_loss():
    student, teacher = models()
    first, last = train(teacher, lambda ids, classes: teacher.loss(ids, classes, 0.3, CHUNK, torch.float32)[0], 300)
    assert last < 0.6 * first, "the teacher has not learned"
    teacher.requires_grad_(False)
    layers = lambda layer, ids: distill.layers_loss(layer, student, teacher, ids[:, :-1], torch.float32, CHUNK)
    stages = {
        "matrix": lambda ids, _: layers(distill.matrix_layer, ids),
        "hidden": lambda ids, _: layers(distill.hidden_layer, ids),
        "output": lambda ids, classes: distill.output_loss(student, teacher, ids, classes, 0.3, torch.float32, CHUNK),
    }
    for stage, loss_of in stages.items():
        if stage == "hidden":
            distill.transfer(student, teacher)
        before = {n: p.clone() for n, p in student.named_parameters()}
        distill.trained(student, stage)
        first, last = train(student, loss_of, 100)
        print(f"{stage}: {first:.3f} -> {last:.3f}")
        assert last < 0.8 * first, stage
        assert all((p == before[n]).all() for n, p in student.named_parameters() if not p.requires_grad)


@pytest.mark.parametrize("rank", [0, 1])
def test_one_process_writes_the_student(rank, tmp_path, monkeypatch):
    shape = dict(layers=1, hidden=64)
    checkpoint.save_parts(LanguageModel(Config(**shape, mixer="attention")).state_dict(), tmp_path / "teacher")
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setattr(distill.train, "run", lambda *args: {"steps": 1})
    monkeypatch.setattr(sys, "argv", ["distill.py", "--out", str(tmp_path), "--seconds", "1", "--teacher", str(tmp_path / "teacher"),
                                      "--layers", "1", "--hidden", "64", "--device", "cpu"])
    assert distill.distill(distill.arguments().parse_args())[1] == {"steps": 3}
    assert (tmp_path / "ckpt-0.safetensors").exists() == (rank == 0)
