"""What try-on is told: a person, a garment and where; and everything that does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from threed.core.errors import InputError
from threed.diffusion.bodies import (
    ATR,
    GREY,
    LIP,
    MARGIN,
    NAMES,
    cut_out,
    from_colors,
    index,
    is_of,
    paint_mask,
    regions_of,
    split_arms,
    to_colors,
)
from threed.diffusion.catalog import TOYBOX
from threed.diffusion.images import PictureWarning
from threed.systems.system import Request
from threed.systems.tryon.wear import INPUTS, check_people, check_shown, worn
from threed.toybox.world.dressed import fitting_pictures, random_fitting
from threed.toybox.world.garments import laid_flat
from threed.toybox.world.scenes import draw_scene

NO_CLIP: Any = SimpleNamespace(folder=Path("nowhere"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures of one example, by role."""
    place = tmp_path_factory.mktemp("fitting")
    made = random_fitting(np.random.default_rng(3), "upper")
    view, flat = draw_scene(made.scene), draw_scene(laid_flat(made.garment))
    for role, colors in fitting_pictures(view, made.garment, flat).items():
        pixels = (colors * 255).round().astype(np.uint8)
        Image.fromarray(pixels).save(place / f"{role}.png")
    return place


def request(folder: Path, **changes: Any) -> Request:
    """What is asked of the example; None leaves an input out."""
    told = {"person": "image.png", "garment": "garment.png", "mask": "mask.png"} | changes
    texts = {name: (str(folder / value) if isinstance(value, str) and "." in value else value,)
             for name, value in told.items() if value is not None}  # fmt: skip
    known = {item.name: item for item in INPUTS}
    inputs = {name: known[name].read(words) for name, words in texts.items()}
    return Request("a person in a shirt", inputs=inputs)


def shown(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].float() / 255


def test_what_is_worn_is_read_as_it_lies_there(folder: Path) -> None:
    seen = worn(request(folder, pose="pose.png", dense="dense.png", parse="parse.png"), NO_CLIP)
    for name in ("person", "garment", "pose", "dense", "parse", "agnostic"):
        file = "image" if name == "person" else name
        assert torch.equal(getattr(seen, name), shown(folder / f"{file}.png")), name
    assert torch.equal(seen.mask, shown(folder / "mask.png")[:, :1])
    assert (seen.category, seen.text) == ("upper", "a person in a shirt")
    assert worn(request(folder, garment_text="a red shirt"), NO_CLIP).text == "a red shirt"
    assert float(seen.agnostic[seen.mask.expand(1, 3, -1, -1) > 0].max()) == pytest.approx(GREY)


def test_outside_the_mask_the_person_stays_bit_by_bit(folder: Path) -> None:
    seen = worn(request(folder), NO_CLIP)
    made = torch.rand(3, 3, 64, 64)
    painted = seen.repainted(made)
    inside = seen.mask.expand(3, 3, -1, -1) > 0
    assert torch.equal(painted[~inside], seen.person.expand(3, -1, -1, -1)[~inside])
    assert torch.equal(painted[inside], made[inside])


def test_a_mask_is_made_of_a_parse_map_where_none_is_given(folder: Path) -> None:
    seen = worn(request(folder, mask=None, parse="parse.png"), NO_CLIP)
    regions = from_colors(np.array(Image.open(folder / "parse.png")), "it")
    assert np.array_equal(seen.mask[0, 0].numpy() > 0, paint_mask(regions, "upper"))


def test_masks_have_the_margins_of_the_papers() -> None:
    regions = np.zeros((512, 384), np.int64)
    regions[150:300, 120:260] = NAMES.index("upper")
    regions[100:150, 150:220] = NAMES.index("face")
    regions[300:420, 130:250] = NAMES.index("lower")
    published = ndimage.binary_dilation(is_of(regions, "upper"), np.ones((5, 5)), iterations=5)
    assert np.array_equal(paint_mask(regions, "upper"),
                          published & ~is_of(regions, "face", "lower"))  # fmt: skip
    assert np.array_equal(paint_mask(regions[::8, ::8], "upper")[18:38, 13:35],
                          ~is_of(regions[::8, ::8], "face", "lower")[18:38, 13:35])  # fmt: skip
    both = paint_mask(regions, "dress")
    assert both[305, 200]
    assert both[425, 200]
    assert not both[120, 200]
    assert round(512 * MARGIN) == 10


