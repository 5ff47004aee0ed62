"""Things with no name: what is taught, what moves while it is, and that it is used as it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.conftest import Answer
from tests.systems import sampled
from tests.tiny import four_pictures, tiny_folder
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.learned.names import own_words
from threed.diffusion.learned.words import write_words
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.weights import pack
from threed.learning import loop
from threed.learning.losses import denoising_loss
from threed.learning.recipe import Recipe
from threed.runs.check import all_prompts
from threed.runs.steer import Steered
from threed.settings.run import Run, SystemSettings
from threed.systems.personalization import dco, dreambooth, lora, subject, textual_inversion
from threed.systems.personalization.teach import rare_rows, rows_of
from threed.systems.system import Lesson, Request
from threed.systems.table import SYSTEMS

NAMES = ("textual_inversion", "dreambooth", "lora", "dco")
CPU = torch.device("cpu")


@pytest.fixture
def tiny(folder: Path) -> Any:
    return load_backbone(str(folder), device="cpu")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return four_pictures(tmp_path_factory.mktemp("toy"))


def lesson(system: str, toy: Path, out: Path, **options: Any) -> Lesson:
    training = SYSTEMS[system].training
    assert training is not None
    assert training.read is not None
    told: Any = training.options(name="<toy>", kind="mug", **options)
    examples = training.read(toy, 32, told)
    return Lesson(examples, {"system": system, "backbone": "tiny"}, told, out=out)


def taught(system: str, model: Any, toy: Path, out: Path, steps: int = 3, **options: Any) -> Any:
    """What a training of few steps leaves in a folder; returns its net."""
    training = SYSTEMS[system].training
    assert training is not None
    task = training.learn(model, lesson(system, toy, out, **options))
    lr = 1e-3 if system == "dreambooth" else 0.02
    recipe = Recipe(steps=steps, batch=2, lr=lr, warmup=0, ema=0.0)
    return loop.train(task, recipe, out, device=CPU)


def state(net: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(before: dict[str, Tensor], net: torch.nn.Module) -> bool:
    """Whether a net has the weights that it had, under whatever names peft gives them."""
    after = {name.replace(".base_layer", ""): v for name, v in net.state_dict().items()}
    return all(torch.equal(value, after[name]) for name, value in before.items())


def noise(model: Any, prompt: str, **changes: Any) -> Tensor:
    condition = replace(model.encode_text([prompt]), **changes)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        out: Tensor = model.predict_noise(x, torch.tensor([501]), condition)
    return out


def equipped(system: str, model: Any, *weights: str) -> Any:
    row = SYSTEMS[system]
    return row.equipped(model, row.request("a <toy>", {"weights": weights}))


@pytest.mark.parametrize("system", NAMES)
def test_what_was_taught_is_in_force_when_it_is_used(
    system: str, folder: Path, toy: Path, tmp_path: Path
) -> None:
    model: Any = load_backbone(str(folder), device="cpu")
    options = {"prior": 0} if system == "dreambooth" else {}
    net = taught(system, model, toy, tmp_path / "out", **options)
    fresh: Any = load_backbone(str(folder), device="cpu")
    nets = {"unet": state(fresh.unet), "text": state(fresh.encoders[0])}
    used = equipped(system, fresh, str(tmp_path / "out"))
    if system == "textual_inversion":
        expected = model.with_words(net.words())
    elif system == "dreambooth":
        expected = model.with_words({"<toy>": rare_rows(model, "<toy>", "mug")})
        expected.unet = net["unet"]
    else:
        rows = net["rows"].words() if system == "dco" else None
        expected = model.with_words(rows or {"<toy>": rare_rows(model, "<toy>", "mug")})
        expected.adapters = {lora.TAUGHT: 1.0}
    said = "a <toy> on a box"
    torch.testing.assert_close(noise(used, said), noise(expected, said), rtol=0, atol=1e-5)
    assert float((noise(used, said) - noise(fresh, "a mug on a box")).abs().max()) > 1e-3
    # nothing is in force in the model itself, whose nets are what they were
    assert same(nets["unet"], fresh.unet)
    assert same(nets["text"], fresh.encoders[0])
    assert torch.equal(noise(fresh, "a mug"), noise(load_backbone(str(folder)), "a mug"))
    assert own_words([tmp_path / "out"]) == {"<toy>": "mug"}
    packed = equipped(system, fresh, str(pack(tmp_path / "out", tmp_path / "small")))
    torch.testing.assert_close(noise(packed, said), noise(used, said), rtol=0, atol=2e-3)


def test_only_the_words_rows_move_whatever_decays(tiny: Any, toy: Path, tmp_path: Path) -> None:
    table = tiny.encoders[0].get_input_embeddings().weight.clone()
    before = state(tiny.unet), state(tiny.encoders[0])
    task = textual_inversion.learn(tiny, lesson("textual_inversion", toy, tmp_path, vectors=2))
    start = [row.detach().clone() for row in task.net.parameters()]
    recipe = Recipe(steps=4, batch=2, lr=0.05, warmup=0, weight_decay=0.1)
    loop.train(task, recipe, tmp_path, device=CPU)
    assert torch.equal(table, tiny.encoders[0].get_input_embeddings().weight)
    assert same(before[0], tiny.unet)
    assert same(before[1], tiny.encoders[0])
    (row,) = task.net.parameters()
    assert row.shape == (2, 32)
    assert bool((row != start[0]).any(-1).all())
    written = load_file(tmp_path / "learned_embeds.safetensors")
    assert written.keys() == {"<toy>"}


def test_without_a_prior_dreambooth_is_plain_training(tiny: Any, toy: Path, tmp_path: Path) -> None:
    task = dreambooth.learn(tiny, lesson("dreambooth", toy, tmp_path, prior=0))
    assert not (tmp_path / "class").exists()
    chance = torch.Generator().manual_seed(3)
    loss = task.loss(task.net, 2, chance)
    given = lesson("dreambooth", toy, tmp_path).examples
    words = {"<toy>": rare_rows(tiny, "<toy>", "mug")}
    again = torch.Generator().manual_seed(3)
    chosen = given.draw(2, again)
    latents = tiny.encode_image(given.pictures("image", chosen))
    text = tiny.encode_text(given.texts("text", chosen), words)
    torch.testing.assert_close(loss, denoising_loss(tiny, latents, text, again))


def test_the_kind_is_held_by_its_own_pictures(tiny: Any, toy: Path, tmp_path: Path) -> None:
    told: list[str] = []
    one = replace(lesson("dreambooth", toy, tmp_path, class_pictures=10), say=told.append)
    task = dreambooth.learn(tiny, one)
    made = sorted((tmp_path / "class").glob("*.png"))
    assert len(made) == 10
    assert told == ["4 pictures of 40×48 pixels", "pictures of 'a photo of a mug': 8 of 10",
                    "pictures of 'a photo of a mug': 10 of 10"]  # fmt: skip
    # begun again, only what is missing is made, and it is the same
    first = made[8].read_bytes()
    made[8].unlink()
    stamp = made[0].stat().st_mtime_ns
    dreambooth.learn(tiny, one)
    assert made[8].read_bytes() == first
    assert made[0].stat().st_mtime_ns == stamp
    both = task.loss(task.net, 2, torch.Generator().manual_seed(0)).detach()
    alone = dreambooth.learn(tiny, lesson("dreambooth", toy, tmp_path, prior=0))
    assert both > alone.loss(alone.net, 2, torch.Generator().manual_seed(0)).detach()


def test_pictures_of_another_kind_are_not_taken(tiny: Any, toy: Path, tmp_path: Path) -> None:
    told = {"class_pictures": 1}
    dreambooth.learn(tiny, lesson("dreambooth", toy, tmp_path, **told))
    other = lesson("dreambooth", toy, tmp_path, **told)
    other = replace(other, options=dreambooth.Options(**dict(other.options) | {"kind": "hat"}))
    with pytest.raises(InputError, match=r"class holds pictures of other settings, .*of a mug"):
        dreambooth.learn(tiny, other)


def test_prompts_may_hold_braces_and_targets_must_be_layers(
    tiny: Any, toy: Path, tmp_path: Path
) -> None:
    one = lesson("textual_inversion", toy, tmp_path, prompt="a {} {x} {0}")
    assert one.examples.texts("text", [3]) == ["a <toy> {x} {0}"]
    textual_inversion.learn(tiny, one)
    for targets, said in (("to_q,", "''"), ("to_q,norm1", "'norm1'"), ("o_q", "'o_q'")):
        with pytest.raises(InputError, match=f"has a name that ends with {said}"):
            lora.learn(tiny, lesson("lora", toy, tmp_path, targets=targets))


def test_dco_needs_a_base_prompt_for_words_of_unknown_kind(tiny: Any, tmp_path: Path) -> None:
    write_words({"<toy>": rows_of(tiny, "mug")}, tmp_path / "toy.safetensors")
    weights = ((tmp_path / "toy.safetensors", 1.0),)
    request = Request("a <toy>", inputs={"weights": weights})
    model = SYSTEMS["dco"].equipped(tiny, request)
    with pytest.raises(InputError, match=r"not known what <toy> began as.*--base"):
        dco.prepare(model, request, None)
    dco.prepare(model, replace(request, inputs={"weights": weights, "base": ("a mug",)}), None)


def test_diffusers_loads_what_dreambooth_wrote(folder: Path, toy: Path, tmp_path: Path) -> None:
    from diffusers import StableDiffusionPipeline

    model: Any = load_backbone(str(folder), device="cpu")
    net = taught("dreambooth", model, toy, tmp_path / "out", prior=0, text_encoder=True)
    pipe: Any = StableDiffusionPipeline.from_pretrained(tmp_path / "out", local_files_only=True)
    for name in ("unet", "text_encoder"):
        for key, value in net[name].state_dict().items():
            assert torch.equal(value, getattr(pipe, name).state_dict()[key])
    used = equipped("dreambooth", load_backbone(str(folder), device="cpu"), str(tmp_path / "out"))
    pipe.load_textual_inversion(tmp_path / "out", weight_name="learned_embeds.safetensors")
    tokens = pipe.encode_prompt("a <toy> on a box", CPU, 1, False)[0]
    torch.testing.assert_close(used.encode_text(["a <toy> on a box"]).tokens, tokens)


@pytest.mark.parametrize("system", ["dreambooth", "lora"])
def test_weights_count_as_they_are_told(
    system: str, folder: Path, toy: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"prior": 0, "text_encoder": True}
    model: Any = load_backbone(str(folder), device="cpu")
    taught(system, model, toy, tmp_path / "out", **options)
    fresh: Any = load_backbone(str(folder), device="cpu")
    full, half, none = (
        equipped(system, fresh, f"{tmp_path / 'out'}:{weight}") for weight in (1, 0.5, 0)
    )
    plain = fresh.with_words(none.words)
    assert torch.equal(noise(none, "a <toy>"), noise(plain, "a <toy>"))
    change = noise(full, "a mug") - noise(plain, "a mug")
    assert 0.1 < float((noise(half, "a mug") - noise(plain, "a mug")).norm() / change.norm()) < 0.9
    assert float((full.encode_text(["a mug"]).tokens - plain.encode_text(["a mug"]).tokens)
                 .abs().max()) > 1e-4  # fmt: skip


def test_a_subject_and_a_look_count_together(folder: Path, toy: Path, tmp_path: Path) -> None:
    model: Any = load_backbone(str(folder), device="cpu")
    taught("lora", model, toy, tmp_path / "one")
    other = load_backbone(str(folder), device="cpu")
    place = tmp_path / "look"
    place.mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32), (90 * number, 0, 200)).save(place / f"{number}.png")
    training = SYSTEMS["lora"].training
    assert training is not None
    told = lora.Options(name="<wash>", kind="style", prompt="a box in {}", rank=2)
    look = Lesson(subject.read_subject(place, 32, told), {}, told, out=tmp_path / "two")
    loop.train(training.learn(other, look), Recipe(3, 2, 0.02, warmup=0), tmp_path / "two",
               device=CPU)  # fmt: skip
    fresh = load_backbone(str(folder), device="cpu")
    both = equipped("lora", fresh, str(tmp_path / "one"), f"{tmp_path / 'two'}:0.5")
    assert both.words.keys() == {"<toy>", "<wash>"}
    assert list(both.adapters.values()) == [1.0, 0.5]
    first, second = both.adapters
    said = "a <toy> in <wash>"
    for adapters in ({first: 1.0}, {second: 0.5}, {}):
        assert not torch.equal(noise(both, said), noise(both, said, adapters=adapters))


def test_what_was_learned_serves_other_systems(folder: Path, toy: Path, tmp_path: Path) -> None:
    taught("lora", load_backbone(str(folder), device="cpu"), toy, tmp_path / "out")
    fresh: Any = load_backbone(str(folder), device="cpu")
    alone = equipped("lora", fresh, f"{tmp_path / 'out'}:0.5")
    said = {"learned": [f"{tmp_path / 'out'}:0.5"]}
    beside = [name for name, row in SYSTEMS.items() if any(i.name == "learned" for i in row.inputs)]
    assert len(beside) >= 6
    for name in beside:
        row = SYSTEMS[name]
        given = {i.name: i.read(said[i.name]) for i in row.inputs if i.name in said}
        used: Any = row.equipped(fresh, Request("a <toy>", inputs=given))
        assert torch.equal(noise(used, "a <toy>"), noise(alone, "a <toy>"))
    series = {"reference": ["a red <toy>"], **said}
    asks = SYSTEMS["style_aligned"].request("a <toy> on a box", series)
    model = SYSTEMS["style_aligned"].equipped(fresh, asks)
    ready = SYSTEMS["style_aligned"].prepare(model, replace(asks, size=32, guide=Guide(5.0)), None)
    x, t = torch.randn(2, 4, 8, 8, generator=torch.manual_seed(0)), torch.full((2,), 401)
    with torch.no_grad():
        made, plain = ready.score(x, t)[:1], sampled(alone, "a red <toy>", scale=5.0)(x[:1], t[:1])
    torch.testing.assert_close(made, plain, atol=1e-4, rtol=0)  # the reference is its own picture


def test_consistency_guidance_is_between_the_models(
    folder: Path, toy: Path, tmp_path: Path
) -> None:
    model: Any = load_backbone(str(folder), device="cpu")
    taught("dco", model, toy, tmp_path / "out", rank=4)
    used: StableDiffusion = equipped("dco", load_backbone(str(folder), device="cpu"),
                                     str(tmp_path / "out"))  # fmt: skip
    x, t = torch.randn(1, 4, 8, 8, generator=torch.manual_seed(0)), torch.tensor([601])

    def made(scale: float) -> Tensor:
        request = Request("a <toy>, big", Guide(7.5, "grey"), knobs=dco.Knobs(consistency=scale),
                          inputs={"weights": ((tmp_path / "out", 1.0),)})  # fmt: skip
        with torch.no_grad():
            return dco.prepare(used, request, None).score(x, t)

    def one(prompt: str, adapters: Any) -> Tensor:
        with torch.no_grad():
            told = replace(used.encode_text([prompt]), adapters=adapters)
            return used.predict_noise(x, t, told)

    learned, plain, empty = (
        one("a <toy>, big", used.adapters),
        one("a mug, big", {}),
        one("grey", {}),
    )
    torch.testing.assert_close(made(0.0), empty + 7.5 * (plain - empty), atol=1e-4, rtol=0)
    torch.testing.assert_close(made(7.5), empty + 7.5 * (learned - empty), atol=1e-4, rtol=0)


def test_the_rows_that_dco_learns_keep_their_length(tiny: Any, toy: Path, tmp_path: Path) -> None:
    before = rows_of(tiny, "mug")[0]
    net = taught("dco", tiny, toy, tmp_path / "out", rank=2)
    (after,) = net["rows"].words()["<toy>"]
    torch.testing.assert_close(after.norm(dim=-1), before.norm(dim=-1))
    assert float(F.cosine_similarity(after.detach(), before).max()) < 0.9999


def test_what_was_learned_elsewhere_is_refused_by_name(
    folder: Path, toy: Path, tmp_path: Path, tiny: Any
) -> None:
    xl: Any = load_backbone(str(tiny_folder(tmp_path / "xl", "sdxl")), device="cpu")
    taught("textual_inversion", tiny, toy, tmp_path / "word")
    taught("lora", tiny, toy, tmp_path / "lora")
    for system, name in (("textual_inversion", "word"), ("lora", "lora")):
        with pytest.raises(InputError, match="was learned on backbone 'tiny' and does not fit"):
            equipped(system, xl, str(tmp_path / name))
    with pytest.raises(InputError, match=r"lora and .*word both learned a word '<toy>'"):
        equipped("lora", tiny, str(tmp_path / "lora"), str(tmp_path / "word"))
    (tmp_path / "none").mkdir()
    for place, said in (("none", "holds nothing that was learned"), ("gone", "no weights at")):
        with pytest.raises(InputError, match=said):
            equipped("lora", tiny, str(tmp_path / place))
    with pytest.raises(InputError, match="has rank 4, and rank=8 is asked for"):
        lora.load_lora(tiny, tmp_path / "lora", lora.Options(rank=8))


@pytest.mark.filterwarnings("always")
def test_a_thing_is_taught_and_drawn_by_commands(
    threed: Callable[..., Answer], folder: Path, toy: Path, tmp_path: Path
) -> None:
    for system in NAMES:
        out, picture = tmp_path / system, tmp_path / f"{system}.png"
        prior = ["class_pictures=3"] if system == "dreambooth" else []
        answer = threed("train", system, "name=<toy>", "kind=mug", *prior, "--data", toy, "--out",
                        out, "--backbone", folder, "--steps", 2, "--batch", 2)  # fmt: skip
        assert answer.status == 0, answer.err
        assert "4 pictures of 40×48 pixels" in answer.err
        assert (out / "sheet.png").is_file()
        made = threed("image", "a <toy>", "--system", system, "--weights", f"{out}:0.8", "--out",
                      picture, "--backbone", folder, "--steps", 2)  # fmt: skip
        assert made.status == 0, made.err
        warned = threed("image", "a mug", "--system", system, "--weights", out, "--out", picture,
                        "--backbone", folder, "--steps", 2)  # fmt: skip
        assert "the prompt does not say <toy>" in warned.err
        again = threed("train", system, "name=<toy>", "kind=mug", *prior, "--data", toy, "--out",
                       tmp_path / f"{system}-2", "--backbone", folder, "--steps", 1, "--batch", 2,
                       "--weights", out)  # fmt: skip
        assert again.status == 0, again.err


def test_in_3d_every_view_knows_the_word(folder: Path, toy: Path, tmp_path: Path) -> None:
    model: Any = load_backbone(str(folder), device="cpu")
    taught("lora", model, toy, tmp_path / "out")
    fresh: Any = load_backbone(str(folder), device="cpu")
    told = SystemSettings(name="lora", inputs={"weights": (f"{tmp_path / 'out'}:0.7",)})
    steered = Steered(fresh, "a <toy>", told, scale=5.0)
    used = equipped("lora", fresh, f"{tmp_path / 'out'}:0.7")
    cameras, x = orbit(4, 32), torch.randn(4, 4, 8, 8, generator=torch.manual_seed(0))
    t = torch.full((4,), 401)
    views = [f"a <toy>, {name} view" for name in ("front", "side", "back", "side")]
    texts, others = used.encode_text(views), used.encode_text([""] * 4)
    with torch.no_grad():
        made = steered.score(cameras, 5.0)(x, t)
        text, other = (used.predict_noise(x, t, told) for told in (texts, others))
    torch.testing.assert_close(made, other + 5 * (text - other), atol=1e-4, rtol=0)
    run = Run(backbone=str(folder), system=told)
    assert all_prompts(run, "a <toy>") == {"the prompt": "a mug"}
