"""`threed train`: from the command line to weights that `threed image` takes, and its refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.conftest import Answer
from tests.tiny import eye_folder, tiny_folder
from threed.apps.cli.main import app
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.models.stable_diffusion import require_unet
from threed.diffusion.parts.local_adapter import LocalAdapter
from threed.diffusion.parts.uni_adapters import load_adapters
from threed.diffusion.weights import write_net
from threed.learning.data import ExamplesWarning, write_examples
from threed.settings.base import read_words
from threed.systems.control.uni_controlnet import Options
from threed.systems.table import SYSTEMS, find_training


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("tiny") / "m")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    rows = []
    for i in range(4):
        picture = Image.new("RGB", (32, 32), "white")
        picture.paste((200, 0, 0), (4 * i, 4, 4 * i + 12, 28))
        picture.save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "text": "a red bar", "edited": f"{3 - i}.png",
                     "instruction": "move it"})  # fmt: skip
    write_examples(folder, rows)
    return folder


def run(*words: object) -> Result:
    """A command whose mistakes are raised."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def train(system: str, data: object, out: Path, backbone: Path, *more: object) -> Result:
    return run("train", system, "--data", data, "--out", out, "--backbone", backbone, "--device",
               "cpu", "--steps", 3, "--batch", 2, "--accumulate", 1, *more)  # fmt: skip


def test_each_system_is_trained_and_then_used(backbone: Path, data: Path, tmp_path: Path) -> None:
    picture, eye = tmp_path / "made.png", eye_folder(tmp_path / "eye")
    for name, options, inputs in (
        ("controlnet", (), ("--control", f"edges:{data / '0.png'}")),
        ("instruct_pix2pix", (), ("--image", data / "0.png")),
        ("uni_controlnet", ("kinds=edges",), ("--control", f"edges-map:{data / '0.png'}")),
        ("ip_adapter", ("kind=plus", f"encoder={eye}"),
         ("--image", data / "0.png", "--encoder", eye)),
    ):  # fmt: skip
        out = tmp_path / name
        result = train(name, data, out, backbone, *options)
        assert result.exit_code == 0
        assert result.stdout == f"{out}\n"
        assert "M parameters, 4 examples, 3 steps of 2 on cpu" in result.stderr
        run("image", "move it", "--system", name, "--weights", out, *inputs, "--out", picture,
            "--backbone", backbone, "--steps", 2)  # fmt: skip
        with Image.open(picture) as made:
            assert made.size == (32, 32)
        picture.unlink()


