"""What systems are told of a face: its embedding in a file, or found in a picture of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from threed.core.errors import InputError
from threed.systems.inputs import FILE, WEIGHTS, Input

if TYPE_CHECKING:
    from torch import Tensor

    from threed.diffusion.faces import Face, FaceEncoder
    from threed.systems.system import Request

RECOGNISER = Input("recogniser", WEIGHTS, "a folder with insightface's models, such as antelopev2, "
                   "which find the face in --image")  # fmt: skip


def face_input(about: str, *, many: bool = False) -> Input:
    """The input --face, with what it is for."""
    return Input("face", FILE, f"a face's embedding in a .npy file{about}", many=many)


def finder(request: Request) -> FaceEncoder:
    """What finds faces in a request's pictures. InputError where none is named, or is there."""
    from threed.diffusion.faces import InsightFace

    models: Path | None = request.one("recogniser")
    if models is None:
        raise InputError("these weights need --face, a .npy file with a face's embedding, such as "
                         "insightface's, or --recogniser, a folder with insightface's models, "
                         "which find it in --image")  # fmt: skip
    return InsightFace(models.expanduser())


def embeddings(request: Request, width: int) -> Tensor:
    """[N, width] the embeddings of a request's faces: of --face, else found in each --image.

    InputError as of `face_in` and `read_embedding`.
    """
    import torch

    from threed.diffusion.faces import face_in, read_embedding

    files = request.all("face")
    if files:
        return torch.cat([read_embedding(path, width) for path in files])
    encoder = finder(request)
    found = (face_in(path, encoder) for path in request.all("image"))
    return torch.stack([embedding(request, face, width) for face in found])


def embedding(request: Request, face: Face, width: int) -> Tensor:
    """[width] what a request's recogniser says of a face. InputError for another width."""
    import torch

    if len(face.embedding) != width:
        raise InputError(f"--recogniser {request.one('recogniser')} gives {len(face.embedding)} "
                         f"numbers of a face, and these weights take {width}")  # fmt: skip
    return torch.from_numpy(face.embedding)
