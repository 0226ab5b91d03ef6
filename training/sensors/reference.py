"""The frame classifier as a float64 step in numpy, written from the equations: what tests and golden files compare with.

    dt = interval * softplus(dt_proj(dt_low));  h = exp(dt A) h + (dt x) B;  y = C h + D x;  out = out_proj(y * silu(z))
"""
import numpy as np


def silu(x):
    return x / (1 + np.exp(-x))


def rms(x, weight, eps):
    return weight * x / np.sqrt(np.mean(x * x) + eps)


class Stepper:
    """A stream over checkpoint tensors {name: array} and their config (see README.md)."""

    def __init__(self, config, tensors):
        self.config = config
        self.w = {name: np.asarray(t, np.float64) for name, t in tensors.items()}
        inner = config["hidden_size"] * config["expand"]
        layers = range(config["num_hidden_layers"])
        self.window = [np.zeros((config["conv_kernel"], inner)) for _ in layers]
        self.h = [np.zeros((inner, config["state_size"])) for _ in layers]
        self.frames, self.sum = 0, np.zeros(config["hidden_size"])

    def mamba(self, i, u, interval):
        w = {k.removeprefix(f"layers.{i}.mamba."): v for k, v in self.w.items() if k.startswith(f"layers.{i}.mamba.")}
        x, z = np.split(w["in_proj.weight"] @ u, 2)
        window = self.window[i] = np.vstack([self.window[i][1:], x])
        x = silu((window * w["conv1d.weight"][:, 0].T).sum(0) + w["conv1d.bias"])
        rank, states = self.config["time_step_rank"], self.config["state_size"]
        low, b, c = np.split(w["x_proj.weight"] @ x, [rank, rank + states])
        dt = interval * np.log1p(np.exp(w["dt_proj.weight"] @ low + w["dt_proj.bias"]))
        self.h[i] = np.exp(dt[:, None] * -np.exp(w["A_log"])) * self.h[i] + (dt * x)[:, None] * b
        y = self.h[i] @ c + w["D"] * x
        return w["out_proj.weight"] @ (y * silu(z))

    def step(self, frame, interval=1.0):
        """Logits after one more frame."""
        w, eps = self.w, self.config["norm_eps"]
        r = w["linear_in.weight"] @ np.asarray(frame, np.float64) + w["linear_in.bias"]
        for i in range(self.config["num_hidden_layers"]):
            r = r + self.mamba(i, rms(r, w[f"layers.{i}.norm.weight"], eps), interval)
        u = rms(r, w["norm.weight"], eps)
        self.frames += 1
        self.sum += u
        pooled = self.sum / self.frames if self.config["pool"] == "mean" else u
        return w["classifier.weight"] @ pooled + w["classifier.bias"]
