"""What a queue has made, as it comes: a table, results.csv, and contact sheets, sheet-1.png and on.

A sheet has a hundred places, one for each job in the order in which they were added; a job keeps
its place, which is empty until there is a picture.
"""

from __future__ import annotations

import csv
import io
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from threed.core.errors import InputError
from threed.core.files import write, write_aside
from threed.core.pictures import FORMATS, open_picture, to_rgb
from threed.queue.folder import Queue
from threed.queue.ticket import Ticket, read_asked, title_of

if TYPE_CHECKING:
    from PIL.Image import Image

EVERY = 30.0  # seconds between two refreshes, at least
SHARE = 20  # at most one part of so many of a worker's time goes into them
COLUMNS, ROWS, SIDE, TEXT = 10, 10, 128, 14  # of a sheet: cells, and pixels of each
NUMBERS = "jobs"  # the name of a text in a sheet's file
PREVIEW = "preview.png"  # of an asset: views side by side, two rows


@dataclass(frozen=True)
class Row:
    """A job that is done or was set aside."""

    number: int
    key: str
    state: str
    job: str
    prompt: str
    seed: int | None  # None: the preset's
    attempts: int
    seconds: float
    worker: str
    file: str  # the result's first file, in the queue's folder
    reason: str
    notes: str
    source: str


class Board:
    """Writes the table and the sheets of a queue; what it has read once it keeps."""

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self._rows: dict[tuple[str, Ticket], Row] = {}
        self._due = time.monotonic()

    def refresh(self, *, now: bool = False) -> None:
        """Write what is new, if it is time to or `now`. What cannot be written is left for later.

        A worker does so after each job; it takes it as no reason to stop.
        """
        began = time.monotonic()
        if not now and began < self._due:
            return
        with suppress(InputError, OSError):
            rows = self.rows()
            write(self.queue.path / "results.csv", table(rows).encode())
            self._draw(rows)
        took = time.monotonic() - began
        self._due = time.monotonic() + max(EVERY, SHARE * took)

    def rows(self) -> list[Row]:
        """Every job that is done or was set aside, in the order in which they were added."""
        every = ((state, self.queue.tickets(state)) for state in ("done", "failed"))
        found = [(state, ticket) for state, tickets in every for ticket in tickets]
        self._rows = {each: self._rows.get(each) or self._read(*each) for each in found}
        return sorted(self._rows.values(), key=lambda row: row.number)

    def _read(self, state: str, ticket: Ticket) -> Row:
        at, job, kind, prompt, source = self.queue.attempt(ticket), None, "", "", ""
        with suppress(InputError, OSError):
            job, asked = read_asked(self.queue.file(state, ticket), ticket.key)
            kind, prompt, source = job.kind, title_of(job), asked.source
        file = f"results/{ticket.key}/{at.main}" if state == "done" else ""
        return Row(ticket.number, ticket.key, state, kind, prompt, getattr(job, "seed", None),
                   ticket.attempts, round(at.seconds, 1), at.worker, file, at.reason,
                   " | ".join(at.notes), source)  # fmt: skip

    def _draw(self, rows: list[Row]) -> None:
        """Draw the sheets on which something is new."""
        sheets: dict[int, list[Row]] = {}
        for row in rows:
            if row.state == "done":
                sheets.setdefault((row.number - 1) // (COLUMNS * ROWS), []).append(row)
        for sheet, shown in sheets.items():
            path = self.queue.path / f"sheet-{sheet + 1}.png"
            numbers = ",".join(str(row.number) for row in shown)
            if numbers_of(path) != numbers:
                self._draw_sheet(path, shown, numbers)

    def _draw_sheet(self, path: Path, rows: list[Row], numbers: str) -> None:
        from PIL import Image, ImageDraw
        from PIL.PngImagePlugin import PngInfo

        tall = 1 + max((row.number - 1) % (COLUMNS * ROWS) for row in rows) // COLUMNS
        page = Image.new("RGB", (COLUMNS * SIDE, tall * (SIDE + TEXT)), "white")
        draw = ImageDraw.Draw(page)
        for row in rows:
            y, x = divmod((row.number - 1) % (COLUMNS * ROWS), COLUMNS)
            left, top = x * SIDE, y * (SIDE + TEXT)
            picture = thumbnail(self.queue.path / row.file)
            if picture is not None:
                page.paste(picture, (left, top))
            words = f"{row.number} {row.prompt}".encode("ascii", "replace").decode()
            draw.text((left + 2, top + SIDE + 1), words[: SIDE // 6 - 1], fill="black")
        note = PngInfo()
        note.add_text(NUMBERS, numbers)
        with write_aside(path) as part:
            page.save(part, pnginfo=note)


def numbers_of(sheet: Path) -> str | None:
    """The numbers of the jobs that a sheet shows, which is written in it; None without a sheet."""
    from PIL import Image

    try:
        with Image.open(sheet) as file:
            return file.info.get(NUMBERS)
    except OSError:
        return None


def table(rows: list[Row]) -> str:
    """The rows as CSV, with the names of their columns."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [each.name for each in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def thumbnail(file: Path) -> Image | None:
    """A result's picture, SIDE pixels wide and high; of an asset its first view. None without."""
    preview = file.with_name(PREVIEW)
    source = preview if preview.exists() else file
    if source.suffix.lower() not in FORMATS:
        return None
    try:
        picture = to_rgb(open_picture(source), str(source))
    except InputError:
        return None
    if source == preview:
        half = picture.height // 2
        picture = picture.crop((0, 0, half, half))
    from PIL import ImageOps

    return ImageOps.pad(picture, (SIDE, SIDE), color="white")
