"""Fewer faces and smaller textures for the same thing: what games can afford."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from exporters.bake import SIZES, bake, paint
from exporters.clean import weld
from exporters.normals import bake_normals
from exporters.report import MAPS
from exporters.simplify import FEWEST, simplify
from exporters.transfer import Skin
from exporters.unwrap import unwrap
from threed.core import InputError, Material, Mesh

TEXTURE = 1024  # texels a side of the texture of a mesh that had none, where none is asked for
LODS = 8  # at most so many coarser copies


@dataclass(frozen=True)
class Budget:
    """At most about so many faces, and texels a side; None is as many as there are."""

    faces: int | None = None
    texture: int | None = None

    def __post_init__(self) -> None:
        """InputError for what no mesh can have."""
        if self.faces is not None and self.faces < FEWEST:
            raise InputError(f"budget: faces must be at least {FEWEST}, got {self.faces}")
        if self.texture is not None and not SIZES[0] <= self.texture <= SIZES[1]:
            raise InputError(f"budget: texture must be in {SIZES[0]}..{SIZES[1]}, "
                             f"got {self.texture}")  # fmt: skip

    @staticmethod
    def parse(text: str) -> Budget:
        """From words such as faces=5000,texture=512; InputError for any others."""
        values: dict[str, int] = {}
        for word in text.split(","):
            name, _, value = (part.strip() for part in word.partition("="))
            if name not in ("faces", "texture") or not value.isdecimal():
                raise InputError(f"budget: {word.strip()!r} is not understood; it takes "
                                 "faces=5000, texture=512, or both with a comma")  # fmt: skip
            values[name] = int(value)
        return Budget(**values)

    def given(self) -> dict[str, int]:
        """What is limited, by name."""
        pairs = {"faces": self.faces, "texture": self.texture}
        return {name: value for name, value in pairs.items() if value is not None}


@dataclass(frozen=True)
class Level:
    """What a mesh, or a coarser copy of it, is made with."""

    faces: int  # at most about so many
    texture: int  # texels a side


def levels(faces: int, texture: int, lods: int) -> list[Level]:
    """The levels of a mesh and of its `lods` coarser copies, finest first.

    Each is for twice the distance: with half the size in the picture, a quarter of the faces and
    half the texels a side look the same. InputError where nothing would be left of a copy.
    """
    if not 0 <= lods <= LODS:
        raise InputError(f"lods must be in 0..{LODS}, got {lods}")
    found = [(faces // 4**level, max(texture // 2**level, SIZES[0])) for level in range(lods + 1)]
    if found[-1][0] < FEWEST:
        raise InputError(f"lods={lods} would leave {found[-1][0]} faces of {faces:,}; "
                         f"ask for fewer, or for more faces")  # fmt: skip
    return [Level(*pair) for pair in found]


def fit(mesh: Mesh, budget: Budget | None = None, lods: int = 0) -> list[Mesh]:
    """A mesh within a budget, and `lods` coarser copies of it; no budget is all there is.

    Where it has few enough faces, the mesh keeps them and its map, and only its pictures shrink.
    Otherwise the results have a map of their own, onto which its colours and its other pictures are
    carried over, and, where that shows, the shape that it loses. InputError as from `levels`.
    """
    budget, pictures = budget or Budget(), _pictures(mesh.material).values()
    own = max((max(image.shape[:2]) for image in pictures), default=budget.texture or TEXTURE)
    faces = min(len(mesh.faces), budget.faces or len(mesh.faces))
    wanted = levels(faces, min(own, budget.texture or own), lods)
    fitted, skin = [], None
    for level in wanted:
        if level.faces == len(mesh.faces):
            fitted.append(_smaller_pictures(mesh, level.texture))
            continue
        skin = skin or Skin(mesh)
        fitted.append(_copy(skin, level))
    return fitted


def _copy(skin: Skin, level: Level) -> Mesh:
    """A mesh with fewer faces that shows what another one does."""
    source, own, texture = skin.mesh, skin.mesh.material, level.texture
    mesh = simplify(weld(Mesh(source.vertices, source.faces)), level.faces)
    mesh = replace(mesh, material=Material(metallic=own.metallic, roughness=own.roughness))
    if source.colors is None and not _pictures(own):
        return mesh
    mesh = unwrap(mesh, texture)
    if source.colors is not None or own.albedo is not None:
        mesh = bake(mesh, skin.color, texture)
    both = own.metallic_roughness
    if both is not None:
        image = paint(mesh, lambda points, normals: skin.picture(both, points, normals), texture)
        mesh = replace(mesh, material=replace(mesh.material, metallic_roughness=image))
    return bake_normals(mesh, skin, texture)


def _smaller_pictures(mesh: Mesh, texture: int) -> Mesh:
    """The mesh with pictures of at most that many texels a side."""

    def shrunk(image: Tensor) -> Tensor:
        scale = texture / max(image.shape[:2])
        if scale >= 1:
            return image
        size = [max(1, round(side * scale)) for side in image.shape[:2]]
        return F.interpolate(image.permute(2, 0, 1)[None], size, mode="area")[0].permute(1, 2, 0)

    maps: dict[str, Any] = {k: shrunk(image) for k, image in _pictures(mesh.material).items()}
    return replace(mesh, material=replace(mesh.material, **maps))


def _pictures(material: Material) -> dict[str, Tensor]:
    """The pictures that a material has, by name."""
    named = {name: getattr(material, name) for name in MAPS}
    return {name: image for name, image in named.items() if image is not None}
