"""Runs of several scenes, and runs that begin with a mesh: chained, cut, resumed, refused."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from torch import Generator, Tensor

from exporters import load
from guidance import Frozen
from tests import shapes, tiny
from threed.core.cameras import Cameras
from threed.core.errors import InputError
from threed.core.render import RenderOutput
from threed.core.schedule import constant
from threed.runs import loop as pipeline
from threed.runs import optimise as optimising
from threed.runs.folder import RunFolder, RunWarning
from threed.runs.generate import generate, resume, texture
from threed.runs.given import GivenMesh, read_given
from threed.runs.memory import SMALLEST, Chunk
from threed.runs.optimise import StageRun, look, make_optimizer, optimise, random_cameras
from threed.runs.stages import begin, check_mesh, follow
from threed.runs.start import for_mesh
from threed.scenes.field import Field
from threed.scenes.surface import Surface
from threed.scenes.textured import Textured
from threed.settings.asset import AssetSettings
from threed.settings.base import replace
from threed.settings.presets import load_run
from threed.settings.run import Run, SystemSettings
from threed.settings.scenes import FieldSettings, PaintSettings, SurfaceSettings, TexturedSettings
from threed.settings.stage import CameraSettings, LampSettings, Stage

PAINT = PaintSettings(levels=3, log2_table=10, max_resolution=24, hidden=16, copy_steps=5)
CPU = torch.device("cpu")
ASSET = AssetSettings(
    faces=300, texture=64, resolution=24, turntable_frames=4, turntable_size=32, preview_size=16
)
FIELD = FieldSettings(
    levels=3, start_levels=3, log2_table=10, max_resolution=24, hidden=16, samples=24, occupancy=12
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.tiny_folder(tmp_path_factory.mktemp("models") / "tiny", "multiview"))


def make_run(*kinds: str, backbone: str = "", steps: int = 2, **changes: Any) -> Run:
    stages = tuple(
        Stage(scene=kind, steps=steps, resolution=constant(12 + 4 * i))  # type: ignore[arg-type]
        for i, kind in enumerate(kinds)
    )
    run = Run(backbone=backbone, seed=1, preview_every=100, checkpoint_every=1, stages=stages)
    run = replace(run, field=FIELD, surface=SurfaceSettings(grid=16), paint=PAINT, asset=ASSET)
    return replace(run, **changes)


def events(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]


def mug(path: Path, kind: str = "glb", scale: float = 40.0) -> Path:
    """Somebody's mesh: large, off the middle, with a map and a texture if the format has one."""
    solid = trimesh.creation.cylinder(radius=scale, height=2 * scale, sections=12)
    solid.apply_translation([7 * scale, 0, 0])
    uv = np.random.default_rng(0).random((len(solid.vertices), 2))
    solid.visual = trimesh.visual.TextureVisuals(uv=uv)
    if kind == "gltf":  # a file of several, which trimesh would leave open
        for name, data in solid.export(file_type=kind).items():
            (path / name.replace("model", "mug")).write_bytes(data)
    else:
        solid.export(path / f"mug.{kind}")
    return path / f"mug.{kind}"


# chains


