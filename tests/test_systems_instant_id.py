"""InstantID: beside diffusers' nets, its published files, its keypoints, and what training does."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from torch import Tensor

from tests.systems import asked, prepared, sampled, telling
from tests.tiny import WIDTH, tiny_folder
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.faces import Face
from threed.diffusion.guide import Guide
from threed.diffusion.keypoints import COLORS, draw_points
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.parts.control import new_controlnet
from threed.diffusion.parts.image_adapter import ImageAdapter, save_image_adapter
from threed.diffusion.parts.image_tokens import Projection, Resampler
from threed.learning.data import read_examples, write_examples
from threed.learning.loop import train
from threed.learning.recipe import Recipe
from threed.runs.steer import Steered, reference
from threed.settings.run import SystemSettings
from threed.systems.inputs import PICTURED, View
from threed.systems.reference import instant_id
from threed.systems.reference.instant_id import SYSTEM, Knobs, Nets, Told, build
from threed.systems.system import Lesson

CPU = torch.device("cpu")
PROMPT, FACE = "a red mug", 12
OFFICIAL_SUM = 2154735952  # crc32 of what the official code draws at POINTS of 1024 × 1152
POINTS = [[0.35, 0.4], [0.65, 0.38], [0.5, 0.55], [0.4, 0.7], [0.62, 0.7]]


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def backbone(request: Any, tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    folder = tiny_folder(tmp_path_factory.mktemp("tiny") / "m", request.param)
    loaded = load_backbone(str(folder), device="cpu")
    assert isinstance(loaded, StableDiffusion)
    return loaded


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    loaded = load_backbone(str(tiny_folder(tmp_path_factory.mktemp("small") / "m")), device="cpu")
    assert isinstance(loaded, StableDiffusion)
    return loaded


def trained(backbone: StableDiffusion) -> Nets:
    """Nets that say something, always the same."""
    torch.manual_seed(1)
    width = int(backbone.unet.config.cross_attention_dim)
    adapter = ImageAdapter(backbone, Resampler(FACE, width, inner=64, heads=1, tokens=5))
    identity = new_controlnet(backbone)
    for value in (*adapter.parameters(), *identity.parameters()):
        value.data += 0.05 * torch.randn_like(value)
    return Nets(adapter.eval().requires_grad_(False), identity.eval().requires_grad_(False))


def written(nets: Nets, out: Path) -> Path:
    """The folder as published: ip-adapter.bin beside ControlNetModel/."""
    out.mkdir()
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for name, value in nets.adapter.state_dict().items():
        part, _, rest = name.partition(".")
        parts[part][rest] = value
    torch.save(parts, out / "ip-adapter.bin")
    nets.identity.save_pretrained(out / "ControlNetModel")
    return out


def face(n: int = 1) -> Told:
    g = torch.Generator().manual_seed(2)
    return Told(torch.randn(n, FACE, generator=g), torch.rand(n, 3, 32, 32, generator=g))


def noisy(n: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.randn(n, 4, 8, 8, generator=g), torch.full((n,), 600)


@torch.no_grad()
def test_it_is_the_published_pipeline(backbone: StableDiffusion) -> None:
    """Within 6e-6 of diffusers' nets: attention to the face, and a net told the face alone."""
    nets, told = trained(backbone), face()
    state = nets.adapter.state_dict()
    parts = {part: {name.removeprefix(f"{part}."): value for name, value in state.items()
                    if name.startswith(part)} for part in ("image_proj", "ip_adapter")}  # fmt: skip
    theirs = UNet2DConditionModel.from_pretrained(backbone.folder / "unet")
    theirs._load_ip_adapter_weights([parts])
    for processor in theirs.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.7]
    x, t = noisy()
    both = torch.stack([told.face, torch.zeros_like(told.face)])[:, None]  # [2, 1, 1, FACE]
    halves = []
    for text, embeds in zip((PROMPT, ""), both.split(1)):
        condition = backbone.encode_text([text])
        added = backbone.extras(x, t, condition).get("added_cond_kwargs", {})
        tokens = nets.adapter.image_proj(embeds[0])
        skips, middle = nets.identity(x, t, tokens, told.hint, conditioning_scale=0.6,
                                      added_cond_kwargs=added, return_dict=False)  # fmt: skip
        halves.append(
            theirs(x, t, condition.tokens, added_cond_kwargs={**added, "image_embeds": [embeds]},
                   down_block_additional_residuals=skips,
                   mid_block_additional_residual=middle).sample
        )  # fmt: skip
    for scale, expected in ((1, halves[0]), (0, halves[1]), (3, 3 * halves[0] - 2 * halves[1])):
        ours = build(backbone, PROMPT, nets, told, guide=Guide(scale),
                     knobs=Knobs(scale=0.7, strength=0.6))(x, t)  # fmt: skip
        torch.testing.assert_close(ours, expected, atol=6e-6, rtol=2e-6)
    assert float((halves[0] - sampled(backbone, PROMPT, scale=1)(x, t)).abs().max()) > 1e-2


