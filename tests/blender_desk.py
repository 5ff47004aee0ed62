"""Runs in Blender's Python: the extension, installed, and used as a person would."""

import json
import sys
import time
from types import SimpleNamespace

import bpy
from mathutils import Matrix

ZIP, URL = sys.argv[-2:]
NAME = "bl_ext.user_default.threed"
ICONS = bpy.types.UILayout.bl_rna.functions["label"].parameters["icon"].enum_items.keys()
found = {"url": URL}  # what is seen, by what was done


def wait(session, rows=0, seconds=900):
    """Have the timer called until nothing is to come; rows: so many lines may stay."""
    until = time.monotonic() + seconds
    while session.tick() is not None:
        if time.monotonic() > until:
            raise TimeoutError([(row.state, row.message, row.job) for row in session.SESSION.rows])
        time.sleep(0.05)
    assert len(session.SESSION.rows) == rows, session.SESSION.rows


class Layout:
    """What a panel draws on: it knows what there is to be drawn, and remembers the texts."""

    def __init__(self, texts):
        self.texts, self.layout = texts, self

    def __getattr__(self, name):
        assert name in ("row", "column", "box"), name
        return lambda **_: Layout(self.texts)

    def label(self, text, icon="NONE"):
        assert icon in ICONS
        self.texts.append(text)

    def prop(self, data, name):
        self.texts.append(f"{data.bl_rna.properties[name].name}={getattr(data, name)}")

    def operator(self, name, text=None, icon="NONE"):
        assert icon in ICONS
        kind = getattr(bpy.ops.threed, name.removeprefix("threed.")).get_rna_type()
        self.texts.append(f"[{kind.name}]")
        return SimpleNamespace()

    def progress(self, factor, text):
        self.texts.append(text)


def drawn():
    """What the panel shows, by lines."""
    texts = []
    panel = sys.modules[f"{NAME}.panel"]
    panel.Panel.draw(Layout(texts), bpy.context)
    return texts


def press(name, **said):
    """Press a button; what it says where it refuses."""
    try:
        getattr(bpy.ops.threed, name)(**said)
    except RuntimeError as error:
        return str(error).strip()
    return ""


def data():
    """What there is of classes, properties and the like that an extension may leave behind."""
    own = [name for name in dir(bpy.types) if "threed" in name.lower()]
    return own + [name for name in dir(bpy.types.Scene) if "threed" in name]


def seen(thing):
    """A mesh object as data."""
    image = next(
        node.image for node in thing.data.materials[0].node_tree.nodes if node.type == "TEX_IMAGE"
    )
    return {
        "name": thing.name,
        "place": list(thing.location),
        "size": list(thing.dimensions),
        "faces": len(thing.data.polygons),
        "color": list(image.pixels[:4]),
        "slots": len(thing.material_slots),
    }


def places(thing):
    """The corners of an object, in the world, rounded and in order."""
    bpy.context.view_layer.update()
    return sorted([round(c, 4) for c in thing.matrix_world @ v.co] for v in thing.data.vertices)


def grid(name, uv=True):
    """A mesh of two quads with a transform, two UV maps and two materials, selected."""
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(
        [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (2, 0, 0.5), (2, 1, 0.5)],
        [],
        [(0, 1, 2, 3), (1, 4, 5, 2)],
    )
    for layer in ("first", "second") if uv else ():
        mesh.uv_layers.new(name=layer)
    if uv:
        for number, (u, v) in enumerate(
            [(0, 0), (0.5, 0), (0.5, 1), (0, 1), (0.5, 0), (1, 0), (1, 1), (0.5, 1)]
        ):
            mesh.uv_layers["second"].data[number].uv = (u, v)
        mesh.uv_layers["second"].active_render = True
    for material in ("a", "b"):
        mesh.materials.append(bpy.data.materials.new(material))
    mesh.polygons[1].material_index = 1
    thing = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(thing)
    thing.matrix_world = Matrix.LocRotScale((1, 2, 3), Matrix.Rotation(0.5, 3, "X"), (1, 2, -0.5))
    bpy.context.view_layer.update()
    select(thing)
    return thing


def select(thing):
    """Select one object."""
    for one in bpy.context.view_layer.objects:
        one.select_set(one == thing)
    bpy.context.view_layer.objects.active = thing


def state(thing):
    """What painting must not change."""
    return [
        thing.name,
        [list(row) for row in thing.matrix_world],
        places(thing),
        [[list(one.uv) for one in layer.data] for layer in thing.data.uv_layers],
        [layer.active_render for layer in thing.data.uv_layers],
    ]


bpy.ops.wm.read_factory_settings(use_empty=True)
before = data()
bpy.ops.extensions.package_install_files(filepath=ZIP, repo="user_default", enable_on_install=True)
session = sys.modules[f"{NAME}.session"]
wish = bpy.context.preferences.addons[NAME].preferences
wish.own = False
bpy.context.scene.threed.prompt = "a red mug"
found["unlinked"] = press("make")
found["first"] = drawn()

wish.url = "http://203.0.113.7:9"
found["offline"] = press("connect")
wish.url = "http://127.0.0.1:9"
press("connect")
wait(session)
found["nobody"] = session.SESSION.link.trouble
found["trouble"] = drawn()
wish.url = URL
press("connect")
wait(session)
scene = bpy.context.scene.threed
found["link"] = [session.SESSION.link.state, scene.prompt]
found["systems"] = [name for name in scene.bl_rna.properties.keys() if name.startswith("system_")]
knob = scene.system_prompt_to_prompt.bl_rna.properties["knob_cross_replace"]
found["knob"] = [knob.hard_min, knob.hard_max, round(knob.default, 6), bool(knob.description)]

