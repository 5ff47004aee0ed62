"""PhotoMaker: its published files and formulas, whose word is a person, and what training does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from guidance.prompts import Prompts
from tests.systems import asked, prepared, sampled, telling
from tests.tiny import LENGTH, WIDTH, eye, eye_folder, tiny_folder
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.learned.lora import lora_of, tensors_of
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.adapters import Lora
from threed.diffusion.parts.id_encoder import FILE, IdEncoder, Recalled, Sight, told
from threed.diffusion.parts.image_encoder import OFFICIAL
from threed.diffusion.parts.trigger import class_word, with_trigger
from threed.diffusion.progress import counted
from threed.learning.data import read_examples, write_examples
from threed.learning.loop import train
from threed.learning.recipe import Recipe
from threed.runs.steer import Steered, settled
from threed.settings.run import Run, SystemSettings
from threed.systems.reference import photo_maker
from threed.systems.reference.photo_maker import SYSTEM, Knobs, Loaded, build, look
from threed.systems.reference.shown import same_people
from threed.systems.system import Lesson

CPU = torch.device("cpu")
PROMPT, PLAIN = "a man img in red", "a man in red"
WIDE, FACE = 2 * WIDTH, 12  # numbers of SDXL's tokens, and of a face
PARTS = (24, WIDE - 24)  # of the two projections


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    loaded = load_backbone(str(tiny_folder(tmp_path_factory.mktemp("xl") / "m", "sdxl")),
                           device="cpu")  # fmt: skip
    assert isinstance(loaded, StableDiffusion)
    return loaded


def encoder(version: int = 1) -> IdEncoder:
    """One that says something, always the same; its eye has one head, as published rules say."""
    torch.manual_seed(version)
    recalled = Recalled(FACE, WIDE, 2, 16) if version == 2 else None
    net = IdEncoder(eye(1).vision_model, PARTS, Sight(), recalled)
    for value in net.parameters():
        value.data += 0.05 * torch.randn_like(value)
    return net.eval().requires_grad_(False)


def written(backbone: StableDiffusion, path: Path, version: int = 1) -> Path:
    """A file as published: .bin in two sections, .safetensors with their names before."""
    lora = Lora(backbone.unet, "made", rank=2, seed=0)
    for value in lora.parameters.values():
        value.data += 0.1
    sections = {"id_encoder": encoder(version).state_dict(),
                "lora_weights": tensors_of(lora_of(backbone, "made"))}  # fmt: skip
    if path.suffix == ".bin":
        torch.save(sections, path)
    else:
        save_file({f"{part}.{name}": value.contiguous() for part, values in sections.items()
                   for name, value in values.items()}, path)  # fmt: skip
    return path


def picture(path: Path, color: tuple[int, int, int] = (200, 30, 30)) -> Path:
    made = Image.new("RGB", (16, 16), (20, 20, 60))
    made.paste(color, (4, 3, 12, 13))
    made.save(path)
    return path


def noisy(n: int = 1, t: int = 300) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.randn(n, 4, 8, 8, generator=g), torch.full((n,), t)


# the published formulas, by the names of their weights


def mix(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    x = F.layer_norm(x, x.shape[-1:], *(state[f"{name}.layernorm.{k}"] for k in ("weight", "bias")))
    for layer in ("fc1", "fc2"):
        x = F.linear(x, *(state[f"{name}.{layer}.{k}"] for k in ("weight", "bias")))
        x = F.gelu(x) if layer == "fc1" else x
    return x


def fused(state: dict[str, Tensor], word: Tensor, who: Tensor) -> Tensor:
    """FuseModule.fuse_fn of the official code."""
    x = mix(state, "fuse_module.mlp1", torch.cat([word, who], -1)) + word
    x = mix(state, "fuse_module.mlp2", x) + x
    norm = (state[f"fuse_module.layer_norm.{k}"] for k in ("weight", "bias"))
    return F.layer_norm(x, x.shape[-1:], *norm)


def recalled(state: dict[str, Tensor], face: Tensor, patches: Tensor) -> Tensor:
    """QFormerPerceiver of the official code, with one head."""

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    x = linear("token_proj.2", F.gelu(linear("token_proj.0", face))).view(len(face), 2, -1)
    begin = x = norm("token_norm", x)
    inside = "perceiver_resampler"
    seen = linear(f"{inside}.proj_in", patches)
    for layer in range(4):
        at, wide = (f"{inside}.layers.{layer}.{part}" for part in (0, 1))
        own = norm(f"{at}.norm2", x)
        both = torch.cat([norm(f"{at}.norm1", seen), own], 1)
        k, v = linear(f"{at}.to_kv", both).chunk(2, -1)
        weights = (linear(f"{at}.to_q", own) @ k.mT * k.shape[-1] ** -0.5).softmax(-1)
        x = x + linear(f"{at}.to_out", weights @ v)
        x = x + linear(f"{wide}.3", F.gelu(linear(f"{wide}.1", norm(f"{wide}.0", x))))
    return begin + norm(f"{inside}.norm_out", linear(f"{inside}.proj_out", x))


def seen(state: dict[str, Tensor], pictures: Tensor, faces: Tensor | None) -> Tensor:
    """[N, tokens, C] what the official id encoder makes of pictures."""
    clip = eye(1)
    clip.load_state_dict({name: value for name, value in state.items()
                          if name.startswith(("vision_model", "visual_projection."))})  # fmt: skip
    mean, std = (torch.tensor(OFFICIAL[name])[:, None, None] for name in OFFICIAL)
    out = clip.vision_model((pictures - mean) / std)
    if faces is not None:
        inside = {name.removeprefix("qformer_perceiver."): value for name, value in state.items()}
        return recalled(inside, faces, out.last_hidden_state)
    both = [F.linear(out.pooler_output, state[f"visual_projection{n}.weight"]) for n in ("", "_2")]
    return torch.cat(both, -1)[:, None]


@pytest.mark.parametrize(("version", "file"), [(1, "photomaker-v1.bin"), (2, "photomaker-v2.bin"),
                                               (2, "photomaker-v2.safetensors")])  # fmt: skip
@torch.no_grad()
def test_its_files_load_and_do_what_is_published(
    backbone: StableDiffusion, tmp_path: Path, version: int, file: str
) -> None:
    """Fused within 1e-5 of the formulas; all other tokens are the text's, to the bit."""
    images = tuple(picture(tmp_path / f"{i}.png", (90 * i, 200, 30)) for i in range(2))
    said = asked(PROMPT, image=images, weights=written(backbone, tmp_path / file, version))
    faces = torch.randn(2, FACE)
    if version == 2:
        for i, face in enumerate(faces):
            np.save(tmp_path / f"{i}.npy", face.numpy())
        said = telling(said, face=tuple(tmp_path / f"{i}.npy" for i in range(2)))
    loaded, state = SYSTEM.load(backbone, said), encoder(version).state_dict()
    who = look(said, loaded)
    pixels = np.stack([np.asarray(Image.open(path), np.float32) for path in images])
    pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2) / 255
    expected = seen(state, pictures, faces if version == 2 else None)
    torch.testing.assert_close(who[0], expected, atol=1e-5, rtol=1e-5)

    condition = told(backbone, PROMPT, loaded.net, who[0])
    count = 2 * version
    *ids, end = backbone.tokenizers[0](PLAIN).input_ids
    place = backbone.tokenizers[0]("a man").input_ids.index(end) - 1
    ids[place:place] = [ids[place]] * (count - 1)
    ids += [end] * (LENGTH - len(ids))
    out = [net(torch.tensor([ids]), output_hidden_states=True) for net in backbone.encoders]
    text = torch.cat([one.hidden_states[-2] for one in out], -1)
    here = slice(place, place + count)
    others = [i for i in range(LENGTH) if not here.start <= i < here.stop]
    assert torch.equal(condition.tokens[:, others], text[:, others])
    torch.testing.assert_close(condition.tokens[:, here],
                               fused(state, text[:, here], expected.flatten(0, 1)[None]),
                               atol=1e-5, rtol=1e-5)  # fmt: skip
    assert condition.pooled is not None
    assert torch.equal(condition.pooled, out[1][0])

    x, t = noisy()
    scores = [build(backbone, PROMPT, loaded, who, knobs=Knobs(lora=weight)) for weight in (1, 0)]
    assert float((scores[0](x, t) - scores[1](x, t)).abs().max()) > 1e-4  # its LoRA counts


