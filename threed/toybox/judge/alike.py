"""Judges of what words cannot say: whether two pictures show the same subject, face or style.

Each is one network that puts pictures on a sphere, so that those of one instance lie together. It
measures, and trains nothing; its own training knows other seeds than those that are measured.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from threed.toybox.judge.net import Block, Down
from threed.toybox.world.chance import Rng
from threed.toybox.world.draw import Array
from threed.toybox.world.faces import NUMBERS, Face, random_face
from threed.toybox.world.mix import random_scene
from threed.toybox.world.portraits import portrait_scene, random_portrait
from threed.toybox.world.scenes import draw_scene
from threed.toybox.world.styles import Style, random_style
from threed.toybox.world.subjects import Keepsake, random_subject, random_subject_scene

FAMILY = 4  # instances that are alike in all but what has to be told: each other's hard negatives
VIEWS = 6  # pictures of an instance
TEMPERATURE = 0.1  # of the contrast
SIZE = 64


@dataclass(frozen=True)
class Kind:
    """What a judge tells apart: how its instances come about, and how one is drawn."""

    make: Callable[[Rng, int], Any]  # (chance of the family, which member) -> instance
    draw: Callable[[Rng, Any], Array]  # -> [SIZE, SIZE, 3] one picture of it


class Likeness(nn.Module):
    """A small residual network from pictures to points on a sphere."""

    def __init__(self, width: int = 24, points: int = 64) -> None:
        super().__init__()
        self.width, self.points = width, points
        layers: list[nn.Module] = [nn.Conv2d(3, width, 5, stride=2, padding=2)]
        for i in range(3):
            layers += [Block(width * 2**i), Down(width * 2**i)]
        self.body = nn.Sequential(*layers, Block(8 * width))
        self.head = nn.Linear(16 * width, points)

    def forward(self, images: Tensor) -> Tensor:
        """[B, points], of length 1, of pictures [B, 3, 64, 64] in [0, 1]."""
        features = self.body(images * 2 - 1)
        seen = torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)
        return F.normalize(self.head(seen), dim=-1)

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """[B, points] of pictures [B, 3, H, W] in [0, 1] of any size."""
        if images.shape[-2:] != (SIZE, SIZE):
            images = F.interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
        points: Tensor = self(images.to(next(self.parameters())))
        return points

    def likeness(self, images: Tensor, others: Tensor) -> Tensor:
        """[B, N] in -1..1: how alike pictures [B, 3, H, W] and [N, 3, H, W] are."""
        return self.read(images) @ self.read(others).T

    def save_pretrained(self, folder: str | Path, **_: object) -> None:
        """Write config.json and model.safetensors."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        about = {"width": self.width, "points": self.points}
        (folder / "config.json").write_text(json.dumps(about))
        save_file(self.state_dict(), folder / "model.safetensors")


def load_likeness(folder: Path) -> Likeness:
    """Load a trained judge, in float32, for measuring only."""
    judge = Likeness(**json.loads((folder / "config.json").read_text()))
    judge.load_state_dict(load_file(folder / "model.safetensors"))
    return judge.eval().requires_grad_(False)


def subject_of(rng: Rng, member: int) -> Keepsake:
    """Make a member of a family of subjects: one kind, one main colour, one set of proportions.

    The second has another emblem, the third other colours beside the main one, the fourth both and
    another texture.
    """
    first, other = random_subject(rng), random_subject(rng)
    if member == 0:
        return first
    emblem = first.emblem if member == 2 else replace(other.emblem, azimuth_deg=0.0)
    colors = first.colors if member == 1 else (first.colors[0], *other.colors[1:])
    texture = other.texture if member == 3 else first.texture
    return replace(first, emblem=emblem, colors=colors, texture=texture)


def face_of(rng: Rng, member: int) -> Face:
    """Make a member of a family of faces: the same words, other numbers, the last another hair."""
    first, other = random_face(rng), random_face(rng)
    numbers = [random_face(rng, first.identity).numbers for _ in range(FAMILY)][member]
    hair = other.identity.hair if member == FAMILY - 1 else first.identity.hair
    assert len(numbers) == len(NUMBERS)
    return Face(replace(first.identity, hair=hair), numbers)


