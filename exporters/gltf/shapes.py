"""The faces of a glTF file, rewritten in glTF's plainest form: one that trimesh reads whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporters import parse
from exporters.glb import GENERATOR, Blob, pack
from exporters.gltf import packed
from exporters.gltf.document import Array, Document, to_fractions
from threed.core.errors import InputError
from threed.core.profile import COLLIDERS

MODES = {4: "triangles", 5: "strip", 6: "fan"}
INSTANCING = "EXT_mesh_gpu_instancing"
PLACES = {"translation": 3, "rotation": 4, "scale": 3, "matrix": 16}  # numbers each
WIDTHS = {"POSIT": (3,), "TEXCO": (2,), "COLOR": (3, 4)}  # numbers each, by five letters
MOST_NODES = 50_000


@dataclass(frozen=True, eq=False)
class Shape:
    """What one primitive of a mesh has."""

    faces: Tensor  # [F, 3] int64
    columns: dict[str, Array]  # [N, width] of its vertices by glTF's names
    material: int | None


@dataclass(frozen=True, eq=False)
class Plain:
    """A file of bare triangles as it grows."""

    nodes: list[dict[str, Any]]
    shapes: list[Shape] = field(default_factory=list)
    meshes: list[dict[str, Any]] = field(default_factory=list)
    blob: Blob = field(default_factory=Blob)

    def add(self, shape: Shape) -> int:
        """Add a shape; the number of its mesh."""
        place = torch.from_numpy(np.asarray(shape.columns["POSITION"], np.float32))
        attributes = {"POSITION": self.blob.add_vectors(place)}
        indices = self.blob.add_faces(shape.faces, len(place))
        primitive = {"attributes": attributes, "indices": indices}
        self.meshes.append({"name": str(len(self.shapes)), "primitives": [primitive]})
        self.shapes.append(shape)
        return len(self.shapes) - 1

    def encode(self, roots: Sequence[int]) -> bytes:
        """Make the bytes of the file."""
        # trimesh takes the last of a list first
        nodes = [node | {"children": node.get("children", [])[::-1]} for node in self.nodes]
        scenes = [{"nodes": list(roots)[::-1]}]
        gltf = {"asset": {"version": "2.0"}, "scene": 0, "scenes": scenes, "nodes": nodes}
        return pack({**gltf, "meshes": self.meshes}, self.blob)


def rewrite(document: Document) -> tuple[bytes, list[Shape]]:
    """Make a GLB of bare triangles in their places, and what its meshes, "0", "1", ..., have.

    Strips and fans become triangles, default weights of morph targets are applied, instances
    multiplied, compressed and sparse numbers written out. InputError for what cannot be.
    """
    nodes = document.gltf.get("nodes", [])
    plain = Plain([{"children": []} for _ in nodes])
    roots, known, faces = _find_roots(document), {}, 0
    hidden = _find_colliders(document)
    for number in _walk(document, roots):
        node = nodes[number]
        bare = plain.nodes[number]
        bare["children"] += node.get("children", [])
        bare |= {name: _check(document, name, node[name]) for name in PLACES if name in node}
        if "mesh" not in node or number in hidden:
            continue
        mesh = document.find("meshes", node["mesh"])
        weights = tuple(node.get("weights", mesh.get("weights", ())))
        if (node["mesh"], weights) not in known:
            shapes = _read_mesh(document, mesh, weights)
            known[node["mesh"], weights] = [plain.add(shape) for shape in shapes]
        own = known[node["mesh"], weights]
        for place in _find_instances(document, node):
            faces += sum(len(plain.shapes[index].faces) for index in own)
            for index in own:
                bare["children"].append(len(plain.nodes))
                plain.nodes.append({"mesh": index, **place})
            parse.check_count(faces, document.path)
            if len(plain.nodes) > MOST_NODES:
                raise InputError(f"{document.path} has more than {MOST_NODES:,} objects")
    return plain.encode(roots), plain.shapes


def _find_colliders(document: Document) -> set[int]:
    """The nodes that are there to collide with, by their names; none where nothing else is there.

    They are said to be left out, but of files of our own.
    """
    nodes = enumerate(document.gltf.get("nodes", []))
    shown = {number: str(node.get("name", "")) for number, node in nodes if "mesh" in node}
    hidden = {number for number, name in shown.items() if COLLIDERS.fullmatch(name)}
    if len(hidden) == len(shown):
        return set()
    if hidden and document.gltf.get("asset", {}).get("generator") != GENERATOR:
        document.left_out["colliders"] = None
    return hidden


def _find_roots(document: Document) -> list[int]:
    """The nodes of the scene, or of a file without scenes, that are nobody's children."""
    nodes = document.gltf.get("nodes", [])
    listed = list(range(len(nodes)))
    if document.gltf.get("scenes"):
        listed = document.find("scenes", document.gltf.get("scene", 0)).get("nodes", [])
    children = {child for node in nodes for child in node.get("children", [])}
    return [number for number in listed if number not in children]