@torch.no_grad()
def test_it_comes_late_and_neutral_it_is_bitwise_the_words_alone(
    backbone: StableDiffusion,
) -> None:
    who = torch.randn(1, 2, 1, WIDE)
    plain, (x, t) = sampled(backbone, PLAIN), noisy(2)
    neutral = build(backbone, PROMPT, Loaded(encoder()), who, knobs=Knobs(start_merge=1, lora=0))
    assert torch.equal(neutral(x, t), plain(x, t))
    late = build(backbone, PROMPT, Loaded(encoder()), who, knobs=Knobs(lora=0))
    levels = torch.arange(990, -1, -20)[:50]
    with counted(levels):  # of 50 steps the published 10 are the first 11
        alike = [torch.equal(late(x[:1], levels[i : i + 1]), plain(x[:1], levels[i : i + 1]))
                 for i in (0, 10, 11, 49)]  # fmt: skip
    assert alike == [True, True, False, False]


@torch.no_grad()
def test_people_in_one_batch_are_made_one_by_one(backbone: StableDiffusion) -> None:
    words, who = [PROMPT, "red on a boy img", "woman img"], torch.randn(3, 2, 2, WIDE)
    loaded, knobs = Loaded(encoder(2)), Knobs(lora=0, start_merge=0)
    x, t = noisy(3)
    together = build(backbone, words, loaded, who, knobs=knobs)(x, t)
    for i, text in enumerate(words):
        alone = build(backbone, text, loaded, who[i : i + 1], knobs=knobs)
        torch.testing.assert_close(alone(x[i : i + 1], t[:1]), together[i : i + 1],
                                   atol=2e-5, rtol=1e-4)  # fmt: skip


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a man in red", "'img' nowhere, got 'a man in red': say it once, behind what the perso"),
        ("a man imgs", "'img' nowhere"),
        ("a man img and a woman img", "'img' twice or more"),
        ("img in red", "stands behind nothing, which says no kind of person"),
        ("a img", "stands behind 'a', "),
        ("on the img", "stands behind 'the', "),
        ("a man, img", "stands behind 'man,', "),
        ("a man-img", "stands behind 'man-', "),
        ("a portrait of img", "stands behind 'of', "),
    ],
)
def test_prompts_without_a_person_in_them(prompt: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        class_word(prompt)
    with pytest.raises(InputError, match=message):
        SYSTEM.request(prompt, {"image": ("a.png",)})


def test_captions_get_the_trigger() -> None:
    assert class_word("a portrait of an old man img, smiling") == "man"
    assert with_trigger("a man, a man", "man") == "a man img, a man"
    assert with_trigger("a boy img", "man") == "a boy img"
    with pytest.raises(InputError, match="'a womanly hat' does not say 'woman', which is to be"):
        with_trigger("a womanly hat", "woman")


def test_what_cannot_be_meant(backbone: StableDiffusion, tmp_path: Path) -> None:
    image, grey = picture(tmp_path / "a.png"), tmp_path / "grey.png"
    Image.new("RGB", (9, 9), "grey").save(grey)
    Image.new("1", (12_000, 12_000)).save(tmp_path / "huge.png")
    first = asked(PROMPT, image=image, weights=written(backbone, tmp_path / "photomaker-v1.bin"))
    second = telling(first, weights=written(backbone, tmp_path / "2.safetensors", 2))
    for said, message in (
        (telling(first, image=grey), r"grey.png shows nothing: its middle is all of one colour"),
        (telling(first, image=tmp_path / "huge.png"), r"huge.png has too many pixels: as many as"),
        (telling(first, face=image), "are for weights of PhotoMaker's second version"),
        (telling(first, face=(image, image)), "once for each --image: there are 2 for 1"),
        (telling(first, weights=None), "'photo_maker' needs --weights"),
        (second, "need --face, a .npy file .* or --recogniser"),
        (telling(first, image=(image,) * 40), "too long for the 32 tokens .* pictures take 40"),
        (
            replace(first, prompt="a red hat on a very very very very old man img"),
            "is too long for",
        ),
    ):
        with pytest.raises(InputError, match=message):
            prepared(SYSTEM, backbone, said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_weights": None}, "holds no PhotoMaker: no name in it begins with lora_weights."),
        ({"id_encoder.fuse_module.mlp1.fc2": None}, "does not fit: fuse_module.mlp1.fc2"),
        ({"id_encoder.visual_projection.weight": None}, "visual_projection.weight is missing"),
        ({"id_encoder.visual_projection.weight": torch.ones(30, 16)}, "does not fit: fuse_module"),
        ({"lora_weights.unet.x.lora_A.weight": torch.ones(2, 2)}, "is no layer there"),
        (
            {"lora_weights.text_encoder.encoder.layers.0.self_attn.q_proj.lora_A.weight":
             torch.ones(1, WIDTH),
             "lora_weights.text_encoder.encoder.layers.0.self_attn.q_proj.lora_B.weight":
             torch.ones(WIDTH, 1)},
            "holds a LoRA of a text encoder",
        ),
    ],
)  # fmt: skip
def test_files_that_do_not_fit(
    backbone: StableDiffusion, tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    file = written(backbone, tmp_path / "a.safetensors")
    state = {name: value for name, value in load_file(file).items()
             if not name.startswith(tuple(change))}  # fmt: skip
    save_file(state | {name: value for name, value in change.items() if value is not None}, file)
    with pytest.raises(InputError, match=message):
        SYSTEM.load(backbone, asked(PROMPT, image=file, weights=file))


def test_other_backbones_pickles_and_odd_configs_are_refused(
    backbone: StableDiffusion, tmp_path: Path
) -> None:
    file = written(backbone, tmp_path / "a.safetensors")
    said = asked(PROMPT, image=file, weights=file)
    small = load_backbone(str(tiny_folder(tmp_path / "m")), device="cpu")
    with pytest.raises(InputError, match=r"another backbone than .*: its tokens have 64 numbers, "):
        SYSTEM.load(small, said)
    for text in ("{}", '{"head": 0, "image_mean": [0], "image_std": [1]}', '{"head": "x"}'):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=r"config.json does not describe PhotoMaker's eye"):
            SYSTEM.load(backbone, said)
    torch.save({"id_encoder": Path("x")}, tmp_path / "a.bin")
    with pytest.raises(InputError, match="holds no PhotoMaker"):
        SYSTEM.load(backbone, telling(said, weights=tmp_path / "a.bin"))


