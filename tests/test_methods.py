"""The comparison of methods: what each is asked, and what is read of a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.methods import (
    HEAD,
    METHODS,
    Asked,
    Way,
    colour_distance,
    diversity,
    line,
    way,
)
from guidance.levels import level
from threed.apps.cli.evaluate import Row
from threed.settings.presets import load_run
from threed.toybox.family.nets import WEIGHTS
from threed.toybox.judge.looks import real_looks
from threed.toybox.judge.measure import turntable
from threed.toybox.judge.net import load_judge
from threed.toybox.world.toys import random_toy

PROMPT = ("a red bear", "bear", "red", "plain")
ROW = Row("a red bear", True, True, False, 1, 100.0, 25.0, 0.96, 2.0, 1.0, 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_run_of_toybox(method: str) -> None:
    asked = Asked(method, 3, PROMPT)
    run = load_run(METHODS[method][0], asked.words(200))
    assert (run.seed, run.stages[0].steps) == (3, 200)
    assert asked.folder(Path("out")) == Path(f"out/{method}/seed3/a-red-bear")


def test_vsd_beside_dreamflow_differs_in_its_formula_alone() -> None:
    flow, falling, random = (load_run(METHODS[m][0], Asked(m, 0, PROMPT).words(400)).stages[0]
                             for m in ("dreamflow", "vsd", "vsd-random"))  # fmt: skip
    for stage in (falling, random):
        assert stage.guidance == "vsd"
        assert (stage.guidance_scale, stage.rescale) == (flow.guidance_scale, flow.rescale)
        assert stage.critic == flow.critic
        assert stage.resolution == flow.resolution
    ends = [level(falling.t_max(step)) for step in (0, 200, 400)]
    assert ends == [980, 590, 200]
    assert [level(falling.t_min(step)) for step in (0, 200, 400)] == ends
    assert (random.t_min(0), random.t_max(0)) == (flow.t_min(0), flow.t_max(0))


def test_a_run_is_as_soon_good_as_its_pictures(tmp_path: Path) -> None:
    bear = turntable(random_toy(np.random.default_rng(1), "bear", "red", "plain"), 4)
    (tmp_path / "progress").mkdir()
    for step, views in ((25, torch.rand_like(bear)), (50, bear), (75, bear)):
        strip = torch.cat(list(views), 2).permute(1, 2, 0).mul(255).byte().numpy()
        Image.fromarray(strip).save(tmp_path / f"progress/stage0-{step:06d}.png")
    lines = [json.dumps({"step": i, "seconds": 0.5}) for i in range(75)]
    (tmp_path / "log.jsonl").write_text("\n".join([*lines, '{"event": "finished"}']))
    found = way(tmp_path, load_judge(WEIGHTS / "judge"), "bear", "red")
    assert found.score > 0.8
    assert (found.steps, found.seconds, found.high) == (50, 25.0, 50)


def test_colours_and_seeds_are_compared() -> None:
    asked, real = Asked("vsd", 0, PROMPT), real_looks(*PROMPT[1:])
    assert colour_distance(ROW, asked) == pytest.approx(real.saturation)
    other_row = replace(ROW, saturation=1.0, contrast=0.5)
    assert colour_distance(other_row, asked) == pytest.approx(real.contrast / 2)
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert diversity([one]) is None
    assert diversity([one, one, other]) == pytest.approx(2 / 3)


def test_a_methods_line_says_how_many_were_good(tmp_path: Path) -> None:
    first, second = Way(0.9, 100, 20.0, 75), Way(0.5, 200, 40.0, None)
    made = {
        Asked("vsd", 0, PROMPT): (ROW, first),
        Asked("vsd", 1, PROMPT): (replace(ROW, fronts=2), second),
    }
    cells = line("vsd", made, None).strip("| ").split(" | ")
    assert len(cells) == len(HEAD) - 1, "no diversity of one seed"
    assert cells[:5] == ["vsd", "2/2", "2/2", "0/2", "1/2"]
    assert cells[-4:] == ["0.70", "150", "30", "75 (1/2)"]