@torch.no_grad()
def test_words_do_not_reach_the_identity_net(small: StableDiffusion) -> None:
    told_of: list[Any] = []

    class Listening(torch.nn.Module):
        dtype = torch.float32

        def forward(self, *given: Any, **extras: Any) -> Any:
            told_of.append((given[2], extras))
            return inner(*given, **extras)

    nets, told, (x, t) = trained(small), face(), noisy()
    inner = nets.identity
    tokens = nets.adapter.image_proj(torch.cat([told.face, 0 * told.face])[:, None])
    for words in (PROMPT, "a blue hat"):
        build(small, words, Nets(nets.adapter, Listening()), told)(x, t)
        heard, extras = told_of.pop()
        torch.testing.assert_close(heard, tokens, atol=1e-5, rtol=1e-5)
        assert extras == {"return_dict": False}


@torch.no_grad()
def test_at_zero_it_is_bitwise_the_words_alone(small: StableDiffusion) -> None:
    x, t = noisy(2)
    nothing = build(small, PROMPT, trained(small), face(), knobs=Knobs(scale=0, strength=0))
    assert torch.equal(nothing(x, t), sampled(small, PROMPT)(x, t))


@torch.no_grad()
def test_faces_in_one_batch_are_made_one_by_one(small: StableDiffusion) -> None:
    words, told, nets = [PROMPT, "a hat", "two"], face(3), trained(small)
    x, t = noisy(3)
    together = build(small, words, nets, told)(x, t)
    assert told.hint is not None
    for i, text in enumerate(words):
        one = Told(told.face[i : i + 1], told.hint[i : i + 1])
        torch.testing.assert_close(build(small, text, nets, one)(x[i : i + 1], t[:1]),
                                   together[i : i + 1], atol=2e-5, rtol=1e-4)  # fmt: skip


def test_keypoints_are_drawn_as_published() -> None:
    """The sum is that of the official code's picture, which OpenCV draws."""
    points = np.array(POINTS, np.float32) * (1024, 1152)
    drawn = draw_points(points.astype(np.float32), (1024, 1152))
    assert zlib.crc32(drawn.tobytes()) == OFFICIAL_SUM
    for (x, y), color in zip(points.astype(int), COLORS):
        assert drawn[y, x].tolist() == [*color]
    eye, nose = points[0], points[2]
    x, y = ((eye + nose) / 2).astype(int)
    assert drawn[y, x].tolist() == [153, 0, 0]  # a limb is darker than the eye that it comes from
    small = draw_points(np.array(POINTS, np.float32) * 64, 64)  # smaller discs, cut at the border
    assert 0.02 < (small > 0).any(-1).mean() < 0.12
    assert draw_points(np.zeros((5, 2), np.float32), 64)[0, 0].tolist() == [255, 0, 255]


def test_keypoints_follow_the_cut_of_their_picture() -> None:
    """A picture of 200 × 100 is cut to its middle 100: what is at (100, 50) is in the middle."""
    points = np.array([[100, 50], *[[90, 40]] * 4], np.float32)
    seen = Face((200, 100), np.zeros(4, np.float32), points, np.ones(FACE, np.float32))
    assert torch.equal(instant_id.drawn(seen, 64)[0, :, 32, 32], torch.tensor([1.0, 0, 0]))
    assert torch.equal(instant_id.drawn(seen, (128, 64))[0, :, 32, 64], torch.tensor([1.0, 0, 0]))
    aside = replace(seen, points=np.array([[20, 50], *[[90, 40]] * 4], np.float32))
    with pytest.raises(InputError, match="the keypoints lie outside of the middle that is 64×64"):
        instant_id.drawn(aside, 64)


@pytest.fixture
def said(tmp_path: Path) -> Any:
    np.save(tmp_path / "face.npy", np.arange(1.0, FACE + 1))
    (tmp_path / "points.json").write_text(json.dumps(POINTS))
    return asked(PROMPT, 32, Guide(3.0), face=tmp_path / "face.npy",
                 points=tmp_path / "points.json", weights=tmp_path / "w")  # fmt: skip


