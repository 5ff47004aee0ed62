"""Several materials as one: their pictures side by side in one texture."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from exporters import topology
from exporters.bake import find_texels
from exporters.mapping import measure_use
from exporters.normals import find_frames
from exporters.pictures import fit_ball
from exporters.surfaces import Group, Layer, Surface, Wrap, light_to_srgb, move, multiply
from exporters.topology import find_distinct
from exporters.unwrap import unwrap
from renderers.kernels.raster import interpolate, texture
from renderers.shading import to_linear
from threed.core.errors import MeshWarning
from threed.core.mesh import Material, Mesh, flip_v

PAD = 4  # texels around what is shown: bilinear look-ups and two mip levels stay inside
MOST = 4096  # texels a side of what one material becomes
ALL = (MOST + 2 * PAD) ** 2  # texels of the atlas
SIDE = 1024  # texels a side of the map of a material without a picture
LEAST = 256  # texels a side of a new map, however small its pictures
NOTHING = 1e-9  # area of the surface in a unit ball of which no map is made
SHARED = 1e-3  # of a map: so much may be shown twice by faces of different colours
NEUTRAL = {
    "albedo": (1.0, 1.0, 1.0),
    "normal": (0.5, 0.5, 1.0),
    "metallic_roughness": (1.0, 1.0, 1.0),
}  # pictures that do nothing


@dataclass(frozen=True, eq=False)
class _Tile:
    """What one material shows, as pictures of one size, PAD texels wider on all sides."""

    uv: Tensor  # [n, 3, 2] float64, in texels from the upper left corner
    size: tuple[int, int]  # height, width
    images: dict[str, Tensor]  # [height, width, 3] or [3] by the names of a material's pictures


def bake(mesh: Mesh, groups: Sequence[Group], path: Path) -> Mesh:
    """Give a mesh one map and one material that show what each group of its faces does.

    A group with one set of texture coordinates and one colour keeps its texels as they are, its
    picture repeated as often as its faces need; it shrinks only where the atlas would have more
    than ALL texels, which a MeshWarning says of the file `path`. Others are painted anew, texel by
    texel: on the map of their picture if that shows no texel twice, else on a new one.
    """
    texels = sum(_count_texels(group) for group in groups)
    scale = min(1.0, (ALL / texels) ** 0.5)
    if scale < 1:
        warnings.warn(f"{path} has so many textures that they were shrunk to {scale:.0%} of their "
                      "sides, to fit into one", MeshWarning, stacklevel=4)  # fmt: skip
    tiles = [_make_tile(mesh, group, scale) for group in groups]
    if find_gloss(groups) is None:
        tiles = [_add_gloss(tile, group.surface) for tile, group in zip(tiles, groups)]
    places, size = _pack([tile.size for tile in tiles])
    uv = torch.empty(len(mesh.faces), 3, 2, dtype=torch.float64)
    for group, tile, (top, left) in zip(groups, tiles, places):
        uv[group.rows] = tile.uv + torch.tensor([left, top])
    uv /= torch.tensor([size[1], size[0]])
    rows, index = find_distinct(uv.flatten(0, 1))
    maps = {name: _join_images(name, tiles, places, size) for name in NEUTRAL}
    metallic, roughness = find_gloss(groups) or (1.0, 1.0)
    material = Material(metallic=metallic, roughness=roughness, **maps)
    return replace(mesh, uv=rows, uv_faces=index.view(-1, 3), colors=None, material=material)


def find_gloss(groups: Sequence[Group]) -> tuple[float, float] | None:
    """The metallic and roughness of all groups, or None if they differ."""
    found = {(group.surface.metallic, group.surface.roughness) for group in groups}
    return next(iter(found)) if len(found) == 1 else None


def _count_texels(group: Group) -> float:
    """About how many texels the tile of a group would have at full size."""
    height, width = _find_size(group)
    uv = group.laid()
    if uv is None or group.plain() is None:
        return height * width
    span = uv.amax((0, 1)) - uv.amin((0, 1))
    if float(span.max()) > MOST:
        return (2 * PAD) ** 2
    texels = (span * torch.tensor([width, height])).clamp(max=MOST)
    return float((texels + 2 * PAD).prod())


def _find_size(group: Group) -> tuple[int, int]:
    """The height and width of the largest picture of a group."""
    sizes = [one.image.shape for one in group.surface.layers().values()]
    if not sizes:
        return (1, 1) if group.plain() is not None else (SIDE, SIDE)
    return max(size[0] for size in sizes), max(size[1] for size in sizes)


def _make_tile(mesh: Mesh, group: Group, scale: float) -> _Tile:
    """Make what a group shows, its pictures' sides scaled."""
    color = group.plain()
    if color is not None and not group.surface.layers():
        middle = torch.full((len(group.rows), 3, 2), PAD + 0.5, dtype=torch.float64)
        return _Tile(middle, (2 * PAD + 1, 2 * PAD + 1), {"albedo": color})
    uv = group.laid()
    if color is None or uv is None:
        return _paint(mesh, group, scale)
    return _copy(group, uv, color, scale)


