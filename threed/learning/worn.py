"""Examples of persons and what they wear; what has no file is made of labels and keypoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from threed.core.errors import InputError
from threed.core.files import read_text
from threed.core.pictures import middle, open_picture, sides
from threed.diffusion.bodies import (
    ATR,
    GREY,
    LIP,
    from_colors,
    is_of,
    paint_mask,
    regions_of,
    split_arms,
    split_neck,
    to_colors,
)
from threed.diffusion.detect import PALETTE, draw_joints
from threed.learning.data import Examples, Row

BODY_25 = (*range(8), *range(9, 19))  # of its joints, OpenPose's older 18
WHITE = 240  # of 256 levels, from which on a flat garment's ground begins
MASKS = ("mask", "garment_mask")
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Published:
    """What a data set's labels and keypoints mean."""

    labels: tuple[str, ...]  # the region of each label of its parse maps
    arm: float  # how wide an arm is around its bones, share of the height: a hand is beyond
    canvas: tuple[int, int]  # width and height of the pictures in which keypoints are counted
    joints: Callable[[Any], Any]  # what a keypoint file holds -> [18, 3] x, y, how sure


def _body_25(data: Any) -> Any:
    return np.array(data["people"][0]["pose_keypoints_2d"], float).reshape(-1, 3)[list(BODY_25)]


def _four_numbers(data: Any) -> Any:
    return np.array(data["keypoints"], float).reshape(-1, 4)[:18, :3]


SETS = {  # arms as wide as LaDI-VTON draws them
    "viton_hd": Published(LIP, 90 / 512, (768, 1024), _body_25),
    "dress_code": Published(ATR, 45 / 512, (384, 512), _four_numbers),
}


GREY_GROUNDS = ("dress_code",)  # whose garments do not lie on white; LaDI-VTON makes it so


class Fittings(Examples):
    """Examples of which some pictures are made of others.

    A row has files by role, and "category". Of published sets it has "set", of SETS, and the files
    labels (a number a pixel), points (keypoints) and parts (DensePose's labels) instead of parse,
    pose and dense.
    """

    def _role(self, row: Row, role: str) -> Pixels:
        key = f"{role} of {row['image']} in {row['garment']}"
        return self._remember(key, lambda: self._made(row, role))

    def _made(self, row: Row, role: str) -> Pixels:
        if role in row:
            found = self._pixels(row[role])
            if role in MASKS:
                return np.where(found >= 128, np.uint8(255), np.uint8(0))
            if role == "garment" and row.get("set") in GREY_GROUNDS and "garment_mask" in row:
                return np.where(self._role(row, "garment_mask") > 0, found, np.uint8(255))
            return found
        if role == "pose":
            return self._pose(row)
        if role == "dense":
            return _colored(self._labels(row, "parts"))
        if role == "garment_mask":
            return _grey(self._role(row, "garment").min(-1) < WHITE)
        if role == "agnostic":
            masked = self._role(row, "mask") > 0
            return np.where(masked, np.uint8(round(255 * GREY)), self._role(row, "image"))
        regions = self._regions(row)
        if role == "parse":
            return to_colors(regions)
        if role == "mask":
            return _grey(paint_mask(regions, row["category"]))
        seen = is_of(regions, row["category"])[..., None]
        return np.where(seen, self._role(row, "image"), np.uint8(255))  # warped

    def _regions(self, row: Row) -> NDArray[np.integer[Any]]:
        """[H, W] the regions of a person, at the size of the examples."""
        if "parse" in row:
            return from_colors(self._pixels(row["parse"]), row["parse"])
        published, name = SETS[row["set"]], str(self.folder / row["labels"])
        labels = self._labels(row, "labels")
        regions: NDArray[np.integer[Any]] = regions_of(labels, published.labels, name)
        if "points" in row:
            joints = self._joints(row)
            spots = np.where(joints[:, 2:] > 0, joints[:, :2], np.nan)
            regions = split_neck(split_arms(regions, spots, published.arm), spots)
        return regions

    def _labels(self, row: Row, role: str) -> NDArray[np.uint8]:
        """[H, W] numbers of a label map, at the size of the examples."""
        path = self.folder / row[role]
        opened = open_picture(path)
        if opened.mode not in ("P", "L"):
            raise InputError(f"{path} is no map of labels, which has one number a pixel")
        plain = Image.fromarray(np.asarray(opened)).crop(middle(opened.size, self.size))
        return np.asarray(plain.resize(sides(self.size), Image.Resampling.NEAREST))

    def _joints(self, row: Row) -> NDArray[np.floating[Any]]:
        """[18, 3] OpenPose's joints: x and y in the examples' pixels, 0 where not seen."""
        points, published = read_joints(self.folder / row["points"], row["set"]), SETS[row["set"]]
        left, top, right, bottom = middle(published.canvas, self.size)
        width, height = sides(self.size)
        share = (width / (right - left), height / (bottom - top), 1)
        seen = (points[:, :2] > 1).all(1) & (points[:, 2] > 0)
        found: NDArray[np.floating[Any]] = (points - (left, top, 0)) * share * seen[:, None]
        return found

    def _pose(self, row: Row) -> Pixels:
        width, height = sides(self.size)
        return draw_joints(self._joints(row), height, width)


def read_joints(path: Path, name: str) -> NDArray[np.floating[Any]]:
    """[18, 3] OpenPose's joints of a person from a file of one of SETS: x, y, how sure.

    InputError for a file that holds nobody's.
    """
    try:
        found: NDArray[np.floating[Any]] = SETS[name].joints(json.loads(read_text(path)))
        if found.shape == (18, 3) and bool(np.isfinite(found).all()):
            return found
    except (ValueError, TypeError, KeyError, IndexError, RecursionError):
        pass
    raise InputError(f"{path} holds no keypoints of a person, as {name} has them")


def _colored(labels: NDArray[np.uint8]) -> Pixels:
    """[H, W, 3] a colour for each of DensePose's labels, black where there is none."""
    table = np.array(PALETTE, np.uint8)
    return np.where(labels[..., None] > 0, table[labels % len(table)], np.uint8(0))


def _grey(mask: NDArray[np.bool_]) -> Pixels:
    return np.repeat(mask[..., None] * np.uint8(255), 3, axis=2)
