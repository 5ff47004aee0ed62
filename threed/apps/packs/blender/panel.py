"""The panel, what its buttons do, and the preferences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bpy

from threed.apps.packs.blender import session
from threed.apps.packs.blender.forms import shown
from threed.apps.packs.blender.session import SESSION
from threed.apps.packs.blender.work import Link, Row
from threed.apps.packs.client import Refused

FIELDS = ("prompt", "preset", "backbone", "seed", "candidates", "best_of", "height", "settings")
Context = Any  # of Blender


class Preferences(bpy.types.AddonPreferences):  # type: ignore[misc]
    """Where the server is, and how it is started."""

    bl_idname = session.ME
    __annotations__ = {
        "url": bpy.props.StringProperty(name="Server", default="http://127.0.0.1:8081"),
        "token": bpy.props.StringProperty(name="Token", subtype="PASSWORD",
            description="what the server's owner has set, if anything"),
        "own": bpy.props.BoolProperty(name="Start a server where none answers", default=True),
        "program": bpy.props.StringProperty(name="Program", default="threed", subtype="FILE_PATH",
            description="the command threed, such as .venv/bin/threed"),
        "folder": bpy.props.StringProperty(name="Folder", subtype="DIR_PATH",
            description="of its jobs; threed-queue in your own folder if empty"),
    }  # fmt: skip

    def draw(self, context: Context) -> None:
        """Show them."""
        for name in ("url", "token", "own"):
            self.layout.prop(self, name)
        column = self.layout.column()
        column.enabled = self.own
        for name in ("program", "folder"):
            column.prop(self, name)


class Button(bpy.types.Operator):  # type: ignore[misc]
    """Something that can be asked for; what hinders it is said in words."""

    def act(self) -> None:
        """Do it. Refused."""
        raise NotImplementedError

    def execute(self, context: Context) -> set[str]:
        """Do it, or say why not."""
        try:
            self.act()
        except Refused as refused:
            self.report({"ERROR"}, str(refused))
            return {"CANCELLED"}
        session.redraw()
        return {"FINISHED"}


def button(name: str, label: str, about: str, act: Callable[[], None], **more: Any) -> type:
    """A button that needs to know nothing."""
    own = {"bl_idname": f"threed.{name}", "bl_label": label, "bl_description": about,
           "act": lambda self: act(), **more}  # fmt: skip
    return type(f"THREED_OT_{name}", (Button,), own)


class Cancel(Button):
    """Have the job not done; the line of one that failed goes."""

    bl_idname, bl_label = "threed.cancel", "Cancel"
    __annotations__ = {"number": bpy.props.IntProperty()}

    def act(self) -> None:
        """Do it."""
        for row in SESSION.rows:
            if row.number == self.number and row.is_alive:
                row.cancel()
        SESSION.rows[:] = [row for row in SESSION.rows if row.number != self.number or row.is_alive]


class Panel(bpy.types.Panel):  # type: ignore[misc]
    """The panel in the sidebar of the 3D view."""

    bl_idname, bl_label = "THREED_PT_panel", "threed"
    bl_space_type, bl_region_type, bl_category = "VIEW_3D", "UI", "threed"

    def draw(self, context: Context) -> None:
        """Show the server, what to make, what to do with the selected mesh, and the jobs."""
        draw_link(self.layout, SESSION.link)
        wish = context.scene.threed
        column = self.layout.column()
        column.enabled = SESSION.link is not None and SESSION.link.state == "on"
        for name in FIELDS:
            if hasattr(wish, name):
                column.prop(wish, name)
        draw_system(column, wish)
        column.operator("threed.make", icon="ADD")
        box = column.box()
        box.label(text="The selected mesh")
        flags = box.row()
        for name in ("keep_uv", "shape"):
            flags.prop(wish, name)
        acts = box.row(align=True)
        for name in ("paint", "refine", "edit"):
            acts.operator(f"threed.{name}")
        for row in SESSION.rows:
            draw_row(self.layout, row)


def draw_link(layout: Any, link: Link | None) -> None:
    """Show whether there is a server."""
    if link is None or link.state == "off":
        lines(layout, link.trouble if link else "", icon="ERROR")
        layout.operator("threed.connect", icon="LINKED")
    elif link.state == "connecting":
        layout.label(text="Looking for the server…", icon="SORTTIME")
    else:
        row = layout.row()
        row.label(text=link.client.url, icon="LINKED")
        row.operator("threed.leave", text="", icon="UNLINKED")


def draw_system(layout: Any, wish: Any) -> None:
    """Show the systems, and the inputs and knobs of the one that is chosen."""
    if not hasattr(wish, "system"):
        return
    layout.prop(wish, "system")
    system = SESSION.offers.systems.get(wish.system)
    if system is None:
        return
    box, name = layout.box(), wish.system
    lines(box, system.about)
    own = getattr(wish, f"system_{name}")
    for slot in shown(system.slots, lambda field: session.said(f"{name}.{field}")):
        if slot.needed and not slot.number:
            box.label(text="Needed:")
        for told in slot.fields:
            box.prop(own, told.name)
    for told in system.knobs:
        box.prop(own, told.name)


def draw_row(layout: Any, row: Row) -> None:
    """Show a job."""
    box = layout.box()
    head = box.row()
    head.label(text=row.title, icon="ERROR" if row.state == "failed" else "NONE")
    head.operator("threed.cancel", text="", icon="X").number = row.number
    if row.state == "here":
        box.label(text="It comes in when you are back in Object Mode")
    elif row.state == "running":
        box.progress(factor=row.share, text=f"{row.share:.0%}")
    else:
        box.label(text=row.state)
    lines(box, row.message)


def lines(layout: Any, text: str, icon: str = "NONE") -> None:
    """Show a text in lines that fit."""
    line = ""
    for word in text.split():
        if len(line) + len(word) > 40:
            layout.label(text=line, icon=icon)
            line, icon = "", "NONE"
        line = f"{line} {word}".lstrip()
    if line:
        layout.label(text=line, icon=icon)


CLASSES = (
    Preferences,
    button("connect", "Connect", "Look for the server of the preferences, or start it",
           session.connect),
    button("leave", "Leave", "Leave the server; one that was started here ends", session.leave),
    button("make", "Make", "Have an asset made of the prompt; it comes in at the cursor",
           session.make),
    button("paint", "Paint", "Have the selected mesh painted as the prompt says",
           lambda: session.change("texture")),
    button("refine", "Refine", "Have the selected mesh refined towards the prompt",
           lambda: session.change("generate")),
    button("edit", "Edit", "Have the selected mesh changed as the prompt says: make it blue",
           lambda: session.change("edit3d")),
    Cancel,
    Panel,
)  # fmt: skip


def register() -> None:
    """Begin."""
    for one in CLASSES:
        bpy.utils.register_class(one)
    session.offer(session.NOTHING)


def unregister() -> None:
    """End, and leave nothing."""
    if bpy.app.timers.is_registered(session.tick):
        bpy.app.timers.unregister(session.tick)
    for row in SESSION.rows:
        row.left.set()
    SESSION.rows.clear()
    session.leave()
    session.withdraw()
    for one in reversed(CLASSES):
        bpy.utils.unregister_class(one)
