"""A prompt under one of the image systems: its Score guides a scene in the place of the prompt's.

What a system is told is about a picture, and a scene is seen from all around. So it is told the
prompt with each view's words, and what it was told is turned: left is right from behind; from the
side there is no left and right; a picture holds for the camera that took it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from guidance import Guidance
from guidance.prompts import Prompts
from threed.core.cameras import Cameras, orbit, view_name
from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.score import Score, plain, rescaled, score
from threed.settings.base import replace
from threed.settings.run import Run, SystemSettings
from threed.systems import Request, System
from threed.systems.control.rpg import planned
from threed.systems.reading import read_request

PICTURED = "pictured"  # the view of the given pictures: as `threed image` shows a front
PICTURES = ("image", "control", "layout")  # inputs that hold for one camera
# inputs that name a file, alone or after a word
FILES = {"image": "file", "weights": "file", "control": "word:file", "appearance": "word:file",
         "layout": "word:file"}  # fmt: skip
LARGEST = 64 * 2**20  # bytes of a picture that a run keeps


def reference(size: int) -> Cameras:
    """The camera of the pictures that a system is given: the front, 15 degrees from above."""
    return orbit(1, size)


def read_steering(settings: SystemSettings, prompt: str) -> tuple[System, Request]:
    """The system of a run and what it is told. InputError where that is wrong, or for pictures."""
    system, request = read_request(settings.name, prompt, settings.inputs, settings.knobs)
    if system is None:
        raise InputError(
            "system.inputs and system.knobs are for a system: say which by system.name"
        )
    if request.image is not None:
        raise InputError(f"system {system.name!r} with --image changes one picture, and a scene "
                         "has many: threed edit3d changes an asset")  # fmt: skip
    return system, request


def settled(run: Run, prompt: str) -> Run:
    """The run with the full names of files, and with what only a planner knows.

    So it can be gone on with from any folder, and without the planner.
    """
    full = _with_files(run, lambda name, path: path.resolve() if path.exists() else path)
    settings = full.system
    if settings.name is not None and all(stage.guidance != "edit" for stage in run.stages):
        system, request = read_steering(settings, prompt)
        if any(item.name == "region" for item in system.inputs):
            others = {k: v for k, v in settings.inputs.items() if k not in ("planner", "split")}
            regions = {"region": planned(request).words()}
            settings = replace(settings, inputs=others | regions)
    return replace(run, system=settings)


def kept(run: Run, folder: str) -> tuple[Run, dict[str, bytes]]:
    """The run with pictures of its own, in a folder in the run's, and these by their names there.

    Weights stay where they are. InputError for a picture of more than LARGEST bytes.
    """
    files: dict[str, bytes] = {}

    def copied(name: str, path: Path) -> Path:
        if name == "weights" or not path.is_file():
            return path
        if (size := path.stat().st_size) > LARGEST:
            raise InputError(f"--{name}: {path} has {size / 2**20:.0f} MiB; a run keeps a copy of "
                             f"at most {LARGEST // 2**20}: make the picture smaller")  # fmt: skip
        place = Path(folder, f"{name}{len(files) + 1}{path.suffix}")
        files[place.as_posix()] = path.read_bytes()
        return place

    return _with_files(run, copied), files


def located(run: Run, folder: Path) -> Run:
    """The run with its pictures in the folder where it keeps them."""
    return _with_files(run, lambda name, path: path if name == "weights" else folder / path)


def _with_files(run: Run, change: Callable[[str, Path], Path]) -> Run:
    """The run with other files: change is given an input's name and a path."""

    def changed(name: str, word: str) -> str:
        if name not in FILES:
            return word
        kind, colon, path = ("", "", word) if FILES[name] == "file" else word.partition(":")
        return f"{kind}{colon}{change(name, Path(path)).as_posix()}" if path else word

    inputs = {name: tuple(changed(name, word) for word in words)
              for name, words in run.system.inputs.items()}  # fmt: skip
    return replace(run, system=replace(run.system, inputs=inputs))


