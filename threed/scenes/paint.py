"""Colour in space: the hash grid that paints surfaces and textures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from renderers import kernels
from renderers.kernels.raster import texture
from threed.core.mesh import Mesh
from threed.scenes import hashgrid
from threed.settings.scenes import PaintSettings

PIECE = 2**15  # points the network sees at once
SAMPLES = 2**13  # points of the surface in a step of copying its colours
RATES = 0.05, 0.01  # of Adam for the table and the network, while copying


GLOSS = (0.5, -2.0)  # logits of roughness and metallic at first: rather matt, and no metal


class Paint(nn.Module):
    """A colour for every point of [-1, 1]³, grey at first; with gloss, what else it reflects by."""

    resolutions: Tensor  # [levels] int64

    def __init__(self, settings: PaintSettings, *, gloss: bool = False, seed: int = 0) -> None:
        super().__init__()
        self.settings = s = settings
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.table = hashgrid.table(s)
            self.mlp = hashgrid.mlp(s.levels * s.features, s.hidden, 5 if gloss else 3)
        if gloss:
            last = self.mlp[-1]
            assert isinstance(last, nn.Linear)
            last.bias.data[3:] = torch.tensor(GLOSS)
        self.register_buffer("resolutions", hashgrid.resolutions(s), persistent=False)

    def forward(self, points: Tensor) -> Tensor:
        """[N, 3 or 5] in (0, 1) at points [N, 3] in world units, to which no gradient goes.

        Colours, sRGB; then roughness and metallic, where the paint has them.
        """
        places, levels = (points.detach() + 1) * 0.5, self.settings.levels
        features = kernels.hash_encode(places, self.table, self.resolutions, levels)
        return torch.sigmoid(torch.cat([self.mlp(part) for part in torch.split(features, PIECE)]))

    def param_groups(self, lr: float) -> list[dict[str, Any]]:
        """Groups for an optimizer: the table learns at lr, the network at net_rate times it."""
        network = {"params": list(self.mlp.parameters()), "lr": lr * self.settings.net_rate}
        return [{"params": [self.table], "lr": lr}, network]

    def copy(self, spots: Spots, colors: Tensor, *, seed: int = 0) -> None:
        """Learn colors [N, 3] sRGB at the spots of a surface, in settings.copy_steps steps."""
        generator = torch.Generator().manual_seed(seed)
        groups = [group | {"lr": rate} for group, rate in zip(self.param_groups(0), RATES)]
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-15)
        device = self.table.device
        for _ in range(self.settings.copy_steps):
            chosen = torch.randint(len(colors), (SAMPLES,), generator=generator)
            seen = self(spots.points[chosen].to(device))[:, :3]
            optimizer.zero_grad()
            F.mse_loss(seen, colors[chosen].to(device)).backward()
            optimizer.step()


class Painted(nn.Module):
    """A surface in [-1, 1]³ whose colours a `Paint` has."""

    paint: Paint

    @torch.no_grad()
    def color(self, points: Tensor, normals: Tensor) -> Tensor:
        """Colours [N, 3], sRGB, at points of the surface [N, 3]; on the CPU."""
        seen: Tensor = self.paint(points.to(self.paint.table.device))
        return seen[:, :3].cpu()

    def take_colors(self, spots: Spots, colors: Tensor) -> None:
        """Learn colours [N, 3] sRGB at spots of the mesh that was wrapped."""
        self.paint.copy(spots, colors)

    def update_occupancy(self, step: int, generator: torch.Generator) -> None:
        """Do nothing: a surface has no grid of empty cells to keep up to date."""


@dataclass(frozen=True)
class Spots:
    """Points all over a mesh, evenly by area."""

    points: Tensor  # [N, 3]
    normals: Tensor  # [N, 3] unit, smooth
    faces: Tensor  # [N] int64 that they lie on
    weights: Tensor  # [N, 3] barycentric

    @staticmethod
    def on(mesh: Mesh, count: int = 2**16, *, seed: int = 0) -> Spots:
        """`count` of them; the same seed gives the same."""
        generator = torch.Generator().manual_seed(seed)
        a, b, c = mesh.vertices.double()[mesh.faces].unbind(1)
        area = torch.linalg.vector_norm(torch.linalg.cross(b - a, c - a), dim=-1).cumsum(0)
        draw = torch.rand(count, generator=generator, dtype=torch.float64) * area[-1]
        faces = torch.searchsorted(area, draw).clamp(max=len(area) - 1)
        u, v = torch.rand(2, count, generator=generator)
        u, v = torch.where(u + v > 1, 1 - u, u), torch.where(u + v > 1, 1 - v, v)
        return Spots._of(mesh, faces, torch.stack([1 - u - v, u, v], 1))

    @staticmethod
    def at(mesh: Mesh, hits: Tensor) -> Spots:
        """Find those that entries [1, N, 1, 4] of a rasterize buffer are of."""
        u, v, _, face = hits[0, :, 0].unbind(-1)
        return Spots._of(mesh, face.long() - 1, torch.stack([u, v, 1 - u - v], 1))

    @staticmethod
    def _of(mesh: Mesh, faces: Tensor, weights: Tensor) -> Spots:
        surface = torch.cat([mesh.vertices, mesh.vertex_normals()], 1)
        here = _mix(surface[mesh.faces[faces]], weights)
        return Spots(here[:, :3], F.normalize(here[:, 3:], dim=-1), faces, weights)


def colors_of(mesh: Mesh, spots: Spots) -> Tensor | None:
    """[N, 3] sRGB of a mesh at its spots: its texture, else its vertices' colours, if any."""
    image = mesh.material.albedo
    if image is not None and mesh.uv is not None:
        return look_up(mesh, image, spots)
    if mesh.colors is not None:
        return _mix(mesh.colors[mesh.faces[spots.faces]], spots.weights)
    return None


def look_up(mesh: Mesh, image: Tensor, spots: Spots) -> Tensor:
    """What a picture [H, W, C] on a mesh's map shows [N, C] at its spots."""
    uv, uv_faces = mesh.opengl_map()
    return texture(image, _mix(uv[uv_faces[spots.faces]], spots.weights)[None, None])[0, 0]


def _mix(corners: Tensor, weights: Tensor) -> Tensor:
    """[N, C] of what corners [N, 3, C] hold."""
    return torch.einsum("nk,nkc->nc", weights, corners)
