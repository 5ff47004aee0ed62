"""The truth of a view as pictures that ControlNet-like systems are conditioned on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threed.core.errors import InputError
from threed.toybox.world.draw import Array
from threed.toybox.world.scenes import CLASSES, View

CREASE = 0.75  # cosine between neighbouring normals below which an edge is drawn
STEP = 0.05  # world units of depth from which two parts are told apart
CONTRAST = 0.2  # of colour, the same
DOT, BONE = 1.6, 0.9  # radii of keypoints and of bones, pixels of a 64×64 picture


def condition_map(kind: str, view: View) -> Tensor:
    """[3, H, W] in [0, 1]: the truth of a view as a picture; black where there is nothing.

    "edges": white outlines, of things and of their parts, one pixel wide. "depth": bright where
    near, over the picture's own range. "normal": (n + 1) / 2 of the normal seen from the camera, x
    to the right, y up, z towards it. "segmentation": a colour for each of CLASSES. "keypoints": a
    coloured dot for each visible one, and bones. InputError for another kind.
    """
    if kind not in CONDITIONS:
        raise InputError(f"toybox has no condition {kind!r}; it has {', '.join(CONDITIONS)}")
    shown = CONDITIONS[kind](view).astype(np.float32).clip(0, 1)  # rounding may pass 1
    return torch.from_numpy(shown).permute(2, 0, 1).contiguous()


def edges(view: View) -> Array:
    """[H, W, 3] white where a pixel and the one to its right or below it are not of one surface.

    Two parts that touch are told apart by their class, a crease, a step in depth or their colour.
    """
    picture = view.picture
    part = np.where(picture.alpha >= 0.5, picture.part, -1)
    found = np.zeros(part.shape, bool)
    layers = (part, picture.depth, picture.normal, picture.rgb, view.parse)
    for here, there in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        pairs = [(layer[here], layer[there]) for layer in layers]
        (a, b), (near, far), (n, m), (rgb, other), (one, two) = pairs
        told = ((n * m).sum(-1) < CREASE) | (abs(near - far) > STEP)
        told |= (abs(rgb - other).max(-1) > CONTRAST) | (one != two)
        found[here] |= (a != b) & (told | (a < 0) | (b < 0))
    return grey(found)


def depth(view: View) -> Array:
    """[H, W, 3] from 1 at the nearest to 0.15 at the farthest."""
    return grey(bright_where_near(view.picture.depth))


def normal(view: View) -> Array:
    """[H, W, 3] normals in the camera's axes as colours."""
    turned = view.picture.normal @ view.scene.camera.c2w[0, :3, :3].numpy()
    return where(view.picture.depth > 0, (turned + 1) / 2)


def segmentation(view: View) -> Array:
    """[H, W, 3] the colour of each pixel's class."""
    return where(view.parse >= 0, palette(len(CLASSES))[view.parse])


def keypoints(view: View) -> Array:
    """[H, W, 3] a dot for each visible keypoint, a line for each bone whose ends are visible."""
    size = view.picture.alpha.shape[0]
    canvas = np.zeros((size, size, 3), np.float32)
    for thing, points in zip(view.things, view.keypoints):
        colours, seen = palette(len(points)), points[:, 2] > 0
        for one, two in (bone for bone in thing.bones if seen[list(bone)].all()):
            share = _line(points[one], points[two], BONE * size / 64, size)
            canvas = np.maximum(canvas, share * 0.6 * colours[two])
        for place, colour in zip(points[seen], colours[seen]):
            share = _line(place, place, DOT * size / 64, size)
            canvas = canvas * (1 - share) + share * colour
    return canvas


CONDITIONS: dict[str, Callable[[View], Array]] = {
    "edges": edges, "depth": depth, "normal": normal, "segmentation": segmentation,
    "keypoints": keypoints,
}  # fmt: skip


def where(seen: NDArray[np.bool_], colours: NDArray[np.floating[Any]]) -> Array:
    """[H, W, 3] these colours, and black where nothing is seen [H, W]."""
    return np.where(seen[..., None], colours, 0).astype(np.float32)


def palette(count: int) -> Array:
    """[count, 3] colours; neighbours in the list look different."""
    # hues a golden ratio apart
    index = np.arange(count)[:, None]
    hue = index * 0.618 % 1 + np.array([0, 1 / 3, 2 / 3])
    colours: Array = (0.55 + 0.4 * np.cos(2 * np.pi * hue)).astype(np.float32)
    return colours


def bright_where_near(depth: Array) -> NDArray[np.floating[Any]]:
    """Turn depth into brightness, from 1 at the nearest to 0.15 at the farthest; 0 where empty."""
    seen = depth > 0
    low, high = (depth[seen].min(), depth[seen].max()) if seen.any() else (0.0, 1.0)
    return np.where(seen, 0.15 + 0.85 * (high - depth) / max(high - low, 1e-6), 0)


def grey(values: NDArray[np.generic]) -> Array:
    """[..., 3] the same values in each channel."""
    thrice: Array = np.repeat(values[..., None].astype(np.float32), 3, axis=-1)
    return thrice


def _line(one: Array, two: Array, radius: float, size: int) -> Array:
    """[size, size, 1] how much of each pixel a thick line between two places (x, y) covers."""
    y, x = np.mgrid[:size, :size] + 0.5
    along = (two - one)[:2]
    t = ((x - one[0]) * along[0] + (y - one[1]) * along[1]) / max(float(along @ along), 1e-9)
    t = t.clip(0, 1)
    away = np.hypot(x - one[0] - t * along[0], y - one[1] - t * along[1])
    share: Array = np.clip(radius + 0.5 - away, 0, 1)[..., None].astype(np.float32)
    return share
