"""Assets of toy persons in other garments: what each system paints, a run, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace as changed
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator

from guidance.patchwork import Patchwork
from tests import tiny
from tests.systems import bending, looking, wearing
from tests.test_editing import STAGE, make_run
from tests.test_runs_bodies import PERSONS, mesh_of
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.core.schedule import constant
from threed.diffusion.bodies import index
from threed.diffusion.catalog import load_backbone
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.runs import edit
from threed.runs.bodies import sights
from threed.runs.edit import make_edits
from threed.runs.job import Edit3d
from threed.runs.steer import kept
from threed.settings.base import replace
from threed.settings.run import SystemSettings
from threed.systems.table import SYSTEMS
from threed.systems.tryon import bootcomp, ladi_vton
from threed.systems.tryon.sight import Sight
from threed.systems.tryon.wear import category_named

SIDE = 32


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    folder = tiny.tiny_folder(tmp_path_factory.mktemp("tiny") / "sd15")
    found = load_backbone(str(folder), device="cpu")
    assert isinstance(found, StableDiffusion)
    return found


@pytest.fixture(scope="module")
def shirt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("garment") / "shirt.png"
    picture = Image.new("RGB", (SIDE, SIDE), "white")
    picture.paste((200, 30, 30), (8, 8, 24, 24))
    picture.save(path)
    return path


def composing(base: Any) -> bootcomp.Loaded:
    flat, there = torch.rand(1, 3, SIDE, SIDE), torch.ones(1, 1, dtype=torch.bool)
    return bootcomp.Loaded(base.unet, bootcomp.Outfit(flat, ["shirt"], there))


NETS: dict[str, Callable[[Any], Any]] = {
    "ladi_vton": lambda base: bending(base, taught=True),
    "stable_viton": lambda base: looking(base, taught=True),
    "idm_vton": wearing,
    "bootcomp": composing,
}


def known(name: str, backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the nets of a system be small ones."""
    nets = NETS[name](backbone)
    row = changed(SYSTEMS[name], load=lambda *_: nets)
    monkeypatch.setattr(edit, "find_system", lambda _: row)
    monkeypatch.setattr(ladi_vton, "WORN", {"upper": "it"})  # few tokens are read


def told(name: str, shirt: Path) -> SystemSettings:
    named = f"shirt:{shirt}" if name == "bootcomp" else str(shirt)
    return SystemSettings(name=name, inputs={"garment": (named,)})


def guided(
    name: str, backbone: StableDiffusion, shirt: Path, monkeypatch: pytest.MonkeyPatch
) -> Patchwork:
    """What dresses the asset of a person, by a system with small nets."""
    known(name, backbone, monkeypatch)
    stage = replace(STAGE, resolution=constant(SIDE))
    run = replace(make_run(backbone.folder), system=told(name, shirt))
    guide = make_edits(stage, mesh_of(PERSONS[0]), backbone, run, "a red shirt")
    assert isinstance(guide, Patchwork)
    return guide


@pytest.mark.parametrize("name", NETS)
def test_a_view_is_painted_where_it_is_asked_for_and_nowhere_else(
    name: str, backbone: StableDiffusion, shirt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = guided(name, backbone, shirt, monkeypatch)
    paint, mask = guide.painters[0], guide.masks[0]
    where = mask.clone()
    where[:, : SIDE // 2] = False
    assert bool(where.any())
    assert not torch.equal(where, mask)
    picture = guide.pictures[0].movedim(-1, 0)[None]
    makes = [paint(one, where[None, None].float(), Generator().manual_seed(0))
             for one in (picture, picture.lerp(torch.rand(1, 3, 1, 1), 0.5))]  # fmt: skip
    assert torch.equal(makes[0][..., ~where], picture[..., ~where])
    assert float((makes[0] - picture)[..., where].abs().mean()) > 0.05
    if name != "idm_vton":  # whose further channels are of zeros here
        assert not torch.equal(makes[0][..., where], makes[1][..., where]), "it is told the rest"


def test_an_asset_is_dressed_view_by_view_and_what_is_not_covered_stays(
    backbone: StableDiffusion, shirt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = guided("bootcomp", backbone, shirt, monkeypatch)
    drawn, chance = orbit(2, SIDE), Generator().manual_seed(0)
    for step in range(4):
        loss = guide(torch.rand(2, SIDE, SIDE, 3), guide.cameras(step, drawn), step, chance)
        assert float(loss["edit"]) > 0
    change = (guide.pictures != guide.album.pictures).any(-1)
    assert int(change.flatten(1).any(1).sum()) == 2, "one each second step"
    views = sights(mesh_of(PERSONS[0]), guide.album.cameras, SIDE)
    masks = torch.cat([sight.mask(["upper"]) for sight in views])[:, 0]
    assert torch.equal(guide.masks, masks > 0)
    assert not bool((change & (masks == 0)).any())
    heights = guide.album.cameras.elevation_deg
    assert float(heights.min()) > -4
    assert float(heights.max()) < 16
    run = replace(make_run(backbone.folder), system=told("bootcomp", shirt))
    own, files = kept(run, "inputs")
    assert own.system.inputs["garment"] == ("shirt:inputs/garment1.png",)
    assert files["inputs/garment1.png"] == shirt.read_bytes()


def test_only_a_part_of_a_mask_may_be_painted() -> None:
    regions = np.zeros((SIDE, SIDE), np.int64)
    regions[10:22, 8:24] = index("upper")[0]
    picture, left = torch.rand(1, 3, SIDE, SIDE), torch.zeros(1, 1, SIDE, SIDE)
    left[..., : SIDE // 2] = 1
    whole = Sight(picture, regions, picture, picture).mask(["upper"])
    part = Sight(picture, regions, picture, picture, left).mask(["upper"])
    assert torch.equal(part, whole * left)
    assert 0 < float(part.sum()) < float(whole.sum())


@pytest.mark.parametrize(("system", "inputs", "text", "said"), [
    ("rpg", {}, "a shirt", "system 'rpg' changes no assets: take one that edits a picture"),
    ("idm_vton", {}, "a shirt", "system 'idm_vton' needs --garment"),
    ("idm_vton", {"mask": ("m.png",)}, "a shirt", "--mask is about one picture, and an asset has"),
    ("ladi_vton", {"person": ("p.png",)}, "a shirt", "--person is about one picture"),
    ("idm_vton", {"garment": ("g.png",)}, "a red skirt", "the prompt 'a red skirt' is of category"),
    ("bootcomp", {}, "a shirt", "needs --garment, a picture of one laid flat, or --worn"),
    (None, {"garment": ("g.png",)}, "a shirt", "--garment is for a system: say which"),
])  # fmt: skip
def test_what_cannot_dress_an_asset_is_refused(
    system: str | None, inputs: dict[str, tuple[str, ...]], text: str, said: str
) -> None:
    job = Edit3d(asset=Path("a.glb"), instruction=text, system=system, inputs=inputs)
    with pytest.raises(InputError, match=said):
        job.check()


def test_a_garment_says_by_its_name_where_it_is_worn() -> None:
    assert [category_named(name) for name in ("shirt", "Blue jeans", "dress", "lower")] == [
        "upper", "lower", "dress", "lower"
    ]  # fmt: skip
    for name in ("garment", "hat", "a shirt and a skirt"):
        with pytest.raises(InputError, match=f"{name!r} does not say where it is worn"):
            category_named(name)