def style_of(rng: Rng, member: int) -> Style:
    """Make a member of a family of styles: one name, other numbers."""
    name = random_style(rng).name
    return [random_style(rng, name) for _ in range(FAMILY)][member]


def draw_subject(rng: Rng, subject: Keepsake) -> Array:
    """Draw a subject from any side where its emblem may be seen or not, on any ground."""
    return draw_scene(random_subject_scene(rng, subject), SIZE).picture.rgb


def draw_face(rng: Rng, face: Face) -> Array:
    """Draw a face in any mood, light and clothes."""
    return draw_scene(portrait_scene(rng, random_portrait(rng, face)), SIZE).picture.rgb


def draw_style(rng: Rng, style: Style) -> Array:
    """Draw any scene in a style."""
    return style.paint(draw_scene(random_scene(rng), SIZE))


KINDS: dict[str, Kind] = {
    "sameness": Kind(subject_of, draw_subject),
    "identity": Kind(face_of, draw_face),
    "style": Kind(style_of, draw_style),
}


def draw_instance(kind: str, seed: int, number: int) -> list[Array]:
    """VIEWS pictures [SIZE, SIZE, 3] of instance `number`; FAMILY in a row are a family."""
    family, member = divmod(number, FAMILY)
    instance = KINDS[kind].make(np.random.default_rng([seed, family]), member)
    rng = np.random.default_rng([seed, number, 1])
    return [KINDS[kind].draw(rng, instance) for _ in range(VIEWS)]


def contrast(points: Tensor, instances: Tensor) -> Tensor:
    """Supervised contrast of points [B, P] of instances [B] (Khosla et al. 2020, L_out)."""
    logits = points @ points.T / TEMPERATURE
    itself = torch.eye(len(points), dtype=torch.bool, device=points.device)
    same = (instances[:, None] == instances) & ~itself
    logs = logits.masked_fill(itself, -torch.inf).log_softmax(1)
    return -(logs.masked_fill(~same, 0.0).sum(1) / same.sum(1)).mean()


def area(same: Tensor, other: Tensor) -> float:
    """Area under the curve: how often a likeness of same [N] is above one of other [M]."""
    order = torch.cat([same, other]).argsort().argsort().double() + 1
    n, m = len(same), len(other)
    return float((order[:n].sum() - n * (n + 1) / 2) / (n * m))


def measure_likeness(judge: Likeness, pictures: NDArray[np.uint8]) -> dict[str, float]:
    """Measure areas under the curve on pictures [N, VIEWS, H, W, 3], as `told_apart`."""
    views = pictures.shape[1]
    images = torch.from_numpy(pictures.reshape(-1, *pictures.shape[2:])).permute(0, 3, 1, 2) / 255
    return told_apart(torch.cat([judge.read(part) for part in images.split(256)]), views)


def told_apart(points: Tensor, views: int) -> dict[str, float]:
    """Measure areas under the curve of points [N * views, P] on a sphere, of instances in families.

    "all" has pairs of any two instances as the others, "hard" those of one family alone.
    """
    count, alike = len(points) // views, points @ points.T
    instance = torch.arange(count).repeat_interleave(views)
    same = instance[:, None] == instance
    family = (instance[:, None] // FAMILY) == (instance // FAMILY)
    upper = torch.ones_like(same).triu(1)
    found = {"all": ~same, "hard": ~same & family}
    return {name: area(alike[same & upper], alike[others & upper])
            for name, others in found.items()}  # fmt: skip


def batches(instances: int, n: int, rng: Rng) -> tuple[Sequence[int], Sequence[int]]:
    """Choose n pictures as (instances, views): two of each, whole families together."""
    families = rng.choice(instances // FAMILY, n // (2 * FAMILY), replace=False)
    members = (families[:, None] * FAMILY + np.arange(FAMILY)).ravel().repeat(2)
    views = np.stack([rng.permutation(VIEWS)[:2] for _ in members[::2]]).ravel()
    return members.tolist(), views.tolist()
