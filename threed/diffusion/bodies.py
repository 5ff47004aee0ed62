"""Where a person's body and clothes are in a picture, and what of it is painted anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from threed.core.errors import InputError

REGIONS: dict[str, tuple[int, int, int]] = {  # and the colour of each in a parse map
    "background": (0, 0, 0), "hat": (255, 128, 0), "hair": (128, 0, 0), "face": (255, 192, 128),
    "neck": (192, 128, 64), "upper": (0, 0, 255), "lower": (0, 128, 0), "dress": (192, 0, 192),
    "arms": (0, 255, 255), "hands": (255, 255, 0), "legs": (128, 255, 128),
    "shoes": (128, 128, 128), "other": (255, 0, 0),
}  # fmt: skip
NAMES = tuple(REGIONS)
CATEGORIES = ("upper", "lower", "dress")
PAINTED = {  # what of a person is painted anew for a garment of a category,
    "upper": ("upper", "dress", "neck", "arms"),
    "lower": ("lower", "legs"),
    "dress": ("dress", "upper", "lower", "neck", "arms", "legs"),
}
KEPT = {  # and what never is, though it be beside that
    "upper": ("hat", "hair", "face", "hands", "shoes", "other", "lower"),
    "lower": ("hat", "hair", "face", "hands", "shoes", "other", "upper", "neck", "arms"),
    "dress": ("hat", "hair", "face", "hands", "shoes", "other"),
}
MARGIN = 10 / 512  # of the picture's height: LaDI-VTON's and IDM-VTON's, 10 pixels of 512
WIDE = 5 / 64  # of toys, below, where a skirt may come for trousers
GREY = 128 / 255  # of what is to be painted, in an agnostic picture
FAR = 48  # levels of 256, beyond which a colour is none of a parse map
STRANGE = 0.05  # share of such pixels from which a picture is no parse map
# of labels that others give, the region of each: LIP's (VITON-HD), ATR's (DressCode, segformer)
LIP = ("background", "hat", "hair", "other", "face", "upper", "upper", "upper", "shoes", "lower",
       "neck", "other", "lower", "face", "arms", "arms", "legs", "legs", "shoes",
       "shoes")  # fmt: skip
ATR = ("background", "hat", "hair", "face", "upper", "lower", "lower", "dress", "other", "shoes",
       "shoes", "face", "legs", "legs", "arms", "arms", "other", "other")  # fmt: skip
Labels = NDArray[np.integer[Any]]
Bits = NDArray[np.bool_]


def index(*names: str) -> list[int]:
    """The numbers of these REGIONS."""
    return [NAMES.index(name) for name in names]


def is_of(regions: Labels, *names: str) -> Bits:
    """[H, W] where a parse map [H, W] shows one of these REGIONS."""
    return np.isin(regions, index(*names))


def regions_of(labels: Labels, table: Sequence[str], name: str) -> NDArray[np.int64]:
    """[H, W] numbers of REGIONS from labels [H, W] of LIP or ATR.

    InputError, with the name, for a label that the table has not.
    """
    if int(labels.max()) >= len(table):
        raise InputError(f"{name} has the label {int(labels.max())}: labels from 0 to "
                         f"{len(table) - 1} are known")  # fmt: skip
    return np.array(index(*table))[labels]


def to_colors(regions: Labels) -> NDArray[np.uint8]:
    """[H, W, 3] the parse map of regions [H, W] as a picture."""
    return np.array(list(REGIONS.values()), np.uint8)[regions]


def from_colors(picture: NDArray[np.uint8], name: str) -> NDArray[np.int64]:
    """[H, W] the regions of a parse map's picture [H, W, 3]: each pixel's nearest colour.

    InputError, with the name, for a picture of other colours.
    """
    found, nearest = np.zeros(picture.shape[:2], np.int64), np.full(picture.shape[:2], 256)
    for number, color in enumerate(REGIONS.values()):
        apart = np.abs(picture.astype(np.int16) - color).max(-1)
        found[apart < nearest] = number
        nearest = np.minimum(nearest, apart)
    strange = float((nearest > FAR).mean())
    if strange > STRANGE:
        raise InputError(f"{name} is no parse map: {strange:.0%} of it has colours of no region "
                         f"({', '.join(NAMES)})")  # fmt: skip
    return found


def paint_mask(regions: Labels, category: str, margin: float = MARGIN) -> Bits:
    """[H, W] what of a person with a parse map [H, W] is painted anew for a garment.

    As LaDI-VTON's data (arXiv:2305.13501): the clothes of its category and what they may cover,
    grown by a square with the margin, a share of the height; less what another garment leaves.
    """
    from scipy import ndimage

    reach = 2 * math.ceil(margin * len(regions)) + 1
    grown = ndimage.maximum_filter(is_of(regions, *PAINTED[category]), reach)
    mask: Bits = grown & ~is_of(regions, *KEPT[category])
    return mask


def margin_of(category: str) -> float:
    """The margin of what is painted anew of a toy person, as a share of the picture's height."""
    return MARGIN if category == "upper" else WIDE


def cut_out(picture: NDArray[np.uint8], mask: Bits) -> NDArray[np.uint8]:
    """[S, S, 3] what a mask [H, W] shows of a picture [H, W, 3]: on white, in the middle."""
    rows, columns = np.nonzero(mask)
    top, left = rows.min(), columns.min()
    height, width = rows.max() + 1 - top, columns.max() + 1 - left
    side = round(max(height, width) / 0.8)
    cut = np.full((side, side, 3), 255, np.uint8)
    down, across = (side - height) // 2, (side - width) // 2
    part = np.s_[top : top + height, left : left + width]
    inside = np.where(mask[part][..., None], picture[part], np.uint8(255))
    cut[down : down + height, across : across + width] = inside
    return cut


def split_arms(regions: Labels, points: NDArray[np.floating[Any]], width: float) -> Labels:
    """[H, W] the same regions, with hands: what of the arms is far from the bones.

    points [18, 2]: OpenPose's joints in pixels, NaN where not seen. width: of an arm, as a share of
    the height; 45/512 in DressCode's data, 90/512 in VITON-HD's (LaDI-VTON).
    """
    height, across = regions.shape
    y, x = np.mgrid[:height, :across]
    near = np.zeros(regions.shape, bool)
    for one, two in ((2, 3), (3, 4), (5, 6), (6, 7)):
        (ax, ay), (bx, by) = points[[one, two]].tolist()
        if not math.isfinite(ax + ay + bx + by):
            continue
        along = (x - ax) * (bx - ax) + (y - ay) * (by - ay)
        t = (along / max((bx - ax) ** 2 + (by - ay) ** 2, 1e-9)).clip(0, 1)
        near |= np.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay)) <= width * height / 2
    hands = is_of(regions, "arms") & ~near
    return np.where(hands & bool(near.any()), index("hands")[0], regions)


def split_neck(regions: Labels, points: NDArray[np.floating[Any]]) -> Labels:
    """[H, W] the same regions, with the neck: what of the face is below the shoulders' line.

    That line is raised by 20/512 of the height, as in LaDI-VTON's data. points: as of `split_arms`.
    """
    (ax, ay), (bx, by) = points[[2, 5]].tolist()
    if not math.isfinite(ax + ay + bx + by) or ax == bx:
        return regions
    y, x = np.mgrid[: len(regions), : regions.shape[1]]
    line = ay + (x - ax) * (by - ay) / (bx - ax) - 20 / 512 * len(regions)
    return np.where(is_of(regions, "face") & (y >= line), index("neck")[0], regions)
