"""Files: what other programs read in them, and what we read back."""

from __future__ import annotations

import io
import json
import math
import re
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor

import exporters
from exporters import glb, load
from exporters.bake import bake
from exporters.corners import to_corners
from exporters.judges import Finding, find_validator, validate
from exporters.unwrap import unwrap
from renderers.shading import to_linear, to_srgb
from tests.shapes import FORMATS, cube, lopsided, sphere
from threed.core.mesh import Material, Mesh, flip_v

EXTRAS = {"prompt": 'a "red" mug\nwith ☕', "seed": 3, "version": "0.1"}


def textured() -> Mesh:
    mesh = unwrap(replace(sphere(0.6, 20, 30), colors=None), 64)
    mesh = bake(mesh, lambda p, n: 0.5 + 0.6 * p, 64)
    return replace(mesh, material=replace(mesh.material, metallic=0.25, roughness=0.5))


def mapped() -> Mesh:
    """All the maps that a material can have, the normals leaning more and more to the right."""
    mesh = textured()
    lean = torch.linspace(0, 0.7, 64).expand(64, 64)
    normal = torch.stack([lean, torch.zeros_like(lean), (1 - lean**2).sqrt()], -1)
    both = torch.rand(64, 64, 3)
    maps = replace(mesh.material, normal=(normal + 1) / 2, metallic_roughness=both)
    return replace(mesh, material=maps)


def triangles(mesh: Mesh) -> Tensor:
    """[F, 3, 3] corners, each face begun at its lowest one, the faces sorted: order apart."""
    corners = mesh.vertices[mesh.faces].numpy().round(4) + 0.0
    rows = []
    for face in corners.tolist():
        start = min(range(3), key=lambda k: face[k])
        rows.append(face[start:] + face[:start])
    return torch.tensor(sorted(rows))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("make", [lopsided, textured])
def test_what_is_written_is_read_back(tmp_path: Path, suffix: str, make: type[Mesh]) -> None:
    mesh = make()
    exporters.save(mesh, tmp_path / f"toy{suffix}", extras=EXTRAS)
    back = load(tmp_path / f"toy{suffix}")
    torch.testing.assert_close(triangles(back), triangles(mesh), atol=2e-4, rtol=0)
    assert len(back.vertices) == len(mesh.vertices)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("suffix", [".glb", ".obj"])
def test_the_texture_comes_back_in_its_place(tmp_path: Path, suffix: str) -> None:
    mesh = textured()
    exporters.save(mesh, tmp_path / f"toy{suffix}")
    back = load(tmp_path / f"toy{suffix}")
    assert back.material.albedo is not None
    assert mesh.material.albedo is not None
    assert (back.material.albedo - mesh.material.albedo).abs().max() <= 0.5 / 255 + 1e-6
    assert back.uv is not None
    assert back.uv_faces is not None
    assert mesh.uv is not None
    assert mesh.uv_faces is not None
    place = {tuple(np.round(p, 4)): u for p, u in zip(
        mesh.vertices[mesh.faces].mean(1).tolist(), mesh.uv[mesh.uv_faces].mean(1).tolist()
    )}  # fmt: skip
    found = zip(back.vertices[back.faces].mean(1).tolist(), back.uv[back.uv_faces].mean(1).tolist())
    near = [min(place, key=lambda q: math.dist(p, q)) for p, _ in list(found)[:50]]
    for q, u in zip(near, back.uv[back.uv_faces].mean(1).tolist()):
        assert math.dist(place[q], u) < 1e-3
    if suffix == ".glb":
        assert (back.material.metallic, back.material.roughness) == (0.25, 0.5)


