"""The tiles of a q8 matrix, packed by hand, and the bundled model's own file."""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))
import unpack
from model import Config, LanguageModel

MODEL = Path(__file__).parents[3] / "models" / "indic-qa-natural.sarit"


def packed(codes, scales):
    """codes [16,64] int8 and scales [16,2] as two tiles of the file."""
    head = b"".join(scales[:, g].astype("<f2").tobytes() for g in range(2))
    body = b"".join(codes[:, c:c + 4].tobytes() for c in range(0, 64, 4))
    return head + bytes(-len(head) % unpack.ALIGN) + body


def test_tiles():
    rng = np.random.default_rng(1)
    codes = rng.integers(-127, 128, (16, 64)).astype("i1")
    scales = rng.random((16, 2)).astype("f2")
    want = codes.astype("f4") * np.repeat(scales, 32, 1).astype("f4")
    assert (unpack.matrix(packed(codes, scales), unpack.Q8, 16, 64) == want).all()
    assert (unpack.matrix(packed(codes, scales), unpack.Q8, 13, 60) == want[:13, :60]).all()


def test_the_bundled_model():
    model = LanguageModel(Config())
    weights = unpack.weights(MODEL.read_bytes(), model)
    model.load_state_dict(weights)
    assert all(np.isfinite(w.numpy()).all() for w in weights.values())
