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
from threed.diffusion.models.multiview import MultiViewDiffusion
from threed.diffusion.noise import Noised
from threed.diffusion.paint import Ready
from threed.diffusion.score import Score, plain, rescaled, score
from threed.diffusion.several import OneView, together
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

    InputError for what the system cannot be told. What it makes of a view knows no other, also
    where the backbone sees several at once (`threed.diffusion.several`).
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
        said_so: dict[str, Any] = {"negative": negative, "view_words": view_words,
                                   "front_deg": front_deg}  # fmt: skip
        super().__init__(backbone, plain_prompt, **said_so)
        self._one = backbone  # as one view knows it
        if isinstance(backbone, MultiViewDiffusion):
            self._one = OneView(backbone)
        self._plain = Prompts(self._one, plain_prompt, **said_so)
        request = replace(request, guide=Guide(scale, negative), size=backbone.image_size)
        self.request = self.system.settle(request)
        self.weights = self.system.load(self._one, self.request)
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
        cameras, backbone = cameras.to(self.backbone.device), self.backbone
        steered = self._each(cameras, scale, lambda ready: ready.alone())
        if not rescale:
            return steered
        text = score(backbone, [self.text(cameras)], plain())
        blend = rescaled(lambda noises, x, t: noises[1], rescale, backbone.alphas_cumprod,
                         backbone.views)  # fmt: skip
        return lambda x, t: blend([text(x, t), steered(x, t)], x, t)

    def less(self, cameras: Cameras, scale: float) -> Callable[[Noised], Tensor]:
        """What distillation subtracts, [B, C, h, w]: a system's control variate, or the noise."""
        cameras = cameras.to(self.backbone.device)
        readies = [self._ready(name, scale) for name in self.views(cameras)]
        if all(ready is None or ready.against is None for ready in readies):
            return lambda seen: seen.noise
        own = torch.tensor([ready is not None and ready.against is not None for ready in readies])
        against = self._each(cameras, scale, lambda ready: ready.against or ready.alone())

        def subtracted(seen: Noised) -> Tensor:
            there = own.to(seen.noise.device)[:, None, None, None]
            return torch.where(there, against(seen.x, seen.t), seen.noise)

        return subtracted

    def _each(self, cameras: Cameras, scale: float, of: Callable[[Ready], Score]) -> Score:
        """One Score of B views: of what the system makes of each, or of the prompt alone."""

        def made(name: str, posed: Cameras) -> Score:
            ready = self._ready(name, scale)
            return self._plain.score(posed, scale) if ready is None else of(ready)

        names = self.views(cameras)
        if isinstance(self._one, OneView):
            each = [made(name, cameras[i : i + 1]) for i, name in enumerate(names)]
            return together(self._one, each, cameras)
        device = self.backbone.device
        rows = {name: torch.tensor([i for i, other in enumerate(names) if other == name],
                                   device=device) for name in names}  # fmt: skip
        parts = [(here, made(name, cameras[here])) for name, here in rows.items()]

        def apart(x: Tensor, t: Tensor) -> Tensor:
            out = torch.empty_like(x)
            for here, part in parts:
                out[here] = part(x[here], t[here])
            return out

        return apart

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
                self._readies[view] = self.system.prepare(self._one, asked, self.weights)
        return self._readies[view]


@dataclass(frozen=True)
class Pictured:
    """A guidance that is shown, in every step, the view that the given pictures show.

    It is the first. Of views that a model sees together the others then stand as it wants them; so
    half of the steps, also of any that are evenly apart, have views as chance has drawn them.
    """

    guide: Guidance
    together: int = 1  # views that the model sees at once

    def cameras(self, step: int, drawn: Cameras) -> Cameras:
        """The cameras that chance has drawn, the first in the place of the reference."""
        if self.together > 1 and step.bit_count() % 2:
            return self._posed(step, drawn)
        there = orbit(self.together, drawn.height).to(drawn.c2w.device)
        c2w = torch.cat([there.c2w, drawn.c2w[self.together :]])
        fov_y = torch.cat([there.fov_y, drawn.fov_y[self.together :]])
        return self._posed(step, replace(drawn, c2w=c2w, fov_y=fov_y))

    def _posed(self, step: int, cameras: Cameras) -> Cameras:
        return self.guide.cameras(step, cameras) if isinstance(self.guide, Posed) else cameras

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
