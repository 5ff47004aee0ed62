"""Scenes on disk, what the judge is told of them, and what its older weights still know."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from threed.diffusion.reading import Vocabulary
from threed.toybox.family.nets import LENGTH, WEIGHTS, new_tokenizer
from threed.toybox.family.shelf import (
    CAPTIONS,
    SceneShelf,
    Stock,
    fill_scenes,
    fill_shelf,
    no_scenes,
)
from threed.toybox.family.tasks import judge_task, toy_labels
from threed.toybox.family.train import start_from
from threed.toybox.judge import measure_scenes
from threed.toybox.judge.net import HEADS, IDENTITY, TOY_HEADS, Judge, Verdict, load_judge
from threed.toybox.judge.truth import UNKNOWN, indices, truths
from threed.toybox.world.captions import kinds, vocabulary
from threed.toybox.world.edits import random_edit
from threed.toybox.world.figures import Figure
from threed.toybox.world.garments import Garment
from threed.toybox.world.mix import SCENES, SHARES, random_scene
from threed.toybox.world.pairs import Pair
from threed.toybox.world.phrases import VIEW_WORDS
from threed.toybox.world.portraits import Portrait


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneShelf:
    return fill_scenes(tmp_path_factory.mktemp("scenes"), 12, seed=9)


def says(text: str, captions: Iterable[str]) -> bool:
    """Tell whether one of a scene's captions is in a text, but for its article."""
    return any(re.sub("^(an?|the) ", "", one) in text for one in captions)


def test_drawing_scenes_can_be_cut_and_continued(tmp_path: Path, scenes: SceneShelf) -> None:
    told: list[int] = []
    fill_scenes(tmp_path, 5, seed=9, progress=told.append)
    again = fill_scenes(tmp_path, 12, seed=9, processes=1, progress=told.append)
    assert told == [5, 12]
    assert np.array_equal(again.pixels, scenes.pixels)
    assert np.array_equal(again.labels, scenes.labels)
    assert np.array_equal(again.texts, scenes.texts)
    assert again.pixels.shape == (12, 1, 64, 64, 3)
    assert again.texts.shape == (12, CAPTIONS)
    assert len(fill_scenes(tmp_path, 3, seed=9)) == 12
    with pytest.raises(ValueError, match="of seed 9 and size 64, not of 10 and 64"):
        fill_scenes(tmp_path, 12, seed=10)


def test_a_shelf_gives_the_pictures_and_captions_of_its_scenes(scenes: SceneShelf) -> None:
    picked = np.array([3, 7])
    images = scenes.images(picked)
    assert images.shape == (2, 3, 64, 64)
    assert torch.equal((images * 255).round()[0].permute(1, 2, 0).byte(),
                       torch.from_numpy(scenes.pixels[3, 0].copy()))  # fmt: skip
    said = {tuple(scenes.captions(np.random.default_rng(seed), picked)) for seed in range(20)}
    assert len(said) > 1
    assert all(says(one, scenes.texts[3]) and says(two, scenes.texts[7]) for one, two in said)


def test_scenes_come_in_their_shares() -> None:
    names = [truths(random_scene(np.random.default_rng(seed)))["scene"] for seed in range(250)]
    assert sum(SHARES.values()) == pytest.approx(1)
    assert set(SHARES) == set(SCENES)
    pairs, persons = SHARES["pair"], SHARES["figure"] + SHARES["portrait"]
    assert np.mean([name.startswith("pair") for name in names]) == pytest.approx(pairs, abs=0.08)
    assert np.mean([name == "person" for name in names]) == pytest.approx(persons, abs=0.08)
    assert set(names) == set(HEADS["scene"])


def test_truths_are_names_of_heads_and_hide_what_cannot_be_seen() -> None:
    for seed in range(120):
        scene = random_scene(np.random.default_rng(seed))
        named = truths(scene)
        label = indices(named)
        assert label.shape == (len(HEADS),)
        assert (label != UNKNOWN).sum() == len(named)
        for head, index in zip(HEADS, label):
            assert index == UNKNOWN or HEADS[head][index] == named[head]
        one = scene.subject
        if isinstance(one, Pair):
            assert named["first_kind"] == one.first.kind
            assert named["second_color"] == one.second.color
            assert "kind" not in named
        elif isinstance(one, Figure):
            assert named["pose"] == one.pose.name
            assert named["upper"] == one.upper.kind
            assert ("lower_color" in named) is (one.lower is not None)
        elif isinstance(one, Portrait):
            assert named["expression"] == one.expression
            assert ("hair" in named) is (one.hat == "none")
            assert "pose" not in named
        elif isinstance(one, Garment):
            assert ("upper" in named) != ("lower" in named)


