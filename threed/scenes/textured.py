"""A mesh whose shape stays and whose colours, and if asked for gloss, learn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from renderers.kernels.raster import interpolate, texture
from renderers.raster import Shade
from renderers.shading import Lamp
from threed.core.cameras import Cameras
from threed.core.mesh import Mesh, flip_v
from threed.core.render import RenderOutput
from threed.scenes import shown
from threed.scenes.paint import Paint, Painted
from threed.settings.scenes import PaintSettings, TexturedSettings

SHAPE = ("vertices", "faces", "uv", "uv_faces")  # of a mesh, kept in the state_dict


class Textured(Painted):
    """A fixed mesh in [-1, 1]³, painted from a hash grid.

    Until `wrap` or `load_state_dict` gives it a mesh, it is a single triangle.
    """

    vertices: Tensor  # [V, 3]
    faces: Tensor  # [F, 3] int64
    uv: Tensor  # [T, 2] float64, no row if there is none
    uv_faces: Tensor  # [F, 3] int64
    held: Tensor  # [H, W, 4] where only a part learns: what is there at first, and 1 in the part

    def __init__(
        self,
        settings: TexturedSettings | None = None,
        paint: PaintSettings | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.settings = s = settings or TexturedSettings()
        self.paint = Paint(paint or PaintSettings(), gloss=s.gloss, seed=seed)
        self.register_buffer("vertices", torch.eye(3))
        self.register_buffer("faces", torch.arange(3)[None])
        self.register_buffer("uv", torch.zeros(0, 2, dtype=torch.float64))
        self.register_buffer("uv_faces", torch.zeros(0, 3, dtype=torch.int64))
        self.first: Mesh | None = None  # all that stays where only a part learns
        self.register_buffer("held", torch.zeros(0, 0, 4), persistent=False)

    def wrap(self, mesh: Mesh) -> None:
        """Take the shape of a mesh, and its texture coordinates."""
        device = self.vertices.device
        self.vertices, self.faces = mesh.vertices.to(device), mesh.faces.to(device)
        if mesh.uv is not None and mesh.uv_faces is not None:
            self.uv, self.uv_faces = mesh.uv.to(device), mesh.uv_faces.to(device)

    def hold(self, mesh: Mesh, part: Tensor) -> None:
        """Wrap a mesh with an albedo [H, W, 3], of which only a part [H, W], 0..1 on it, learns.

        The rest is shown, and kept, as it is. Not a part of the state_dict.
        """
        self.wrap(mesh)
        assert mesh.material.albedo is not None
        self.first = mesh
        self.held = torch.cat([mesh.material.albedo, part[..., None]], -1).to(self.vertices.device)

    @property
    def part(self) -> Tensor | None:
        """The part [H, W] of the mesh's map that learns, 0..1; None if all does."""
        return None if self.first is None else self.held[..., 3].cpu()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state with its mesh, which may be of another size than the one that is here."""
        for name in SHAPE:
            setattr(self, name, state_dict[name].to(self.vertices.device))
        return super().load_state_dict(state_dict, strict, assign)

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
        """Pictures over a background [3] or [B, 3] (None: white), as `Surface.render`."""
        shade = (shown.glossy if self.settings.gloss else shown.lit)(self.paint, lamp)
        if self.first is not None:
            shade = self._partly(lamp)
        return shown.show(self.vertices, self.faces, cameras, shade, background, budget)

    def _partly(self, lamp: Lamp | None) -> Shade:
        """Make a shade that shows the paint in the part that learns, elsewhere what was there."""

        def shade(points: Tensor, normals: Tensor, towards: Tensor, hits: Tensor) -> Tensor:
            uv = interpolate(flip_v(self.uv).float(), hits, self.uv_faces)
            first, part = texture(self.held, uv)[0, :, 0].split([3, 1], -1)
            look = shown.lit(lambda places: torch.lerp(first, self.paint(places), part), lamp)
            return look(points, normals, towards, hits)

        return shade

    @torch.no_grad()
    def solid(self) -> Mesh:
        """The mesh without colours; with its texture coordinates if they are kept.

        With all that it had, where only a part learns.
        """
        if self.first is not None:
            return self.first
        mesh = Mesh(self.vertices.cpu(), self.faces.cpu())
        if self.settings.keep_uv:
            return replace(mesh, uv=self.uv.cpu(), uv_faces=self.uv_faces.cpu())
        return mesh

    @property
    def has_gloss(self) -> bool:
        """Whether roughness and metallic were learned."""
        return self.settings.gloss

    @torch.no_grad()
    def gloss(self, points: Tensor, normals: Tensor) -> Tensor:
        """Roughness and metallic [N, 2] in [0, 1] at points of the surface [N, 3]; on the CPU."""
        seen: Tensor = self.paint(points.to(self.vertices.device))
        return seen[:, 3:].cpu()

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: the paint's."""
        return self.paint.param_groups(lr)
