"""Training folders: what is read, what is skipped and said, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.tiny import tiny_folder
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.learning.data import (
    Examples,
    ExamplesWarning,
    Latents,
    Mixed,
    ahead,
    read_examples,
    read_picture,
    write_examples,
)


def picture(path: Path, level: int, size: tuple[int, int] = (16, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, 0, 255 - level)).save(path)


def folder(path: Path, n: int = 4) -> Path:
    for i in range(n):
        picture(path / f"{i}.png", 10 * i)
        picture(path / "after" / f"{i}.png", 200 + i)
    write_examples(path, [{"image": f"{i}.png", "edited": f"after/{i}.png", "instruction": f"w{i}"}
                          for i in range(n)])  # fmt: skip
    return path


def read(path: Path) -> Examples:
    return read_examples(path, 16, pictures=("image", "edited"), texts=("instruction",))


def test_pictures_and_texts_of_an_example_stay_together(tmp_path: Path) -> None:
    examples = read(folder(tmp_path))
    assert len(examples) == 4
    assert examples.texts("instruction", [3, 1]) == ["w3", "w1"]
    before, after = (examples.pictures(role, [3, 1]) for role in ("image", "edited"))
    assert before.shape == (2, 3, 16, 16)
    assert (before[:, 0, 0, 0] * 255).tolist() == [30, 10]
    assert (after[:, 0, 0, 0] * 255).tolist() == [203, 201]
    a, b = (examples.draw(50, torch.Generator().manual_seed(s)) for s in (0, 0))
    assert a == b
    assert set(a) == {0, 1, 2, 3}


def test_a_folder_of_pictures_and_captions_does_too(tmp_path: Path) -> None:
    picture(tmp_path / "b.png", 20)
    picture(tmp_path / "a.png", 10)
    picture(tmp_path / "without.png", 30)
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text(f"a {name}\n")
    examples = read_examples(tmp_path, 16, texts=("text",))
    assert examples.texts("text", [0, 1]) == ["a a", "a b"]
    assert len(read_examples(tmp_path, 16)) == 3


def test_what_is_read_is_the_middle_square(tmp_path: Path) -> None:
    wide = np.zeros((8, 24, 3), np.uint8)
    wide[:, 8:16] = (10, 200, 30)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert np.array_equal(read_picture(tmp_path / "wide.png", 8), wide[:, 8:16])
    square = read_picture(tmp_path / "wide.png", 4)
    assert square.shape == (4, 4, 3)
    assert np.abs(square.astype(int) - (10, 200, 30)).max() <= 4  # as good as all of the middle
    Image.new("L", (5, 5), 77).save(tmp_path / "grey.png")  # another mode
    assert (read_picture(tmp_path / "grey.png", 5) == 77).all()


def test_corrupt_pictures_are_named_skipped_and_counted(tmp_path: Path) -> None:
    folder(tmp_path, 9)
    whole = (tmp_path / "1.png").read_bytes()
    (tmp_path / "1.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "after" / "2.png").write_bytes(b"no picture")
    (tmp_path / "3.png").unlink()
    with pytest.warns(ExamplesWarning) as caught:
        examples = read(tmp_path)
    text = str(caught[0].message)
    assert text.startswith(f"3 of 18 pictures in {tmp_path} cannot be read: 1.png is damaged or")
    assert "; there is no picture 3.png; " in text
    assert "after/2.png is no picture of a known kind: PNG, JPEG, WebP" in text
    assert text.endswith("; 3 examples are skipped")
    assert examples.texts("instruction", range(len(examples))) == ["w0", "w4", "w5", "w6", "w7",
                                                                    "w8"]  # fmt: skip
    for i in range(9):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"10 of 18 .* and 5 more; no example is left"):
        read(tmp_path)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read(path)
    return str(error.value)


def test_folders_without_examples_are_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no") == f"there is no training folder {tmp_path / 'no'}"
    text = refusal(tmp_path)
    assert text == (f"{tmp_path} holds no examples: it needs metadata.jsonl, one JSON object a "
                    "line with image, edited, instruction")  # fmt: skip
    (tmp_path / "metadata.jsonl").write_text("")
    assert "holds no examples" in refusal(tmp_path)
    (tmp_path / "metadata.jsonl").write_text('{"image": "a.png"}\n')
    assert "metadata.jsonl, line 1, says no edited, instruction; each" in refusal(tmp_path)
    row = {"image": "a", "edited": "b", "instruction": 3}
    (tmp_path / "metadata.jsonl").write_text("\n" + json.dumps(row))
    assert "line 2, says no instruction" in refusal(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("[1]\n")
    assert "line 1, says no image, edited, instruction" in refusal(tmp_path)
    (tmp_path / "metadata.jsonl").write_text("{oh")
    assert refusal(tmp_path).endswith("metadata.jsonl, line 1, is no JSON")


def test_pictures_may_be_wide(tmp_path: Path) -> None:
    tall = np.zeros((24, 8, 3), np.uint8)
    tall[10:14] = (10, 200, 30)
    Image.fromarray(tall).save(tmp_path / "tall.png")
    # the middle of the shape that is asked for, as large as there is room
    assert np.array_equal(read_picture(tmp_path / "tall.png", (8, 4)), tall[10:14])
    assert read_picture(tmp_path / "tall.png", (64, 32)).shape == (32, 64, 3)
    for i in range(3):
        picture(tmp_path / "wide" / f"{i}.png", 40 * i, (96, 64))
    examples = read_examples(tmp_path / "wide", (64, 32))
    pixels = examples.pictures("image", [2, 0])
    assert pixels.shape == (2, 3, 32, 64)
    assert (pixels[:, 0, 0, 0] * 255).tolist() == [80, 0]
    backbone = load_backbone(str(tiny_folder(tmp_path / "model")), device="cpu")
    latents = Latents(backbone, examples, "image")
    assert latents([2, 0]).shape == (2, 4, 8, 16)
    expected = backbone.encode_image(pixels)
    torch.testing.assert_close(latents([2, 0]), expected, atol=1e-5, rtol=1e-4)


def test_latents_over_the_room_that_they_have_are_made_again(tmp_path: Path) -> None:
    examples = read(folder(tmp_path / "data", 3))
    backbone = load_backbone(str(tiny_folder(tmp_path / "model")), device="cpu")
    kept, made = Latents(backbone, examples, "image"), Latents(backbone, examples, "image", most=0)
    for _ in range(2):
        assert torch.equal(kept([2, 1]), made([2, 1]))
    assert (len(kept._kept), len(made._kept)) == (3, 0)


def test_sources_share_a_batch_and_the_first_does_not_notice(tmp_path: Path) -> None:
    one, other = read(folder(tmp_path / "one", 4)), read(folder(tmp_path / "other", 7))
    mixed = Mixed([one, other], (1.0, 0.5))
    assert len(mixed) == 11
    for seed in range(20):
        drawn = mixed.draw(3, torch.Generator().manual_seed(seed))
        assert drawn[:3] == one.draw(3, torch.Generator().manual_seed(seed))
        assert all(4 <= index < 11 for index in drawn[3:])
        assert mixed.texts("instruction", drawn[3:]) == [f"w{index - 4}" for index in drawn[3:]]
    both = mixed.pictures("image", [1, 4 + 6, 3])
    assert (both[:, 0, 0, 0] * 255).tolist() == [10, 60, 30]
    with pytest.raises(ValueError, match="pictures of one size"):
        Mixed([one, read_examples(tmp_path / "one", (32, 16))], (1.0, 1.0))


def test_batches_made_by_other_processes_are_the_same() -> None:
    def make(number: int) -> dict[str, object]:
        generator = torch.Generator().manual_seed(number)
        return {"x": torch.randn(32, 3, generator=generator), "number": number}

    cpu = torch.device("cpu")
    here, there = (list(ahead(make, range(2, 6), cpu, workers)) for workers in (0, 1))
    assert (
        [batch["number"] for batch in here] == [batch["number"] for batch in there] == [2, 3, 4, 5]
    )
    assert all(torch.equal(one["x"], other["x"]) for one, other in zip(here, there))