def test_bfloat16_is_taken_where_it_pays_and_nothing_else_is_asked(
    backbone: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pays, more, precision in (
        (True, (), "bf16"), (False, (), "no"), (True, ("--precision", "no"), "no"),
    ):  # fmt: skip
        monkeypatch.setattr("threed.diffusion.models.half.bfloat16_pays", lambda device: pays)  # noqa: B023
        out = tmp_path / f"{pays}-{len(more)}"
        assert train("controlnet", data, out, backbone, *more).exit_code == 0
        assert json.loads((out / "settings.json").read_text())["precision"] == precision


def test_packed_weights_are_half_as_large_and_the_same(
    backbone: Path, data: Path, tmp_path: Path
) -> None:
    kinds = ("edges", "depth")
    model = load_backbone(str(backbone), device="cpu")
    net = LocalAdapter(require_unet(model, "this"), len(kinds))
    write_net(net, tmp_path / "out/local", {"kinds": kinds})
    (tmp_path / "out/local/checkpoint.pt").write_bytes(b"large")
    (tmp_path / "out/local/settings.json").write_text("{}")
    result = run("pack", tmp_path / "out", "--out", tmp_path / "packed")
    assert result.stdout == f"{tmp_path / 'packed'}\n"
    kept = sorted(str(p.relative_to(tmp_path / "packed"))
                  for p in (tmp_path / "packed").rglob("*") if p.is_file())  # fmt: skip
    assert kept == ["local/adapter.safetensors", "local/config.json", "local/settings.json"]
    whole, half = (load_file(tmp_path / name / kept[0]) for name in ("out", "packed"))
    assert all(torch.equal(value.half(), half[name]) for name, value in whole.items())
    assert whole.keys() == half.keys()
    assert load_adapters(model, tmp_path / "packed").kinds == kinds
    with pytest.raises(InputError, match="packed exists already; choose another --out"):
        run("pack", tmp_path / "out", "--out", tmp_path / "packed")
    with pytest.raises(InputError, match="none is to hold differences from a backbone's UNet"):
        run("pack", tmp_path / "out", "--small", "--out", tmp_path / "none")
    with pytest.raises(InputError, match="data holds no weights to pack"):
        run("pack", data, "--out", tmp_path / "none")


def test_what_a_stage_made_is_packed_unless_the_last_made_it_anew(tmp_path: Path) -> None:
    out, net = tmp_path / "out", {"w": torch.ones(2)}
    for stage in ("", "language", "warping"):
        (out / stage).mkdir(parents=True)
        told = {"stage": stage} if stage else {}
        (out / stage / "settings.json").write_text(json.dumps(told))
        save_file(
            net, out / stage / ("net.safetensors" if stage == "warping" else "all.safetensors")
        )
    run("pack", out, "--out", tmp_path / "packed")
    kept = sorted(str(p.relative_to(tmp_path / "packed"))
                  for p in (tmp_path / "packed").rglob("*") if p.is_file())  # fmt: skip
    assert kept == ["all.safetensors", "settings.json", "warping/net.safetensors"]


def test_a_training_goes_on_only_as_it_began(backbone: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    train("controlnet", data, out, backbone, "--seed", 5)
    train("controlnet", data, tmp_path / "twin", backbone, "--seed", 5)
    name = "diffusion_pytorch_model.safetensors"
    assert (out / name).read_bytes() == (tmp_path / "twin" / name).read_bytes()
    settings = json.loads((out / "settings.json").read_text())
    assert settings["kind"] == "edges"
    assert (settings["seed"], settings["steps"], settings["batch"]) == (5, 3, 2)
    with pytest.raises(InputError, match="holds a training already; go on with --resume"):
        train("controlnet", data, out, backbone, "--seed", 5)
    with pytest.raises(InputError, match="other settings: seed was 5 and is 0"):
        train("controlnet", data, out, backbone, "--resume")
    train("controlnet", data, out, backbone, "--seed", 5, "--resume", "--steps", 4)
    lines = (out / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 4]


def test_a_training_goes_on_from_weights_of_before(
    backbone: Path, data: Path, tmp_path: Path
) -> None:
    for name, options, file in (
        ("controlnet", (), "diffusion_pytorch_model.safetensors"),
        ("instruct_pix2pix", (), "unet/diffusion_pytorch_model.safetensors"),
        ("uni_controlnet", ("kinds=edges",), "local/adapter.safetensors"),
    ):
        first, second = tmp_path / name, tmp_path / f"{name}-2"
        train(name, data, first, backbone, *options, "--lr", 0.01)
        train(name, data, second, backbone, *options, "--weights", first, "--lr", 1e-9)
        before, after = load_file(first / file), load_file(second / file)
        for key, value in before.items():
            torch.testing.assert_close(after[key], value, rtol=0, atol=1e-6)
        settings = next(second.rglob("settings.json")).read_text()
        assert json.loads(settings)["weights"] == str(first)
    with pytest.raises(InputError, match="was taught the maps edges, in this order; go on with"):
        train("uni_controlnet", data, tmp_path / "c", backbone, "kinds=image", "--weights", first)
    training, model = find_training("uni_controlnet"), load_backbone(str(backbone), device="cpu")
    with pytest.raises(InputError, match="holds no global adapter to go on from"):
        training.load(model, first, Options(part="global"))


def test_toyboxs_own_examples_are_drawn_once(
    backbone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threed.runs.train.WORK", tmp_path / "work/examples")
    result = train("controlnet", "toybox", tmp_path / "a", backbone, "--drawn", 3)
    assert "drawn 3 of 3 examples" in result.stderr
    assert "M parameters, 3 examples" in result.stderr
    result = train("uni_controlnet", "toybox", tmp_path / "b", backbone, "--drawn", 3)
    assert "drawn" not in result.stderr
    assert [path.name for path in (tmp_path / "work/examples").iterdir()] == ["scenes"]


def test_bad_folders_are_refused_and_bad_pictures_skipped(
    backbone: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no examples: it needs metadata.jsonl"):
        train("controlnet", tmp_path / "empty", tmp_path / "out", backbone)
    (data / "2.png").write_bytes(b"nonsense")
    with pytest.warns(ExamplesWarning, match=r"1 of 4 pictures .* 2.png .*; 1 examples are skip"):
        result = train("controlnet", data, tmp_path / "out", backbone)
    assert "M parameters, 3 examples" in result.stderr


def test_what_cannot_be_taught_is_refused(backbone: Path, data: Path, tmp_path: Path) -> None:
    for words, message in (
        (("controlnot",), "there is no system 'controlnot'; did you mean 'controlnet'"),
        (
            ("controlnet", "kinds=a"),
            "training of system 'controlnet': kinds: no such setting; did you mean 'kind'",
        ),
        (("controlnet", "kind=depth"), "line 1, says no depth; each example needs image, depth, t"),
        (("uni_controlnet", "part=all"), "part must be one of local, global, got 'all'"),
        (
            ("uni_controlnet", "kinds=a,,b"),
            "kinds: must name each map once, as in edges,depth; got",
        ),
        (("controlnet", "--steps", 0), "steps must be at least 1, got 0"),
    ):
        with pytest.raises(InputError, match=message):
            train(str(words[0]), data, tmp_path / "out", backbone, *words[1:])
    for precision, message in (
        ("fp8", "precision must be one of no, bf16, fp16"), ("fp16", "precision fp16 needs a GPU"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            train("controlnet", data, tmp_path / "out", backbone, "--precision", precision)


def test_a_system_that_learns_nothing_says_so() -> None:
    with pytest.raises(InputError, match="'rpg' has nothing to train; instruct_pix2pix, contr"):
        find_training("rpg")


def test_every_system_that_trains_says_how() -> None:
    for system in SYSTEMS.values():
        assert (system.training is None) == (system.trains == "nothing")
    options = read_words(Options, ["dropout=false", "kinds=edges, depth"])
    assert (options.part, options.kinds, options.dropout) == ("local", "edges, depth", False)
    assert options.maps == ("edges", "depth")
    assert Options(part="global").maps == ()


def test_help_tells_the_options_of_the_system_that_is_named(threed: Callable[..., Answer]) -> None:
    plain, dco = threed("train", "--help"), threed("train", "dco", "--help")
    assert (plain.status, dco.status) == (0, 0)
    assert "beta=" not in plain.out
    assert "NAME=VALUE options of dco:" in dco.out
    for said in ("beta=", "rank=32", 'the new word, such as "<toy>"', "2000, 1, 5e-05"):
        assert said in dco.out
