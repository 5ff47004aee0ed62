"""The nets of toybox that are shown pictures: what they draw is like them; words still count."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.alike import Bench, cut
from benchmarks.image_prompts import Shown, Two, named
from benchmarks.image_prompts_faces import CAP, LOOKS, PLAIN, Person, away, looks
from benchmarks.personalization import ASKS, obeyed


@pytest.mark.parametrize("number", [2, 3])
def test_a_shown_subject_is_kept_better_than_by_its_kind_and_words_still_count(
    number: int, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, "toybox")
    one = Shown.of(bench, number)

    def found(system: str | None) -> tuple[float, float]:
        """How like the subject pictures are, and the share that obeys the prompt."""
        knobs, inputs = ({"scale": 0.7}, {"image": (one.image,)}) if system else (None, {})
        drawn = [bench.draw(system, ask.text.format(one.subject.kind), inputs, n=2, knobs=knobs)
                 for ask in ASKS[:2]]  # fmt: skip
        said = [obeyed(bench.judge, ask, some) for ask, some in zip(ASKS, drawn)]
        return float(bench.same.likeness(torch.cat(drawn), one.held).mean()), sum(said) / len(said)

    (likeness, kept), (plain, _) = found("ip_adapter"), found(None)
    assert likeness > plain + 0.1
    assert kept >= 0.75


@pytest.mark.parametrize("number", [1, 5])
def test_a_person_is_shown_and_wears_what_is_said(number: int, tmp_path: Path) -> None:
    bench = Bench(tmp_path, "toybox")
    one, ask = Person.of(bench, number), LOOKS[0]
    assert ask.text == CAP
    plain = looks(bench, one, ask, None, ask.text, {})
    prompt = ask.text.replace("person", "person img")
    made = looks(bench, one, ask, "photo_maker", prompt, {"image": one.images})
    assert made["likeness"] > plain["likeness"] + 0.3
    assert made["obeyed"] >= 0.75


def test_a_face_is_where_its_points_are_asked_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "toybox")
    one = Person.of(bench, 2)
    where = tmp_path / "points.json"
    where.write_text(json.dumps(one.points.tolist()), encoding="utf-8")

    def made(knobs: Mapping[str, Any]) -> tuple[float, float]:
        """How like the person pictures are, and how far their points are from those asked for."""
        inputs = {"image": one.images[:1], "points": (where,)}
        pictures = bench.draw("instant_id", PLAIN, inputs, knobs=knobs)
        off = away(bench, pictures, one.points)
        assert off is not None
        return float(bench.who.likeness(pictures, one.held).mean()), off

    (both, here), (_, free), (faceless, _) = made({}), made({"strength": 0.0}), made({"scale": 0.0})
    assert here < min(0.05, free)
    assert both > faceless + 0.1


def test_two_subjects_are_each_in_their_own_box(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "toybox")
    two = Two.of(bench, 3)
    boxes = two.view.boxes.tolist()
    places = [f"{','.join(f'{side:.3f}' for side in box)}:{name}"
              for box, name in zip(boxes, two.names)]  # fmt: skip
    prompt = " and ".join(f"a {name}" for name in two.names)

    def alike(system: str, inputs: Mapping[str, Any]) -> float:
        """The mean likeness of each box to its own subject."""
        pictures = bench.draw(system, prompt, inputs)
        each = [bench.same.likeness(cut(pictures, box), views).mean()
                for box, views in zip(boxes, two.views)]  # fmt: skip
        return float(torch.stack(each).mean())

    ours = alike("ms_diffusion", {"image": two.images, "subject": places})
    assert ours > alike("ip_adapter", {"image": two.images}) + 0.05


def test_words_alone_are_read_as_by_the_text_encoder(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "toybox")
    asked = (("red", "mug"), ("blue", "boat"), ("green", "car"), ("yellow", "duck"))
    found = [named(bench, "kosmos_g", color, kind)["read"] for color, kind in asked]
    assert sum(found) / len(found) >= 0.75
