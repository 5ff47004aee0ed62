"""What benchmarks look at: cameras against their own code's numbers, places, light, ground."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor

from exporters import protocols, save
from exporters.protocols import PROTOCOLS, Series, find_protocol
from tests.shapes import cube, sphere
from threed.core.cameras import Cameras
from threed.core.errors import InputError
from threed.core.mesh import Material, Mesh

# of T3Bench's render/meshrender.py: the first pose and the last, rows of right, up, back, eye; and
# the sum over all poses, each times its number from 1, which a change of order or sign moves
T3BENCH = (
    [[-0.850651, 0, -0.525731, -1.156608], [-0.525731, 0, 0.850651, 1.871432], [0, 1, 0, 0]],
    [[0.266405, 0.156589, -0.951057, -2.092324], [-0.963861, 0.043280, -0.262866, -0.578304],
     [0, 0.986715, 0.162460, 0.357412]],
    [[-131.05286, 0, -1156.87506, -2545.12513], [-1484.94252, 44.12565, 88.21761, 194.07874],
     [0, 10271.14518, 267.64860, 588.82692]],
)  # fmt: skip
# the same of render/meshrender_cap.py, its eyes 2.2 away
CAPTIONS = (
    [[-0.850651, 0, -0.525731, -1.156608], [-0.525731, 0, 0.850651, 1.871432], [0, 1, 0, 0]],
    [[0, 0.525731, -0.850651, -1.871432], [-1, 0, 0, 0], [0, 0.850651, 0.525731, 1.156608]],
    [[1.40260, 0, -2.35114, -5.17251], [-2.94854, 0, -2.35114, -5.17251],
     [0, 59.39635, -2.35114, -5.17251]],
)  # fmt: skip
# of threestudio's RandomCameraDataset at 15 degrees and distance 2: number 1, number n // 3, sum
RINGS = {
    50: ([[-0.127877, -0.256694, 0.957996, 1.915991], [0.991790, -0.033097, 0.123520, 0.247040],
          [0, 0.965926, 0.258819, 0.517638]],
         [[-0.886599, 0.119714, -0.446778, -0.893555], [-0.462538, -0.229469, 0.856389, 1.712778],
          [0, 0.965926, 0.258819, 0.517638]],
         [[381.60724, -6.59991, 24.63121, 49.26243], [25.50009, 98.76722, -368.60431, -737.20856],
          [0, 1231.55542, 329.99432, 659.98859]]),
    120: ([[-0.052775, -0.258458, 0.964580, 1.929159], [0.998606, -0.013659, 0.050977, 0.101954],
           [0, 0.965926, 0.258819, 0.517638]],
          [[-0.857092, 0.133334, -0.497610, -0.995220], [-0.515164, -0.221832, 0.827887, 1.655774],
           [0, 0.965926, 0.258819, 0.517638]],
          [[2253.26978, -15.65871, 58.43892, 116.87787], [60.50056, 583.18909, -2176.49121,
            -4352.98242], [0, 7012.62207, 1879.02637, 3758.05249]]),
}  # fmt: skip
# of PyTorch3D's look_at_view_transform at distance 2, in HyperScore's order: eye, up, right
FACES = [
    ([0, 0, 2], [0, 1, 0], [1, 0, 0]), ([2, 0, 0], [0, 1, 0], [0, 0, -1]),
    ([0, 0, -2], [0, 1, 0], [-1, 0, 0]), ([-2, 0, 0], [0, 1, 0], [0, 0, 1]),
    ([0, 2, 0], [0, 0, 1], [-1, 0, 0]), ([0, -2, 0], [0, 0, -1], [-1, 0, 0]),
]  # fmt: skip


def pose(cameras: Cameras, view: int) -> Tensor:
    return cameras.c2w[view, :3]


def weighted(cameras: Cameras) -> Tensor:
    number = torch.arange(1, len(cameras) + 1, dtype=torch.float64)[:, None, None]
    return (cameras.c2w.double() * number).sum(0)[:3]


def near(found: Tensor, wanted: object, atol: float = 2e-6) -> None:
    torch.testing.assert_close(found.double(), torch.tensor(wanted, dtype=torch.float64),
                               atol=atol, rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize(
    ("cameras", "wanted"),
    [(protocols.sphere_cameras(2, 1.0), T3BENCH), (protocols.sphere_cameras(0, 1.0), CAPTIONS)],
)
def test_the_cameras_of_t3bench_are_those_of_its_code(cameras: Cameras, wanted: object) -> None:
    first, last, total = wanted  # type: ignore[misc]
    near(pose(cameras, 0), first)
    near(pose(cameras, -1), last)
    near(weighted(cameras), total, atol=1e-2)


@pytest.mark.parametrize("n", RINGS)
def test_the_cameras_of_threestudio_are_those_of_its_code(n: int) -> None:
    cameras, (second, third, total) = protocols.ring_cameras(n), RINGS[n]
    near(pose(cameras, 1), second)
    near(pose(cameras, n // 3), third)
    near(weighted(cameras), total, atol=2e-2)
    torch.testing.assert_close(pose(cameras, 0), pose(cameras, -1), atol=1e-5, rtol=0)


def test_the_cameras_of_mate3d_are_those_of_its_code() -> None:
    for view, (eye, up, right) in enumerate(FACES):
        near(pose(protocols.face_cameras(), view).T[[3, 1, 0]], [eye, up, right])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_camera_is_a_rotation_that_looks_at_the_origin(name: str) -> None:
    for series in PROTOCOLS[name].series():
        turn = series.cameras.c2w[:, :3, :3]
        torch.testing.assert_close(turn @ turn.mT, torch.eye(3).expand_as(turn), atol=1e-5, rtol=0)
        assert bool((torch.linalg.det(turn) > 0.999).all())
        away = series.cameras.position - series.cameras.distance[:, None] * turn[..., 2]
        assert float(away.abs().max()) < 1e-5
        assert (series.cameras.height, series.cameras.width) == (512, 512)


def test_lenses_files_and_numbers_of_pictures() -> None:
    captions, *quality = PROTOCOLS["t3bench"].series()
    assert [round(math.degrees(float(one.cameras.fov_y[0])), 4) for one in quality] == [
        60, 45, 36, 30, 24]  # fmt: skip
    assert quality[4].file(161) == "quality/161_4.png"
    assert captions.file(3) == "caption/003.png"
    counts = {name: [len(one.cameras) for one in PROTOCOLS[name].series()] for name in PROTOCOLS}
    assert counts == {"t3bench": [12] + [162] * 5, "mate3d": [6], "gpteval3d": [120, 120],
                      "sdi43": [50]}  # fmt: skip
    with pytest.raises(InputError, match="no protocol 't3bensh'; did you mean 't3bench'"):
        find_protocol("t3bensh")


def mapped() -> Mesh:
    """A lopsided ball in two parts of its texture, which meet in seams on one side."""
    mesh = sphere(0.6, 8, 10)
    mesh = replace(mesh, vertices=mesh.vertices * torch.tensor([1.0, 2, 3]) + 5)
    uv = torch.rand(len(mesh.vertices), 2, dtype=torch.float64) / 2
    cut = len(mesh.faces) // 4
    uv_faces = torch.cat([mesh.faces[:cut], mesh.faces[cut:] + len(uv)])
    return replace(mesh, uv=torch.cat([uv, uv + 0.5]), uv_faces=uv_faces,
                   material=Material(torch.rand(8, 8, 3)))  # fmt: skip


def test_t3bench_places_what_trimesh_reads(tmp_path: Path) -> None:
    save(mapped(), tmp_path / "toy.obj")
    theirs = trimesh.load(tmp_path / "toy.obj")
    points = np.array(theirs.vertices)
    points -= points.mean(axis=0)
    points /= np.abs(points).max()
    placed = protocols.place_t3bench(mapped())
    ours = placed.vertices[:, [1, 2, 0]]  # the axes of OBJ
    for found in (ours.amin(0), ours.amax(0)):
        assert float(np.abs(points - found.numpy()).min(axis=0).max()) < 1e-5
    assert float(ours.abs().max()) == pytest.approx(1)
    assert float(placed.vertices.mean(0).abs().max()) > 0.02  # the seams count twice


def test_mate3d_places_vertices_in_the_unit_ball() -> None:
    placed = protocols.place_mate3d(mapped()).vertices
    assert float(placed.mean(0).abs().max()) < 1e-5
    assert float(placed.norm(dim=-1).max()) == pytest.approx(1)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_light_and_ground_of_a_red_box(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "SIZE", 32)
    box = replace(cube(), colors=torch.tensor([1.0, 0, 0]).expand(8, 3))
    wanted = {"albedo": [1.0, 0, 0], "mate3d": [0.8, 0, 0]}
    for series in PROTOCOLS[name].series()[:2]:
        (image,) = series.draw(PROTOCOLS[name].place(box), [1])
        near(image[0, 0], [series.ground] * 3)
        near(image[0, 0], [0.0 if name == "t3bench" or series.look == "normal" else 1.0] * 3)
        if series.look == "albedo":
            near(image[16, 16], wanted.get(name, wanted["albedo"]))
        else:
            assert float((2 * image[16, 16] - 1).norm()) == pytest.approx(1, abs=1e-3)


def test_faces_that_look_away_are_seen_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "SIZE", 32)
    mesh = sphere(0.8)
    inside = replace(mesh, faces=mesh.faces[:, [0, 2, 1]])
    cameras = protocols.ring_cameras(2)
    for culled, seen in ((False, True), (True, False)):
        (image,) = Series("{}", cameras, ground=0, culled=culled).draw(inside, [0])
        # with the near side left out, the far side of the ball shows: blue and red by its height
        (whole,) = Series("{}", cameras, ground=0).draw(mesh, [0])
        assert bool(torch.allclose(image, whole, atol=1e-3)) is seen
        assert float(image[16, 16].sum()) > 0.5
