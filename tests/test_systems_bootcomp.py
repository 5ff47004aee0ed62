"""BootComp: the published equations, and how it makes what it learns from."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.systems import asked, prepared
from tests.test_diffusion_reference_attention import Sliced, processors
from tests.tiny import eye_folder, tiny_folder
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.paint import paint
from threed.diffusion.parts.channels import widened, with_unet
from threed.diffusion.parts.image_encoder import ImageEncoder
from threed.diffusion.parts.reference_attention import recorded
from threed.learning.data import Examples, write_examples
from threed.learning.loop import train_stages
from threed.learning.recipe import Recipe
from threed.systems.inputs import GARMENT
from threed.systems.system import Lesson
from threed.systems.tryon import composition, outfit_school
from threed.systems.tryon.bootcomp import SYSTEM, Knobs, Options, Outfit, build
from threed.systems.tryon.outfit_school import School, filtered, lessons, read_outfits

CPU = torch.device("cpu")
ZERO = torch.zeros(1, dtype=torch.long)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    folder = tiny_folder(tmp_path_factory.mktemp("tiny") / "m")
    eye_folder(folder / "clip")
    loaded = load_backbone(str(folder), device="cpu")
    assert isinstance(loaded, StableDiffusion)
    return loaded


def unet_of(backbone: StableDiffusion) -> Any:
    """Another UNet, always the same."""
    torch.manual_seed(5)
    unet = widened(backbone.unet, 0)
    for value in unet.parameters():
        value.data += 0.05 * torch.randn_like(value)
    return unet.eval().requires_grad_(False)


def test_three_branches_are_weighed_as_published(backbone: StableDiffusion) -> None:
    """Features of garments at t = 0, side by side as keys; zeros for none; e_T - e_G, e_G - e_0."""
    unet, flat, t = unet_of(backbone), torch.rand(2, 3, 32, 32), torch.tensor([500])
    x = torch.randn(1, 4, 8, 8)
    worn = Outfit(flat, ["shirt", "hat"], torch.ones(1, 2, dtype=torch.bool))
    ours = build(backbone, "two", unet, worn, guide=Guide(4.0, "grey"))(x, t)
    view = with_unet(backbone, unet)
    about = backbone.encode_text(["A photo of shirt", "A photo of hat"])
    seen = recorded(view, backbone.encode_image(flat), ZERO.expand(2), about).features
    noises = []
    for words, there in (("grey", 0), ("grey", 1), ("two", 1)):
        every = {name: Sliced(there * value.flatten(0, 2)[None]) for name, value in seen.items()}
        with processors(backbone, every.get):
            noises.append(backbone.predict_noise(x, t, backbone.encode_text([words])))
    none, garments, both = noises
    expected = none + 4 * (both - garments) + 2 * (garments - none)
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)
    assert float((garments - none).abs().max()) > 1e-3


def test_persons_with_garments_each_are_made_one_by_one(backbone: StableDiffusion) -> None:
    unet, flat, t = unet_of(backbone), torch.rand(3, 3, 32, 32), torch.tensor([500, 40])
    x, names = torch.randn(2, 4, 8, 8), ["shirt", "hat", "two"]
    there = torch.tensor([[True, False], [True, True]])
    together = build(backbone, ["a", "b"], unet, Outfit(flat, names, there))(x, t)
    for row, (part, words) in enumerate(((slice(0, 1), "a"), (slice(1, 3), "b"))):
        alone = Outfit(flat[part], names[part], there[row : row + 1, : part.stop - part.start])
        one = build(backbone, words, unet, alone)(x[row : row + 1], t[row : row + 1])
        torch.testing.assert_close(one, together[row : row + 1], atol=2e-5, rtol=1e-4)


def test_laying_flat_is_guided_away_from_no_garment(backbone: StableDiffusion) -> None:
    unet, worn, t = unet_of(backbone), torch.rand(1, 3, 32, 32), torch.tensor([500])
    x, view = torch.randn(1, 4, 8, 8), with_unet(backbone, unet)
    ours = composition.laid_flat(backbone, worn, ["hat"], unet, scale=3.0)(x, t)
    noises = []
    for words, latents in (("", torch.zeros_like(x)),
                           ("A product photo of hat", backbone.encode_image(worn))):  # fmt: skip
        told = view.encode_text([words])
        seen = recorded(view, latents, ZERO, told, silent=True)
        noises.append(view.predict_noise(x, t, replace(told, attention=(seen,))))
    torch.testing.assert_close(ours, torch.lerp(*noises, 3.0), atol=2e-5, rtol=1e-4)


def test_the_filter_keeps_what_is_most_like_what_is_worn(backbone: StableDiffusion) -> None:
    encoder = ImageEncoder(backbone.folder / "clip", CPU)
    worn = torch.rand(3, 3, 32, 32)
    alike = composition.likeness(encoder, worn, torch.cat([worn[:2], 1 - worn[2:]]))
    torch.testing.assert_close(alike[:2], torch.ones(2))
    assert float(alike[2]) < 0.999
    rows = [{"image": name, "likeness": value} for name, value in
            (("a", "0.9"), ("b", "0.1"), ("c", "0.95"), ("d", "0.3"))]  # fmt: skip
    for kept, names in ((1.0, "abcd"), (0.5, "ac"), (0.01, "c")):
        assert "".join(row["image"] for row in filtered(rows, kept)) == names


def outfits(folder: Path, count: int = 6) -> Path:
    """Persons in one or two garments, of some of which it is known how they lie flat."""
    folder.mkdir()
    rows = []
    for i in range(count):
        row = {"image": f"{i}.png", "text": f"a person {i}"}
        for number in range(1, 2 + i % 2):
            row |= {f"worn_{number}": f"{i}w{number}.png", f"category_{number}": "hat"}
            if i < count - 1:
                row[f"flat_{number}"] = f"{i}f{number}.png"
        for role in row:
            if row[role].endswith(".png"):
                picture = Image.new("RGB", (32, 32), "white")
                picture.paste((40 * i, 30 * len(role), 99), (6, 6, 26, 26))
                picture.save(folder / row[role])
        rows.append(row)
    write_examples(folder, rows)
    return folder


@pytest.fixture
def teach(
    backbone: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Train both stages for so many steps; what was said."""
    monkeypatch.setattr(outfit_school, "STEPS", 1)
    folder = outfits(tmp_path / "data")

    def run(steps: int, out: str, *, resume: bool = False) -> list[str]:
        torch.manual_seed(0)
        said: list[str] = []
        lesson = Lesson(read_outfits(folder, 32), {"system": "bootcomp"}, Options(kept=0.6),
                        out=tmp_path / out, say=said.append)  # fmt: skip
        recipe = Recipe(steps=steps, batch=2, lr=0.01, warmup=1)
        train_stages(lessons(backbone, lesson), recipe, tmp_path / out, device=CPU, resume=resume)
        return said

    return run


