"""What all tests share: no network, one marker for the GPU, reproducible torch."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import pytest
import torch

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
