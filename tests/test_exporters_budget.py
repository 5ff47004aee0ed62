"""Fewer faces that show the same: nearest surfaces, normal maps, budgets, levels of detail."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from exporters.bake import bake
from exporters.budget import fit_budget
from exporters.corners import to_corners
from exporters.normals import bake_normals
from exporters.simplify import simplify
from exporters.transfer import Skin, weights
from exporters.unwrap import unwrap
from renderers.kernels.raster import texture
from tests.shapes import cube, sphere
from tests.toys import RADIUS, bumpy
from threed.core.budget import Budget, Level, levels
from threed.core.errors import InputError
from threed.core.mesh import Mesh, flip_v


def on_texels(mesh: Mesh, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Places, interpolated normals and what the normal map makes of them, of texels it covers."""
    rows = to_corners(mesh)
    assert rows.tangent is not None
    assert rows.uv is not None
    generator = torch.Generator().manual_seed(0)
    share = torch.rand(len(rows.faces), 3, generator=generator)
    share = (share / share.sum(1, keepdim=True))[..., None]

    def at(values: Tensor) -> Tensor:
        return (values[rows.faces] * share).sum(1)

    assert mesh.material.normal is not None
    lean = texture(mesh.material.normal, at(flip_v(rows.uv).float())[None, None])[0, 0] * 2 - 1
    t, n = at(rows.tangent[:, :3]), at(rows.normal)
    side = rows.tangent[rows.faces[:, 0], 3:]
    b = side * torch.linalg.cross(n, t)
    shaded = F.normalize(lean[:, :1] * t + lean[:, 1:2] * b + lean[:, 2:] * n, dim=-1)
    back = [2, 0, 1]  # from y up to z up
    return at(rows.position)[:, back], F.normalize(n, dim=-1)[:, back], shaded[:, back]


def angle_deg(a: Tensor, b: Tensor) -> float:
    return float(torch.rad2deg((a * b).sum(-1).clamp(-1, 1).acos()).mean())


def test_weights_are_those_of_the_nearest_place() -> None:
    corner = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    points = torch.tensor([[0.2, 0.3, 5.0], [-1, -1, 0], [0.5, -2, 0], [2, 2, 0]])
    found = weights(corner, points)
    wanted = torch.tensor([[0.5, 0.2, 0.3], [1, 0, 0], [0.5, 0.5, 0], [0, 0.5, 0.5]])
    torch.testing.assert_close(found[[0, 1, 3]], wanted[[0, 1, 3]])
    assert bool((found >= 0).all())
    torch.testing.assert_close(found.sum(1), torch.ones(4))
    point = torch.ones(3, 3)  # a triangle without area
    assert torch.equal(weights(point, points), torch.tensor([[1.0, 0, 0]]).expand(4, 3))


def test_the_nearest_place_of_a_few_large_faces_is_found() -> None:
    """Twelve faces, their corners far from most of the points: 1, 2, 3 long."""
    skin = Skin(cube())
    place = torch.rand(500, 3) * torch.tensor([1.0, 2, 3])
    for axis, side in ((0, 1.0), (1, 2.0), (2, 3.0)):
        on, normal = place.clone(), torch.zeros_like(place)
        on[:, axis], normal[:, axis] = side, 1
        face, share = skin.nearest(on + 0.01 * normal, normal)
        found = (skin.corners[face] * share[..., None]).sum(1)
        off = (found - on).norm(dim=1)
        assert off.mean() < 1e-3
        assert off.max() < 0.02  # at an edge, by less than the samples of the surface are apart
        torch.testing.assert_close(skin.facing[face], normal)


def test_the_side_that_looks_away_is_not_taken() -> None:
    """Two sheets closer to each other than the point is to its own."""
    low = torch.tensor([[-1.0, -1, 0], [1, -1, 0], [0, 1, 0]])
    vertices = torch.cat([low, low + torch.tensor([0, 0, 0.03])])
    skin = Skin(Mesh(vertices, torch.tensor([[2, 1, 0], [3, 4, 5]])))  # down below, up above
    down = torch.tensor([[0.0, 0, -1]])
    assert skin.nearest(torch.tensor([[0.0, 0, 0.0275]]), down)[0].tolist() == [0]
    assert skin.nearest(torch.tensor([[0.0, 0, 0.0025]]), -down)[0].tolist() == [1]


def test_colours_are_carried_over() -> None:
    colored = sphere(RADIUS, 40, 60)
    assert colored.colors is not None
    painted = bake(unwrap(colored, 256), lambda p, n: 0.5 + 0.5 * p, 256)
    points = F.normalize(torch.randn(300, 3), dim=1)
    height = 0.5 + 0.5 * points[:, 2]
    own = Skin(colored).color(points * RADIUS, points)
    torch.testing.assert_close(own[:, 2], height, atol=0.02, rtol=0)
    by_map = Skin(replace(painted, colors=None)).color(points * RADIUS, points)
    torch.testing.assert_close(by_map, 0.5 + 0.5 * RADIUS * points, atol=0.02, rtol=0)
    bare = Skin(replace(colored, colors=None)).color(points, points)
    assert torch.equal(bare, torch.full((300, 3), 0.7))


def test_a_normal_map_shows_the_shape_that_was_lost() -> None:
    dense = bumpy()
    mesh = unwrap(simplify(dense, 1500), 256)
    mapped = bake_normals(mesh, Skin(dense), 256)
    assert mapped.material.normal is not None
    place, smooth, shaded = on_texels(mapped, 256)
    wanted = Skin(dense).normal(place, smooth)
    without, with_map = angle_deg(smooth, wanted), angle_deg(shaded, wanted)
    assert without > 6
    assert with_map < 0.25 * without
    # what a copy of the copy sees is the mapped surface, not the bare one
    assert angle_deg(Skin(mapped).normal(place, smooth), wanted) < 0.25 * without


