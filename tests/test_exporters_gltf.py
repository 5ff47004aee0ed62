"""What becomes of everything that a glTF file may hold: the rows of the table in docs/assets.md."""

from __future__ import annotations

import base64
import json
import math
import re
import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from exporters import load
from exporters.topology import areas
from renderers.kernels.raster import texture
from tests.gltf_files import INDEX, PLACES, UV, Array, Gltf, png
from threed.core.errors import InputError, MeshWarning
from threed.core.mesh import Mesh

RED, GREEN, WHITE = (220, 30, 30), (30, 200, 40), (255, 255, 255)
DOCS = Path(__file__).resolve().parent.parent / "docs" / "assets.md"
Color = tuple[int, int, int]


def middles(mesh: Mesh) -> list[Color]:
    """The colours in the middle of the faces, 0 to 255; white without any."""
    if mesh.material.albedo is not None:
        uv, faces = mesh.opengl_map()
        found = texture(mesh.material.albedo, uv[faces].mean(1)[None, None])[0, 0]
    elif mesh.colors is not None:
        found = mesh.colors[mesh.faces].mean(1)
    else:
        found = torch.ones(len(mesh.faces), 3)
    return [tuple(row) for row in (found * 255).round().int().tolist()]


def box(mesh: Mesh) -> Tensor:
    """The lowest and the highest place [2, 3], with the file's axes."""
    return mesh.bounds()[:, [1, 2, 0]]


def textured(
    content: bytes, uv: Array = UV, *, normalized: bool = False, info: dict[str, Any] | None = None,
    sampler: dict[str, int] | None = None,
) -> Gltf:  # fmt: skip
    """A square with a picture on it."""
    g = Gltf()
    material = g.material(baseColorTexture=g.texture(content, **sampler or {}) | (info or {}))
    more = {"TEXCOORD_0": g.numbers(uv, normalized=normalized)}
    return g.show(g.square(uv=None, attributes=more, material=material))


def plain(more: dict[str, Any] | None = None, **node: Any) -> Gltf:
    """A square of a red material that may say more than ours can."""
    g = Gltf()
    return g.show(g.square(material=g.material(more, baseColorFactor=[1, 0, 0, 1])), **node)


def using(name: str) -> Gltf:
    """A material with an extension that a reader may leave out."""
    g = plain({"extensions": {name: {}}})
    g.json["extensionsUsed"] = [name]
    return g


def shiny() -> Gltf:
    about = {"diffuseFactor": [1, 0, 0, 1], "glossinessFactor": 0.75}
    g = using("KHR_materials_pbrSpecularGlossiness")
    g.json["materials"] = [{"extensions": {"KHR_materials_pbrSpecularGlossiness": about}}]
    return g


def shape(index: Array | None, *, mode: int = 4) -> Gltf:
    """The corners of a square, in an order of which a mode makes faces."""
    g = Gltf()
    indices = {} if index is None else {"indices": g.numbers(index)}
    return g.show({"attributes": {"POSITION": g.numbers(PLACES)}, "mode": mode, **indices})


def named(*names: str) -> Gltf:
    """Nodes of one square each, by their names."""
    g = plain()
    g.json["nodes"] = [{"mesh": 0, "name": name} for name in names]
    g.json["scenes"] = [{"nodes": [*range(len(names))]}]
    return g


def mixture(*more: int) -> Gltf:
    """A strip, a fan and triangles, and perhaps the same corners by other modes."""
    g = Gltf()
    strip = g.square(uv=None) | {"mode": 5, "indices": g.numbers(STRIP)}
    fan = g.square(at=3, uv=None) | {"mode": 6, "indices": g.numbers(FAN)}
    others = [g.square(uv=None) | {"mode": mode} for mode in more]
    return g.show(strip, fan, g.square(at=6, uv=None), *others)


def quantized() -> Gltf:
    g = Gltf()
    places = g.numbers((PLACES * 32767).astype("<i2"), normalized=True)
    g.show({"attributes": {"POSITION": places}, "indices": g.numbers(INDEX)})
    return g.needs("KHR_mesh_quantization")