class Steered(Prompts):
    """The views of one prompt, and the Score that a system makes for them.

    InputError for a multi-view backbone, and for what the system cannot be told.
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: str,
        settings: SystemSettings,
        *,
        scale: float,
        negative: str = "",
        view_words: bool = True,
    ) -> None:
        super().__init__(backbone, prompt, negative=negative, view_words=view_words)
        if backbone.views > 1:
            raise InputError(f"a system guides one view at a time, and {backbone.name!r} sees "
                             f"{backbone.views}: use --backbone toybox, or another single-view "
                             "one")  # fmt: skip
        self.system, request = read_steering(settings, prompt)
        self.request = dataclasses.replace(request, negative=negative, size=backbone.image_size)
        self._scores: dict[tuple[str, float], Score | None] = {}
        self._view_score(PICTURED, scale)  # mistakes show before any step

    @property
    def pictured(self) -> bool:
        """Whether something that the system is told holds for the reference camera only."""
        return any(name in PICTURES for name in self.request.given())

    def score(self, cameras: Cameras, scale: float, rescale: float = 0.0) -> Score:
        """The system's noise of what B cameras see; the prompt's own from where it says nothing.

        Rescaled, its x0 has the contrast that the prompt alone gives it.
        """
        cameras = cameras.to(self.backbone.device)
        names = self.views(cameras)
        parts: list[tuple[Tensor, Score]] = []
        for name in dict.fromkeys(names):
            rows = torch.tensor([i for i, other in enumerate(names) if other == name])
            rows = rows.to(self.backbone.device)
            own = self._view_score(name, scale)
            parts.append((rows, own or super().score(cameras[rows], scale)))

        def steered(x: Tensor, t: Tensor) -> Tensor:
            out = torch.empty_like(x)
            for rows, part in parts:
                out[rows] = part(x[rows], t[rows])
            return out

        if not rescale:
            return steered
        text = score(self.backbone, [self.text(cameras)], plain())
        blend = rescaled(lambda noises, x, t: noises[1], rescale, self.backbone.alphas_cumprod)
        return lambda x, t: blend([text(x, t), steered(x, t)], x, t)

    def views(self, cameras: Cameras) -> list[str]:
        """What the views of cameras are called, PICTURED where one stands as the reference does."""
        there = reference(cameras.height).to(cameras.c2w.device)
        same = (cameras.c2w - there.c2w).abs().amax((1, 2)) < 1e-4
        same &= (cameras.fov_y - there.fov_y).abs() < 1e-4
        angles = zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist())
        return [PICTURED if pictured else view_name(*angle)
                for pictured, angle in zip(same.tolist(), angles)]  # fmt: skip

    def _view_score(self, view: str, scale: float) -> Score | None:
        """What the system makes of one view, or None if it says nothing about it."""
        if (view, scale) not in self._scores:
            words = "front" if view == PICTURED else view
            turned = turn(self.request, view, f", {words} view" if self.view_words else "")
            ready = turned and self.system.prepare(
                self.backbone, dataclasses.replace(turned, scale=scale)
            )
            self._scores[view, scale] = ready.alone() if ready else None
        return self._scores[view, scale]


def turn(request: Request, view: str, tail: str) -> Request | None:
    """What a request says about a view, with the words of the view added to its prompts.

    None if it says nothing about it.
    """
    if view != PICTURED and any(name in PICTURES for name in request.given()):
        return None
    told: dict[str, Any] = {"prompt": request.prompt + tail}
    if request.source is not None:
        told["source"] = request.source + tail
    level = view in ("front", PICTURED, "back")
    if request.region:
        plan = planned(request)
        if not level and not (plan.in_rows and view == "side"):
            return None
        plan = (plan.mirrored() if view == "back" else plan).saying(tail)
        told |= {"region": plan.words(), "split": None}
    if request.move:
        side = {"back": -1.0, "side": 0.0}.get(view, 1.0)
        told["move"] = tuple((word, (side * dx, dy)) for word, (dx, dy) in request.move)
        if view == "overhead" or (not level and not any(dy for _, (_, dy) in request.move)):
            return None
    return dataclasses.replace(request, **told)


class Pictured:
    """A guidance whose first view of every step is the one that the given pictures show."""

    def __init__(self, guide: Guidance) -> None:
        self.guide = guide

    def cameras(self, step: int, drawn: Cameras) -> Cameras:
        """The cameras that chance has drawn, the first in the place of the reference."""
        there = reference(drawn.height)
        return dataclasses.replace(
            drawn,
            c2w=torch.cat([there.c2w.to(drawn.c2w), drawn.c2w[1:]]),
            fov_y=torch.cat([there.fov_y.to(drawn.fov_y), drawn.fov_y[1:]]),
        )

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        """The guidance's losses."""
        return self.guide(image, cameras, step, generator)

    def state_dict(self) -> dict[str, Any]:
        """What the guidance has learned."""
        return self.guide.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state_dict, exactly."""
        self.guide.load_state_dict(state)