def test_labels_of_others_become_regions() -> None:
    assert len(LIP), len(ATR) == (20, 18)
    labels = np.array([[0, 4, 11, 17]])
    assert [NAMES[i] for i in regions_of(labels, ATR, "it")[0]] == [
        "background", "upper", "face", "other",
    ]  # fmt: skip
    with pytest.raises(InputError, match=r"parse.png has the label 18: labels from 0 to 17 are"):
        regions_of(np.array([[18]]), ATR, "parse.png")
    regions = np.arange(len(NAMES))[None].repeat(4, 0)
    assert np.array_equal(from_colors(to_colors(regions), "it"), regions)
    arm = np.full((64, 64), index("background")[0])
    arm[10:60, 28:36] = index("arms")[0]
    points = np.full((18, 2), np.nan)
    points[[2, 3, 4]] = [[32, 12], [32, 25], [32, 40]]
    hands = np.nonzero(is_of(split_arms(arm, points, 8 / 64), "hands")[:, 32])[0]
    assert (hands.min(), hands.max()) == (45, 59)


def test_what_is_cut_out_lies_on_white_in_the_middle() -> None:
    picture, mask = np.zeros((20, 30, 3), np.uint8), np.zeros((20, 30), bool)
    mask[5:9, 10:18] = True
    cut = cut_out(picture, mask)
    assert cut.shape == (10, 10, 3)
    assert (cut[3:7, 1:9] == 0).all()
    assert cut.sum() == 255 * 3 * (100 - 32)


def spoiled(folder: Path, change: Callable[[Image.Image], Image.Image], role: str) -> str:
    """The name of a role's picture after a change."""
    change(Image.open(folder / f"{role}.png")).save(folder / f"bad-{role}.png")
    return f"bad-{role}.png"


def on(color: str) -> Callable[[Image.Image], Image.Image]:
    """The garment on another ground."""

    def change(picture: Image.Image) -> Image.Image:
        white = (np.array(picture) > 250).all(-1)
        return Image.composite(Image.new("RGB", picture.size, color), picture,
                               Image.fromarray(white))  # fmt: skip

    return change


def twice(picture: Image.Image) -> Image.Image:
    pair = Image.new("RGB", (2 * picture.width, picture.height))
    pair.paste(picture, (0, 0))
    pair.paste(picture, (picture.width, 0))
    return pair


BAD: list[tuple[str, Callable[[Image.Image], Image.Image], str]] = [
    ("mask", lambda p: p.resize((32, 64)), r"--mask .* is 32×64, and --person is 64×64"),
    ("dense", lambda p: p.resize((32, 64)), r"--dense .* is 32×64"),
    ("mask", lambda p: p.point(lambda v: 0), "is empty: 0.0% of it is white"),
    ("mask", lambda p: p.point(lambda v: 255), "is full: 100.0% of it is white"),
    ("mask", lambda p: p.point(lambda v: 255 - v), "seem to be exchanged"),
    ("garment", on("black"), "lies on a dark ground: a garment that is laid flat on white"),
    ("garment", on("skyblue"), "lies on a ground that is not white: .* worn by nobody"),
    ("garment", lambda p: p.point(lambda v: 255), "shows nothing: it is white"),
    ("parse", lambda p: p.point(lambda v: 77), "is no parse map: 100% of it has colours of no"),
    ("parse", lambda p: p.point(lambda v: 0), "shows nobody: a picture of one person"),
]


