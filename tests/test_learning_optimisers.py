"""Muon: its steps, against torch's own for matrices and for vectors, and what it is for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from threed.learning.optimisers import LEAST, Muon, make_optimizer, orthogonal


@pytest.mark.parametrize("shape", [(40, 100), (100, 40), (64, 64)])
def test_a_step_keeps_directions_and_evens_their_sizes(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape)
    u, s, v = torch.linalg.svd(matrices, full_matrices=False)
    made = orthogonal(matrices)
    # in the basis of the singular vectors only the diagonal is left
    inside = u.mT @ made @ v.mT
    sizes = torch.diagonal(inside, dim1=-2, dim2=-1)
    assert float((inside - torch.diag_embed(sizes)).abs().max()) < 0.05
    large = s > 0.05 * s.max()  # what is nearly zero is not brought up in five rounds
    assert 0.6 < float(sizes[large].min()) < float(sizes[large].max()) < 1.3


def stepped(kind: type, p: Tensor, grads: list[Tensor], **options: object) -> Tensor:
    parameter = nn.Parameter(p.clone())
    optimizer = kind([parameter], lr=0.01, weight_decay=0.1, **options)
    for grad in grads:
        parameter.grad = grad.clone()
        optimizer.step()
    return parameter.detach()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch 2.9 has it first")
@pytest.mark.parametrize("shape", [(LEAST, 60), (80, LEAST)])
def test_matrices_are_stepped_as_torch_does(shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    p, grads = torch.randn(shape), [torch.randn(shape) for _ in range(4)]
    ours = stepped(Muon, p, grads)
    theirs = stepped(torch.optim.Muon, p, grads, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    assert float((theirs - p).abs().mean()) > 0.003
    assert float((ours - theirs).norm() / (theirs - p).norm()) < 0.03  # bfloat16's rounding


@pytest.mark.parametrize("shape", [(50,), (LEAST - 1, 60), (60, LEAST - 1)])
def test_the_rest_is_stepped_by_adamw(shape: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    p, grads = torch.randn(shape), [torch.randn(shape) for _ in range(4)]
    theirs = stepped(torch.optim.AdamW, p, grads, betas=(0.9, 0.99))
    torch.testing.assert_close(stepped(Muon, p, grads), theirs, atol=1e-6, rtol=1e-5)


def test_kernels_count_as_matrices_and_empty_gradients_are_passed_over() -> None:
    torch.manual_seed(3)
    kernel, grad = torch.randn(32, 8, 3, 3), torch.randn(32, 8, 3, 3)
    flat = stepped(Muon, kernel.flatten(1), [grad.flatten(1)])
    assert torch.equal(stepped(Muon, kernel, [grad]), flat.view_as(kernel))
    layers = nn.Linear(20, 20)
    before = layers.weight.detach().clone()
    optimizer = Muon(layers.parameters(), 0.01)
    layers.bias.grad = torch.ones(20)
    optimizer.step()
    assert torch.equal(layers.weight, before)
    with pytest.raises(NotImplementedError, match="Muon evaluates no closure"):
        optimizer.step(lambda: 0.0)


def learned(kind: type, steps: int, stop: int | None = None) -> float:
    """How far a deep linear net is from its target, where its pictures seldom show a direction.

    With `stop`, cut there and continued from the optimizer's state.
    """
    torch.manual_seed(4)
    turn, target = (torch.linalg.qr(torch.randn(32, 32))[0] for _ in range(2))
    x = torch.randn(256, 32) * torch.logspace(0, -1.5, 32) @ turn
    net = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 32))
    optimizer = kind(net.parameters(), lr=3e-3)
    for step in range(steps):
        if step == stop:
            state = optimizer.state_dict()
            optimizer = kind(net.parameters(), lr=3e-3)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        (net(x) - x @ target).square().mean().backward()
        optimizer.step()
    even = torch.randn(256, 32)
    return float((net(even) - even @ target).square().mean().detach())


def test_rare_directions_are_learned_sooner_than_by_adamw() -> None:
    ours, theirs, before = learned(Muon, 400), learned(torch.optim.AdamW, 400), learned(Muon, 0)
    assert ours < 0.1 * theirs < 0.1 * before


def test_a_cut_changes_nothing() -> None:
    assert learned(Muon, 60, stop=20) == learned(Muon, 60)


@pytest.mark.parametrize("muon", [False, True])
def test_parameters_are_grouped_by_the_longest_beginning(muon: bool) -> None:
    torch.manual_seed(5)
    names = {"unet.a": (40, 20), "unet.attention.b": (40, 20), "text.c": (7,), "d": (20, 30)}
    start = {name: torch.randn(shape) for name, shape in names.items()}
    grads = {name: torch.randn(shape) for name, shape in names.items()}
    rates = {"unet.": 0.5, "unet.attention.": 0.25, "text.": 2.0}

    def stepped(named: list[str], lr: float, rates: dict[str, float]) -> dict[str, Tensor]:
        own = {name: nn.Parameter(start[name].clone()) for name in named}
        optimizer = make_optimizer(own, lr, rates=rates, muon=muon, beta2=0.99, weight_decay=0.1)
        for name, p in own.items():
            p.grad = grads[name].clone()
        optimizer.step()
        return {name: p.detach() for name, p in own.items()}

    together = stepped(list(names), 0.01, rates)
    for name, rate in zip(names, (0.5, 0.25, 2.0, 1.0)):
        alone = stepped([name], 0.01 * rate, {})
        assert torch.equal(together[name], alone[name])
