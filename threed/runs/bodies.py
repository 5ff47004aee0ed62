"""The body of a toy person's asset: the pose that it stands in, and what each view shows of it.

A mannequin of toybox's own measures is put into the asset, in the pose, with the hair and in the
kind of clothes in which their outlines are most alike. From then on the world knows of each view
what it knows of its own persons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from renderers.raster import render_mesh
from threed.core.cameras import Cameras, orbit
from threed.core.errors import InputError
from threed.core.mesh import Mesh
from threed.systems.tryon.sight import Sight
from threed.toybox.world.conditions import keypoints
from threed.toybox.world.draw import Light
from threed.toybox.world.dressed import Dressed, dense, moved, regions
from threed.toybox.world.figures import Identity
from threed.toybox.world.garments import WHITE, Garment
from threed.toybox.world.parts import Vector, extents
from threed.toybox.world.poses import ACROSS, POSES, Pose
from threed.toybox.world.scenes import Scene, Thing, View, draw_scene

SIDE = 48  # pixels of the outlines that are compared
HEIGHTS = (1.0, 0.93, 0.86)  # shares of the asset's height up to the hair: hats are above it
LEAST = 0.7  # of outlines, what both have over what one has, from which the asset is a person
ANYBODY, LONG_HAIRED = (
    Identity("light", hair, "brown", "brown", False, "none", 1.0) for hair in ("short", "long")
)
SWEATER, TROUSERS, SKIRT = (
    Garment(kind, "red", "plain") for kind in ("sweater", "trousers", "skirt")
)


@dataclass(frozen=True)
class Mannequin(Dressed):
    """A person that stands elsewhere, and is of another size."""

    scale: float = 1.0
    shift: Vector = (0.0, 0.0, 0.0)

    def things(self) -> tuple[Thing, ...]:
        """Place it."""
        (person,) = super().things()
        return (moved(person, self.scale, self.shift),)

    def seen(self, camera: Cameras, size: int) -> View:
        """What a camera sees of it, with its truth."""
        return draw_scene(Scene(self, Light(), WHITE, camera), size)


def find_body(mesh: Mesh) -> Mannequin:
    """The mannequin in an asset that stands upright and faces +x. InputError if it shows nobody."""
    views = [orbit(1, SIDE, start_deg=angle, elevation_deg=0.0) for angle in (0.0, 90.0)]
    there = [_outline(mesh, view, SIDE) for view in views]

    def alike(body: Mannequin) -> float:
        seen = [body.seen(view, SIDE).picture.alpha >= 0.5 for view in views]
        return float(np.mean([(a & b).sum() / (a | b).sum() for a, b in zip(there, seen)]))

    stands = max(_mannequins(mesh), key=alike)
    best = max([replace(stands, identity=who, lower=lower) for who in (ANYBODY, LONG_HAIRED)
                for lower in (TROUSERS, SKIRT)], key=alike)  # fmt: skip
    if (share := alike(best)) < LEAST:
        raise InputError(f"the asset shows no toy person (its outline is {share:.0%} one): one "
                         "that stands upright and faces the front can be dressed, as threed "
                         "generate makes it; see --up")  # fmt: skip
    return best


def _mannequins(mesh: Mesh) -> Iterator[Mannequin]:
    """Mannequins that stand where an asset stands, in each pose and as high as they may be."""
    low, high = (edge.numpy() for edge in mesh.vertices.cpu().aminmax(dim=0))
    for name, (right, left) in (POSES | ACROSS).items():
        for mirrored in (False, True)[: 1 if right == left else 2]:
            pose = Pose(name, (0.0, 0.0, 0.0, 0.0), mirrored)
            (person,) = Mannequin(ANYBODY, SWEATER, TROUSERS, pose).things()
            lowest, highest = extents(person.rows)
            for share in HEIGHTS:
                scale = share * float(high[2] - low[2]) / float(highest[2] - lowest[2])
                x, y, _ = ((low + high) / 2 - scale * (lowest + highest) / 2).tolist()
                shift = (x, y, float(low[2] - scale * lowest[2]))
                yield Mannequin(ANYBODY, SWEATER, TROUSERS, pose, scale=scale, shift=shift)


def sights(mesh: Mesh, cameras: Cameras, size: int) -> list[Sight]:
    """What each camera sees of a person's asset, at size² pixels. InputError as of `find_body`."""
    body, found = find_body(mesh), []
    for number in range(len(cameras)):
        camera = cameras[number : number + 1]
        view = body.seen(camera, size)
        where = _spread(regions(view), _outline(mesh, camera, size))
        person = render_mesh(mesh, camera.resized(size, size)).rgb.movedim(-1, 1)
        found.append(Sight(person, where, _picture(keypoints(view)), _picture(dense(view))))
    return found


def _spread(known: NDArray[np.int64], outline: NDArray[np.bool_]) -> NDArray[np.int64]:
    """[H, W] the nearest region of a mannequin for each pixel of an asset's outline."""
    places = ndimage.distance_transform_edt(known == 0, return_distances=False, return_indices=True)
    return np.where(outline, known[tuple(places)], 0)


def _outline(mesh: Mesh, camera: Cameras, size: int) -> NDArray[np.bool_]:
    """[size, size] where a camera sees an asset."""
    seen = render_mesh(mesh, camera.resized(size, size), antialias_factor=1).opacity
    outline: NDArray[np.bool_] = (seen[0, ..., 0] >= 0.5).cpu().numpy()
    return outline


def _picture(colors: NDArray[np.float32]) -> Tensor:
    """[1, 3, H, W] of colours [H, W, 3]."""
    return torch.from_numpy(colors.clip(0, 1)).permute(2, 0, 1)[None]
