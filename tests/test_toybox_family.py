"""Captions, pictures on disk, the untrained family, its loop, the judge's arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from threed.core.cameras import VIEWS
from threed.core.errors import InputError
from threed.learning.loop import train as learn
from threed.toybox.family import card, tasks
from threed.toybox.family import nets as family
from threed.toybox.family.shelf import Shelf, fill_scenes, fill_shelf, no_scenes
from threed.toybox.family.train import finish, new_task, normalise_latents, train
from threed.toybox.family.unet import check_spread
from threed.toybox.judge.net import HEADS, Judge, Verdict, load_judge
from threed.toybox.judge.truth import UNKNOWN
from threed.toybox.world.captions import BACKGROUNDS, SYNONYMS, Label, caption, vocabulary
from threed.toybox.world.phrases import VIEW_WORDS
from threed.toybox.world.toys import COLORS, KINDS

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Shelf:
    return fill_shelf(tmp_path_factory.mktemp("shelf"), 12, seed=9, clay_every=4)


def test_captions_say_the_truth_and_only_known_words() -> None:
    known = set(vocabulary())
    for seed in range(400):
        rng = np.random.default_rng(seed)
        label = Label(*(int(rng.integers(n)) for n in (len(KINDS), 10, 4, len(BACKGROUNDS))))
        view = VIEWS[seed % 4] if seed % 3 else None
        text = caption(rng, label, view)
        assert set(text.replace(",", "").split()) <= known
        kind = KINDS[label.kind]
        assert any(name in text for name in (kind, *SYNONYMS.get(kind, ())))
        body = text.split(" on a")[0]
        assert not any(c in body.split() for c in COLORS if c != list(COLORS)[label.color])
        named = [
            name for name, ways in VIEW_WORDS.items() if text.endswith((f", {name} view", *ways))
        ]
        assert named == ([view] if view else [])
        assert " a orange" not in f" {text}"


def test_every_caption_word_is_one_token_and_others_become_letters(tmp_path: Path) -> None:
    tokenizer = family.new_tokenizer()
    for word in vocabulary():
        assert len(tokenizer(word).input_ids) == 3 or word[0].isdigit(), word
    assert tokenizer.tokenize("zq") == ["z", "q</w>"]
    family.save_tokenizer(tokenizer, tmp_path)
    from transformers import CLIPTokenizer

    again = CLIPTokenizer.from_pretrained(tmp_path)
    text = "an orange cat, overhead view"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.model_max_length == family.LENGTH
    assert family.new_tokenizer().get_vocab() == tokenizer.get_vocab()
    assert "teapot" in (tmp_path / "words.txt").read_text().split()


def test_a_plain_unet_equals_the_multiview_one_without_camera() -> None:
    several = family.new_unet(multiview=True)
    plain = family.single_view(several)
    x, t, text = torch.randn(2, 4, 16, 16), torch.tensor([10, 700]), torch.randn(2, 5, 128)
    with torch.no_grad():
        expected = several(x, t, text, class_labels=torch.zeros(2, 16)).sample
        assert torch.allclose(plain(x, t, text).sample, expected, atol=1e-5)


def test_drawing_can_be_cut_and_continued(tmp_path: Path, shelf: Shelf) -> None:
    fill_shelf(tmp_path, 5, seed=9, clay_every=4)
    again = fill_shelf(tmp_path, 12, seed=9, clay_every=4)
    assert np.array_equal(again.pixels, shelf.pixels)
    assert np.array_equal(again.labels, shelf.labels)
    assert np.array_equal(again.c2w, shelf.c2w)
    with pytest.raises(ValueError, match="of seed 9 and size 64, not of 10 and 64"):
        fill_shelf(tmp_path, 12, seed=10)


def test_drawing_in_processes_gives_the_same_pictures(
    tmp_path: Path, shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("threed.toybox.family.shelf.CHUNK", 4)
    again = fill_shelf(tmp_path, 12, seed=9, clay_every=4, processes=2)
    assert np.array_equal(shelf.pixels, again.pixels)
    assert np.array_equal(shelf.labels, again.labels)


def test_clay_sets_hide_colour_and_finish(shelf: Shelf) -> None:
    hidden = shelf.labels[:, 1] == UNKNOWN
    assert np.flatnonzero(hidden).tolist() == [0, 4, 8]
    assert (shelf.labels[hidden, 2] == UNKNOWN).all()


def test_new_words_leave_the_numbers_and_the_embeddings_of_the_old_ones(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(family, "vocabulary", lambda: ["red", "mug", "teapot"])
        few = family.tokenizer_of(tmp_path)
        family.save_tokenizer(few, tmp_path / "tokenizer")
    assert not family.knows_scenes(tmp_path)
    more = family.tokenizer_of(tmp_path)
    assert more.get_vocab().items() > few.get_vocab().items()
    assert more("a red mug").input_ids == few("a red mug").input_ids
    assert len(few("trousers").input_ids) > len(more("trousers").input_ids) == 3
    family.save_tokenizer(more, tmp_path / "tokenizer")
    assert family.knows_scenes(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert again.get_vocab() == more.get_vocab()
    text = "a person in red trousers, waving"
    assert again(text).input_ids == more(text).input_ids

    small, large = family.new_clip(few), family.new_clip(more)
    large.load_state_dict(family.grown(small.state_dict(), large))
    name = "text_model.embeddings.token_embedding.weight"
    assert torch.equal(large.state_dict()[name][: len(few)], small.state_dict()[name])
    tokens = few("a red mug", padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        one, two = (
            model.eval().get_text_features(tokens).pooler_output for model in (small, large)
        )
    assert torch.allclose(one, two, atol=1e-6)


def test_every_part_trains_in_order_and_the_folder_is_diffusers_own(
    tmp_path: Path, shelf: Shelf
) -> None:
    weights = tmp_path / "weights"
    coloured = fill_shelf(tmp_path / "coloured", 4, seed=1)
    scenes = fill_scenes(tmp_path / "scenes", 4, seed=1)
    with pytest.raises(InputError, match="threed toybox train vae"):
        train("unet", tmp_path, weights)
    for part in ("clip", "vae", "judge"):
        toys = shelf if part == "judge" else coloured
        task = replace(new_task(part, toys, scenes, weights, CPU), sheet=None)
        recipe = replace(tasks.RECIPES["cpu"][part], steps=1, batch=8)
        net = learn(task, recipe, tmp_path / part, device=CPU)
        finish(part, net, weights, coloured)
    for others in (no_scenes(), scenes):
        task = new_task("unet", coloured, others, weights, CPU)
        assert task.batch is not None
        seen = set()
        for seed in range(6):
            chance = torch.Generator().manual_seed(seed)
            batch = task.batch(8, chance)
            seen.add(batch["together"])
            loss = task.loss(task.net, batch, chance)
            assert torch.isfinite(loss)
        assert seen == {1, 4}
    loss.backward()
    words = task.net.get_submodule("text_encoder").get_input_embeddings().weight
    assert words.grad is not None
    assert words.grad.any()
    task.save(task.net, tmp_path / "unet")
    assert {place.name for place in (tmp_path / "unet").iterdir()} == {"unet", "text_encoder"}
    finish("unet", task.net, weights, coloured)

    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(weights, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a red mug", num_inference_steps=1, output_type="np").images
    assert image.shape == (1, 64, 64, 3)
    assert load_judge(weights / "judge").knows_scenes
    assert family.knows_scenes(weights)


def test_a_part_is_trained_cut_and_continued_and_the_card_tells_it(tmp_path: Path) -> None:
    def trained(steps: int, minutes: float | None = None) -> None:
        train("judge", tmp_path, weights, device="cpu", steps=steps, sets=2, minutes=minutes,
              say=told.append)  # fmt: skip

    weights, told = tmp_path / "weights", list[str]()
    trained(2, minutes=0)  # a step
    first = (weights / "judge/model.safetensors").read_bytes()
    trained(2)
    assert (weights / "judge/model.safetensors").read_bytes() != first
    (facts,) = card.trainings(weights, "judge")
    assert (facts["steps"], facts["sets"], facts["scenes"], facts["seed"]) == (2, 2, 0, 2)
    settings = json.loads((tmp_path / "judge/settings.json").read_text())
    assert settings["part"] == "judge"
    assert any("single toys only" in text for text in told)
    (tmp_path / "judge/checkpoint.pt").unlink()  # another training, which goes on from this one
    trained(1)
    assert f"going on from the weights in {weights}" in told
    assert [one["steps"] for one in card.trainings(weights, "judge")] == [2, 1]


def test_normalised_latents_change_no_picture(shelf: Shelf) -> None:
    vae = family.new_vae().eval()
    images = shelf.images(4 * np.arange(12)) * 2 - 1

    @torch.no_grad()
    def through() -> tuple[Tensor, Tensor, Tensor]:
        latents = vae.encode(images).latent_dist
        return latents.mode(), latents.var, vae.decode(latents.mode()).sample

    _, _, before = through()
    normalise_latents(vae, shelf)
    z, var, after = through()
    assert torch.allclose(before, after, atol=1e-4)
    assert z.mean((0, 2, 3)).abs().max() < 0.3
    assert (z.std((0, 2, 3)) - 1).abs().max() < 0.3
    assert vae.config.scaling_factor == 1.0
    assert torch.isfinite(var).all()


def test_latents_that_noise_would_drown_are_refused() -> None:
    latents = torch.randn(64, 4, 8, 8)
    check_spread(latents, Path("w/vae"))
    with pytest.raises(InputError, match=r"latents of w/vae spread by 0\.18, .* scaling_factor"):
        check_spread(0.18 * latents, Path("w/vae"))


def test_training_refuses_an_unknown_part(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no part 'text'; train one of clip, vae, unet, judge"):
        train("text", tmp_path, tmp_path)


def test_the_card_tells_training_and_scores(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    rows = [{"step": 1, "seconds": 60}, {"step": 10, "seconds": 120}, {"step": 21, "seconds": 30}]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = {"steps": card.steps_of(log), "batch": 64, "sets": 1500, "seed": 1}
    card.record(tmp_path, "vae", facts | {"minutes": card.minutes_of(log)})
    (tmp_path / card.SCORES).write_text(json.dumps({"vae_psnr_db": 30.61}))
    card.write_card(tmp_path)
    text = (tmp_path / card.CARD).read_text()
    assert "| vae | 21 | 64 | 1,500 | 0 | 1 | 2.5 |" in text
    assert "| VAE: PSNR, dB | 30.61 | ≥ 28 |" in text
    assert "text to image: kind" not in text


def test_the_card_tells_every_training_that_a_part_went_through(tmp_path: Path) -> None:
    facts = {"batch": 64, "sets": 1500, "seed": 1, "minutes": 1.0}
    alone = {"vae": facts | {"steps": 5, "machine": "a laptop"}}  # as older folders have it
    (tmp_path / card.TRAINING).write_text(json.dumps(alone))
    before = card.trainings(tmp_path, "vae")
    for steps in (2, 7):  # of the same training, cut and continued
        card.record(tmp_path, "vae", facts | {"steps": steps}, before)
    assert [one["steps"] for one in card.trainings(tmp_path, "vae")] == [5, 7]
    text = (tmp_path / card.CARD).read_text()
    assert "| vae | 5 | 64 | 1,500 | 0 | 1 | 1.0 | a laptop |\n| vae | 7 |" in text


def test_the_card_tells_of_systems_beside_the_family(tmp_path: Path) -> None:
    said = {"system": "controlnet", "kind": "edges", "steps": 1200, "batch": 16, "accumulate": 4}
    (tmp_path / "controlnet/edges").mkdir(parents=True)
    (tmp_path / "controlnet/edges/settings.json").write_text(json.dumps(said))
    card.write_card(tmp_path)
    assert "| controlnet kind=edges | 1,200 | 64 |  |" in (tmp_path / card.CARD).read_text()


def test_the_judge_survives_saving_and_reads_any_size(tmp_path: Path) -> None:
    judge = Judge().eval()
    judge.save_pretrained(tmp_path)
    again = load_judge(tmp_path)
    images = torch.rand(2, 3, 64, 64)
    ours, theirs = judge.read(images), again.read(images)
    for head, names in HEADS.items():
        assert torch.allclose(ours.logits[head], theirs.logits[head], atol=1e-6)
        assert ours.logits[head].shape == (2, len(names))
        assert torch.allclose(ours.logits[head].exp().sum(-1), torch.ones(2), atol=1e-5)
    assert judge.read(torch.rand(1, 3, 256, 256)).names("kind")[0] in KINDS


def test_together_adds_what_the_views_say() -> None:
    chances = torch.tensor([[0.6, 0.4, 0.0001], [0.01, 0.9, 0.1], [0.5, 0.49, 0.01]])
    logits = torch.full((3, len(KINDS)), -20.0)
    logits[:, :3] = chances.log()
    verdict = Verdict({"kind": logits})
    assert verdict.names("kind") == [KINDS[0], KINDS[1], KINDS[0]]
    assert verdict.together("kind") == KINDS[1]


def test_spoiled_pictures_stay_pictures_of_the_same_thing() -> None:
    images = torch.zeros(6, 3, 64, 64)
    images[:, 0, 20:44, 20:44] = 1.0
    spoiled = tasks.spoil(images, torch.Generator().manual_seed(0))
    assert spoiled.shape == images.shape
    assert float(spoiled.min()) >= 0
    assert float(spoiled.max()) <= 1
    assert (spoiled[:, 0, 30:34, 30:34].mean((1, 2)) > 0.8).all()
    assert not torch.equal(spoiled[0], spoiled[1])
