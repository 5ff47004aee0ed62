"""The JSON schema of a run is complete, and says what is accepted."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from threed.core.errors import InputError
from threed.settings.base import plain, read, replace
from threed.settings.presets import load_run, presets
from threed.settings.run import Run, SystemSettings
from threed.settings.schema import describe, follow
from threed.settings.stage import Stage

BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
SCHEMA = Run.model_json_schema()


def settings(schema: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The dotted name and schema of every property, those that hold others too."""
    for name, part in schema["properties"].items():
        here = (*path, name)
        yield ".".join(here), part
        whole = follow(SCHEMA, part)
        item = follow(SCHEMA, whole.get("items", {}))
        if "properties" in whole:
            yield from settings(whole, here)
        elif "properties" in item:
            yield from settings(item, (*here, "0"))


ALL = dict(settings(SCHEMA))
LEAVES = {name: part for name, part in ALL.items() if name in {d.name for d in describe(Run)}}


def nested(name: str, value: Any) -> dict[str, Any]:
    """The data that say one setting."""
    first, _, rest = name.partition(".")
    if first == "stages" and rest:
        return {first: [nested(rest.removeprefix("0."), value)]}
    return {first: nested(rest, value) if rest else value}


def test_the_schema_is_plain_json_and_lists_every_setting() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert len(LEAVES) > 70
    assert all(schema["additionalProperties"] is False
               for schema in (SCHEMA, *SCHEMA["$defs"].values()))  # fmt: skip
    assert not SCHEMA.get("required")


@pytest.mark.parametrize("name", ALL)
def test_every_setting_has_a_meaning_and_a_default_that_it_takes(name: str) -> None:
    part = ALL[name]
    assert part["description"].strip() == part["description"] != ""
    assert read(Run, nested(name, part["default"])) == Run()


@pytest.mark.parametrize("name", [name for name, part in LEAVES.items() if BOUNDS & set(part)])
def test_limits_of_the_schema_are_those_that_are_checked(name: str) -> None:
    part = LEAVES[name]
    steps = {"minimum": -1, "maximum": 1, "exclusiveMinimum": 0, "exclusiveMaximum": 0}
    outside = [part[key] + step for key, step in steps.items() if key in part]
    if "multipleOf" in part:
        outside.append(part["minimum"] + 1)
    for value in outside:
        with pytest.raises(InputError, match=rf"^{name} must be .*, got {value}$"):
            read(Run, nested(name, value))


@pytest.mark.parametrize("name", [name for name, part in LEAVES.items() if "enum" in part])
def test_choices_of_the_schema_are_those_that_are_checked(name: str) -> None:
    *owners, last = name.split(".")
    owner: Any = Run()
    for step in owners:
        owner = owner[int(step)] if isinstance(owner, tuple) else getattr(owner, step)
    allowed = get_args(type(owner).model_fields[last].annotation)
    assert tuple(LEAVES[name]["enum"]) == allowed
    with pytest.raises(InputError, match=f"^{name} must be one of .*mean '{allowed[0]}'"):
        read(Run, nested(name, allowed[0] + "x"))


def test_every_number_has_limits() -> None:
    numbers = {name for name, part in LEAVES.items() if part.get("type") in ("integer", "number")}
    assert {name for name in numbers if not BOUNDS & set(LEAVES[name])} == {"field.blob_bias"}


def test_digests_of_runs_stay_what_they_were() -> None:
    """Else no run of before could be resumed."""
    told = replace(
        Run(stages=(Stage(losses={"opaque": load_run("dreamflow").stages[0].lr}),)),
        system=SystemSettings(name="rpg", inputs={"split": ("1,1",)}, knobs=("base_ratio=0.3",)),
    )
    found = {name: load_run(f"toybox-{name}").digest()
             for name in ("mvdream", "dreamflow", "edit", "texture", "vsd", "sds")}  # fmt: skip
    assert found == {
        "mvdream": "c295851abccc", "dreamflow": "9028fe9d31a9", "edit": "04001814c313",
        "texture": "23e527cd8cb0", "vsd": "ef39a0bd3174", "sds": "ae98a6412344",
    }  # fmt: skip
    changed = load_run("toybox-mvdream", ["field.shading=0.5"])
    assert changed.digest() != found["mvdream"]
    assert read(Run, json.loads(json.dumps(plain(told)))).digest() == told.digest()


def test_reading_presets_imports_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "exporters", "renderers", "trimesh", "diffusers", "rich", "typer")
    code = (
        "import sys; from threed.settings.presets import load_run, presets\n"
        "print(*(load_run(name).digest() for name in presets()))\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    digests = " ".join(load_run(name).digest() for name in presets())
    assert (result.stdout.splitlines(), result.stderr) == ([digests, "[]"], "")
