"""What systems are told of a face: its embedding in a file, or found in a picture of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from threed.core.errors import InputError
from threed.systems.inputs import FILE, WEIGHTS, Input

if TYPE_CHECKING:
    from torch import Tensor

    from threed.diffusion.faces import Face, FaceEncoder
    from threed.diffusion.models.stable_diffusion import StableDiffusion
    from threed.learning.data import Examples, Row
    from threed.systems.system import Request

RECOGNISER = Input("recogniser", WEIGHTS, "a folder with insightface's models, such as antelopev2, "
                   "which find the face in --image; toybox has its own")  # fmt: skip


def face_input(about: str, *, many: bool = False) -> Input:
    """The input --face, with what it is for."""
    return Input("face", FILE, f"a face's embedding in a .npy file{about}", many=many)


def finder(base: StableDiffusion, models: Path | None) -> FaceEncoder:
    """What finds faces: insightface's models in a folder, or what came with the backbone.

    InputError where there is none.
    """
    from threed.diffusion.faces import InsightFace
    from threed.diffusion.parts.face_net import FOLDER, SmallFaces

    if models is None:
        if (own := base.folder / FOLDER).is_dir():
            return SmallFaces(own)
        raise InputError("these weights need --face, a .npy file with a face's embedding, such as "
                         "insightface's, or --recogniser, a folder with insightface's models, "
                         "which find it in --image")  # fmt: skip
    return InsightFace(models.expanduser())


def embeddings(base: StableDiffusion, request: Request, width: int) -> Tensor:
    """[N, width] the embeddings of a request's faces: of --face, else found in each --image.

    InputError as of `face_in` and `read_embedding`.
    """
    import torch

    from threed.diffusion.faces import face_in, read_embedding

    files = request.all("face")
    if files:
        return torch.cat([read_embedding(path, width) for path in files])
    encoder = finder(base, request.one("recogniser"))
    found = (face_in(path, encoder) for path in request.all("image"))
    return torch.stack([embedding(request, face, width) for face in found])


def embedding(request: Request, face: Face, width: int) -> Tensor:
    """[width] what a request's recogniser says of a face. InputError for another width."""
    import torch

    if len(face.embedding) != width:
        named = request.one("recogniser") or "of the backbone"
        raise InputError(f"--recogniser {named} gives {len(face.embedding)} numbers of a face, and "
                         f"these weights take {width}")  # fmt: skip
    return torch.from_numpy(face.embedding)


def examples_faces(
    base: StableDiffusion, examples: Examples, models: Path | None
) -> tuple[Examples, Tensor]:
    """Examples and the embeddings [N, D] of their faces: of the file `face`, else of the picture.

    Pictures in which there is not one face are left out, with a warning. InputError if none is
    left.
    """
    import warnings

    import torch

    from threed.diffusion.faces import read_embedding
    from threed.learning.data import Examples, ExamplesWarning

    unsaid = any("face" not in row for row in examples.rows)
    encoder = finder(base, models) if unsaid else None
    rows: list[Row] = []
    said: list[Tensor] = []
    for index, row in enumerate(examples.rows):
        if "face" in row:
            said.append(read_embedding(examples.folder / row["face"]))
        elif encoder is not None:
            pixels = (examples.pictures("image", [index])[0] * 255).byte().permute(1, 2, 0)
            found = encoder.faces(pixels.numpy())
            if len(found) != 1:
                continue
            said.append(torch.from_numpy(found[0].embedding)[None])
        rows.append(row)
    if not rows:
        raise InputError(f"{examples.folder}: in no example's picture there is one face")
    if len(rows) < len(examples):
        warnings.warn(f"{len(examples) - len(rows)} of {len(examples)} pictures do not show one "
                      "face, and are left out", ExamplesWarning, stacklevel=2)  # fmt: skip
    return Examples(examples.folder, rows, examples.size), torch.cat(said)
