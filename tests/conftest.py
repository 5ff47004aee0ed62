"""What all tests share: no network, one marker for the GPU, reproducible torch."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import pytest
import torch
from torch import Tensor

if TYPE_CHECKING:
    from threed.diffusion.condition import Condition
    from threed.diffusion.models.stable_diffusion import StableDiffusion

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton


def pytest_configure() -> None:
    # a shell's "&" has it ignored, and then what tests interrupt would go on for ever
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model like Stable Diffusion 1.5, for the tests of one file."""
    from tests.tiny import tiny_folder

    return tiny_folder(tmp_path_factory.mktemp("tiny") / "sd15")


@pytest.fixture(scope="module")
def backbone(folder: Path) -> StableDiffusion:
    """The same, loaded."""
    from threed.diffusion.catalog import load_backbone
    from threed.diffusion.models.stable_diffusion import require_unet

    return require_unet(load_backbone(str(folder), device="cpu"), "the tests")


@pytest.fixture
def told(backbone: StableDiffusion) -> Condition:
    """A condition of four prompts."""
    return backbone.encode_text(("a red mug", "a hat", "", "two"))


@pytest.fixture
def x() -> Tensor:
    """Noise for it, higher than wide."""
    return torch.randn(4, 4, 8, 6)


@dataclass(frozen=True)
class Answer:
    """What a command left behind."""

    status: int
    out: str
    err: str


@pytest.fixture
def threed(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    """Run a command as from a shell."""
    from threed.apps.cli import main as cli

    def run(*words: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            cli.main([str(word) for word in words])
        said = capsys.readouterr()
        return Answer(int(exit_.value.code or 0), said.out, said.err)

    return run
