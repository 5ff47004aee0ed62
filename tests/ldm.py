"""Latent diffusion's multi-view UNet written out plainly, from the papers and tensor names alone.

Weights are a dictionary by the names of the published checkpoints; no module is shared with the
package. Attention over the views is one matrix over all their pixels (MVDream, arXiv:2308.16512).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class Shape:
    """A UNet of two resolutions, with attention at the finer one and in the middle."""

    channels: int = 32  # a multiple of 32: the groups of every group norm
    context: int = 32
    heads: tuple[int, int] = (4, 8)
    linear: bool = True  # projections around attention: linear maps (2.1) or 1x1 convolutions (1.5)
    layers: int = 1


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, w[f"{name}.weight"], w.get(f"{name}.bias"))


def conv(w: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    kernel = w[f"{name}.weight"]
    return F.conv2d(x, kernel, w[f"{name}.bias"], stride=stride, padding=kernel.shape[-1] // 2)


def norm(w: Weights, name: str, x: Tensor, eps: float) -> Tensor:
    return F.group_norm(x, 32, w[f"{name}.weight"], w[f"{name}.bias"], eps)


def resnet(w: Weights, name: str, x: Tensor, emb: Tensor) -> Tensor:
    h = conv(w, f"{name}.in_layers.2", F.silu(norm(w, f"{name}.in_layers.0", x, 1e-5)))
    h = h + linear(w, f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
    h = conv(w, f"{name}.out_layers.3", F.silu(norm(w, f"{name}.out_layers.0", h, 1e-5)))
    skip = f"{name}.skip_connection"
    return h + (conv(w, skip, x) if f"{skip}.weight" in w else x)


def attention(w: Weights, name: str, x: Tensor, context: Tensor, heads: int) -> Tensor:
    """x [G, L, C] looks at context [G, S, K], head by head, with the matrix in the open."""
    q, k, v = (linear(w, f"{name}.to_{part}", y) for part, y in (("q", x), ("k", context),
                                                                  ("v", context)))  # fmt: skip
    width = q.shape[-1] // heads
    out = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        scores = torch.einsum("glc,gsc->gls", q[..., part], k[..., part]) / math.sqrt(width)
        out.append(torch.softmax(scores, -1) @ v[..., part])
    return linear(w, f"{name}.to_out.0", torch.cat(out, -1))


def transformer(
    w: Weights, name: str, x: Tensor, text: Tensor, heads: int, shape: Shape, views: int
) -> Tensor:
    b, c, height, width = x.shape
    h = norm(w, f"{name}.norm", x, 1e-6)
    if not shape.linear:
        h = conv(w, f"{name}.proj_in", h)
    h = h.flatten(2).transpose(1, 2)  # [B, L, C]
    if shape.linear:
        h = linear(w, f"{name}.proj_in", h)
    block = f"{name}.transformer_blocks.0"

    def layer_norm(number: int) -> Tensor:
        part = f"{block}.norm{number}"
        return F.layer_norm(h, (c,), w[f"{part}.weight"], w[f"{part}.bias"])

    every = layer_norm(1).reshape(b // views, views * height * width, c)
    h = h + attention(w, f"{block}.attn1", every, every, heads).reshape(h.shape)
    h = h + attention(w, f"{block}.attn2", layer_norm(2), text, heads)
    value, gate = linear(w, f"{block}.ff.net.0.proj", layer_norm(3)).chunk(2, -1)
    h = h + linear(w, f"{block}.ff.net.2", value * F.gelu(gate))
    if shape.linear:
        h = linear(w, f"{name}.proj_out", h)
    h = h.transpose(1, 2).reshape(b, c, height, width)
    return x + (h if shape.linear else conv(w, f"{name}.proj_out", h))


def embed(w: Weights, t: Tensor, cameras: Tensor, channels: int) -> Tensor:
    """The time's sines plus the camera's 16 numbers, each through its own small net."""
    half = channels // 2
    angle = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
    time = torch.cat([angle.cos(), angle.sin()], -1)
    return sum(
        linear(w, f"{name}.2", F.silu(linear(w, f"{name}.0", value)))
        for name, value in (("time_embed", time), ("camera_embed", cameras))
    )  # type: ignore[return-value]


def unet(
    w: Weights, shape: Shape, x: Tensor, t: Tensor, text: Tensor, cameras: Tensor, views: int
) -> Tensor:
    """The noise in x [B, 4, h, w] at t [B]: text [B, L, K], cameras [B, 16], groups of views."""
    fine, coarse = shape.heads
    emb = embed(w, t, cameras, shape.channels)

    def attend(name: str, h: Tensor, heads: int) -> Tensor:
        return transformer(w, name, h, text, heads, shape, views)

    h = conv(w, "input_blocks.0.0", x)
    skips = [h]
    h = attend("input_blocks.1.1", resnet(w, "input_blocks.1.0", h, emb), fine)
    skips.append(h)
    h = conv(w, "input_blocks.2.0.op", h, stride=2)
    skips.append(h)
    h = resnet(w, "input_blocks.3.0", h, emb)
    skips.append(h)
    h = attend("middle_block.1", resnet(w, "middle_block.0", h, emb), coarse)
    h = resnet(w, "middle_block.2", h, emb)
    for i in range(4):
        h = resnet(w, f"output_blocks.{i}.0", torch.cat([h, skips.pop()], 1), emb)
        if i == 1:
            up = F.interpolate(h, scale_factor=2.0, mode="nearest")
            h = conv(w, "output_blocks.1.1.conv", up)
        if i >= 2:
            h = attend(f"output_blocks.{i}.1", h, fine)
    return conv(w, "out.2", F.silu(norm(w, "out.0", h, 1e-5)))


def random_weights(shape: Shape, seed: int = 0) -> dict[str, Tensor]:
    """Every tensor of the UNet, small and random."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, size in _sizes(shape):
        fan = math.prod(size[1:]) if len(size) > 1 else 30
        value = torch.randn(size, generator=generator) / math.sqrt(fan)
        # norms scale by about 1
        out[name] = value + 1 if len(size) == 1 and name.endswith("weight") else value
    return out


