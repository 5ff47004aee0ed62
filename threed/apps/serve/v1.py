"""REST: jobs, what they make, what is sent for them, and what there is to choose from."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool

from threed.apps.serve.admit import ASSETS, PICTURES, TAKEN
from threed.apps.serve.desk import FILES, ID, LIVE, Counts, Desk, Shown
from threed.apps.serve.guard import client_of
from threed.apps.serve.refusal import Refusal
from threed.runs.jobs import JOBS
from threed.settings.base import Settings
from threed.settings.presets import facts, presets
from threed.systems.table import SYSTEMS

LOOK = 0.5  # seconds between looks at a job that is watched
BEAT = 15.0  # seconds between signs of life where nothing changes
STREAMS, EACH = 64, 16  # requests that wait for jobs at once, and those of one client
OVER = ("done", "failed", "cancelled")
Own = Annotated[str, InPath(pattern=f"^{ID}$", description="a job's id")]


class Problem(Settings):
    """Why a request was refused."""

    error: str


def desk_of(request: Request) -> Desk:
    """The desk of an app."""
    found: Desk = request.app.state.desk
    return found


Seat = Annotated[Desk, Depends(desk_of)]
ANSWERS: dict[int | str, dict[str, Any]] = {
    code: {"model": Problem, "description": about} for code, about in {
        400: "what was asked for cannot be", 401: "a token is needed",
        403: "from another site", 404: "there is no such thing", 408: "the body does not come",
        409: "the job's state does not allow it", 413: "too large", 415: "of an unknown kind",
        421: "an unknown host", 422: "a parameter is wrong",
        429: "too many requests, or too many jobs wait", 503: "it cannot be written",
        507: "the disk is full",
    }.items()
}  # fmt: skip
V1 = APIRouter(prefix="/v1", responses=ANSWERS)


async def read_json(request: Request) -> dict[str, Any]:
    """The object in a request's body. Refusal where there is none."""
    body = await request.body()
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, "the body must be JSON, such as "
                           '{"job": "generate", "prompt": "a red mug"}') from error  # fmt: skip
    if not isinstance(data, dict):
        raise Refusal(400, "the body must be an object of JSON")
    return data


Body = Annotated[dict[str, Any], Depends(read_json)]


def job_schemas() -> list[dict[str, Any]]:
    """The JSON schema of every job that may be sent; files are said by references."""
    found = []
    for kind in TAKEN:
        schema = JOBS[kind].model_json_schema()
        own = {"job": {"const": kind, "type": "string"}, **schema["properties"]}
        for name, about in own.items():
            if "path" in (about.get("format"), *(o.get("format") for o in about.get("anyOf", ()))):
                text = (
                    "the id of what was sent to /v1/files, or JOB/asset.glb of a job that is done"
                )
                own[name] = {"type": "string", "description": text,
                             "pattern": f"^{ID}(/[a-z0-9_.]+)?$"}  # fmt: skip
        if "preset" in own:
            own["preset"] = {"enum": [None, *presets()], "description": "see /v1/presets"}
        if "file" in own:
            names = ASSETS if kind == "export" else PICTURES
            own["file"] = {"enum": list(names), "description": own["file"]["description"]}
        found.append({"type": "object", "title": kind, "description": schema["description"],
                      "properties": own, "required": ["job", *schema.get("required", ())],
                      "additionalProperties": False})  # fmt: skip
    return found