def test_all_captions_and_instructions_are_read_as_they_are_and_fit() -> None:
    shown, tokenizer = Vocabulary.of(WEIGHTS), new_tokenizer()
    assert shown == Vocabulary(frozenset(vocabulary()), tuple(kinds()))
    lengths = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        caption = random_scene(rng).caption(rng)
        assert shown.has_kind(caption), caption
        for text in (caption, random_edit(rng).instruction):
            assert not shown.unknown(text), text
            assert shown.read(text) == text
            assert shown.knows(text)
            lengths.append(len(tokenizer(text).input_ids))
    assert np.mean(np.array(lengths) > LENGTH) < 0.01


def test_a_judge_from_before_scenes_loads_and_goes_on(tmp_path: Path) -> None:
    torch.manual_seed(0)
    old = Judge(heads=tuple(TOY_HEADS)).eval()
    old.save_pretrained(tmp_path / "judge")
    again = load_judge(tmp_path / "judge")
    assert not again.knows_scenes
    images = torch.rand(3, 3, 64, 64)
    before = old.read(images)
    assert set(again.read(images).logits) == set(TOY_HEADS)
    new = Judge()
    assert new.knows_scenes
    start_from(new, "judge", tmp_path)
    after = new.eval().read(images)
    for head in TOY_HEADS:
        assert torch.allclose(after.logits[head], before.logits[head], atol=1e-5)
    assert set(after.logits) == set(HEADS)


def test_heads_over_scenes_see_where_things_are() -> None:
    judge = Judge().eval()
    image = torch.rand(1, 3, 64, 64)
    one, other = judge.read(image), judge.read(image.flip(-1))
    features = torch.rand(1, 256, 4, 4)
    judge.body = torch.nn.Identity()
    left, right = (judge(0.5 * (x + 1)) for x in (features, features.flip(-1)))
    assert torch.allclose(left["kind"], right["kind"], atol=1e-5)
    assert not torch.allclose(left["first_kind"], right["first_kind"], atol=1e-3)
    assert not torch.allclose(one.logits["scene"], other.logits["scene"], atol=1e-6)


def verdict(names: dict[str, str]) -> Verdict:
    """One picture of which the judge is sure."""
    logits = {}
    for head, known in HEADS.items():
        row = torch.full((1, len(known)), -20.0)
        row[0, known.index(names.get(head, known[0]))] = 0.0
        logits[head] = row
    return Verdict(logits)


def test_likeness_counts_the_traits_that_agree() -> None:
    one = verdict({"skin": "tan", "hair": "long", "glasses": "glasses"})
    other = verdict({"skin": "tan", "hair": "bun", "glasses": "glasses", "upper": "dress"})
    assert float(one.likeness(one)) == pytest.approx(1, abs=1e-3)
    assert float(one.likeness(other)) == pytest.approx(1 - 1 / len(IDENTITY), abs=1e-3)


def test_pairs_are_read_in_their_places() -> None:
    seen = verdict({"first_kind": "ball", "first_color": "red", "second_kind": "cube",
                    "second_color": "blue"})  # fmt: skip
    assert measure_scenes.pairs_of(seen) == [["red ball", "blue cube"]]
    assert measure_scenes.names_right(seen, 0, {"first_kind": "ball", "second_color": "blue"})
    assert not measure_scenes.names_right(seen, 0, {"first_kind": "ball", "second_color": "red"})


def test_person_prompts_say_what_is_measured() -> None:
    shirt, skirt = Garment("shirt", "orange", "plain"), Garment("skirt", "blue", "dotted")
    text = measure_scenes.person_prompt(["short red hair", "glasses"], shirt, skirt)
    assert text == "a person with short red hair and glasses in an orange shirt and a blue skirt"
    shorts = Garment("shorts", "red", "plain")
    assert measure_scenes.person_prompt([], shirt, shorts).endswith(
        "an orange shirt and red shorts"
    )


