"""What benchmarks of things with no name share: a model with its nets, judges, results that stay.

What is alike is said by the judges of likeness, from a bound that strangers hardly pass.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import keep
from benchmarks.personalization import stacked
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import grid, make_images, save_image
from threed.diffusion.paint import paint
from threed.diffusion.parts.face_net import FOLDER, SmallFaces
from threed.systems.system import Request
from threed.systems.table import SYSTEMS
from threed.toybox.family.prompts import shown
from threed.toybox.judge.alike import Likeness, draw_instance, load_likeness
from threed.toybox.judge.net import load_judge
from threed.toybox.world.chance import Rng
from threed.toybox.world.scenes import draw_scene, random_camera, staged
from threed.toybox.world.subjects import Keepsake

SEED = 9000  # of the first subject, pair or person
HELD, EACH, STEPS = 12, 4, 12  # views kept for measuring; pictures of a prompt; steps of each
STRANGERS = 80  # instances from which a bound is found
Told = Mapping[str, Any]


class Bench:
    """The model with its nets, the judges, and where results are kept."""

    def __init__(self, out: Path, backbone: str) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, model = out, load_backbone(backbone)
        self.base: Any = model
        folder: Path = self.base.folder
        self.same, self.who = (load_likeness(folder / "likeness" / kind)
                               for kind in ("sameness", "identity"))  # fmt: skip
        self.judge, self.faces = load_judge(folder / "judge"), SmallFaces(folder / FOLDER)
        self.results = out / "results.jsonl"
        lines = self.results.read_text().splitlines() if self.results.is_file() else []
        self.done = {key(json.loads(line)) for line in lines}
        self._loaded: dict[str, Any] = {}

    def draw(self, system: str | None, prompt: str, inputs: Told, n: int = EACH,
             knobs: Told | None = None) -> Tensor:  # fmt: skip
        """[n, 3, 64, 64] pictures of a prompt, by a system or by the words alone."""
        with torch.no_grad():
            if system is None:
                return make_images(self.base, prompt, n=n, steps=STEPS, seed=1, guide=Guide(5.0))
            row = SYSTEMS[system]
            given = {name: tuple(value) for name, value in inputs.items()}
            request = Request(prompt, Guide(5.0), STEPS, 64, given, row.knobs(**(knobs or {})))
            model = row.equipped(self.base, request)
            ready = row.prepare(model, request, self._weights(system, request))
            return paint(model, ready, n=n, steps=STEPS, seed=1)

    def _weights(self, system: str, request: Request) -> Any:
        """What a system loads: once, but where it is about this request's face."""
        name = f"{system} {request.one('weights')}"
        if system == "instant_id" or name not in self._loaded:
            self._loaded[name] = SYSTEMS[system].load(self.base, request)
        return self._loaded[name]

    def measure(self, about: Told, find: Callable[[], Told]) -> None:
        """Keep what is found of something, once."""
        if key(about) not in self.done:
            keep(self.results, {**about, **find()})

    def picture(self, name: str, pixels: Any) -> Path:
        """Write a picture [H, W, 3] that is a prompt."""
        path = self.out / "pictures" / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        save_image(stacked([pixels])[0], path)
        return path

    def sheet(self, name: str, rows: Sequence[Tensor], columns: int) -> None:
        """Write pictures to look at, if there are any."""
        if rows:
            save_image(grid(torch.cat([*rows]), columns), self.out / f"{name}.png")

    @cached_property
    def subject_bound(self) -> float:
        """How alike a picture is to the views of another subject, in one case of twenty."""
        return bound(self.same, "sameness", 0.05)

    @cached_property
    def face_bound(self) -> float:
        """How alike a picture is to the portraits of somebody else, in one case of a hundred."""
        return bound(self.who, "identity", 0.01)


def key(line: Told) -> str:
    """What tells a result from others."""
    return json.dumps([line.get(name) for name in ("part", "number", "method", "at")])


def bound(judge: Likeness, kind: str, share: float) -> float:
    """The mean likeness to one instance that so large a share of pictures of others has at least.

    Of held-out instances, a quarter of which are of each family.
    """
    drawn = [draw_instance(kind, SEED, number) for number in range(STRANGERS)]
    pictures = stacked([one for some in drawn for one in some])
    points = judge.read(pictures).unflatten(0, (STRANGERS, -1))
    alike = torch.einsum("nvp,mwp->nvmw", points, points).mean(-1)  # [N, V, N]
    other = ~torch.eye(STRANGERS, dtype=torch.bool)[:, None].expand_as(alike)
    return float(alike[other].quantile(1 - share))


def views_of(rng: Rng, subject: Keepsake, n: int = HELD, reach: float = 180) -> Tensor:
    """[n, 3, 64, 64] pictures of a subject from around."""
    cameras = [random_camera(rng, (-reach, reach), (-10, 45)) for _ in range(n)]
    return torch.stack([shown(draw_scene(staged(rng, subject, camera))) for camera in cameras])


def front_of(rng: Rng, subject: Keepsake) -> Any:
    """[64, 64, 3] a picture that shows a subject's front."""
    plain = replace(subject, scale=1.0, turn_deg=0.0)
    return draw_scene(staged(rng, plain, random_camera(rng, (-30, 30), (0, 30)))).picture.rgb


def cut(pictures: Tensor, box: Sequence[float]) -> Tensor:
    """[B, 3, 64, 64] the squares around a box of pictures, with their borders drawn out."""
    left, top, right, bottom = (round(64 * side) for side in box)
    side = max(right - left, bottom - top, 4)
    x, y = (64 + (low + high - side) // 2 for low, high in ((left, right), (top, bottom)))
    wide = F.pad(pictures, (64,) * 4, mode="replicate")[..., y : y + side, x : x + side]
    return F.interpolate(wide, (64, 64), mode="bilinear")