def _sizes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    c, wide, emb = shape.channels, 2 * shape.channels, 4 * shape.channels

    def both(name: str, *size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield f"{name}.weight", size
        yield f"{name}.bias", size[:1]

    def res(name: str, inputs: int, outputs: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        yield from both(f"{name}.in_layers.0", inputs)
        yield from both(f"{name}.in_layers.2", outputs, inputs, 3, 3)
        yield from both(f"{name}.emb_layers.1", outputs, emb)
        yield from both(f"{name}.out_layers.0", outputs)
        yield from both(f"{name}.out_layers.3", outputs, outputs, 3, 3)
        if inputs != outputs:
            yield from both(f"{name}.skip_connection", outputs, inputs, 1, 1)

    def attn(name: str, n: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        projection = (n, n) if shape.linear else (n, n, 1, 1)
        yield from both(f"{name}.norm", n)
        yield from both(f"{name}.proj_in", *projection)
        yield from both(f"{name}.proj_out", *projection)
        block = f"{name}.transformer_blocks.0"
        for kind, source in (("attn1", n), ("attn2", shape.context)):
            yield f"{block}.{kind}.to_q.weight", (n, n)
            yield f"{block}.{kind}.to_k.weight", (n, source)
            yield f"{block}.{kind}.to_v.weight", (n, source)
            yield from both(f"{block}.{kind}.to_out.0", n, n)
        yield from both(f"{block}.ff.net.0.proj", 8 * n, n)
        yield from both(f"{block}.ff.net.2", n, 4 * n)
        for number in (1, 2, 3):
            yield from both(f"{block}.norm{number}", n)

    for name, inputs in (("time_embed", c), ("camera_embed", 16)):
        yield from both(f"{name}.0", emb, inputs)
        yield from both(f"{name}.2", emb, emb)
    yield from both("input_blocks.0.0", c, 4, 3, 3)
    yield from res("input_blocks.1.0", c, c)
    yield from attn("input_blocks.1.1", c)
    yield from both("input_blocks.2.0.op", c, c, 3, 3)
    yield from res("input_blocks.3.0", c, wide)
    yield from res("middle_block.0", wide, wide)
    yield from attn("middle_block.1", wide)
    yield from res("middle_block.2", wide, wide)
    yield from res("output_blocks.0.0", wide + wide, wide)
    yield from res("output_blocks.1.0", wide + c, wide)
    yield from both("output_blocks.1.1.conv", wide, wide, 3, 3)
    yield from res("output_blocks.2.0", wide + c, c)
    yield from attn("output_blocks.2.1", c)
    yield from res("output_blocks.3.0", c + c, c)
    yield from attn("output_blocks.3.1", c)
    yield from both("out.0", c)
    yield from both("out.2", 4, c, 3, 3)