def two(first: dict[str, Any], second: dict[str, Any], *, apart: float = 3) -> Gltf:
    """Two squares of a material each."""
    g = Gltf()
    materials = [g.material(**pbr) for pbr in (first, second)]
    return g.show(*(g.square(at=apart * k, material=one) for k, one in enumerate(materials)))


def two_textures() -> Gltf:
    g = Gltf()
    materials = [g.material(baseColorTexture=g.texture(png(color))) for color in (RED, GREEN)]
    return g.show(*(g.square(at=3 * k, material=one) for k, one in enumerate(materials)))


def with_colors(
    colors: Array, factor: list[float] | None = None, picture: bytes | None = None, **more: Any
) -> Gltf:
    """A square with colours of its vertices, and perhaps a factor and a picture."""
    g = Gltf()
    about: dict[str, Any] = {} if factor is None else {"baseColorFactor": factor}
    if picture is not None:
        about["baseColorTexture"] = g.texture(picture)
    square = g.square(attributes={"COLOR_0": g.numbers(colors, **more)})
    return g.show(square | ({"material": g.material(**about)} if about else {}))


def bare_texture() -> Gltf:
    g = Gltf()
    return g.show(g.square(uv=None, material=g.material(baseColorTexture=g.texture(png(RED)))))


def picture_elsewhere() -> Gltf:
    g = textured(png(RED))
    g.json["images"] = [{"uri": "nowhere.png"}]
    return g


def second_set() -> Gltf:
    """A picture that lies by TEXCOORD_1, where TEXCOORD_0 would show its other half."""
    g = Gltf()
    picture = g.texture(png(RED, GREEN)) | {"texCoord": 1}
    sets = {"TEXCOORD_1": g.numbers(UV * np.array([0.4, 1], "<f4"))}
    material = g.material(baseColorTexture=picture)
    return g.show(g.square(uv=UV * 0.3 + 0.6, attributes=sets, material=material))


def maps_apart() -> Gltf:
    """A colour by one set, a gloss by another, which runs from right to left."""
    g = Gltf()
    gloss = g.texture(png((255, 51, 0), (255, 204, 0))) | {"texCoord": 1}
    material = g.material(baseColorTexture=g.texture(png(RED)), metallicRoughnessTexture=gloss)
    sets = {"TEXCOORD_1": g.numbers(UV[[1, 0, 3, 2]])}
    return g.show(g.square(attributes=sets, material=material))


def morphed(**node: Any) -> Gltf:
    g = Gltf()
    target = {"POSITION": g.numbers(np.array([[0, 0, 4]] * 4, "<f4"))}
    g.show(g.square(uv=None, targets=[target]), **node)
    g.json["meshes"][0]["weights"] = [0.25]
    return g


def sparse() -> Gltf:
    """Places of which two are written anew, one of them far out."""
    g = Gltf()
    rows, where = np.array([[5, 1, 0], [-1, 1, 0]], "<f4"), np.array([2, 3], "u1")
    about = {
        "count": 2,
        "indices": {"bufferView": g.view(where.tobytes()), "componentType": 5121},
        "values": {"bufferView": g.view(rows.tobytes())},
    }
    places = g.numbers(PLACES, sparse=about)
    return g.show({"attributes": {"POSITION": places}, "indices": g.numbers(INDEX)})


def instanced() -> Gltf:
    g = Gltf()
    moves = g.numbers(np.array([[0, 0, 0], [3, 0, 0], [6, 0, 0]], "<f4"))
    sizes = g.numbers(np.array([[1, 1, 1], [1, 1, 1], [2, 2, 2]], "<f4"))
    about = {"attributes": {"TRANSLATION": moves, "SCALE": sizes}}
    g.show(g.square(uv=None), extensions={"EXT_mesh_gpu_instancing": about})
    return g.needs("EXT_mesh_gpu_instancing")


def without_scenes() -> Gltf:
    g = shape(INDEX)
    g.json["nodes"] = [{"children": [1], "translation": [0, 5, 0]}, {"mesh": 0}]
    del g.json["scenes"]
    return g


def extended(name: str, content: bytes) -> Gltf:
    """A picture that only an extension names."""
    g = textured(content)
    source = g.json["textures"][0].pop("source")
    g.json["textures"][0]["extensions"] = {name: {"source": source}}
    g.json["extensionsUsed"] = [name]
    return g


