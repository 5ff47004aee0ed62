"""Polygons as triangles: the area is that of the polygon, however it turns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from exporters import polygons
from exporters.polygons import triangulate
from threed.core.errors import InputError

Doubles = npt.NDArray[np.float64]


def star(count: int, seed: int) -> Doubles:
    """Corners [N, 2] at random distances around the origin, counter-clockwise."""
    rng = np.random.default_rng(seed)
    angle = (np.arange(count) + 0.9 * rng.random(count)) * 2 * np.pi / count
    return np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(0.1, 1, (count, 1))


def spiral(count: int) -> Doubles:
    angle = np.linspace(0, 6 * np.pi, count)[:, None]
    arm = np.concatenate([np.cos(angle), np.sin(angle)], 1)
    return np.concatenate([(angle + 3) * arm, ((angle + 2) * arm)[::-1]])


SHAPES = {
    "arrow": np.array([[0, 0], [4, 0], [4, 4], [2, 1], [0, 4]]),
    "stars": star(9, 0),
    "a large star": star(300, 1),
    "spiral": spiral(100),
    "comb": np.array([*([k // 2, 9 * (k % 2) + 1] for k in range(40, 0, -1)), [0, 0], [20, 0]]),
    "corners on edges": np.array([[0, 0], [1, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2], [0, 1]]),
    "a corner twice": np.array([[0, 0], [0, 0], [2, 0], [2, 2], [1, 0.5], [0, 2]]),
    "two holes, cut open": np.array([
        [0, 0], [9, 0], [9, 4], [0, 4], [0, 0], [1, 1], [1, 3], [3, 3], [3, 1], [1, 1],
        [5, 1], [5, 3], [7, 3], [7, 1], [5, 1], [1, 1],
    ]),
}  # fmt: skip


def enclosed(flat: Doubles) -> float:
    x, y = flat.T
    return abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2


def normals(points: Doubles, triangles: npt.NDArray[np.int64]) -> Doubles:
    a, b, c = points[triangles].swapaxes(0, 1)
    return np.cross(b - a, c - a) / 2


@pytest.mark.parametrize("name", SHAPES)
def test_triangles_cover_a_polygon_once(name: str) -> None:
    flat = SHAPES[name].astype(np.float64)
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    points = np.pad(flat, ((0, 0), (0, 1))) @ turn.T
    for corners in (np.arange(len(flat)), np.arange(len(flat))[::-1]):
        triangles, polygon = triangulate(points, corners, np.array([len(corners)]))
        areas = normals(points, corners[triangles])
        assert triangles.shape == (len(flat) - 2, 3)
        assert (polygon == 0).all()
        # all of them look one way, and together they are the polygon: no place is covered twice
        assert np.linalg.norm(areas, axis=1).sum() == pytest.approx(enclosed(flat))
        assert np.linalg.norm(areas.sum(0)) == pytest.approx(enclosed(flat))


def test_polygons_of_any_sizes_keep_their_order() -> None:
    shapes = [star(count, count) for count in (3, 4, 5, 3, 8, 4)]
    sizes = np.array([len(shape) for shape in shapes])
    points = np.pad(np.concatenate(shapes), ((0, 0), (0, 1)))
    triangles, polygon = triangulate(points, np.arange(len(points)), sizes)
    areas = np.linalg.norm(normals(points, triangles), axis=1)
    assert polygon.tolist() == np.repeat(np.arange(6), sizes - 2).tolist()
    assert np.bincount(polygon, areas) == pytest.approx([enclosed(shape) for shape in shapes])


def test_a_polygon_that_bulges_everywhere_is_a_fan() -> None:
    points = np.array([[0, 0, 0], [1, 0, 0], [2, 1, 0], [1, 2, 0], [0, 1, 0.0]])
    triangles, _ = triangulate(points, np.array([4, 3, 2, 1, 0]), np.array([5]))
    assert triangles.tolist() == [[0, 1, 2], [0, 2, 3], [0, 3, 4]]


def test_polygons_that_would_take_for_ever_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polygons, "WORK", 1000)
    points = np.pad(spiral(100), ((0, 0), (0, 1)))
    with pytest.raises(InputError, match="of up to 200 corners, are too intricate"):
        triangulate(points, np.arange(200), np.array([200]))
