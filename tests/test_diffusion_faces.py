"""Faces: what finds them, and what is said of pictures and files in which there is none."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.systems import asked
from threed.core.errors import InputError
from threed.diffusion.faces import LARGEST, Face, InsightFace, face_in, read_embedding
from threed.systems.reference.faces import embeddings

POINTS = [[30, 30], [50, 30], [40, 40], [32, 50], [48, 50]]
BASE: Any = SimpleNamespace(folder=Path("none"))  # a backbone that brings no faces
WHOLE = {"bbox": [20, 15, 60, 62], "kps": POINTS, "embedding": [3.0, 4.0, 0.0]}


class Analysis:
    """insightface's own class, as far as it is used; what it finds is said by the test."""

    found: tuple[dict[str, Any], ...] = (WHOLE,)
    parts: tuple[str, ...] = ("detection", "recognition")
    seen: tuple[Any, ...] = ()

    def __init__(self, name: str, allowed_modules: list[str], providers: list[str]) -> None:
        assert Path(name).is_absolute()  # else it would be fetched
        assert [*Path(name).glob("*.onnx")]  # as it asserts itself
        self.models = dict.fromkeys(set(allowed_modules) & {*self.parts})
        self.det_model = SimpleNamespace(input_size=None)

    def prepare(self, ctx_id: int) -> None:
        """On the CPU."""
        print("set det-size:", ctx_id)  # noqa: T201  as it does
        assert ctx_id == -1

    def get(self, picture: Any) -> list[dict[str, Any]]:
        """What is found at the smallest size alone."""
        type(self).seen = (self.det_model.input_size, picture)
        return [*self.found] if self.det_model.input_size == (256, 256) else []


@pytest.fixture
def analysis(monkeypatch: pytest.MonkeyPatch) -> type[Analysis]:
    module: Any = ModuleType("insightface.app")
    module.FaceAnalysis = type("FaceAnalysis", (Analysis,), {})
    monkeypatch.setitem(sys.modules, "insightface", ModuleType("insightface"))
    monkeypatch.setitem(sys.modules, "insightface.app", module)
    found: type[Analysis] = module.FaceAnalysis
    return found


@pytest.fixture
def models(tmp_path: Path) -> Path:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "scrfd.onnx").write_bytes(b"")
    return tmp_path / "models"


def picture(path: Path, size: tuple[int, int] = (80, 80)) -> Path:
    Image.new("RGB", size, (250, 20, 10)).save(path)
    return path


def test_a_face_is_what_insightface_says_of_it(
    analysis: type[Analysis], models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = picture(tmp_path / "a.png")
    face = face_in(path, InsightFace(models))
    assert (face.size, face.box.tolist(), face.points.tolist()) == ((80, 80), WHOLE["bbox"], POINTS)
    assert analysis.seen[1][0, 0].tolist() == [10, 20, 250]  # BGR
    assert capsys.readouterr().out == ""
    told = asked("x", image=(path, path), recogniser=models)
    assert embeddings(BASE, told, 3).tolist() == [[3, 4, 0]] * 2
    with pytest.raises(InputError, match="gives 3 numbers of a face, and these weights take 512"):
        embeddings(BASE, told, 512)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ((), "a.png shows no face: one, seen from the front, is needed"),
        ((WHOLE, WHOLE), "a.png shows 2 faces: cut it to the one that is meant"),
        (({**WHOLE, "bbox": [-9, 15, 60, 62]},), "a.png: the face is cut by the picture's border"),
        (({**WHOLE, "bbox": [20, 15, 60, 90]},), "is cut by the picture's border"),
        (({**WHOLE, "kps": [[30, -1], *POINTS[1:]]},), "is cut by the picture's border"),
        (({**WHOLE, "bbox": [20, -1, 60, 62]},), None),
    ],
)
def test_pictures_of_no_person_or_of_several(
    analysis: type[Analysis], models: Path, tmp_path: Path, found: Any, message: str | None
) -> None:
    analysis.found = found
    path, encoder = picture(tmp_path / "a.png"), InsightFace(models)
    if message is None:
        assert face_in(path, encoder).box[1] == -1
    else:
        with pytest.raises(InputError, match=message):
            face_in(path, encoder)


def test_large_pictures_are_shrunk_before_faces_are_searched(
    analysis: type[Analysis], models: Path, tmp_path: Path
) -> None:
    face_in(picture(tmp_path / "wide.png", (12_000, 800)), InsightFace(models))
    assert analysis.seen[1].shape == (85, LARGEST, 3)
    Image.new("1", (12_000, 12_000)).save(tmp_path / "huge.png")
    with pytest.raises(InputError, match="has too many pixels: as many as 8192 × 8192"):
        face_in(tmp_path / "huge.png", InsightFace(models))


def test_what_is_missing_is_said(
    analysis: type[Analysis], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match=r"need --face, a .npy file .* or --recogniser, a folder"):
        embeddings(BASE, asked("x", image=models), 3)
    with pytest.raises(InputError, match="none is no folder with insightface's models"):
        InsightFace(tmp_path / "none")
    with pytest.raises(InputError, match="holds no models of insightface that find faces and tell"):
        InsightFace(tmp_path)
    analysis.parts = ("detection",)
    with pytest.raises(InputError, match="holds no models of insightface that find faces and tell"):
        InsightFace(models)
    monkeypatch.setitem(sys.modules, "insightface.app", None)
    with pytest.raises(InputError, match=r"not installed: pip install .* non-commercial .* --face"):
        InsightFace(models)


def test_embeddings_may_lie_in_files(tmp_path: Path) -> None:
    for name, values in (("a", [[1, 2, 3]]), ("b", [4, 5, 6])):
        np.save(tmp_path / f"{name}.npy", np.array(values))
    told = asked("x", face=(tmp_path / "a.npy", tmp_path / "b.npy"))
    assert torch.equal(embeddings(BASE, told, 3), torch.tensor([[1.0, 2, 3], [4, 5, 6]]))
    with pytest.raises(InputError, match=r"--face .*a.npy must hold 4 numbers, got 3"):
        read_embedding(tmp_path / "a.npy", 4)


def test_a_protocol_is_enough(tmp_path: Path) -> None:
    """Anything with `faces` finds them, as toybox's own may one day."""

    class Own:
        def faces(self, picture: Any) -> list[Face]:
            size = picture.shape[1], picture.shape[0]
            numbers = (np.array(WHOLE[name], np.float32) for name in ("bbox", "kps", "embedding"))
            return [Face(size, *numbers)]

    assert face_in(picture(tmp_path / "a.png"), Own()).embedding.tolist() == [3, 4, 0]