def webp() -> bytes:
    file = BytesIO()
    Image.new("RGB", (16, 16), RED).save(file, "WEBP", lossless=True)
    return file.getvalue()


def cut_short() -> Gltf:
    g = shape(INDEX)
    g.data = g.data[:-8]
    return g


def draco(data: bytes | None = None) -> Gltf:
    """A square with a picture that Draco packs, or with other data in its place."""
    g = textured(png(RED, GREEN))
    ids = {"POSITION": 0, "TEXCOORD_0": 1}
    if data is None:
        coder = pytest.importorskip("DracoPy")
        data = coder.encode(
            PLACES, INDEX.reshape(2, 3), tex_coord=UV.astype(float), quantization_bits=14
        )
        places, maps = 0, 3  # Draco's numbers of kinds
        found = {one["attribute_type"]: one["unique_id"] for one in coder.decode(data).attributes}
        ids = {"POSITION": found[places], "TEXCOORD_0": found[maps]}
    part = g.json["meshes"][0]["primitives"][0]
    for number in (*part["attributes"].values(), part["indices"]):
        del g.json["accessors"][number]["bufferView"]
    about = {"bufferView": g.view(data), "attributes": ids}
    part["extensions"] = {"KHR_draco_mesh_compression": about}
    return g.needs("KHR_draco_mesh_compression")


def broken_draco() -> Gltf:
    pytest.importorskip("DracoPy")
    return draco(b"DRACO\2\2\1\1" + b"\0" * 24)


def meshopt() -> Gltf:
    """Places as integers, and faces, that meshoptimizer packs."""
    coder = pytest.importorskip("meshoptimizer")
    g = Gltf()
    rows = np.zeros((4, 4), "<i2")
    rows[:, :3] = PLACES * 32767
    vertices = bytes(coder.encode_vertex_buffer(rows.view(np.uint8), 4, 8))
    faces = bytes(coder.encode_index_buffer(INDEX.astype(np.uint32), 6, 4))
    for data, count, stride, mode in ((vertices, 4, 8, "ATTRIBUTES"), (faces, 6, 2, "TRIANGLES")):
        number = g.view(data)
        about = g.json["bufferViews"][number] | {"count": count, "byteStride": stride, "mode": mode}
        extensions = {"EXT_meshopt_compression": about}
        g.add("bufferViews", buffer=1, byteLength=count * stride, extensions=extensions)
    places = g.numbers(rows[:, :3], bufferView=1, normalized=True)
    g.show({"attributes": {"POSITION": places}, "indices": g.numbers(INDEX, bufferView=3)})
    return g.needs("EXT_meshopt_compression", "KHR_mesh_quantization")


class Row(NamedTuple):
    """A row of the table: what becomes of a thing, and how a file with it shows that."""

    outcome: str  # "read", "said" or "refused"
    make: Callable[[], Gltf]
    # of what is read, what is true of the mesh; of the others, words of the sentence
    want: Callable[[Mesh], bool] | str
    without: str = ""  # a package that is not to be found


def colors(*wanted: Color) -> Callable[[Mesh], bool]:
    """Whether the middles of two faces each have colours."""
    return lambda mesh: middles(mesh) == [color for color in wanted for _ in range(2)]


def measures(low: list[float], high: list[float]) -> Callable[[Mesh], bool]:
    """Whether a mesh has a box, with the file's axes."""
    return lambda mesh: torch.allclose(box(mesh), torch.tensor([low, high]).float(), atol=1e-4)


def covers(count: int, area: float) -> Callable[[Mesh], bool]:
    """Whether a mesh has so many faces, of so much area in all."""
    return lambda mesh: (
        len(mesh.faces) == count and math.isclose(float(areas(mesh).sum()), area, rel_tol=1e-5)
    )


def gloss(mesh: Mesh) -> bool:
    """Whether the left half of a square is smooth, and the right half is not, and all is red."""
    material = mesh.material
    if material.metallic_roughness is None or mesh.uv is None:
        return False
    uv, faces = mesh.opengl_map()
    points = torch.einsum("nk,fkc->fnc", torch.eye(3) * 0.8 + 0.2 / 3, uv[faces])
    found = texture(material.metallic_roughness, points[None])[0, ..., 1]
    places = torch.einsum("nk,fkc->fnc", torch.eye(3) * 0.8 + 0.2 / 3, mesh.vertices[mesh.faces])
    wanted = torch.where(places[..., 1] < 0, 0.8, 0.2)
    return bool(((found - wanted).abs() < 0.05).all()) and colors(RED)(mesh)


