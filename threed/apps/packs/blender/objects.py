"""Objects of Blender, on their way to a server, and what comes from there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import bpy
from mathutils import Matrix, Vector

from threed.apps.packs.client import Refused

Act = Literal["make", "paint", "replace"]
GAP = 1.25  # widths from one candidate to the next


@dataclass(frozen=True)
class Goal:
    """What becomes of an asset that comes."""

    act: Act
    place: tuple[float, float, float]  # of the cursor
    number: int = 0  # among candidates
    scale: float = 1.0  # units of the scene in a unit of the asset
    uid: int = 0  # of the object that was sent
    sent: tuple[tuple[float, ...], ...] = ()  # its matrix then
    uv: str = ""  # its texture coordinates, if they are kept


def selected() -> Any:
    """The mesh object that is meant: the active one. Refused where there is none."""
    thing = bpy.context.view_layer.objects.active
    if thing is None or thing.type != "MESH" or not thing.select_get():
        raise Refused(0, "select a mesh first")
    if thing.library or thing.data.library:
        raise Refused(0, f"{thing.name} is linked from another file: make it local first")
    thing.update_from_editmode()
    return thing


def uv_of(thing: Any) -> str:
    """The name of the texture coordinates that are drawn; empty if there are none."""
    return next((layer.name for layer in thing.data.uv_layers if layer.active_render), "")


@contextmanager
def alone(objects: list[Any]) -> Iterator[None]:
    """Within, these objects are selected and no others, in Object Mode, and a unit is a metre.

    Blender's glTF makes something of units where it reads, and nothing where it writes.
    """
    layer, units = bpy.context.view_layer, bpy.context.scene.unit_settings
    length, units.scale_length = units.scale_length, 1.0
    before, active = [thing for thing in layer.objects if thing.select_get()], layer.objects.active
    mode = active.mode if active is not None else "OBJECT"
    if mode != "OBJECT":
        bpy.ops.object.mode_set(mode="OBJECT")
    for thing in before:
        thing.select_set(False)
    for thing in objects:
        thing.select_set(True)
    try:
        yield
    finally:
        units.scale_length = length
        for thing in layer.objects:
            thing.select_set(thing in before)
        layer.objects.active = active
        if mode != "OBJECT":
            bpy.ops.object.mode_set(mode=mode)


def write(thing: Any) -> Path:
    """A GLB of a mesh object as it is seen, where it stands in the world, in a new folder.

    Of its texture coordinates those that are drawn are left. Refused if it has no faces.
    """
    graph = bpy.context.evaluated_depsgraph_get()
    mesh = bpy.data.meshes.new_from_object(
        thing.evaluated_get(graph), preserve_all_data_layers=True, depsgraph=graph
    )
    if not mesh.polygons:
        bpy.data.meshes.remove(mesh)
        raise Refused(0, f"{thing.name} has no faces")
    for name in [layer.name for layer in mesh.uv_layers if not layer.active_render]:
        mesh.uv_layers.remove(mesh.uv_layers[name])
    mesh.transform(thing.matrix_world)
    if thing.matrix_world.is_negative:
        mesh.flip_normals()
    copy = bpy.data.objects.new("threed", mesh)
    bpy.context.scene.collection.objects.link(copy)
    path = Path(tempfile.mkdtemp(prefix="threed-")) / "mesh.glb"
    try:
        with alone([copy]):
            bpy.ops.export_scene.gltf(filepath=str(path), export_format="GLB", use_selection=True,
                                      export_animations=False)  # fmt: skip
    except (RuntimeError, AttributeError) as error:
        shutil.rmtree(path.parent)
        raise Refused(0, f"Blender cannot write {thing.name} as glTF: {error}") from error
    finally:
        bpy.data.meshes.remove(mesh)  # and the object with it
    return path


def read(content: bytes) -> Any:
    """The mesh object of a GLB, new in the scene, its mesh as it stands in the world."""
    before = set(bpy.data.objects)
    with tempfile.TemporaryDirectory(prefix="threed-") as folder, alone([]):
        path = Path(folder) / "asset.glb"
        path.write_bytes(content)
        try:
            bpy.ops.import_scene.gltf(filepath=str(path))
        except (RuntimeError, AttributeError) as error:
            raise Refused(0, f"Blender cannot read the asset: {error}") from error
    new = [thing for thing in bpy.data.objects if thing not in before]
    found = next((thing for thing in new if thing.type == "MESH"), None)
    if found is None or not found.data.materials:
        raise Refused(0, "the asset has no mesh, or no material")
    bpy.context.view_layer.update()
    place = found.matrix_world.copy()
    found.parent = None
    for thing in new:
        if thing is not found:
            bpy.data.objects.remove(thing)
    found.data.transform(place)
    found.matrix_world = Matrix()
    found.rotation_mode = "XYZ"
    found.data.name = found.name
    return found


def bring(content: bytes, goal: Goal) -> Any:
    """Bring an asset in as its goal says, at the cursor if what was sent is no longer in sight.

    Returns its object, which is selected. Refused.
    """
    layer = bpy.context.view_layer
    old = next((thing for thing in layer.objects if thing.session_uid == goal.uid), None)
    new = read(content)
    if old is None:
        place(new, goal)
    elif goal.act == "paint" and goal.uv in old.data.uv_layers:
        paint(old, new, goal.uv)
        new = old
    else:
        new = replace(old, new, Matrix(goal.sent))
    for thing in layer.objects:
        thing.select_set(thing == new)
    if new.name in layer.objects:  # its collection may be left out
        layer.objects.active = new
    return new


def place(new: Any, goal: Goal) -> None:
    """Put an asset at the cursor, candidates in a row."""
    new.data.transform(Matrix.Scale(goal.scale, 4))
    bpy.context.view_layer.update()
    new.location = Vector(goal.place) + Vector((GAP * goal.number * new.dimensions.x, 0, 0))


def paint(old: Any, new: Any, uv: str) -> None:
    """Give an object the material of another, which goes; all else of it stays."""
    material, mesh = new.data.materials[0], new.data
    bpy.data.objects.remove(new)
    bpy.data.meshes.remove(mesh)
    for node in [one for one in material.node_tree.nodes if one.type == "TEX_IMAGE"]:
        if not node.inputs["Vector"].is_linked:
            source = material.node_tree.nodes.new("ShaderNodeUVMap")
            source.uv_map = uv
            source.location = (node.location.x - 220, node.location.y)
            material.node_tree.links.new(source.outputs["UV"], node.inputs["Vector"])
    old.data.materials.clear()
    old.data.materials.append(material)
    old.data.polygons.foreach_set("material_index", [0] * len(old.data.polygons))
    for slot in old.material_slots:
        slot.link = "DATA"
    old.data.update()


def replace(old: Any, new: Any, sent: Any) -> Any:
    """Put an asset where an object is, with all that moves it; the object is hidden."""
    mesh, name = new.data, new.name
    bpy.data.objects.remove(new)
    mesh.transform(sent.inverted_safe())
    if sent.is_negative:
        mesh.flip_normals()
    found = old.copy()
    found.modifiers.clear()  # the asset was made of what they had made
    found.data, found.name = mesh, name
    found.vertex_groups.clear()
    for collection in old.users_collection:
        collection.objects.link(found)
    old.hide_render = True
    old.hide_set(True)
    return found
