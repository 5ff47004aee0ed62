"""The folder of a run: what it refuses, what it keeps, and what it can do without."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from threed.core.errors import InputError
from threed.core.files import default_folder
from threed.runs.folder import Checkpoint, RunFolder, RunWarning
from threed.settings.run import Run


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", "a red mug", Run(seed=5))


def checkpoint(step: int) -> Checkpoint:
    return Checkpoint(
        stage=0,
        step=step,
        attempt=1,
        log_bytes=10 * step,
        scene={"table": torch.full((4, 2), float(step)), "occupied": torch.tensor([True, False])},
        optimizer={"state": {0: {"step": torch.tensor(step)}}, "param_groups": [{"lr": 0.1}]},
        guide={"critic": {"weight": torch.full((2,), float(step))}},
    )


def test_a_run_can_be_opened_again(folder: RunFolder) -> None:
    assert RunFolder.open(folder.path) == folder
    assert not folder.finished
    folder.log([{"step": 1}, {"event": "finished"}])
    assert folder.finished
    assert folder.log_path.read_text() == '{"step": 1}\n{"event": "finished"}\n'


def test_folders_in_use_are_refused_and_left_as_they_are(folder: RunFolder, tmp_path: Path) -> None:
    before = (folder.path / "config.yaml").read_bytes()
    with pytest.raises(InputError, match=f"already holds a run.*threed resume {folder.path}"):
        RunFolder.create(folder.path, "a blue hat", Run())
    assert (folder.path / "config.yaml").read_bytes() == before
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="other is not empty; choose another --out"):
        RunFolder.create(other, "a blue hat", Run())
    with pytest.raises(InputError, match=r"cannot write .*thesis.txt: file exists; choose another"):
        RunFolder.create(other / "thesis.txt", "a blue hat", Run())
    with pytest.raises(InputError, match=r"cannot write .*x: not a directory; choose another"):
        RunFolder.create(other / "thesis.txt" / "x", "a blue hat", Run())
    assert (other / "thesis.txt").read_text() == "mine"


def test_empty_folders_are_welcome(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert RunFolder.create(tmp_path / "new", "a red mug", Run()).prompt == "a red mug"


def test_read_only_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    if os.geteuid() == 0:  # the superuser may write everywhere: the system's refusal is played
        make = Path.mkdir

        def refuse(self: Path, *arguments: Any, **options: Any) -> None:
            if locked in self.parents:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))
            make(self, *arguments, **options)

        monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"cannot write .*run.*: permission denied; choose"):
        RunFolder.create(locked / "run", "a red mug", Run())
    assert list(locked.iterdir()) == []


def test_a_read_only_file_system_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=r"cannot write .*: read-only file system; choose"):
        RunFolder.create(tmp_path / "run", "a red mug", Run())


def test_a_full_disk_is_noticed_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**40, 2**40, 5 * 2**20))
    with pytest.raises(InputError, match="5 MiB are free on this disk, a run may need 200"):
        RunFolder.create(tmp_path / "run", "a red mug", Run())


def test_what_is_no_run_is_refused(tmp_path: Path, folder: RunFolder) -> None:
    with pytest.raises(InputError, match="holds no run"):
        RunFolder.open(tmp_path)
    (folder.path / "config.yaml").write_text("seed: [")
    with pytest.raises(InputError, match=r"config.yaml: not YAML"):
        RunFolder.open(folder.path)
    (folder.path / "prompt.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is damaged"):
        RunFolder.open(folder.path)


def test_checkpoints_come_back_whole(folder: RunFolder) -> None:
    assert folder.latest_checkpoint() is None
    for step in (3, 6):
        folder.save_checkpoint(checkpoint(step))
    found, expected = folder.latest_checkpoint(), checkpoint(6)
    assert found is not None
    tensors: dict[str, Any] = {"scene": {}, "optimizer": {}, "guide": {}}
    assert replace(found, **tensors) == replace(expected, **tensors)
    assert torch.equal(found.guide["critic"]["weight"], torch.full((2,), 6.0))
    for name, value in expected.scene.items():
        assert torch.equal(found.scene[name], value)
        assert found.scene[name].dtype == value.dtype
    assert found.optimizer["param_groups"] == [{"lr": 0.1}]
    assert sorted(path.name for path in folder.path.glob("checkpoint*")) == [
        "checkpoint.previous.pt",
        "checkpoint.pt",
    ]


@pytest.mark.parametrize("keep", [0, 10, 1000])
def test_a_truncated_checkpoint_falls_back_to_the_one_before(folder: RunFolder, keep: int) -> None:
    for step in (3, 6):
        folder.save_checkpoint(checkpoint(step))
    newest = folder.path / "checkpoint.pt"
    newest.write_bytes(newest.read_bytes()[:keep])
    with pytest.warns(RunWarning, match=r"checkpoint.pt is damaged.*going on from step 3"):
        found = folder.latest_checkpoint()
    assert found is not None
    assert found.step == 3
    (folder.path / "checkpoint.previous.pt").write_bytes(b"PK")
    with pytest.raises(InputError, match="No checkpoint is whole: start anew"):
        folder.latest_checkpoint()


def test_a_kill_between_the_renames_loses_nothing(folder: RunFolder) -> None:
    for step in (3, 6):
        folder.save_checkpoint(checkpoint(step))
    os.replace(folder.path / "checkpoint.pt", folder.path / "checkpoint.previous.pt")
    found = folder.latest_checkpoint()
    assert found is not None
    assert found.step == 6


def test_a_pickle_bomb_is_never_executed(folder: RunFolder, tmp_path: Path) -> None:
    mark = tmp_path / "mark"

    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {mark}",)

    path = folder.path / "checkpoint.pt"
    torch.save({"format": 1, "scene": Bomb()}, path)
    with pytest.raises(InputError, match=r"checkpoint.pt is damaged.*nothing in it was executed"):
        folder.latest_checkpoint()
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(InputError, match=r"checkpoint.pt is damaged.*nothing in it was executed"):
        folder.latest_checkpoint()
    assert not mark.exists()


def test_checkpoints_of_another_configuration_are_refused(folder: RunFolder) -> None:
    folder.save_checkpoint(checkpoint(3))
    other = replace(folder, run=Run(seed=6))
    with pytest.raises(InputError, match="belongs to another configuration"):
        other.latest_checkpoint()


def test_a_disk_that_fills_up_leaves_the_last_checkpoint(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.save_checkpoint(checkpoint(3))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    message = r"cannot write .*checkpoint\.pt: no space left on device; free some space"
    with pytest.raises(InputError, match=message):
        folder.save_checkpoint(checkpoint(6))
    found = folder.latest_checkpoint()
    assert found is not None
    assert found.step == 3
    assert list(folder.path.glob(".*.part.*")) == []


def test_a_folder_serves_one_process(folder: RunFolder) -> None:
    with folder.locked():
        message = f"{folder.path} is in use by another threed process"
        with pytest.raises(InputError, match=message), RunFolder.open(folder.path).locked():
            pass
    with folder.locked():  # and it can be taken again
        pass


def test_the_log_is_cut_where_a_checkpoint_was(folder: RunFolder) -> None:
    folder.log([{"step": 1}])
    length = folder.log_bytes()
    with folder.log_path.open("a") as file:
        file.write('{"step": 2}\n{"st')
    folder.cut_log(length)
    assert folder.log_path.read_text() == '{"step": 1}\n'
    folder.cut_log(10_000)
    assert folder.log_bytes() == length


def test_previews_stand_side_by_side(folder: RunFolder) -> None:
    views = torch.zeros(4, 8, 6, 3)
    views[1, 2, 3] = torch.tensor([1.0, 0.5, 2.0])
    path = folder.save_preview(0, 50, views)
    assert path == folder.path / "progress" / "stage0-000050.png"
    with Image.open(path) as picture:
        assert picture.size == (24, 8)
        assert picture.getpixel((6 + 3, 2)) == (255, 128, 255)
        assert picture.getpixel((3, 2)) == (0, 0, 0)


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("A red mug!", "a-red-mug"),
        ("../../etc/passwd", "etc-passwd"),
        ("café Zürich", "cafe-zurich"),
        ("赤いマグ", "asset"),
        ("word " * 50, "word-word-word-word-word-word-word-word"),
    ],
)
def test_folders_are_named_after_prompts(
    prompt: str, slug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("threed.core.files.time.strftime", lambda _: "now")
    assert default_folder(prompt) == Path("outputs") / f"{slug}-now"
    default_folder(prompt).mkdir(parents=True)
    assert default_folder(prompt) == Path("outputs") / f"{slug}-now-2"
