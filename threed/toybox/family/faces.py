"""How toybox's face encoder learns: portraits of many, moved, doubled, or left out.

It is apart from the judge of identity: other persons, another net, and it is told what the world
knows of each face.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from threed.diffusion.parts.face_net import REACH, SIZE, FaceNet, boxes_of, centers
from threed.learning.data import Batch
from threed.learning.loop import Task
from threed.toybox.family.shelf import Entry, fill, images_of
from threed.toybox.family.tasks import dirtied, new_task, numpy_chance
from threed.toybox.judge.alike import FAMILY, VIEWS, batches, contrast, face_of
from threed.toybox.world.chance import choose
from threed.toybox.world.mix import maybe_style, random_scene
from threed.toybox.world.portraits import portrait_scene, random_portrait
from threed.toybox.world.scenes import draw_scene

FACELESS = ("toy", "pair", "garment")
SHARES = {"none": 0.25, "two": 0.2}  # of pictures without a face, and with two; the rest has one
NEAREST, NEAR, FAR = 5.7, 12.0, 14.0
"""Pixels from a face's middle to that of a cell: the nearest cells say that it is there, those near
it know its points, and those far off say that there is none."""


@dataclass(frozen=True)
class Faces:
    """N persons with VIEWS portraits each, and a picture without a face."""

    pixels: NDArray[np.uint8]  # [N, VIEWS + 1, 64, 64, 3]
    points: NDArray[np.float32]  # [N, VIEWS, 5, 2] pixels
    truth: NDArray[np.float32]  # [N, 40] what the world knows of the face


def open_faces(
    folder: Path, count: int, seed: int, progress: Callable[[int], None] | None = None
) -> Faces:
    """Draw what a folder lacks of so many persons, and open it."""
    draw, shape = partial(draw_faces, seed), (VIEWS + 1, SIZE)
    return Faces(*fill(folder, count, draw, seed, shape, None, progress))


def draw_faces(seed: int, number: int) -> Entry:
    """VIEWS portraits of a person, and a picture without a face; FAMILY in a row are a family."""
    family, member = divmod(number, FAMILY)
    face = face_of(np.random.default_rng([seed, family]), member)
    rng = np.random.default_rng([seed, number, 1])
    views = [draw_scene(portrait_scene(rng, random_portrait(rng, face))) for _ in range(VIEWS)]
    other, style = draw_scene(random_scene(rng, choose(rng, FACELESS))), maybe_style(rng)
    pictures = [view.picture.rgb for view in views]
    pictures.append(other.picture.rgb if style is None else style.paint(other))
    points = np.stack([view.keypoints[0][:, :2] for view in views])
    return pictures, {"points": points, "truth": face.vector()}


def faces_task(faces: Faces) -> Task:
    """Find faces in pictures with none, one or two, and say whose they are and where.

    Embeddings of one person are to find each other among those of others, many of them with the
    same words, and to tell by a linear map what the world knows of the face.
    """

    def batch(n: int, chance: torch.Generator) -> Batch:
        rng = numpy_chance(chance)
        members, views = batches(len(faces.pixels), n, rng)
        plain = images_of(faces.pixels[members, views])
        points = torch.from_numpy(faces.points[members, views])
        others = images_of(faces.pixels[rng.integers(0, len(faces.pixels), n), VIEWS])
        images, told = composed(plain, points, others, chance)
        return {
            "plain": dirtied(plain, chance), "points": points, "members": torch.tensor(members),
            "images": dirtied(images, chance), "told": told,
            "truth": torch.from_numpy(faces.truth[members]),
        }  # fmt: skip

    def loss(net: Any, batch: Batch, chance: torch.Generator) -> Tensor:
        scores, places = net.find(batch["images"])
        found = finding(scores, places, batch["told"])
        boxes = nudged(boxes_of(batch["points"]), chance).to(batch["points"])
        points, numbers = net.know(batch["plain"], boxes)
        off = (points - batch["points"]).abs().mean() / REACH
        apart = contrast(F.normalize(numbers, dim=1), batch["members"])
        said = (net.truth(numbers) - batch["truth"]).square().mean()
        total: Tensor = found + 4 * off + 0.5 * apart + 2 * said
        return total

    return new_task("faces", FaceNet(), loss, batch)


def nudged(boxes: Tensor, chance: torch.Generator) -> Tensor:
    """Boxes [B, 4] a little off, as a finder tells them."""
    low, high = boxes[:, :2], boxes[:, 2:]
    shift = (torch.rand(len(boxes), 2, generator=chance).to(boxes) - 0.5) * 0.2
    grow = 1 + (torch.rand(len(boxes), 1, generator=chance).to(boxes) - 0.5) * 0.24
    middle, half = (low + high) / 2 + shift * (high - low), (high - low) / 2 * grow
    return torch.cat([middle - half, middle + half], 1)


def composed(
    portraits: Tensor, points: Tensor, others: Tensor, chance: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Pictures [B, 3, 64, 64] with none, one or two faces, anywhere, of any size, even cut.

    And their points [B, 2, 5, 2] in pixels, nan where there is no such face. portraits, others:
    [B, 3, 64, 64]; points: [B, 5, 2].
    """
    n = len(portraits)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=chance)

    kind = uniform(0, 1)
    none, two = kind < SHARES["none"], kind > 1 - SHARES["two"]
    away = uniform(-0.95, 0.95, 2) * uniform(0, 1, 1)
    aside = torch.stack([uniform(0.33, 0.6), uniform(-0.4, 0.4)], 1)
    place = torch.where(two[:, None], aside * torch.tensor([-1.0, 1.0]), away)
    small = torch.where(two, uniform(1.6, 2.8), torch.exp(uniform(-0.3, 0.9)))
    image, first = _moved(portraits, points, place, small)
    twin, second = _moved(portraits.roll(1, 0), points.roll(1, 0), aside, uniform(1.6, 2.8))
    image[two, :, :, SIZE // 2 :] = twin[two, :, :, SIZE // 2 :]
    image[none] = others[none]
    told = torch.stack([first, second], 1)
    told[none], told[~two, 1] = torch.nan, torch.nan
    return image, told


def _moved(images: Tensor, points: Tensor, place: Tensor, small: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures with the faces' middles at places [B, 2] in -1..1, shrunk so many times [B]."""
    boxes = boxes_of(points) / (SIZE / 2) - 1
    shift = (boxes[:, :2] + boxes[:, 2:]) / 2 - small[:, None] * place
    turn = torch.cat([small[:, None, None] * torch.eye(2), shift[:, :, None]], 2)
    grid = F.affine_grid(turn, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    there = (points / (SIZE / 2) - 1 - shift[:, None]) / small[:, None, None]
    return moved, (there + 1) * (SIZE / 2)


def finding(scores: Tensor, points: Tensor, told: Tensor) -> Tensor:
    """[] the loss of scores [B, C, C] and points [B, C, C, 5, 2] of pictures with faces told.

    told: [B, 2, 5, 2] pixels, nan for none.
    """
    boxes = boxes_of(told)
    middles = (boxes[..., :2] + boxes[..., 2:]) / 2
    away = (centers().to(told)[None, None] - middles[:, :, None, None]).norm(dim=-1)
    away, which = away.nan_to_num(torch.inf).min(1)  # [B, C, C]
    there, nearest = away < NEAR, away < NEAREST
    said = F.binary_cross_entropy_with_logits(scores, nearest.to(scores), reduction="none")
    wrong = (said * (nearest | (away > FAR))).sum() / len(scores)
    rows = torch.arange(len(told), device=told.device)[:, None, None]
    off = (points - told[rows, which])[there].abs().mean() if bool(there.any()) else 0.0
    total: Tensor = wrong + 4 * off / REACH
    return total