bpy.context.scene.cursor.location = (1, 2, 3)
scene.candidates = 2
press("make")
found["sent"] = len(session.SESSION.rows)
wait(session)
found["made"] = sorted((seen(thing) for thing in bpy.data.objects), key=lambda one: one["place"])
found["active"] = bpy.context.view_layer.objects.active.name

scene.candidates, scene.height = 1, "6m"
bpy.context.scene.unit_settings.scale_length = 0.01
press("make")
wait(session)
found["scaled"] = seen(bpy.context.view_layer.objects.active)
bpy.context.scene.unit_settings.scale_length = 1
scene.height = ""

thing = grid("grid")
old = state(thing)
count = len(bpy.data.objects)
scene.prompt = "a red grid"
found["paint"] = press("paint")
thing.name = "renamed"
wait(session)
thing.name = "grid"
uv_nodes = [node.uv_map for node in thing.data.materials[0].node_tree.nodes if node.type == "UVMAP"]
found["painted"] = {
    **seen(thing),
    "kept": state(thing) == old,
    "uv": uv_nodes,
    "objects": len(bpy.data.objects) - count,
    "indices": [one.material_index for one in thing.data.polygons],
}

bare = grid("bare", uv=False)
bpy.ops.object.mode_set(mode="EDIT")
press("paint")
found["mode"] = bpy.context.mode
until = time.monotonic() + 900
while session.SESSION.rows[0].state != "here" and time.monotonic() < until:
    session.tick()
    time.sleep(0.05)
found["waits"] = [session.SESSION.rows[0].state, bpy.context.mode]
bpy.ops.object.mode_set(mode="OBJECT")
wait(session)
new = bpy.context.view_layer.objects.active
found["bare"] = {
    **seen(new),
    "hidden": bare.hide_get() and bare.hide_render,
    "matrix": new.matrix_world == bare.matrix_world,
    "places": sorted(map(tuple, set(map(tuple, places(new))))) == sorted(map(tuple, places(bare))),
    "uv": len(new.data.uv_layers),
}

gone = grid("gone")
scene.prompt = "a lost grid"
press("paint")
bpy.context.scene.collection.objects.unlink(gone)
wait(session)
found["gone"] = [
    bpy.context.view_layer.objects.active.name,
    len(gone.data.materials),
    list(bpy.context.view_layer.objects.active.location),
]

for name, prompt in (("refine", "a fine grid"), ("edit", "make it red")):
    thing = grid(name)
    thing.parent = bpy.data.objects.new("parent", None)
    thing.parent.location = (0, 0, 1)
    scene.prompt = prompt
    press(name)
    wait(session)
    new = bpy.context.view_layer.objects.active
    found[name] = [
        new.name,
        new.parent == thing.parent,
        new.matrix_world == thing.matrix_world,
        sorted(set(map(tuple, places(new)))) == sorted(map(tuple, places(thing))),
    ]

scene.prompt = "a red mug"
scene.system = "rpg"
scene.system_rpg.input_region_0 = "0,0,0.5,1:a red mug"
scene.system_rpg.input_region_1 = "0.5,0,1,1:a blue mug"
scene.system_rpg.knob_base_ratio = 0.3
press("make")
found["shown"] = drawn()
found["system"] = {key: session.SESSION.rows[0].job[key] for key in ("system", "inputs", "knob")}
wait(session)
scene.system = "-"

scene.prompt = "no"
press("make")
wait(session, rows=1)
found["reason"] = drawn()
found["failed"] = [session.SESSION.rows[0].state, session.SESSION.rows[0].message]
press("cancel", number=session.SESSION.rows[0].number)
found["dismissed"] = len(session.SESSION.rows)

scene.prompt = "slow"
press("make")
until = time.monotonic() + 900
while session.SESSION.rows[0].share == 0 and time.monotonic() < until:
    time.sleep(0.05)
found["running"] = session.SESSION.rows[0].state
press("cancel", number=session.SESSION.rows[0].number)
wait(session)
found["cancelled"] = len(session.SESSION.rows)

scene.prompt = " "
found["wordless"] = press("make")
scene.prompt = "a red mug"
select(None)
found["unselected"] = press("paint")
empty = bpy.data.objects.new("empty", bpy.data.meshes.new("empty"))
bpy.context.scene.collection.objects.link(empty)
select(empty)
found["empty"] = press("refine")
scene.settings = "stepz=3"
press("make")
wait(session, rows=1)
found["wrong"] = session.SESSION.rows[0].message

wish.token = "not-what-it-has"
own = {name: getattr(wish, name) for name in ("url", "token", "own", "program", "folder", "bl_rna")}
found["preferences"] = []
sys.modules[f"{NAME}.panel"].Preferences.draw(
    SimpleNamespace(layout=Layout(found["preferences"]), **own), bpy.context
)
press("leave")
bpy.ops.preferences.addon_disable(module=NAME)
found["left"] = [name for name in data() if name not in before]
found["timer"] = bpy.app.timers.is_registered(session.tick)
bpy.ops.preferences.addon_enable(module=NAME)
found["again"] = hasattr(bpy.types.Scene, "threed")
bpy.ops.preferences.addon_disable(module=NAME)
sys.stdout.write("found: " + json.dumps({"version": bpy.app.version_string, **found}) + "\n")
