"""What runs inside Blender: import a file, say what became of it, draw it. Knows only bpy.

Called by `exporters.blender` with one JSON object as its last argument, and answers with one line
that begins with MARK.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import bpy
from mathutils import Matrix, Vector

MARK = "threed-blender: "


def load(path: str) -> None:
    """Import a mesh file into an empty scene, with Blender's own importers at their defaults."""
    bpy.ops.wm.read_factory_settings(use_empty=True)
    importers = {
        ".glb": bpy.ops.import_scene.gltf,
        ".obj": bpy.ops.wm.obj_import,
        ".ply": bpy.ops.wm.ply_import,
        ".stl": bpy.ops.wm.stl_import,
        ".usdz": bpy.ops.wm.usd_import,
        ".fbx": bpy.ops.import_scene.fbx,
    }
    importers[Path(path).suffix.lower()](filepath=path)


def meshes() -> list[Any]:
    """List the mesh objects of the scene."""
    return [thing for thing in bpy.context.scene.objects if thing.type == "MESH"]


def points() -> list[Any]:
    """List every vertex, in Blender's world."""
    return [thing.matrix_world @ v.co for thing in meshes() for v in thing.data.vertices]


def bounds() -> list[list[float]]:
    """Find the lower and the upper corner of everything, in Blender's world."""
    every = points()
    return [[pick(point[k] for point in every) for k in range(3)] for pick in (min, max)]


def describe_object(thing: Any) -> dict[str, Any]:
    """Say as data what a mesh object is."""
    data = thing.data
    return {
        "name": thing.name,
        "vertices": len(data.vertices),
        "faces": len(data.polygons),
        "quads": sum(len(face.vertices) == 4 for face in data.polygons),
        "uv_maps": len(data.uv_layers),
        "color_attributes": len(data.color_attributes),
        "custom_normals": bool(data.has_custom_normals),
        "materials": [describe_material(m) for m in data.materials if m is not None],
    }


def describe_material(source: Any) -> dict[str, Any]:
    """Say as data what a material is: its pictures, each with the inputs that it feeds."""
    tree = source.node_tree
    pictures = [node for node in tree.nodes if node.type == "TEX_IMAGE" and node.image]
    surface = next((node for node in tree.nodes if node.type == "BSDF_PRINCIPLED"), None)
    values = {}
    for name in ("Metallic", "Roughness"):
        socket = None if surface is None else surface.inputs[name]
        values[name.lower()] = None if socket is None or socket.is_linked else socket.default_value
    return {
        "name": source.name,
        **values,
        "images": [
            {
                "name": node.image.name,
                "size": list(node.image.size),
                "color_space": node.image.colorspace_settings.name,
                "feeds": sorted(find_inputs(node)),
            }
            for node in pictures
        ],
    }


def find_inputs(node: Any) -> set[str]:
    """Find the names of the surface's inputs that a node's outputs lead to."""
    found = set()
    for output in node.outputs:
        for link in output.links:
            if link.to_node.type == "BSDF_PRINCIPLED":
                found.add(link.to_socket.name)
            elif link.to_node.type != "OUTPUT_MATERIAL":
                found |= find_inputs(link.to_node)
    return found


def add_camera(azimuth_deg: float, elevation_deg: float) -> None:
    """Add a camera that everything just fits into; azimuth 0 is Blender's front view, from -y."""
    scene = bpy.context.scene
    low, high = (Vector(corner) for corner in bounds())
    middle = (low + high) / 2
    radius = max(max((point - middle).length for point in points()), 1e-6)
    azimuth, elevation = math.radians(azimuth_deg), math.radians(elevation_deg)
    flat = math.cos(elevation)
    back = Vector((math.sin(azimuth) * flat, -math.cos(azimuth) * flat, math.sin(elevation)))
    lens = bpy.data.cameras.new("camera")
    lens.angle = math.radians(40)
    camera = bpy.data.objects.new("camera", lens)
    camera.location = middle + back * (radius / math.sin(lens.angle / 2))
    camera.rotation_euler = back.to_track_quat("Z", "Y").to_euler()
    lens.clip_start, lens.clip_end = radius / 100, radius * 100
    scene.collection.objects.link(camera)
    scene.camera = camera