@torch.no_grad()
def test_a_person_is_the_same_from_every_view_of_a_model_of_few_words(tmp_path: Path) -> None:
    """The trigger is no word of any model, and is not read away."""
    folder = tiny_folder(tmp_path / "m")
    (folder / "tokenizer" / "words.txt").write_text("a\nman\nin\nred\nview\nfront\nback\n")
    model: Any = load_backbone(str(folder), device="cpu")
    net = IdEncoder(eye(1).vision_model, (12, WIDTH - 12), Sight())
    lora = Lora(model.unet, "made", rank=1, seed=0)
    state = {f"id_encoder.{name}": value for name, value in net.state_dict().items()}
    made = tensors_of(lora_of(model, "made"))
    save_file(state | {f"lora_weights.{name}": v for name, v in made.items()}, tmp_path / FILE)
    assert lora.parameters
    inputs = {"image": (str(picture(tmp_path / "a.png")),), "weights": (str(tmp_path / FILE),)}
    said = SystemSettings(name="photo_maker", inputs=inputs)
    views, plain = Steered(model, PROMPT, said, scale=5.0), Prompts(model, PLAIN)
    cameras, (x, t) = orbit(4, 32), noisy(4)
    assert torch.equal(views.text(cameras).tokens, plain.text(cameras).tokens)
    change = views.score(cameras, 5.0)(x, t) - plain.score(cameras, 5.0)(x, t)
    assert float(change.flatten(1).norm(dim=1).min()) > 0.02
    assert settled(Run(system=said, backbone=str(folder)), PROMPT).system.name == "photo_maker"
    with pytest.raises(InputError, match="'img' stands behind 'a', which says no kind of person"):
        Steered(model, "a elf img", said, scale=5.0)
    with pytest.raises(InputError, match="'elf', which stands before 'img', is no word that"):
        told(model, "a red elf img", net, torch.zeros(1, 1, WIDTH))