def test_field_surface_texture_follow_one_another_and_can_be_cut_anywhere(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("field", "surface", "textured", backbone=model)
    whole = generate("a red mug", run, out=tmp_path / "a")
    steps = [(line["stage"], line["step"]) for line in events(tmp_path / "a") if "step" in line]
    assert steps == [(i, k) for i in range(3) for k in (1, 2)]
    for index in (1, 2):

        def cut(part: StageRun, *rest: Any, at: int = index) -> None:
            if part.index == at:
                short = replace(part.folder.run.stages[at], steps=1)
                stages = (*part.folder.run.stages[:at], short, *part.folder.run.stages[at + 1 :])
                folder = dataclasses.replace(
                    part.folder, run=replace(part.folder.run, stages=stages)
                )
                digest = part.folder.run.digest()
                with monkeypatch.context() as inner:
                    inner.setattr(Run, "digest", lambda _: digest)
                    optimise(dataclasses.replace(part, folder=folder), *rest)
                raise KeyboardInterrupt
            optimise(part, *rest)

        path = tmp_path / f"cut{index}"
        with monkeypatch.context() as patch:
            patch.setattr(pipeline, "optimise", cut)
            with pytest.raises(KeyboardInterrupt):
                generate("a red mug", run, out=path)
        saved = RunFolder.open(path).latest_checkpoint()
        assert saved is not None
        assert (saved.stage, saved.step) == (index, 1)
        assert resume(path).glb.read_bytes() == whole.glb.read_bytes()


def test_the_surface_of_a_field_looks_like_it(model: str) -> None:
    run = make_run("surface")
    ball = shapes.Ball()
    surface = follow(ball, run, "surface", CPU)  # type: ignore[arg-type]
    assert isinstance(surface, Surface)
    radius = surface.solid().vertices.norm(dim=-1)
    assert float(radius.mean()) == pytest.approx(ball.RADIUS, abs=0.02)
    same = follow(surface, run, "surface", CPU)
    assert same is surface, "a stage of the same scene goes on with it"
    painted = follow(surface, run, "textured", CPU)
    assert isinstance(painted, Textured)
    again = painted.solid().vertices.norm(dim=-1)
    assert float(again.mean()) == pytest.approx(float(radius.mean()), abs=0.02)


class Away(Frozen):
    """Guidance that wants nothing to be there."""

    def __call__(
        self, image: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> dict[str, Tensor]:
        return {"away": (image - 1).square().mean()}


def test_a_surface_that_vanishes_is_rolled_back_and_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("surface", steps=30)
    run = replace(run, checkpoint_every=100)
    scene = begin(run, None, CPU)
    assert isinstance(scene, Surface)
    kept = Surface.march

    def vanish(self: Surface) -> Any:
        with torch.no_grad():
            self.distance.add_(0.5)
        return kept(self)

    monkeypatch.setattr(Surface, "march", vanish)
    folder = RunFolder.create(tmp_path / "run", "a mug", run)
    with pytest.raises(InputError, match=r"the surface has vanished near step \d+ of stage 0"):
        optimise(StageRun(folder, 0, scene, Away(), 1))
    assert [e["event"] for e in events(folder.path) if "event" in e] == ["rollback"] * 2


# memory


def test_out_of_memory_halves_the_chunk_and_changes_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run("field", steps=3)
    room = SMALLEST * 4
    kept = optimising.look

    def tight(part: StageRun, *rest: Any) -> RenderOutput:
        if part.chunk.size > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return kept(part, *rest)

    class Grey(Frozen):
        def __call__(self, image: Tensor, *rest: Any) -> dict[str, Tensor]:
            return {"grey": (image - 0.5).square().sum()}

    scenes = []
    for name, limited in (("plenty", False), ("tight", True)):
        folder = RunFolder.create(tmp_path / name, "a mug", run)
        scene = begin(run, None, CPU)
        with monkeypatch.context() as patch:
            if limited:
                patch.setattr(optimising, "look", tight)
            optimise(StageRun(folder, 0, scene, Grey(), 1, Chunk(room * 4)))
        scenes.append(scene.state_dict())
    said = [e for e in events(tmp_path / "tight") if "event" in e]
    assert [(e["event"], e["step"], e["chunk"]) for e in said] == [
        ("out of memory", 0, room * 2),
        ("out of memory", 0, room),
    ]
    for name, value in scenes[0].items():
        assert torch.allclose(value.float(), scenes[1][name].float(), atol=1e-6), name


def test_out_of_memory_in_the_smallest_chunk_is_an_error(tmp_path: Path) -> None:
    class Hungry(Frozen):
        def __call__(self, *_: Any) -> dict[str, Tensor]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    run = make_run("surface")
    folder = RunFolder.create(tmp_path / "run", "a mug", run)
    part = StageRun(folder, 0, begin(run, None, CPU), Hungry(), 1, Chunk(SMALLEST * 2))
    with pytest.raises(RuntimeError, match="can't allocate"):
        optimise(part)
    said = [e["chunk"] for e in events(folder.path) if e.get("event") == "out of memory"]
    assert said == [SMALLEST], "once per halving"


# meshes from elsewhere


@pytest.mark.parametrize("kind", ["glb", "gltf", "obj", "ply", "stl"])
def test_a_mesh_of_any_scale_comes_into_the_ball_upright(tmp_path: Path, kind: str) -> None:
    given = read_given(mug(tmp_path, kind), "z")
    low, high = given.mesh.bounds()
    assert float(given.mesh.vertices.norm(dim=-1).max()) == pytest.approx(0.8, abs=1e-4)
    assert torch.allclose(low, -high, atol=1e-4)
    assert float(high[2]) == pytest.approx(float(high[0]), rel=0.05), "as high as it is wide"
    original = load(tmp_path / f"mug.{kind}")
    assert torch.allclose(given.placement.out(given.mesh).vertices, original.vertices, atol=1e-3)
    turned = read_given(tmp_path / f"mug.{kind}", "y")
    axis = given.mesh.vertices[:, 2].sort().values
    assert torch.allclose(turned.mesh.vertices[:, 0].sort().values, axis, atol=1e-4)


def test_a_mesh_that_faces_elsewhere_is_turned_to_the_front_and_back(tmp_path: Path) -> None:
    nose = trimesh.Trimesh([[0, -3, 0], [1, 1, 0], [-1, 1, 0], [0, 0, 1]],
                           [[0, 1, 2], [0, 1, 3], [1, 2, 3], [2, 0, 3]])  # fmt: skip
    for turn, front in ((0, 0.0), (1, 90.0), (3, 270.0), (3, -90.0)):
        around = trimesh.transformations.rotation_matrix(turn * np.pi / 2, [0, 0, 1])
        nose.copy().apply_transform(around).export(tmp_path / "nose.ply")
        given = read_given(tmp_path / "nose.ply", front=front)
        tip = given.mesh.vertices[given.mesh.vertices[:, 0].argmax()]
        assert float(tip[0]) > 0.5, "its front is at +x"
        assert tip[1:2].abs() < 1e-5
        back = given.placement.out(given.mesh).vertices
        assert torch.allclose(back, load(tmp_path / "nose.ply").vertices, atol=1e-5)
    with pytest.raises(InputError, match="front must be an angle in degrees, got nan"):
        read_given(tmp_path / "nose.ply", front=float("nan"))
    for words in ({"front": 90.0}, {"up": "y"}):
        with pytest.raises(InputError, match="up and front are of a mesh to begin with"):
            generate("a mug", make_run("surface"), out=tmp_path / "none", **words)
    assert not (tmp_path / "none").exists()


def test_a_given_mesh_is_kept_exactly(tmp_path: Path) -> None:
    mesh = shapes.sphere()
    uv = torch.rand(9, 2, dtype=torch.float64)
    mesh = dataclasses.replace(mesh, uv=uv, uv_faces=torch.randint(9, mesh.faces.shape))
    albedo = torch.rand(4, 5, 3)
    mesh = dataclasses.replace(mesh, material=dataclasses.replace(mesh.material, albedo=albedo))
    body = shapes.cube()
    given = GivenMesh(mesh, read_given(mug(tmp_path)).placement, body)
    path = tmp_path / "init.pt"
    path.write_bytes(given.to_bytes())
    again = GivenMesh.from_file(path)
    assert again.placement == given.placement
    assert again.body is not None
    assert torch.equal(again.body.vertices, body.vertices)
    assert torch.equal(again.body.faces, body.faces)
    path.write_bytes(dataclasses.replace(given, body=None).to_bytes())
    assert GivenMesh.from_file(path).body is None
    for name in ("vertices", "faces", "colors", "uv", "uv_faces"):
        assert torch.equal(getattr(again.mesh, name), getattr(mesh, name))
    assert again.mesh.material.albedo is not None
    assert torch.equal(again.mesh.material.albedo, mesh.material.albedo)  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"init\.pt is damaged"):
        GivenMesh.from_file(path)


def test_broken_meshes_are_repaired_or_refused_with_the_reason(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(2, 3.0)
    ball.faces = np.concatenate([ball.faces[5:], ball.faces[7:9], [[0, 1, 80]]])  # open, crowded
    ball.invert()
    ball.export(tmp_path / "broken.ply")
    run = make_run("surface")
    given = read_given(tmp_path / "broken.ply")
    same, notes = check_mesh(run, given)
    assert same is given
    assert len(notes) == 1
    assert notes[0].startswith("the mesh was repaired (")
    assert "holes: " in notes[0]
    scene = begin(run, given, CPU)
    assert isinstance(scene, Surface)
    radius = scene.solid().vertices.norm(dim=-1)
    assert float(radius.median()) == pytest.approx(0.8, abs=0.05)

    sheet = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0]], [[0, 1, 2]])
    sheet.export(tmp_path / "sheet.stl")
    with pytest.raises(InputError, match="encloses nothing"):
        check_mesh(run, read_given(tmp_path / "sheet.stl"))
    trimesh.Trimesh([[1, 1, 1]] * 3, [[0, 1, 2]], process=False).export(tmp_path / "point.ply")
    with pytest.raises(InputError, match=r"point\.ply has no extent"):
        read_given(tmp_path / "point.ply")


