"""What scenes over a hash grid have in common: limits of settings, levels, networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from threed.settings.scenes import GridSettings


def resolutions(settings: GridSettings) -> Tensor:
    """[levels] int64, in geometric progression from base to max."""
    exponent = torch.linspace(0, 1, settings.levels, dtype=torch.float64)
    growth = settings.max_resolution / settings.base_resolution
    return (settings.base_resolution * growth**exponent).round().long()


def table(settings: GridSettings) -> nn.Parameter:
    """[levels * 2^log2_table, features] of small random numbers, from torch's generator."""
    rows = settings.levels * 2**settings.log2_table
    return nn.Parameter(torch.empty(rows, settings.features).uniform_(-1e-4, 1e-4))


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """One hidden layer with a ReLU."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, outputs))
