"""MOHAWK distillation (Bick et al. 2024): a Mamba-2 from a transformer of the same width and depth, in three stages.

    python train.py   --out teacher --seconds 500 --total 500 --mixer attention
    python distill.py --out d1 --stage matrix --teacher teacher/ckpt --seconds 60  --total 60
    python distill.py --out d2 --stage hidden --teacher teacher/ckpt --seconds 120 --total 120 --weights d1/ckpt
    python distill.py --out d3 --stage output --teacher teacher/ckpt --seconds 320 --total 320 --weights d2/ckpt

matrix   each layer's scan, as a matrix over positions, towards the teacher's attention weights
hidden   each layer's output towards the teacher's, on the teacher's inputs; starts with the teacher's weights wherever the
         two have the same part: embedding, norms, gate, values, output projection
output   the whole model's next-token distribution towards the teacher's, where the trainer counts a loss
"""
import torch
import torch.nn.functional as F

import checkpoint
import train
from batches import ANSWER, TEXT
from model import Config, LanguageModel
from norm import rms_norm

SHORT = 256     # positions of a row in the first stage: the matrices are [B,H,T,T]


@torch.no_grad()
def walk(teacher, ids, dtype, chunk):
    """The layers of the teacher on ids [B,T], T a multiple of `chunk`: (input [B,T,d], output [B,T,d], starts, masks)."""
    start, same = teacher.documents(ids)
    x = teacher.embed(ids)
    for layer in teacher.backbone.layers:
        u = rms_norm(x, layer.norm.weight, layer.eps)
        y = layer.mixer(u, start, same, chunk, dtype).float()
        yield u, y, start, same
        x = x + y


def apart(ours, theirs):
    """Squared distance as a share of the teacher's square."""
    return (ours - theirs).square().sum() / theirs.square().sum()


def matrix_loss(student, teacher, ids, dtype, chunk=128):
    losses, layers = [], zip(student.backbone.layers, teacher.backbone.layers)
    for (u, _, start, same), (ours, theirs) in zip(walk(teacher, ids[:, :SHORT], dtype, chunk), layers):
        with torch.no_grad():
            target = theirs.mixer.matrix(u, start, same, dtype)
        losses.append(apart(ours.mixer.matrix(u, start, same, dtype), target))
    return torch.stack(losses).mean()


def hidden_loss(student, teacher, ids, dtype, chunk=128):
    layers = zip(walk(teacher, ids, dtype, chunk), student.backbone.layers)
    losses = [apart(layer.mixer(u, start, same, chunk, dtype).float(), y) for (u, y, start, same), layer in layers]
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
        apart = F.kl_div(spread(student, x[at]), theirs, reduction="sum", log_target=True)
        loss = loss + share * apart / at.sum().clamp(min=1)
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


def main():
    p = train.parser(__doc__)
    p.add_argument("--stage", choices=("matrix", "hidden", "output"), required=True)
    p.add_argument("--teacher", required=True, help="stem of the checkpoint parts of a model trained with --mixer attention")
    args = p.parse_args()
    student, state = train.create(args, "mamba2")
    teacher = LanguageModel(Config(layers=args.layers, hidden=args.hidden, mixer="attention"))
    teacher.load_state_dict(checkpoint.load_parts(args.teacher))
    teacher.to(args.device).requires_grad_(False)
    if args.device == "cuda":
        teacher.compile()
    if args.stage == "hidden" and not args.resume:
        transfer(student, teacher)
    trained(student, args.stage)

    def loss_of(ids, classes, dtype):
        if args.stage == "output":
            loss = output_loss(student, teacher, ids, classes, args.text_weight, dtype)
        else:
            loss = {"matrix": matrix_loss, "hidden": hidden_loss}[args.stage](student, teacher, ids[:, :-1], dtype)
        return loss, {f"{args.stage}_loss": loss.detach()}

    train.run(args, student, state, loss_of)


if __name__ == "__main__":
    main()