def as_written(content: bytes) -> tuple[int, Any, Any]:
    """Where a GLB of ours has its texture coordinates, these [N, 2], and its faces [F, 3]."""
    size = int.from_bytes(content[12:16], "little")
    text, data = json.loads(content[20 : 20 + size]), 28 + size
    (part,) = text["meshes"][0]["primitives"]

    def rows(number: int, dtype: str, width: int) -> tuple[int, Any]:
        view = text["bufferViews"][text["accessors"][number]["bufferView"]]
        first = data + view["byteOffset"]
        raw = content[first : first + view["byteLength"]]
        return first, np.frombuffer(raw, dtype).reshape(-1, width)

    first, uv = rows(part["attributes"]["TEXCOORD_0"], "<f4", 2)
    return first, uv, rows(part["indices"], "<u2", 3)[1]


def test_texture_coordinates_of_a_glb_come_out_bit_by_bit(tmp_path: Path) -> None:
    """Also where 1 - v has another value in float32, or in float64."""
    exporters.save(textured(), tmp_path / "toy.glb")
    content = (tmp_path / "toy.glb").read_bytes()
    first, uv, _ = as_written(content)
    numbers = np.random.default_rng(0).random(uv.shape, np.float32)
    numbers[: len(uv) // 2, 1] **= 9
    hard = [0, 1, 1e-45, 1e-12, 2**-24, 0.1, 1 / 3, np.nextafter(np.float32(1), np.float32(0))]
    numbers[: len(hard), 1] = hard
    content = content[:first] + numbers.tobytes() + content[first + numbers.nbytes :]
    (tmp_path / "theirs.glb").write_bytes(content)
    mesh = load(tmp_path / "theirs.glb")
    exporters.save(mesh, tmp_path / "ours.glb")
    _, written, faces = as_written((tmp_path / "ours.glb").read_bytes())
    _, _, own_faces = as_written(content)
    assert np.array_equal(written[faces].view(np.uint32), numbers[own_faces].view(np.uint32))


def test_v_turned_over_and_back_is_what_it_was() -> None:
    """Every float32 number from 2**-30 on bit by bit, smaller ones to half of 2**-53."""
    v = torch.rand(200_000) * 2.0 ** torch.randint(-40, 1, (200_000,))
    v = torch.cat([v, torch.tensor([0.0, 1.0, 2**-30, 1 - 2**-24, 0.1, 1 / 3, 1e-45])])
    uv = torch.stack([torch.rand(len(v)), v], 1)
    again = flip_v(flip_v(uv))
    assert torch.equal(again[:, 0].float(), uv[:, 0])
    large = (v >= 2**-30) | (v == 0)
    assert large.sum() > 100_000
    assert torch.equal(again[large, 1], v[large].double())
    assert (again[:, 1] - v.double()).abs().max() <= 2**-54


def test_texture_coordinates_of_an_obj_come_out_bit_by_bit(tmp_path: Path) -> None:
    """All that nine digits can say of float32, from 2**-30 of the texture's height on."""
    mesh = textured()
    assert mesh.uv is not None
    uv = torch.rand(mesh.uv.shape) ** 9
    uv[:, 1].clamp_(min=2**-30)
    uv[:2, 1] = torch.tensor([0.0, 1.0])
    mesh = replace(mesh, uv=flip_v(uv))
    exporters.save(mesh, tmp_path / "a.obj")
    back = load(tmp_path / "a.obj")
    (own, own_faces), (read, read_faces) = mesh.opengl_map(), back.opengl_map()
    assert torch.equal(own, uv)
    assert torch.equal(read[read_faces], uv[own_faces])
    exporters.save(back, tmp_path / "b.obj")
    texts = ((tmp_path / name).read_text() for name in ("a.obj", "b.obj"))
    first, second = (set(re.findall("vt .*", text)) for text in texts)
    assert len(second) > 100
    assert second <= first


def test_row_0_of_a_texture_is_v_0_of_a_mesh_and_of_a_glb_and_v_1_of_an_obj(tmp_path: Path) -> None:
    image = torch.zeros(4, 4, 3)
    image[0] = 1.0  # the upper row
    uv = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.125]])
    mesh = Mesh(torch.eye(3), torch.tensor([[0, 1, 2]]), uv=uv, uv_faces=torch.tensor([[0, 1, 2]]))
    mesh = replace(mesh, material=Material(image))
    exporters.save(mesh, tmp_path / "a.glb")
    assert as_written((tmp_path / "a.glb").read_bytes())[1].tolist() == uv.tolist()
    exporters.save(mesh, tmp_path / "a.obj")
    lines = (tmp_path / "a.obj").read_text().splitlines()
    assert [line for line in lines if line[:2] == "vt"] == ["vt 0 1", "vt 1 1", "vt 0 0.875"]
    exporters.save(mesh, tmp_path / "a.ply")
    for suffix in (".glb", ".obj"):
        back = load(tmp_path / f"a{suffix}")
        assert back.uv is not None
        assert sorted(back.uv.tolist()) == sorted(uv.tolist())
    colors = load(tmp_path / "a.ply").colors
    assert colors is not None
    assert bool((colors == 1).all())


