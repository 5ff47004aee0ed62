"""Where a given mesh stood: moves it into the unit ball and back."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.core.mesh import Mesh

Rows = tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Placement:
    """Turned, moved and scaled: unit = scale * (turn @ original - center)."""

    turn: Rows = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))  # a rotation
    center: tuple[float, float, float] = (0.0, 0.0, 0.0)  # original units, after turning
    scale: float = 1.0

    @classmethod
    def standing(cls, mesh: Mesh, height: float) -> Placement:
        """Place a mesh on the origin, z up, so many units high: its base's centre is at 0.

        InputError for a mesh without height.
        """
        low, high = mesh.bounds().double().unbind()
        scale = float(high[2] - low[2]) / height
        if not scale > 0:
            raise InputError("the mesh is flat: it has no height that could be changed")
        x, y, _ = ((low + high) / 2 / scale).tolist()
        return cls(center=(-x, -y, -float(low[2]) / scale), scale=scale)

    def into(self, mesh: Mesh) -> Mesh:
        """Move a mesh from where it stood into the unit ball."""
        turned = mesh.vertices.double() @ self._turn().T
        unit = (turned - torch.tensor(self.center, dtype=torch.float64)) * self.scale
        return replace(mesh, vertices=unit.float())

    def out(self, mesh: Mesh) -> Mesh:
        """Move a mesh from the unit ball back to where it stood."""
        center = torch.tensor(self.center, dtype=torch.float64)
        place = (mesh.vertices.double() / self.scale + center) @ self._turn()
        return replace(mesh, vertices=place.float())

    def _turn(self) -> Tensor:
        return torch.tensor(self.turn, dtype=torch.float64)
