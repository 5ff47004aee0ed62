"""A prompt under one of the image systems: its Score guides a scene in the place of the prompt's.

What a system is told is about a picture, and a scene is seen from all around. So it is told the
prompt with each view's words, and what it was told is turned: left is right from behind; from the
side there is no left and right; a picture holds for the camera that took it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from guidance import Guidance, Posed
from guidance.prompts import Prompts
from threed.core.cameras import Cameras, orbit, view_name
from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import facts
from threed.diffusion.guide import Guide
from threed.diffusion.learned.names import spoken
from threed.diffusion.noise import Noised
from threed.diffusion.paint import Ready
from threed.diffusion.score import Score, plain, rescaled, score
from threed.runs.check import own_words, read_steering
from threed.settings import base as settings
from threed.settings.run import Run, SystemSettings
from threed.systems.inputs import PICTURED, View
from threed.systems.table import find_system

LARGEST = 64 * 2**20  # bytes of a picture that a run keeps


def reference(size: int) -> Cameras:
    """The camera of the pictures that a system is given: the front, 15 degrees from above."""
    return orbit(1, size)


def settled(run: Run, prompt: str) -> Run:
    """The run with the full names of files, and with what only a planner knows.

    So it can be gone on with from any folder, and without the planner.
    """
    full = _with_files(run, lambda _, path: path.resolve() if path.exists() else path)
    if full.system.name is None or any(stage.guidance == "edit" for stage in run.stages):
        return full
    shown = facts(full.backbone_of(full.stages[0])).vocabulary
    if shown is not None:
        prompt = replace(shown, own=tuple(own_words(full, prompt))).read(prompt)
    system, request = read_steering(full.system, prompt)
    told = system.settle(request)
    if told is request:
        return full
    own = full.system.inputs
    inputs = {name: own[name] if values is request.inputs.get(name) else tuple(map(str, values))
              for name, values in told.inputs.items()}  # fmt: skip
    return settings.replace(full, system=settings.replace(full.system, inputs=inputs))


def kept(run: Run, folder: str) -> tuple[Run, dict[str, bytes]]:
    """The run with pictures of its own, in a folder in the run's, and these by their names there.

    Weights stay where they are. InputError for a picture of more than LARGEST bytes.
    """
    files: dict[str, bytes] = {}

    def copied(name: str, path: Path) -> Path:
        if not path.is_file():
            return path
        size = path.stat().st_size
        if size > LARGEST:
            raise InputError(f"--{name}: {path} has {size / 2**20:.0f} MiB; a run keeps a copy of "
                             f"at most {LARGEST // 2**20}: make the picture smaller")  # fmt: skip
        place = Path(folder, f"{name}{len(files) + 1}{path.suffix}")
        files[place.as_posix()] = path.read_bytes()
        return place

    return _with_files(run, copied, copies=True), files


def located(run: Run, folder: Path) -> Run:
    """The run with its pictures in the folder where it keeps them."""
    return _with_files(run, lambda _, path: folder / path, copies=True)


def _with_files(run: Run, change: Callable[[str, Path], Path], *, copies: bool = False) -> Run:
    """The run with other files: change is given an input's name and a path.

    copies: only the files that a run keeps copies of.
    """
    if run.system.name is None:
        return run

    def changed(name: str, words: tuple[str, ...]) -> tuple[str, ...]:
        kind = kinds.get(name)
        if kind is None or (copies and not kind.copied):
            return words
        return tuple(kind.with_files(word, lambda path: change(name, path)) for word in words)

    kinds = {item.name: item.kind for item in find_system(run.system.name).inputs}
    inputs = {name: changed(name, words) for name, words in run.system.inputs.items()}
    return settings.replace(run, system=settings.replace(run.system, inputs=inputs))


def equipped(backbone: Backbone, said: SystemSettings, prompt: str) -> Backbone:
    """The backbone with what a run's system is told was learned."""
    system, request = read_steering(said, prompt)
    return system.equipped(backbone, request)