FAN = np.array([0, 1, 2, 3], "u1")
RAMP = BytesIO()
Image.fromarray(np.linspace(0, 65535, 16).astype(np.uint16)[None].repeat(16, 0)).save(RAMP, "PNG")
MIRRORED, CLAMPED = {"wrapS": 33648, "wrapT": 33648}, {"wrapS": 33071, "wrapT": 33071}
MOVED = {"offset": [0.5, 0], "scale": [0.4, 1]}
ONES = np.ones((4, 3), "<f4")
WIDE = UV * np.array([3, 1], "<f4")
STRIP = np.array([0, 1, 3, 2], "u1")


def moved(**transform: Any) -> dict[str, Any]:
    return {"extensions": {"KHR_texture_transform": transform}}


def stripes(*wanted: Color) -> Callable[[Mesh], bool]:
    """Whether a square shows stripes of colours from its left to its right side."""

    def check(mesh: Mesh) -> bool:
        assert mesh.material.albedo is not None
        uv, faces = mesh.opengl_map()
        share = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
        share = share / share.sum(1, keepdim=True)
        across = torch.einsum("nk,fk->fn", share, mesh.vertices[mesh.faces][..., 1])
        place = (across + 1) / 2 * len(wanted)
        inside = ((place % 1) - 0.5).abs() < 0.35
        look = torch.einsum("nk,fkc->fnc", share, uv[faces])
        found = texture(mesh.material.albedo, look[None])[0] * 255
        right = torch.tensor(wanted)[place.floor().long().clamp(0, len(wanted) - 1)]
        return bool(((found - right).abs() < 1)[inside].all())

    return check