def _walk(document: Document, roots: Sequence[int]) -> Iterator[int]:
    """The nodes below and with roots, each once."""
    waiting, seen = list(roots)[::-1], set()
    while waiting:
        number = waiting.pop()
        node = document.find("nodes", number)
        if number in seen:
            raise InputError(f"{document.path} has the node {number} in two places of its tree")
        seen.add(number)
        waiting += node.get("children", [])[::-1]
        if "skin" in node:
            document.left_out["the pose of its skeleton"] = None
        yield number


def _check(document: Document, name: str, values: Any) -> list[float]:
    """The numbers that place a node; InputError if they are none."""
    if not isinstance(values, list) or len(values) != PLACES[name]:
        raise InputError(f"{document.path} has a {name} of other than {PLACES[name]} numbers")
    return [float(value) for value in values]


def _find_instances(document: Document, node: dict[str, Any]) -> list[dict[str, Any]]:
    """How often a node shows its mesh, and where: once as it is, without the extension."""
    extension = node.get("extensions", {}).get(INSTANCING)
    if extension is None:
        return [{}]
    columns = {name: document.numbers(index) for name, index in extension["attributes"].items()}
    rows = {name.lower(): to_fractions(column).tolist() for name, column in columns.items()
            if name.lower() in PLACES}  # fmt: skip
    return [dict(zip(rows, row)) for row in zip(*rows.values())]


def _read_mesh(
    document: Document, mesh: dict[str, Any], weights: Sequence[float]
) -> Iterator[Shape]:
    """Read the primitives of a mesh that have faces."""
    for primitive in mesh["primitives"]:
        if primitive.get("mode", 4) not in MODES:
            document.left_out["points and lines"] = None
        elif "POSITION" in primitive["attributes"]:
            shape = _read_shape(document, primitive, weights)
            if len(shape.faces):
                yield shape


def _read_shape(document: Document, primitive: dict[str, Any], weights: Sequence[float]) -> Shape:
    """Read a primitive of triangles; its faces name only vertices that it has."""
    names = {name: index for name, index in primitive["attributes"].items()
             if name in ("POSITION", "COLOR_0") or name.startswith("TEXCOORD_")}  # fmt: skip
    draco, faces = primitive.get("extensions", {}).get(packed.DRACO), None
    columns: dict[str, Array] = {}
    if draco is not None:
        data = document.view(draco["bufferView"])
        columns, faces = packed.unpack_draco(data, draco["attributes"], document.path)
        columns = {name: _convert(document, names[name], columns[name])
                   for name in names if name in columns}  # fmt: skip
    for name, index in names.items():
        if name not in columns:
            columns[name] = document.numbers(index)
        for weight, target in zip(weights, primitive.get("targets", [])):
            if weight and name in target:
                columns[name] = columns[name] + np.float32(weight) * document.numbers(target[name])
    count = len(columns["POSITION"])
    for name, rows in columns.items():
        if len(rows) != count or rows.shape[1] not in WIDTHS[name[:5]]:
            raise InputError(f"{document.path} has {name} of {rows.shape[1]} numbers in "
                             f"{len(rows):,} rows, for {count:,} vertices")  # fmt: skip
    if faces is None:
        index = np.arange(count)
        if "indices" in primitive:
            index = document.numbers(primitive["indices"])[:, 0].astype(np.int64)
        faces = _find_triangles(index, primitive.get("mode", 4))
    if len(faces) and not 0 <= faces.min() <= faces.max() < count:
        raise InputError(f"{document.path} names vertices that it does not have")
    return Shape(torch.from_numpy(faces), columns, primitive.get("material"))


def _convert(document: Document, index: int, values: Array) -> Array:
    """Numbers of Draco's as the accessor that they stand for says."""
    return to_fractions(values) if document.find("accessors", index).get("normalized") else values


def _find_triangles(index: Array, mode: int) -> Array:
    """Faces [F, 3] of the corners [N] of triangles, of a strip or of a fan."""
    if MODES[mode] == "triangles":
        return index[: len(index) // 3 * 3].reshape(-1, 3)
    first = np.arange(max(len(index) - 2, 0))
    if MODES[mode] == "fan":
        corners = [first + 1, first + 2, np.zeros_like(first)]
    else:
        odd = first % 2
        corners = [first, first + 1 + odd, first + 2 - odd]
    faces: Array = index[np.stack(corners, 1)]
    faces = faces[(faces != np.roll(faces, 1, 1)).all(1)]  # strips jump by faces without area
    return faces
