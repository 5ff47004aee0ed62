"""ComfyUI's nodes as they are written, without ComfyUI: what they take, and what they do."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import exporters
from tests.serving import desk_in, living
from tests.shapes import cube
from threed.apps.packs.write import write_nodes
from threed.apps.serve import uploads

TOKEN = "a-token-of-24-characters"
KINDS = {"STRING": str, "INT": int, "BOOLEAN": bool}


@dataclass
class Comfy:
    """What the nodes use of ComfyUI, and the nodes."""

    folder: Path
    bars: list[int] = field(default_factory=list)
    interrupted: bool = False
    nodes: dict[str, Any] = field(default_factory=dict)

    def throw_exception_if_processing_interrupted(self) -> None:
        """Stop, if somebody wants that."""
        if self.interrupted:
            raise KeyError("interrupted")

    def get_save_image_path(self, prefix: str, folder: str) -> tuple[str, str, int, str, str]:
        """Where a file is saved, as ComfyUI says it: its own numbers are more careful."""
        under, _, name = prefix.rpartition("/")
        place = Path(folder, under)
        place.mkdir(parents=True, exist_ok=True)
        return str(place), name, len(list(place.glob(f"{name}_*"))) + 1, under, prefix

    def modules(self) -> dict[str, Any]:
        """ComfyUI's modules, by their names."""
        places = {f"get_{name}_directory": lambda name=name: str(self.folder / name)
                  for name in ("input", "output", "temp")}  # fmt: skip
        found = {
            "comfy": {}, "comfy.model_management": {
                "throw_exception_if_processing_interrupted":
                    self.throw_exception_if_processing_interrupted},
            "comfy.utils": {"ProgressBar": lambda most: type(
                "Bar", (), {"update_absolute": lambda _, value: self.bars.append(value)})()},
            "folder_paths": {**places, "get_save_image_path": self.get_save_image_path,
                             "get_annotated_filepath": lambda name: str(
                                 self.folder / "input" / name)},
        }  # fmt: skip
        made = {name: ModuleType(name) for name in found}
        for name, module in made.items():
            module.__dict__.update(found[name])
        return made


@pytest.fixture
def comfy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Comfy]:
    """The nodes, as ComfyUI loads a folder of its custom_nodes."""
    made = Comfy(tmp_path)
    for name, module in made.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
    place = tmp_path / "custom_nodes" / "threed"
    write_nodes(place)
    spec = importlib.util.spec_from_file_location(
        "nodes_of_threed", place / "__init__.py", submodule_search_locations=[str(place)]
    )
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, pack)
    spec.loader.exec_module(pack)
    assert pack.NODE_CLASS_MAPPINGS.keys() == pack.NODE_DISPLAY_NAME_MAPPINGS.keys()
    made.nodes = pack.NODE_CLASS_MAPPINGS
    yield made
    for name in [name for name in sys.modules if name.startswith(spec.name)]:
        del sys.modules[name]


def test_nodes_say_what_they_take_and_give(comfy: Comfy) -> None:
    assert len(comfy.nodes) == 5
    for node in comfy.nodes.values():
        types = node.INPUT_TYPES()
        assert types.keys() <= {"required", "optional"}
        told = {name: kind for part in types.values() for name, kind in part.items()}
        run = inspect.signature(getattr(node, node.FUNCTION))
        own = {name for name, one in run.parameters.items() if one.kind is not one.VAR_KEYWORD}
        more = inspect.signature(sys.modules[node.__module__].make).parameters.keys() - {"job"}
        has_more = len(own) < len(run.parameters)
        assert told.keys() == (own - {"self"}) | (more if has_more else set())
        assert types["required"].keys() == {
            name for name, one in run.parameters.items()
            if one.default is one.empty and name != "self" and one.kind is not one.VAR_KEYWORD
        }  # fmt: skip
        for kind, *options in told.values():
            if options:
                assert isinstance(options[0]["default"], KINDS[kind])
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES) == 1
        assert node.DESCRIPTION.endswith(".")


def test_a_mesh_is_made_painted_shown_and_saved(
    comfy: Comfy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "judge_mesh", lambda *_: {"kind": "mesh", "faces": 1})
    monkeypatch.setenv("THREED_TOKEN", TOKEN)
    desk = desk_in(tmp_path)
    run = {name.removeprefix("Threed"): node().run for name, node in comfy.nodes.items()}
    exporters.save(cube(), tmp_path / "input" / "own.obj")
    (tmp_path / "input" / "picture.png").touch()
    assert comfy.nodes["ThreedLoadMesh"].INPUT_TYPES()["required"]["file"] == (["own.obj"],)
    with living(desk, token=TOKEN) as url:
        (made,) = run["TextToMesh"](
            "a red mug", 3, settings="steps=5 asset.faces=500", server=url + "/ "
        )
        (own,) = run["LoadMesh"]("own.obj")
        for mesh in (made, own):
            (painted,) = run["PaintMesh"](mesh, "a mug", 0, preset="toybox-texture", server=url)
        for words, said in (({"preset": "toybox-sdz"}, "'toybox-sdz' is not offered here"),
                            ({"server": "http://127.0.0.1:9"}, "no server answers")):  # fmt: skip
            with pytest.raises(ValueError, match=said):
                run["TextToMesh"]("a mug", 0, **{"server": url, **words})
        with pytest.raises(ValueError, match=r"^that cannot be made$"):
            run["TextToMesh"]("no", 0, server=url)
        comfy.interrupted = True
        with pytest.raises(KeyError, match="interrupted"):
            run["TextToMesh"]("slow", 0, server=url)
        jobs = desk.history("", "", 10**12, 50)
    assert [job.state for job in jobs] == ["cancelled", "failed", "done", "done", "done"]
    assert jobs[-1].job["settings"] == ["steps=5", "asset.faces=500"]
    assert (jobs[-1].job["prompt"], jobs[-1].job["seed"]) == ("a red mug", 3)
    assert (jobs[-2].job["preset"], jobs[-2].job["keep_uv"]) == ("toybox-texture", False)
    shown = run["PreviewMesh"](painted)
    (image,) = shown["result"]
    assert image.shape == (1, 16, 32, 3)
    assert torch.equal(image[0, 0, 0], torch.tensor([1.0, 0, 0]))
    said = shown["ui"]["images"][0]
    assert (tmp_path / "temp" / said["filename"]).read_bytes() == painted.picture
    for number in (1, 2):
        saved = run["SaveMesh"](painted, "mesh/threed")
        assert saved["result"] == (f"mesh/threed_{number:05}_.glb",)
        assert (tmp_path / "output" / saved["result"][0]).read_bytes() == painted.content
    assert run["SaveMesh"](own, "own")["result"] == ("own_00001_.obj",)
    with pytest.raises(ValueError, match="paint it first"):
        run["PreviewMesh"](own)
    assert set(comfy.bars) <= set(range(101))
