"""A system that nobody knew before: its file alone brings it to every face.

What follows is what a file under threed/systems/ would hold (there with torch imported inside its
functions); besides, the real one has a line in the table, a case and an example.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from pydantic import Field
from torch import Tensor, nn

import threed
from tests import tiny
from tests.conftest import Answer
from threed.apps.cli import main as cli
from threed.core.errors import InputError
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.paint import Ready
from threed.diffusion.score import Score, cfg, score
from threed.learning.data import write_examples
from threed.learning.loop import Task
from threed.learning.recipe import Recipe
from threed.runs.jobs import read_job, schema
from threed.runs.steer import Steered
from threed.settings.base import Settings
from threed.settings.run import SystemSettings
from threed.systems.inputs import PROMPT, WEIGHTS, WORD_FACTOR, Input
from threed.systems.system import Lesson, Request, System, Training
from threed.systems.table import SYSTEMS

ROOT = Path(__file__).resolve().parent.parent


class Knobs(Settings):
    """How the two prompts are mixed."""

    share: float = Field(0.5, ge=0, le=1, description="of the other prompt")


class Options(Settings):
    """What is taught."""

    gain: float = Field(1.0, gt=0, description="what the learned number is multiplied by")


def build(
    backbone: Backbone, prompt: str, other: str, learned: float = 0.0, *,
    guide: Guide = Guide(), knobs: Knobs = Knobs(),
) -> Score:  # fmt: skip
    """Guidance towards a mixture of two prompts."""
    texts = [backbone.encode_text([words]) for words in (prompt, other, guide.negative)]
    share = knobs.share + learned

    def combine(noises: Any, x: Tensor, t: Tensor) -> Tensor:
        mixed = torch.lerp(noises[0], noises[1], share)
        return cfg(guide.scale)([mixed, noises[2]], x, t)

    return score(backbone, texts, combine)


LOADS: list[Path] = []  # what was loaded


def load(backbone: Backbone, request: Request) -> float:
    """The learned number of a request's weights."""
    if request.one("weights") is None:
        return 0.0
    LOADS.append(request.one("weights"))
    return float(json.loads((request.one("weights") / "number.json").read_text()))


def prepare(backbone: Backbone, request: Request, weights: float) -> Ready:
    """The Score of a request."""
    for word, _ in request.all("stress"):
        if word not in request.prompt:
            raise InputError(f"--stress: there is no {word!r} in the prompt")
    return Ready(build(backbone, request.prompt, request.one("other"), weights,
                       guide=request.guide, knobs=request.knobs))  # fmt: skip


def learn(backbone: Backbone, lesson: Lesson) -> Task:
    """Learn one number: the mean brightness of the pictures."""
    net = nn.Linear(1, 1, bias=False)

    def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        seen = lesson.examples.pictures("image", lesson.examples.draw(n, generator))
        return (net(torch.ones(1, 1)) - lesson.options.gain * seen.mean()).square().sum()

    def save(net: nn.Module, out: Path) -> None:
        (out / "number.json").write_text(json.dumps(float(next(net.parameters()).detach())))

    return Task(net, loss, save, lesson.about)


def go_on(backbone: Backbone, path: Path, options: Options) -> nn.Module:
    """The learned number as a net."""
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, json.loads((path / "number.json").read_text()))
    return net


