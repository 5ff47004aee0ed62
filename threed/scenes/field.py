"""Density and colour in a hash grid: the scene that grows from nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from renderers import kernels, volume
from renderers.shading import Lamp
from threed.core.cameras import Cameras
from threed.core.render import RenderOutput
from threed.scenes import hashgrid
from threed.settings.scenes import FieldSettings

PIECE = 2**15  # points the networks see at once: twice as fast as all of them


class Field(nn.Module):
    """A radiance field in the unit ball; nothing outside, no dependence on the view.

    It begins as a grey blob of soft density in the middle. `state_dict` holds all that a run needs
    to go on as if it had never stopped.
    """

    resolutions: Tensor  # [levels] int64
    remembered: Tensor  # [G, G, G] the density each cell has lately shown
    occupied: Tensor  # [G, G, G] bool
    active_levels: Tensor  # [] int64

    def __init__(self, settings: FieldSettings | None = None, *, seed: int = 0) -> None:
        super().__init__()
        self.settings = s = settings or FieldSettings()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.table = hashgrid.table(s)
            self.mlp = hashgrid.mlp(s.levels * s.features, s.hidden, 4)
            self.background = Sky() if s.background == "learned" else None
        self.register_buffer("resolutions", hashgrid.resolutions(s), persistent=False)
        cells = (s.occupancy,) * 3
        self.register_buffer("remembered", torch.zeros(cells))
        self.register_buffer("occupied", torch.ones(cells, dtype=torch.bool))
        self.register_buffer("active_levels", torch.tensor(min(s.start_levels, s.levels)))

    def density(self, points: Tensor) -> Tensor:
        """Density [N] per world unit at points [N, 3] in world units; 0 outside the unit ball."""
        return self.density_and_color(points)[0]

    def color(self, points: Tensor) -> Tensor:
        """Colour [N, 3], sRGB in (0, 1), at points [N, 3] in world units."""
        return self.density_and_color(points)[1]

    def density_and_color(
        self, points: Tensor, active_levels: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """Density [N] and colour [N, 3] at points [N, 3], for the price of one of them.

        Of the levels in use, or of the first few.
        """
        s = self.settings
        levels = int(self.active_levels) if active_levels is None else active_levels
        places = (points + 1) * 0.5
        features = kernels.hash_encode(places, self.table, self.resolutions, levels)
        # in pieces: what lies between the two layers stays in the cache
        raw = torch.cat([self.mlp(piece) for piece in torch.split(features, PIECE)])
        radius = points.square().sum(-1).sqrt()
        blob = s.blob_bias * (1 - radius / s.blob_radius)
        density = s.density_gain * F.softplus(raw[:, 3] + blob) * (radius <= 1)
        return density, torch.sigmoid(raw[:, :3])

    @torch.no_grad()
    def update_occupancy(self, step: int, generator: torch.Generator) -> None:
        """Prepare for a step of an optimisation: levels in use, and what space is empty.

        Every `occupancy_every` steps the density is looked up at a random point of each cell; at
        other steps the generator is left alone.
        """
        s = self.settings
        self.active_levels.fill_(self._levels(step))
        if step % s.occupancy_every:
            return
        size = s.occupancy
        axis = torch.arange(size, dtype=torch.float32)
        cells = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).view(-1, 3)
        jitter = torch.rand(cells.shape, generator=generator, device=generator.device)
        points = (cells + jitter.to(cells.device)) * (2 / size) - 1
        density = self.density(points.to(self.table.device)).view_as(self.remembered)
        torch.maximum(self.remembered * s.occupancy_decay, density, out=self.remembered)
        # never everything: a scene that fades keeps its densest cells, so that it can come back
        empty = self.remembered.mean().clamp(max=s.occupancy_alpha * s.samples / 2)
        torch.gt(self.remembered, empty, out=self.occupied)

    def render(
        self,
        cameras: Cameras,
        *,
        background: Tensor | None = None,
        step: int | None = None,
        generator: torch.Generator | None = None,
        normals: bool = False,
        lamp: Lamp | None = None,
        budget: int = volume.BUDGET,
    ) -> RenderOutput:
        """Pictures over a background [3] or [B, 3] (None: the learned one, else white).

        A generator moves the samples along the rays; None puts them at the middles. `losses`:
        sparsity, opaque; with normals or a lamp also orientation and smoothness. `step` uses the
        levels of that step; None those in use.
        """
        levels = int(self.active_levels) if step is None else self._levels(step)
        look = partial(self.density_and_color, active_levels=levels)
        steps = 2 / self.settings.samples, 3 / self.settings.max_resolution
        given = torch.ones(3) if background is None else background
        behind: volume.Background = given.to(self.table.device)
        if background is None and self.background is not None:
            behind = self.background
        return volume.render(
            volume.Volume(look, self.occupied, *steps), cameras.to(self.table.device),
            background=behind, generator=generator, normals=normals, lamp=lamp, budget=budget,
        )  # fmt: skip

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: the table at lr, the net at net_rate times that, sky at .1."""
        networks = {"params": list(self.mlp.parameters()), "lr": lr * self.settings.net_rate}
        groups = [{"params": [self.table], "lr": lr}, networks]
        if self.background is not None:
            groups.append({"params": list(self.background.parameters()), "lr": lr / 10})
        return groups

    def _levels(self, step: int) -> int:
        s = self.settings
        return min(s.levels, s.start_levels + max(0, step - s.level_from) // s.level_every)


class Sky(nn.Module):
    """A learned background: a smooth colour [N, 3] for unit directions [N, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = hashgrid.mlp(9, 16, 3)

    def forward(self, directions: Tensor) -> Tensor:
        """Colours [..., 3], sRGB in (0, 1), of unit directions [..., 3]."""
        angle = directions * torch.pi
        return torch.sigmoid(self.mlp(torch.cat([directions, angle.sin(), angle.cos()], -1)))
