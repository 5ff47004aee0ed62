"""Seams of a diffusion step: neutral is bitwise plain, a batch is its items, gradients arrive."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from threed.diffusion.catalog import load_backbone
from threed.diffusion.condition import Condition
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.adapters import Lora
from threed.diffusion.parts.norms import Norm, Normalise
from threed.diffusion.parts.skips import Joint
from threed.diffusion.score import cfg, score

T = torch.tensor([1, 300, 600, 900])


def load(folder: Path) -> StableDiffusion:
    backbone = load_backbone(str(folder), device="cpu")
    assert isinstance(backbone, StableDiffusion)
    return backbone


def same_one_by_one(backbone: StableDiffusion, x: Tensor, condition: Condition) -> None:
    """The batch's noise is that of its items, each in a call of its own."""
    together = backbone.predict_noise(x, T, condition)
    for i in range(len(x)):
        alone = condition.select(torch.tensor([i]))
        one = backbone.predict_noise(x[i : i + 1], T[i : i + 1], alone)
        torch.testing.assert_close(one, together[i : i + 1], atol=1e-5, rtol=1e-5)


# adapters


def taught(backbone: StableDiffusion, name: str, seed: int) -> Lora:
    """A LoRA that has learned something."""
    lora = Lora(backbone.unet, name, rank=2, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in lora.parameters.items():
            if "lora_B" in key:
                value.copy_(0.2 * torch.randn(value.shape, generator=generator))
    return lora


def merged(folder: Path, loras: dict[str, tuple[Lora, float]]) -> StableDiffusion:
    """A model of its own whose maps hold weight * up @ down of each LoRA."""
    other = load(folder)
    weights = dict(other.unet.named_parameters())
    for name, (lora, weight) in loras.items():
        for key, down in lora.parameters.items():
            if "lora_A" in key:
                up = lora.parameters[key.replace("lora_A", "lora_B")]
                place = weights[key.replace(f".lora_A.{name}", "")]
                place.data += weight * (up @ down).detach()
    return other


def test_adapters_of_weight_zero_are_bitwise_the_plain_model(
    folder: Path, x: Tensor, told: Condition
) -> None:
    plain, adapted = load(folder), load(folder)
    taught(adapted, "toy", 1)
    expected = plain.predict_noise(x, T, told)
    for adapters in ({}, {"toy": 0.0}):
        noise = adapted.predict_noise(x, T, replace(told, adapters=adapters))
        assert torch.equal(noise, expected)
    with pytest.raises(ValueError, match="no adapter 'other'"):
        adapted.predict_noise(x, T, replace(told, adapters={"other": 1.0}))


@pytest.mark.parametrize(("toy", "style"), [(1.0, 0.0), (0.5, 0.0), (1.0, -0.5), (0.3, 1.0)])
def test_adapters_are_models_with_these_weights_merged(
    folder: Path, x: Tensor, told: Condition, toy: float, style: float
) -> None:
    backbone = load(folder)
    loras = {
        "toy": (taught(backbone, "toy", 1), toy),
        "style": (taught(backbone, "style", 2), style),
    }
    noise = backbone.predict_noise(x, T, replace(told, adapters={"toy": toy, "style": style}))
    expected = merged(folder, loras).predict_noise(x, T, told)
    assert float((expected - load(folder).predict_noise(x, T, told)).abs().max()) > 1e-3
    torch.testing.assert_close(noise, expected, atol=1e-6, rtol=1e-5)


def test_one_score_holds_a_model_without_and_with_an_adapter(
    folder: Path, x: Tensor, told: Condition
) -> None:
    """DCO's guidance: e(0) + s (e(text) - e(0)) + r (e'(text) - e(text)), e' with the LoRA."""
    backbone = load(folder)
    other = merged(folder, {"toy": (taught(backbone, "toy", 1), 1.0)})
    empty = backbone.encode_text([""] * 4)
    conditions = [empty, told, replace(told, adapters={"toy": 1.0})]
    guided = score(
        backbone, conditions, lambda e, x, t: e[0] + 7 * (e[1] - e[0]) + 3 * (e[2] - e[1])
    )
    plain = load(folder)
    e = [plain.predict_noise(x, T, empty), plain.predict_noise(x, T, told),
         other.predict_noise(x, T, told)]  # fmt: skip
    expected = e[0] + 7 * (e[1] - e[0]) + 3 * (e[2] - e[1])
    torch.testing.assert_close(guided(x, T), expected, atol=1e-5, rtol=1e-5)
    same_one_by_one(backbone, x, conditions[2])


def test_gradients_reach_an_adapter_of_a_call_whatever_else_is_called(
    folder: Path, x: Tensor, told: Condition
) -> None:
    backbone = load(folder)
    one, two = taught(backbone, "one", 1), taught(backbone, "two", 2)
    with_one = backbone.predict_noise(x, T, replace(told, adapters={"one": 1.0}))
    without = backbone.predict_noise(x, T, told)
    assert not without.requires_grad
    loss = (with_one - without).square().sum()
    gradients = torch.autograd.grad(loss, list(one.parameters.values()))
    assert all(float(g.abs().max()) > 0 for g in gradients)
    unused = torch.autograd.grad(with_one.sum(), list(two.parameters.values()), allow_unused=True)
    assert unused == (None,) * len(two.parameters)


# skips


@dataclass(frozen=True)
class Doubled:
    """Doubles one skip."""

    order: int

    def __call__(self, joint: Joint, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        return h, 2 * skip if joint.order == self.order else skip


def test_an_identity_of_the_skips_is_bitwise_plain(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    seen: list[tuple[Joint, tuple[int, ...], tuple[int, ...]]] = []

    def look(joint: Joint, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        seen.append((joint, tuple(h.shape[1:]), tuple(skip.shape[1:])))
        return h, skip

    plain = backbone.predict_noise(x, T, told)
    assert torch.equal(backbone.predict_noise(x, T, replace(told, skips=(look,))), plain)
    # of a UNet of two blocks of 16 and 32 channels, with one resnet a block
    assert [(joint.name, joint.order, joint.halvings) for joint, _, _ in seen] == [
        (f"up_blocks.{i}.resnets.{j}", 2 * i + j, 1 - i) for i in (0, 1) for j in (0, 1)
    ]
    assert [(h[0], skip[0]) for _, h, skip in seen] == [(32, 32), (32, 16), (32, 16), (16, 16)]
    assert all(h[1:] == skip[1:] for _, h, skip in seen)
    assert torch.equal(backbone.predict_noise(x, T, told), plain), "of one call only"


def test_a_doubled_skip_is_a_residual_of_the_skip_itself(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    kept: dict[int, Tensor] = {}

    def keep(joint: Joint, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        kept[joint.order] = skip
        return h, skip

    plain = backbone.predict_noise(x, T, replace(told, skips=(keep,)))
    middle = torch.zeros(4, 32, 4, 3)
    for order in kept:
        doubled = backbone.predict_noise(x, T, replace(told, skips=(Doubled(order),)))
        skips = [v if i == order else torch.zeros_like(v) for i, v in sorted(kept.items())]
        added = replace(told, residuals=(lambda x, t, c, s=skips[::-1]: (s, middle),))
        torch.testing.assert_close(doubled, backbone.predict_noise(x, T, added))
        assert float((doubled - plain).abs().max()) > 1e-4
    same_one_by_one(backbone, x, replace(told, skips=(Doubled(1), Doubled(2))))


def test_gradients_reach_what_is_added_on_the_way_up(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    """StableVITON: h + zero convolution of something; at zero plain, and not without a gradient."""
    gain = torch.zeros(4, requires_grad=True)

    def warped(joint: Joint, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        return h + gain[joint.order] * h.tanh(), skip

    noise = backbone.predict_noise(x, T, replace(told, skips=(warped,)))
    torch.testing.assert_close(noise, backbone.predict_noise(x, T, told), atol=0, rtol=0)
    (gradient,) = torch.autograd.grad(noise.square().sum(), gain)
    assert bool((gradient != 0).all())


# norms


@dataclass(frozen=True)
class Shared:
    """StyleAligned's: statistics over a picture and the first of its group of `rows`."""

    rows: int

    def __call__(self, norm: Norm, normalise: Normalise) -> Normalise:
        def shared(x: Tensor) -> Tensor:
            first = x.unflatten(0, (-1, self.rows))[:, :1]
            first = first.expand(-1, self.rows, *x.shape[1:]).flatten(0, 1)
            return normalise(torch.cat([x, first], -2))[..., : x.shape[-2], :]

        return shared


def test_norms_left_alone_are_bitwise_plain(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    seen: list[Norm] = []

    def look(norm: Norm, normalise: Normalise) -> Normalise:
        seen.append(norm)
        return lambda x: normalise(x)

    noise = backbone.predict_noise(x, T, replace(told, norms=(look,)))
    assert torch.equal(noise, backbone.predict_noise(x, T, told))
    modules = dict(backbone.unet.named_modules())
    assert {norm.name for norm in seen} == {
        name for name, module in modules.items() if "norm" in type(module).__name__.lower()
    }
    for norm in seen:
        assert norm.group == isinstance(modules[norm.name], torch.nn.GroupNorm)
        first = norm.name.endswith(("norm1", "norm2")) and "resnets" in norm.name
        assert norm.group == (first or norm.name.endswith((".norm", "conv_norm_out")))


def test_shared_statistics_are_those_of_the_formula(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    norm = backbone.unet.conv_norm_out
    features = torch.randn(6, 16, 5, 4)
    shared = Shared(3)(Norm("conv_norm_out", True), norm.forward)(features)
    for i, item in enumerate(features):
        reference = features[i - i % 3]
        groups = [v.reshape(norm.num_groups, -1) for v in (item, reference)]
        both = torch.cat(groups, 1)
        mean, var = both.mean(1, keepdim=True), both.var(1, unbiased=False, keepdim=True)
        expected = ((groups[0] - mean) / (var + norm.eps).sqrt()).view_as(item)
        expected = expected * norm.weight[:, None, None] + norm.bias[:, None, None]
        torch.testing.assert_close(shared[i], expected)
    # in the UNet: the reference's own noise stays, the others' changes, group by group
    plain = backbone.predict_noise(x, T, told)
    aligned = replace(told, norms=(Shared(2),))
    noise = backbone.predict_noise(x, T, aligned)
    torch.testing.assert_close(noise[::2], plain[::2], atol=1e-5, rtol=1e-5)
    assert float((noise - plain)[1::2].abs().amax((1, 2, 3)).min()) > 1e-3
    for rows in (slice(0, 2), slice(2, 4)):
        pair = aligned.select(torch.arange(4)[rows])
        alone = backbone.predict_noise(x[rows], T[rows], pair)
        torch.testing.assert_close(alone, noise[rows], atol=1e-5, rtol=1e-5)


def test_shared_layer_norms_alone_change_nothing(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    def layers(norm: Norm, normalise: Normalise) -> Normalise:
        return normalise if norm.group else Shared(2)(norm, normalise)

    noise = backbone.predict_noise(x, T, replace(told, norms=(layers,)))
    torch.testing.assert_close(noise, backbone.predict_noise(x, T, told), atol=1e-6, rtol=1e-5)


def test_gradients_reach_the_statistics_of_the_reference(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    x.requires_grad_()
    noise = backbone.predict_noise(x, T, replace(told, norms=(Shared(2),)))
    (gradient,) = torch.autograd.grad(noise[1].sum(), x)
    assert float(gradient[0].abs().max()) > 0
    assert float(gradient[2:].abs().max()) == 0


def test_norms_and_skips_of_conditions_share_a_score(
    backbone: StableDiffusion, x: Tensor, told: Condition
) -> None:
    """What is told differently is each told its own."""
    conditions = [replace(told, norms=(Shared(2),)), replace(told, skips=(Doubled(0),)), told]
    each = [backbone.predict_noise(x, T, c) for c in conditions]
    guided = score(backbone, conditions, lambda e, x, t: torch.stack([*e]))
    torch.testing.assert_close(guided(x, T), torch.stack(each), atol=1e-5, rtol=1e-5)
    assert not torch.equal(cfg(2.0)(each[:2], x, T), cfg(2.0)(each[1:], x, T))
