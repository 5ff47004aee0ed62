"""Files that are to hold weights or a checkpoint and do not."""

from __future__ import annotations

import io
import json
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from threed.core.errors import InputError
from threed.core.saved import read_saved
from threed.diffusion.models.convert import read_state
from threed.runs.folder import read_checkpoint
from threed.runs.given import GivenMesh


def saved(value: object, *, new: bool = True) -> bytes:
    """The bytes of torch.save, in its newer or older format."""
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


def mutated(whole: bytes, count: int, rng: np.random.Generator) -> list[bytes]:
    """Cut, changed and lengthened copies."""
    found = []
    for _ in range(count):
        copy = bytearray(whole[: int(rng.integers(len(whole))) or None])
        for place in rng.integers(len(copy), size=int(rng.integers(4))):
            copy[place] = rng.integers(256)
        found.append(bytes(copy) + whole[len(copy) :] * bool(rng.integers(2)))
    return found


def headed(header: object) -> bytes:
    """A safetensors file of a header alone."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


STATE = {"state_dict": {"a.weight": torch.ones(2, 3), "b": torch.zeros(1)}}
PICKLES = [bytes([0x80, 2, op, *rest, 46]) for op in range(256) for rest in ((), (1, 65))]
ODD = [{}, [], 3, None, {1: torch.ones(1)}, {"state_dict": 5}, {"state_dict": {"a": "b"}},
       {"state_dict": {2: torch.ones(1)}}, torch.ones(2), {"format": 1}]  # fmt: skip
HEADERS = [
    headed(value) for value in (
        [], 3, "text", None, b"{", b"\xff\xfe", b"[" * 3000, {"a": 3}, {"a": []}, {"a": {}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": []}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, "4"]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F99", "shape": [0], "data_offsets": [0, 0]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 0]}},
    )
]  # fmt: skip


def fuzzed(seed: int = 0) -> list[bytes]:
    """Tiny files of all sorts."""
    rng = np.random.default_rng(seed)
    noise = [rng.bytes(int(rng.integers(40))) for _ in range(150)]
    older = mutated(saved(STATE, new=False), 150, rng)
    pickled = mutated(pickle.dumps({"a": [1, "b", None, 2.0]}), 150, rng)
    return [*noise, *older, *pickled, *mutated(saved(STATE), 100, rng), *PICKLES,
            *(saved(value) for value in ODD), b"", b"a text\n" * 20, bytes(64)]  # fmt: skip


def read(path: Path) -> dict[str, torch.Tensor] | str:
    """What is read of a file, or why it is refused."""
    try:
        return read_state(path)
    except InputError as error:
        return str(error)


def test_fuzzed_files_are_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    damaged = f"{path} is damaged, or holds more than weights; nothing in it was executed"
    found = []
    for content in fuzzed():
        path.write_bytes(content)
        found.append(read(path))
    states = [state for state in found if isinstance(state, dict)]
    assert {state for state in found if isinstance(state, str)} == {damaged}
    assert 0 < len(states) < len(found) / 2
    assert all(isinstance(name, str) and isinstance(value, torch.Tensor)
               for state in states for name, value in state.items())  # fmt: skip


def test_fuzzed_files_are_no_checkpoints(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    for content in fuzzed(1)[::3]:
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"checkpoint.pt is (damaged|no checkpoint)"):
            read_checkpoint(path, "0" * 12)
        with pytest.raises(InputError, match=r"checkpoint.pt is damaged"):
            GivenMesh.from_file(path)


def test_fuzzed_safetensors_are_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    path, whole = tmp_path / "file.safetensors", save(STATE["state_dict"])
    for content in [*HEADERS, *mutated(whole, 200, np.random.default_rng(0)), b"", b"text" * 9]:
        path.write_bytes(content)
        found = read(path)
        if isinstance(found, str):
            assert found.startswith(f"{path} is ")
            assert "Error" not in found
    path.write_bytes(whole)
    assert torch.equal(read_state(path)["a.weight"], torch.ones(2, 3))


def test_missing_files_and_folders_are_said(tmp_path: Path) -> None:
    for path in (tmp_path / "none.pt", tmp_path / f"{'x' * 300}.pt", tmp_path):
        with pytest.raises(InputError, match=rf"^there is no file {path}$"):
            read_saved(path)
