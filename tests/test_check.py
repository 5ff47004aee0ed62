"""What is wrong with a run is said from its settings alone; what is right is loaded once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from tests import tiny
from tests.test_architecture import ROOT
from tests.test_guides import SMALL
from tests.tiny_flow import tiny_flow, tiny_refiner
from threed.core.schedule import constant
from threed.diffusion.catalog import facts, load_backbone
from threed.diffusion.models import latent
from threed.runs.generate import generate
from threed.settings.asset import AssetSettings
from threed.settings.base import replace
from threed.settings.presets import load_run
from threed.settings.scenes import PaintSettings, SurfaceSettings

UNET = {"backbone": "single", "stages.0.guidance": "sds"}
EDIT = {**UNET, "stages.0.scene": "textured", "stages.0.guidance": "edit"}
# settings that differ from the default run, the mesh, and what is said
MISTAKES: list[tuple[dict[str, object], str | None, str]] = [
    ({"backbone": "nowhere"}, None, "there is no backbone 'nowhere'"),
    ({"backbone": "cut"}, None, "truncated: it has"),
    ({**UNET, "backbone": "several"}, None, "is multi-view, but guidance is 'sds'"),
    ({"backbone": "single"}, None, "is single-view, but guidance is 'mvdream'"),
    ({"stages.0.batch": 6}, None, "batch must be a multiple of the 4 views"),
    ({**UNET, "stages.0.guidance": "csd", "system.name": "rpg"}, None, "takes prompts apart"),
    ({"system.name": "rpg"}, None, "system 'rpg' sees one view at a time"),
    ({**UNET, "backbone": "flow", "system.name": "rpg"}, None, "needs a backbone with a UNet"),
    ({"stages.0.guidance": "vsd", "stages.0.critic.model": "single"}, None,
     "cannot judge the latents of .*: views is 1, not 4"),
    ({**UNET, "backbone": "flow", "stages.0.guidance": "vsd"}, None, "trains a LoRA in a UNet"),
    ({"stages.0.guidance": "dreamflow", "stages.0.t_max": {0: 0.9, 9: 0.5}}, None,
     "dreamflow has a schedule of its own"),
    ({"stages.0.guidance": "dreamflow", "stages.0.noise_levels": 900}, None,
     "noise_levels must be at most the 400 steps"),
    ({"stages.0.scene": "textured"}, None, "a textured stage paints a mesh"),
    ({}, "mug.glb", "a field cannot begin with a mesh"),
    ({"stages.0.scene": "surface", "textured.keep_uv": True}, "mug.glb", "keep_uv needs a run of"),
    ({**EDIT, "stages.0.scene": "surface"}, None, "guidance=edit changes an asset"),
    (EDIT, "mug.glb", "random_background must be 0 with guidance=edit"),
    ({**EDIT, "stages.0.random_background": 0, "stages.0.grey_background": 1}, "mug.glb",
     "grey_background must be 0 with guidance=edit"),
    ({**EDIT, "stages.0.random_background": 0, "stages.0.guidance_scale": {0: 7, 9: 2}}, "mug.glb",
     "guidance_scale must be one number with guidance=edit"),
    ({"memory": 0.1}, None, "stage 0: field needs about 0.[0-9] GiB on cpu"),
    ({"best_of": 1, "out": "used"}, None, "is not empty; choose another --out"),
    ({"prompt": " "}, None, "the prompt is empty"),
    ({"stages.0.losses": {"sparsty": 1}}, None, "no loss 'sparsty'; did you mean 'sparsity'"),
]  # fmt: skip
ASK = """
import json, re, sys
from threed.core.errors import InputError
from threed.runs.generate import generate
from threed.settings.presets import load_run
for changes, mesh, message in json.loads(sys.stdin.read()):
    prompt, out = changes.pop("prompt", "a mug"), changes.pop("out", "out")
    words = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    try:
        generate(prompt, load_run("plain.yaml", ["device=cpu", *words]), init=mesh, out=out)
    except InputError as error:
        said = str(error)
    print(json.dumps([bool(re.search(message, said)), "torch" in sys.modules, message, said]))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models: single, several, flow, refiner, and one that is cut short."""
    path = tmp_path_factory.mktemp("place")
    tiny.tiny_folder(path / "single")
    tiny.tiny_folder(path / "several", "multiview")
    tiny_flow(path / "flow")
    tiny_refiner(path / "refiner")
    tiny.tiny_folder(path / "cut")
    weights = next((path / "cut" / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    (path / "plain.yaml").write_text("backbone: toybox-multiview")
    (path / "used").mkdir()
    (path / "used" / "thesis.txt").write_text("mine")
    return path


def test_mistakes_are_named_without_torch(place: Path) -> None:
    def located(changes: dict[str, object]) -> dict[str, object]:
        full = {"single": "single", "several": "several/unet_multiview", "flow": "flow",
                "cut": "cut"}  # fmt: skip
        return {name: str(place / full[value]) if isinstance(value, str) and value in full
                else value for name, value in changes.items()}  # fmt: skip

    cases = [(located(changes), mesh, message) for changes, mesh, message in MISTAKES]
    answer = subprocess.run(
        [sys.executable, "-c", ASK], input=json.dumps(cases), capture_output=True, text=True,
        check=False, cwd=place, env={"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    found = [json.loads(line) for line in answer.stdout.splitlines()]
    assert len(found) == len(MISTAKES)
    for told, heavy, message, said in found:
        assert told, f"{message!r} was expected, and this was said: {said}"
        assert not heavy, f"torch was imported to say: {said}"
    assert not (place / "out").exists()


def test_a_plan_and_what_judges_runs_need_no_torch(place: Path) -> None:
    code = (
        "import sys\nfrom threed.runs.generate import plan\n"
        "from threed.settings.presets import load_run\n"
        "import threed.runs.check, threed.runs.folder, threed.runs.memory\n"
        "print(plan(load_run('toybox-magic3d', ['device=cpu', 'memory=1'])).stages[1].chunk)\n"
        "print([name for name in ('torch', 'numpy', 'PIL', 'trimesh') if name in sys.modules])\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            check=True, cwd=place, env={"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert answer.stdout == "65536\n[]\n"


@pytest.mark.parametrize("name", ["single", "several/unet_multiview", "flow", "refiner", "toybox"])
def test_files_say_what_the_loaded_model_is(place: Path, name: str) -> None:
    name = name if name == "toybox" else str(place / name)
    known, loaded = facts(name), load_backbone(name, device="cpu")
    for what in ("name", "image_size", "factor", "latent_channels", "views"):
        assert getattr(known, what) == getattr(loaded, what), what
    net: nn.Module = getattr(loaded, known.denoiser)
    nets = [net, loaded.vae, *loaded.encoders]  # type: ignore[attr-defined]
    said = [known.net, known.vae, *known.encoders]
    assert [one.bytes for one in said] == [
        sum(value.numel() * value.element_size() for value in kept(one).values()) for one in nets
    ]
    half = facts(name, half=True)
    assert half.net.bytes == known.net.bytes // 2


def kept(net: nn.Module) -> dict[str, Any]:
    """What a net keeps in its file, tensors that are shared once."""
    return {str(value.data_ptr()): value for value in net.state_dict().values()}


def test_each_net_of_a_run_is_loaded_once(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dreamflow's structure: two stages of one model, a refiner, and the first looks for fronts."""
    opened: Counter[Path] = Counter()
    load = latent.load_net

    def counted(kind: Any, part: Path, **options: Any) -> Any:
        opened[part] += 1
        return load(kind, part, **options)

    monkeypatch.setattr(latent, "load_net", counted)
    run = load_run("dreamflow")
    assert [stage.backbone is None for stage in run.stages] == [True, True, False]
    stages = [replace(stage, steps=2, noise_levels=2, resolution=constant(16))
              for stage in run.stages]  # fmt: skip
    stages[2] = replace(stages[2], backbone=str(place / "refiner"))
    run = replace(
        run, backbone=str(place / "single"), device="cpu", field=SMALL, stages=tuple(stages),
        surface=SurfaceSettings(grid=12),
        paint=PaintSettings(levels=2, log2_table=8, hidden=16, copy_steps=5),
        asset=AssetSettings(faces=200, texture=64, resolution=24, turntable_frames=2,
                            turntable_size=32, preview_size=16),
    )  # fmt: skip
    said: list[str] = []
    generate("a mug", run, out=tmp_path / "run", progress=lambda at: said.append(at.message))
    assert [word for word in said if word.startswith("loading")] == [
        f"loading {place / 'single'}", f"loading {place / 'refiner'}",
    ]  # fmt: skip
    assert opened == Counter({place / name: 1 for name in (
        "single/unet", "single/vae", "single/text_encoder",
        "refiner/unet", "refiner/vae", "refiner/text_encoder_2")})  # fmt: skip
