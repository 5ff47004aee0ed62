"""A part of a mesh: found by a box, a mask or a word; painted anew, with all else as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import exporters
from exporters.bake import bake, find_texels
from exporters.pictures import to_bytes
from exporters.unwrap import unwrap
from renderers.kernels.raster import interpolate
from renderers.raster import render_mesh
from tests import tiny
from tests.shapes import sphere
from tests.test_stages import make_run
from threed.core.cameras import Cameras, orbit
from threed.core.errors import InputError
from threed.core.mesh import Mesh
from threed.diffusion.catalog import load_backbone
from threed.runs import loop as pipeline
from threed.runs import part as parts
from threed.runs.check import check_run
from threed.runs.generate import resume, texture
from threed.runs.given import GivenMesh, read_given
from threed.runs.job import Edit3d, Generate, Texture
from threed.runs.optimise import StageRun, optimise
from threed.runs.part import find_part, find_word, heat_of
from threed.runs.stages import first
from threed.scenes.placement import Placement
from threed.settings import base as settings
from threed.settings.run import PartSettings, Run
from threed.settings.scenes import TexturedSettings

BOX = (-2.0, -2.0, 0.1, 2.0, 2.0, 2.0)  # what of a ball around the origin is above it
SIZE = 64  # texels a side


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.tiny_folder(tmp_path_factory.mktemp("models") / "tiny", "multiview"))


def to_paint(backbone: str = "", **part: Any) -> Run:
    return make_run("textured", backbone=backbone, part=PartSettings(**part))


def globe(material: bool = True) -> Mesh:
    """A ball with a map, and on it noise, roughness and normals."""
    mesh = unwrap(replace(sphere(), colors=None), SIZE)
    chance = torch.Generator().manual_seed(0)
    noise = [torch.randint(256, (SIZE, SIZE, 3), generator=chance) / 255 for _ in range(3)]
    names = ("albedo", "metallic_roughness", "normal")[: 3 if material else 1]
    return replace(mesh, material=replace(mesh.material, **dict(zip(names, noise))))


def stored(mesh: Mesh, folder: Path, name: str = "mesh.glb") -> Path:
    exporters.save(mesh, folder / name)
    return folder / name


def grey(folder: Path, values: Tensor) -> str:
    path = folder / "mask.png"
    Image.fromarray((values * 255).byte().numpy()).save(path)
    return str(path)


def places(mesh: Mesh) -> tuple[Tensor, Tensor]:
    """Which texels show a mesh, and where in the world each is."""
    texels = find_texels(mesh, SIZE)
    return texels.known, interpolate(mesh.vertices, texels.hits, mesh.faces)[0, :, 0]


def test_a_box_is_what_of_the_mesh_lies_in_it_in_the_mesh_s_units(tmp_path: Path) -> None:
    large = replace(globe(), vertices=30 * globe().vertices + torch.tensor([5.0, 0, 0]))
    box = (0.0, -99.0, -99.0, 99.0, 99.0, 3.0)
    given, notes = find_part(read_given(stored(large, tmp_path)), to_paint(box=box))
    assert notes == []
    assert given.part is not None
    known, where = places(given.placement.out(given.mesh))
    inside = (where[:, 0] >= 0) & (where[:, 2] <= 3)
    assert torch.equal(given.part[known] > 0, inside)
    assert 0.2 < inside.float().mean() < 0.8


def test_what_is_outside_stays_to_the_bit_and_the_run_can_be_cut(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = stored(globe(), tmp_path)
    run, before = to_paint(model, box=BOX), exporters.load(path)
    run = settings.replace(run, asset=settings.replace(run.asset, lods=1))
    asset = texture(path, "a red mug", run, out=tmp_path / "a")
    after, part = asset.mesh, find_part(read_given(path), run)[0].part
    assert part is not None
    old, new = before.material, after.material
    assert old.albedo is not None
    assert new.albedo is not None
    same = (to_bytes(old.albedo) == to_bytes(new.albedo)).all(-1)
    assert bool(same[part == 0].all())
    assert same[part > 0].float().mean() < 0.1
    for name in ("normal", "metallic_roughness"):
        assert torch.equal(to_bytes(old.maps()[name]), to_bytes(new.maps()[name]))
    corners = [mesh.vertices[mesh.faces] for mesh in (before, after)]
    torch.testing.assert_close(*corners, rtol=0, atol=1e-6)
    assert len(exporters.load(asset.folder / "asset_lod1.glb").faces) < 150 < len(after.faces)
    with Image.open(asset.folder / "part.png") as shown:
        assert shown.size == (8 * parts.SIDE, parts.SIDE)
    with Image.open(asset.folder / "part_mask.png") as mask:
        assert torch.equal(torch.from_numpy(np.array(mask))[..., 0] > 0, part > 0)

    def cut(part: StageRun, *rest: Any) -> None:
        optimise(replace(part, until=1), *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "optimise", cut)
        with pytest.raises(KeyboardInterrupt):
            texture(path, "a red mug", run, out=tmp_path / "b")
    assert resume(tmp_path / "b").glb.read_bytes() == asset.glb.read_bytes()


def test_pictures_teach_the_part_alone() -> None:
    """What is outside shows the mesh's own texture, whatever the paint is."""
    mesh = globe(material=False)
    given, _ = find_part(GivenMesh(mesh, Placement()), to_paint(box=BOX))
    scene = first(to_paint(), given, torch.device("cpu"))
    with torch.no_grad():
        scene.paint.mlp[-1].bias.copy_(torch.tensor([9.0, -9, -9]))  # all red
    views = orbit(3, 48, elevation_deg=0)
    seen, plain = scene.render(views), render_mesh(mesh, views, antialias_factor=1)
    height = (views.position[:, None, None, 2:] + seen.depth * rays(views)[..., 2:])[..., 0]
    whole = seen.opacity[..., 0] == 1
    low, high = whole & (height < 0), whole & (height > 0.2)
    assert torch.allclose(seen.rgb[low], plain.rgb[low], atol=2e-3)
    assert bool((seen.rgb[high] - torch.tensor([1.0, 0, 0])).abs().max() < 0.05)
    assert int(low.sum()) > 300 < int(high.sum())


