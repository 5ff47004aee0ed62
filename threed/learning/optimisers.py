"""The optimizer of small networks that are trained from scratch: Muon, and AdamW for the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
BETAS = (0.9, 0.99)  # of AdamW
LEAST = 17  # rows and columns of a matrix that is worth it: taps and last layers are AdamW's
ROUNDS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # takes singular values between 0 and 1 to about 1


class Muon(torch.optim.Optimizer):
    """Steps whose matrices have all singular values near one (Jordan et al. 2024, Muon).

    The kernel of a convolution counts as a matrix [out, in·k·k]. A step is scaled as AdamW's
    usually are, 0.2 a weight (Liu et al. 2025, Muon is Scalable, section 2.2), so that one lr
    serves both: vectors, and matrices of fewer than LEAST rows or columns, are AdamW's. Weights
    decay by lr · weight_decay a step.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, *, weight_decay: float = 0.01
    ) -> None:
        every = list(params)
        matrices = [p for p in every if p.ndim > 1 and min(_flat(p).shape) >= LEAST]
        taken = {id(p) for p in matrices}
        rest = [p for p in every if id(p) not in taken]
        groups = [{"params": matrices, "muon": True}, {"params": rest, "muon": False}]
        super().__init__(
            [group for group in groups if group["params"]],
            {"lr": lr, "weight_decay": weight_decay},
        )

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Change every parameter that has a gradient."""
        if closure is not None:
            raise NotImplementedError("Muon evaluates no closure: call backward before step")
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if not params:
                continue
            torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
            (self._orthogonal if group["muon"] else self._adam)(params, group["lr"])

    def _orthogonal(self, params: list[nn.Parameter], lr: float) -> None:
        alike: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
        for p in params:
            assert p.grad is not None
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            mean = state["momentum"].lerp_(p.grad, 1 - MOMENTUM)
            wanted = _flat(p.grad.lerp(mean, MOMENTUM))
            alike.setdefault(wanted.shape, []).append((p, wanted))
        for shape, found in alike.items():
            steps = orthogonal(torch.stack([wanted for _, wanted in found]))
            for (p, _), step in zip(found, steps * (0.2 * math.sqrt(max(shape)))):
                p.add_(step.view(p.shape), alpha=-lr)

    def _adam(self, params: list[nn.Parameter], lr: float) -> None:
        for p in params:
            state, grad = self.state[p], p.grad
            assert grad is not None
            if not state:
                state["mean"], state["square"] = torch.zeros_like(p), torch.zeros_like(p)
                state["step"] = torch.zeros((), device=p.device)
            state["step"] += 1
            first, second = (1 - torch.pow(beta, state["step"]) for beta in BETAS)
            state["mean"].lerp_(grad, 1 - BETAS[0])
            state["square"].lerp_(grad.square(), 1 - BETAS[1])
            step = state["mean"] / first / ((state["square"] / second).sqrt() + 1e-8)
            p.add_(step, alpha=-lr)


def orthogonal(matrices: Tensor) -> Tensor:
    """[N, A, B] -> the same singular vectors with values between about 0.7 and 1.2, float32.

    A Newton-Schulz iteration in bfloat16: it needs products alone, and forgives their rounding.
    """
    x = matrices.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return (x.mT if tall else x).float()


def _flat(p: Tensor) -> Tensor:
    return p.reshape(len(p), -1)