def test_too_many_faces_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threed.runs.given.MAX_FACES", 10)
    with pytest.raises(InputError, match=r"has 48 faces; at most 10 can be worked on.*--budget"):
        read_given(mug(tmp_path))


def test_a_mesh_is_painted_in_its_own_map_where_it_stood_and_resumed(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = mug(tmp_path)
    run = make_run("textured", backbone=model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)  # a random map overlaps
        whole = texture(path, "a red mug", run, keep_uv=True, out=tmp_path / "a")
    before, after = load(path), whole.mesh
    assert before.uv is not None
    assert after.uv is not None
    assert after.uv_faces is not None
    assert torch.equal(before.uv[before.uv_faces], after.uv[after.uv_faces]), "bit by bit"
    assert torch.allclose(before.vertices[before.faces], after.vertices[after.faces], rtol=1e-5)
    assert after.material.albedo is not None
    assert {p.name for p in whole.folder.iterdir()} >= {
        "asset.glb", "asset.obj", "turntable.mp4", "preview.png", "report.json", "init.pt",
    }  # fmt: skip

    def cut(part: StageRun, *rest: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", RunWarning)
        patch.setattr(pipeline, "optimise", cut)
        with pytest.raises(KeyboardInterrupt):
            texture(path, "a red mug", run, keep_uv=True, out=tmp_path / "b")
    assert resume(tmp_path / "b").glb.read_bytes() == whole.glb.read_bytes()


def test_a_mesh_without_colours_gets_a_new_map_and_stays_where_it_was(
    tmp_path: Path, model: str
) -> None:
    run = make_run("field", "surface", backbone=model, steps=1)
    path = mug(tmp_path, "stl")
    asset = generate("a red mug", run, init=path, out=tmp_path / "a")
    assert [stage.scene for stage in RunFolder.open(asset.folder).run.stages] == ["surface"]
    assert asset.mesh.uv is not None
    assert asset.report.watertight
    expected = load(path).bounds()
    assert torch.allclose(asset.mesh.bounds(), expected, atol=0.1 * 40)


def test_what_cannot_begin_with_a_mesh_is_said_before_a_folder_is_made(
    tmp_path: Path, model: str
) -> None:
    out, path = tmp_path / "a", mug(tmp_path)
    bare = mug(tmp_path, "stl")
    kept = replace(make_run("textured", backbone=model), textured=TexturedSettings(keep_uv=True))
    for run, init, message in (
        (make_run("field", backbone=model), path, "a field cannot begin with a mesh"),
        (make_run("textured", backbone=model), None, "a textured stage paints a mesh"),
        (replace(kept, stages=make_run("surface").stages), path, "keep_uv needs a run of textured"),
        (kept, bare, "has no texture coordinates that could be kept"),
        (make_run("surface", backbone=model), tmp_path / "none.glb", "none.glb: no such file"),
        (make_run("surface", backbone=model), tmp_path / "a.blend", "must end in one of"),
    ):
        with pytest.raises(InputError, match=message):
            generate("a red mug", run, init=init, out=out)
    assert not out.exists()
    flat = load(path)
    flat = dataclasses.replace(flat, uv=torch.zeros(1, 2), uv_faces=torch.zeros_like(flat.faces))
    with pytest.raises(InputError, match="cover nothing"):
        check_mesh(kept, GivenMesh(flat, read_given(path).placement))


def test_the_order_of_scenes_and_the_names_of_losses_are_checked() -> None:
    with pytest.raises(InputError, match=r"stages.1: a field cannot follow a surface"):
        make_run("surface", "field")
    with pytest.raises(InputError, match=r"a surface guided by mvdream has no loss 'orientation'"):
        Stage(scene="surface", losses={"orientation": constant(1)})
    with pytest.raises(InputError, match="no loss 'laplacien'; did you mean 'laplacian'"):
        Stage(scene="surface", losses={"laplacien": constant(1)})
    assert [s.scene for s in for_mesh(load_run("magic3d")).stages] == ["surface"]


def test_toyboxs_presets_share_their_stages() -> None:
    whole, painted = load_run("toybox-mvdream"), load_run("toybox-texture")
    _, even, marks = whole.stages
    assert [stage.scene for stage in whole.stages] == ["field", "textured", "textured"]
    assert (marks.resolution(0), marks.backbone) == (128, "toybox-hd-multiview")
    assert painted.stages == (even, replace(marks, backbone=None, resolution=constant(64)))
    also = {"stages": whole.stages, "field": whole.field, "paint": whole.paint}
    assert replace(painted, asset=whole.asset, **also) == whole
    refined = load_run("toybox-magic3d")
    assert (refined.stages[0], *refined.stages[2:]) == whole.stages
    assert refined.stages[1].backbone == "toybox-hd-multiview"
    assert refined.paint == whole.paint


def test_under_a_system_its_own_backbone_guides_all_stages() -> None:
    run = load_run("toybox-magic3d")
    hd = "toybox-hd-multiview"
    named = ["toybox-multiview", hd, "toybox-multiview", hd]
    assert [run.backbone_of(stage) for stage in run.stages] == named
    steered = replace(run, system=SystemSettings(name="ip_adapter"))
    assert {steered.backbone_of(stage) for stage in run.stages} == {"toybox-multiview"}
    for name in ("magic3d", "texture"):
        refined = load_run(name).stages[-1]
        assert (refined.resolution(0), refined.weighting) == (512, "sigma2")
        assert (refined.t_min(0), refined.t_max(3000)) == (0.02, 0.5)


def test_a_step_has_as_many_views_and_as_far_as_its_stage_says() -> None:
    cameras = CameraSettings(zoom=(1.5, 1.5), distance_by="none", jitter=0.1)
    stage = Stage(batch={0: 8, 5: 4}, cameras=cameras)
    for step, views in ((0, 8), (4, 8), (5, 4), (99, 4)):
        drawn = random_cameras(stage, step, 4, torch.Generator().manual_seed(step))
        assert len(drawn) == views
        assert ((drawn.distance - 1.5).abs() <= 0.1 * 3**0.5).all()


@pytest.mark.parametrize(("name", "kept"), [("adam", 1.0), ("adamw", 0.999)])
def test_adamw_alone_lets_weights_decay(name: str, kept: float) -> None:
    scene = Surface(SurfaceSettings(grid=8), PaintSettings(levels=2, log2_table=4))
    before = [p.detach().clone() for p in scene.paint.mlp.parameters()]
    optimizer = make_optimizer(Stage(optimizer=name, lr=1.0, resolution=16), scene)
    for parameter in scene.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for old, new in zip(before, scene.paint.mlp.parameters()):
        torch.testing.assert_close(new.detach(), old * kept)


@pytest.mark.parametrize("kind", ["field", "surface", "textured"])
def test_the_lamp_of_a_stage_lights_each_kind_of_scene_from_its_step_on(
    kind: str, tmp_path: Path
) -> None:
    late = {0: 0, 4: 0, 5: 1}
    stage = Stage(scene=kind, steps=9, batch=1, resolution=24, random_background=0,
                  lamp=LampSettings(share=late, textureless=1.0))  # fmt: skip
    field = FieldSettings(levels=4, log2_table=8, max_resolution=16, shading=1.0)
    surface, textured = SurfaceSettings(grid=12, shading=1.0), TexturedSettings(shading=1.0)
    run = Run(device="cpu", field=field, surface=surface, textured=textured, paint=PAINT,
              stages=(stage,))  # fmt: skip
    scene: Field | Surface | Textured = Field(field)
    if kind != "field":
        scene = Surface(surface, PAINT) if kind == "surface" else Textured(textured, PAINT)
    if isinstance(scene, Textured):
        scene.wrap(shapes.sphere(0.6, 8, 12))
    folder = RunFolder.create(tmp_path / "run", "a mug", run)
    part = StageRun(folder, 0, scene, Frozen(), 1)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in scene.parameters():  # colours that are no grey
            parameter += 0.3 * torch.linspace(0, 1, parameter.numel()).view_as(parameter)

    def spread(step: int) -> float:
        generator = torch.Generator().manual_seed(step)
        with torch.no_grad():
            rgb = look(part, step, random_cameras(stage, step, 1, generator), generator).rgb
        return float((rgb.amax(-1) - rgb.amin(-1)).max())

    assert spread(4) > 1e-3
    assert spread(5) < 1e-4
