"""Training in bfloat16: what is computed in which precision."""

from __future__ import annotations

import torch
from torch import nn

from threed.diffusion.models.half import bfloat16_pays, norms_in_float32
from threed.diffusion.parts.attention import plain


def test_group_norms_compute_in_float32_under_autocast_only() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8))
    norms_in_float32(net)
    norms_in_float32(net)  # once is enough
    assert len(net[1]._forward_pre_hooks) == 1
    x = torch.randn(2, 3, 4, 4)
    exact = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        inside = net[0](x)
        made = net(x)
    assert inside.dtype == torch.bfloat16
    assert made.dtype == torch.float32
    assert torch.equal(made, net[1](inside.float()))
    assert 0 < float((made - exact).detach().abs().max()) < 0.1
    halved = nn.GroupNorm(2, 8).bfloat16()
    norms_in_float32(halved)
    assert halved(inside.detach()).dtype == torch.bfloat16  # weights in half, no autocast


def test_attention_in_bfloat16_gives_what_it_gives_in_float32() -> None:
    torch.manual_seed(0)
    exact = [torch.randn(2, 9, 16, requires_grad=True) for _ in range(3)]
    rough = [x.detach().bfloat16().requires_grad_() for x in exact]
    outs = [plain(2)(*three) for three in (exact, rough)]
    assert outs[1].dtype == torch.bfloat16
    for out in outs:
        out.float().square().sum().backward()
    assert torch.allclose(outs[0], outs[1].float(), atol=0.03)
    for one, other in zip(exact, rough):
        assert one.grad is not None
        assert other.grad is not None
        assert torch.allclose(one.grad, other.grad.float(), atol=0.1)


def test_which_devices_gain() -> None:
    assert bfloat16_pays(torch.device("cuda"))
    assert not bfloat16_pays(torch.device("mps"))
    assert isinstance(bfloat16_pays(torch.device("cpu")), bool)
