"""What one surface shows, carried over to another one that lies close to it."""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from exporters import topology
from exporters.corners import Frames, tangent_rows
from renderers.kernels.raster import texture
from threed.core.mesh import Mesh

SAMPLES = 60_000  # about so many points of the surface stand for it, besides one a face
NEAR = 4  # of them are looked at around a point ...
FAR = 64  # ... and so many where all of these look the other way
PIECE = 2**16  # points looked up at once
AWAY = 1.0  # world units that a face counts as farther off when it looks the other way


class Skin:
    """The surface of a mesh, to be asked what is nearest to points beside it."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.corners = mesh.vertices[mesh.faces].float()  # [F, 3, 3]
        a, b, c = self.corners.unbind(1)
        self.facing = F.normalize(torch.linalg.cross(b - a, c - a), dim=-1)
        self.normals = mesh.vertex_normals()
        self.owner, points = self._samples()
        self.tree = cKDTree(points.numpy())

    def color(self, points: Tensor, normals: Tensor) -> Tensor:
        """Find the sRGB colours [N, 3] at the places nearest to points [N, 3].

        `normals` [N, 3] are unit and say which way the points look; see `nearest`. Grey where the
        mesh has no colours.
        """
        albedo = self.mesh.material.albedo
        if albedo is not None and self.mesh.uv is not None:
            return self.picture(albedo, points, normals)
        if self.mesh.colors is None:
            return torch.full_like(points, 0.7)
        return self._at(self.mesh.colors, self.mesh.faces, *self.nearest(points, normals))

    def picture(self, image: Tensor, points: Tensor, normals: Tensor) -> Tensor:
        """Find what a map [H, W, C] of the mesh shows [N, C] at the nearest places."""
        return self._look_up(image, *self.nearest(points, normals))

    def normal(self, points: Tensor, normals: Tensor) -> Tensor:
        """Find the unit normals [N, 3] at the nearest places, its normal map included."""
        face, weight = self.nearest(points, normals)
        smooth = F.normalize(self._at(self.normals, self.mesh.faces, face, weight), dim=-1)
        image = self.mesh.material.normal
        if image is None or self.mesh.uv is None:
            return smooth
        _, frames = Frames.split(self._at(*tangent_rows(self.mesh), face, weight))
        return frames.turn(self._look_up(image, face, weight) * 2 - 1)

    def nearest(self, points: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Find the nearest face [N] of points [N, 3], and the weights [N, 3] of its corners there.

        Faces that look away from a point's normal [N, 3] are taken only where there is no other.
        Close to an edge it may be the face beside, off by less than the samples are apart.
        """
        pieces = zip(torch.split(points, PIECE), torch.split(normals, PIECE))
        found = [self._nearest(p, n) for p, n in pieces]
        return torch.cat([f for f, _ in found]), torch.cat([w for _, w in found])

    def _nearest(self, points: Tensor, normals: Tensor, near: int = NEAR) -> tuple[Tensor, Tensor]:
        """Do what `nearest` does for points that fit into memory, among `near` samples of each."""
        _, index = self.tree.query(points.numpy(), k=near)
        face = self.owner[torch.from_numpy(index)]  # [N, near]
        away = (self.facing[face] * normals[:, None]).sum(-1) < 0
        weight = weights(self.corners[face], points[:, None])
        gap = ((weight[..., None] * self.corners[face]).sum(-2) - points[:, None]).norm(dim=-1)
        best = (gap + AWAY * away).argmin(1, keepdim=True)
        face = face.gather(1, best)[:, 0]
        weight = weight.gather(1, best[..., None].expand(-1, 1, 3))[:, 0]
        lost = away.all(1).nonzero()[:, 0]  # beside a thin wall, nearer to its other side
        if near == NEAR and len(lost):
            face[lost], weight[lost] = self._nearest(points[lost], normals[lost], FAR)
        return face, weight

    def _samples(self) -> tuple[Tensor, Tensor]:
        """Faces [S] and points of them [S, 3], about evenly spread, at least one a face."""
        area = topology.areas(self.mesh).numpy()
        rng = np.random.default_rng(0)
        more = (SAMPLES * area / max(area.sum(), 1e-30) + rng.random(len(area))).astype(np.int64)
        owner = torch.from_numpy(np.repeat(np.arange(len(area)), more))
        weight = torch.from_numpy(rng.dirichlet((1, 1, 1), len(owner))).float()
        points = (self.corners[owner] * weight[..., None]).sum(1)
        every = torch.arange(len(area))
        return torch.cat([every, owner]), torch.cat([self.corners.mean(1), points])

    def _look_up(self, image: Tensor, face: Tensor, weight: Tensor) -> Tensor:
        """What a map [H, W, C] of the mesh shows [N, C] at places on its faces."""
        uv = self._at(*self.mesh.opengl_map(), face, weight)
        return texture(image, uv[None, None])[0, 0]

    @staticmethod
    def _at(rows: Tensor, faces: Tensor, face: Tensor, weight: Tensor) -> Tensor:
        """Rows of the corners [T, C], mixed by weights [N, 3] of the corners of faces: [N, C]."""
        return (rows[faces[face]] * weight[..., None]).sum(1)


def weights(corner: Tensor, points: Tensor) -> Tensor:
    """Weights [..., 3] of the corners [..., 3, 3] of triangles at the places nearest to points.

    None is negative, their sum is 1: outside a triangle, what is negative is cut away, which gives
    a place on its outline. The first corner of a triangle without area.
    """
    a = corner[..., 0, :]
    u, v, p = corner[..., 1, :] - a, corner[..., 2, :] - a, points - a
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    up, vp = (u * p).sum(-1), (v * p).sum(-1)
    det = uu * vv - uv * uv
    flat = det <= 1e-12 * uu * vv
    safe = torch.where(flat, 1.0, det)
    second = torch.where(flat, 0.0, (vv * up - uv * vp) / safe)
    third = torch.where(flat, 0.0, (uu * vp - uv * up) / safe)
    share = torch.stack([1 - second - third, second, third], -1).clamp(min=0)
    return share / share.sum(-1, keepdim=True)
