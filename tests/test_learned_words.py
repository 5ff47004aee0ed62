"""Words of one's own in files: every layout to and fro, beside diffusers; what does not fit."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.conftest import Answer
from tests.tiny import WIDTH, Kind, tiny_folder
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.files import EMBEDDINGS
from threed.diffusion.learned.words import Layout, read_words, words_in, write_words
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.models.text import Words

TOY = "<toy>"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    path = tmp_path_factory.mktemp("tiny")
    kinds: tuple[Kind, ...] = ("sd15", "sdxl")
    return {kind: tiny_folder(path / kind, kind) for kind in kinds}


def load(folder: Path) -> StableDiffusion:
    backbone = load_backbone(str(folder), device="cpu")
    assert isinstance(backbone, StableDiffusion)
    return backbone


def random_words(encoders: int, **counts: int) -> dict[str, tuple[Tensor, ...]]:
    widths = (WIDTH, WIDTH + 8)[:encoders]
    return {name: tuple(torch.randn(count, width) for width in widths)
            for name, count in counts.items()}  # fmt: skip


def same(a: Words, b: Words) -> None:
    assert a.keys() == b.keys()
    for name, rows in a.items():
        assert len(rows) == len(b[name])
        assert all(map(torch.equal, rows, b[name]))


@pytest.mark.parametrize(("layout", "file", "encoders", "counts"), [
    ("diffusers", EMBEDDINGS, 1, {TOY: 1}),
    ("diffusers", EMBEDDINGS, 1, {TOY: 3, "<style>": 2}),
    ("diffusers", EMBEDDINGS, 2, {TOY: 2}),
    ("diffusers", EMBEDDINGS, 2, {"<style>": 3, TOY: 1}),
    ("automatic1111", "toy.safetensors", 1, {TOY: 3}),
    ("automatic1111", "toy.safetensors", 2, {TOY: 3}),
    ("automatic1111", "toy.pt", 1, {TOY: 3}),
    ("official", "embeddings_gs-100.pt", 1, {"*": 1}),
    ("official", "embeddings.pt", 1, {TOY: 2}),
])  # fmt: skip
def test_each_layout_is_read_as_it_was_written(
    tmp_path: Path, layout: Layout, file: str, encoders: int, counts: dict[str, int]
) -> None:
    words = random_words(encoders, **counts)
    write_words(words, tmp_path / file, layout)
    same(words_in(tmp_path / file), words)
    if not file.startswith("toy"):
        same(words_in(tmp_path), words)


def test_layouts_are_as_published(tmp_path: Path) -> None:
    one, two = random_words(1, **{TOY: 2}), random_words(2, **{TOY: 2})
    (rows,) = one[TOY]
    file = tmp_path / "a.safetensors"
    write_words(one, file)
    assert torch.equal(load_file(file)[TOY], rows)
    write_words(two, file)
    assert all(map(torch.equal, (load_file(file)["clip_l"], load_file(file)["clip_g"]), two[TOY]))
    write_words(one, file, "automatic1111")
    assert torch.equal(load_file(file)["emb_params"], rows)
    for layout, token in (("automatic1111", 265), ("official", torch.tensor(265))):
        write_words(one, tmp_path / "a.pt", layout)  # type: ignore[arg-type]
        found = torch.load(tmp_path / "a.pt", weights_only=True)
        assert found["string_to_token"] == {"*": token}
        assert torch.equal(found["string_to_param"]["*"], rows)
        assert found["name"] == TOY


def published(path: Path) -> dict[str, tuple[Path, str]]:
    """Files as others write them, of the rows of ones, and how the word is called."""
    ones = torch.ones(2, WIDTH)
    star = {"string_to_token": {"*": torch.tensor(265)}}
    parameters = nn.ParameterDict({"*": nn.Parameter(ones)})
    pickled: dict[str, tuple[object, str]] = {
        "learned_embeds.bin": ({TOY: ones}, TOY),
        "half.bin": ({TOY: ones.half()}, TOY),
        "parameter.bin": ({TOY: nn.Parameter(ones)}, TOY),
        "embeddings_gs-6100.pt": (star | {"string_to_param": parameters}, "*"),
        "named.pt": (star | {"string_to_param": {"*": ones}, "name": "my-toy", "step": 9,
                             "sd_checkpoint": None, "sd_checkpoint_name": None}, "my-toy"),
        "unnamed.pt": (star | {"string_to_param": {"*": ones}, "name": None}, "*"),
    }  # fmt: skip
    found = {}
    for name, (value, word) in pickled.items():
        torch.save(value, path / name)
        found[name] = path / name, word
    save_file({"emb_params": ones}, path / "my_toy.safetensors")
    return {**found, "emb_params": (path / "my_toy.safetensors", "my_toy")}


def test_files_of_others_are_read(tmp_path: Path, folders: dict[str, Path]) -> None:
    backbone = load(folders["sd15"])
    files = published(tmp_path)
    for file, word in files.values():
        same(read_words(file, backbone), {word: (torch.ones(2, WIDTH),)})
    one_row = tmp_path / "row.safetensors"
    save_file({TOY: torch.ones(WIDTH)}, one_row)
    same(words_in(one_row), {TOY: (torch.ones(1, WIDTH),)})
    for name in files:
        (tmp_path / name).unlink(missing_ok=True)
    for steps in (100, 900, 1000):
        rows = torch.full((1, 4), float(steps))
        write_words({"*": (rows,)}, tmp_path / f"embeddings_gs-{steps}.pt", "official")
    assert float(words_in(tmp_path)["*"][0][0, 0]) == 1000, "the last"


def test_sdxl_of_others_is_named_as_its_file(tmp_path: Path) -> None:
    rows = torch.randn(2, 8), torch.randn(2, 12)
    path = tmp_path / "my-toy.safetensors"
    save_file(dict(zip(("clip_l", "clip_g"), rows)), path)
    same(words_in(path), {"my-toy": rows})


@pytest.mark.parametrize("count", [1, 2])
def test_diffusers_reads_a_word_of_ours(
    tmp_path: Path, folders: dict[str, Path], count: int
) -> None:
    backbone = load(folders["sd15"])
    words = random_words(1, **{TOY: count})
    write_words(words, tmp_path / EMBEDDINGS)
    pipe = StableDiffusionPipeline.from_pretrained(folders["sd15"], local_files_only=True)
    pipe.load_textual_inversion(tmp_path, weight_name=EMBEDDINGS, local_files_only=True)
    prompts = [f"a red {TOY}", f"a {TOY}, a hat"]
    assert (f"{TOY}_1" in pipe.tokenizer.get_vocab()) == (count == 2)
    ours = backbone.encode_text(prompts, read_words(tmp_path, backbone)).tokens
    with torch.no_grad():
        theirs = pipe.encode_prompt(prompts, torch.device("cpu"), 1, False)[0]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    for layout in ("automatic1111", "official"):
        file = tmp_path / f"{layout}.pt"
        write_words({layout: words[TOY]}, file, layout)  # type: ignore[arg-type]
        pipe.load_textual_inversion(str(file), local_files_only=True)
        assert layout in pipe.tokenizer.get_vocab()


def test_words_of_another_model_are_named(tmp_path: Path, folders: dict[str, Path]) -> None:
    path = tmp_path / EMBEDDINGS
    for kind, encoders, said in [
        (
            "sd15",
            2,
            r"needs rows \[n, 32\], one for each text encoder, and has \[1, 32\], \[1, 40\]",
        ),
        ("sdxl", 1, r"needs rows \[n, 32\], \[n, 32\], .* and has \[1, 32\]"),
    ]:
        write_words(random_words(encoders, **{TOY: 1}), path)
        with pytest.raises(InputError, match=said) as raised:
            read_words(path, load(folders[kind]))
        assert str(raised.value).startswith(f"{path} was not learned with backbone '")
        assert kind in str(raised.value)


def test_files_that_hold_no_words_are_refused(tmp_path: Path) -> None:
    safe, pickled = tmp_path / "a.safetensors", tmp_path / "a.pt"
    with pytest.raises(InputError, match=rf"holds no {EMBEDDINGS}"):
        words_in(tmp_path)
    for missing in (safe, pickled):
        with pytest.raises(InputError, match=r"is missing|there is no file"):
            words_in(missing)
    ones, others = torch.ones(1, 4), torch.ones(1, 4)
    for tensors, header, said in [
        ({}, {}, "there are no rows in it"),
        ({"unet.a.lora_A.weight": ones}, {}, "'unet.a.lora_A.weight' in it is not the rows of one"),
        ({TOY: torch.ones(1, 1, 4)}, {}, "'<toy>' in it is not the rows of one"),
        ({TOY: torch.ones(0, 4)}, {}, "is not the rows of one"),
        ({TOY: torch.full((1, 4), torch.inf)}, {}, "not all numbers of '<toy>' are finite"),
        ({"clip_l": ones, "clip_g": others}, {TOY: 2}, r"words of \[2\] rows, and there are 1, 1"),
        ({"clip_l": ones, "clip_g": others}, {TOY: 0}, r"words of \[0\] rows"),
        ({"clip_l": ones, "clip_g": torch.ones(2, 4)}, {TOY: 1}, r"and there are 1, 2"),
        ({"clip_l": ones, "clip_g": others}, [TOY], "'words' in its header is none"),
        ({"clip_l": ones, "clip_g": others}, {TOY: "x"}, "'words' in its header is none"),
    ]:
        save_file(tensors, safe, {"words": json.dumps(header)} if header else None)
        with pytest.raises(InputError, match=said) as raised:
            words_in(safe)
        assert str(raised.value).startswith(str(safe))
    for value in (3, [], {}, None, {TOY: "x"}, {TOY: 3}, {"string_to_param": 3},
                  {"string_to_param": {}}, {"string_to_param": {"*": "x"}}):  # fmt: skip
        torch.save(value, pickled)
        with pytest.raises(InputError, match=f"{pickled} holds no learned words"):
            words_in(pickled)
    for content in (b"", b"a text\n" * 9, safe.read_bytes()[:-1]):
        for path in (safe, pickled):
            path.write_bytes(content)
            with pytest.raises(InputError, match=f"{path} is "):
                words_in(path)


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    ran, path = tmp_path / "ran", tmp_path / "a.pt"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(ran),)

    for value in (Trap(), {"string_to_param": Trap()}, {TOY: Trap()}):
        torch.save(value, path)
        with pytest.raises(InputError):
            words_in(path)
        path.write_bytes(pickle.dumps(value))
        with pytest.raises(InputError):
            words_in(path)
    assert not ran.exists()


def test_what_a_layout_has_no_room_for_is_said(tmp_path: Path) -> None:
    one, two = random_words(1, **{TOY: 1}), random_words(2, **{TOY: 1})
    many = random_words(1, **{TOY: 1, "<style>": 1})
    cases: list[tuple[Words, str, Layout, str]] = [
        (one, "a.pt", "diffusers", r"must end in one of \.safetensors"),
        (one, "a.safetensors", "official", r"must end in one of \.pt"),
        (one, "a.bin", "automatic1111", r"must end in one of \.safetensors, \.pt"),
        (two, "a.pt", "official", r"rows of one text encoder, and <toy> has those of two \(SDXL"),
        (two, "a.pt", "automatic1111", "rows of one text encoder"),
        (many, "a.pt", "official", "official has one word a file, and these are <toy>, <style>"),
        (many, "a.safetensors", "automatic1111", "has one word a file"),
    ]
    for words, name, layout, said in cases:
        with pytest.raises(InputError, match=said):
            write_words(words, tmp_path / name, layout)
    assert not list(tmp_path.iterdir())


def test_the_command_converts(tmp_path: Path, threed: Callable[..., Answer]) -> None:
    words = random_words(1, **{TOY: 2})
    write_words(words, tmp_path / EMBEDDINGS)
    new = tmp_path / "toy.pt"
    answer = threed("weights", "words", tmp_path, "--to", new, "--layout", "automatic1111")
    assert answer.out == f"{new}\n"
    assert TOY in answer.err
    same(words_in(new), words)
