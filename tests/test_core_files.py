"""Where something can be written is judged before the work, and names may be long."""

from __future__ import annotations

from pathlib import Path

import pytest

from threed.core.errors import InputError
from threed.core.files import check_out, read_text, write, write_together


def test_places_that_can_be_written_to_are_left_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "old.png").write_text("old")
    (tmp_path / "full").mkdir()
    check_out(tmp_path / "old.png", [".png"])
    check_out(tmp_path / "new" / "deep" / "er.PNG", [".png"])
    check_out(tmp_path / "new" / "folder", folder=True)
    check_out(tmp_path / "full", folder=True)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["full", "old.png"]


@pytest.mark.parametrize(("name", "folder", "said"), [
    ("a.txt", False, r"cannot write 'a\.txt': its name must end in one of \.png, \.jpg$"),
    ("full.png", False, r"full\.png: is a directory; choose another name$"),
    ("text.png/x.png", False, r"x\.png: not a directory; choose another place$"),
    ("text.png/x/y.png", False, r"y\.png: not a directory; choose another place$"),
    (f"{'x' * 252}.png", False, r"file name too long; choose a shorter name$"),
    (f"{'ж' * 130}.png", False, r"file name too long; choose a shorter name$"),
    (f"new/{'x' * 256}/a.png", False, r"file name too long; choose a shorter name$"),
    ("a\0b.png", False, r"'.*a\\x00b\.png': a name is needed that is text$"),
    ("a\udcffb.png", False, r"'.*a\\udcffb\.png': a name is needed that is text$"),
    ("text.png", True, r"text\.png: file exists; choose another name$"),
    ("text.png/x", True, r"x: not a directory; choose another place$"),
])  # fmt: skip
def test_places_that_cannot(name: str, folder: bool, said: str, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("a text")
    (tmp_path / "full.png").mkdir()
    with pytest.raises(InputError, match=said):
        check_out(tmp_path / name, () if folder else (".png", ".jpg"), folder=folder)


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs a Unix /dev")
def test_devices_are_no_files() -> None:
    with pytest.raises(InputError, match="cannot write /dev/null: file exists; choose another"):
        check_out(Path("/dev/null"))


def test_the_longest_name_can_be_written(tmp_path: Path) -> None:
    names = [f"{letter * 251}.txt" for letter in "ab"]
    check_out(tmp_path / names[0])
    write(tmp_path / names[0], b"one")
    write_together({tmp_path / name: name.encode() for name in names})
    assert {path.name: path.read_bytes().decode() for path in tmp_path.iterdir()} == (
        dict(zip(names, names)))  # fmt: skip


def test_texts_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xff\xfe\x00")
    for name, said in (("text", "text is damaged, or no text in U"), ("none", "there is no file"),
                       (".", "is a directory"), ("x" * 300, "file name too long")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            read_text(tmp_path / name)