@torch.no_grad()
def test_it_is_built_from_what_a_user_says(
    backbone: StableDiffusion, said: Any, tmp_path: Path
) -> None:
    nets = trained(backbone)
    written(nets, tmp_path / "w")
    hint = draw_points(np.array(POINTS, np.float32) * 32, 32)
    told = Told(torch.arange(1.0, FACE + 1)[None], torch.tensor(hint).permute(2, 0, 1)[None] / 255)
    x, t = noisy()
    for more, strength in (({}, 0.8), ({"points": ()}, 0.0)):
        asks = replace(said, inputs={**said.inputs, **more})
        weights = SYSTEM.load(backbone, said)
        made = SYSTEM.prepare(backbone, asks, weights).score
        expected = build(backbone, PROMPT, nets, told, guide=Guide(3.0),
                         knobs=Knobs(strength=strength))  # fmt: skip
        torch.testing.assert_close(made(x, t), expected(x, t), atol=1e-6, rtol=1e-6)


def found(path: Path, encoder: Any) -> Face:
    """In each picture a face, whose first number says in which."""
    number = float(path.stem)
    points = np.array(POINTS, np.float32) * 32 + number
    return Face((32, 32), np.zeros(4, np.float32), points, np.full(FACE, number, np.float32))


def test_faces_are_found_in_pictures(
    small: StableDiffusion, said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(trained(small), tmp_path / "w")
    monkeypatch.setattr("threed.diffusion.faces.face_in", found)
    monkeypatch.setattr(instant_id, "finder", lambda base, models: None if base is None else found)
    none = {"face": None, "points": None}
    for inputs, whose, where in (
        ({**none, "image": Path("1")}, 1, 1),
        ({**none, "image": Path("1"), "pose": Path("2")}, 1, 2),
        ({"points": None, "pose": Path("2")}, None, 2),
        ({"points": None, "image": Path("1")}, None, 1),
        ({"face": None, "image": Path("1")}, 1, None),
    ):
        loaded = SYSTEM.load(small, telling(said, **inputs))
        number = torch.arange(1.0, FACE + 1) if whose is None else torch.full((FACE,), float(whose))
        assert torch.equal(loaded.face[0], number)
        if where is None:
            torch.testing.assert_close(loaded.where, torch.tensor(POINTS))
        else:
            assert float(loaded.where.embedding[0]) == where


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"face": None}, "'instant_id' needs --image, a picture of the face, or --face"),
        ({"points": None}, "--face does not say where the face is to be: give --points, or"),
        ({"pose": Path("a")}, "--pose and --points both say where the face is: give one"),
        ({"face": None, "image": Path("a")}, r"need --face, a .npy file .* or --recogniser"),
        ({"points": Path("w/none.json")}, "there is no file w/none.json"),
        ({"weights": None}, "'instant_id' needs --weights"),
    ],
)
def test_what_cannot_be_meant(
    small: StableDiffusion, said: Any, tmp_path: Path, change: Any, message: str
) -> None:
    written(trained(small), tmp_path / "w")
    with pytest.raises(InputError, match=message):
        prepared(SYSTEM, small, telling(said, **change))


@pytest.mark.parametrize("text", ["", "[1]", "{}", "[[0,0],[0,0],[0,0],[0,0],[0,1]]", "[" * 9999,
                                  "[[0,0],[0,0],[0,0],[0,0],[0,NaN]]", '[["x",0]]'])  # fmt: skip
def test_points_that_are_none(text: str, small: StableDiffusion, said: Any, tmp_path: Path) -> None:
    written(trained(small), tmp_path / "w")
    (tmp_path / "points.json").write_text(text)
    with pytest.raises(
        InputError, match=r"points.json must hold five points \[x, y\], from 0 to 1"
    ):
        SYSTEM.load(small, said)


def test_weights_of_other_kinds_are_refused(
    small: StableDiffusion, said: Any, tmp_path: Path
) -> None:
    nets = trained(small)
    folder = written(nets, tmp_path / "w")
    wide = replace(nets, adapter=ImageAdapter(small, Resampler(FACE, 48, inner=64, heads=1)))
    other = written(wide, tmp_path / "wide")
    with pytest.raises(InputError, match=r"another backbone than .*: its tokens have 48 numbers"):
        SYSTEM.load(small, telling(said, weights=other))
    np.save(tmp_path / "face.npy", np.ones(5))
    with pytest.raises(InputError, match="must hold 12 numbers, got 5"):
        SYSTEM.load(small, said)
    (folder / "ControlNetModel").rename(folder / "x")
    with pytest.raises(InputError, match="holds no folder ControlNetModel, the IdentityNet of ip-"):
        SYSTEM.load(small, said)
    (folder / "x").rename(folder / "ControlNetModel")
    torch.save({"image_proj": Path("x")}, folder / "ip-adapter.bin")  # a pickle: nothing is run
    with pytest.raises(InputError, match="holds no IP-Adapter"):
        SYSTEM.load(small, said)
    (folder / "ip-adapter.bin").unlink()
    save_image_adapter(ImageAdapter(small, Projection(FACE, WIDTH, face=True)), folder)
    with pytest.raises(InputError, match="another kind of IP-Adapter than InstantID's"):
        SYSTEM.load(small, said)