@pytest.mark.parametrize(("role", "change", "said"), BAD)
def test_pictures_that_do_not_fit_are_refused(
    folder: Path, role: str, change: Callable[[Image.Image], Image.Image], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        worn(request(folder, **{role: spoiled(folder, change, role)}), NO_CLIP)


def test_an_exchanged_mask_is_noticed_by_what_is_worn(folder: Path) -> None:
    name = spoiled(folder, lambda p: p.point(lambda v: 255 - v), "mask")
    with pytest.raises(InputError, match=r"covers .* of what is worn there: black and white"):
        worn(request(folder, mask=name, parse="parse.png"), NO_CLIP)


@pytest.mark.parametrize(("inputs", "said"), [
    ({"category": "hat"}, "--category must be one of upper, lower, dress, got 'hat'"),
    ({"garment_text": "a red skirt"}, "'a red skirt' is of category lower, and does not fit"),
    ({"category": "lower"}, "the prompt 'a person in a shirt' is of category upper, and does not"),
    ({"mask": None, "parse": "parse.png", "category": "dress", "garment_text": "a dress"}, ""),
])  # fmt: skip
def test_a_category_that_does_not_fit_is_told(
    folder: Path, inputs: dict[str, Any], said: str
) -> None:
    if not said:
        assert bool(worn(request(folder, **inputs), NO_CLIP).mask.any())
        return
    with pytest.raises(InputError, match=said):
        worn(request(folder, **inputs), NO_CLIP)


def test_nobody_and_two_persons_are_told(folder: Path) -> None:
    white = Image.new("RGB", (64, 64), "white")
    two = white.copy()
    for left in (5, 40):
        two.paste((20, 40, 60), (left, 10, left + 15, 60))
    for picture, said in ((white, "shows nobody"), (two, "shows 2 persons")):
        with pytest.raises(InputError, match=f"--person it {said}: a picture of one person"):
            check_people(picture, "it", None)
    person = Image.open(folder / "image.png")
    regions = from_colors(np.array(Image.open(folder / "parse.png")), "it")
    check_people(person, "it", regions)
    with pytest.raises(InputError, match="shows 2 persons"):
        check_people(twice(person), "it", np.concatenate([regions, regions], 1))


def test_what_is_missing_is_found_or_refused_by_name(folder: Path) -> None:
    with pytest.raises(InputError, match="--dense is needed, and nothing here finds"):
        worn(request(folder), NO_CLIP, ("dense",))
    for needs, mask, said in (
        (("pose",), "mask.png", r"vitpose.*give the map itself: --pose FILE"),
        ((), None, r"segformer.*give the map itself: --mask FILE or --parse FILE"),
    ):
        with pytest.raises(InputError, match=said):
            worn(request(folder, mask=mask), NO_CLIP, needs)


def test_clothes_are_found_by_a_model_that_is_there(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = np.zeros((64, 64), np.int64)
    labels[8:20, 24:40], labels[20:40, 20:44], labels[40:60, 24:40] = 11, 4, 6
    logits = torch.from_numpy(np.eye(len(ATR), dtype=np.float32)[labels]).permute(2, 0, 1)[None]
    small = logits[..., ::2, ::2]
    models = (lambda picture, return_tensors: {}, lambda: SimpleNamespace(logits=small))
    monkeypatch.setattr("threed.diffusion.detect._models", lambda *told: models)
    seen = worn(request(folder, mask=None), NO_CLIP)
    expected = paint_mask(regions_of(labels, ATR, "it"), "upper")
    assert (seen.mask[0, 0].numpy() > 0).sum() == pytest.approx(expected.sum(), rel=0.03)


def test_tall_and_wide_pictures_are_cut_alike_and_garments_stay_whole(folder: Path) -> None:
    wide = {role: spoiled(folder, lambda p: p.resize((128, 64)), role)
            for role in ("image", "mask", "garment")}  # fmt: skip
    told = request(folder, person=wide["image"], mask=wide["mask"], garment=wide["garment"])
    with pytest.warns(PictureWarning, match="its middle, 64×64"):
        seen = worn(told, NO_CLIP)
    half = shown(folder / "bad-image.png")[..., 32:96]
    assert torch.equal(seen.person, half)
    assert set(seen.mask.unique().tolist()) == {0.0, 1.0}
    assert float(seen.garment[..., :15, :].min()) == 1
    assert float(seen.garment.min()) < 0.9
    with pytest.warns(PictureWarning, match="its middle, 48×64"):
        tall = worn(replace(request(folder), size=(48, 64)), NO_CLIP)
    assert torch.equal(tall.person, shown(folder / "image.png")[..., 8:56])
    assert tall.mask.shape == (1, 1, 64, 48)
    aside = np.zeros((64, 128), np.uint8)
    aside[20:40, 2:20] = 255
    Image.fromarray(aside).save(folder / "aside.png")
    with (
        pytest.raises(InputError, match="lies outside of its middle"),
        pytest.warns(PictureWarning),
    ):
        worn(replace(told, inputs={**told.inputs, "mask": (folder / "aside.png",)}), NO_CLIP)


def test_transparent_garments_lie_on_white(folder: Path) -> None:
    picture = Image.open(folder / "garment.png").convert("RGBA")
    pixels = np.array(picture)
    pixels[(pixels[..., :3] > 250).all(-1)] = (0, 0, 0, 0)
    Image.fromarray(pixels).save(folder / "clear.png")
    with pytest.warns(PictureWarning, match="transparent in parts, which lie on white"):
        seen = worn(request(folder, garment="clear.png"), NO_CLIP)
    assert float((seen.garment - shown(folder / "garment.png")).abs().max()) < 0.03


def test_a_clip_beside_the_backbone_tells_people_from_garments(folder: Path) -> None:
    base: Any = SimpleNamespace(folder=TOYBOX, device=torch.device("cpu"))
    person, garment = (shown(folder / f"{role}.png") for role in ("image", "garment"))
    check_shown(base, person, garment)
    with pytest.raises(InputError, match="--garment shows somebody who wears it"):
        check_shown(base, person, person)
    with pytest.raises(InputError, match="--person shows no person, but a garment"):
        check_shown(base, garment, garment)
