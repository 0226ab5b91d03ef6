"""MOHAWK distillation (Bick et al. 2024): a Mamba-2 from a transformer of the same width and depth, in three stages.

    python train.py   --out teacher --seconds 500 --total 500 --mixer attention
    python distill.py --out student --seconds 500 --teacher teacher/ckpt

matrix   each layer's scan, as a matrix over positions, towards the teacher's attention weights
hidden   each layer's output towards the teacher's, on the teacher's inputs; starts with the teacher's weights wherever the
         two have the same part: embedding, norms, gate, values, output projection
output   the whole model's next-token distribution towards the teacher's, where the trainer counts a loss
"""
import argparse

import torch
import torch.nn.functional as F

import checkpoint
import parallel
import train
from batches import ANSWER, TEXT
from model import Config, LanguageModel
from norm import rms_norm

STAGES = ("matrix", "hidden", "output")
SHORT = 256     # positions of a row in the first stage: the matrices are [B,H,T,T]


def apart(ours, theirs):
    """Squared distance as a share of the teacher's square."""
    return (ours - theirs).square().sum() / theirs.square().sum()


def matrix_layer(ours, theirs, x, start, same1, same2, same3, chunk: int, dtype: torch.dtype):
    """(loss, next x) of one layer of student and teacher; x [B,T,d] is the teacher's."""
    same = (same1, same2, same3)
    with torch.no_grad():
        u = rms_norm(x, theirs.norm.weight, theirs.eps)
        target = theirs.mixer.matrix(u, start, same, dtype)
        x = x + theirs.mixer(u, start, same, chunk, dtype).float()
    return apart(ours.mixer.matrix(u, start, same, dtype), target), x


def hidden_layer(ours, theirs, x, start, same1, same2, same3, chunk: int, dtype: torch.dtype):
    """As `matrix_layer`."""
    same = (same1, same2, same3)
    with torch.no_grad():
        u = rms_norm(x, theirs.norm.weight, theirs.eps)
        target = theirs.mixer(u, start, same, chunk, dtype).float()
    return apart(ours.mixer(u, start, same, chunk, dtype).float(), target), x + target


def layers_loss(layer, student, teacher, ids, dtype, chunk=128):
    """Mean over the layers of `layer`'s loss; ids [B,T], T a multiple of `chunk`."""
    start, same = teacher.documents(ids)
    x, losses = teacher.embed(ids), []
    for ours, theirs in zip(student.backbone.layers, teacher.backbone.layers):
        loss, x = layer(ours, theirs, x, start, *same, chunk, dtype)
        losses.append(loss)
    return torch.stack(losses).mean()


def output_loss(student, teacher, ids, classes, text_weight, dtype, chunk=128):
    """Kullback-Leibler divergence from the teacher, mean over answers + text_weight * mean over text; both [B,T+1]."""
    def normed(model):
        return rms_norm(model.hidden(ids[:, :-1], chunk, dtype), model.backbone.norm_f.weight, model.cfg.eps)

    def spread(model, x):
        return F.linear(x.to(dtype), model.backbone.embeddings.weight.to(dtype)).float().log_softmax(-1)

    with torch.no_grad():
        target = normed(teacher)
    x, loss = normed(student), 0.0
    for kind, share in ((ANSWER, 1.0), (TEXT, text_weight)):
        at = classes[:, 1:] == kind
        with torch.no_grad():
            theirs = spread(teacher, target[at])
        divergence = F.kl_div(spread(student, x[at]), theirs, reduction="sum", log_target=True)
        loss = loss + share * divergence / at.sum().clamp(min=1)
    return loss


@torch.no_grad()
def transfer(student, teacher):
    """Gives the student every part that the teacher has as well; its values then pass the convolution unchanged."""
    for to, source in zip(student.backbone.layers, teacher.backbone.layers):
        inner = student.cfg.inner
        to.norm.weight.copy_(source.norm.weight)
        to.mixer.norm.weight.copy_(source.mixer.norm.weight)
        to.mixer.out_proj.weight.copy_(source.mixer.out_proj.weight)
        to.mixer.in_proj.weight[:2 * inner] = source.mixer.in_proj.weight[:2 * inner]
        to.mixer.conv1d.bias[:inner] = 0
        to.mixer.conv1d.weight[:inner] = torch.tensor([0.0, 0, 0, 1])
    student.backbone.embeddings.weight.copy_(teacher.backbone.embeddings.weight)
    student.backbone.norm_f.weight.copy_(teacher.backbone.norm_f.weight)


def trained(student, stage):
    """Marks the parameters that a stage trains: what makes the matrices, the mixers, everything."""
    for name, p in student.named_parameters():
        part = name.split("mixer.")[-1]
        p.requires_grad = {"matrix": "mixer." in name and part not in ("norm.weight", "out_proj.weight"),
                           "hidden": "mixer." in name, "output": True}[stage]


def arguments():
    p = train.parser(__doc__)
    p.add_argument("--teacher", required=True, help="stem of the checkpoint parts of a model trained with --mixer attention")
    p.add_argument("--shares", type=float, nargs=3, default=(0.1, 0.25, 0.65),
                   help="of the seconds and of the warm-up, for each stage; a stage with none is left out")
    p.set_defaults(warm=None, weights=None, resume=None, done=0.0)
    return p


def distill(args):
    """The trained student and what `train.run` says of all stages together."""
    student, state = train.create(args, "mamba2")
    teacher = LanguageModel(Config(layers=args.layers, hidden=args.hidden, mixer="attention"))
    teacher.load_state_dict(checkpoint.load_parts(args.teacher))
    teacher.to(args.device).requires_grad_(False)
    matrix, hidden = matrix_layer, hidden_layer
    if args.device != "cpu":
        teacher.compile()
        matrix, hidden = torch.compile(matrix, dynamic=False), torch.compile(hidden, dynamic=False)
    loss = {
        "matrix": lambda ids, classes, dtype: layers_loss(matrix, student, teacher, ids[:, :SHORT], dtype),
        "hidden": lambda ids, classes, dtype: layers_loss(hidden, student, teacher, ids[:, :-1], dtype),
        "output": lambda ids, classes, dtype: output_loss(student, teacher, ids, classes, args.text_weight, dtype),
    }
    totals, read = [], 0
    for stage, share in zip(STAGES, args.shares):
        if not share:
            continue
        if stage == "hidden":
            transfer(student, teacher)
        trained(student, stage)
        seconds = share * args.seconds
        own = dict(out=f"{args.out}/{stage}", seconds=seconds, total=seconds, warmup=args.warmup * share)
        options = argparse.Namespace(**{**vars(args), **own})

        def loss_of(ids, classes, dtype):
            value = loss[stage](ids, classes, dtype)
            return value, {f"{stage}_loss": value.detach()}

        totals.append(train.run(options, student, state, loss_of, read))
        read += totals[-1]["steps"]
    if parallel.rank() == 0:
        checkpoint.save_parts(student.state_dict(), f"{args.out}/ckpt")
    return student, {key: round(sum(t[key] for t in totals), 1) for key in totals[0]}


if __name__ == "__main__":
    distill(arguments().parse_args())