def _add_gloss(tile: _Tile, surface: Surface) -> _Tile:
    """A tile whose picture of metallic and roughness has the surface's numbers in it."""
    factors = torch.tensor([1.0, surface.roughness, surface.metallic])
    image = tile.images.get("metallic_roughness", torch.ones(3)) * factors
    return replace(tile, images=tile.images | {"metallic_roughness": image})


def _copy(group: Group, uv: Tensor, color: Tensor, scale: float) -> _Tile:
    """Copy the texels that faces with texture coordinates [n, 3, 2] need."""
    size = torch.tensor(_find_size(group)[::-1])
    span = uv.amax((0, 1)) - uv.amin((0, 1))
    if float(span.max()) > MOST:  # smaller than a texel each
        uv, span, scale = torch.zeros_like(uv), torch.zeros_like(span), 0.0
    scale = min(scale, MOST / max(float((span * size).max()), 1.0))
    size = (size * scale).round().clamp(min=1)
    uv = uv * size
    left, top = (uv.amin((0, 1)).floor().long() - PAD).tolist()
    right, bottom = (uv.amax((0, 1)).ceil().long() + PAD).tolist()
    images = {"albedo": color}
    for name, layer in group.surface.layers().items():
        image = _resize(layer.image, int(size[1]), int(size[0]))
        row = _fold(torch.arange(top, bottom), image.shape[0], layer.wrap[1])
        column = _fold(torch.arange(left, right), image.shape[1], layer.wrap[0])
        image = image[row][:, column]
        images[name] = multiply(image, color) if name == "albedo" else image
    return _Tile(uv - torch.tensor([left, top]), (bottom - top, right - left), images)


def _resize(image: Tensor, height: int, width: int) -> Tensor:
    """Bring an image [H, W, 3] to [height, width, 3]."""
    if image.shape[:2] == (height, width):
        return image
    smaller = height <= image.shape[0] and width <= image.shape[1]
    way = "area" if smaller else "bilinear"
    return F.interpolate(image.permute(2, 0, 1)[None], (height, width), mode=way)[0].permute(
        1, 2, 0
    )


def _fold(index: Tensor, count: int, way: Wrap) -> Tensor:
    """Find which of a picture's rows of texels, `count`, a wrap mode shows at any indices [N]."""
    if way == "clamp":
        return index.clamp(0, count - 1)
    if way == "repeat":
        return index % count
    index = index % (2 * count)
    return torch.minimum(index, 2 * count - 1 - index)


def _look_up(layer: Layer, uv: Tensor) -> Tensor:
    """Look up what a layer shows [N, 3] at texture coordinates [N, 2], v downwards."""
    height, width = layer.image.shape[:2]
    row = _fold(torch.arange(-1, height + 1), height, layer.wrap[1])
    column = _fold(torch.arange(-1, width + 1), width, layer.wrap[0])
    ways = zip(uv.double().unbind(-1), layer.wrap, (width, height))
    place = torch.stack([(_wrap(along, way) * n + 1) / (n + 2) for along, way, n in ways], -1)
    return texture(layer.image[row][:, column], flip_v(place)[None, None].float())[0, 0]


def _wrap(along: Tensor, way: Wrap) -> Tensor:
    """Bring coordinates of any size into [0, 1] by a wrap mode."""
    if way == "clamp":
        return along.clamp(0, 1)
    return along - along.floor() if way == "repeat" else 1 - (along.remainder(2) - 1).abs()


