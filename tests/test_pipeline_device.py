"""Runs on a CUDA device: models in half precision, scenes and guides with the kernels there are."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from threed.diffusion.catalog import load_backbone
from threed.diffusion.images import make_images
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.runs.generate import generate, resume
from threed.runs.loop import sample_views
from threed.settings.presets import load_run

pytestmark = pytest.mark.gpu
QUICK = ("asset.faces=400", "asset.texture=64", "asset.resolution=48", "asset.preview_size=16",
         "asset.turntable_size=16", "asset.turntable_frames=2", "paint.copy_steps=20",
         "surface.grid=24", "preview_every=5", "checkpoint_every=5", "device=cuda")  # fmt: skip


@pytest.mark.parametrize("name", ["toybox", "toybox-multiview"])
def test_a_model_in_half_precision_draws_a_finite_picture(name: str) -> None:
    backbone = load_backbone(name, device="cuda")
    assert isinstance(backbone, StableDiffusion)
    assert backbone.unet.dtype == torch.float16
    if backbone.views > 1:
        picture = sample_views(backbone, "a red mug", load_run("toybox-mvdream"))
    else:
        picture = make_images(backbone, "a red mug", steps=6)
    assert picture.device.type == "cuda"
    assert bool(picture.isfinite().all())
    assert float(picture.std()) > 0.05
    # the same noise, drawn on the CPU: the same picture
    if backbone.views == 1:
        wide = load_backbone(name, device="cuda", dtype=torch.float32)
        exact = make_images(wide, "a red mug", steps=6)
        assert float((exact - picture).abs().mean()) < 0.05


@pytest.mark.parametrize(
    ("preset", "stages"),
    [("toybox-mvdream", 3), ("toybox-vsd", 1), ("toybox-magic3d", 4), ("toybox-dreamflow", 1)],
)
def test_a_short_run_makes_a_mesh(
    preset: str, stages: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a film needs a library of its own, and no device
    monkeypatch.setattr("exporters.video.save_turntable", lambda *args, **options: None)
    words = [*QUICK, *(f"stages.{number}.steps=10" for number in range(stages))]
    if preset == "toybox-dreamflow":
        words.append("noise_levels=5")
    run = load_run(preset, words)
    assert len(run.stages) == stages
    asset = generate("a red mug", run, out=tmp_path / "run")
    assert len(asset.mesh.faces) > 50
    found = steps(tmp_path / "run")
    assert len(found) == 10 * len(run.stages)
    for line in found:
        numbers = [v for v in line.values() if isinstance(v, float)]
        assert all(map(math.isfinite, numbers)), line


def test_a_run_goes_on_after_an_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("exporters.video.save_turntable", lambda *args, **options: None)

    def interrupt(progress: Any) -> None:
        if progress.message == "optimising" and progress.step >= 10:  # the checkpoint is of step 5
            raise KeyboardInterrupt

    run = load_run("toybox-vsd", [*QUICK, "steps=10"])
    with pytest.raises(KeyboardInterrupt):
        generate("a red mug", run, out=tmp_path / "run", progress=interrupt)
    asset = resume(tmp_path / "run")
    assert len(asset.mesh.faces) > 50
    assert [line["step"] for line in steps(tmp_path / "run")] == list(range(1, 11))


def steps(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's log that are steps."""
    lines = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "seconds" in line]
