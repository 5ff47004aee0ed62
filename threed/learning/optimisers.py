"""AdamW, or for small networks that are trained from scratch Muon; parameters with rates."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from threed.diffusion.models.half import bfloat16_pays

MOMENTUM = 0.95
BETAS = (0.9, 0.99)  # of AdamW
LEAST = 17  # rows and columns of a matrix that is worth it: taps and last layers are AdamW's
Params = Iterable[nn.Parameter] | Iterable[dict[str, Any]]
ROUNDS = 5
QUINTIC = (3.4445, -4.7750, 2.0315)  # takes singular values between 0 and 1 to about 1


def make_optimizer(
    named: Mapping[str, nn.Parameter],
    lr: float,
    *,
    rates: Mapping[str, float],
    muon: bool,
    beta2: float,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """Make Muon or AdamW over named parameters, in a group for each rate.

    rates: for names that begin so, how many times lr theirs is (the longest beginning counts); it
    stands as "rate" in their group. ValueError for a beginning that no name has.
    """
    groups: dict[str, list[nn.Parameter]] = {start: [] for start in ("", *rates)}
    for name, parameter in named.items():
        groups[max(filter(name.startswith, groups), key=len)].append(parameter)
    empty = [start for start, parameters in groups.items() if start and not parameters]
    if empty:
        raise ValueError(f"no parameter that is trained begins with {', '.join(empty)}")
    rated = ((params, rates.get(start, 1.0)) for start, params in groups.items() if params)
    parts: list[dict[str, Any]] = [{"params": params, "rate": rate, "lr": lr * rate}
                                   for params, rate in rated]  # fmt: skip
    if muon:
        return Muon(parts, lr, weight_decay=weight_decay)
    fused, betas = all(p.is_cuda for p in named.values()) or None, (0.9, beta2)
    return torch.optim.AdamW(parts, lr, betas=betas, weight_decay=weight_decay, fused=fused)


class Muon(torch.optim.Optimizer):
    """Steps whose matrices have all singular values near one (Jordan et al. 2024, Muon).

    The kernel of a convolution counts as a matrix [out, in·k·k]. A step is scaled as AdamW's
    usually are, 0.2 a weight (Liu et al. 2025, Muon is Scalable, section 2.2), so that one lr
    serves both: vectors, and matrices of fewer than LEAST rows or columns, are AdamW's. Weights
    decay by lr · weight_decay a step. params: parameters, or groups of them as torch has them.
    """

    def __init__(self, params: Params, lr: float, *, weight_decay: float = 0.01) -> None:
        every = list(params)
        alone = [p for p in every if isinstance(p, nn.Parameter)]
        given = [group for group in every if isinstance(group, dict)]
        if alone:
            given.append({"params": alone})
        groups = [part for group in given for part in _parted(group)]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

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
    """Even out the singular values of matrices [N, A, B] to about 0.7 to 1.2, in float32.

    A Newton-Schulz iteration: it needs products alone, and forgives the rounding of bfloat16. That
    is taken where it pays: a CPU that has no such products takes 67 times as long with it
    (python benchmarks/optimizers.py --products).
    """
    pays = bfloat16_pays(matrices.device)
    x = matrices.bfloat16() if pays else matrices.float()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    made: Tensor = (x.mT if tall else x).float()
    return made


def _parted(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the matrices of a group, and the rest of it, where there are any."""
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for p in group["params"]:
        parts[p.ndim > 1 and min(_flat(p).shape) >= LEAST].append(p)
    for muon, params in parts.items():
        if params:
            yield {**group, "params": params, "muon": muon}


def _flat(p: Tensor) -> Tensor:
    return p.reshape(len(p), -1)
