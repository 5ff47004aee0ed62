"""CLIP R-precision: the figure on vectors that are made for it, lists of prompts, whole tables."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from exporters import protocols, save
from exporters.protocols import PROTOCOLS
from tests.conftest import Answer
from tests.shapes import cube
from threed.core.errors import InputError
from threed.core.mesh import Mesh
from threed.runs.precision import find_assets, like, read_prompts


def test_r_precision_of_vectors_made_for_it() -> None:
    prompts = torch.tensor([[2.0, 0], [0, 3], [-1, 0]])  # of any length
    angles = torch.deg2rad(torch.tensor([0.0, 44, 45.1, 90, 180]))
    pictures = 5 * torch.stack([angles.cos(), angles.sin()], 1)
    cosines = angles.cos()
    for number, hits, mean in ((0, 2, cosines.mean()), (1, 2, angles.sin().mean()), (2, 1, 0)):
        found = like(pictures, prompts, number)
        assert (found.pictures, found.hits) == (5, hits)
        assert found.precision == hits / 5
        assert found.score == pytest.approx(100 * float(mean), abs=1e-4)


def test_a_picture_as_near_to_another_prompt_is_no_hit() -> None:
    picture, prompts = torch.tensor([[1.0, 1]]), torch.tensor([[1.0, 0], [1.0, 0], [-1.0, 0]])
    assert [like(picture, prompts, number).hits for number in range(3)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.txt", "a red mug\n\n an owl/bear \n"), ("a.json", '["a red mug", "an owl/bear"]'),
     ("a.csv", "\ufeffprompt,asset\na red mug,m.glb\nan owl/bear,\n")],
)  # fmt: skip
def test_lists_of_prompts(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    mug, owl = read_prompts(tmp_path / name)
    assert (mug.prompt, owl.prompt) == ("a red mug", "an owl/bear")
    assert (mug.name, owl.name) == ("000-a-red-mug", "001-an-owl-bear")
    assert mug.asset == (tmp_path / "m.glb" if name == "a.csv" else None)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [("a.doc", "", r"must end in .txt, .json or .csv"), ("a.txt", "a mug", "holds 1 prompts"),
     ("a.txt", "a mug\n\nan owl\na mug\n", "prompts 1 and 3 are the same, 'a mug'"),
     ("a.json", '["a mug"', "no JSON"), ("a.json", '{"a": 1}', "must hold a list of prompts"),
     ("a.json", '["a mug", ""]', "prompt 2: the prompt is empty"),
     ("a.csv", "text\na mug\n", "needs a column prompt.*it has text"), ("b.txt", None, "no file")],
)  # fmt: skip
def test_lists_that_are_none(name: str, text: str | None, said: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=said):
        read_prompts(tmp_path / name)


def test_assets_are_found_by_prompt_or_number(tmp_path: Path) -> None:
    (tmp_path / "p.json").write_text(json.dumps(["a b", "c d", "e/f", "g", "h"]))
    asked = read_prompts(tmp_path / "p.json")
    places = ["a_b/model.obj", "c-d.ply", "e_f.glb", "3/asset.glb", "004-h/asset.glb"]
    for place in places:
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    assert find_assets(asked, tmp_path) == {i: tmp_path / place for i, place in enumerate(places)}
    (tmp_path / "c-d.ply").unlink()
    with pytest.raises(InputError, match=r"no asset of 1 of 5 prompts, such as 'c d'; looked for"):
        find_assets(asked, tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        find_assets(asked, tmp_path / "none")


def painted(mesh: Mesh, color: list[float]) -> Mesh:
    return replace(mesh, colors=torch.tensor(color).expand(len(mesh.vertices), 3))


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two assets and a list of three prompts; six pictures of each, at toybox's size.

    No outside judge is installed.
    """
    monkeypatch.setattr(protocols, "SIZE", 64)
    monkeypatch.setattr("exporters.judges.JUDGES", {})
    save(painted(cube(), [0.9, 0.1, 0.1]), tmp_path / "a_red_cube.glb")
    save(painted(cube(), [0.1, 0.2, 0.8]), tmp_path / "a_blue_cube.glb")
    (tmp_path / "p.txt").write_text("a red cube\na blue cube\na green ball\n")
    return tmp_path


def test_the_table_of_given_assets(judged: Path, threed: Callable[..., Answer]) -> None:
    words = ("evaluate", "--protocol", "mate3d", "--prompts", judged / "p.txt",
             "--assets", judged, "--limit", 2, "--out", judged / "out")  # fmt: skip
    answer = threed(*words)
    assert answer.status == 0, answer.err
    assert "| a red cube | 6 | 100.0 % |" in answer.out
    assert "| a blue cube | 6 | " in answer.out
    assert "2 assets as mate3d looks at them, 3 prompts to choose from" in answer.out
    assert (judged / "out" / "table.md").read_text() == answer.out
    saved = json.loads((judged / "out" / "comparison.json").read_text())
    assert [one["pictures"] for one in saved["assets"]] == [6, 6]
    assert saved["sha256"].keys() == {"clip", "prompts"}
    pictures = judged / "out" / "000-a-red-cube" / "mate3d"
    assert (pictures / "rendered_view_5.png").is_file()
    likeness = json.loads((pictures / "likeness.json").read_text())
    likeness["likeness"]["hits"] = 3  # what CLIP has said is not asked again
    (pictures / "likeness.json").write_text(json.dumps(likeness))
    assert "| a red cube | 6 | 50.0 % |" in threed(*words).out
    (judged / "p.txt").write_text("a red cube\na blue cube\na green mug\n")
    assert "| a red cube | 6 | 100.0 % |" in threed(*words).out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prompts", "p.txt"), "--prompts is for --protocol"),
        (("--protocol", "mate3d"), "--protocol needs --prompts"),
        (("--protocol", "mate3d", "--prompts", "p.txt", "--seeds", "3"), "--seeds are about"),
        (("--protocol", "mate3d", "--prompts", "p.txt", "--clip", "none"),
         "--clip none: a folder of a transformers CLIP is needed"),
        (("--protocol", "sdi", "--prompts", "p.txt"), "protocol must be one of"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said(
    words: tuple[str, ...], said: str, judged: Path, threed: Callable[..., Answer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(judged)
    answer = threed("evaluate", *words, "--out", "out")
    assert answer.status == 2
    assert said in answer.err


def test_protocols_have_the_names_of_the_command() -> None:
    from threed.apps.cli.evaluate import Evaluate
    from threed.apps.cli.files import Render

    for model in (Evaluate, Render):
        hint = str(model.model_fields["protocol"].annotation)
        assert all(f"'{name}'" in hint for name in PROTOCOLS)
        assert hint.count("'") == 2 * len(PROTOCOLS)
