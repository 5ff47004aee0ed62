"""Gaussian splats: where they lie, what they show, and that other programs read them."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import exporters
from exporters.splats import FIELDS, OPACITY, SH0, Splats, encode_ply, encode_spz, scatter
from exporters.transfer import Skin
from tests.shapes import cube, lopsided, sphere
from threed.core.mesh import Mesh


def ball() -> Mesh:
    """A ball of radius 0.6, red below and blue above."""
    return sphere(0.6, 40, 60)


def cloud(count: int = 2000) -> Splats:
    mesh = ball()
    return scatter(mesh, Skin(mesh).color, count)


def test_they_lie_evenly_on_the_surface() -> None:
    """So many on each side of a box as the side is large; their discs just cover it."""
    mesh = cube()
    found = scatter(mesh, lambda points, _: torch.zeros_like(points), 2200)
    low, high = mesh.bounds()
    sides = torch.stack([(found.places - low).abs(), (found.places - high).abs()]) < 1e-5
    counts = sides.sum(1)
    areas = torch.tensor([6.0, 3, 2])  # across x, y and z, of 22 in all
    torch.testing.assert_close(counts.float(), (100 * areas).expand(2, 3), atol=2, rtol=0)
    assert found.sigma == pytest.approx(0.7 * math.sqrt(22 / 2200))
    ball_ = cloud()
    assert float((ball_.places.norm(dim=1) - 0.6).abs().max()) < 0.002
    away = torch.cdist(ball().vertices, ball_.places).amin(1)
    assert float(away.max()) < 4 * ball_.sigma


def test_a_ply_by_the_book() -> None:
    """The properties of the first program for splats, in its order; y down, z ahead."""
    made = cloud()
    head, _, body = encode_ply(made).partition(b"end_header\n")
    names = [line.split()[-1] for line in head.decode().splitlines() if "property" in line]
    assert tuple(names) == FIELDS
    rows = dict(zip(FIELDS, np.frombuffer(body, "<f4").reshape(-1, len(FIELDS)).T))
    x, y, z = made.places.T.numpy()
    assert np.array_equal([rows["x"], rows["y"], rows["z"]], [y, -z, -x])
    color = np.stack([rows[f"f_dc_{k}"] for k in range(3)], 1) * SH0 + 0.5
    assert np.abs(color - made.colors.numpy()).max() < 1e-6
    assert 1 / (1 + np.exp(-rows["opacity"])) == pytest.approx(OPACITY)
    assert np.exp(rows["scale_0"]) == pytest.approx(made.sigma)
    # the third axis of each, turned, is its normal
    w, a, b, c = (rows[f"rot_{k}"] for k in range(4))
    third = np.stack([2 * (a * c + w * b), 2 * (b * c - w * a), 1 - 2 * (a * a + b * b)], 1)
    normal = np.stack([rows["nx"], rows["ny"], rows["nz"]], 1)
    assert np.abs(third - normal).max() < 1e-5


def test_an_spz_is_as_fine_as_its_bits() -> None:
    made = cloud()
    content = encode_spz(made)
    assert content == encode_spz(cloud())
    data = gzip.decompress(content)
    count = len(made.places)
    assert len(data) == 16 + 19 * count
    assert len(content) < 0.3 * len(encode_ply(made))
    bits = data[13]
    raw = np.frombuffer(data, np.uint8, 9 * count, 16).reshape(count, 3, 3).astype(np.int64)
    whole = raw @ [1, 256, 65536]
    place = np.where(whole >= 2**23, whole - 2**24, whole) / 2**bits
    assert np.abs(place - made.places.numpy()[:, [1, 2, 0]]).max() <= 0.5 / 2**bits
    assert 0.5 / 2**bits < 1e-7


def test_the_rest_of_an_spz_is_in_bytes() -> None:
    """As its first program reads version 2: opacity, colour, logarithms of scales, turns."""
    made = cloud()
    data, count = gzip.decompress(encode_spz(made)), len(made.places)
    assert data[:4] == b"NGSP"
    assert [*data[4:13], *data[14:16]] == [2, 0, 0, 0, *count.to_bytes(4, "little"), 0, 0, 0]
    parts = np.split(np.frombuffer(data, np.uint8)[16:], np.cumsum([9, 1, 3, 3]) * count)[1:]
    alpha, color, scale, turn = (part.reshape(count, -1).astype(np.float64) for part in parts)
    assert np.abs(alpha / 255 - OPACITY).max() < 1 / 255
    shown = (color / 255 - 0.5) / 0.15 * SH0 + 0.5
    assert np.abs(shown - made.colors.numpy()).max() < 0.004
    sigmas = np.exp(scale / 16 - 10)
    assert np.abs(sigmas / made.sigma - [1, 1, 0.1]).max() < 0.035
    x, y, z = (turn / 127.5 - 1).T
    w = np.sqrt(np.clip(1 - x * x - y * y - z * z, 0, 1))
    third = np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], 1)
    along = (third * made.normals.numpy()[:, [1, 2, 0]]).sum(1)
    assert along.min() > 0.96  # 8 bits say little of w where it is almost 0


@pytest.mark.parametrize("name", ["toy.spz", "toy.splat.ply"])
def test_a_mesh_is_exported_as_splats(tmp_path: Path, name: str) -> None:
    exporters.save(lopsided(), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    made = scatter(lopsided(), Skin(lopsided()).color)
    assert content == (encode_spz if name.endswith(".spz") else encode_ply)(made)


def test_an_ordinary_ply_stays_one(tmp_path: Path) -> None:
    exporters.save(cube(), tmp_path / "toy.ply")
    assert len(exporters.load(tmp_path / "toy.ply").faces) == 12