def test_a_perfect_judge_would_score_one(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge()

    def read(images: torch.Tensor) -> Verdict:
        rows = [truths(scene) for scene in measure_scenes.held_out(len(images))]
        each = [verdict(row).logits for row in rows]
        return Verdict({head: torch.cat([one[head] for one in each]) for head in HEADS})

    monkeypatch.setattr(judge, "read", read)
    scores = measure_scenes.judge_scene_scores(judge, 16)
    assert scores == dict.fromkeys(
        ("judge_scene", "judge_pair", "judge_garment", "judge_identity", "judge_pose"), 1.0
    )


@pytest.mark.parametrize(("swap", "right"), [
    ((), {"both": 1, "place": 1, "kinds": 1, "colors": 1}),
    (("first_color", "second_color"), {"both": 0, "place": 0, "kinds": 1, "colors": 1}),
    (("first_kind", "second_color"), {"both": 0, "place": 0, "kinds": 0, "colors": 0}),
])  # fmt: skip
def test_pairs_are_scored_as_wholes_and_by_halves(
    monkeypatch: pytest.MonkeyPatch, swap: tuple[str, ...], right: dict[str, float]
) -> None:
    def sampled(backbone: object, judge: object, prompt: str, *rest: object) -> Verdict:
        way = next(way for way in (" to the left of ", " on top of ", " and ") if way in prompt)
        said = [text.split()[1:] for text in prompt.split(way)]
        row = {"first_color": said[0][0], "first_kind": said[0][1], "second_color": said[1][0],
               "second_kind": said[1][1],
               "scene": "pair above" if "top" in way else "pair beside"}  # fmt: skip
        if set(swap) == {"first_color", "second_color"}:
            row["first_color"], row["second_color"] = row["second_color"], row["first_color"]
        elif swap:  # both toys are one
            row["second_color"], row["first_kind"] = row["first_color"], row["second_kind"]
        return verdict(row)

    monkeypatch.setattr(measure_scenes, "sampled", sampled)
    backbone: Any = None
    scores = measure_scenes.pair_scores(backbone, Judge())
    assert scores == {"image_pair": right["both"], "image_pair_place": right["place"],
                      "image_pair_kinds": right["kinds"],
                      "image_pair_colors": right["colors"]}  # fmt: skip


def test_toy_pictures_tell_the_judge_of_scenes_that_they_are_toys(tmp_path: Path) -> None:
    shelf = fill_shelf(tmp_path, 4, seed=3, clay_every=2)
    labels = dict(zip(HEADS, toy_labels(shelf, np.array([0, 5, 10])).T))  # a view of each set
    assert labels["kind"].tolist() == shelf.labels[[0, 1, 2], 0].tolist()
    assert labels["color"].tolist() == [UNKNOWN, shelf.labels[1, 1], UNKNOWN]
    assert (labels["scene"] == HEADS["scene"].index("toy")).all()
    assert (labels["first_kind"] == UNKNOWN).all()


def test_a_task_without_scenes_is_of_toys_alone(tmp_path: Path) -> None:
    shelf = fill_shelf(tmp_path, 4, seed=3)
    task = judge_task(shelf, no_scenes())
    assert isinstance(task.net, Judge)
    assert not task.net.knows_scenes
    assert task.batch is not None
    batch = task.batch(8, torch.Generator().manual_seed(0))
    assert batch["images"].shape == (8, 3, 64, 64)
    assert torch.isfinite(task.loss(task.net, batch, torch.Generator()))
    numbers = Stock(shelf, no_scenes(), 0.8).draw(np.random.default_rng(0), 64)
    assert len(numbers) == 64
    assert numbers.max() < len(shelf)


def test_a_stock_gives_toys_then_scenes_in_their_share(tmp_path: Path, scenes: SceneShelf) -> None:
    toys = fill_shelf(tmp_path, 4, seed=3)
    often = np.array([0, 0.5, 0, 0.5])
    stock = Stock(toys, scenes, 0.25, often)
    assert len(stock) == 4 * 4 + 12
    numbers = stock.draw(np.random.default_rng(0), 32)
    first, second = stock.split(numbers)
    assert (len(first), len(second)) == (24, 8)
    assert set(first // 4) == {1, 3}
    assert set(first % 4) == {0, 1, 2, 3}
    images = stock.pictures("image", numbers.tolist())
    assert torch.equal(images[:24], toys.images(first))
    assert torch.equal(images[24:], scenes.images(second))
    said = stock.captions(np.random.default_rng(0), numbers, 1.0)
    assert len(said) == 32
    seen = [way for view, ways in VIEW_WORDS.items() for way in (f"{view} view", *ways)]
    assert all(any(way in text for way in seen) for text in said[:24])
    assert all(says(text, scenes.texts[scene]) for text, scene in zip(said[24:], second))