TABLE: dict[str, Row] = {
    "several materials without pictures": Row(
        "read",
        lambda: two({"baseColorFactor": [1, 0, 0, 1]}, {"baseColorFactor": [0, 1, 0, 1]}),
        colors((255, 0, 0), (0, 255, 0)),
    ),
    "several materials with pictures": Row("read", two_textures, colors(RED, GREEN)),
    "picture × factor": Row(
        "read",
        lambda: with_colors(ONES, [1, 0, 0, 1], picture=png((200, 200, 200))),
        colors((200, 0, 0)),
    ),
    "colours of vertices × factor": Row(
        "read", lambda: with_colors(ONES, [1, 0, 0, 1]), colors((255, 0, 0))
    ),
    "colours of vertices × picture": Row(
        "read",
        lambda: with_colors(ONES * np.array([0, 1, 0], "<f4"), picture=png((200, 200, 200))),
        colors((0, 200, 0)),
    ),
    "colours of vertices as integers": Row(
        "read",
        lambda: with_colors(np.full((4, 4), 14138, "<u2"), normalized=True),
        colors((128, 128, 128)),
    ),
    "texture coordinates without a picture": Row(
        "read", lambda: with_colors(ONES), lambda mesh: mesh.material.maps() == {}
    ),
    "a second set of texture coordinates": Row("read", second_set, colors(RED)),
    "pictures by several sets": Row("read", maps_apart, gloss),
    "texture coordinates as integers": Row(
        "read",
        lambda: textured(png(RED, GREEN), (UV * 255).astype("u1"), normalized=True),
        stripes(RED, GREEN),
    ),
    "pictures that repeat": Row(
        "read", lambda: textured(png(RED, GREEN), WIDE), stripes(*[RED, GREEN] * 3)
    ),
    "pictures that repeat mirrored": Row(
        "read",
        lambda: textured(png(RED, GREEN), WIDE, sampler=MIRRORED),
        stripes(RED, GREEN, GREEN, RED, RED, GREEN),
    ),
    "pictures that end (clamped)": Row(
        "read",
        lambda: textured(png(RED, GREEN), WIDE - np.array([1, 0], "<f4"), sampler=CLAMPED),
        stripes(RED, RED, RED, GREEN, GREEN, GREEN),
    ),
    "`KHR_texture_transform`": Row(
        "read", lambda: textured(png(RED, WHITE), info=moved(**MOVED)), colors(WHITE)
    ),
    "grey pictures of 16 bits": Row(
        "read",
        lambda: textured(RAMP.getvalue()),
        lambda mesh: middles(mesh) == [(173, 173, 173), (82, 82, 82)],
    ),
    "WebP (`EXT_texture_webp`)": Row(
        "read", lambda: extended("EXT_texture_webp", webp()), colors(RED)
    ),
    "KTX2 (`KHR_texture_basisu`)": Row(
        "said", lambda: extended("KHR_texture_basisu", b"\xabKTX 20\xbb"), "KHR_texture_basisu"
    ),
    "broken pictures": Row(
        "said", lambda: textured(b"\x89PNG\r\n\x1a\nbroken"), "its texture 0 is no picture"
    ),
    "pictures that are not there": Row("said", picture_elsewhere, "nowhere.png: no such file"),
    "pictures of faces without coordinates": Row("said", bare_texture, "without coordinates"),
    "transparency": Row("said", lambda: plain({"alphaMode": "BLEND"}), "transparency"),
    "emission": Row("said", lambda: plain({"emissiveFactor": [0, 1, 0]}), "emission"),
    "occlusion": Row("said", lambda: plain({"occlusionTexture": {"index": 0}}), "occlusion"),
    "colours of reflections (`KHR_materials_pbrSpecularGlossiness`)": Row(
        "said", shiny, "colours of reflections"
    ),
    "surfaces without light (`KHR_materials_unlit`)": Row(
        "said", lambda: using("KHR_materials_unlit"), "KHR_materials_unlit"
    ),
    "other extensions of materials, used": Row(
        "said", lambda: using("KHR_materials_clearcoat"), "KHR_materials_clearcoat"
    ),
    "any other extension, required": Row(
        "refused", lambda: plain().needs("EXT_of_tomorrow"), "requires EXT_of_tomorrow"
    ),
    "strips": Row("read", lambda: shape(STRIP, mode=5), covers(2, 4)),
    "fans": Row("read", lambda: shape(None, mode=6), covers(2, 4)),
    "strips, fans and triangles in one mesh": Row("read", mixture, covers(6, 12)),
    "colliders, by engines' names (`UCX_`, `-convcolonly`)": Row(
        "said", lambda: named("wall", "UCX_wall_00", "wall-convcolonly"), "left out: colliders$"
    ),
    "points and lines": Row("said", lambda: mixture(1), "points and lines"),
    "places as integers (`KHR_mesh_quantization`)": Row(
        "read",
        quantized,
        measures([-1, -1, 0], [1, 1, 0]),
    ),
    "sparse accessors": Row("read", sparse, measures([-1, -1, 0], [5, 1, 0])),
    "default weights of morph targets": Row("read", morphed, measures([-1, -1, 1], [1, 1, 1])),
    "weights of a node": Row(
        "read", lambda: morphed(weights=[0.5]), measures([-1, -1, 2], [1, 1, 2])
    ),
    "poses of skeletons": Row("said", lambda: plain(skin=0), "skeleton"),
    "instances (`EXT_mesh_gpu_instancing`)": Row(
        "read", instanced, measures([-1, -2, 0], [8, 2, 0])
    ),
    "mirroring places": Row(
        "read",
        lambda: plain(scale=[-1, 1, 1]),
        lambda mesh: bool((mesh.vertex_normals()[:, 0] > 0.99).all()),
    ),
    "files without scenes": Row("read", without_scenes, measures([-1, 4, 0], [1, 6, 0])),
    "places far from the origin": Row(
        "said", lambda: plain(translation=[1e8, 0, 0]), "so far from the origin"
    ),
    "corners that share a place and not a colour": Row(
        "read",
        lambda: two({"baseColorFactor": [1, 0, 0, 1]}, {"baseColorFactor": [0, 1, 0, 1]}, apart=2),
        colors((255, 0, 0), (0, 255, 0)),
    ),
    "`KHR_draco_mesh_compression`, with DracoPy": Row("read", draco, stripes(RED, GREEN)),
    "`EXT_meshopt_compression`, with meshoptimizer": Row(
        "read", meshopt, measures([-1, -1, 0], [1, 1, 0])
    ),
    "compression without the library": Row(
        "refused", lambda: draco(b"DRACO"), r"pip install 'threed\[gltf\]'", without="DracoPy"
    ),
    "compressed data that are damaged": Row(
        "refused", broken_draco, "KHR_draco_mesh_compression holds cannot be unpacked"
    ),
    "data that are not all there": Row("refused", cut_short, "cut short"),
    "numbers of things that are not there": Row(
        "refused", lambda: shape(INDEX + 4), "names vertices that it does not have"
    ),
    "nothing but points": Row("refused", lambda: shape(None, mode=0), "holds no triangle"),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_becomes_of_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    row = TABLE[name]
    path = row.make().save(tmp_path / "toy.glb")
    if row.without:
        monkeypatch.setitem(sys.modules, row.without, None)
    if isinstance(row.want, str):
        outcomes = {"said": pytest.warns(MeshWarning, match=row.want),
                    "refused": pytest.raises(InputError, match=row.want)}  # fmt: skip
        with outcomes[row.outcome] as caught:
            assert len(load(path).faces)
        assert all(str(path) in str(one) for one in caught) if row.outcome == "said" else True
    else:
        assert row.want(load(path))


def test_the_docs_say_so() -> None:
    text = DOCS.read_text("utf-8").partition("| in a glTF file |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| (.+?) \| (read|said|refused) \|$", text, re.MULTILINE)
    assert rows == [(name, row.outcome) for name, row in TABLE.items()]


def test_a_gltf_with_its_data_beside_and_one_with_its_data_inside(tmp_path: Path) -> None:
    """The same mesh as the GLB; what lies outside the folder is refused."""
    whole = load(textured(png(RED, GREEN)).save(tmp_path / "toy.glb"))
    path = textured(png(RED, GREEN)).save(tmp_path / "toy.gltf")
    about = json.loads(path.read_text())
    data = base64.b64encode((tmp_path / "its data.bin").read_bytes()).decode()
    inside, outside = dict(about), dict(about)
    inside["buffers"] = [
        about["buffers"][0] | {"uri": f"data:application/gltf-buffer;base64,{data}"}
    ]
    outside["buffers"] = [about["buffers"][0] | {"uri": "../secret.bin"}]
    for text in (about, inside):
        path.write_text(json.dumps(text))
        mesh = load(path)
        assert torch.equal(mesh.vertices, whole.vertices)
        assert torch.equal(mesh.opengl_map()[0], whole.opengl_map()[0])
        assert colors(RED)(mesh) == colors(RED)(whole)
    path.write_text(json.dumps(outside))
    with pytest.raises(InputError, match=r"asks for '\.\./secret\.bin', which lies outside"):
        load(path)


def test_diffuse_colours_and_glossiness_are_kept(tmp_path: Path) -> None:
    with pytest.warns(MeshWarning, match="left out: colours of reflections"):
        mesh = load(shiny().save(tmp_path / "toy.glb"))
    assert colors((255, 0, 0))(mesh)
    assert (mesh.material.metallic, mesh.material.roughness) == (0, 0.25)


@pytest.mark.parametrize("children", [[0], [1, 1], [7], "no list"])
def test_nodes_that_are_no_tree_are_refused(tmp_path: Path, children: Any) -> None:
    g = plain(children=children)
    g.add("nodes", translation=[1, 0, 0])
    with pytest.raises(InputError, match=r"toy\.glb "):
        load(g.save(tmp_path / "toy.glb"))


def test_a_picture_turns_counter_clockwise(tmp_path: Path) -> None:
    """Coordinates turned by 90° about (0, 0), v downwards: what was right lies above."""
    turned = textured(png(RED, GREEN), info=moved(rotation=math.pi / 2, offset=[0, 1]))
    mesh = load(turned.save(tmp_path / "toy.glb"))
    found = dict(zip(map(tuple, PLACES.tolist()), UV.tolist()))
    assert mesh.uv is not None
    for corner, row in zip(
        mesh.vertices[mesh.faces].flatten(0, 1), mesh.uv[mesh.uv_faces].flatten(0, 1)
    ):
        u, v = found[tuple(corner[[1, 2, 0]].tolist())]
        assert row.tolist() == pytest.approx([v, 1 - u], abs=1e-6)
