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
from threed.runs.edit import dressed, make_edits
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


@pytest.mark.parametrize("name", NETS)
def test_a_view_is_painted_where_the_garment_goes_and_nowhere_else(
    name: str, backbone: StableDiffusion, shirt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known(name, backbone, monkeypatch)
    regions = np.zeros((SIDE, SIDE), np.int64)
    regions[10:22, 8:24], regions[2:10, 12:20] = index("upper")[0], index("face")[0]
    person, pose, dense, now, later = torch.rand(5, 1, 3, SIDE, SIDE)
    sight = Sight(person, regions, pose, dense)
    run = replace(make_run(backbone.folder), system=told(name, shirt))
    (editor,) = dressed(backbone, "a red shirt", run, STAGE, [sight])
    made = editor(person, now, 0.9, Generator().manual_seed(0))
    inside = (sight.mask(["upper"]) > 0).expand_as(person)
    assert torch.equal(made[~inside], person[~inside])
    assert float((made - person)[inside].abs().mean()) > 0.05
    other = editor(person, later, 0.9, Generator().manual_seed(0))
    assert not torch.equal(other, made), "it begins from how the view looks now"


def test_an_asset_is_dressed_view_by_view_and_what_is_not_covered_stays(
    backbone: StableDiffusion, shirt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known("bootcomp", backbone, monkeypatch)
    stage, mesh = replace(STAGE, resolution=constant(SIDE)), mesh_of(PERSONS[0])
    run = replace(make_run(backbone.folder), system=told("bootcomp", shirt))
    guide = make_edits(stage, mesh, backbone, run, "a red shirt")
    drawn, chance = orbit(2, SIDE), Generator().manual_seed(0)
    for step in range(4):
        loss = guide(torch.rand(2, SIDE, SIDE, 3), guide.cameras(step, drawn), step, chance)
        assert float(loss["edit"]) > 0
    change = (guide.pictures != guide.album.pictures).any(-1)
    assert int(change.flatten(1).any(1).sum()) == 2, "one each second step"
    views = sights(mesh, guide.album.cameras, SIDE)
    masks = torch.cat([sight.mask(["upper"]) for sight in views])[:, 0]
    assert not bool((change & (masks == 0)).any())
    own, files = kept(run, "inputs")
    assert own.system.inputs["garment"] == ("shirt:inputs/garment1.png",)
    assert files["inputs/garment1.png"] == shirt.read_bytes()


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
