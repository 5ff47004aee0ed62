"""How much of "front view", "side view" and so on a camera is told."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from threed.core.cameras import VIEWS, Cameras, view_name

Blend = Literal["nearest", "linear", "perp_neg"]
NEGATIVES = ("front", "side")
"""The views that Perp-Neg keeps away from."""


def shares(cameras: Cameras, blend: Blend, front_deg: float = 45.0) -> Tensor:
    """[B, 4] how much of each of VIEWS a camera is told; rows sum to 1.

    nearest is one of them, as `view_name` says; the others mix the two neighbours in proportion to
    the azimuth (Perp-Neg, arXiv:2304.04968). Cameras above 60° are told "overhead" only.
    """
    azimuth, elevation = cameras.azimuth_deg, cameras.elevation_deg
    names = [view_name(*angles, front_deg) for angles in zip(azimuth.tolist(), elevation.tolist())]
    which = torch.tensor([VIEWS.index(name) for name in names], device=azimuth.device)
    hard = torch.nn.functional.one_hot(which, len(VIEWS)).to(azimuth.dtype)
    if blend == "nearest":
        return hard
    quarter = azimuth.abs() / 90  # 0 in front, 1 at the side, 2 behind
    front, back = (1 - quarter).clamp(min=0), (quarter - 1).clamp(min=0)
    soft = torch.stack([front, 1 - front - back, back, torch.zeros_like(front)], -1)
    return torch.where(_overhead(cameras)[:, None], hard, soft)


def negative_weights(cameras: Cameras) -> Tensor:
    """[B, 2] the weights, at most 0, of NEGATIVES as Perp-Neg's negative prompts.

    None where the camera is told that view itself, more the farther away it is: a exp(-b r) + c
    with the published (a, b, c), r being the share of the nearer to the front of two neighbours.
    """
    quarter = cameras.azimuth_deg.abs() / 90
    before = quarter <= 1  # between front and side; else between side and back
    r = torch.where(before, 1 - quarter, 2 - quarter)
    front = torch.where(before, _decay(r, 4, 0.5, -2.426), _decay(r, 1, 0.5, 0.967))
    side = torch.where(before, _decay(1 - r, 4, 0.5, -2.426), _decay(r, 1, 0.5, -0.606))
    weights = -torch.stack([front, side], -1).clamp(min=0)
    return weights.masked_fill(_overhead(cameras)[:, None], 0)


def _decay(r: Tensor, a: float, b: float, c: float) -> Tensor:
    return a * torch.exp(-b * r) + c


def _overhead(cameras: Cameras) -> Tensor:
    return cameras.elevation_deg > 60