def test_the_loop_runs_from_end_to_end(
    backbone: StableDiffusion, teach: Callable[..., list[str]], tmp_path: Path
) -> None:
    said = teach(1, "out")
    out = tmp_path / "out"
    assert "laying flat 5 garments, as examples to learn from" in said
    rows = [json.loads(line) for line in (out / "made/metadata.jsonl").read_text().splitlines()]
    # the first half of six teaches the decomposition; 3, 4 and 5 wear two, one and two
    assert [(row["person"], row["number"]) for row in rows] == [
        ("3.png", "1"), ("3.png", "2"), ("4.png", "1"), ("5.png", "1"), ("5.png", "2"),
    ]  # fmt: skip
    assert all(-1 <= float(row["likeness"]) <= 1 for row in rows)
    assert all((out / "made" / row["image"]).is_file() for row in rows)
    for folder in ("decomp", "comp"):
        own = composition.load_unet(backbone, out / folder).state_dict()
        assert any(not torch.equal(own[name], value)
                   for name, value in backbone.unet.state_dict().items())  # fmt: skip
    assert (out / "sheet.png").is_file()
    assert (out / "decomp" / "sheet.png").is_file()
    # what is worn is laid flat, and both are worn
    request = asked("a person", 32, weights=out, knobs=Knobs(product_steps=1),
                    garment=(("shirt", tmp_path / "data/0f1.png"),),
                    worn=(("hat", tmp_path / "data/3w1.png"),))  # fmt: skip
    loaded = SYSTEM.load(backbone, request)
    assert loaded.outfit.names == ["shirt", "hat"]
    assert loaded.outfit.flat.shape == (2, 3, 32, 32)
    made = paint(backbone, prepared(SYSTEM, backbone, request), steps=1, size=32)
    assert made.shape == (1, 3, 32, 32)
    # resumed, what is made is not made again, and the last stage goes on
    said = teach(2, "out", resume=True)
    assert not any("laying flat" in line for line in said)
    steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
    assert steps == [1, 2]


def test_only_attention_learns_where_that_is_asked_for(
    backbone: StableDiffusion, tmp_path: Path
) -> None:
    lesson = Lesson(read_outfits(outfits(tmp_path / "data"), 32), {}, Options(layers="attention"))
    school = School(backbone, lesson)
    for net in (school.decomp, school.comp):
        for name, value in net.named_parameters():
            own = ".attentions." in name and ".norm." not in name  # of which all are group norms
            assert value.requires_grad == own


def test_the_encoder_learns_through_the_frozen_generator(
    backbone: StableDiffusion, tmp_path: Path
) -> None:
    lesson = Lesson(read_outfits(outfits(tmp_path / "data"), 32), {}, Options(), out=tmp_path / "o")
    school = School(backbone, lesson)
    school.lay = lambda worn, names, seed: worn  # type: ignore[method-assign]
    school.composition_loss(school.comp, 4, torch.Generator().manual_seed(0)).backward()
    named = dict(school.comp.named_parameters())
    assert float(named["conv_in.weight"].grad.abs().max()) > 0
    assert named["conv_out.weight"].grad is None  # nothing looks at what it predicts
    assert all(value.grad is None for value in backbone.unet.parameters())


def test_what_cannot_be_worn_or_learned_from_is_refused(
    backbone: StableDiffusion, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="needs --garment, a picture of one laid flat, or --worn"):
        SYSTEM.check(asked("a person"))
    assert GARMENT.read("shirt:a.png") == ("shirt", Path("a.png"))
    assert GARMENT.read("a.png") == ("garment", Path("a.png"))
    assert GARMENT.with_files("hat:a.png", lambda path: path.with_suffix(".jpg")) == "hat:a.jpg"
    folder = outfits(tmp_path / "data")
    examples = read_outfits(folder, 32)
    for rows in (examples.rows[:2], [row for row in examples.rows if "flat_1" not in row]):
        few = Lesson(Examples(folder, rows, 32), {}, Options(paired=0.9))
        with pytest.raises(InputError, match="some are needed of both"):
            School(backbone, few)
    write_examples(folder, [{"image": "0.png", "text": "a person", "worn_1": "0w1.png"}])
    with pytest.raises(InputError, match=r"the example of 0\.png has worn_1, and no category_1"):
        read_outfits(folder, 32)
    write_examples(folder, [{"image": "0.png", "text": "a person"}])
    with pytest.raises(InputError, match="no example has a garment: each needs worn_1"):
        read_outfits(folder, 32)
