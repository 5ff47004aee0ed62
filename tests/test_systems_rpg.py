"""RPG: parity with the public code's cross-attention, identities, and the latents' way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.systems import asked, prepared
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.noise import alpha_sigma
from threed.diffusion.paint import paint
from threed.diffusion.parts.plans import Plan, split_plan
from threed.diffusion.parts.regions import resized
from threed.diffusion.score import cfg, score
from threed.systems.control.rpg import SYSTEM, Knobs, build, plan_of

T = torch.tensor([600])
TWO = split_plan("a cup and a hat", "1,1", ["a cup", "a hat"])


def draw(height: int = tiny.SIZE, width: int = tiny.SIZE) -> Tensor:
    return torch.randn(1, 4, height, width, generator=torch.Generator().manual_seed(1))


def plain(backbone: StableDiffusion, prompt: str, x: Tensor, scale: float = 5.0) -> Tensor:
    texts = backbone.encode_text([prompt, ""])
    each = [texts.select(torch.tensor([i])) for i in (0, 1)]
    return score(backbone, each, cfg(scale))(x, T)


class Public:
    """The published code's cross-attention, written out here: rows of cells, cut and joined.

    Each cell has a chunk of the tokens. The split is (height, widths) by row, in shares of 1.
    """

    def __init__(self, rows: Any, base: float, height: int, width: int) -> None:
        self.rows, self.base, self.height, self.width = rows, base, height, width

    def __call__(
        self, attn: Any, x: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        if encoder_hidden_states is None:
            return self.attend(attn, x, x)
        h, w = self.height, self.width
        while h * w > x.shape[1]:
            h, w = -(-h // 2), -(-w // 2)
        chunks = iter(encoder_hidden_states.split(tiny.LENGTH, 1))
        whole = self.attend(attn, x, next(chunks)).reshape(len(x), h, w, -1)
        lines, top = [], 0.0
        for height, widths in self.rows:
            cells, left = [], 0.0
            for width in widths:
                out = self.attend(attn, x, next(chunks)).reshape(len(x), h, w, -1)
                out = out * (1 - self.base) + whole * self.base
                cells.append(out[:, int(h * top) : int(h * (top + height)),
                                 int(w * left) : int(w * (left + width))])  # fmt: skip
                left += width
            lines.append(torch.cat(cells, 2))
            top += height
        return torch.cat(lines, 1).flatten(1, 2)

    def attend(self, attn: Any, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = (
            attn.head_to_batch_dim(p)
            for p in (attn.to_q(x), attn.to_k(context), attn.to_v(context))
        )
        out = attn.batch_to_head_dim(attn.get_attention_scores(q, k) @ v)
        return attn.to_out[1](attn.to_out[0](out))


@pytest.mark.parametrize("size", [(8, 8), (8, 16), (6, 10)])
def test_attention_is_the_public_codes(backbone: StableDiffusion, size: tuple[int, int]) -> None:
    rows = [(0.375, [0.25, 0.75]), (0.625, [0.5, 0.25, 0.25])]
    prompts = ["a", "bb", "ccc", "d d", "e"]
    plan = split_plan("all of it", "0.375,0.25,0.75;0.625,0.5,0.25,0.25", prompts)
    x = draw(*size)
    ours = build(backbone, plan, guide=Guide(4.0, "no"), knobs=Knobs(base_ratio=0.3))(x, T)

    texts = backbone.encode_text(["all of it", *prompts, "no"]).tokens
    tokens = torch.stack([texts[:6].flatten(0, 1), texts[6:].repeat(6, 1, 1).flatten(0, 1)])
    before = backbone.unet.attn_processors
    backbone.unet.set_attn_processor(Public(rows, 0.3, *size))
    try:
        text, other = backbone.unet(x.repeat(2, 1, 1, 1), T, tokens).sample.chunk(2)
    finally:
        backbone.unet.set_attn_processor(before)
    assert torch.allclose(ours, other + 4.0 * (text - other), atol=2e-5)
    assert (ours - plain(backbone, "all of it", x, 4.0)).abs().max() > 1e-3


def test_of_sdxl_the_whole_prompts_vector_is_told(tmp_path: Path) -> None:
    """The published code tells it the last region's, which it encodes last."""
    xl = load_backbone(str(tiny.tiny_folder(tmp_path, "sdxl")), device="cpu")
    told: list[Tensor] = []
    predict = xl.predict_noise

    def watched(x: Tensor, t: Tensor, condition: Any) -> Tensor:
        told.append(condition.pooled)
        return predict(x, t, condition)

    xl.predict_noise = watched  # type: ignore[method-assign]
    build(xl, TWO, guide=Guide(5.0, "no"))(draw(), T)
    expected = xl.encode_text([TWO.prompt, "no"]).pooled
    torch.testing.assert_close(torch.cat(told), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("way", ["attention", "latents"])
def test_a_base_ratio_of_one_is_the_whole_prompt_alone(backbone: StableDiffusion, way: str) -> None:
    x = draw()
    assert torch.equal(build(backbone, TWO, knobs=Knobs(way=way, base_ratio=1.0))(x, T),
                       plain(backbone, TWO.prompt, x))  # fmt: skip


@pytest.mark.parametrize("way", ["attention", "latents"])
def test_one_region_and_no_base_is_its_prompt_alone(backbone: StableDiffusion, way: str) -> None:
    x = draw()
    plan = split_plan("a cup and a hat", "1", ["a hat"])
    noise = build(backbone, plan, knobs=Knobs(way=way, base_ratio=0.0))(x, T)
    assert torch.allclose(noise, plain(backbone, "a hat", x), atol=1e-4)


def test_equal_prompts_are_one_prompt(backbone: StableDiffusion) -> None:
    x = draw()
    plan = split_plan("a hat", "1,2;1", ["a hat"] * 2)
    assert torch.allclose(build(backbone, plan)(x, T), plain(backbone, "a hat", x), atol=1e-4)


def test_cut_latents_are_each_prompts_own(backbone: StableDiffusion) -> None:
    x = draw()
    noise = build(backbone, TWO, knobs=Knobs(way="latents", base_ratio=0.0, resize_until=1.0))(x, T)
    left, right = plain(backbone, "a cup", x), plain(backbone, "a hat", x)
    assert torch.allclose(noise[..., :4], left[..., :4], atol=1e-4)
    assert torch.allclose(noise[..., 4:], right[..., 4:], atol=1e-4)


def test_a_region_shows_its_whole_prompts_picture_made_small() -> None:
    alphas = torch.linspace(0.999, 0.01, 1000)
    alpha, sigma = alpha_sigma(alphas, T)
    x, ramp = torch.zeros(1, 1, 8, 8), torch.arange(8.0).expand(1, 1, 8, 8)

    def noise_of(clean: Tensor) -> Tensor:
        return (x - alpha * clean) / sigma

    mix = resized(TWO.regions, 0.25, 1.0, 0.5, alphas)
    noises = [noise_of(c) for c in (torch.full_like(x, 4.0), ramp, ramp + 10, torch.zeros_like(x))]
    clean = (x - sigma * mix(noises, x, T)) / alpha
    small = torch.nn.functional.interpolate(ramp, (8, 4), mode="bilinear", antialias=True)
    assert torch.allclose(clean[..., :4], 0.25 * 4 + 0.75 * small, atol=1e-5)
    assert torch.allclose(clean[..., 4:], 0.25 * 4 + 0.75 * (small + 10), atol=1e-5)
    late = torch.tensor([400])
    alpha, sigma = alpha_sigma(alphas, late)
    noises = [noise_of(c) for c in (torch.full_like(x, 4.0), ramp, ramp + 10, torch.zeros_like(x))]
    clean = (x - sigma * mix(noises, x, late)) / alpha
    assert torch.allclose(clean[..., :4], 0.25 * 4 + 0.75 * ramp[..., :4], atol=1e-5)


def test_regions_thinner_than_a_pixel_do_no_harm(backbone: StableDiffusion) -> None:
    plan = split_plan("a hat", "1001,1,1000", ["a hat", "a cup", "a hat"])
    for way in ("attention", "latents"):
        noise = build(backbone, plan, knobs=Knobs(way=way))(draw(), T)
        assert torch.allclose(noise, plain(backbone, "a hat", draw()), atol=1e-4)


def test_any_batch_has_the_same_regions(backbone: StableDiffusion) -> None:
    x = torch.randn(3, 4, 8, 8)
    made = build(backbone, TWO)
    alone = torch.cat([made(row[None], T) for row in x])
    assert torch.allclose(made(x, T.expand(3)), alone, atol=1e-5)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"way": "magic"}, "way must be one of attention, latents, got 'magic'"),
        ({"base_ratio": 1.5}, "base_ratio must be .*in 0..1, got 1.5"),
        ({"resize_until": -1.0}, "resize_until must be .*in 0..1"),
    ],
)
def test_knobs_that_cannot_be_are_refused(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Knobs(**knobs)


def test_a_request_says_the_regions_or_leaves_them_to_the_planner() -> None:
    prompt = "a cup and a hat"
    assert plan_of(asked(prompt)) == TWO
    assert plan_of(asked(prompt, planner="rules")) == TWO
    assert plan_of(asked(prompt, split="1,1", region=("a cup", "a hat"))) == TWO
    own = plan_of(asked(prompt, region=("0,0,0.5,1:a cup",)))
    assert isinstance(own, Plan)
    assert own.regions == TWO.regions[:1]
    with pytest.raises(InputError, match="the split '1,1' needs a --region for each"):
        plan_of(asked(prompt, split="1,1"))


def test_pictures_of_a_request(backbone: StableDiffusion, tmp_path: Path) -> None:
    ready = prepared(SYSTEM, backbone, asked("a cup and a hat", 32, knobs=Knobs(base_ratio=0.5)))
    first = paint(backbone, ready, n=2, steps=2, seed=3, size=32)
    assert first.shape == (2, 3, 32, 32)
    assert torch.equal(first, paint(backbone, ready, n=2, steps=2, seed=3, size=32))