def rays(views: Cameras) -> Tensor:
    """[B, H, W, 3] unit, through the pixels' middles."""
    half = torch.tan(views.fov_y / 2)[:, None, None]
    at = (torch.arange(views.height) + 0.5) / views.height * 2 - 1
    x, y = (value[None] * half for value in torch.meshgrid(at, -at, indexing="xy"))
    local = torch.stack([x, y, -torch.ones_like(x)], -1)
    world = torch.einsum("bij,bhwj->bhwi", views.c2w[:, :3, :3], local)
    return world / world.norm(dim=-1, keepdim=True)


def test_a_mask_lies_as_the_texture_does_and_mixes(tmp_path: Path) -> None:
    path = stored(globe(), tmp_path)
    values = torch.linspace(0, 1, SIZE).expand(SIZE, SIZE)
    given, notes = find_part(read_given(path), to_paint(mask=grey(tmp_path, values)))
    assert notes == []
    assert given.part is not None
    torch.testing.assert_close(given.part, (values * 255).floor() / 255)
    # a mesh with a map and no picture gets one of the mask's size
    plain = replace(globe(), material=sphere().material)
    bare, _ = find_part(read_given(stored(plain, tmp_path)), to_paint(mask=grey(tmp_path, values)))
    assert bare.mesh.material.albedo is not None
    assert bare.mesh.material.albedo.shape == (SIZE, SIZE, 3)


@pytest.mark.parametrize("mapped", [False, True])
def test_a_mesh_whose_map_cannot_hold_the_part_gets_another_that_shows_the_same(
    tmp_path: Path, mapped: bool
) -> None:
    """Colours of vertices, or a map on which both halves of a ball lie over each other."""
    mesh = sphere(0.6, 24, 36)
    if mapped:
        uv = (mesh.vertices[:, :2] / 1.3 + 0.5).double()
        mesh = replace(mesh, colors=None, uv=uv, uv_faces=mesh.faces)
        mesh = bake(mesh, lambda p, n: (p * torch.tensor([1.0, 1, 0]) + 1) / 2, SIZE)
    run = to_paint(box=BOX)
    run = settings.replace(run, asset=settings.replace(run.asset, texture=256))
    given, (note,) = find_part(GivenMesh(mesh, Placement()), run)
    assert "a new map" in note
    assert given.part is not None
    assert torch.equal(given.mesh.vertices, mesh.vertices)
    assert torch.equal(given.mesh.faces, mesh.faces)
    views = orbit(2, 64)
    old, new = (render_mesh(one, views).rgb for one in (mesh, given.mesh))
    assert (old - new).abs().max() < 0.03
    kept = settings.replace(run, textured=TexturedSettings(keep_uv=True))
    if mapped:
        with pytest.raises(InputError, match=r"map cannot hold the box .* leave --keep-uv out"):
            find_part(GivenMesh(mesh, Placement()), kept)


