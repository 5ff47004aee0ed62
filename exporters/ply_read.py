"""PLY as all tools write it: text and binary, polygons and strips, colours of every kind."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from exporters import axes
from exporters.join import join
from exporters.mtl import placed, read_texture
from exporters.parse import check_count
from exporters.ply_body import Column, Element, read_elements, split
from exporters.polygons import triangulate
from exporters.surfaces import Layer, Part, Surface
from exporters.text import name_file, say
from threed.core.errors import InputError
from threed.core.mesh import Mesh, flip_v

Ints = npt.NDArray[np.int64]
INDICES = ("vertex_indices", "vertex_index")
COLORS = (
    ("red", "green", "blue"),
    ("r", "g", "b"),
    ("diffuse_red", "diffuse_green", "diffuse_blue"),
)
COORDINATES = (("texture_u", "texture_v"), ("u", "v"), ("s", "t"), ("texture_s", "texture_t"))


def find_problem(content: bytes) -> str | None:
    """Say why this is not the content of a PLY file with a whole header; None if it is one."""
    if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:3].lower() != b"ply":
        return "it does not begin as one"
    return None if split(content)[0] else "its header does not end"


def read(content: bytes, path: Path) -> Mesh:
    """Read the mesh in the content of a PLY file; InputError, naming `path`, where that fails."""
    with name_file(path):
        elements, textures = read_elements(content)
        vertex = elements.get("vertex", {})
        if any(axis not in vertex or vertex[axis].counts is not None for axis in "xyz"):
            raise InputError("its vertices have no x, y and z")
        points = np.stack([np.asarray(vertex[axis].values, np.float64) for axis in "xyz"], 1)
        face = elements.get("face", {})
        corners, sizes, kept = _read_polygons(elements, len(points))
        check_count(int((sizes - 2).sum()), path)
        triangles, polygon = triangulate(points, corners, sizes)
        index, row = corners[triangles], kept[polygon]
        uv = _read_coordinates(vertex, face, index, triangles, sizes)
        surface = Surface(albedo=_read_layer(textures, path.parent))
        part = Part(
            axes.from_z_up(torch.from_numpy(points)),
            torch.from_numpy(index),
            placed(surface, uv),
            uv,
            _read_colors(vertex, face, index, row),
        )
    return join([part], path)


def _read_polygons(elements: dict[str, Element], count: int) -> tuple[Ints, Ints, Ints]:
    """Corners [C], sizes [P], and the rows [P] of the faces; of strips, their triangles."""
    face = elements.get("face", {})
    lists = [name for name, column in face.items() if column.counts is not None]
    name = next((name for name in INDICES if name in lists), lists[0] if len(lists) == 1 else None)
    if name is not None and face[name].counts is not None:
        corners, sizes = _to_index(face[name]), face[name].counts
        assert sizes is not None
        kept = sizes > 2
        if not kept.all():
            say(f"{int((~kept).sum()):,} faces of fewer than 3 corners are left out")
        corners = corners[np.repeat(kept, sizes)]
        found = corners, sizes[kept], np.flatnonzero(kept)
    else:
        triangles = _read_strips(elements.get("tristrips", {}))
        found = triangles.flatten(), np.full(len(triangles), 3), np.arange(len(triangles))
    bad = (found[0] < 0) | (found[0] >= count)
    if bad.any():
        raise InputError(f"a face names the vertex {found[0][bad][0]}; there are {count:,}, "
                         "counted from 0")  # fmt: skip
    return found


def _to_index(column: Column) -> Ints:
    """Its numbers as whole ones; -1 for what is none."""
    values = np.asarray(column.values)
    whole = np.where(np.isfinite(values) & (np.abs(values) < 2**53), values, -1)
    return whole.astype(np.int64)


def _read_strips(element: Element) -> Ints:
    """The triangles [F, 3] of strips of vertices; -1 begins another one."""
    column = next((element[name] for name in INDICES if name in element), None)
    if column is None or column.counts is None:
        return np.zeros((0, 3), np.int64)
    marks = np.full((1, len(column.counts)), -1)
    ends = np.cumsum(column.counts)
    strip = np.insert(_to_index(column), ends, marks[0])
    place = np.arange(len(strip))
    begin = np.maximum.accumulate(np.where(strip == -1, place, -1))
    rows = place[: max(len(strip) - 2, 0)]
    rows = rows[begin[rows + 2] < rows] if len(rows) else rows
    odd = (rows - begin[rows]) % 2 == 0  # its first place is one behind the mark
    triangles = strip[rows[:, None] + np.where(odd[:, None], [1, 0, 2], [0, 1, 2])]
    return triangles[(np.diff(np.sort(triangles, 1), axis=1) > 0).all(1)]


def _read_coordinates(
    vertex: Element, face: Element, index: Ints, triangles: Ints, sizes: Ints
) -> dict[Any, torch.Tensor]:
    """Texture coordinates [F, 3, 2], v downwards, of faces or else of vertices, if any.

    index: vertices of the triangles [F, 3]. triangles: the same as places among the corners of all
    polygons, which have sizes [P].
    """
    own, uv = face.get("texcoord"), None
    if own is not None and own.counts is not None:
        if np.array_equal(own.counts, 2 * sizes):
            uv = np.asarray(own.values, np.float64).reshape(-1, 2)[triangles]
        else:
            say("texture coordinates that some faces do not have are left out")
    names = next((pair for pair in COORDINATES if all(one in vertex for one in pair)), None)
    if uv is None and names is not None:
        uv = np.stack([np.asarray(vertex[one].values, np.float64) for one in names], 1)[index]
    return {} if uv is None else {0: flip_v(torch.from_numpy(uv))}


def _read_colors(vertex: Element, face: Element, index: Ints, row: Ints) -> Any:
    """The colours [F, 3, 3] of corners: those of the vertices, else of the faces, or None."""
    found = _find_colors(vertex)
    if found is not None:
        if _name_colors(face):
            say("the colours of its faces are left out, since its vertices have some")
        return torch.from_numpy(found[index])
    found = _find_colors(face)
    return None if found is None else torch.from_numpy(found[row][:, None].repeat(3, 1))


def _name_colors(element: Element) -> tuple[str, ...]:
    """The names of red, green and blue; none where rows have no colour, or a list of them."""
    plain = {name for name, column in element.items() if column.counts is None}
    return next((three for three in COLORS if plain.issuperset(three)), ())


def _find_colors(element: Element) -> Any:
    """The colours [N, 3] of rows in [0, 1], or None; what can be seen through is said."""
    names = _name_colors(element)
    if not names:
        return None
    values = np.stack([np.asarray(element[name].values) for name in names], 1)
    kind = values.dtype.kind
    values = np.nan_to_num(values.astype(np.float64))
    if kind == "f":
        white = 255.0 if values.max(initial=0) > 1 else 1.0
    else:
        white = 65535.0 if values.max(initial=0) > 255 else 255.0
    alpha = element.get("alpha")
    if alpha is not None and len(alpha.values) and float(alpha.values.min()) < white:
        say("its colours can be seen through, which is left out")
    return values / white


def _read_layer(textures: Sequence[str], folder: Path) -> Layer | None:
    """The picture that a comment names, as MeshLab writes it."""
    if len(textures) > 1:
        say(f"of its {len(textures)} textures, all but the first are left out")
    image = read_texture(textures[0], folder) if textures else None
    return None if image is None else Layer(image)
