"""What scenes over a hash grid have in common: limits of settings, levels, networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from threed.core import InputError


class Grid(Protocol):
    """The settings that make a hash grid."""

    @property
    def levels(self) -> int:
        """Grids of different resolution."""

    @property
    def features(self) -> int:
        """Numbers a grid point holds."""

    @property
    def log2_table(self) -> int:
        """Rows a level, as a power of two."""

    @property
    def base_resolution(self) -> int:
        """Cells a side of the coarsest grid."""

    @property
    def max_resolution(self) -> int:
        """Cells a side of the finest."""


def check(settings: Grid, where: str, counts: Sequence[str]) -> None:
    """InputError, begun by `where`, for a grid that cannot be, or a named count below 1."""
    for name in counts:
        if getattr(settings, name) < 1:
            raise InputError(f"{where}: {name} must be at least 1, got {getattr(settings, name)}")
    if settings.max_resolution < settings.base_resolution:
        raise InputError(f"{where}: max_resolution must be at least base_resolution "
                         f"{settings.base_resolution}, got {settings.max_resolution}")  # fmt: skip
    if not 4 <= settings.log2_table <= 24:
        raise InputError(f"{where}: log2_table must be in 4..24, got {settings.log2_table}")


def resolutions(settings: Grid) -> Tensor:
    """[levels] int64, in geometric progression from base to max."""
    exponent = torch.linspace(0, 1, settings.levels, dtype=torch.float64)
    growth = settings.max_resolution / settings.base_resolution
    return (settings.base_resolution * growth**exponent).round().long()


def table(settings: Grid) -> nn.Parameter:
    """[levels * 2^log2_table, features] of small random numbers, from torch's generator."""
    rows = settings.levels * 2**settings.log2_table
    return nn.Parameter(torch.empty(rows, settings.features).uniform_(-1e-4, 1e-4))


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """One hidden layer with a ReLU."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
