"""The measure of clean surfaces: on a ball, on real toys, on colours that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.surfaces import aside, bend_deg, real_toy, spread
from exporters import topology
from tests.shapes import sphere
from threed.toybox.world.toys import COLORS, random_toy


def test_faces_of_a_ball_bend_as_far_as_it_has_columns() -> None:
    ball = sphere(1.0, 60, 90)
    # neighbours across a column's border by 4 degrees at the equator, less above; rows by 3; and
    # the halves of a quad by nothing
    assert 1 < bend_deg(ball) < 4
    assert bend_deg(sphere(1.0, 120, 180)) == pytest.approx(bend_deg(ball) / 2, rel=0.05)


def test_a_real_toy_is_closed_smooth_and_of_its_colour() -> None:
    mesh, colors = real_toy(random_toy(np.random.default_rng(0), "apple", "red", "plain"), 4000)
    assert topology.is_watertight(topology.edges(mesh.faces))
    assert 3000 < len(mesh.faces) <= 4000
    assert bend_deg(mesh) < 6
    assert 0 < spread(colors, "red") < 0.1


def test_colours_of_one_kind_spread_and_others_do_not_count() -> None:
    red = torch.tensor(COLORS["red"])
    other = torch.tensor(COLORS["blue"]).expand(50, 3)
    assert spread(torch.cat([red.expand(50, 3), other]), "red") < 1e-6
    two = torch.cat([(red + 0.03).expand(50, 3), (red - 0.03).expand(50, 3)])
    assert spread(torch.cat([two, other]), "red") == pytest.approx(0.03, rel=1e-3)
    assert math.isnan(spread(other, "red"))


def test_the_nearest_part_of_the_colours_says_how_far_they_are() -> None:
    red, blue = torch.tensor(COLORS["red"]), torch.tensor(COLORS["blue"])
    seen = torch.cat([(red - 0.1).expand(60, 3), blue.expand(40, 3)])
    assert aside(seen, "red") == pytest.approx(0.1 * math.sqrt(3), rel=1e-3)
    assert aside(seen, "blue") == pytest.approx(0.0, abs=1e-6)
