"""Fewer faces and smaller textures for the same thing: what games can afford."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from exporters.bake import bake, paint
from exporters.clean import weld
from exporters.normals import bake_normals
from exporters.simplify import simplify
from exporters.transfer import Skin
from exporters.unwrap import unwrap
from threed.core.budget import Budget, Level, levels
from threed.core.mesh import Material, Mesh

TEXTURE = 1024  # texels a side of the texture of a mesh that had none, where none is asked for


def fit_budget(mesh: Mesh, budget: Budget | None = None, lods: int = 0) -> list[Mesh]:
    """Fit a mesh into a budget, and make `lods` coarser copies of it; no budget is all there is.

    Where it has few enough faces, the mesh keeps them and its map, and only its pictures shrink.
    Otherwise the results have a map of their own, onto which its colours and its other pictures are
    carried over, and, where that shows, the shape that it loses. InputError as from `levels`.
    """
    budget = budget or Budget()
    sides = [max(image.shape[:2]) for image in mesh.material.maps().values()]
    own = max(sides, default=budget.texture or TEXTURE)
    faces = min(len(mesh.faces), budget.faces or len(mesh.faces))
    wanted = levels(faces, min(own, budget.texture or own), lods)
    fitted, skin = [], None
    for level in wanted:
        if level.faces == len(mesh.faces):
            fitted.append(_shrink_pictures(mesh, level.texture))
            continue
        skin = skin or Skin(mesh)
        fitted.append(_make_copy(skin, level))
    return fitted


def _make_copy(skin: Skin, level: Level) -> Mesh:
    """Make a mesh with fewer faces that shows what that of the skin does."""
    bare = weld(Mesh(skin.mesh.vertices, skin.mesh.faces))
    return dressed(simplify(bare, level.faces), skin, level.texture)


def dressed(mesh: Mesh, skin: Skin, texture: int) -> Mesh:
    """A bare mesh with the material of another one beside it, on a map of its own if it needs one.

    Where that shows, the shape that it lacks is a normal map.
    """
    source, own = skin.mesh, skin.mesh.material
    mesh = replace(mesh, material=Material(metallic=own.metallic, roughness=own.roughness))
    if source.colors is None and not own.maps():
        return mesh
    return bake_normals(painted(unwrap(mesh, texture), skin, texture), skin, texture)


def painted(mesh: Mesh, skin: Skin, texture: int) -> Mesh:
    """A mesh with a map, onto which the colours of another one beside it are carried over.

    Its roughness and metallic are, too, where they are a picture.
    """
    source, own = skin.mesh, skin.mesh.material
    if source.colors is not None or own.albedo is not None:
        mesh = bake(mesh, skin.color, texture)
    both = own.metallic_roughness
    if both is not None:
        image = paint(mesh, lambda points, normals: skin.picture(both, points, normals), texture)
        mesh = replace(mesh, material=replace(mesh.material, metallic_roughness=image))
    return mesh


def _shrink_pictures(mesh: Mesh, texture: int) -> Mesh:
    """Shrink the pictures of a mesh to at most that many texels a side."""

    def shrink(image: Tensor) -> Tensor:
        scale = texture / max(image.shape[:2])
        if scale >= 1:
            return image
        size = [max(1, round(side * scale)) for side in image.shape[:2]]
        return F.interpolate(image.permute(2, 0, 1)[None], size, mode="area")[0].permute(1, 2, 0)

    maps: dict[str, Any] = {name: shrink(image) for name, image in mesh.material.maps().items()}
    return replace(mesh, material=replace(mesh.material, **maps))
