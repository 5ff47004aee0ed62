"""Wavefront OBJ as all tools write it, with its MTL and pictures."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from exporters import axes
from exporters.join import join
from exporters.mtl import placed, read_materials, to_surface
from exporters.parse import check_count
from exporters.polygons import triangulate
from exporters.surfaces import Part, Surface
from exporters.text import LOOK, decode, name_file, read_numbers, say, to_lines
from threed.core.errors import InputError
from threed.core.mesh import Mesh, flip_v

Ints = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]
NAME = re.compile(rb"^[ \t]*(usemtl|mtllib)[ \t]+([^\n]*)\n", re.MULTILINE | re.IGNORECASE)
PLAIN = bytes(32 if c in b"\t\v\f" else c + 32 if 65 <= c <= 90 else c for c in range(256))
LOST = {"lines and points": ("l", "p"), "curves and curved surfaces": ("curv", "curv2", "surf")}


def find_problem(content: bytes) -> str | None:
    """Say why this is not the content of an OBJ file with faces; None if it is one."""
    text = to_lines(content)
    if b"\0" in text[:100_000]:
        return "it is not a text"
    return None if re.search(rb"^[ \t]*fo?[ \t]", text, re.M | re.I) else "it holds no face"


def read(content: bytes, path: Path) -> Mesh:
    """Read the mesh in the content of an OBJ file, with the MTL and pictures beside `path`.

    InputError, naming `path`, where that fails.
    """
    with name_file(path):
        file = _Lines(content)
        points, colors = _read_points(file)
        faces = _read_faces(file)
        check_count(int((faces.sizes - 2).sum()), path)
        parts = _to_parts(file, faces, (points, colors), path.parent)
    return join(parts, path)


class _Lines:
    """The lines of a file by their keywords, small letters all, names apart."""

    def __init__(self, content: bytes) -> None:
        self.names: list[str] = []  # of materials, in the order of the usemtl lines
        self.libraries: list[str] = []
        text = NAME.sub(self._keep_name, to_lines(content)).translate(PLAIN)
        text = re.sub(rb"#[^\n]*", b"", text)
        text = re.sub(rb"\\ *\n", b" ", text)
        text = re.sub(rb"^ +", b"", text, flags=re.MULTILINE)
        self.whole = content[-1:] in b"\r\n"  # or its last line may be cut off
        self.text: Bytes = np.frombuffer(text, np.uint8).copy()
        ends = np.flatnonzero(self.text == 10)
        self.starts = np.concatenate([[0], ends[:-1] + 1])
        self.lengths = ends + 1 - self.starts
        self.last = int(np.flatnonzero(self.lengths > 1)[-1]) if (self.lengths > 1).any() else 0

    def _keep_name(self, found: re.Match[bytes]) -> bytes:
        name = decode(found[2]).strip()
        if found[1].lower() == b"mtllib":
            self.libraries.append(name)
            return b"\n"
        self.names.append(name)
        return b"usemtl\n"

    def find(self, *keywords: str) -> Ints:
        """The numbers [L] of the lines that begin so."""
        lines = np.zeros(len(self.starts), bool)
        for keyword in keywords:
            fits = self.lengths > len(keyword)
            for place, letter in enumerate(keyword.encode()):
                fits[fits] = self.text[self.starts[fits] + place] == letter
            fits[fits] = self.text[self.starts[fits] + len(keyword)] <= 32
            lines |= fits
        return np.flatnonzero(lines)

    def take(self, lines: Ints, keyword: int) -> Bytes:
        """The text of some lines, without as many letters of a keyword."""
        chosen = np.zeros(len(self.starts), bool)
        chosen[lines] = True
        mask = np.repeat(chosen, self.lengths)
        for letter in range(keyword):
            mask[self.starts[lines] + letter] = False
        found: Bytes = self.text[mask]
        return found

    def show(self, line: int) -> str:
        """Quote a line for an error."""
        first = int(self.starts[line])
        return repr(decode(self.text[first : first + int(self.lengths[line]) - 1].tobytes())[:LOOK])

    def read_rows(self, keyword: str, least: int) -> tuple[Any, Ints, Ints]:
        """The numbers of all lines of a keyword, one after the other.

        Also where each line's numbers begin and how many it has. InputError for fewer than `least`.
        """
        lines = self.find(keyword)
        text = self.take(lines, len(keyword))
        begins = _find_starts(text > 32)
        counts = np.bincount(_find_lines(text, begins), minlength=len(lines))
        if len(lines) and counts.min() < least:
            line = self.show(int(lines[counts.argmin()]))
            raise InputError(f"the line {line} has fewer than {least} numbers")
        values = read_numbers(text.tobytes())
        if len(values) != len(begins):
            raise InputError(f"its lines {keyword!r} hold what is no number")
        return values, np.cumsum(counts) - counts, counts


def _find_starts(filled: npt.NDArray[np.bool_]) -> Ints:
    """Where runs begin."""
    return np.flatnonzero(filled & ~np.concatenate([[False], filled[:-1]]))


def _find_lines(text: Bytes, places: Ints) -> Ints:
    return np.searchsorted(np.flatnonzero(text == 10), places)


@dataclass(frozen=True)
class _Faces:
    """Polygons as a file has them."""

    corners: Ints  # [C, 2] vertex and texture coordinate, from 0; -1 without a coordinate
    sizes: Ints  # [P] corners of each
    materials: Ints  # [P] which usemtl line holds, -1 before the first


def _read_faces(file: _Lines) -> _Faces:
    """The polygons of a file; InputError for those that cannot be."""
    lines = np.sort(np.concatenate([file.find("f"), file.find("fo")]))
    text = file.take(lines, 1)
    text[text == ord("o")] = 32
    table, line = _read_corners(text, file, lines)
    sizes = np.bincount(line, minlength=len(lines))
    short = (sizes > 0) & (sizes < 3)
    if len(lines) and 0 < sizes[-1] < 3 and lines[-1] == file.last and not file.whole:
        raise InputError(f"it is cut off in its last line, {file.show(file.last)}")
    if short.any():
        say(f"{int(short.sum()):,} faces of fewer than 3 corners are left out")
    for column, keyword in enumerate(("v", "vt")):
        mine = file.find(keyword)
        below = table[:, column] < 0
        table[below, column] += np.searchsorted(mine, lines[line[below]]) + 1
        _check_range(file, table[:, column], len(mine), lines[line], keyword)
    for what, keywords in LOST.items():
        if len(file.find(*keywords)):
            say(f"its {what} are left out")
    keep = sizes > 2
    materials = np.searchsorted(file.find("usemtl"), lines[keep]) - 1
    return _Faces(table[keep[line]] - 1, sizes[keep], materials)


def _check_range(file: _Lines, index: Ints, count: int, lines: Ints, keyword: str) -> None:
    """Refuse faces with vertices that are not there; their texture coordinates are left out."""
    bad = (index < 1) | (index > count)
    if keyword == "vt":
        bad = (index < 0) | (index > count)
        if bad.any():
            say("faces name texture coordinates that are not there; they are left out")
            index[bad] = 0
    elif bad.any():
        first = int(bad.argmax())
        where = f"the line {file.show(int(lines[first]))} names a vertex that is not there"
        raise InputError(f"{where}: there are {count:,}, counted from 1")


def _read_corners(text: Bytes, file: _Lines, lines: Ints) -> tuple[Ints, Ints]:
    """The corners [C, 2] of lines such as ' 1/2/3 4//5', 0 where one has no number; their lines."""
    digit = ((text >= 48) & (text <= 57)) | (text == ord("-")) | (text == ord("+"))
    slash = text == ord("/")
    odd = np.flatnonzero(~digit & ~slash & (text > 32))
    if len(odd):
        line = file.show(int(lines[_find_lines(text, odd[:1])[0]]))
        raise InputError(f"the line {line} holds what is no number")
    corners, numbers = _find_starts(text > 32), _find_starts(digit)
    slashes = np.flatnonzero(slash)
    owner = np.searchsorted(corners, numbers, "right") - 1
    column = np.searchsorted(slashes, numbers) - np.searchsorted(slashes, corners)[owner]
    values = read_numbers(np.where(slash, np.uint8(32), text).tobytes(), np.int64)
    fine = np.zeros(len(corners), bool)
    fine[owner[column == 0]] = True
    if len(values) != len(numbers) or not fine.all() or (column > 2).any():
        raise InputError("its faces hold corners that are not of the form 1, 1/2, 1//3 or 1/2/3")
    table = np.zeros((len(corners), 3), np.int64)
    table[owner, column] = values
    return table[:, :2], _find_lines(text, corners)


def _to_parts(file: _Lines, faces: _Faces, vertices: tuple[Any, Any], folder: Path) -> list[Part]:
    """Cut the polygons into triangles, and part them by their materials."""
    points, colors = vertices
    values, first, _ = file.read_rows("vt", 1)
    flat = np.stack([values[first], values[np.minimum(first + 1, len(values) - 1)]], 1)
    triangles, polygon = triangulate(points, faces.corners[:, 0], faces.sizes)
    surfaces = _find_surfaces(file, np.unique(faces.materials), folder)
    parts = []
    for surface, lines in surfaces:
        mine = triangles[np.isin(faces.materials, lines)[polygon]]
        used, index = np.unique(faces.corners[mine, 0], return_inverse=True)
        place = axes.from_y_up(torch.from_numpy(points[used]))
        shape = torch.from_numpy(index.reshape(-1, 3))
        painted = None if colors is None else torch.from_numpy(colors[faces.corners[mine, 0]])
        uv = _lay(surface, flat, faces.corners[mine, 1])
        parts.append(Part(place, shape, placed(surface, uv), uv, painted))
    return parts


def _read_points(file: _Lines) -> tuple[Any, Any]:
    """The vertices [N, 3] and their colours [N, 3] sRGB, or None."""
    values, first, counts = file.read_rows("v", 3)
    points = values[first[:, None] + np.arange(3)]
    colored = counts > 5
    if not colored.any():
        return points, None
    colors = np.ones((len(first), 3))
    colors[colored] = values[first[colored, None] + np.arange(3, 6)]
    return points, np.nan_to_num(colors) / (255 if colors.max() > 1 else 1)


def _find_surfaces(file: _Lines, lines: Ints, folder: Path) -> list[tuple[Surface, Ints]]:
    """The materials that faces have, each with its usemtl lines."""
    materials: dict[str, Any] = {}
    for library in file.libraries:
        materials |= read_materials(folder, library)
    by_name: dict[str, list[int]] = {}
    for line in lines.tolist():
        by_name.setdefault(file.names[line] if line >= 0 else "", []).append(line)
    found = []
    for name, mine in by_name.items():
        plain = re.split(r"\s#", name)[0].strip()
        entries = materials.get(name, materials.get(plain))
        if entries is None and name and materials:
            say(f"its material {plain!r} is not there; it is left out")
        surface = Surface() if entries is None else to_surface(entries, folder)
        found.append((surface, np.array(mine)))
    return found


def _lay(surface: Surface, flat: Any, corners: Ints) -> dict[Any, torch.Tensor]:
    """The texture coordinates [F, 3, 2] of corners [F, 3], v downwards, as the picture needs them.

    Corners without any have 0; none if all are.
    """
    if not len(flat) or (corners < 0).all():
        return {}
    uv = np.where(corners[..., None] < 0, 0.0, flat[corners])
    found: dict[Any, torch.Tensor] = {0: flip_v(torch.from_numpy(uv))}
    name = surface.albedo.uv if surface.albedo is not None else 0
    if isinstance(name, tuple):
        found[name] = flip_v(torch.from_numpy(uv * name[:2] + np.array(name[2:])))
    return found
