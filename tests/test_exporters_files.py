"""Files that are bad, missing or have no room: what is said, and that nothing is lost."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

import exporters
from exporters import load
from tests.shapes import FORMATS, cube, lopsided
from threed.core import files
from threed.core.errors import InputError


def glb_file(path: Path) -> bytes:
    exporters.save(lopsided(), path)
    return path.read_bytes()


BAD = {
    "empty.glb": (b"", "is empty"),
    "no.glb": (b"<html>404 not found</html>", "is not a whole GLB file: it does not begin as one"),
    "no.stl": (b"hello, world", "is not a whole STL file: it has only 12 bytes"),
    "no.ply": (b"\x89PNG\r\n", "is not a whole PLY file: it does not begin as one"),
    "no.obj": (b"PK\x03\x04\0\0", "is not a whole OBJ file: it is not a text"),
    "points.obj": (b"v 0 0 0\nv 1 0 0\n", "is not a whole OBJ file: it holds no face"),
    "cut.ply": (b"ply\nformat ascii 1.0\nelement vertex 3\n", "its header does not end"),
    "short.stl": (b"\0" * 80 + b"\x05\0\0\0" + b"\0" * 50,
                  "5 triangles need 334 bytes, and it has 134"),
    "toy.fbx": (b"Kaydara", r"its name must end in one of \.glb, \.gltf, \.obj, \.ply, \.stl"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_not_what_they_say(tmp_path: Path, name: str) -> None:
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        load(tmp_path / name)
    assert name in str(caught.value)


def test_truncated_and_mangled_glb(tmp_path: Path) -> None:
    path = tmp_path / "toy.glb"
    content = glb_file(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=f"should have {len(content):,} bytes and has"):
        load(path)
    path.write_bytes(content[:4] + struct.pack("<I", 1) + content[8:])
    with pytest.raises(InputError, match="it is of version 1, not 2"):
        load(path)
    path.write_bytes(content[:20] + b"{" * 40 + content[60:])
    with pytest.raises(InputError, match="its description cannot be read"):
        load(path)
    # a hundred files, each with some bytes changed: an InputError or a mesh, never another error
    rng = np.random.default_rng(0)
    for _ in range(100):
        broken = bytearray(content)
        for place in rng.integers(20, len(content), 4):
            broken[place] = rng.integers(256)
        path.write_bytes(bytes(broken))
        try:
            assert len(load(path).faces)
        except InputError as error:
            assert "toy.glb" in str(error)  # noqa: PT017 - either outcome is right


def test_missing_too_large_and_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no such file"):
        load(tmp_path / "none.glb")
    secret = tmp_path / "secret.mtl"
    secret.write_text("newmtl surface\n")
    inner = tmp_path / "inner"
    inner.mkdir()
    exporters.save(lopsided(), inner / "toy.obj")
    text = (inner / "toy.obj").read_text()
    (inner / "toy.obj").write_text(text.replace("toy.mtl", "../secret.mtl"))
    with pytest.raises(InputError, match=r"asks for .* which lies outside its folder"):
        load(inner / "toy.obj")
    (inner / "toy.obj").write_text(text)
    monkeypatch.setattr("exporters.parse.MAX_FACES", 5)
    with pytest.raises(InputError, match="has 12 faces; at most 5 are read"):
        load(inner / "toy.obj")
    monkeypatch.setattr("exporters.parse.MAX_BYTES", 100)
    with pytest.raises(InputError, match="at most 0 MiB are read"):
        load(inner / "toy.obj")


def test_unknown_suffix_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'toy.dae': its name must end in one of .3mf, .fbx"):
        exporters.save(cube(), tmp_path / "toy.dae")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"toy{suffix}"
    exporters.save(cube(), path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"cannot write .*: no space left on device; free some"):
        exporters.save(lopsided(), path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot write .*toy.glb: .*; choose another place"):
        exporters.save(cube(), tmp_path / "file" / "toy.glb")
    folder = tmp_path / "toy.glb"
    folder.mkdir()
    with pytest.raises(InputError, match=r"cannot write .*toy.glb: is a directory"):
        exporters.save(cube(), folder)
    assert not list(tmp_path.glob(".*"))


def test_what_is_written_aside_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file.txt"
    with files.write_aside(path) as part:
        assert part.suffix == path.suffix
        part.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"

    def fails() -> None:
        with files.write_aside(path) as part:
            part.write_text("two")
            raise RuntimeError("halfway")

    with pytest.raises(RuntimeError, match="halfway"):
        fails()
    assert path.read_text() == "one"
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
