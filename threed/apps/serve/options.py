"""What a server is told: where it listens, what it may take, and how much of it."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from threed.runs.job import FIRST, Words
from threed.settings.base import Settings

MIB = 2**20


class Serve(Settings):
    """Serve a queue over HTTP, with workers that do its jobs: a page, REST, and MCP.

    Who may reach it may have jobs done. So it listens on this machine alone, unless a token is set.
    """

    folder: Path = Field(
        Path("outputs/queue"), description="the queue's folder", json_schema_extra=FIRST
    )
    host: str = Field("127.0.0.1", description="the address to listen on")
    port: int = Field(8081, ge=0, le=65535, description="the port; 0 takes one that is free")
    token: str | None = Field(
        None,
        description="what clients must send as Authorization: Bearer TOKEN; better in the "
        "environment, as THREED_TOKEN",
    )
    workers: int = Field(1, ge=0, le=256, description="processes; 0: others work on the queue")
    name: Words = Field((), description="a name that clients call this machine by; repeat")
    models: Path | None = Field(
        None, description="a folder whose entries may be named as backbones and weights"
    )
    mcp: bool = Field(False, description="speak MCP on standard input and output instead")
    upload: int = Field(64, ge=1, le=512, description="MiB of a picture or mesh that is sent")
    store: int = Field(8192, ge=1, description="MiB of all that was sent and is kept")
    keep: float | None = Field(
        None,
        gt=0,
        description="GB of results: beyond, the oldest are removed, and their jobs are cancelled, "
        "to be done anew if need be; without it nothing ever is",
    )
    pixels: int = Field(16, ge=1, le=64, description="millions of pixels of a picture")
    faces: int = Field(500_000, ge=4, le=1_000_000, description="of a mesh")
    steps: int = Field(20_000, ge=1, description="of all optimisations of a job")
    waiting: int = Field(1000, ge=1, description="jobs that wait at once")
    each: int = Field(200, ge=1, description="jobs of one client among them")
    rate: int = Field(20, ge=1, le=10_000, description="requests a second of one client")

    @property
    def upload_bytes(self) -> int:
        """Bytes of a file that is sent."""
        return self.upload * MIB
