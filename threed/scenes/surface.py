"""A surface that learns: a signed distance on a tetrahedral grid, meshed in every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from renderers.shading import Lamp
from threed.core.cameras import Cameras
from threed.core.errors import InputError
from threed.core.mesh import Mesh
from threed.core.render import RenderOutput
from threed.scenes import flexicubes, shown, tetrahedra
from threed.scenes.distance import signed_distance
from threed.scenes.paint import Paint, Painted
from threed.settings.scenes import SURFACE_LOSSES, PaintSettings, SurfaceSettings


class Surface(Painted):
    """A closed surface in [-1, 1]³ and its colours (DMTet, arXiv:2111.04276).

    Each point of the grid has a signed distance, in cells, and moves by at most a sixth of a cell
    along each axis, so that the surface never crosses itself (which only tetrahedra promise). It
    begins as a grey ball. InputError for flexicubes without kaolin.
    """

    points: Tensor  # [P³, 3] the grid
    border: Tensor  # [P³] bool, always outside

    def __init__(
        self,
        settings: SurfaceSettings | None = None,
        paint: PaintSettings | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.settings = s = settings or SurfaceSettings()
        self.paint = Paint(paint or PaintSettings(), seed=seed)
        points = tetrahedra.grid_points(s.grid)
        self.distance = nn.Parameter((points.norm(dim=-1) - s.radius) * (s.grid / 2))
        self.move = nn.Parameter(torch.zeros_like(points))
        self.weights: nn.Parameter | None = None
        if s.mesher == "flexicubes":
            flexicubes.check()
            self.weights = nn.Parameter(torch.zeros(s.grid**3, flexicubes.WEIGHTS))
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("border", points.abs().amax(1) > 1 - 1 / s.grid, persistent=False)

    @torch.no_grad()
    def wrap(self, mesh: Mesh) -> None:
        """Take the shape of a mesh in [-1, 1]³. InputError if it encloses no point of the grid."""
        self.distance.copy_(signed_distance(mesh, self.settings.grid))
        self.move.zero_()
        if self.weights is not None:
            self.weights.zero_()
        if not bool((self._distance() < 0).any()):
            raise InputError(f"the mesh encloses nothing that a grid of {self.settings.grid} cells "
                             "a side sees: it is open, flat or too thin; close it, give it "
                             "thickness, or raise surface.grid")  # fmt: skip

    def march(self) -> tetrahedra.Marched:
        """Mesh the surface, with gradients to distances and moves; NoSurfaceError if none."""
        cell = 2 / self.settings.grid
        places = self.points + tetrahedra.MOVE * cell * torch.tanh(self.move)
        if self.weights is not None:
            return flexicubes.march(self._distance(), places, self.weights, self.settings.grid)
        return tetrahedra.march(self._distance(), places)

    def render(
        self,
        cameras: Cameras,
        *,
        background: Tensor | None = None,
        generator: torch.Generator | None = None,
        normals: bool = False,
        lamp: Lamp | None = None,
        budget: int = shown.BUDGET,
    ) -> RenderOutput:
        """Pictures over a background [3] or [B, 3] (None: white).

        Where gradients are on, `losses` holds SURFACE_LOSSES, lengths in world units. The rest as
        in `Field.render`; normals are always there, and nothing is left to the generator.
        """
        found = self.march()
        shade = shown.lit(self.paint, lamp)
        seen = shown.show(found.vertices, found.faces, cameras, shade, background, budget)
        return replace(seen, losses=self._losses(found)) if torch.is_grad_enabled() else seen

    def _losses(self, found: tetrahedra.Marched) -> Mapping[str, Tensor]:
        ends = tetrahedra.edges(found.faces)
        losses = (
            tetrahedra.consistency(found.vertices, found.faces, ends),
            tetrahedra.laplacian(found.vertices, ends),
            tetrahedra.sign_changes(self._distance(), found.ends),
            found.vertices.new_zeros(()) if found.deviation is None else found.deviation,
        )
        return dict(zip(SURFACE_LOSSES, losses))

    @torch.no_grad()
    def solid(self) -> Mesh:
        """Mesh the surface, without colours and without gradients, on the CPU."""
        found = self.march()
        return Mesh(found.vertices.float().cpu(), found.faces.cpu())

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: the paint's, and the shape at shape_lr times lr."""
        learns = [p for p in (self.distance, self.move, self.weights) if p is not None]
        shape = {"params": learns, "lr": lr * self.settings.shape_lr}
        return [*self.paint.param_groups(lr), shape]

    def _distance(self) -> Tensor:
        return torch.where(self.border, self.distance.clamp(min=0.5), self.distance)