MIXED = System(
    name="mixed",
    paper="Two Prompts in One Picture",
    arxiv="0000.00000",
    claim="a mixture of two prompts",
    inputs=(
        Input("other", PROMPT, "the other prompt", required=True),
        Input("stress", WORD_FACTOR, "a word, and how much of it", many=True),
        Input("weights", WEIGHTS, "a training's folder"),
    ),
    knobs=Knobs,
    trains="one number",
    training=Training(
        data="scenes", pictures=lambda options: ("image",), texts=("text",),
        paper=Recipe(steps=9, batch=2, lr=0.1), small=Recipe(steps=9, batch=2, lr=0.1, warmup=1),
        learn=learn, load=go_on, options=Options,
    ),
    seams=("blend",),
    load=load,
    prepare=prepare,
)  # fmt: skip


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SYSTEMS, "mixed", MIXED)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.tiny_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Answer]:
    def run(*words: object) -> Answer:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(word) for word in words])
        said = capsys.readouterr()
        return Answer(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    for i in range(3):
        Image.new("RGB", (32, 32), (102, 102, 102)).save(folder / f"{i}.png")
    write_examples(folder, [{"image": f"{i}.png", "text": "grey"} for i in range(3)])
    return folder


def test_the_list_and_the_help_know_it(command: Callable[..., Answer]) -> None:
    row = next(line for line in command("list", "systems").out.splitlines() if "mixed" in line)
    assert row.split("\t")[1:5] == [
        "a mixture of two prompts", "--other (needed), --stress, --weights", "share=0.5",
        "one number",
    ]  # fmt: skip
    said = " ".join(command("image", "--system", "mixed", "--help").out.split())
    assert "--other PROMPT The other prompt (needed)." in said
    assert "--stress WORD:FACTOR A word, and how much of it; repeat." in said
    assert "share=0.5 of the other prompt; a number in 0..1" in said
    assert "--move" not in said  # another system's


def test_its_schema_is_there(command: Callable[..., Answer]) -> None:
    found = json.loads(command("schema", "mixed").out)
    assert found == schema("mixed")
    inputs = found["properties"]["inputs"]
    assert inputs["required"] == ["other"]
    assert inputs["properties"]["stress"]["items"]["placeholder"] == "WORD:FACTOR"
    share = found["properties"]["knobs"]["properties"]["share"]
    assert (share["minimum"], share["maximum"], share["default"]) == (0, 1, 0.5)


def test_the_command_makes_its_pictures_and_refuses_mistakes(
    command: Callable[..., Answer], model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made.png"
    common = ("image", "a mug", "--system", "mixed", "--backbone", model, "--steps", 2, "--out",
              out, "--device", "cpu")  # fmt: skip
    for words, message in (
        ((), "system 'mixed' needs --other: the other prompt"),
        (("--other", "a hat", "shar=1"), "did you mean 'share'?"),
        (("--other", "a hat", "share=2"), "share must be in 0..1, got 2"),
        (("--other", "a hat", "--stress", "mug"), "a word, a colon and a value are needed"),
        (("--other", "a hat", "--move", "mug:1,0"), "system 'mixed' takes no --move"),
        (("--other", "a hat", "--stress", "cat:2"), "there is no 'cat' in the prompt"),
    ):
        answer = command(*common, *words)
        assert (answer.status, answer.out) == (2, "")
        assert message in " ".join(answer.err.split())
        assert not out.exists()
    assert command(*common, "--other", "a hat", "share=1") == Answer(0, f"{out}\n", "")
    first = out.read_bytes()
    assert command("image", "a hat", "--backbone", model, "--steps", 2, "--out", out, "--device",
                   "cpu").status == 0  # fmt: skip
    assert out.read_bytes() == first  # a share of 1 is the other prompt


def test_python_and_jobs_make_the_same(model: Path, tmp_path: Path) -> None:
    made = threed.image("a mug", system="mixed", other="a hat", share=0.25, backbone=str(model),
                        steps=2, device="cpu", size=(32, 32), views=None, learned=None,
                        out=tmp_path / "a.png")  # fmt: skip
    assert made.shape == (1, 3, 32, 32)
    job = read_job({
        "job": "image", "prompt": "a mug", "system": "mixed", "inputs": {"other": ["a hat"]},
        "knobs": ["share=0.25"], "backbone": str(model), "steps": 2, "device": "cpu",
    })  # fmt: skip
    result = threed.do(job, tmp_path / "job")
    assert result.main == tmp_path / "job/picture.png"
    assert result.main.read_bytes() == (tmp_path / "a.png").read_bytes()
    assert read_job(job.plain()) == job
    with pytest.raises(InputError, match="takes no --move"):
        read_job({"job": "image", "prompt": "x", "system": "mixed", "inputs": {"move": ["x:1,0"]}})
    nothing: tuple[Any, ...] = (None, ["image"], "image", {"job": ["image"]}, {"prompt": "x"})
    for data in nothing:
        with pytest.raises(InputError, match="job: there is no job"):
            read_job(data)


@pytest.mark.parametrize("name", ["../a.png", "/tmp/a.png", "b/a.png"])
def test_a_job_writes_in_its_own_folder_only(name: str) -> None:
    message = "a name is needed, got"
    with pytest.raises(InputError, match=message):
        read_job({"job": "image", "prompt": "x", "file": name})
    with pytest.raises(InputError, match=message):
        read_job({"job": "image", "prompt": "x", "heat": name})
    with pytest.raises(InputError, match=message):
        read_job({"job": "export", "source": "a.glb", "file": name})


def test_it_is_trained_and_used(
    command: Callable[..., Answer], model: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "learned"
    words = ("--data", data, "--backbone", model, "--device", "cpu", "--precision", "no")
    answer = command("train", "mixed", "gain=2", *words, "--out", out, "--steps", 200)
    assert (answer.status, answer.out) == (0, f"{out}\n")
    assert json.loads((out / "number.json").read_text()) == pytest.approx(0.8, abs=0.05)
    settings = json.loads((out / "settings.json").read_text())
    assert (settings["system"], settings["gain"], settings["steps"]) == ("mixed", "2.0", 200)
    assert command("train", "mixed", "gain=0", *words, "--out", tmp_path / "b").status == 2
    threed.train("mixed", data, tmp_path / "c", weights=str(out), steps=1, lr=1e-9, gain=2.0,
                 backbone=str(model), device="cpu", precision="no")  # fmt: skip
    assert json.loads((tmp_path / "c/number.json").read_text()) == pytest.approx(
        json.loads((out / "number.json").read_text()), abs=1e-6
    )
    answer = command("image", "a mug", "--system", "mixed", "--other", "a hat", "--weights", out,
                     "--backbone", model, "--steps", 1, "--out", tmp_path / "a.png")  # fmt: skip
    assert answer.status == 0


def test_it_guides_a_scene_and_loads_its_weights_once(model: Path, tmp_path: Path) -> None:
    from threed.core.cameras import orbit

    (tmp_path / "number.json").write_text("0.25")
    backbone = load_backbone(str(model), device="cpu")
    inputs = {"other": ("a hat",), "weights": (str(tmp_path),)}
    LOADS.clear()
    said = SystemSettings(name="mixed", inputs=inputs, knobs=("share=0.5",))
    steered = Steered(backbone, "a mug", said, scale=4.0)
    x, t = torch.randn(4, 4, 8, 8), torch.full((4,), 600)
    noise = steered.score(orbit(4, 8), 4.0)(x, t)
    assert LOADS == [tmp_path]
    for row, view in enumerate(("front", "side", "back", "side")):
        own = build(backbone, f"a mug, {view} view", f"a hat, {view} view", 0.25, guide=Guide(4.0))
        torch.testing.assert_close(noise[[row]], own(x[[row]], t[[row]]), atol=1e-5, rtol=1e-5)


def page_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("page", ROOT / "benchmarks/systems_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_docs_page_knows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    script = page_script()
    monkeypatch.setitem(script.EXAMPLES, "mixed", 'threed image "a mug" --system mixed')
    page = script.page()
    assert "Two Prompts in One Picture" in page
    assert "a mixture of two prompts" in page
    assert "`share=0.5`" in page


def test_systems_are_listed_and_asked_without_torch() -> None:
    code = (
        "import sys\n"
        "from threed.systems.table import SYSTEMS\n"
        "from threed.runs.jobs import read_job, schema\n"
        "schema()\n"
        "read_job({'job': 'image', 'prompt': 'x', 'system': 'self_guidance',"
        " 'inputs': {'move': ['x:1,0']}})\n"
        "print([m for m in ('torch', 'numpy', 'diffusers', 'transformers') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True,
                            check=False, cwd=ROOT)  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "[]\n"), result.stderr


def test_a_system_that_needs_a_unet_says_so_in_one_sentence(
    command: Callable[..., Answer], tmp_path: Path
) -> None:
    from tests.tiny_flow import tiny_flow

    flow = tiny_flow(tmp_path / "sd3")
    answer = command("image", "a mug and a hat", "--system", "rpg", "--backbone", flow, "--device",
                     "cpu", "--steps", 1, "--out", tmp_path / "a.png")  # fmt: skip
    assert (answer.status, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert "system 'rpg' needs a backbone with a UNet" in answer.err
    assert not (tmp_path / "a.png").exists()
