"""Lists of jobs: three forms read alike, and every mistake named with its line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Answer
from threed.core.errors import InputError
from threed.queue import Queue, entries, read_entries
from threed.runs.job import Edit3d, Generate, Image, Job


def listed(path: Path, name: str, content: str | bytes, **options: Any) -> list[Job]:
    """The jobs of a list with this content."""
    data = content if isinstance(content, bytes) else content.encode()
    (path / name).write_bytes(data)
    return [entry.job for entry in read_entries(path / name, **options)]


def test_the_forms_say_the_same(tmp_path: Path) -> None:
    asked = [Image(prompt="a red mug", steps=4), Image(prompt="a blue ball, big", steps=4)]
    options = {"kind": "image", "given": {"steps": 4}}
    assert listed(tmp_path, "a.txt", "a red mug\r\n\n  a blue ball, big \n", **options) == asked
    table = 'prompt,steps\n\n"a red mug",\n"a blue ball, big","4"\n,,\n'.replace(",,\n", ",\n")
    assert listed(tmp_path, "a.csv", table, **options) == asked
    lines = '{"prompt": "a red mug"}\n{"job": "image", "prompt": "a blue ball, big"}\n'
    assert listed(tmp_path, "a.jsonl", lines, **options) == asked
    whole = "\n".join(json.dumps(job.plain()) for job in asked)
    assert listed(tmp_path, "b.jsonl", whole) == asked


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_tables_of_spreadsheets_are_read(tmp_path: Path, mark: str) -> None:
    table = f'\ufeffprompt{mark}seed\r\n"a ""red"" mug"{mark}3\r\n"a blue\nball"{mark}\r\n'
    with pytest.raises(InputError, match=r"a\.csv, line 3: the prompt holds a control character"):
        listed(tmp_path, "a.csv", table)  # a row of two lines
    first = table.partition('"a blue')[0]
    assert listed(tmp_path, "a.csv", first) == [Generate(prompt='a "red" mug', seed=3)]


def test_columns_are_fields_of_every_kind(tmp_path: Path) -> None:
    table = (
        "job,prompt,settings,preview,knobs,inputs.source,system\n"
        ",a red mug,steps=4 seed=2,yes,,,\n"
        "image,a blue mug,,,self_replace=0.5,a red mug,prompt_to_prompt\n"
    )
    assert listed(tmp_path, "a.csv", table, words=()) == [
        Generate(prompt="a red mug", settings=("steps=4", "seed=2"), preview=True),
        Image(prompt="a blue mug", system="prompt_to_prompt", knobs=("self_replace=0.5",),
              inputs={"source": ("a red mug",)}),
    ]  # fmt: skip


def test_what_is_given_for_all_yields_to_what_an_entry_says(tmp_path: Path) -> None:
    lines = '{"prompt": "a mug", "seed": 1, "settings": ["steps=5"]}\n{"prompt": "a ball"}'
    found = listed(tmp_path, "a.jsonl", lines, given={"seed": 7}, words=("steps=2", "lr=0.1"))
    assert found == [
        Generate(prompt="a mug", seed=1, settings=("steps=2", "lr=0.1", "steps=5")),
        Generate(prompt="a ball", seed=7, settings=("steps=2", "lr=0.1")),
    ]


def test_files_are_kept_by_their_whole_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mug.glb").touch()
    Path("mug.png").touch()
    lines = (
        '{"job": "edit3d", "asset": "mug.glb", "instruction": "make it blue"}\n'
        '{"job": "image", "prompt": "make it blue", "system": "instruct_pix2pix", '
        '"inputs": {"image": ["mug.png"], "weights": ["owner/name"]}}'
    )
    edit, image = listed(tmp_path, "a.jsonl", lines)
    assert isinstance(edit, Edit3d)
    assert isinstance(image, Image)
    assert edit.asset == tmp_path / "mug.glb"
    assert image.inputs["image"] == (str(tmp_path / "mug.png"),)
    assert image.inputs["weights"] == ("owner/name",)


LONG = "x" * 10_000
WRONG = {
    ("a.csv", "promt\na mug\n"): "line 1: there is no column 'promt'; did you mean 'prompt",
    ("a.csv", "prompt,prompt\na,b\n"): "line 1: the column 'prompt' is there twice",
    ("a.csv", "prompt\na mug, red\n"): "line 2 has 2 cells, but there are 1 columns",
    ("a.csv", 'prompt\na mug\n"a ball\n'): "line 3 is no CSV: unexpected end of data",
    ("a.csv", "prompt,preview\na mug,perhaps\n"): "line 2: preview must be true or false",
    ("a.csv", "prompt,seed\na mug,-1\n"): r"line 2: seed must be in 0\.\.",
    ("a.csv", "prompt,settings\na mug,'x\n"): "line 2: settings: No closing quotation",
    ("a.csv", "prompt\n" + "x" * 200_000): "line 2 is no CSV: field larger than field limit",
    ("a.csv", "job,prompt\nimagine,a mug\n"): "line 2: there is no job 'imagine'; did you mean",
    ("a.txt", f"a mug\n{LONG}"): "line 2: the prompt has 10,000 characters; at most 1,000",
    ("a.txt", "\n\n"): "holds no jobs",
    ("a.txt", b"a m\xfcg"): "is damaged, or no text in UTF-8",
    ("a.txt", "a\x07\nb\x07\nc\n" + "d\x07\n" * 9):
        r"line 1: .* control .* \(10 more lines are wrong: 2, 4, 5, 6, 7, \.\.\.\)",
    ("a.jsonl", '{"prompt": "a mug"}\n{"prompt"'): "line 2 is no JSON",
    ("a.jsonl", "[" * 100_000): "line 1 is no JSON",
    ("a.jsonl", "3"): "line 1 must be a job",
    ("a.jsonl", '{"job": ["image"]}'): "line 1: there is no job",
    ("a.jsonl", '{"job": "resume"}'): "line 1: resume goes on in a folder",
    ("a.jsonl", '{"prompt": "a mug", "init": "none.glb"}'): "line 1: init: there is no file none",
    ("a.jsonl", '{"prompt": "a mug", "settings": ["stepz=3"]}'): "line 1: stepz: no such setting",
    ("a.xlsx", ""): r"must end in one of \.txt, \.csv, \.jsonl",
}  # fmt: skip


@pytest.mark.parametrize(("name", "content"), WRONG, ids=map(str, range(len(WRONG))))
def test_what_is_wrong_is_named_with_its_line(
    name: str, content: str | bytes, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=WRONG[name, content]):
        listed(tmp_path, name, content)


def test_long_lines_of_several_cells_and_large_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job,) = listed(tmp_path, "a.csv", f"prompt,negative\na mug,{LONG}\n", kind="image")
    assert job == Image(prompt="a mug", negative=LONG)
    monkeypatch.setattr(entries, "LARGEST", 9)
    with pytest.raises(InputError, match="has more than 0 MiB"):
        listed(tmp_path, "a.txt", "a red mug\n")


def test_the_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threed: Callable[..., Answer]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("a red mug\na blue ball\na red mug\n")
    Path("bad.csv").write_text("prompt,steps\na mug,2\na mug,none\n")
    where = ("--queue", "mugs", "--job", "image")
    refused = threed("queue", "add", "bad.csv", *where)
    assert (refused.status, Path("mugs").exists()) == (2, False)
    assert "bad.csv, line 3: steps must be" in refused.err
    added = threed("queue", "add", "prompts.txt", *where, "--seed", "3")
    assert added.out == "2 added to mugs\n"
    assert added.err == "note: 1 are there twice, and done once\n"
    again = threed("queue", "add", "prompts.txt", *where, "--seed", "3")
    assert "note: 2 were added before and are waiting" in again.err
    assert threed("queue", "cancel", "a-red", "--queue", "mugs").out == "1 cancelled\n"
    assert threed("queue", "status", "--queue", "mugs").out == (
        "2 jobs: 1 waiting, 1 cancelled, 0 at work\n"
    )
    queue = Queue.open("mugs")
    claim = queue.claim("anna")
    assert claim is not None
    queue.fail(claim.ticket, "no such thing", final=True)
    assert "2 a-blue-ball-" in threed("queue", "status", "--queue", "mugs").out
    said = json.loads(threed("queue", "status", "--queue", "mugs", "--json").out)
    assert said["counts"]["failed"] == 1
    assert said["failed"][0]["reason"] == "no such thing"
    assert threed("queue", "retry", "--queue", "mugs").out == "1 to be done anew\n"


def test_of_each_prompt_several_seeds_are_begun(
    tmp_path: Path, threed: Callable[..., Answer]
) -> None:
    (tmp_path / "prompts.csv").write_text("prompt,best_of\na red mug,\na blue ball,2\n")
    added = threed("queue", "add", tmp_path / "prompts.csv", "steps=20", "--queue", tmp_path / "q",
                   "--best-of", "4", "--preset", "toybox-mvdream")  # fmt: skip
    assert added.out == f"2 added to {tmp_path / 'q'}\n"
    claims = [Queue.open(tmp_path / "q").claim("anna") for _ in range(2)]
    assert [claim and (claim.job.best_of, claim.job.run().best_of) for claim in claims] == [
        (4, 4), (2, 2)
    ]  # fmt: skip