def add_lights() -> None:
    """Add a lamp beside the camera, and a white sky."""
    scene = bpy.context.scene
    lamp = bpy.data.objects.new("lamp", bpy.data.lights.new("lamp", "SUN"))
    lamp.data.energy = 1.3  # with the sky, a white surface is just white where it faces the lamp
    lamp.rotation_euler = scene.camera.rotation_euler
    lamp.rotation_euler.rotate_axis("X", math.radians(-35))
    lamp.rotation_euler.rotate_axis("Y", math.radians(-25))
    scene.collection.objects.link(lamp)
    sky = bpy.data.worlds.new("sky")
    sky.use_nodes = True
    sky.node_tree.nodes["Background"].inputs["Strength"].default_value = 0.55
    sky.node_tree.nodes["Background"].inputs["Color"].default_value = (1, 1, 1, 1)
    scene.world = sky


def draw(path: str, size: int, samples: int) -> None:
    """Render the scene with Cycles on the CPU into a PNG whose background is transparent."""
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.cycles.device = "CPU"
    scene.cycles.samples = samples
    scene.cycles.use_denoising = False
    scene.cycles.seed = 0
    scene.render.resolution_x = scene.render.resolution_y = size
    scene.render.resolution_percentage = 100
    scene.render.film_transparent = True
    scene.render.image_settings.file_format = "PNG"
    scene.render.image_settings.color_mode = "RGBA"
    # the default view transform bends colours like film; this one shows those of the texture
    scene.view_settings.view_transform = "Standard"
    scene.render.filepath = path
    bpy.ops.render.render(write_still=True)


def add_normals(path: str) -> None:
    """Add a normal map to every material."""
    image = bpy.data.images.load(path)
    image.colorspace_settings.name = "Non-Color"
    for material in bpy.data.materials:
        tree = material.node_tree
        surface = next(node for node in tree.nodes if node.type == "BSDF_PRINCIPLED")
        picture = tree.nodes.new("ShaderNodeTexImage")
        picture.image = image
        turn = tree.nodes.new("ShaderNodeNormalMap")
        tree.links.new(picture.outputs["Color"], turn.inputs["Color"])
        tree.links.new(turn.outputs["Normal"], surface.inputs["Normal"])


def write_fbx(path: str) -> None:
    """Write the scene, y up, a unit a metre, no turn or scale left in its objects."""
    for thing in meshes():
        thing.data.transform(thing.matrix_world)
        thing.matrix_world = Matrix()
    bpy.ops.export_scene.fbx(
        filepath=path, object_types={"MESH"}, apply_scale_options="FBX_SCALE_UNITS",
        bake_space_transform=True, use_mesh_modifiers=False, path_mode="COPY", embed_textures=True,
    )  # fmt: skip


def main() -> None:
    """Do what the last argument asks for."""
    asked = json.loads(sys.argv[-1])
    load(asked["source"])
    found = {
        "blender": bpy.app.version_string,
        "objects": [describe_object(thing) for thing in meshes()],
        "bounds": bounds(),
    }
    fbx = asked.get("fbx")
    if fbx is not None:
        if fbx["normal"] is not None:
            add_normals(fbx["normal"])
        write_fbx(fbx["path"])
    picture = asked.get("picture")
    if picture is not None:
        add_camera(picture["azimuth_deg"], picture["elevation_deg"])
        add_lights()
        draw(picture["path"], picture["size"], picture["samples"])
    sys.stdout.write(f"\n{MARK}{json.dumps(found)}\n")


if __name__ == "__main__":
    main()
