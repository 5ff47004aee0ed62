"""IP-Adapter: beside diffusers' own, its published files, and what training does."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from guidance.prompts import Prompts
from tests.systems import asked, prepared, sampled, telling
from tests.tiny import WIDTH, eye_folder, tiny_folder
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.noise import Noised, alpha_sigma
from threed.diffusion.parts.adapters import Lora
from threed.diffusion.parts.attention import Layer, Site, plain
from threed.diffusion.parts.control import Around, Control, new_controlnet
from threed.diffusion.parts.image_adapter import (
    FILE,
    ImageAdapter,
    ImageTokens,
    attentions,
    block_scales,
    load_image_adapter,
    save_image_adapter,
)
from threed.diffusion.parts.image_encoder import OFFICIAL, ImageEncoder
from threed.diffusion.parts.image_tokens import Patchwise, Projection, Resampler
from threed.diffusion.score import cfg, score
from threed.learning.data import read_examples, write_examples
from threed.learning.loop import train
from threed.learning.losses import dropped
from threed.learning.recipe import Recipe
from threed.runs.steer import Steered
from threed.settings.run import SystemSettings
from threed.systems.inputs import PICTURED, View
from threed.systems.reference import ip_adapter
from threed.systems.reference.ip_adapter import SYSTEM, Knobs, Loaded, Told, build
from threed.systems.system import Lesson

CPU = torch.device("cpu")
PROMPT = "a red mug"
POOLED, PATCHED, FACE = 24, 16, 12  # numbers of the encoder's vector, of its patches, of a face
KINDS = {
    "base": lambda: Projection(POOLED, WIDTH),
    "plus": lambda: Resampler(PATCHED, WIDTH, inner=64, heads=1, tokens=5),
    "full": lambda: Patchwise(PATCHED, WIDTH),
    "face": lambda: Projection(FACE, WIDTH, face=True),
}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    folder = tiny_folder(tmp_path_factory.mktemp("tiny") / "m")
    eye_folder(folder / "clip")
    loaded = load_backbone(str(folder), device="cpu")
    assert isinstance(loaded, StableDiffusion)
    return loaded


def adapter(backbone: StableDiffusion, kind: str = "base") -> ImageAdapter:
    """One that says something, always the same."""
    torch.manual_seed(1)
    net = ImageAdapter(backbone, KINDS[kind]())
    for value in net.parameters():
        value.data += 0.1 * torch.randn_like(value)
    return net.eval().requires_grad_(False)


def features(kind: str, count: int = 1) -> Tensor:
    """[1, count, ...] of random pictures."""
    generator = torch.Generator().manual_seed(2)
    shape = {"base": (POOLED,), "face": (FACE,)}.get(kind, (5, PATCHED))
    return torch.randn(1, count, *shape, generator=generator)


def noisy(n: int = 1) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    return torch.randn(n, 4, 8, 8, generator=g), torch.full((n,), 600)


@pytest.mark.parametrize(("kind", "count"), [("base", 1), ("plus", 1), ("base", 2), ("full", 1)])
def test_it_is_diffusers_own(backbone: StableDiffusion, kind: str, count: int) -> None:
    net, seen = adapter(backbone, kind), features(kind, count)
    told = Told(seen, torch.zeros_like(seen[:, 0]))
    text, empty = (build(backbone, PROMPT, Loaded(net), told, guide=Guide(scale),
                         knobs=Knobs(scale=0.7)) for scale in (1, 0))  # fmt: skip
    state = net.state_dict()
    parts = {part: {name.removeprefix(f"{part}."): value for name, value in state.items()
                    if name.startswith(part)} for part in ("image_proj", "ip_adapter")}  # fmt: skip
    theirs = UNet2DConditionModel.from_pretrained(backbone.folder / "unet")
    theirs._load_ip_adapter_weights([parts])
    for processor in theirs.attn_processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [0.7]
    texts = backbone.encode_text([PROMPT, ""]).tokens
    x, t = noisy()
    embeds = torch.cat([seen, torch.zeros_like(seen)])
    with torch.no_grad():
        noise, other = theirs(
            x.repeat(2, 1, 1, 1), t.repeat(2), texts, added_cond_kwargs={"image_embeds": [embeds]}
        ).sample.split(1)
    torch.testing.assert_close(text(x, t), noise, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(empty(x, t), other, atol=1e-6, rtol=1e-6)
    assert float((noise - sampled(backbone, PROMPT, scale=1)(x, t)).abs().max()) > 1e-2


@pytest.mark.parametrize("knobs", [Knobs(scale=0), Knobs(blocks="style:0,layout:0")])
def test_at_scale_zero_it_is_bitwise_the_words_alone(
    backbone: StableDiffusion, knobs: Knobs
) -> None:
    seen = features("base")
    told = Told(seen, torch.zeros_like(seen[:, 0]))
    ours = build(backbone, PROMPT, Loaded(adapter(backbone)), told, knobs=knobs)
    x, t = noisy(2)
    assert torch.equal(ours(x, t), sampled(backbone, PROMPT, scale=7.5)(x, t))


def test_prompts_with_a_picture_each_are_made_one_by_one(backbone: StableDiffusion) -> None:
    words = [PROMPT, "a hat", "two"]
    loaded, seen = Loaded(adapter(backbone, "plus")), features("plus", 3).transpose(0, 1)
    other = torch.zeros_like(seen[:1, 0])
    x, t = noisy(3)
    together = build(backbone, words, loaded, Told(seen, other))(x, t)
    for i, text in enumerate(words):
        alone = build(backbone, text, loaded, Told(seen[i : i + 1], other))
        torch.testing.assert_close(alone(x[i : i + 1], t[:1]), together[i : i + 1],
                                   atol=2e-5, rtol=1e-4)  # fmt: skip


def test_gradients_reach_the_picture(backbone: StableDiffusion) -> None:
    picture = torch.rand(1, 3, 16, 16).requires_grad_()
    encoder = ImageEncoder(backbone.folder / "clip", CPU)
    x, t = noisy()
    for kind in ("base", "plus"):
        seen = encoder.see(picture, pooled=kind == "base")[:, None]
        told = Told(seen, encoder.nothing(pooled=kind == "base"))
        noise = build(backbone, PROMPT, Loaded(adapter(backbone, kind)), told)(x, t)
        (gradient,) = torch.autograd.grad(noise.square().sum(), picture)
        assert float(gradient.abs().max()) > 0


def edit(backbone: StableDiffusion, **how: Any) -> tuple[ImageTokens, Site]:
    net = adapter(backbone)
    name = next(iter(net.places))
    tokens = net(features("base", 2))
    width = backbone.unet.get_submodule(name).inner_dim
    site = Site(Layer(name, True, 2), 4, 4, torch.zeros(1, 16, width), lambda c: (c, c))
    return ImageTokens(tokens, net, {name: 0.5}, **how), site


def seen_alone(one: ImageTokens, site: Site, q: Tensor, picture: int) -> Tensor:
    maps: Any = one.net.ip_adapter[one.net.places[site.layer.name]]
    return plain(2)(q, *maps(one.tokens[:, picture]))


def test_shares_and_masks_say_how_much_and_where_a_picture_counts(
    backbone: StableDiffusion,
) -> None:
    masks = torch.zeros(2, 1, 4, 4)
    masks[0, ..., :2], masks[1, ..., 3:] = 1, 1
    apart, site = edit(backbone, masks=masks, shares=(1.0, 0.5))
    q = torch.randn(1, 16, site.hidden.shape[-1])
    zero = plain(2)(q, q, 0 * q)

    def added(one: ImageTokens) -> Tensor:
        return (one(site, plain(2))(q, q, 0 * q) - zero) / 0.5

    rows = added(apart).unflatten(1, (4, 4))
    first, second = (seen_alone(apart, site, q, i).unflatten(1, (4, 4)) for i in range(2))
    torch.testing.assert_close(rows[:, :, :2], first[:, :, :2])
    torch.testing.assert_close(rows[:, :, 3], second[:, :, 3] * 0.5)
    assert not rows[:, :, 2].any()
    # one softmax: a share of nothing takes a picture away, alike ones change nothing
    only, _ = edit(backbone, shares=(0.0, 3.0))
    torch.testing.assert_close(added(only), second.flatten(1, 2))
    alike, neither = (edit(backbone, shares=shares)[0] for shares in ((2.0, 2.0), ()))
    torch.testing.assert_close(added(alike), added(neither))


def test_blocks_are_instant_styles() -> None:
    sdxl = [f"{place}.attentions.{i}.transformer_blocks.{k}.attn2"
            for place, count in (("down_blocks.1", 2), ("down_blocks.2", 2), ("up_blocks.0", 3),
                                 ("up_blocks.1", 3), ("mid_block", 1))
            for i in range(count) for k in range(2)]  # fmt: skip
    style, layout = "up_blocks.0.attentions.1", "down_blocks.2.attentions.1"
    for blocks, starts in (
        ("style", {style: 0.8}),
        ("layout", {layout: 0.8}),
        ("style, layout:0.5", {style: 0.8, layout: 0.4}),
        ("mid_block,up_blocks.1:2", {"mid_block": 0.8, "up_blocks.1": 1.6}),
    ):
        found = block_scales(sdxl, blocks, 0.8)
        assert found == {name: scale for start, scale in starts.items()
                         for name in sdxl if name.startswith(start)}  # fmt: skip
    assert block_scales(sdxl, "all", 0.8) == dict.fromkeys(sdxl, 0.8)
    for wrong in ("up_blocks.7", "style:much", "", "up_block"):
        with pytest.raises(InputError, match=r"parts of down_blocks.1, .*, mid_block, up_blocks.0"):
            block_scales(sdxl, wrong, 1.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["safetensors", "nested", "trainer"])
def test_published_files_load(
    backbone: StableDiffusion, tmp_path: Path, kind: str, form: str
) -> None:
    net = adapter(backbone, kind)
    state = net.state_dict()
    path = tmp_path / ("a.safetensors" if form == "safetensors" else "a.bin")
    if form == "safetensors":
        save_file(state, path)
    elif form == "nested":
        split = [name.partition(".") for name in state]
        torch.save({part: {rest: state[f"{part}.{rest}"] for head, _, rest in split if head == part}
                    for part in ("image_proj", "ip_adapter")}, path)  # fmt: skip
    else:
        names = {"image_proj": "image_proj_model", "ip_adapter": "adapter_modules"}
        renamed = {name.replace(part, names[part]): value for name, value in state.items()
                   for part in names if name.startswith(part)}  # fmt: skip
        torch.save({"unet.conv_in.bias": torch.ones(1), **renamed}, path)
    loaded, lora = load_image_adapter(backbone, path)
    assert not lora
    assert (loaded.image_proj.pooled, loaded.image_proj.face) == (kind in ("base", "face"),
                                                                  kind == "face")  # fmt: skip
    assert loaded.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
    seen = features(kind)
    assert torch.equal(loaded(seen), net(seen))


def test_sdxls_files_load_and_act(tmp_path: Path) -> None:
    backbone = load_backbone(str(tiny_folder(tmp_path / "xl", "sdxl")), device="cpu")
    assert isinstance(backbone, StableDiffusion)
    net = ImageAdapter(backbone, Projection(POOLED, 2 * WIDTH)).requires_grad_(False)
    save_image_adapter(net, tmp_path / "w")
    loaded, _ = load_image_adapter(backbone, tmp_path / "w" / FILE)
    seen = features("base")
    x, t = noisy()
    noise = build(backbone, PROMPT, Loaded(loaded), Told(seen, torch.zeros(1, POOLED)))(x, t)
    assert float((noise - sampled(backbone, PROMPT, scale=7.5)(x, t)).abs().max()) > 1e-3


def test_face_ids_lora_is_merged_weights(tmp_path: Path) -> None:
    folder = tiny_folder(tmp_path / "m")
    with_lora, merged = (load_backbone(str(folder), device="cpu") for _ in range(2))
    assert isinstance(with_lora, StableDiffusion)
    assert isinstance(merged, StableDiffusion)
    net, lora = adapter(with_lora, "face"), {}
    for number, name in enumerate(attentions(merged.unet)):
        for layer, place in (("to_q", "to_q"), ("to_out", "to_out.0")):
            weight: Any = merged.unet.get_submodule(f"{name}.{place}").weight
            up, down = torch.randn(weight.shape[0], 2) * 0.2, torch.randn(2, weight.shape[1]) * 0.2
            lora |= {f"ip_adapter.{number}.{layer}_lora.{way}.weight": value
                     for way, value in (("up", up), ("down", down))}  # fmt: skip
            weight.data += up @ down
    save_file({**net.state_dict(), **lora}, tmp_path / "ip-adapter-faceid.safetensors")
    np.save(tmp_path / "face.npy", face := np.arange(1, 1 + FACE, dtype=np.float32))
    said = asked(PROMPT, 32, Guide(4.0), weights=tmp_path / "ip-adapter-faceid.safetensors",
                 face=tmp_path / "face.npy")  # fmt: skip
    told = Told(F.normalize(torch.from_numpy(face)[None, None], dim=2), torch.zeros(1, FACE))
    expected = build(merged, PROMPT, Loaded(net), told, guide=Guide(4.0))
    x, t = noisy()
    made = prepared(SYSTEM, with_lora, said).score(x, t)
    torch.testing.assert_close(made, expected(x, t), atol=2e-5, rtol=1e-4)
    wrong = {name: value[:, 1:].contiguous() if "down" in name else value
             for name, value in lora.items()}  # fmt: skip
    save_file({**net.state_dict(), **wrong}, tmp_path / "wrong.safetensors")
    with pytest.raises(InputError, match=r"ip_adapter.0.to_\w+_lora has no place in the UNet"):
        load_image_adapter(merged, tmp_path / "wrong.safetensors")
    with pytest.raises(InputError, match=r"these weights need --face, a .npy file"):
        prepared(SYSTEM, with_lora, telling(said, face=None, image=tmp_path / "x.png"))
    np.save(tmp_path / "face.npy", face[1:])
    with pytest.raises(InputError, match=r"face.npy must hold 12 numbers, got 11"):
        prepared(SYSTEM, with_lora, said)
    np.save(tmp_path / "face.npy", np.zeros(10**6, np.float32))
    with pytest.raises(InputError, match=r"face.npy must hold 12 numbers, got 1000000"):
        prepared(SYSTEM, with_lora, said)
    with (tmp_path / "face.npy").open("wb") as file:  # of 4 TB, says its header
        form = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
        np.lib.format.write_array_header_1_0(file, form)
        file.write(b"\0" * 64)
    with pytest.raises(InputError, match=r"face.npy is no .npy file of numbers"):
        prepared(SYSTEM, with_lora, said)
    np.save(tmp_path / "face.npy", np.array([{}]))  # a pickle
    with pytest.raises(InputError, match=r"face.npy is no .npy file of numbers"):
        prepared(SYSTEM, with_lora, said)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_proj": None}, "holds no IP-Adapter: no name in it begins with image_proj."),
        ({"image_proj.norm": None}, "is an IP-Adapter of an unknown kind: known are the base, Pl"),
        ({"ip_adapter.1.": None}, r"does not fit: ip_adapter.1.to_\w_ip.weight is None, and \(32"),
        ({"image_proj.perceiver_resampler.x": torch.ones(1)}, "does not fit: image_proj.percei"),
    ],
)
def test_files_that_do_not_fit(
    backbone: StableDiffusion, tmp_path: Path, change: dict[str, Tensor | None], message: str
) -> None:
    (name, value), *_ = change.items()
    state = {key: one for key, one in adapter(backbone).state_dict().items()
             if not key.startswith(name)}  # fmt: skip
    save_file(state if value is None else {**state, name: value}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=message):
        load_image_adapter(backbone, tmp_path / "a.safetensors")


def test_other_backbones_adapters_and_pickles_are_refused(
    backbone: StableDiffusion, tmp_path: Path
) -> None:
    wide = ImageAdapter(backbone, Projection(POOLED, 2 * WIDTH))
    save_image_adapter(wide, tmp_path)
    with pytest.raises(InputError, match=r"another backbone than .*: its tokens have 64 numbers, "):
        load_image_adapter(backbone, tmp_path / FILE)
    torch.save({"image_proj": Path("x")}, tmp_path / "a.bin")
    with pytest.raises(InputError, match="holds no IP-Adapter"):
        load_image_adapter(backbone, tmp_path / "a.bin")


def bar(path: Path, left: int = 4, size: int = 32) -> Path:
    picture = Image.new("RGB", (size, size), (20, 20, 200))
    picture.paste((250, 220, 30), (left, 0, left + 8, size))
    picture.save(path)
    return path


def test_it_is_built_from_what_a_user_says(backbone: StableDiffusion, tmp_path: Path) -> None:
    net, encoder = adapter(backbone, "plus"), ImageEncoder(backbone.folder / "clip", CPU, own=True)
    save_image_adapter(net, tmp_path / "w")
    one, two = (bar(tmp_path / f"{i}.png", 4 * i, 16) for i in range(2))
    masks = tuple(bar(tmp_path / f"mask{i}.png", 8 * i) for i in range(2))
    said = asked(PROMPT, 32, Guide(3.0), Knobs(scale=0.6, shares="2,1"), weights=tmp_path / "w",
                 image=(one, two), mask=masks, unlike=one)  # fmt: skip
    x, t = noisy()
    made = prepared(SYSTEM, backbone, said).score(x, t)
    grey = [np.array(Image.open(path), np.float32).mean(2) / 255 for path in masks]
    where = torch.from_numpy(np.stack(grey))[:, None]
    seen, other = ip_adapter.look(backbone, said, Loaded(net, encoder))
    torch.testing.assert_close(other, seen[:, 0])
    expected = build(backbone, PROMPT, Loaded(net, encoder), Told(seen, other, where),
                     guide=Guide(3.0), knobs=Knobs(scale=0.6, shares="2,1"))  # fmt: skip
    torch.testing.assert_close(made, expected(x, t))
    zero = ip_adapter.look(backbone, telling(said, unlike=None), Loaded(net, encoder))[1]
    blank = encoder.model(pixel_values=torch.zeros(1, 3, 16, 16), output_hidden_states=True)
    assert torch.equal(zero, blank.hidden_states[-2])
    Image.new("RGB", (16, 16), (20, 20, 200)).save(flat := tmp_path / "flat.png")
    for other_said, message in (
        (telling(said, mask=one), "--mask must be said once for each --image: there are 1 for 2"),
        (telling(said, image=None, mask=None), "needs --image, the picture that is the prompt"),
        (telling(said, image=None, mask=None, face=one), "--face is for weights of FaceID"),
        (telling(said, weights=None), "'ip_adapter' needs --weights: .* threed train ip_adapter"),
        (telling(said, weights=tmp_path), r"hold one file ip-adapter.*there are: none; name one"),
        (replace(said, knobs=Knobs(shares="1")), "shares=1 are 1, and there are 2 pictures"),
        (telling(said, image=(one, flat)), "flat.png shows nothing: its middle is all of one col"),
        (
            telling(said, encoder=backbone.folder / "vae"),
            "model_type must be one of clip, ",
        ),
    ):
        if "none; name" in message:
            (tmp_path / "w" / FILE).rename(tmp_path / "w" / "other.safetensors")
        with pytest.raises(InputError, match=message):
            prepared(SYSTEM, backbone, other_said)
        if "none; name" in message:
            (tmp_path / "w" / "other.safetensors").rename(tmp_path / "w" / FILE)


def test_a_picture_holds_from_every_view_and_a_mask_from_its_own(
    backbone: StableDiffusion, tmp_path: Path
) -> None:
    save_image_adapter(adapter(backbone), tmp_path / "w")
    inputs = {"image": (str(bar(tmp_path / "a.png", size=16)),), "weights": (str(tmp_path / "w"),)}
    told = SYSTEM.request("a mug", inputs)
    for view in (View("front", ", front view"), View("back", ", back view"), View(PICTURED)):
        seen = SYSTEM.of_view(told, view)
        assert seen is not None
        assert (seen.inputs, seen.prompt) == (told.inputs, "a mug" + view.tail)
    masked = SYSTEM.request("a mug", {**inputs, "mask": ("m.png",)})
    assert SYSTEM.of_view(masked, View("back")) is None
    assert SYSTEM.instructs  # "a toy" is enough beside a picture of one
    assert (SYSTEM.is_pictured(told), SYSTEM.is_pictured(masked)) == (False, True)
    views = Steered(backbone, "a mug", SystemSettings(name="ip_adapter", inputs=inputs), scale=5.0)
    plain_views, cameras = Prompts(backbone, "a mug"), orbit(4, 32)
    x, t = noisy(4)
    change = views.score(cameras, 5.0)(x, t) - plain_views.score(cameras, 5.0)(x, t)
    assert float(change.flatten(1).norm(dim=1).min()) > 0.1


@torch.no_grad()
def test_what_is_seen_without_the_picture_takes_the_noises_place(
    backbone: StableDiffusion, tmp_path: Path
) -> None:
    """ModeDreamer's control variate (arXiv:2411.18135), of each view's own words."""
    net = adapter(backbone)
    save_image_adapter(net, tmp_path / "w")
    inputs = {"image": (str(bar(tmp_path / "a.png", size=16)),), "weights": (str(tmp_path / "w"),)}
    cameras, (x, t) = orbit(4, 32), noisy(4)
    seen = Noised(x, t, torch.randn_like(x), *alpha_sigma(backbone.alphas_cumprod, t))

    def steered(scale: float, *knobs: str) -> Steered:
        told = SystemSettings(name="ip_adapter", inputs=inputs, knobs=knobs)
        return Steered(backbone, "a mug", told, scale=scale)

    assert torch.equal(steered(5.0).less(cameras, 5.0)(seen), seen.noise)
    views, nothing = steered(5.0, "variate=true"), torch.zeros(1, 1, POOLED)
    names = ["front" if name == PICTURED else name for name in views.views(cameras)]
    words = [f"a mug, {name} view" for name in names]
    expected = build(backbone, words, Loaded(net), Told(nothing, nothing[0]), guide=Guide(1.0))
    torch.testing.assert_close(views.less(cameras, 5.0)(seen), expected(x, t), atol=2e-5, rtol=1e-4)
    # where the picture says nothing either, and nothing is guided, nothing is left
    blank = steered(1.0, "variate=true", "scale=0")
    left = blank.score(cameras, 1.0)(x, t) - blank.less(cameras, 1.0)(seen)
    assert float(left.abs().max()) < 2e-5


def test_pictures_are_seen_as_clip_sees_them(backbone: StableDiffusion) -> None:
    encoder = ImageEncoder(backbone.folder / "clip", CPU)
    picture = torch.rand(2, 3, 16, 16)
    mean, std = (torch.tensor(OFFICIAL[name])[:, None, None] for name in OFFICIAL)
    out = encoder.model(pixel_values=(picture - mean) / std, output_hidden_states=True)
    assert torch.equal(encoder.see(picture, pooled=True), out.image_embeds)
    assert torch.equal(encoder.see(picture, pooled=False), out.hidden_states[1])
    assert not encoder.nothing(pooled=True).any()
    assert encoder.see(torch.rand(1, 3, 40, 40), pooled=True).shape == (1, POOLED)


def test_a_controlnet_is_told_the_words_alone(backbone: StableDiffusion) -> None:
    """Both at once: what the net adds is what it adds without a picture, as published."""
    net = new_controlnet(backbone).requires_grad_(False)
    for value in net.parameters():
        value.data += 0.02 * torch.randn_like(value)
    asked_of: list[Tensor] = []

    class Listening(Around):
        def __call__(self, x: Tensor, t: Tensor, tokens: Tensor, *others: Any) -> Any:
            asked_of.append(tokens)
            return super().__call__(x, t, tokens, *others)

    control = Control(backbone, Listening(net), torch.rand(1, 3, 32, 32))
    image = adapter(backbone)
    edit = ImageTokens(image(features("base")), image, dict.fromkeys(image.places, 1.0))
    text, other = backbone.encode_text([PROMPT]), backbone.encode_text([""])
    told = [replace(one, attention=(edit,), residuals=(control,)) for one in (text, other)]
    x, t = noisy()
    both = score(backbone, told, cfg(3.0))(x, t)
    assert torch.equal(asked_of[0], torch.cat([text.tokens, other.tokens]))
    for without in ({"attention": ()}, {"residuals": ()}):
        less = score(backbone, [replace(one, **without) for one in told], cfg(3.0))(x, t)
        assert float((both - less).abs().max()) > 1e-3


@torch.no_grad()
def test_a_lora_that_was_learned_counts_beside(tmp_path: Path) -> None:
    backbone = load_backbone(str(tiny_folder(tmp_path / "m")), device="cpu")
    assert isinstance(backbone, StableDiffusion)
    for value in Lora(backbone.unet, "toy", rank=2, seed=0).parameters.values():
        value += 0.2 * torch.randn_like(value)
    learned = copy.copy(backbone)
    learned.adapters = {"toy": 0.7}
    told = Told(seen := features("base"), torch.zeros_like(seen[:, 0]))
    x, t = noisy()
    alone, without, both = (
        build(model, PROMPT, Loaded(adapter(backbone)), told, knobs=Knobs(scale=scale))(x, t)
        for model, scale in ((learned, 0), (backbone, 1), (learned, 1))
    )
    assert torch.equal(alone, sampled(learned, PROMPT, scale=7.5)(x, t))
    assert min(float((both - other).abs().max()) for other in (alone, without)) > 1e-3


@pytest.mark.parametrize("kind", ["base", "plus"])
def test_training_moves_the_adapter_alone_and_resumes(
    backbone: StableDiffusion, tmp_path: Path, kind: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    rows = [{"text": "a bar", "image": bar(data / f"{i}.png", 4 * i).name} for i in range(5)]
    write_examples(data, rows)
    examples = read_examples(data, 32, texts=("text",))
    lesson = Lesson(examples, {"system": "ip"}, ip_adapter.Options(kind=kind))
    torch.manual_seed(0)
    task = replace(ip_adapter.learn(backbone, lesson), sheet=None)
    net: Any = task.net
    begin = {name: value.clone() for name, value in net.state_dict().items()}
    for name, number in net.places.items():  # they begin as the text's
        assert torch.equal(net.ip_adapter[number].to_k_ip.weight,
                           backbone.unet.get_submodule(name).to_k.weight)  # fmt: skip
    frozen = {name: value.clone() for name, value in backbone.unet.state_dict().items()}

    def lost() -> float:
        with torch.no_grad():
            return float(task.loss(net, 32, torch.Generator().manual_seed(5)))

    first, out = lost(), tmp_path / "out"
    recipe = Recipe(steps=12, batch=8, lr=3e-3, warmup=1, ema=0.5)
    train(task, replace(recipe, steps=6), out, device=CPU)
    train(task, recipe, out, device=CPU, resume=True)
    assert lost() < 0.99 * first
    whole = {name: value.clone() for name, value in net.state_dict().items()}
    assert all(not torch.equal(value, begin[name]) for name, value in whole.items())
    assert all(
        torch.equal(value, frozen[name]) for name, value in backbone.unet.state_dict().items()
    )
    saved = load_file(out / FILE)
    assert saved.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in saved.items())
    again = ip_adapter.load_trained(backbone, out, lesson.options)
    assert all(torch.equal(value, whole[name]) for name, value in again.state_dict().items())
    net.load_state_dict(begin)  # in one go it would have been the same
    train(task, recipe, tmp_path / "once", device=CPU)
    assert all(torch.equal(value, whole[name]) for name, value in net.state_dict().items())


def test_pictures_and_texts_are_left_out_as_often_as_published() -> None:
    no_text, no_image = dropped(20_000, ip_adapter.DROP, torch.Generator().manual_seed(0))
    for drop, share in ((no_text & ~no_image, 0.05), (no_image & ~no_text, 0.05),
                        (no_text & no_image, 0.05)):  # fmt: skip
        assert float(drop.float().mean()) == pytest.approx(share, abs=0.005)
