"""Systems from the command line: pictures, the list, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests import tiny
from tests.conftest import Answer
from tests.test_cli import assert_refused
from threed.diffusion.images import save_image
from threed.systems.table import SYSTEMS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def edit(threed: Callable[..., Answer], model: Path, tmp_path: Path) -> Callable[..., Answer]:
    """threed image "a blue mug" with a small backbone, two steps, and further words."""
    common = ("image", "a blue mug", "--backbone", model, "--steps", 2, "--out", tmp_path / "o.png")
    return lambda *words: threed(*common, *words)


SOURCE = ("--system", "prompt_to_prompt", "--source", "a red mug")


def test_the_list_is_the_table(threed: Callable[..., Answer]) -> None:
    rows = json.loads(threed("list", "systems", "--json").out)
    assert [row["system"] for row in rows] == list(SYSTEMS)
    plain = threed("list", "systems").out.splitlines()
    assert len(plain) == len(SYSTEMS)
    assert all("arXiv:" in line for line in plain)


def test_an_edit_shows_its_source_first(edit: Callable[..., Answer], tmp_path: Path) -> None:
    words = (*SOURCE, "--weigh", "blue:2", "--hold", "mug:0.5,1", "--blend", "mug", "-n", 2,
             "self_replace=0.3")  # fmt: skip
    assert edit(*words) == Answer(0, f"{tmp_path / 'o.png'}\n", "")
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.size == (4 * 32, 32)


def test_things_are_moved(edit: Callable[..., Answer], tmp_path: Path) -> None:
    words = ("--system", "self_guidance", "--move", "mug:0.2,-0.1", "--resize", "mug:0.5",
             "--keep", "blue", "strength=2")  # fmt: skip
    assert edit(*words).status == 0
    with Image.open(tmp_path / "o.png") as picture:
        assert picture.size == (2 * 32, 32)


@pytest.mark.filterwarnings("default")  # so that the command can show it
def test_a_picture_of_another_size_is_fitted_and_said(
    edit: Callable[..., Answer], tmp_path: Path
) -> None:
    save_image(torch.rand(3, 20, 40), tmp_path / "wide.png")
    answer = edit("--system", "self_guidance", "--appearance", f"mug:{tmp_path / 'wide.png'}")
    assert answer.status == 0
    assert "wide.png is 40×20: its middle, 20×20, is resized to 32×32" in answer.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--source", "a red mug"), "--source is for a system: say which with --system"),
        (("cross_replace=1",), "cross_replace=1 is for a system"),
        (("--system", "p2p"), "there is no system 'p2p'"),
        ((*SOURCE, "--move", "mug:0.1,0"), "'prompt_to_prompt' takes no --move"),
        ((*SOURCE, "cros_replace=1"), "did you mean 'cross_replace'?"),
        ((*SOURCE, "--weigh", "blue"), "--weigh blue: a word, a colon and a value are needed"),
        ((*SOURCE, "--weigh", "blue:much"), "--weigh: a number must follow the colon, got 'much'"),
        ((*SOURCE, "--weigh", "green:2"), "no word 'green' in the prompt 'a blue mug'"),
        ((*SOURCE, "--hold", "mug:1,0.5"), "hold mug: two shares"),
        ((*SOURCE, "--image", "no/such.png"), "there is no picture no/such.png"),
        (("--system", "self_guidance"), "needs something to do"),
        (("--system", "self_guidance", "--move", "mug:0.1"), "2 numbers with commas between them"),
        (("--system", "self_guidance", "--move", "cup:0.1,0"), "no word 'cup' in the prompt"),
        (("--system", "prompt_to_prompt", "mode=swap", "--source", "a mug"), "equally many words"),
        (("--system", "prompt_to_prompt", "--views", "4"), "a system makes single pictures"),
        (("--size", "wide"), "size must be pixels a side, such as 512, or WIDTHxHEIGHT"),
        (("--size", "64x33"), "size must be a multiple of 32 pixels"),
    ],
)
def test_what_cannot_be_meant(
    edit: Callable[..., Answer], tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    answer = edit(*words)
    said = " ".join(answer.err.replace("│", " ").split())
    assert (answer.status, answer.out) == (2, "")
    assert message in said
    assert not (tmp_path / "o.png").exists()


def test_files_that_are_no_pictures(edit: Callable[..., Answer], tmp_path: Path) -> None:
    fake = tmp_path / "fake.png"
    fake.write_bytes(b"\x89PNG\r\n\x1a\n but not really")
    assert_refused(edit(*SOURCE, "--image", fake), "fake.png is no picture of a known kind")