def test_a_face_at_the_border_of_a_texture_stays_there(tmp_path: Path) -> None:
    mesh = textured()
    assert mesh.uv is not None
    exporters.save(replace(mesh, uv=torch.ones_like(mesh.uv)), tmp_path / "a.obj")
    back = load(tmp_path / "a.obj")
    assert back.uv is not None
    assert back.uv.tolist() == [[1.0, 1.0]]


def test_every_map_of_a_glb_comes_back(tmp_path: Path) -> None:
    mesh = mapped()
    exporters.save(mesh, tmp_path / "toy.glb")
    back = load(tmp_path / "toy.glb")
    for name in ("albedo", "normal", "metallic_roughness"):
        before, after = getattr(mesh.material, name), getattr(back.material, name)
        torch.testing.assert_close(after, before, atol=0.5 / 255 + 1e-6, rtol=0)
    (part,) = trimesh.load_scene(tmp_path / "toy.glb", process=False).geometry.values()
    assert part.visual.material.normalTexture.size == (64, 64)


def test_a_normal_map_needs_no_colours(tmp_path: Path) -> None:
    mesh = mapped()
    bare = replace(mesh, material=replace(mesh.material, albedo=None), colors=None)
    exporters.save(bare, tmp_path / "toy.glb")
    back = load(tmp_path / "toy.glb")
    assert back.material.normal is not None
    assert (back.material.albedo, back.colors) == (None, None)
    assert (back.material.metallic, back.material.roughness) == (0.25, 0.5)


def test_a_map_without_a_picture_is_kept(tmp_path: Path) -> None:
    mesh = replace(textured(), material=Material(), colors=torch.rand(len(textured().vertices), 3))
    exporters.save(mesh, tmp_path / "toy.glb")
    back = load(tmp_path / "toy.glb")
    assert back.uv is not None
    assert mesh.uv is not None
    assert len(back.uv) == len(mesh.uv)
    assert back.colors is not None


