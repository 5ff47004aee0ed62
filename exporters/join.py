"""Parts as files have them, joined to one mesh of ours."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from exporters import atlas
from exporters.surfaces import Group, Part, Surface, multiply
from exporters.topology import find_distinct
from threed.core.errors import InputError, MeshWarning
from threed.core.mesh import Material, Mesh

EXACT = 2.0**-18  # of a mesh's size: as much may float32 round off before it is moved
WHITE = Surface().color
MOST_TILES = 2.0**30  # that a corner may lie beyond a picture
SAME = 1.5 / 255  # so far may colours of one vertex be apart
PALETTE = 4096  # colours of faces that become texels, one each


def join(parts: Sequence[Part], path: Path) -> Mesh:
    """Join the parts that were found in the file `path` to one mesh.

    A mesh of ours has one material. Without pictures, colours stay with the vertices where each
    vertex has one; colours of whole faces become a palette, others part the vertices. With
    pictures, one material stays as it is if its map lies in the square and nothing else colours
    it; all else goes through `exporters.atlas`. InputError for coordinates that are not numbers,
    faces that name vertices which are not there, and no face at all.
    """
    parts = [part for part in parts if len(part.faces)]
    if not parts:
        raise InputError(f"{path} holds no triangle")
    mesh = _join_shapes(parts, path)
    groups = list(_group(parts))
    if any(group.surface.layers() for group in groups):
        kept = _keep(mesh, groups[0]) if len(groups) == 1 else None
        return kept or atlas.bake(mesh, list(_split(groups)), path)
    painted = any(part.colors is not None or part.surface.color != WHITE for part in parts)
    return _color(mesh, groups, path, painted=painted)


def _join_shapes(parts: Sequence[Part], path: Path) -> Mesh:
    """The faces of all parts, equal vertices made one."""
    for part in parts:
        if int(part.faces.min()) < 0 or int(part.faces.max()) >= len(part.vertices):
            raise InputError(f"{path} names vertices that it does not have")
    starts = torch.tensor([0, *(len(part.vertices) for part in parts)]).cumsum(0)
    faces = torch.cat([part.faces + start for part, start in zip(parts, starts)])
    places = torch.cat([part.vertices for part in parts]).double()
    used = torch.zeros(len(places), dtype=torch.bool)
    used[faces] = True
    place = places[used]
    if not bool(torch.isfinite(place.float()).all()):
        what = "that are not numbers" if not bool(torch.isfinite(place).all()) else "beyond 3e38"
        raise InputError(f"{path} holds coordinates {what}")
    low, high = place.amin(0), place.amax(0)
    if float((place.float() - place).abs().max()) > EXACT * float((high - low).max()):
        place = place - (low + high) / 2
        warnings.warn(f"{path} lies so far from the origin that its shape would be rounded off; "
                      "it was moved there", MeshWarning, stacklevel=4)  # fmt: skip
    vertices, index = find_distinct(place.float())
    return Mesh(vertices, index[(used.cumsum(0) - 1)[faces]])


def _group(parts: Sequence[Part]) -> Iterator[Group]:
    """Put the faces of parts with one surface together."""
    rows = torch.arange(sum(len(part.faces) for part in parts))
    pieces = rows.split([len(part.faces) for part in parts])
    members: dict[object, list[int]] = {}
    for index, part in enumerate(parts):
        members.setdefault(part.surface.key(), []).append(index)
    for indices in members.values():
        own = [parts[index] for index in indices]
        surface = own[0].surface
        names = dict.fromkeys(name for part in own for name in part.uv)
        uv = {name: torch.cat([_coordinates(part, name) for part in own]) for name in names}
        colors = torch.cat([_corner_colors(part, surface) for part in own])
        yield Group(surface, torch.cat([pieces[index] for index in indices]), uv, colors)


def _coordinates(part: Part, name: object) -> Tensor:
    """The texture coordinates [F, 3, 2] of a name; zeros for what is missing or no number.

    Beyond MOST_TILES pictures there is no telling where in one a corner lies.
    """
    found = part.uv.get(name)
    blank = torch.zeros(len(part.faces), 3, 2, dtype=torch.float64)
    if found is None:
        return blank
    return torch.nan_to_num(found.double(), 0.0, 0.0, 0.0).clamp(-MOST_TILES, MOST_TILES)


def _corner_colors(part: Part, surface: Surface) -> Tensor:
    """The colours [F, 3, 3] of the corners, times the surface's; white without any."""
    own = torch.ones(1) if part.colors is None else part.colors.float().clamp(0, 1)
    return multiply(own.expand(len(part.faces), 3, 3), torch.tensor(surface.color))


def _keep(mesh: Mesh, group: Group) -> Mesh | None:
    """The mesh with the one material that it has, as it is; None if that does not show it."""
    uv, surface = group.laid(), group.surface
    if uv is None or bool(((uv < 0) | (uv > 1)).any()):
        return None
    pictures = {name: layer.image for name, layer in surface.layers().items()}
    material = Material(metallic=surface.metallic, roughness=surface.roughness, **pictures)
    mesh = replace(atlas.add_map(mesh, uv), material=material)
    if material.albedo is None:
        return mesh if bool((group.colors == 1).all()) else _color_vertices(mesh, group.colors)
    color = group.plain()
    if color is None:
        return None
    return replace(mesh, material=replace(material, albedo=multiply(material.albedo, color)))


def _color(mesh: Mesh, groups: Sequence[Group], path: Path, *, painted: bool) -> Mesh:
    """The mesh with the colours of groups without pictures; `painted` says that there are any."""
    gloss, colors = atlas.find_gloss(groups), torch.empty(len(mesh.faces), 3, 3)
    for group in groups:
        colors[group.rows] = group.colors
    if gloss is not None:
        mesh = replace(mesh, material=Material(metallic=gloss[0], roughness=gloss[1]))
        uv = groups[0].laid() if len(groups) == 1 else None
        mesh = mesh if uv is None else atlas.add_map(mesh, uv.clamp(0, 1))
        if not painted:
            return mesh
        found = _color_vertices(mesh, colors)
        if found is not None:
            return found
    flat = list(_split(groups))
    if gloss is None or all(group.plain() is not None for group in flat):
        return atlas.bake(mesh, flat, path)
    rows = torch.cat([mesh.vertices[mesh.faces], colors], -1).flatten(0, 1)
    rows, index = find_distinct(rows)
    return replace(mesh, vertices=rows[:, :3], faces=index.view(-1, 3), colors=rows[:, 3:])


def _color_vertices(mesh: Mesh, corners: Tensor) -> Mesh | None:
    """The mesh with the colours of its corners [F, 3, 3]; None if a vertex would have several."""
    colors = torch.zeros_like(mesh.vertices)
    colors[mesh.faces.flatten()] = corners.flatten(0, 1)
    apart = (colors[mesh.faces] - corners).abs().max()
    return None if float(apart) > SAME else replace(mesh, colors=colors)


def _split(groups: Sequence[Group]) -> Iterator[Group]:
    """Part groups without a picture whose faces have one colour each by these, if they are few."""
    for group in groups:
        flat = bool((group.colors == group.colors[:, :1]).all())
        if group.surface.layers() or not flat or group.plain() is not None:
            yield group
            continue
        colors, index = find_distinct(group.colors[:, 0])
        if len(colors) > PALETTE:
            yield group
            continue
        for mine in index.argsort(stable=True).split(index.bincount().tolist()):
            yield replace(group, rows=group.rows[mine], uv={}, colors=group.colors[mine])
