"""Settings in general: what they accept, what they say about mistakes, and their JSON schema."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from threed.core.errors import InputError
from threed.core.schedule import Schedule, constant
from threed.settings.base import Settings, Within, override, plain, read, read_words, replace
from threed.settings.schema import Described, describe


class Knobs(Settings):
    """Settings that hold no others."""

    strength: float = Field(1.0, ge=0, lt=2, description="how much")
    rounds: int = Field(3, ge=1, description="how often")
    mode: Literal["refine", "off"] = Field("refine", description="how")
    word: str = Field("a", description="a word")
    quiet: bool = Field(False, description="say nothing")
    seed: int | None = Field(None, description="a seed, or null")
    note: str | None = Field(None, description="a note, or null")


class Whole(Settings):
    """Settings with others inside."""

    folder: Path = Field(description="where results go")
    knobs: Knobs = Field(Knobs(), description="knobs")
    many: tuple[Knobs, ...] = Field((), description="several of them")
    rate: Annotated[Schedule, Within(above=0, high=1)] = Field(constant(0.5), description="rate")
    free: Schedule = Field(constant(0), description="any number")
    weights: Mapping[str, Schedule] = Field({}, description="weights by name")
    pair: tuple[float, float] = Field((0.0, 1.0), description="from and to")
    even: int = Field(2, multiple_of=2, description="an even number")


@pytest.mark.parametrize(
    ("word", "name", "value"),
    [
        ("strength=1e-3", "strength", 1e-3),
        ("strength=1", "strength", 1.0),
        ("rounds=3.0", "rounds", 3),
        ("rounds=1e3", "rounds", 1000),
        ("mode=off", "mode", "off"),  # false to YAML
        ("word=007", "word", "007"),
        ("word=yes", "word", "yes"),
        ("word=it's: [red # and blue", "word", "it's: [red # and blue"),
        ('word="\\u00e9"', "word", "é"),
        ("word=", "word", ""),
        ("word=null", "word", "null"),
        ("word=a=b", "word", "a=b"),
        ("quiet=true", "quiet", True),
        (" quiet = true ", "quiet", True),
        ("seed=null", "seed", None),
        ("seed=5", "seed", 5),
        ("note=null", "note", None),
        ("note=5", "note", "5"),
    ],
)
def test_words_become_what_their_setting_takes(word: str, name: str, value: object) -> None:
    for knobs in (read_words(Knobs, [word]), override(Knobs(), [word])):
        assert knobs == replace(Knobs(), **{name: value})
        assert type(getattr(knobs, name)) is type(value)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("strength=much", "system 'x': strength must be a number at least 0 and below 2, got 'mu"),
        ("strength=2", "system 'x': strength must be at least 0 and below 2, got 2"),
        ("strength=inf", "strength must be a number at least 0 and below 2, got 'inf'"),
        ("strength=.nan", "strength must be a number at least 0 and below 2, got nan"),
        ("strength=true", "strength must be a number at least 0 and below 2, got True"),
        ("rounds=0", "system 'x': rounds must be at least 1, got 0"),
        ("rounds=2.5", "rounds must be a whole number at least 1, got 2.5"),
        ("rounds=e", "rounds must be a whole number at least 1, got 'e'"),
        ("mode=refin", "mode must be one of refine, off, got 'refin'; did you mean 'refine'?"),
        ("quiet=1", "quiet must be true or false, got 1"),
        ("quiet=maybe", "quiet must be true or false, got 'maybe'"),
        ("seed=x", "seed must be a whole number, or null, got 'x'"),
        ("strenght=1", "system 'x': strenght: no such setting; did you mean 'strength'? (write "
         "NAME=VALUE, of strength=1.0, rounds=3, mode=refine, word=a, quiet=False, seed=None, "
         "note=None)"),
        ("strength", "system 'x': strength: no value (write NAME=VALUE, of strength=1.0, "),
        ("rounds=[1", "rounds: not YAML"),
    ],
)  # fmt: skip
def test_words_that_are_wrong_say_what_is_right(word: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_words(Knobs, [word], "system 'x'")
    assert message in str(caught.value)


def test_settings_without_any_say_so() -> None:
    with pytest.raises(InputError, match=r"^x: no such setting \(there are none\)$"):
        read_words(Settings, ["x=1"])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "job: folder is missing: where results go"),
        ({"folder": 5}, "job: folder must be text, got 5"),
        ({"knobs": {"rounds": 0}}, "job: knobs.rounds must be at least 1, got 0"),
        ({"knobs": 5}, "job: knobs must be a mapping of settings, got 5"),
        ({"knobs": {"round": 1}}, "job: knobs.round: no such setting; did you mean 'rounds'? "
         "(there are: mode, note, quiet, rounds, seed, strength, word)"),
        ({"many": [{}, {"quiet": 0}]}, "job: many.1.quiet must be true or false, got 0"),
        ({"many": {}}, "job: many must be a list, each a mapping of settings, got {}"),
        ({"pair": [1]}, "job: pair must be a list of 2, each a number, got [1]"),
        ({"pair": [1, 2, 3]}, "job: pair must be a list of 2, each a number, got [1, 2, 3]"),
        ({"pair": [1, True]}, "job: pair must be a list of 2, each a number, got [1, True]"),
        ({"pair": [1, "x"]}, "job: pair.1 must be a number, got 'x'"),
        ({"even": 3}, "job: even must be a multiple of 2, got 3"),
        ({"rate": 0}, "job: rate must be above 0 and at most 1, got 0"),
        ({"rate": {0: 0.5, 9: 1.5}}, "job: rate must be above 0 and at most 1, got 1.5"),
        ({"rate": True}, "job: rate must be a number above 0 and at most 1, or such numbers by "
         "step as in {0: 10, 5000: 1000}, got True"),
        ({"free": {}}, "job: free must be a number, or such numbers by step as in"),
        ({"free": {-1: 2}}, "got {-1: 2}"),
        ({"free": {0.5: 2}}, "got {0.5: 2}"),
        ({"free": float("inf")}, "got inf"),
        ({"free": [1]}, "got [1]"),
        ({"weights": {"x": "y"}}, "job: weights.x must be a number, or such numbers by step"),
        ({"weights": 1}, "job: weights must be a mapping of names, each to a number, or such"),
        ({1: 2}, "job: 1: no such setting"),
        ([1], "job: settings must be a mapping of names to values, got [1]"),
        ({"folder": "a" * 99, "knobs": "b" * 99}, f"got '{'b' * 56}..."),
    ],
)  # fmt: skip
def test_data_that_are_wrong_say_where_and_what_is_right(data: Any, message: str) -> None:
    if isinstance(data, dict) and data and message.find("folder") < 0:
        data = {"folder": "a", **data}
    with pytest.raises(InputError) as caught:
        read(Whole, data, "job")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_read_is_written_again() -> None:
    data = {
        "folder": "some/where",
        "knobs": {**plain(Knobs()), "strength": 0.5},
        "many": [plain(Knobs(rounds=7))],
        "rate": {0: 0.5, 100: 0.25},
        "free": -3.0,
        "weights": {"a": 1.0, "b": {5: 2.0}},
        "pair": [0.0, 2.0],
        "even": 4,
    }
    whole = read(Whole, data)
    assert plain(whole) == data
    assert read(Whole, plain(whole)) == whole
    # JSON makes text of the steps, and a web page may send nothing else
    assert read(Whole, json.loads(whole.model_dump_json())) == whole
    assert pickle.loads(pickle.dumps(whole)) == whole


def test_settings_are_values() -> None:
    knobs = Knobs(rounds=4)
    assert replace(Knobs(), rounds=4) == knobs != Knobs()
    assert hash(replace(Knobs(), rounds=4)) == hash(knobs)
    with pytest.raises(ValidationError, match="frozen"):
        knobs.rounds = 5  # type: ignore[misc]
    with pytest.raises(InputError, match=r"^rounds must be at least 1, got 0$"):
        replace(knobs, rounds=0)
    with pytest.raises(TypeError, match="positional"):
        Knobs(4)  # type: ignore[misc]


def test_every_setting_is_described() -> None:
    found = {each.name: each for each in describe(Whole)}
    assert found["folder"] == Described("folder", None, "text", "where results go")
    assert found["knobs.rounds"].default == 3
    assert found["many.0.rounds"].default == 3
    assert found["knobs.mode"].allowed == "one of refine, off"
    assert found["knobs.seed"].allowed == "a whole number, or null"
    assert found["even"].allowed == "a whole number a multiple of 2"
    assert set(found) == {
        "folder", "rate", "free", "weights", "pair", "even",
        *(f"{owner}.{name}" for owner in ("knobs", "many.0") for name in Knobs.model_fields),
    }  # fmt: skip


def test_the_json_schema_of_a_schedule_holds_its_limits() -> None:
    number = {"type": "number", "maximum": 1, "exclusiveMinimum": 0}
    rate = Whole.model_json_schema()["properties"]["rate"]
    assert rate["default"] == 0.5
    assert rate["anyOf"] == [
        number,
        {
            "type": "object",
            "patternProperties": {r"^\d+$": number},
            "additionalProperties": False,
            "minProperties": 1,
        },
    ]
