"""A model file of this folder, in f32 or q8, back to checkpoint parts to go on from.

    python unpack.py ../../models/indic-qa-natural.sarit --out bundled/ckpt

The weights are those that the file holds, as rounded by the quantization. The bytes of the file are described in
core/src/format.rs and core/src/tensor.rs.
"""
import argparse
import struct
from pathlib import Path

import numpy as np
import torch

import checkpoint
from model import Config, LanguageModel

TENSORS = 2                        # kind of section
F32, Q8 = 0, 2                     # element types
TILE_ROWS, GROUP, ALIGN = 16, 32, 64


def up(n, multiple):
    return -(-n // multiple) * multiple


def matrix(data, dtype, rows, cols):
    """float32 [rows,cols]"""
    if dtype == F32:
        return np.frombuffer(data, "<f4").reshape(rows, cols)
    assert dtype == Q8, f"element type {dtype}"
    tiles, groups = up(rows, TILE_ROWS) // TILE_ROWS, up(cols, GROUP) // GROUP
    scales = np.frombuffer(data, "<f2", tiles * groups * TILE_ROWS).reshape(tiles, groups, TILE_ROWS)
    codes = np.frombuffer(data, "i1", offset=up(scales.nbytes, ALIGN)).reshape(tiles, groups, GROUP // 4, TILE_ROWS, 4)
    codes = codes.transpose(0, 3, 1, 2, 4).reshape(tiles, TILE_ROWS, groups, GROUP)
    values = codes * scales.transpose(0, 2, 1)[..., None].astype("f4")
    return values.reshape(tiles * TILE_ROWS, groups * GROUP)[:rows, :cols]


def tensors(file):
    """{name: float32 [rows,cols]} of the bytes of a .sarit file."""
    assert file[:8] == b"\x89SARIT\r\n", "not a .sarit file"
    sections = [struct.unpack_from("<IIQQ", file, 64 + 24 * i) for i in range(struct.unpack_from("<I", file, 20)[0])]
    start = next(offset for kind, _, offset, _ in sections if kind == TENSORS)
    count, = struct.unpack_from("<I", file, start)
    names, out = start + 8 + 40 * count, {}
    for i in range(count):
        offset, size, name, length, dtype, rows, cols, _ = struct.unpack_from("<QQIIIIII", file, start + 8 + 40 * i)
        text = file[names + name:names + name + length].decode()
        out[text] = matrix(file[offset:offset + size], dtype, rows, cols)
    return out


def weights(file, model):
    """The state dict for `model`: the file stores the decay rates, taps and skips ready to use."""
    held, out = tensors(file), {}
    for name, own in model.state_dict().items():
        value = held[name]
        if name.endswith("A_log"):
            value = np.log(-value)
        elif name.endswith("conv1d.weight"):
            value = value.T
        elif name.endswith("mixer.D"):
            value = value.reshape(-1, model.cfg.head)[:, 0]
        out[name] = torch.from_numpy(value.copy()).reshape(own.shape)
    return out


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("file")
    p.add_argument("--layers", type=int, default=Config.layers)
    p.add_argument("--hidden", type=int, default=Config.hidden)
    p.add_argument("--out", required=True, help="stem of the parts to write")
    args = p.parse_args()
    model = LanguageModel(Config(layers=args.layers, hidden=args.hidden))
    model.load_state_dict(weights(Path(args.file).read_bytes(), model))
    Path(args.out).parent.mkdir(parents=True, exist_ok=True)
    checkpoint.save_parts(model.state_dict(), args.out)


if __name__ == "__main__":
    main()
