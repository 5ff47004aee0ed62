"""Attention per word, as numbers and as a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.silhouette import silhouettes
from threed.diffusion.backbone import Backbone
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.images import make_images
from threed.diffusion.parts.attention import Layer
from threed.diffusion.parts.heat import Heat, drawn, heat_maps, largest_maps


def test_maps_are_those_of_the_largest_layers_that_fit() -> None:
    sizes = {0: (8, 4), 1: (4, 2), 2: (2, 1)}
    kept = {Layer(f"up_blocks.{i}.attn2", True, 1, halvings, i): torch.full((3, *size, 5), float(i))
            for i, (halvings, size) in enumerate([*sizes.items(), (1, (4, 2))])}  # fmt: skip
    for limit, shape, value in ((32, (8, 4), 0.0), (31, (4, 2), 2.0), (1, (2, 1), 2.0)):
        maps = largest_maps(kept, limit)
        assert maps.shape == (3, *shape, 5)
        assert bool((maps == value).all())


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_watching_does_not_change_the_picture(backbone: Backbone, scale: float) -> None:
    picture, maps = heat_maps(backbone, "a red hat", steps=3, scale=scale, seed=4)
    expected = make_images(backbone, "a red hat", steps=3, seed=4, guide=Guide(scale))[0]
    torch.testing.assert_close(picture, expected, atol=1e-4, rtol=0)
    assert list(maps) == ["a", "red", "hat"]
    assert max(float(value.max()) for value in maps.values()) == pytest.approx(1)
    assert min(float(value.min()) for value in maps.values()) >= 0


def test_the_mean_is_over_calls(backbone: Backbone) -> None:
    heat = Heat()
    layer = Layer("up_blocks.0.attn2", True, 1)
    score = heat.watching(lambda x, t: x)
    for value in (1.0, 3.0):
        heat.record.kept[layer] = torch.full((1, 2, 2, 32), value)
        heat.record.kept[layer][0, 0, 0, 1] = 9.0  # "a" is looked at from the first place
        score(torch.zeros(1, 4, 2, 2), torch.tensor([5]))
    for prompt, places in (("a", [[9.0, 2.0], [2.0, 2.0]]), ("a a", [[11.0, 4.0], [4.0, 4.0]])):
        (word,) = heat.words(backbone, prompt).values()
        expected = torch.tensor(places)
        torch.testing.assert_close(word, expected / expected.max())


def test_a_drawing_has_a_tile_for_the_picture_and_for_each_word() -> None:
    picture = torch.rand(3, 64, 64)
    maps = {"red": torch.zeros(16, 16), "mug": torch.ones(16, 16)}
    sheet = drawn(picture, maps)
    assert sheet.shape == (3, 128 + 12, 3 * 128)
    cold, hot = sheet[:, :128, 128:256], sheet[:, :128, 256:]
    torch.testing.assert_close(cold[0], cold[2])  # grey
    torch.testing.assert_close(hot[:, 5, 5], torch.tensor([1.0, 0.45, 0.0]))
    for tile, words in ((0, 0), (1, 1), (2, 1)):
        strip = sheet[0, 128:, 128 * tile : 128 * tile + 128]
        assert bool((strip < 0.5).any()) == bool(words)  # the word is written there


def test_a_toys_word_is_where_the_toy_is() -> None:
    toybox = load_backbone("toybox", device="cpu")
    picture, maps = heat_maps(toybox, "a red ball", steps=8, seed=2)
    toy = torch.nn.functional.adaptive_avg_pool2d(silhouettes(picture[None]).float(), 16)[0] > 0.5
    assert 0.02 < float(toy.float().mean()) < 0.8
    ball = maps["ball"]
    assert float(ball[toy].mean()) > 2 * float(ball[~toy].mean())


def test_it_is_written_beside_the_picture(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from threed.apps.cli import main as cli

    words = ["image", "a hat", "--backbone", str(folder), "--steps", "2",
             "--out", str(tmp_path / "a.png"), "--heat", str(tmp_path / "h.png")]  # fmt: skip
    with pytest.raises(SystemExit) as exit_:
        cli.main(words)
    assert exit_.value.code == 0
    assert capsys.readouterr().out.split() == [words[-3], words[-1]]
    assert (tmp_path / "h.png").is_file()
    with pytest.raises(SystemExit) as exit_:
        cli.main([*words, "--system", "prompt_to_prompt"])
    assert exit_.value.code == 2
    assert "--heat is of a single picture" in capsys.readouterr().err
