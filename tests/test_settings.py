"""Runs as data: presets, name=value, and what is said about mistakes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from threed.core.errors import InputError
from threed.core.schedule import Schedule
from threed.settings.base import replace
from threed.settings.presets import load_run, parse_run, preset_for, presets
from threed.settings.run import Run
from threed.settings.schema import describe
from threed.settings.stage import CameraSettings, Stage


@pytest.mark.parametrize("name", presets())
def test_presets_load_and_come_back_from_their_own_yaml(name: str) -> None:
    run = load_run(name)
    again = parse_run(run.to_yaml(), "config.yaml")
    assert again == run
    assert again.digest() == run.digest()
    assert presets()[name], "the first line of a preset says what it is"


def test_an_empty_preset_is_the_defaults() -> None:
    assert parse_run("", "x") == Run()


def test_presets_hold_only_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 3\nstages:\n  - steps: 7\n    losses: {sparsity: {0: 1, 10: 3}}\n")
    run = load_run(path)
    expected = Stage(steps=7, losses={"sparsity": Schedule(((0, 1.0), (10, 3.0)))})
    assert run == replace(Run(), seed=3, stages=(expected,))


@pytest.mark.parametrize(
    ("word", "path", "value"),
    [
        ("steps=7", "stages.0.steps", 7),
        ("stages.0.steps=7", "stages.0.steps", 7),
        ("seed=12", "seed", 12),
        ("lr=1e-3", "stages.0.lr", Schedule(((0, 1e-3),))),
        ("t_max={0: 0.9, 50: 0.7}", "stages.0.t_max", Schedule(((0, 0.9), (50, 0.7)))),
        ("cameras.zoom=[1, 2]", "stages.0.cameras.zoom", (1.0, 2.0)),
        ("zoom=[1, 2]", "stages.0.cameras.zoom", (1.0, 2.0)),
        ("field.levels=4", "field.levels", 4),
        ("occupancy=16", "field.occupancy", 16),
        ("losses.opaque=0.5", "stages.0.losses.opaque", Schedule(((0, 0.5),))),
        ("stages.0.losses.sparsity=0.5", "stages.0.losses.sparsity", Schedule(((0, 0.5),))),
        ("grad_clip=null", "stages.0.grad_clip", None),
        ("view_words=false", "stages.0.view_words", False),
        ("negative=007", "negative", "007"),
        ("negative=blurry, ugly", "negative", "blurry, ugly"),
        ("negative=[ugly]", "negative", "[ugly]"),
        ("backbone=/some/folder", "backbone", "/some/folder"),
        ("asset.faces=500", "asset.faces", 500),
    ],
)
def test_words_change_one_setting(word: str, path: str, value: object) -> None:
    run = load_run(overrides=[word])
    found: object = run
    for name in path.split("."):
        if isinstance(found, tuple):
            found = found[int(name)]
        elif isinstance(found, dict):
            found = found[name]
        else:
            found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)
    assert run.digest() != load_run().digest() or word == "grad_clip=null"


def test_later_words_win() -> None:
    assert load_run(overrides=["steps=7", "steps=9"]).stages[0].steps == 9


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("stpes=7", r"stpes: no such setting; did you mean 'steps'\?"),
        ("guidence_scale=7", "did you mean 'guidance_scale'"),
        ("stages.0.step=7", "did you mean 'stages.0.steps'"),
        ("stages.3.steps=7", "no such setting"),
        ("steps", "'steps' is not a setting: write name=value"),
        ("=7", "write name=value"),
        ("steps=many", r"stages.0.steps must be a whole number in 1..1,000,000, got 'many'$"),
        ("steps=1.5", "stages.0.steps must be a whole number in 1..1,000,000, got 1.5$"),
        ("steps=0", "stages.0.steps must be in 1..1,000,000, got 0$"),
        ("steps=true", "stages.0.steps must be a whole number in .*, got True$"),
        ("steps=", "stages.0.steps must be a whole number in .*, got None$"),
        ("seed=-1", "seed must be in 0..*got -1"),
        ("lr=0", "lr must be above 0 and at most 1, got 0"),
        ("lr={0: 0.1, 10: 2}", "lr must be above 0 and at most 1, got 2"),
        (
            "lr={-1: 0.1}",
            "lr must be a number .* at most 1, or such numbers by step .*, got {-1: 0.1}",
        ),
        ("lr={}", "lr must be a number .*, got {}"),
        ("lr=.nan", "lr must be a number .*, got nan"),
        (
            "guidance=mvdraem",
            "guidance must be one of sds, mvdream.*got 'mvdraem'; did you mean 'mvdream'",
        ),
        ("t_min=0.99", "t_min must not exceed t_max"),
        ("zoom=[2, 1]", "zoom must go from low to high, got 2 to 1"),
        ("zoom=1", "zoom must be a list of 2, each a number in 0.5..4, got 1$"),
        ("zoom=[1, 2, 3]", "zoom must be a list of 2, .*, got .1, 2, 3"),
        ("batch=2.5", r"batch must be a whole number in 1..256, or such numbers by .*, got 2.5"),
        ("batch={0: 300}", "batch must be in 1..256, got 300"),
        ("device=tpu", "device must be auto, cpu, cuda or cuda:N, got 'tpu'"),
        ("field.levels=0", "field.levels must be at least 1, got 0"),
        ("view_words=maybe", "view_words must be true or false, got 'maybe'"),
        (
            "losses.opaque=much",
            "losses.opaque must be a number, or such numbers by step .*, got 'much'",
        ),
        ("stages=[]", "stages"),
        ("seed=[1", "seed: not YAML"),
    ],
)
def test_words_that_are_wrong_say_how(word: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_run(overrides=[word])


def test_a_name_that_means_two_settings_is_asked_about() -> None:
    message = r"which one\? Write stages.0.resolution or .*asset.resolution"
    with pytest.raises(InputError, match=message):
        load_run(overrides=["resolution=32"])


def test_a_name_that_all_stages_have_is_of_each_of_them(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text("stages: [{steps: 5}, {steps: 6}]\n")
    assert [s.steps for s in load_run(path, ["steps=7"]).stages] == [7, 7]
    assert [s.steps for s in load_run(path, ["stages.1.steps=7"]).stages] == [5, 7]
    edited = load_run(path, ["losses.opaque=3"]).stages
    assert [s.losses["opaque"](0) for s in edited] == [3, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead: 1", "x.yaml: sead: no such setting; did you mean 'seed'"),
        ("stages: [{stepz: 1}]", "stages.0.stepz: no such setting; did you mean 'steps'"),
        ("stages: [5]", "x.yaml: stages.0 must be a mapping of settings, got 5"),
        ("stages: 5", "stages must be a list of at least 1, each a mapping of settings, got 5"),
        ("- 1", r"x.yaml: settings must be a mapping of names to values, got \[1\]"),
        ("seed: 1\nseed: 2", "'seed' is said twice"),
        ("seed: [", "not YAML"),
        ("a: &a 1\nb: *a", "anchors and aliases"),
        ("seed: !!python/object/apply:os.system ['touch /tmp/threed-was-here']", "not YAML"),
        ("[" * 30 + "]" * 30, "nested deeper than 20"),
        ("#" * 300_000, "300000 characters; at most"),
        ("? [1, 2]\n: 3", "cannot be a key|not YAML"),
        ("negative: [a]", r"negative must be text, got \['a'\]"),
        ("seed: 2020-02-03", r"seed must be a whole number in .*, got datetime.date\(2020, 2, 3\)"),
        ("seed: 2020-02-31", "not YAML"),
    ],
)
def test_yaml_that_is_wrong_or_unsafe_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_run(text, "x.yaml")
    assert not Path("/tmp/threed-was-here").exists()


def test_unknown_presets_name_the_nearest() -> None:
    with pytest.raises(InputError, match=r"no preset 'toybox-mvdraem'.*did you mean 'toybox-mv"):
        load_run("toybox-mvdraem")


def test_presets_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "binary.yaml"
    path.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(InputError, match=r"binary.yaml is damaged, or no text in UTF-8"):
        load_run(path)


def test_every_setting_has_a_meaning_and_a_default_that_it_takes() -> None:
    items = list(describe(Run))
    assert [item.name for item in items if not item.meaning] == []
    names = {item.name for item in items}
    assert {"seed", "stages.0.steps", "stages.0.cameras.zoom", "field.levels"} <= names
    steps = next(item for item in items if item.name == "stages.0.steps")
    assert (steps.default, steps.allowed) == (400, "a whole number in 1..1,000,000")
    assert steps.meaning == "optimisation steps"


def test_python_callers_are_checked_too() -> None:
    with pytest.raises(InputError, match=r"batch must be in 1..256, got 0"):
        Stage(batch=0)
    with pytest.raises(InputError, match=r"fov_y_deg.1 must be in 5..120, got 200$"):
        CameraSettings(fov_y_deg=(40.0, 200.0))
    with pytest.raises(InputError, match=r"guidance_scale must be .* in 0..1,000, .*, got nan"):
        Stage(guidance_scale=math.nan)
    with pytest.raises(InputError, match=r"stages must be a list of at least 1, .*, got \[\]"):
        Run(stages=())


def test_presets_are_chosen_by_backbone(tmp_path: Path) -> None:
    assert preset_for("toybox") == "toybox-sds"
    assert preset_for("toybox-multiview") == "toybox-mvdream"
    assert preset_for("stable-diffusion-v1-5/stable-diffusion-v1-5") == "dreamfusion"
    assert preset_for("someone/MVDream-sd21") == "mvdream"
    unet = tmp_path / "unet"
    unet.mkdir()
    (unet / "config.json").write_text('{"sample_size": 64}')
    assert preset_for(str(tmp_path)) == "dreamfusion"
    (unet / "config.json").write_text('{"sample_size": 16, "class_embed_type": "projection"}')
    assert preset_for(str(tmp_path)) == preset_for(str(unet)) == "toybox-mvdream"
    (unet / "config.json").write_text("[]")
    with pytest.raises(InputError, match="is not the configuration of a UNet"):
        preset_for(str(tmp_path))


def test_a_draft_is_of_toybox_in_four_views() -> None:
    draft, whole = load_run(preset_for("toybox-multiview", "draft")), load_run()
    assert [s.guidance for s in draft.stages] == [s.guidance for s in whole.stages]
    assert 2 * sum(s.steps for s in draft.stages) < sum(s.steps for s in whole.stages)
    for name in ("toybox", "someone/MVDream-sd21"):
        with pytest.raises(InputError, match=f"no draft by backbone .{name}., .* steps=200"):
            preset_for(name, "draft")


def test_settings_that_fit_each_other_need_not_fit_the_preset() -> None:
    (stage,) = load_run("toybox-sds", ["t_min=0.9", "t_max=0.95"]).stages
    assert (stage.t_min(0), stage.t_max(0)) == (0.9, 0.95)
    with pytest.raises(InputError, match=r"t_min must not exceed t_max, got 0\.9 and 0\.4"):
        load_run("toybox-sds", ["t_min=0.9", "steps=20"])
    with pytest.raises(InputError, match="stepz"):
        load_run("toybox-sds", ["t_min=0.9", "stepz=20"])