def test_a_word_is_where_pictures_look_at_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heat that is the height of what a picture shows is found again on the faces."""
    mesh, asked = sphere(0.6, 24, 36), []

    def attention(mesh: Mesh, views: Cameras, *_: Any) -> Tensor:
        asked.append(len(views))
        grey = torch.full((3,), 0.5)
        seen = render_mesh(mesh, views.resized(32, 32), background=grey).rgb
        return seen[..., 2:].expand(-1, -1, -1, 9)

    monkeypatch.setattr(parts, "_attention", attention)
    monkeypatch.setattr(parts, "word_tokens", lambda *_: [3])
    monkeypatch.setattr(parts, "Prompts", lambda *_, **__: None)

    class Eye:
        name, views, image_size = "eye", 1, 32

    inner = Mesh(torch.cat([mesh.vertices, 0.5 * mesh.vertices]),
                 torch.cat([mesh.faces, len(mesh.vertices) + mesh.faces]),
                 torch.cat([mesh.colors, mesh.colors]))  # type: ignore[list-item]  # fmt: skip
    heat = heat_of(inner, Eye(), "a mug", "mug")  # type: ignore[arg-type]
    height = (mesh.vertices[mesh.faces].mean(1)[:, 2] / 0.6 + 1) / 2
    outside, hidden = heat.split(len(mesh.faces))
    assert torch.corrcoef(torch.stack([outside, height]))[0, 1] > 0.95
    assert torch.corrcoef(torch.stack([hidden, height]))[0, 1] > 0.9
    given, run = GivenMesh(mesh, Placement()), to_paint(word="mug", heat=0.7)
    found, _ = find_word(given, run, "a mug", Eye())  # type: ignore[arg-type]
    assert found.part is not None
    known, where = places(found.mesh)
    assert where[found.part[known] > 0][:, 2].min() > 0
    assert where[found.part[known] == 0][:, 2].max() < 0.5
    assert asked == [4] * 6
    with pytest.raises(
        InputError, match=r"part is the whole mesh: what looks like 'mug' to .*'eye"
    ):
        find_word(given, to_paint(word="mug", heat=0.0), "a mug", Eye())  # type: ignore[arg-type]


def test_a_real_model_looks_at_a_word_the_same_way_twice(model: str) -> None:
    backbone = load_backbone(model, device="cpu")
    one, two = (heat_of(globe(), backbone, "a red mug", word) for word in ("mug", "mug"))
    assert torch.equal(one, two)
    assert bool(((one > 0) & (one < 1)).all())
    other = heat_of(globe(), backbone, "a red mug", "red")
    assert not torch.allclose(one, other, rtol=1e-3)


def test_parts_that_cannot_be_are_refused(tmp_path: Path) -> None:
    path = stored(globe(), tmp_path)
    bare = stored(replace(sphere(), colors=None), tmp_path, "bare.stl")
    for mesh, part, message in (
        (path, (5.0, 5, 5, 6, 6, 6), r"empty: the box .* from -0\.6, .* holds nothing"),
        (path, (-9.0, -9, -9, 9, 9, 9), "is the whole mesh: .* say no part"),
        (path, torch.zeros(SIZE, SIZE), "empty: what is white of the mask"),
        (path, torch.ones(SIZE, SIZE), "is the whole mesh"),
        (path, torch.ones(20, 30), "30 × 20 pixels, .* texture 64 × 64"),
        (bare, torch.ones(SIZE, SIZE), "the mesh has no texture coordinates"),
        (path, str(tmp_path / "none.png"), "there is no picture"),
        (path, str(path), "is no picture"),
    ):
        mask = grey(tmp_path, part) if isinstance(part, Tensor) else part
        said = {"box": part} if isinstance(part, tuple) else {"mask": mask}
        with pytest.raises(InputError, match=message):
            find_part(read_given(mesh), to_paint(**said))


def test_words_that_do_not_fit_are_refused_before_a_model_is_loaded(model: str) -> None:
    run = to_paint(model, word="handle")
    for changed, mesh, message in (
        (run, True, "no word 'handle' in the prompt 'a red mug'; it has: a, red, mug"),
        (run, False, "a textured stage paints a mesh"),
        (settings.replace(make_run("surface", backbone=model), part=run.part), True,
         "a surface makes all of its shape"),
        (settings.replace(make_run("field", backbone=model), part=run.part), False,
         "part is of a mesh to begin with"),
        (settings.replace(run, textured=TexturedSettings(gloss=True, shading=0.5)), True,
         "gloss is learned of all"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            check_run(changed, "a red mug", mesh=mesh)
    check_run(to_paint(model, word="Mug"), "a red mug", mesh=True)
    with pytest.raises(InputError, match="said in one way, got word and box"):
        PartSettings(word="mug", box=BOX)
    with pytest.raises(InputError, match="from low x, y, z to high"):
        PartSettings(box=(0, 0, 0, 1, 1, 0))


def test_jobs_say_a_part_as_settings_do() -> None:
    mesh = Path("mug.glb")
    for job in (Texture(mesh=mesh, prompt="a mug", part="mug"),
                Edit3d(asset=mesh, instruction="make it blue", part="it")):  # fmt: skip
        assert job.run().part == PartSettings(word=job.part)
    boxed = Texture(mesh=mesh, prompt="a mug", part_box="0, 0,-1.5,1,1,1e1", settings=("heat=0.3",))
    assert boxed.run().part == PartSettings(box=(0, 0, -1.5, 1, 1, 10), heat=0.3)
    masked = Texture(mesh=mesh, prompt="a mug", part_mask=Path("a/mask.png"))
    assert masked.run().part == PartSettings(mask=str(Path("a/mask.png")))
    assert boxed.run().digest() != Texture(mesh=mesh, prompt="a mug").run().digest()
    for text in ("1,2", "x,0,0,1,1,1", "0,0,0,1,1,1,1", ""):
        with pytest.raises(InputError, match=r"part\.box"):
            Texture(mesh=mesh, prompt="a mug", part_box=text).check()
    with pytest.raises(InputError, match="up, front and part are of a mesh"):
        Generate(prompt="a mug", part="mug").check()