def test_a_normal_map_that_shows_nothing_is_not_made() -> None:
    dense = replace(sphere(RADIUS, 60, 90), colors=None)
    mesh = unwrap(simplify(dense, 4000), 64)
    assert bake_normals(mesh, Skin(dense), 64).material.normal is None
    assert bake_normals(mesh, Skin(dense), 64, worth_deg=0).material.normal is not None
    with pytest.raises(ValueError, match="no texture coordinates: unwrap it first"):
        bake_normals(dense, Skin(dense), 64)


def test_normals_along_the_axes_of_the_map() -> None:
    """A flat square under a tilted one: red where it leans along u, green against v."""
    vertices = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    faces = torch.tensor([[0, 1, 2], [0, 2, 3]])
    flat = Mesh(vertices, faces, uv=flip_v(vertices[:, :2]), uv_faces=faces)
    for axis, expected in ((0, [0.8, 0.5]), (1, [0.5, 0.8])):
        tilted = vertices.clone()
        tilted[:, 2] = -0.75 * vertices[:, axis]  # its normal: 0.6 along the axis, 0.8 up
        made = bake_normals(flat, Skin(Mesh(tilted, faces)), 32)
        assert made.material.normal is not None
        wanted = torch.tensor([*expected, 0.9]).expand(32, 32, 3)
        torch.testing.assert_close(made.material.normal, wanted, atol=1e-3, rtol=0)


def painted() -> Mesh:
    """A sphere with every map, in 256 texels."""
    mesh = bake(unwrap(bumpy(), 256), lambda p, n: 0.5 + 0.5 * p, 256)
    both = torch.zeros(256, 256, 3)
    both[..., 1], both[..., 2] = 0.25, 0.75
    maps = replace(mesh.material, metallic_roughness=both, metallic=0.5, roughness=0.9)
    return replace(mesh, material=maps)


def test_a_budget_is_kept_and_everything_carried_over() -> None:
    (copy,) = fit_budget(painted(), Budget(faces=1000, texture=128))
    assert 800 < len(copy.faces) <= 1002
    own = copy.material
    assert own.albedo is not None
    assert own.metallic_roughness is not None
    assert own.normal is not None
    assert own.albedo.shape == own.normal.shape == own.metallic_roughness.shape == (128, 128, 3)
    assert (own.metallic, own.roughness) == (0.5, 0.9)
    flat = torch.tensor([0.0, 0.25, 0.75]).expand(128, 128, 3)
    torch.testing.assert_close(own.metallic_roughness, flat, atol=0.01, rtol=0)
    color = bake(copy, lambda p, n: 0.5 + 0.5 * p, 128).material.albedo
    assert color is not None
    assert (own.albedo - color).abs().mean() < 0.01


def test_enough_faces_stay_and_only_the_pictures_shrink() -> None:
    mesh = painted()
    (copy,) = fit_budget(mesh, Budget(faces=10**6, texture=64))
    assert copy.faces is mesh.faces
    assert copy.uv is mesh.uv
    assert copy.material.albedo is not None
    assert mesh.material.albedo is not None
    assert copy.material.albedo.shape == (64, 64, 3)
    wanted = F.avg_pool2d(mesh.material.albedo.permute(2, 0, 1)[None], 4)[0].permute(1, 2, 0)
    torch.testing.assert_close(copy.material.albedo, wanted)
    (same,) = fit_budget(mesh, Budget(texture=4096))
    assert torch.equal(same.material.albedo, mesh.material.albedo)  # type: ignore[arg-type]


def test_plain_meshes_stay_plain() -> None:
    one, two = fit_budget(bumpy(), Budget(faces=2000), lods=1)
    assert len(one.faces) <= 2002
    assert len(two.faces) <= 502
    assert one.uv is None
    (coloured,) = fit_budget(sphere(RADIUS, 40, 60), Budget(faces=500, texture=64))
    assert coloured.material.albedo is not None
    assert coloured.material.albedo.shape == (64, 64, 3)


def test_levels_are_for_twice_the_distance_each() -> None:
    assert levels(20_000, 1024, 2) == [Level(20000, 1024), Level(5000, 512), Level(1250, 256)]
    assert levels(64, 32, 2)[2] == Level(4, 16)
    with pytest.raises(InputError, match="lods=2 would leave 3 faces of 60"):
        levels(60, 1024, 2)
    with pytest.raises(InputError, match=r"lods must be in 0\.\.8, got -1"):
        levels(20_000, 1024, -1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("faces", "'faces' is not understood; it takes faces=5000"),
        ("face=3", "'face=3' is not understood"),
        ("faces=many", "'faces=many' is not understood"),
        ("faces=-5", "'faces=-5' is not understood"),
        ("", "'' is not understood"),
        ("faces=3", "faces must be at least 4, got 3"),
        ("texture=9000", r"texture must be in 16\.\.8192, got 9000"),
    ],
)
def test_budgets_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(InputError, match=f"budget: {message}"):
        Budget.parse(text)


def test_budgets_are_read() -> None:
    assert Budget.parse("faces=5000,texture=512") == Budget(5000, 512)
    assert Budget.parse(" texture = 64 ") == Budget(None, 64)
    assert Budget.parse("faces=9").given() == {"faces": 9}