class Steered(Prompts):
    """The views of one prompt, and the Score that a system makes for them.

    InputError for what the system cannot be told. The backbone sees one view at a time
    (`System.check_backbone`).
    """

    def __init__(
        self,
        backbone: Backbone,
        prompt: str,
        said: SystemSettings,
        *,
        scale: float,
        negative: str = "",
        view_words: bool = True,
        front_deg: float = 45.0,
    ) -> None:
        backbone = equipped(backbone, said, prompt)
        self.system, request = read_steering(said, backbone.reads(prompt))
        plain_prompt = spoken(prompt, dict.fromkeys(self.system.marks(request), ""))
        super().__init__(
            backbone, plain_prompt, negative=negative, view_words=view_words, front_deg=front_deg
        )
        request = replace(request, guide=Guide(scale, negative), size=backbone.image_size)
        self.request = self.system.settle(request)
        self.weights = self.system.load(backbone, self.request)
        self._readies: dict[str, Ready | None] = {}
        self._scale = scale  # of those
        self._ready(PICTURED, scale)  # mistakes show before any step

    @property
    def pictured(self) -> bool:
        """Whether something that the system is told holds for the reference camera only."""
        return self.system.is_pictured(self.request)

    def score(self, cameras: Cameras, scale: float, rescale: float = 0.0) -> Score:
        """The system's noise of what B cameras see; the prompt's own from where it says nothing.

        Rescaled, its x0 has the contrast that the prompt alone gives it.
        """
        cameras, words = cameras.to(self.backbone.device), super().score
        parts = [(rows, ready.alone() if ready else words(cameras[rows], scale))
                 for rows, ready in self._parts(cameras, scale)]  # fmt: skip

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

    def less(self, cameras: Cameras, scale: float) -> Callable[[Noised], Tensor]:
        """What distillation subtracts, [B, C, h, w]: a system's control variate, or the noise."""
        parts = self._parts(cameras, scale)

        def subtracted(seen: Noised) -> Tensor:
            out = seen.noise.clone()
            for rows, ready in parts:
                if ready is not None and ready.against is not None:
                    out[rows] = ready.against(seen.x[rows], seen.t[rows])
            return out

        return subtracted

    def _parts(self, cameras: Cameras, scale: float) -> list[tuple[Tensor, Ready | None]]:
        """What the system makes of each view of cameras, before it which of them have that view."""
        names, device = self.views(cameras), self.backbone.device
        rows = {name: [i for i, other in enumerate(names) if other == name] for name in names}
        return [(torch.tensor(same, device=device), self._ready(name, scale))
                for name, same in rows.items()]  # fmt: skip

    def views(self, cameras: Cameras) -> list[str]:
        """What the views of cameras are called, PICTURED where one stands as the reference does."""
        there = reference(cameras.height).to(cameras.c2w.device)
        same = (cameras.c2w - there.c2w).abs().amax((1, 2)) < 1e-4
        same &= (cameras.fov_y - there.fov_y).abs() < 1e-4
        angles = zip(cameras.azimuth_deg.tolist(), cameras.elevation_deg.tolist())
        return [PICTURED if pictured else view_name(*angle, self.front_deg)
                for pictured, angle in zip(same.tolist(), angles)]  # fmt: skip

    def _ready(self, view: str, scale: float) -> Ready | None:
        """What the system makes of one view, or None if it says nothing about it."""
        if scale != self._scale:  # one that changes with the step
            self._readies.clear()
            self._scale = scale
        if view not in self._readies:
            words = "front" if view == PICTURED else view
            tail = f", {words} view" if self.view_words else ""
            asked = self.system.of_view(self.request, View(view, tail))
            self._readies[view] = None
            if asked is not None:
                asked = replace(asked, guide=replace(asked.guide, scale=scale))
                self._readies[view] = self.system.prepare(self.backbone, asked, self.weights)
        return self._readies[view]


@dataclass(frozen=True)
class Pictured:
    """A guidance whose first view of every step is the one that the given pictures show."""

    guide: Guidance

    def cameras(self, step: int, drawn: Cameras) -> Cameras:
        """The cameras that chance has drawn, the first in the place of the reference."""
        there = reference(drawn.height).to(drawn.c2w.device)
        c2w = torch.cat([there.c2w, drawn.c2w[1:]])
        posed = replace(drawn, c2w=c2w, fov_y=torch.cat([there.fov_y, drawn.fov_y[1:]]))
        return self.guide.cameras(step, posed) if isinstance(self.guide, Posed) else posed

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
