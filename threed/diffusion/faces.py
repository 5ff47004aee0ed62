"""Faces in pictures: where they are, their five keypoints, and numbers that tell people apart."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from threed.core.errors import InputError
from threed.core.files import read_text
from threed.core.pictures import open_picture, to_rgb

LARGEST = 1280  # pixels a side of a picture in which faces are searched; larger ones are shrunk
SEARCHED = (640, 320, 256)  # sizes that detectors take: small ones find faces that fill a picture
MOST = 8192  # numbers of an embedding
LICENCE = "its code is under the MIT licence, its models are for non-commercial research only"


@dataclass(frozen=True, eq=False)
class Face:
    """A face in a picture."""

    size: tuple[int, int]  # of the picture: width, height
    box: NDArray[np.float32]  # [4] left, top, right, bottom, in its pixels
    points: NDArray[np.float32]  # [5, 2] x, y: the eyes, the nose, the mouth's corners; left first
    embedding: NDArray[np.float32]  # [D] as its encoder makes it, of any length


class FaceEncoder(Protocol):
    """What finds faces and tells people apart."""

    def faces(self, picture: NDArray[np.uint8]) -> list[Face]:
        """All faces of a picture [H, W, 3], sRGB."""
        ...


class InsightFace:
    """insightface with models of a folder, such as antelopev2, on the CPU.

    Nothing is fetched. InputError where the package is missing, or the folder holds no models that
    find faces and tell them apart.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from insightface.app import FaceAnalysis
        except ImportError as error:
            raise InputError(f"faces are found by insightface, which is not installed: pip install "
                             f"insightface onnxruntime ({LICENCE}). Or give what it says of a "
                             "face: --face FILE.npy") from error  # fmt: skip
        if not folder.is_dir():
            raise InputError(f"{folder} is no folder with insightface's models")
        parts = ["detection", "recognition"]
        try:
            with redirect_stdout(StringIO()):  # it prints what it loads
                self.app: Any = FaceAnalysis(name=str(folder.resolve()), allowed_modules=parts,
                                             providers=["CPUExecutionProvider"])  # fmt: skip
                self.app.prepare(ctx_id=-1)
            if not set(parts) <= self.app.models.keys():
                raise FileNotFoundError
        except Exception as error:  # it asserts, or raises whatever its runtime stumbles over
            raise InputError(f"{folder} holds no models of insightface that find faces and tell "
                             "them apart, such as antelopev2's .onnx files") from error  # fmt: skip

    def faces(self, picture: NDArray[np.uint8]) -> list[Face]:
        """All faces of a picture [H, W, 3], sRGB; embeddings have 512 numbers."""
        found: list[Any] = []
        for side in SEARCHED:
            self.app.det_model.input_size = (side, side)
            found = found or self.app.get(np.ascontiguousarray(picture[..., ::-1]))  # BGR
        size = picture.shape[1], picture.shape[0]
        said = ([np.asarray(one[name], np.float32) for name in ("bbox", "kps", "embedding")]
                for one in found)  # fmt: skip
        return [Face(size, *numbers) for numbers in said]


def face_in(path: Path, encoder: FaceEncoder) -> Face:
    """The face of a picture of one person; the picture is shrunk to LARGEST pixels a side.

    InputError unless there is exactly one, and it is whole.
    """
    picture = to_rgb(open_picture(path), str(path))
    picture.thumbnail((LARGEST, LARGEST))
    found = encoder.faces(np.asarray(picture, np.uint8))
    if len(found) != 1:
        seen = f"{len(found)} faces" if found else "no face"
        wanted = (
            "cut it to the one that is meant" if found else "one, seen from the front, is needed"
        )
        raise InputError(f"{path} shows {seen}: {wanted}")
    face = found[0]
    left, top, right, bottom = face.box.tolist()
    slack = 0.05 * max(right - left, bottom - top)  # of what detectors see beyond a border
    inside = (face.points >= 0).all() and (face.points <= np.array(picture.size)).all()
    over = max(-left, -top, right - picture.width, bottom - picture.height)
    if not inside or over > slack:
        raise InputError(f"{path}: the face is cut by the picture's border; it must be whole")
    return face


def read_points(path: Path) -> NDArray[np.float32]:
    """[5, 2] keypoints from a .json file, as shares of a picture. InputError for anything else."""
    text = read_text(path)
    try:
        points = np.asarray(json.loads(text), np.float32)
        if points.shape == (5, 2) and (points >= 0).all() and (points < 1).all():
            return points
    except (ValueError, TypeError, RecursionError, OverflowError):
        pass
    raise InputError(f"{path} must hold five points [x, y], from 0 to 1 of the picture's width and "
                     "height: both eyes, the nose, the mouth's corners")  # fmt: skip


def read_embedding(path: Path, width: int | None = None) -> Tensor:
    """[1, width] a face's embedding from a .npy file. InputError for anything else in it.

    width: how many numbers there must be, if that is known.
    """
    try:  # mapped, so that no header can ask for more memory than the file has
        face = np.load(path, mmap_mode="r", allow_pickle=False)
        count = int(face.size)
        width = min(count, MOST) if width is None else width
        numbers = torch.from_numpy(np.array(face.reshape(-1)[:width], np.float32))
    except (OSError, ValueError, EOFError, AttributeError, OverflowError) as error:
        raise InputError(f"--face {path} is no .npy file of numbers") from error
    if count != width or not bool(numbers.isfinite().all()) or not bool(numbers.any()):
        raise InputError(f"--face {path} must hold {width} numbers, got {count}")
    return numbers[None]