def _paint(mesh: Mesh, group: Group, scale: float) -> _Tile:
    """Paint what a group shows anew, texel by texel."""
    side = max(1, round(max(_find_size(group)) * scale))
    used, index = torch.unique(mesh.faces[group.rows], return_inverse=True)
    bare = fit_ball(Mesh(mesh.vertices[used], index))
    flat, side = _find_map(bare, group, side)
    texels = find_texels(flat, side)
    names = torch.arange(3 * len(index)).view(-1, 3)

    def across(corners: Tensor) -> Tensor:
        """What corners [n, 3, C] have at the texels [N, C]."""
        return interpolate(corners.flatten(0, 1).float(), texels.hits, names)[0, :, 0]

    layers = group.surface.layers()
    found = {
        name: _look_up(one, across(move(group.uv[one.uv], one.wrap)))
        for name, one in layers.items()
    }
    color = light_to_srgb(across(to_linear(group.colors)))
    found["albedo"] = multiply(found["albedo"], color) if "albedo" in found else color
    if "normal" in found:
        theirs = add_map(bare, group.uv[layers["normal"].uv])
        world = find_frames(theirs, texels.hits)[1].turn(found["normal"] * 2 - 1)
        found["normal"] = (find_frames(flat, texels.hits)[1].lean(world) + 1) / 2
    around = (torch.arange(-PAD, side + PAD)).clamp(0, side - 1)
    images = {name: texels.fill(value)[around][:, around] for name, value in found.items()}
    assert flat.uv is not None
    assert flat.uv_faces is not None
    return _Tile(flat.uv[flat.uv_faces] * side + PAD, (side + 2 * PAD,) * 2, images)


def _find_map(bare: Mesh, group: Group, side: int) -> tuple[Mesh, int]:
    """The faces of a group with a map that shows no place twice, and its texels a side.

    The map is one of its own if that will do, else a new one.
    """
    for name in dict.fromkeys([one.uv for one in group.surface.layers().values()] or group.uv):
        uv = group.uv[name]
        if bool(((uv >= 0) & (uv <= 1)).all()):
            mesh = add_map(bare, uv)
            coverage, shared = measure_use(*mesh.opengl_map(), side)
            if coverage > 0 and shared < SHARED:
                return mesh, side
    if float(topology.areas(bare).sum()) < NOTHING:
        return add_map(bare, torch.zeros(len(bare.faces), 3, 2, dtype=torch.float64)), 1
    side = max(side, LEAST)
    return unwrap(bare, side), side


def add_map(mesh: Mesh, uv: Tensor) -> Mesh:
    """The mesh with texture coordinates [F, 3, 2] of its corners."""
    rows, index = find_distinct(uv.flatten(0, 1))
    return replace(mesh, uv=rows, uv_faces=index.view(-1, 3))


def _pack(sizes: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Pack rectangles (height, width) on shelves.

    Return (top, left) of each, and the (height, width) of all.
    """
    side = sum(height * width for height, width in sizes) ** 0.5
    tries = [_shelve(sizes, round(side * stretch)) for stretch in (1, 1.25, 1.5, 2)]
    return min(tries, key=lambda packed: packed[1][0] * packed[1][1])


def _shelve(
    sizes: Sequence[tuple[int, int]], across: int
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Do what `_pack` does on shelves about so wide."""
    places, top, left, shelf, wide = {}, 0, 0, 0, 0
    for index in sorted(range(len(sizes)), key=lambda k: (-sizes[k][0], k)):
        height, width = sizes[index]
        if left and left + width > across:
            top, left, shelf = top + shelf, 0, 0
        places[index] = (top, left)
        left, shelf = left + width, max(shelf, height)
        wide = max(wide, left)
    return [places[index] for index in range(len(sizes))], (top + shelf, wide)


def _join_images(
    name: str, tiles: Sequence[_Tile], corners: Sequence[tuple[int, int]], size: tuple[int, int]
) -> Tensor | None:
    """Put the pictures of a name at the corners (top, left) of their tiles; None without any."""
    if not any(name in tile.images for tile in tiles):
        return None
    neutral = torch.tensor(NEUTRAL[name])
    image = neutral.expand(*size, 3).clone()
    for tile, (top, left) in zip(tiles, corners):
        height, width = tile.size
        image[top : top + height, left : left + width] = tile.images.get(name, neutral)
    return image