@torch.no_grad()
def test_a_face_is_the_same_from_every_view_and_its_place_holds_for_one(
    small: StableDiffusion, said: Any, tmp_path: Path
) -> None:
    nets = trained(small)
    written(nets, tmp_path / "w")
    inputs = {name: tuple(map(str, values)) for name, values in said.inputs.items()}
    request = SYSTEM.request(PROMPT, inputs)
    assert SYSTEM.is_pictured(request)
    back, pictured = (SYSTEM.of_view(request, View(name)) for name in ("back", PICTURED))
    assert back is not None
    assert pictured is not None
    assert (back.one("face"), back.all("points")) == (request.one("face"), ())
    assert pictured.inputs == request.inputs
    views = Steered(small, PROMPT, SystemSettings(name="instant_id", inputs=inputs), scale=5.0)
    assert views.pictured
    where = SYSTEM.load(small, request).where
    face = torch.arange(1.0, FACE + 1)[None]
    x, t = noisy()
    for cameras, hint in ((reference(32), instant_id.drawn(where, 32)),
                          (orbit(1, 32, start_deg=180), None)):  # fmt: skip
        words = f"{PROMPT}, {'back' if hint is None else 'front'} view"
        expected = build(small, words, nets, Told(face, hint), guide=Guide(5.0))
        torch.testing.assert_close(views.score(cameras, 5.0)(x, t), expected(x, t),
                                   atol=2e-5, rtol=1e-4)  # fmt: skip


def test_its_picture_says_where_the_face_is() -> None:
    told = SYSTEM.request(PROMPT, {"image": ("a.png",)})
    settled = SYSTEM.settle(told)
    assert settled.all("pose") == told.all("image")
    assert SYSTEM.settle(settled) is settled
    assert SYSTEM.is_pictured(settled)


def test_training_moves_both_nets_alone_and_resumes(small: StableDiffusion, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = []
    for i in range(4):
        np.save(data / f"{i}.npy", np.arange(FACE) - 3.0 * i)
        made = Image.new("RGB", (32, 32), (60 * i, 20, 90))
        made.paste((250, 220, 30), (4 * i, 0, 4 * i + 8, 32))
        made.save(data / f"{i}.png")
        hint = draw_points((np.array(POINTS, np.float32) * 32 - 2 * i).astype(np.float32), 32)
        Image.fromarray(hint).save(data / f"points{i}.png")
        rows.append({"image": f"{i}.png", "text": "a mug", "face": f"{i}.npy",
                     "points": f"points{i}.png"})  # fmt: skip
    write_examples(data, rows)
    examples = read_examples(data, 32, pictures=("image", "points"), texts=("text", "face"))
    lesson = Lesson(examples, {"system": "instant_id"}, instant_id.Options())
    torch.manual_seed(0)
    task = instant_id.learn(small, lesson)
    net: Any = task.net
    assert task.sheet is not None
    assert task.sheet(net).shape == (3, 96, 128)
    task = replace(task, sheet=None)
    begin = {name: value.clone() for name, value in net.state_dict().items()}
    frozen = {name: value.clone() for name, value in small.unet.state_dict().items()}

    def lost() -> float:
        with torch.no_grad():
            return float(task.loss(net, 12, torch.Generator().manual_seed(5)))

    first, out = lost(), tmp_path / "out"
    recipe = Recipe(steps=6, batch=4, lr=3e-3, warmup=1, ema=0.5)
    train(task, replace(recipe, steps=3), out, device=CPU)
    train(task, recipe, out, device=CPU, resume=True)
    assert lost() < first
    whole = {name: value.clone() for name, value in net.state_dict().items()}
    for part in ("adapter.image_proj", "adapter.ip_adapter", "identity"):
        moved = [name for name, value in whole.items()
                 if name.startswith(part) and not torch.equal(value, begin[name])]  # fmt: skip
        assert len(moved) > 0.9 * sum(name.startswith(part) for name in whole)
    assert all(torch.equal(value, frozen[name])
               for name, value in small.unet.state_dict().items())  # fmt: skip
    again: Any = instant_id.load_trained(small, out, lesson.options)
    assert all(torch.equal(value, whole[name]) for name, value in again.state_dict().items())
    net.load_state_dict(begin)  # in one go it would have been the same
    train(task, recipe, tmp_path / "once", device=CPU)
    assert all(torch.equal(value, whole[name]) for name, value in net.state_dict().items())
