"""docs/systems.md is what its script makes of the table."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from types import ModuleType

import pytest

from threed.core.pictures import FORMATS
from threed.systems.table import SYSTEMS

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("page", ROOT / "benchmarks" / "systems_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_not_stale(script: ModuleType) -> None:
    assert script.PAGE.read_text(encoding="utf-8") == script.page()


def test_every_system_has_a_command_that_names_it(script: ModuleType) -> None:
    assert list(script.EXAMPLES) == list(SYSTEMS)
    for name, line in script.EXAMPLES.items():
        words = shlex.split(line)
        assert words[:2] == ["threed", "image"]
        assert words[words.index("--system") + 1] == name
        given = {word.removeprefix("--") for word in words if word.startswith("--")}
        assert {item.name for item in SYSTEMS[name].inputs if item.required} <= given


def test_pictures_of_the_page_are_there(script: ModuleType) -> None:
    page = script.page()
    for part in page.split("](")[1:]:
        target = part.partition(")")[0]
        if target.endswith(FORMATS):
            assert (ROOT / "docs" / target).is_file()
    assert "pictures/systems/prompt_to_prompt.png" in page
