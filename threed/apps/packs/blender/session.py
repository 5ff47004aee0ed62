"""What this Blender has to do with a server: sending what was filled in, letting in what comes."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import bpy

from threed.apps.packs.blender import objects
from threed.apps.packs.blender.forms import COMMON, NONE, Field, Kind, Offers, jobs
from threed.apps.packs.blender.objects import Goal
from threed.apps.packs.blender.work import Link, Row
from threed.apps.packs.client import Client, Refused

LOOK = 0.25  # seconds between looks at what threads have done
NOTHING = Offers({}, COMMON)
ME = __package__


@dataclass
class Session:
    """What this Blender has to do with a server; nothing of it is saved in files."""

    link: Link | None = None
    rows: list[Row] = field(default_factory=list)
    offers: Offers = NOTHING  # that the scene's properties are of
    groups: list[type] = field(default_factory=list)  # of these properties, registered


SESSION = Session()


def property_of(told: Field) -> Any:
    """The property of a field."""
    about = {"name": told.label, "description": told.about}
    if told.form == "choice":
        # files keep the number of what is chosen: it must not change with what there is
        items = [(name, "—" if name == NONE else name, text, crc32(name.encode()) >> 1)
                 for name, text in told.choices]  # fmt: skip
        return bpy.props.EnumProperty(items=items, default=told.default, **about)
    if told.form == "flag":
        return bpy.props.BoolProperty(default=told.default, **about)
    if told.form == "text" or told.form == "file":
        kind = "FILE_PATH" if told.form == "file" else "NONE"
        return bpy.props.StringProperty(default=told.default, subtype=kind, **about)
    if told.form == "whole":
        return bpy.props.IntProperty(default=told.default, min=max(-(2**31), int(told.low)),
                                     max=min(2**31 - 1, int(told.high)), **about)  # fmt: skip
    return bpy.props.FloatProperty(
        default=told.default, min=told.low, max=told.high, precision=3, **about
    )


def group(name: str, properties: dict[str, Any]) -> type:
    """A group of properties, registered."""
    made = type(f"THREED_PG_{name}", (bpy.types.PropertyGroup,), {"__annotations__": properties})
    bpy.utils.register_class(made)
    SESSION.groups.append(made)
    return made


def offer(offers: Offers) -> None:
    """Make the scene's properties of what a server offers. What was filled in stays."""
    withdraw()
    SESSION.offers = offers
    own = {told.name: property_of(told) for told in offers.fields}
    for name, system in offers.systems.items():
        inner = {told.name: property_of(told) for told in system.fields}
        own[f"system_{name}"] = bpy.props.PointerProperty(type=group(name, inner))
    bpy.types.Scene.threed = bpy.props.PointerProperty(type=group("wish", own))


def withdraw() -> None:
    """Take the scene's properties back."""
    if hasattr(bpy.types.Scene, "threed"):
        del bpy.types.Scene.threed
    while SESSION.groups:
        bpy.utils.unregister_class(SESSION.groups.pop())


def said(name: str) -> Any:
    """What was filled in; `SYSTEM.FIELD` is a field of a system's. Paths are whole."""
    place, (system, dot, own) = bpy.context.scene.threed, name.partition(".")
    if dot:
        place = getattr(place, f"system_{system}")
    value = getattr(place, own if dot else name, NONE)
    return bpy.path.abspath(value) if isinstance(value, str) and value.startswith("//") else value


def client() -> Client:
    """The server of the preferences. Refused where Blender may not go online and would have to."""
    wish = bpy.context.preferences.addons[ME].preferences
    found = Client(wish.url.strip(), wish.token.strip())
    if not found.is_local and not bpy.app.online_access:
        raise Refused(0, "Blender may not go online: Preferences, System, Allow Online Access")
    return found


def connect() -> None:
    """Look for the server of the preferences, or start it. Refused."""
    wish = bpy.context.preferences.addons[ME].preferences
    leave()
    program = wish.program.strip() if wish.own else ""
    folder = bpy.path.abspath(wish.folder) or str(Path.home() / "threed-queue")
    SESSION.link = Link(client(), program, folder)
    SESSION.link.start()
    wake()


def leave() -> None:
    """End what was started, and let the thread of a link end."""
    if SESSION.link is not None:
        SESSION.link.stop()
        SESSION.link = None


def linked() -> Client:
    """The server that is asked. Refused where there is none, and where nothing is asked for."""
    if not str(said("prompt")).strip():
        raise Refused(0, "say in the prompt what is wanted")
    if SESSION.link is None or SESSION.link.state != "on":
        raise Refused(0, "connect to a server first")
    return SESSION.link.client


def send(server: Client, kind: Kind, goal: Goal, mesh: Path | None = None) -> None:
    """Have what was filled in made, each candidate as a job."""
    for number, job in enumerate(jobs(kind, said, SESSION.offers, mesh)):
        own = replace(goal, number=number)
        row = Row(job.get("prompt") or job["instruction"], job, own, mesh)
        SESSION.rows.append(row)
        row.start(server)
    wake()


def cursor() -> tuple[float, float, float]:
    """Where the cursor is."""
    x, y, z = bpy.context.scene.cursor.location
    return x, y, z


def make() -> None:
    """Make an asset of the prompt. Refused."""
    server = linked()
    scale = 1 / bpy.context.scene.unit_settings.scale_length if said("height").strip() else 1.0
    send(server, "generate", Goal("make", cursor(), scale=scale))


def change(kind: Kind) -> None:
    """Paint, refine or edit the selected mesh. Refused."""
    server, thing = linked(), objects.selected()
    uv = objects.uv_of(thing) if kind == "texture" and said("keep_uv") else ""
    goal = Goal("paint" if uv else "replace", cursor(), uid=thing.session_uid, uv=uv,
                sent=tuple(tuple(row) for row in thing.matrix_world))  # fmt: skip
    send(server, kind, goal, objects.write(thing))


def wake() -> None:
    """Have `tick` called from now on."""
    if not bpy.app.timers.is_registered(tick):
        bpy.app.timers.register(tick, first_interval=LOOK, persistent=True)


def tick() -> float | None:
    """Take over what threads have done. Returns the seconds to the next look; None: no more."""
    link = SESSION.link
    if link is not None and link.offers not in (None, SESSION.offers):
        offer(link.offers)
    for row in SESSION.rows:
        if row.state == "here" and bpy.context.mode == "OBJECT":
            finish(row)
    SESSION.rows[:] = [row for row in SESSION.rows if row.state not in ("done", "cancelled")]
    redraw()
    waits = link is not None and link.state == "connecting"
    return LOOK if waits or any(row.state != "failed" for row in SESSION.rows) else None


def finish(row: Row) -> None:
    """Bring an asset in."""
    try:
        objects.bring(row.content, row.goal)
        row.state = "done"
    except Refused as refused:
        row.message, row.state = str(refused), "failed"
    row.content = b""
    if bpy.ops.ed.undo_push.poll():
        bpy.ops.ed.undo_push(message=f"threed: {row.title}")


def redraw() -> None:
    """Have the panel drawn anew."""
    for manager in bpy.data.window_managers:
        for window in manager.windows:
            for area in window.screen.areas:
                if area.type == "VIEW_3D":
                    area.tag_redraw()
