"""The page: files of ours that a browser loads, which speak to REST and to nothing else."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from exporters import viewer
from threed.apps.serve.refusal import Refusal

HERE = Path(__file__).parent / "page"
SCRIPT = "text/javascript"
KINDS = {
    "style.css": "text/css", "main.js": SCRIPT, "api.js": SCRIPT, "dom.js": SCRIPT,
    "form.js": SCRIPT, "gallery.js": SCRIPT, "job.js": SCRIPT,
    "pictures.js": SCRIPT, "viewer.js": SCRIPT,
}  # fmt: skip
ELSEWHERE = {"viewer.js": viewer.SCRIPT}  # notebooks have it, too
SITE = APIRouter(include_in_schema=False)


@SITE.get("/")
def page() -> FileResponse:
    """The page itself."""
    return FileResponse(HERE / "index.html", media_type="text/html")


@SITE.get("/page/{name}")
def part(name: str) -> FileResponse:
    """What it is made of."""
    if name not in KINDS:
        raise Refusal(404, "the page has no such part")
    return FileResponse(ELSEWHERE.get(name, HERE / name), media_type=KINDS[name])
