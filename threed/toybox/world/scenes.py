"""Scenes as data, and what a camera sees of one, with everything that there is to know about it.

A `Scene` is a subject (a toy, a pair, a figure) under a light, on a ground, before a camera. All of
it is data that is drawn by no chance, so that two scenes that differ in one field are an exact
before and after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from threed.core.cameras import Cameras, at
from threed.toybox.world.chance import Rng
from threed.toybox.world.draw import GROUP, Array, Light, Picture, draw
from threed.toybox.world.grounds import Ground, random_ground
from threed.toybox.world.parts import Vector
from threed.toybox.world.toys import KINDS, random_light

BODY = ("skin", "hair", "eyes", "glasses", "beard", "top", "trousers", "skirt", "dress", "shoes")
CLASSES = (*KINDS, *BODY)
"""What a pixel may be of."""


@dataclass(frozen=True)
class Point:
    """A named place inside a thing."""

    name: str
    position: Vector  # world
    depth: float  # how far behind the surface it may lie and still be called visible, world units


@dataclass(frozen=True)
class Thing:
    """One thing of a scene: a toy with the hat that it wears, or a person."""

    name: str  # "red ball"
    rows: Array  # [P, WIDTH] packed parts at their place
    labels: tuple[str, ...]  # [P] what each part is of, of CLASSES
    points: tuple[Point, ...]
    bones: tuple[tuple[int, int], ...] = ()  # pairs of points


class Subject(Protocol):
    """What a scene is of."""

    def things(self) -> tuple[Thing, ...]:
        """Place its things; in captions the first is named first."""
        ...

    def words(self, rng: Rng) -> str:
        """Say it in one of many ways: "a red ball and a blue cube"."""
        ...


@dataclass(frozen=True)
class Scene:
    """A subject and how it is seen."""

    subject: Subject
    light: Light
    ground: Ground
    camera: Cameras  # one

    def caption(self, rng: Rng) -> str:
        """Say it in one of many ways; the background is said in a third of them."""
        text = self.subject.words(rng)
        return f"{text} on {self.ground.words()}" if rng.uniform() < 0.33 else text


@dataclass(frozen=True)
class View:
    """What the camera of a scene sees, with its truth; row 0 is the top."""

    scene: Scene
    picture: Picture
    things: tuple[Thing, ...]
    groups: tuple[tuple[int, str], ...]  # (index of a thing, one of CLASSES) of picture.cover

    @cached_property
    def masks(self) -> Array:
        """[N, H, W] the share of a pixel that each thing covers."""
        return np.stack([self.mask(i) for i in range(len(self.things))])

    def mask(self, thing: int | None = None, labels: Sequence[str] | None = None) -> Array:
        """[H, W] the share of a pixel that a thing covers, or its parts of these CLASSES."""
        chosen = [thing in (None, owner) and (labels is None or label in labels)
                  for owner, label in self.groups]  # fmt: skip
        share: Array = self.picture.cover[..., chosen].sum(-1)
        return share

    @cached_property
    def boxes(self) -> Array:
        """[N, 4] left, top, right, bottom of what is seen of each thing, as shares of the picture.

        Zeros where nothing is seen of it.
        """
        found = np.zeros((len(self.things), 4), np.float32)
        for box, mask in zip(found, self.masks):
            rows, columns = np.nonzero(mask > 0)
            if len(rows):
                box[:] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        return found / np.float32(self.masks.shape[1])

    @cached_property
    def instance(self) -> NDArray[np.int64]:
        """[H, W] index of the thing that covers most of a pixel, -1 where nothing is."""
        return _most(self.masks.transpose(1, 2, 0))

    @cached_property
    def parse(self) -> NDArray[np.int64]:
        """[H, W] index into CLASSES of what covers most of a pixel, -1 where nothing is."""
        best = _most(self.picture.cover)
        index = np.array([CLASSES.index(label) for _, label in self.groups])
        return np.where(best < 0, -1, index[best])

    @cached_property
    def keypoints(self) -> list[Array]:
        """Find, for each thing, [K, 3]: x and y in pixels from left and top, 1 where visible."""
        return [
            self.project(np.array([p.position for p in thing.points], np.float32).reshape(-1, 3),
                         np.array([p.depth for p in thing.points]))
            for thing in self.things
        ]  # fmt: skip

    def project(self, places: Array, reach: Array) -> Array:
        """[N, 3] x and y in pixels of places [N, 3] in the world, and 1 where they are visible.

        reach: [N] how far behind the surface each may lie and still be called visible.
        """
        size = self.picture.alpha.shape[0]
        c2w = self.scene.camera.c2w[0].numpy()
        tan = np.tan(float(self.scene.camera.fov_y[0]) / 2)
        away = places - c2w[:3, 3]
        local = away @ c2w[:3, :3]
        spots = local[:, :2] / (-local[:, 2:] * tan) * (0.5, -0.5) + 0.5
        pixel = (spots * size).astype(int)
        inside = ((pixel >= 0) & (pixel < size)).all(1)
        column, row = pixel.clip(0, size - 1).T
        depth = self.picture.depth[row, column]
        seen = inside & (depth > 0) & (np.linalg.norm(away, axis=1) - reach < depth)
        return np.concatenate([spots * size, seen[:, None]], 1).astype(np.float32)


def places(picture: Picture, camera: Cameras) -> Array:
    """[H, W, 3] the place in the world that the middle of each pixel shows.

    The camera's own where it shows nothing.
    """
    size = len(picture.depth)
    x, y = np.meshgrid(*[(np.arange(size) + 0.5) / size * 2 - 1] * 2)
    c2w, tan = camera.c2w[0].numpy(), np.tan(float(camera.fov_y[0]) / 2)
    away = np.stack([x * tan, -y * tan, -np.ones_like(x)], -1)
    away /= np.linalg.norm(away, axis=-1, keepdims=True)
    found: Array = c2w[:3, 3] + picture.depth[..., None] * (away @ c2w[:3, :3].T)
    return found


def _most(shares: Array) -> NDArray[np.int64]:
    """[H, W] index of the largest of [H, W, N] shares, -1 where all are 0."""
    return np.where(shares.max(-1) > 0, shares.argmax(-1), -1)


def draw_scene(scene: Scene, size: int = 64) -> View:
    """Draw what the scene's camera sees, at size² pixels."""
    things = scene.subject.things()
    owners = [(i, label) for i, thing in enumerate(things) for label in thing.labels]
    groups = list(dict.fromkeys(owners))
    rows = np.concatenate([thing.rows for thing in things])
    rows[:, GROUP] = [groups.index(owner) for owner in owners]
    c2w, fov_y = scene.camera.c2w[0].numpy(), float(scene.camera.fov_y[0])
    picture = draw(rows, c2w, fov_y, size, scene.light, scene.ground.pixels(size))
    return View(scene, picture, things, tuple(groups))


def random_camera(
    rng: Rng,
    azimuth_deg: tuple[float, float],
    elevation_deg: tuple[float, float],
    zoom: tuple[float, float] = (0.95, 1.1),
) -> Cameras:
    """Choose one camera, all uniform in (low, high); field of view 35..45 degrees.

    The distance is zoom / sin(fov / 2): at zoom 1 the unit ball just fits the picture.
    """
    fov = rng.uniform(35, 45)
    distance = rng.uniform(*zoom) / np.sin(np.radians(fov) / 2)
    azimuth, elevation = rng.uniform(*azimuth_deg), rng.uniform(*elevation_deg)
    one = torch.ones(1)
    return at(one * azimuth, one * elevation, one * distance, one * fov, 64)


def staged(rng: Rng, subject: Subject, camera: Cameras) -> Scene:
    """Put a subject under a random light, on a random ground."""
    return Scene(subject, random_light(rng), random_ground(rng), camera)