def json_body(schema: dict[str, Any]) -> dict[str, Any]:
    """What OpenAPI says of a body that is JSON."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


@V1.post("/jobs", status_code=201, openapi_extra=json_body({"oneOf": job_schemas()}))
def submit(data: Body, request: Request, desk: Seat) -> Shown:
    """Have a job done. The same job, asked for again, is the one that is there already."""
    return desk.show(desk.submit(data, client_of(request.scope)))


@V1.get("/jobs")
def history(
    desk: Seat,
    state: Literal["", "waiting", "running", "done", "failed", "cancelled"] = "",
    words: Annotated[str, Query(max_length=200, description="that its prompt has")] = "",
    before: Annotated[int, Query(ge=0, le=10**12, description="numbers below this one")] = 10**12,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> list[Shown]:
    """The newest jobs first."""
    return desk.history(state, words, before, limit)


@V1.get("/jobs/{own}")
def show(own: Own, desk: Seat) -> Shown:
    """How a job goes."""
    return desk.show(own)


@V1.delete("/jobs/{own}")
def cancel(own: Own, desk: Seat) -> Shown:
    """Have a job not done. One that runs ends within seconds, and can go on from its checkpoint."""
    desk.cancel(own)
    return desk.show(own)


@V1.post("/jobs/{own}/retry")
def retry(own: Own, desk: Seat) -> Shown:
    """Have a job done anew that failed, or go on that was cancelled, if it has a checkpoint."""
    desk.retry(own)
    return desk.show(own)


@V1.get(
    "/jobs/{own}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "a job's data, a line "
                     "each time that it changes, until it is done"}},
)  # fmt: skip
async def events(own: Own, request: Request, desk: Seat) -> StreamingResponse:
    """How a job goes, as server-sent events, until it is done, failed or cancelled."""
    await run_in_threadpool(desk.show, own)  # else 404
    check_streams(request)
    return StreamingResponse(
        watch(request, desk, own),
        media_type="text/event-stream",
        headers={"x-accel-buffering": "no"},
    )


def check_streams(request: Request) -> None:
    """Refusal where as many requests as may wait for what comes."""
    waiting: Counter[str] = request.app.state.waiting
    if waiting.total() >= STREAMS or waiting[client_of(request.scope)] >= EACH:
        raise Refusal(429, "too many requests wait for jobs: ask for /v1/jobs/ID instead")


@contextmanager
def counted(request: Request) -> Iterator[None]:
    """Within, a request waits for a job."""
    waiting, client = request.app.state.waiting, client_of(request.scope)
    waiting[client] += 1
    try:
        yield
    finally:
        waiting[client] -= 1
        if not waiting[client]:
            del waiting[client]


async def watch(request: Request, desk: Desk, own: str) -> AsyncIterator[str]:
    """The events of a job."""
    told, quiet = None, 0.0
    with counted(request), suppress(Refusal):  # its folder was emptied
        while not desk.closing.is_set():
            shown = await run_in_threadpool(desk.show, own)
            if shown != told:
                yield f"data: {shown.model_dump_json()}\n\n"
                told, quiet = shown, 0.0
            elif quiet >= BEAT:
                yield ": still here\n\n"
                quiet = 0.0
            if shown.state in OVER:
                return
            await asyncio.sleep(LOOK)
            quiet += LOOK


@V1.get(
    "/jobs/{own}/files/{name}",
    response_class=FileResponse,
    responses={200: {"content": {kind: {} for kind in sorted(set(FILES.values()))},
                     "description": "the file"}},
)  # fmt: skip
def file(own: Own, name: str, desk: Seat) -> FileResponse:
    """A file that a job has made, by a name that the job's `files` has; live.png while it runs."""
    return send_file(desk.file(own, name), name)


def send_file(path: Path, name: str) -> FileResponse:
    """A file as an answer."""
    kind = FILES.get(name, "image/png" if name == LIVE else "application/octet-stream")
    return FileResponse(path, media_type=kind, filename=name, content_disposition_type="inline")


@V1.post(
    "/files",
    status_code=201,
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {
        "schema": {"type": "string", "format": "binary"}}}}},
)  # fmt: skip
async def upload(
    request: Request,
    desk: Seat,
    name: Annotated[str, Query(max_length=200, description="its ending says what a mesh is")] = "",
) -> dict[str, Any]:
    """Send a picture (PNG, JPEG, WebP), a mask or a mesh (.glb, .obj, .ply, .stl) as the body.

    The answer's `id` names it in jobs. What was sent before has the same id.
    """
    return await desk.uploads.receive(request.stream(), name)


@V1.get("/status")
def counts(desk: Seat) -> Counts:
    """How far all jobs are."""
    return desk.counts()


@V1.get("/systems")
def systems() -> dict[str, Any]:
    """The systems that can guide, by name: their inputs with their kinds, and their knobs."""
    return {name: system.schema() for name, system in SYSTEMS.items()}


@V1.get("/presets")
def list_presets() -> dict[str, Any]:
    """The presets, by name: what they are and what they take."""
    return {name: {"about": about, **facts(name)} for name, about in presets().items()}


@V1.get("/backbones")
def backbones(desk: Seat) -> list[str]:
    """The backbones that are on this machine."""
    return sorted(desk.door.backbones())


@V1.get("/models")
def models(desk: Seat) -> list[str]:
    """What may be named as weights."""
    return sorted(desk.door.offered())


def answer_of(words: str, status: int) -> Response:
    """An error as an answer."""
    body = json.dumps({"error": words}).encode("ascii")
    return Response(body, status, media_type="application/json")
