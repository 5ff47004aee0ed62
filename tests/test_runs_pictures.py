"""`threed render --protocol`: pictures, their manifest, and going on with what is there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from exporters import protocols, save
from exporters.protocols import PROTOCOLS
from tests.conftest import Answer
from tests.shapes import cube
from threed.runs.pictures import Gallery
from threed.runs.progress import Progress


@pytest.fixture
def red(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A red box in a run's folder; protocols have fewer and smaller pictures."""
    monkeypatch.setattr(protocols, "SIZE", 24)
    for name, protocol in PROTOCOLS.items():
        few = [replace(one, cameras=one.cameras[:3]) for one in protocol.series()[:2]]
        monkeypatch.setitem(PROTOCOLS, name, replace(protocol, series=lambda few=few: tuple(few)))
    box = replace(cube(), colors=torch.tensor([1.0, 0, 0]).expand(8, 3))
    save(box, tmp_path / "run" / "asset.glb")
    return tmp_path / "run"


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_command_draws_and_says_what_it_drew(
    name: str, red: Path, threed: Callable[..., Answer]
) -> None:
    answer = threed("render", red, "--protocol", name)
    assert (answer.status, answer.out) == (0, f"{red / name}\n")
    manifest = json.loads((red / name / "manifest.json").read_text())
    names = [one.file(view) for one in PROTOCOLS[name].series() for view in range(3)]
    assert list(manifest["pictures"]) == names
    for picture, digest in manifest["pictures"].items():
        assert hashlib.sha256((red / name / picture).read_bytes()).hexdigest() == digest
        with Image.open(red / name / picture) as image:
            assert (image.size, image.mode) == ((24, 24), "RGB")
    made = manifest["made_of"]
    assert made["asset_sha256"] == hashlib.sha256((red / "asset.glb").read_bytes()).hexdigest()
    assert (made["protocol"], made["asset"]) == (name, "asset.glb")
    assert made["source"] == PROTOCOLS[name].about
    assert made["versions"].keys() == {"threed", "torch", "pillow", "python"}


def test_what_is_there_is_kept_until_the_asset_changes(red: Path) -> None:
    gallery, told = Gallery(red / "six", "mate3d"), list[Progress]()
    first = gallery.fill(red, told.append)
    assert [(one.step, one.steps) for one in told] == [(1, 3), (2, 3), (3, 3)]
    one, two, _ = gallery.judged
    one.unlink()
    kept, told = two.stat().st_mtime_ns, []
    assert gallery.fill(red, told.append) == first
    assert [(one.step, one.steps) for one in told] == [(3, 3)]
    assert two.stat().st_mtime_ns == kept
    save(replace(cube(), colors=torch.tensor([0, 0, 1.0]).expand(8, 3)), red / "asset.glb")
    second = gallery.fill(red)
    assert second["made_of"]["mesh_sha256"] != first["made_of"]["mesh_sha256"]
    assert not first["pictures"].items() & second["pictures"].items()


def test_a_mesh_of_its_own_gets_a_folder_beside_it(
    red: Path, threed: Callable[..., Answer]
) -> None:
    answer = threed("render", red / "asset.glb", "--protocol", "mate3d")
    assert answer.out == f"{red / 'asset-mate3d'}\n"
    assert threed("render", red, "--protocol", "t4bench").status == 2