def plane(mirrored: bool = False) -> Mesh:
    """Two squares side by side in the xy plane, x along u; the right one's map may be mirrored."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [0, 1, 0], [1, 1, 0], [2, 1, 0]])
    faces = torch.tensor([[0, 1, 4], [0, 4, 3], [1, 2, 5], [1, 5, 4]])
    uv = vertices[:, :2] / torch.tensor([2.0, 1.0])
    if mirrored:
        uv[[2, 5], 0] = 0.0
    return Mesh(vertices, faces, uv=flip_v(uv), uv_faces=faces)


def test_tangents_show_where_u_grows() -> None:
    rows = to_corners(plane(), tangents=True)
    assert rows.tangent is not None
    # our x is glTF's z
    assert torch.equal(rows.tangent, torch.tensor([0.0, 0, 1, 1]).expand(6, 4))
    assert to_corners(plane()).tangent is None


def test_mirrored_maps_have_tangents_of_their_own() -> None:
    rows = to_corners(plane(mirrored=True), tangents=True)
    assert rows.tangent is not None
    assert len(rows.tangent) == 8  # the two corners in the middle belong to both sides
    for face, side in zip(rows.faces, (1.0, 1.0, -1.0, -1.0)):
        assert torch.equal(rows.tangent[face], torch.tensor([0.0, 0, side, side]).expand(3, 4))


def test_tangents_of_a_sphere_lie_across_its_normals() -> None:
    rows = to_corners(unwrap(sphere(0.6, 20, 30), 64), tangents=True)
    assert rows.tangent is not None
    assert rows.uv is not None
    tangent, side = rows.tangent[:, :3], rows.tangent[:, 3]
    assert bool((side == 1).all())
    torch.testing.assert_close(tangent.norm(dim=1), torch.ones(len(tangent)), atol=1e-6, rtol=0)
    assert (tangent * rows.normal).sum(1).abs().max() < 1e-6
    # moving a little along the tangent, u grows and v stays, on the face's own plane
    a, b, c = rows.position[rows.faces].unbind(1)
    u, v, w = rows.uv[rows.faces].unbind(1)
    sides = torch.stack([b - a, c - a], -1)
    rates = torch.linalg.lstsq(sides, tangent[rows.faces[:, 0]][..., None]).solution
    grown = (torch.stack([v - u, w - u], -1) @ rates)[..., 0]
    assert bool((grown[:, 0] > 0).all())
    assert (grown[:, 1] / grown[:, 0]).abs().median() < 0.05


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply"])
def test_vertex_colours_come_back(tmp_path: Path, suffix: str) -> None:
    mesh = lopsided()
    exporters.save(mesh, tmp_path / f"toy{suffix}")
    back = load(tmp_path / f"toy{suffix}")
    assert back.colors is not None
    assert mesh.colors is not None
    order = torch.cdist(mesh.vertices, back.vertices).argmin(1)
    torch.testing.assert_close(back.colors[order], mesh.colors, atol=0.01, rtol=0)


def test_a_texture_becomes_the_colours_of_a_ply(tmp_path: Path) -> None:
    exporters.save(textured(), tmp_path / "toy.ply")
    back = load(tmp_path / "toy.ply")
    assert back.colors is not None
    torch.testing.assert_close(back.colors, 0.5 + 0.6 * back.vertices, atol=0.06, rtol=0)


def test_up_and_front_are_where_each_format_has_them(tmp_path: Path) -> None:
    """x (front) 1, y 2, z (up) 3 long: glTF and OBJ y up, front +z; PLY and STL z up, front -y."""
    for suffix, size in ((".glb", [2, 3, 1]), (".obj", [2, 3, 1]), (".ply", [2, 1, 3]),
                         (".stl", [2, 1, 3])):  # fmt: skip
        path = tmp_path / f"toy{suffix}"
        exporters.save(lopsided(), path)
        scene = trimesh.load_scene(path)
        low, high = scene.bounds
        assert (high - low).round(5).tolist() == size, suffix
        ahead = scene.bounds.mean(0)
        assert (ahead[2] > 0) if suffix in (".glb", ".obj") else (ahead[1] < 0), suffix


def test_glb_in_trimesh(tmp_path: Path) -> None:
    mesh = textured()
    exporters.save(mesh, tmp_path / "toy.glb", extras=EXTRAS)
    scene = trimesh.load_scene(tmp_path / "toy.glb", process=False)
    (part,) = scene.geometry.values()
    assert len(part.faces) == len(mesh.faces)
    joined = part.copy()
    joined.merge_vertices(merge_tex=True, merge_norm=True)
    assert joined.is_watertight
    assert joined.volume == pytest.approx(0.6**3 * 4 / 3 * math.pi, rel=0.03)
    material = part.visual.material
    assert (material.metallicFactor, material.roughnessFactor) == (0.25, 0.5)
    assert material.baseColorTexture.size == (64, 64)
    outward = part.vertices / np.linalg.norm(part.vertices, axis=1, keepdims=True)
    assert (part.vertex_normals * outward).sum(1).min() > 0.98


def test_glb_by_the_book(tmp_path: Path) -> None:
    mesh = textured()
    exporters.save(mesh, tmp_path / "toy.glb", extras=EXTRAS)
    content = (tmp_path / "toy.glb").read_bytes()
    magic, version, length, size, kind = struct.unpack("<4sIII4s", content[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(content), b"JSON")
    gltf = json.loads(content[20 : 20 + size])
    assert gltf["asset"]["extras"] == EXTRAS
    assert all(view["byteOffset"] % 4 == 0 for view in gltf["bufferViews"])
    position = gltf["accessors"][gltf["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]
    assert position["max"][1] == pytest.approx(0.6)
    view = gltf["bufferViews"][gltf["images"][0]["bufferView"]]
    start = 20 + size + 8 + view["byteOffset"]
    picture = Image.open(io.BytesIO(content[start : start + view["byteLength"]]))
    assert (picture.format, picture.size) == ("PNG", (64, 64))
    assert glb.encode(mesh, "toy", EXTRAS) == content


def test_linear_light_and_back() -> None:
    srgb = torch.linspace(0, 1, 50)
    torch.testing.assert_close(to_srgb(to_linear(srgb)), srgb, atol=1e-5, rtol=0)
    assert to_linear(torch.tensor(0.5)).item() == pytest.approx(0.2140, abs=1e-4)


def test_obj_names_its_files_and_has_normals(tmp_path: Path) -> None:
    exporters.save(textured(), tmp_path / "my toy.obj", extras=EXTRAS)
    text = (tmp_path / "my toy.obj").read_text()
    assert "mtllib my_toy.mtl\n" in text
    assert '# prompt: a "red" mug with ☕\n' in text
    material = (tmp_path / "my_toy.mtl").read_text()
    assert "Kd 1 1 1\n" in material
    assert "map_Kd my_toy.png\n" in material
    with Image.open(tmp_path / "my_toy.png") as picture:
        assert picture.size == (64, 64)
    (part,) = trimesh.load_scene(tmp_path / "my toy.obj", process=False).geometry.values()
    assert "vertex_normals" in part._cache.cache
    assert part.visual.uv is not None


@pytest.mark.skipif(
    find_validator() is None,
    reason="needs node, and THREED_NODE naming a folder where npm installed gltf-validator",
)
@pytest.mark.parametrize("make", [lopsided, textured, mapped, cube])
def test_the_khronos_validator_has_nothing_to_say(tmp_path: Path, make: type[Mesh]) -> None:
    exporters.save(make(), tmp_path / "toy.glb", extras=EXTRAS)
    assert validate(tmp_path / "toy.glb") == Finding(0, 0)


def test_a_scene_of_several_parts_is_read_as_one_mesh(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    scene.add_geometry(trimesh.creation.box())
    turn = trimesh.transformations.translation_matrix([3, 0, 0])
    scene.add_geometry(trimesh.creation.icosphere(subdivisions=1), transform=turn)
    scene.export(tmp_path / "two.glb")
    mesh = load(tmp_path / "two.glb")
    assert len(mesh.faces) == 12 + 80
    # glTF's x is our y
    assert mesh.bounds()[1, 1].item() == pytest.approx(4, abs=0.01)


def test_a_texture_that_repeats_is_moved_into_the_square(tmp_path: Path) -> None:
    mesh = textured()
    assert mesh.uv is not None
    shifted = replace(mesh, uv=mesh.uv + torch.tensor([2.0, -1.0]))
    exporters.save(shifted, tmp_path / "toy.glb")
    back = load(tmp_path / "toy.glb")
    assert back.uv is not None
    assert 0 <= float(back.uv.min()) <= float(back.uv.max()) <= 1


def test_a_material_of_a_bare_mesh_is_kept(tmp_path: Path) -> None:
    mesh = replace(cube(), material=Material(metallic=1.0, roughness=0.1))
    exporters.save(mesh, tmp_path / "toy.glb")
    (part,) = trimesh.load_scene(tmp_path / "toy.glb").geometry.values()
    assert part.visual.material.metallicFactor == 1.0
    assert part.visual.material.roughnessFactor == 0.1
