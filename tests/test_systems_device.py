"""The systems that need no weights of their own, on a CUDA device in half precision."""

from __future__ import annotations

import pytest

from tests.systems import CASES
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.paint import paint

pytestmark = pytest.mark.gpu
BARE = ("prompt_to_prompt", "rpg", "self_guidance")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("toybox", device="cuda")


@pytest.mark.parametrize("name", BARE)
def test_a_system_paints_finite_pictures_in_half_precision(backbone: Backbone, name: str) -> None:
    ready = CASES[name].typical(backbone)
    pictures = paint(backbone, ready, steps=4)
    assert pictures.device.type == "cuda"
    assert bool(pictures.isfinite().all())
    assert float(pictures.std()) > 0.02
