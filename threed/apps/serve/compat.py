"""The calls of Hunyuan3D's api_server, so that its clients work, with what those lack.

    POST /generate   waits, and answers the file
    POST /send       -> {"uid"}
    GET /status/UID  -> {"status": "processing"}, {"status": "completed", "model_base64"}, or
                        {"status": "error", "message"}

They take text, image or mesh (base64), texture, seed, face_count and type (glb or obj). What else
those clients say is about that model's own steps, and is not used.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from starlette.concurrency import run_in_threadpool

from threed.apps.serve.desk import ID, Desk
from threed.apps.serve.guard import client_of
from threed.apps.serve.refusal import Refusal
from threed.apps.serve.v1 import (
    ANSWERS,
    LOOK,
    OVER,
    Body,
    Seat,
    check_streams,
    counted,
    json_body,
    send_file,
)
from threed.core.words import did_you_mean
from threed.settings.base import Settings

TYPES = ("glb", "obj")
SHOWN = "best quality, high quality"  # the words that IP-Adapter is given beside a picture
TEXT = {"type": "string"}
ASKED = {
    "type": "object",
    "properties": {
        "text": TEXT | {"description": "what to make"},
        "image": TEXT | {"description": "a picture of it, in base64"},
        "mesh": TEXT | {"description": "a GLB to refine, or to paint with texture, in base64"},
        "texture": {"type": "boolean", "description": "paint the mesh; its shape stays"},
        "seed": {"type": "integer", "minimum": 0},
        "face_count": {"type": "integer", "minimum": 4},
        "type": {"enum": list(TYPES)},
    },
}
COMPAT = APIRouter(responses=ANSWERS)


class Uid(Settings):
    """What a job is asked after by."""

    uid: str


class Status(Settings):
    """How a job goes."""

    status: str
    model_base64: str | None = None
    message: str | None = None


def decode(data: dict[str, Any], name: str) -> bytes | None:
    """The file that is said in base64; None if it is not there."""
    text = data.get(name)
    if text is None:
        return None
    if not isinstance(text, str):
        raise Refusal(400, f"{name} must be a file in base64")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(400, f"{name} must be a file in base64") from error


def job_of(data: dict[str, Any], desk: Desk) -> dict[str, Any]:
    """The job that is meant."""
    if data.get("type", "glb") not in TYPES:
        raise Refusal(400, f"type: {str(data['type'])[:60]!r}{did_you_mean('', TYPES)}")
    mesh, image, text = decode(data, "mesh"), decode(data, "image"), data.get("text")
    if not isinstance(text, (str, type(None))):
        raise Refusal(400, "text must be text: what to make")
    if text is None and image is None:
        raise Refusal(400, "text is needed: what to make; or image, a picture of it in base64")
    told: dict[str, Any] = {"prompt": SHOWN if text is None else text}
    if data.get("seed") is not None:
        told["seed"] = data["seed"]
    if mesh is not None and data.get("texture"):
        if text is None:
            raise Refusal(400, "text is needed to paint a mesh: a picture cannot say it")
        return {"job": "texture", "mesh": desk.uploads.keep(mesh, "mesh.glb")["id"], **told}
    if data.get("face_count") is not None:
        told["budget"] = f"faces={data['face_count']}"
    if mesh is not None:
        told["init"] = desk.uploads.keep(mesh, "mesh.glb")["id"]
    if image is not None:
        sent = desk.uploads.keep(image, "picture.png")
        told |= {"system": "ip_adapter", "inputs": {"image": [sent["id"]]}}
    return {"job": "generate", **told}


def begin(data: dict[str, Any], desk: Desk, client: str) -> str:
    """Have the job done that is meant; return its id."""
    return desk.submit(job_of(data, desk), client)


@COMPAT.post("/send", openapi_extra=json_body(ASKED))
def send(data: Body, request: Request, desk: Seat) -> Uid:
    """Have an asset made, and ask after it by /status."""
    return Uid(uid=begin(data, desk, client_of(request.scope)))


@COMPAT.get("/status/{uid}", response_model_exclude_none=True)
def status(uid: Annotated[str, InPath(pattern=f"^{ID}$")], desk: Seat) -> Status:
    """How an asset goes; in the end the GLB in base64, or why there is none."""
    shown = desk.show(uid)
    if shown.state == "done":
        content = desk.file(uid, "asset.glb").read_bytes()
        return Status(status="completed", model_base64=base64.b64encode(content).decode())
    if shown.state in OVER:
        return Status(status="error", message=shown.reason or "it was cancelled")
    return Status(status="processing")


@COMPAT.post(
    "/generate",
    response_class=FileResponse,
    openapi_extra=json_body(ASKED),
    responses={200: {"content": {"model/gltf-binary": {}, "model/mesh": {}},
                     "description": "the asset"}},
)  # fmt: skip
async def generate(data: Body, request: Request, desk: Seat) -> Response:
    """Have an asset made, and answer its file. Who leaves may ask again: it is made meanwhile."""
    own = await run_in_threadpool(begin, data, desk, client_of(request.scope))
    check_streams(request)
    with counted(request):
        while (shown := await run_in_threadpool(desk.show, own)).state not in OVER:
            if desk.closing.is_set() or await request.is_disconnected():
                raise Refusal(503, f"the server ends; go on with GET /status/{own}")
            await asyncio.sleep(LOOK)
    if shown.state != "done":
        raise Refusal(409, f"the asset could not be made: {shown.reason or 'it was cancelled'}")
    name = f"asset.{data.get('type', 'glb')}"
    return send_file(desk.file(own, name), name)
