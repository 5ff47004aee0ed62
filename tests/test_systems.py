"""What is true of every system, and of the table."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from guidance.distill import Pull, distill
from tests.systems import CASES
from tests.tiny import tiny_folder
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.core.schedule import Schedule
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.noise import Noised
from threed.diffusion.paint import Ready, paint
from threed.diffusion.score import Score
from threed.runs.job import Generate, Image
from threed.scenes.field import Field
from threed.settings.scenes import FieldSettings
from threed.settings.schema import describe
from threed.systems.table import SYSTEMS, find_system

every = pytest.mark.parametrize("name", SYSTEMS)
SMALL = FieldSettings(levels=4, start_levels=4, log2_table=12, max_resolution=32, occupancy=16,
                      samples=32)  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(str(tiny_folder(tmp_path_factory.mktemp("tiny") / "sd15")), device="cpu")


def noisy(ready: Ready, groups: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Latents and noise levels of groups that share theirs."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(groups, 4, 8, 8, generator=g).repeat_interleave(ready.rows, 0)
    t = torch.tensor([801, 701, 951])[:groups].repeat_interleave(ready.rows)
    return x, t


def test_every_system_has_a_case() -> None:
    assert list(CASES) == list(SYSTEMS)


@every
def test_neutral_knobs_give_exactly_the_plain_sample(name: str, tiny: Backbone) -> None:
    case = CASES[name]
    neutral = case.neutral(tiny)
    plain = replace(neutral, score=case.plain(tiny))
    pictures = paint(tiny, neutral, n=2, steps=3, seed=1)
    expected = paint(tiny, plain, n=2, steps=3, seed=1)
    torch.testing.assert_close(pictures, expected, atol=1e-5, rtol=0)


@every
def test_other_knobs_do_something(name: str, tiny: Backbone) -> None:
    case = CASES[name]
    typical, neutral = case.typical(tiny), case.neutral(tiny)
    x, t = noisy(typical, 2)
    plain = neutral.score(x, t)
    change = typical.score(x, t) - plain
    changed = typical.pick(change)
    # of the noise at least a fiftieth, nearly everywhere, for each result, and of nothing else
    share = changed.flatten(1).norm(dim=1) / typical.pick(plain).flatten(1).norm(dim=1)
    assert float(share.min()) > 0.02
    assert float((changed.abs() > 1e-4).float().mean()) > 0.98
    for row in {*range(typical.rows)} - {row % typical.rows for row in typical.results}:
        torch.testing.assert_close(change[row :: typical.rows].abs().max(), torch.tensor(0.0),
                                   atol=1e-5, rtol=0)  # fmt: skip


@every
def test_a_seed_decides_everything(name: str, tiny: Backbone) -> None:
    torch.manual_seed(1)
    pictures = paint(tiny, CASES[name].typical(tiny), steps=3, seed=5)
    torch.manual_seed(2)
    assert torch.equal(pictures, paint(tiny, CASES[name].typical(tiny), steps=3, seed=5))
    assert not torch.equal(pictures, paint(tiny, CASES[name].typical(tiny), steps=3, seed=6))


@every
def test_a_batch_is_its_groups_one_by_one(name: str, tiny: Backbone) -> None:
    ready = CASES[name].typical(tiny)
    x, t = noisy(ready, 3)
    parts = [slice(i, i + ready.rows) for i in range(0, len(x), ready.rows)]
    one_by_one = torch.cat([ready.score(x[part], t[part]) for part in parts])
    torch.testing.assert_close(ready.score(x, t), one_by_one, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["prompt_to_prompt", "rpg", "self_guidance"])
def test_pictures_may_be_wide(name: str, tiny: Backbone) -> None:
    case, wide = CASES[name], (64, 32)
    neutral, typical = case.neutral(tiny), case.typical(tiny)
    plain = Ready(case.plain(tiny), rows=neutral.rows)
    made, expected, changed = (
        paint(tiny, ready, steps=2, size=wide) for ready in (neutral, plain, typical)
    )
    assert made.shape == (neutral.rows, 3, 32, 64)
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)
    difference = (typical.pick(changed) - neutral.pick(made)).abs()
    assert float(difference[..., :32].max()) > 1e-4  # on both sides
    assert float(difference[..., 32:].max()) > 1e-4


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.gradient])
def test_inputs_that_learn_get_a_gradient(name: str, tiny: Backbone) -> None:
    case = CASES[name]
    assert case.gradient is not None
    leaf, score = case.gradient(tiny)
    x, t = noisy(case.typical(tiny), 2)
    score(x, t).square().sum().backward()
    assert leaf.grad is not None
    assert bool(leaf.grad.isfinite().all())
    assert float(leaf.grad.abs().max()) > 0


@every
def test_every_score_drives_distillation(name: str, tiny: Backbone) -> None:
    """What a field learns is the pull of the system's own result, and not the plain sample's.

    Expected is (sigma / alpha) (its noise - the noise that was drawn), of the first result of
    groups that see one x, through the encoder and the renderer.
    """
    ready, plain = CASES[name].typical(tiny), CASES[name].plain(tiny)
    field, cameras = Field(SMALL), orbit(2, tiny.image_size)
    field.update_occupancy(0, torch.Generator().manual_seed(0))
    pull = Pull(5.0, "x0", Schedule(((0, 0.5),)), Schedule(((0, 0.8),)), 0.0)
    guided, every, result = ready.alone(), [], ready.results[0] % ready.rows

    def difference(seen: Noised) -> Tensor:
        every.append(seen)
        return guided(seen.x, seen.t) - seen.noise

    def learned(loss: Tensor) -> Tensor:
        leaves = [value for value in field.parameters() if value.requires_grad]
        pulls = torch.autograd.grad(loss, leaves, allow_unused=True)
        return torch.cat([pull.flatten() for pull in pulls if pull is not None])

    shown = field.render(cameras).rgb
    loss = distill(tiny, pull, shown, 0, torch.Generator().manual_seed(1), difference)
    ours, (seen,) = learned(loss), every
    rows = [v.repeat_interleave(ready.rows, 0) for v in (seen.x, seen.t)]
    weight = seen.sigma / seen.alpha / len(seen.x)

    def by_hand(score: Score) -> Tensor:
        latents = tiny.encode_image(field.render(cameras).rgb.permute(0, 3, 1, 2))
        away = (score(*rows)[result :: ready.rows] - seen.noise).detach()
        return learned((latents * weight * away).sum())

    expected, other = by_hand(ready.score), by_hand(plain)
    size = float(expected.norm())
    assert size > 0
    assert float((ours - expected).norm()) < 1e-3 * size
    assert float((ours - other).norm()) > 0.02 * size


# the table, and what a user says


@every
def test_rows_say_what_the_list_shows(name: str) -> None:
    system = SYSTEMS[name]
    row = system.row()
    assert row["system"] == name
    assert row["paper"].endswith(f"(arXiv:{system.arxiv})")
    names = [item.name for item in system.inputs]
    assert len(set(names)) == len(names)
    options = {*Image.model_fields, *Generate.model_fields} - {"inputs"}
    assert not options & {*names, *system.knobs.model_fields}  # options of their own
    for knob, shown in zip(describe(system.knobs), row["knobs"]):  # nothing that does not hold
        said = f"{knob.name} ({knob.meaning})" if knob.default is None else None
        assert shown == (said or f"{knob.name}={knob.default}")
        assert said is None or "if not given" in said
    assert system.claim[0].islower()
    assert not system.claim.endswith(".")


@every
def test_seeds_and_files_have_no_place_in_a_systems_file(name: str) -> None:
    """No loop over steps, no scheduler: what systems may not import."""
    module = inspect.getmodule(SYSTEMS[name].prepare)
    assert module is not None
    source = inspect.getsource(module)
    for word in ("make_scheduler", "decode_latents", "set_timesteps"):
        assert word not in source


def test_inputs_that_a_system_does_not_take_or_lacks(tmp_path: Path) -> None:
    message = "'prompt_to_prompt' takes no --move; its inputs: --source, --image"
    with pytest.raises(InputError, match=message):
        SYSTEMS["prompt_to_prompt"].request("x", {"move": ("x:0.1,0",)})
    with pytest.raises(InputError, match="'instruct_pix2pix' needs --image"):
        SYSTEMS["instruct_pix2pix"].request("x", {})
    told = SYSTEMS["prompt_to_prompt"].request("x", {"source": ("y",), "weigh": ("x:2", "x:0.5")})
    assert told.inputs == {"source": ("y",), "weigh": (("x", 2.0), ("x", 0.5))}


def test_systems_that_do_not_exist() -> None:
    with pytest.raises(InputError, match="no system 'promt_to_prompt'; did you mean 'prompt_to_"):
        find_system("promt_to_prompt")
    assert find_system("controlnet").name == "controlnet"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "cros_replace=0.5",
            "of system 'prompt_to_prompt': cros_replace: no such .*'cross_rep",
        ),
        ("cross_replace", "write NAME=VALUE"),
        ("cross_replace=much", r"cross_replace must be a number in 0\.\.1, got 'much'"),
        ("cross_replace=nan", r"cross_replace must be .*in 0\.\.1"),
        ("cross_replace=1.5", r"cross_replace must be in 0\.\.1, got 1.5"),
        ("self_tokens=1.5", "self_tokens must be a whole number at least 1, got 1.5"),
    ],
)
def test_knobs_that_cannot_be_meant(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SYSTEMS["prompt_to_prompt"].request("x", {}, [word])


def test_knobs_have_the_type_of_their_default() -> None:
    words = ["cross_replace=1", "self_tokens=256", "mode=refine"]
    knobs = SYSTEMS["prompt_to_prompt"].request("x", {}, words).knobs
    assert (knobs.cross_replace, knobs.self_tokens, knobs.mode) == (1.0, 256, "refine")
    told = {"control": ("edges:a.png",)}
    assert SYSTEMS["controlnet"].request("x", told, ["guess=true"]).knobs.guess is True
    with pytest.raises(InputError, match="guess must be true or false, got 1"):
        SYSTEMS["controlnet"].request("x", told, ["guess=1"])


def test_the_result_alone_is_that_of_a_group_that_sees_one_picture(tiny: Backbone) -> None:
    ready = CASES["prompt_to_prompt"].typical(tiny)
    x, t = torch.randn(3, 4, 8, 8), torch.tensor([900, 500, 300])
    alone = ready.alone()(x, t)
    for i in range(3):
        together = ready.score(x[i : i + 1].repeat(2, 1, 1, 1), t[i : i + 1].repeat(2))
        torch.testing.assert_close(alone[i], together[1], atol=2e-5, rtol=1e-4)


def test_results_need_not_be_the_last_row(tiny: Backbone) -> None:
    pair = CASES["prompt_to_prompt"].typical(tiny)
    first = replace(pair, results=(0,))
    pictures = paint(tiny, pair, n=2, steps=2)
    assert torch.equal(pictures, paint(tiny, first, n=2, steps=2))
    assert torch.equal(pair.pick(pictures), pictures[1::2])
    assert torch.equal(first.pick(pictures), pictures[::2])
    assert torch.equal(replace(pair, results=(0, 1)).pick(pictures), pictures)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([900])
    together = pair.score(x.repeat(2, 1, 1, 1), t.repeat(2))
    assert torch.equal(first.alone()(x, t), together[:1])
    assert torch.equal(pair.alone()(x, t), together[1:])


def test_a_system_may_decode_in_its_own_way(tiny: Backbone) -> None:
    """The smallest user: what lies outside a mask is painted over with the picture it came from."""
    ready = CASES["rpg"].typical(tiny)
    plain = paint(tiny, ready, steps=2)
    assert torch.equal(paint(tiny, replace(ready, decode=tiny.decode_latents), steps=2), plain)
    mask, picture = torch.zeros(1, 1, 32, 32), torch.rand(1, 3, 32, 32)
    mask[..., 8:24] = 1

    def repaint(latents: Tensor) -> Tensor:
        return torch.lerp(picture, tiny.decode_latents(latents), mask)

    painted = paint(tiny, replace(ready, decode=repaint), steps=2)
    assert torch.equal(painted[..., 8:24], plain[..., 8:24])
    assert torch.equal(painted[..., :8], picture[..., :8])


@pytest.mark.parametrize(("steps", "size"), [(0, None), (1001, None), (3, 33), (3, -32)])
def test_pictures_that_cannot_be_painted(tiny: Backbone, steps: int, size: int | None) -> None:
    message = "steps must be from 1 to 1000" if size is None else "multiple of 32 pixels"
    with pytest.raises(InputError, match=message):
        paint(tiny, CASES["prompt_to_prompt"].typical(tiny), steps=steps, size=size)