def test_training_moves_what_it_should_and_resumes(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m")
    eye_folder(folder / "clip")
    model: Any = load_backbone(str(folder), device="cpu")
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"text": "a person in red", "person": str(i // 3),
             "mask": picture(data / f"mask{i}.png", (255, 255, 255)).name,
             "image": picture(data / f"{i}.png", (40 * i, 99, 0)).name}
            for i in range(6)]  # fmt: skip
    write_examples(data, rows)
    examples = read_examples(data, 32, texts=("text", "person"))
    options = photo_maker.Options(rank=2)
    lesson = Lesson(examples, {"system": "photo_maker"}, options)
    torch.manual_seed(0)
    task = photo_maker.learn(model, lesson)
    net: Any = task.net
    assert task.sheet is not None
    assert task.sheet(net).shape == (3, 64, 192)
    task = replace(task, sheet=None)
    begin = {name: value.clone() for name, value in net.state_dict().items()}

    def lost() -> float:
        with torch.no_grad():
            return float(task.loss(net, 12, torch.Generator().manual_seed(5)))

    first, out = lost(), tmp_path / "out"
    recipe = Recipe(steps=6, batch=4, lr=3e-3, warmup=1, ema=0.5)
    train(task, replace(recipe, steps=3), out, device=CPU)
    train(task, recipe, out, device=CPU, resume=True)
    assert lost() < first
    whole = {name: value.clone() for name, value in net.state_dict().items()}
    moved = {name for name, value in whole.items() if not torch.equal(value, begin[name])}
    still = {name for name in whole if "lora_" not in name and (
        name.startswith(("unet.", "id_encoder.vision_model.embeddings."))
        or ".layers.0." in name or "pre_layrnorm" in name)}  # fmt: skip
    assert moved == whole.keys() - still
    assert json.loads((out / "config.json").read_text())["head"] == 8
    again: Any = photo_maker.load_trained(model, out, options)
    assert all(torch.equal(value, whole[name]) for name, value in again.state_dict().items())
    net.load_state_dict(begin)  # in one go it would have been the same
    train(task, recipe, tmp_path / "once", device=CPU)
    assert all(torch.equal(value, whole[name]) for name, value in net.state_dict().items())
    said = asked("a person img", 32, Guide(3.0), image=data / "0.png", weights=out)
    assert prepared(SYSTEM, model, said).score(*noisy()).isfinite().all()


def test_others_of_the_same_person_are_shown(tmp_path: Path) -> None:
    rows = [{"image": picture(tmp_path / f"{i}.png").name, "text": "", "person": "abba"[i % 4]}
            for i in range(5)]  # fmt: skip
    rows[4]["person"] = "alone"
    write_examples(tmp_path, rows)
    examples = read_examples(tmp_path, 16, texts=("text", "person"))
    drawn = same_people(examples, [0, 1, 4], 50, torch.Generator().manual_seed(0))
    assert [{*drawn[:50]}, {*drawn[50:100]}, {*drawn[100:]}] == [{3}, {2}, {4}]
    assert photo_maker.masks(examples, [0], torch.ones(1, 4, 8, 8), torch.tensor([True])) is None
