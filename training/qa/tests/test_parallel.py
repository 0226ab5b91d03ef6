"""Several processes that train one model."""
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
PROCESS = """
import torch
import parallel
parallel.join("cpu")
model = torch.nn.Linear(3, 2)
for n, p in enumerate(model.parameters()):
    p.grad = torch.full_like(p, 10.0 * n + parallel.rank())
parallel.average_gradients(model)
print([float(p.grad.min()) for p in model.parameters()] == [float(p.grad.max()) for p in model.parameters()] == [0.5, 10.5],
      parallel.clock(10, 0.0, 0.0) > 1e9, parallel.clock(11, 7.0, 0.0))
"""


def test_two_processes_get_the_mean_gradient_and_one_clock():
    places = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(20000 + os.getpid() % 20000), "WORLD_SIZE": "2"}
    processes = [subprocess.Popen([sys.executable, "-c", PROCESS], cwd=HERE, stdout=subprocess.PIPE, text=True,
                                  env={**os.environ, **places, "RANK": str(rank), "CUDA_VISIBLE_DEVICES": ""}) for rank in (0, 1)]
    assert [p.communicate(timeout=120)[0].split() for p in processes] == [["True", "True", "7.0"]] * 2
