"""Uni-ControlNet: its equations written out, the official file, and what training does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from tests import ldm
from tests.systems import asked, prepared, telling
from tests.test_diffusion_mvdream import SHAPE, base_folder
from tests.tiny import LENGTH, WIDTH, tiny_folder
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.paint import paint
from threed.diffusion.parts.clip import Clip, clip_of
from threed.diffusion.parts.control import Control
from threed.diffusion.parts.image_tokens import GlobalAdapter, appended
from threed.diffusion.parts.local_adapter import Denormalise, LocalAdapter, dropped_maps
from threed.diffusion.parts.uni_adapters import Adapters, load_adapters
from threed.diffusion.score import cfg, score
from threed.diffusion.weights import write_net
from threed.learning.data import read_examples, write_examples
from threed.learning.loop import train
from threed.learning.recipe import Recipe
from threed.systems.control import uni_controlnet as uni
from threed.systems.control.uni_controlnet import SYSTEM
from threed.systems.system import Lesson

CPU = torch.device("cpu")
PROMPT = "a red mug"
KINDS = ("edges", "depth")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    folder = tiny_folder(tmp_path_factory.mktemp("tiny") / "m")
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2,
              "num_hidden_layers": 1, "projection_dim": 24}  # fmt: skip
    text = CLIPTextConfig(vocab_size=514, max_position_embeddings=LENGTH, bos_token_id=512,
                          eos_token_id=513, pad_token_id=513, **shared)  # fmt: skip
    vision = CLIPVisionConfig(image_size=16, patch_size=8, **shared)
    CLIPModel(CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(),
                         projection_dim=24)).save_pretrained(folder / "clip")  # fmt: skip
    loaded = load_backbone(str(folder), device="cpu")
    assert isinstance(loaded, StableDiffusion)
    return loaded


def shaken(net: nn.Module, scale: float = 0.3) -> Any:
    """The net with something in every zero convolution."""
    with torch.no_grad():
        for value in net.parameters():
            value += torch.randn_like(value) * scale * (value.abs().max() == 0)
    return net.eval().requires_grad_(False)


def adapters(backbone: StableDiffusion) -> Adapters:
    return Adapters(KINDS, shaken(LocalAdapter(backbone, 2)),
                    shaken(GlobalAdapter(24, WIDTH)))  # fmt: skip


def maps(n: int = 1) -> dict[str, Tensor]:
    return {kind: torch.rand(n, 3, 32, 32) for kind in KINDS}


# ---------------------------------------------------------------- equations


def conv(w: dict[str, Tensor], name: str, *size: int) -> None:
    w[f"{name}.weight"] = torch.randn(size) / (size[1] * size[2] * size[3]) ** 0.5
    w[f"{name}.bias"] = torch.randn(size[0]) / 10


def linear(w: dict[str, Tensor], name: str, outputs: int, inputs: int) -> None:
    w[f"{name}.weight"] = torch.randn(outputs, inputs) / inputs**0.5
    w[f"{name}.bias"] = torch.randn(outputs) / 10


INJECTED, HIDDEN = (16, 24), (16, 32, 64)  # of an encoder that begins with 32 channels


def official(shape: ldm.Shape) -> dict[str, Tensor]:
    """Random tensors of a uni.ckpt by its names, of the UNet of tests.ldm."""
    base = {name: value for name, value in ldm.random_weights(shape).items()
            if name.startswith(("time", "input", "middle"))}  # fmt: skip
    w: dict[str, Tensor] = {}
    for name, value in base.items():
        injected = name.startswith(("input_blocks.1.0.", "input_blocks.3.0."))
        if not (injected and ("in_layers.0" in name or "out_layers.0" in name)):
            w[name] = value  # an injected block has no norm with weights of its own
    c, (a, b, d) = shape.channels, HIDDEN
    for i, (inputs, outputs) in enumerate(((21, a), (a, b), (b, b), (b, d), (d, d))):
        conv(w, f"feature_extractor.pre_extractor.{2 * i}", outputs, inputs, 3, 3)
    for i, (inputs, outputs) in enumerate(zip((d, *INJECTED), INJECTED)):
        conv(w, f"feature_extractor.extractors.{i}.0", outputs, inputs, 3, 3)
        conv(w, f"feature_extractor.zero_convs.{i}", outputs, outputs, 3, 3)
    for block, (inputs, outputs), f in ((1, (c, c), INJECTED[0]), (3, (c, 2 * c), INJECTED[1])):
        for norm, n in (("norm_in", inputs), ("norm_out", outputs)):
            for part in ("conv_gamma", "conv_beta"):
                conv(w, f"input_blocks.{block}.0.{norm}.{part}", n, f, 3, 3)
    for i, n in enumerate((c, c, c, 2 * c)):
        conv(w, f"zero_convs.{i}.0", n, n, 1, 1)
    conv(w, "middle_block_out.0", 2 * c, 2 * c, 1, 1)
    return w


def denormalised(w: dict[str, Tensor], name: str, x: Tensor, features: Tensor) -> Tensor:
    """Equation 3 of the paper: what is normalised, scaled and shifted by the features."""
    gamma, beta = (ldm.conv(w, f"{name}.{part}", features) for part in ("conv_gamma", "conv_beta"))
    return F.group_norm(x, 32) * (1 + gamma) + beta


def injected(w: dict[str, Tensor], name: str, x: Tensor, emb: Tensor, features: Tensor) -> Tensor:
    h = F.silu(denormalised(w, f"{name}.norm_in", x, features))
    h = ldm.conv(w, f"{name}.in_layers.2", h)
    h = h + ldm.linear(w, f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
    h = F.silu(denormalised(w, f"{name}.norm_out", h, features))
    h = ldm.conv(w, f"{name}.out_layers.3", h)
    skip = f"{name}.skip_connection"
    return h + (ldm.conv(w, skip, x) if f"{skip}.weight" in w else x)


def plainly(w: dict[str, Tensor], shape: ldm.Shape, x: Tensor, t: Tensor, text: Tensor,
            hint: Tensor) -> list[Tensor]:  # fmt: skip
    """The local adapter's outputs, written out (arXiv:2305.16322, section 3.2)."""
    f = hint
    for i in range(5):
        name = f"feature_extractor.pre_extractor.{2 * i}"
        f = F.silu(ldm.conv(w, name, f, stride=2 if i in (1, 3) else 1))
    features = []
    for i in range(2):
        f = F.silu(ldm.conv(w, f"feature_extractor.extractors.{i}.0", f, stride=2))
        features.append(ldm.conv(w, f"feature_extractor.zero_convs.{i}", f))
    wide = 4 * shape.channels
    silent = {f"camera_embed.{i}.weight": torch.zeros(wide, n) for i, n in ((0, 16), (2, wide))}
    emb = ldm.embed({**w, **silent}, t, torch.zeros(len(x), 16), shape.channels)
    fine, coarse = shape.heads
    h = ldm.conv(w, "input_blocks.0.0", x)
    outs = [h]
    h = injected(w, "input_blocks.1.0", h, emb, features[0])
    outs.append(h := ldm.transformer(w, "input_blocks.1.1", h, text, fine, shape, 1))
    outs.append(h := ldm.conv(w, "input_blocks.2.0.op", h, stride=2))
    outs.append(h := injected(w, "input_blocks.3.0", h, emb, features[1]))
    h = ldm.resnet(w, "middle_block.0", h, emb)
    h = ldm.transformer(w, "middle_block.1", h, text, coarse, shape, 1)
    h = ldm.resnet(w, "middle_block.2", h, emb)
    names = [f"zero_convs.{i}.0" for i in range(4)] + ["middle_block_out.0"]
    return [ldm.conv(w, name, out) for name, out in zip(names, [*outs, h])]


def world(inputs: int, width: int) -> dict[str, Tensor]:
    """Random tensors of a global adapter by the names of uni.ckpt."""
    w: dict[str, Tensor] = {}
    for name, n in (("norm1", inputs), ("norm2", 2 * inputs)):
        w[f"{name}.weight"], w[f"{name}.bias"] = torch.rand(n) + 0.5, torch.randn(n) / 10
    linear(w, "ff1.net.0.proj", 8 * inputs, inputs)
    linear(w, "ff1.net.2", 2 * inputs, 4 * inputs)
    linear(w, "ff2.net.0.proj", 16 * inputs, 2 * inputs)
    linear(w, "ff2.net.2", 4 * width, 8 * inputs)
    return w


def tokens_of(w: dict[str, Tensor], x: Tensor, width: int) -> Tensor:
    """Two gated feed-forwards, each after a norm (section 3.3)."""
    for norm, ff in (("norm1", "ff1"), ("norm2", "ff2")):
        x = F.layer_norm(x, x.shape[-1:], w[f"{norm}.weight"], w[f"{norm}.bias"])
        value, gate = ldm.linear(w, f"{ff}.net.0.proj", x).chunk(2, -1)
        x = ldm.linear(w, f"{ff}.net.2", value * F.gelu(gate))
    return x.reshape(len(x), 4, width)


def test_the_official_file_gives_the_papers_equations(tmp_path: Path) -> None:
    """As `plainly` and `tokens_of` write them out after the paper and the names in the file."""
    shape = replace(SHAPE, linear=False)
    backbone: Any = load_backbone(str(base_folder(tmp_path / "base", shape)), device="cpu")
    backbone.factor = 8  # as the official one's, whatever the VAE of the test is
    local, other = official(shape), world(WIDTH, WIDTH)
    torch.save({**{f"local_adapter.{name}": value for name, value in local.items()},
                **{f"global_adapter.{name}": value for name, value in other.items()},
                "model.diffusion_model.out.2.bias": torch.zeros(4)},
               tmp_path / "uni.ckpt")  # fmt: skip
    loaded = load_adapters(backbone, tmp_path / "uni.ckpt")
    assert loaded.kinds == ("canny", "mlsd", "hed", "sketch", "openpose", "midas", "seg")
    assert loaded.constant
    x, t, hint = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.rand(2, 21, 64, 64)
    text = backbone.encode_text([PROMPT, ""])
    assert loaded.local is not None
    skips, middle = Control(backbone, loaded.local, hint)(x, t, text)
    expected = plainly(local, shape, x, t, text.tokens, hint)
    assert len(skips) + 1 == len(expected)
    for ours, theirs in zip([*skips, middle], expected):
        assert float(theirs.std()) > 0.01
        assert float((ours - theirs).abs().max()) <= 2e-5
    features = torch.randn(3, WIDTH)
    assert loaded.world is not None
    torch.testing.assert_close(loaded.world(features), tokens_of(other, features, WIDTH),
                               atol=1e-5, rtol=1e-5)  # fmt: skip
    torch.save({"local_adapter.a": torch.zeros(1)}, tmp_path / "half.ckpt")
    with pytest.raises(InputError, match=r"half.ckpt holds no adapters: no names in it begin"):
        load_adapters(backbone, tmp_path / "half.ckpt")


def test_without_content_both_halves_see_the_constant_tokens(backbone: StableDiffusion) -> None:
    """With the official weights, as in the public code: the tokens of zeros, the same for all."""
    trained, shown = replace(adapters(backbone), constant=True), maps()
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([500, 20])
    told, strength = uni.Knobs(global_strength=0.7), 0.7
    assert trained.world is not None
    constant = trained.world(torch.zeros(1, 24))
    halves = []
    for words in ([PROMPT] * 2, [""] * 2):
        text = backbone.encode_text(words)
        longer = torch.cat([text.tokens, strength * constant.expand(2, -1, -1)], 1)
        hint = torch.cat([shown[kind] for kind in KINDS], 1).expand(2, -1, -1, -1)
        assert trained.local is not None
        both = replace(text, tokens=longer, residuals=(Control(backbone, trained.local, hint),))
        halves.append(backbone.predict_noise(x, t, both))
    ours = uni.build(backbone, [PROMPT] * 2, trained, shown, guide=Guide(6.0), knobs=told)(x, t)
    torch.testing.assert_close(ours, torch.lerp(halves[1], halves[0], 6.0), atol=1e-4, rtol=0)
    none = uni.Knobs(global_strength=0.0)
    plain = uni.build(backbone, [PROMPT] * 2, trained, shown, guide=Guide(6.0), knobs=none)(x, t)
    assert float((ours - plain).abs().max()) > 1e-3
    own = replace(trained, constant=False)
    assert torch.equal(uni.build(backbone, [PROMPT] * 2, own, shown, guide=Guide(6.0))(x, t), plain)


def test_the_content_is_left_out_of_half_of_the_examples(
    backbone: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`keep_and_drop` of the public code: kept in 0.1, left out in 0.1, else by a coin."""
    examples = read_examples(data(tmp_path / "data"), 32, pictures=("image",), texts=("text",))
    seen: list[Tensor] = []

    def content(text: Any, net: Any, features: Tensor, strength: float) -> Any:
        seen.append((features == 0).all(1))
        return text

    monkeypatch.setattr("threed.diffusion.parts.uni_adapters.with_content", content)
    for dropout, share in ((True, 0.5), (False, 0.0)):
        options = uni.Options(part="global", dropout=dropout)
        told = uni._condition(backbone, Lesson(examples, {}, options), clip_of(backbone))
        seen.clear()
        generator = torch.Generator().manual_seed(0)
        told(None, [0, 1, 2, 3, 4] * 400, generator)
        assert float(torch.cat(seen).float().mean()) == pytest.approx(share, abs=0.03)


def test_denormalising_begins_as_the_norm_in_its_place() -> None:
    norm = nn.GroupNorm(4, 16)
    norm.weight.data, norm.bias.data = torch.rand(16), torch.randn(16)
    other, x = Denormalise(norm, 8), torch.randn(2, 16, 5, 5)
    other.features = torch.zeros(2, 8, 5, 5)
    torch.testing.assert_close(other(x), norm(x), atol=1e-5, rtol=1e-5)
    other.features = torch.randn(2, 8, 5, 5)
    assert float((other(x) - norm(x)).detach().abs().max()) > 0.01


# ---------------------------------------------------------------- the Score


def test_an_untrained_adapter_changes_nothing(backbone: StableDiffusion) -> None:
    fresh = Adapters(KINDS, LocalAdapter(backbone, 2), GlobalAdapter(24, WIDTH).eval())
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    guided = uni.build(
        backbone,
        PROMPT,
        fresh,
        maps(),
        torch.randn(1, 24),
        guide=Guide(5.0),
        knobs=uni.Knobs(global_strength=0.0),
    )
    texts = [backbone.encode_text([words] * 2) for words in (PROMPT, "")]
    assert torch.equal(guided(x, t), score(backbone, texts, cfg(5.0))(x, t))


def test_both_strengths_are_live(backbone: StableDiffusion) -> None:
    trained, shown, content = adapters(backbone), maps(), torch.randn(1, 24)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500])

    def at(strength: float, global_strength: float, scale: float = 5.0) -> Tensor:
        return uni.build(
            backbone,
            PROMPT,
            trained,
            shown,
            content,
            guide=Guide(scale),
            knobs=uni.Knobs(strength=strength, global_strength=global_strength),
        )(x, t)

    seen = [at(s, g) for s, g in ((0, 0), (0.5, 0), (1, 0), (1, 0.5), (1, 1))]
    for one, other in zip(seen, seen[1:]):  # noqa: RUF007
        assert float((one - other).abs().max()) > 1e-4
    text = backbone.encode_text([PROMPT])
    assert torch.equal(appended(text.tokens, torch.ones(1, 4, WIDTH), 0), text.tokens)
    longer = appended(text.tokens, torch.ones(1, 4, WIDTH), 0.5)
    assert longer.shape == (1, LENGTH + 4, WIDTH)
    assert bool((longer[:, LENGTH:] == 0.5).all())


def test_the_unconditional_half_keeps_the_maps_and_sees_no_content(
    backbone: StableDiffusion,
) -> None:
    trained, shown, content = adapters(backbone), maps(), torch.randn(1, 24)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    # at scale 0 only the unconditional half is left
    alone = uni.build(backbone, PROMPT, trained, shown, content, guide=Guide(0.0))(x, t)
    same = uni.build(backbone, "other", trained, shown, torch.randn(1, 24), guide=Guide(0.0))(x, t)
    assert torch.equal(alone, same)
    other = uni.build(backbone, PROMPT, trained, maps(), content, guide=Guide(0.0))(x, t)
    assert float((alone - other).abs().max()) > 1e-4


def test_a_map_that_is_not_given_is_black(backbone: StableDiffusion) -> None:
    trained, shown = adapters(backbone), maps()
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500])
    black = {**shown, "depth": torch.zeros(1, 3, 32, 32)}
    one, other = (uni.build(backbone, PROMPT, trained, given)(x, t)
                  for given in ({"edges": shown["edges"]}, black))  # fmt: skip
    assert torch.equal(one, other)
    with pytest.raises(InputError, match=r"these weights know no 'pose'; their maps are edges, de"):
        uni.build(backbone, PROMPT, trained, {"pose": shown["edges"]})


# ---------------------------------------------------------------- training


def test_maps_are_left_out_as_the_paper_says() -> None:
    drop = dropped_maps(40_000, 4, torch.Generator().manual_seed(0)).float()
    none, everything = (drop.sum(1) == 0).float().mean(), (drop.sum(1) == 4).float().mean()
    # 0.1, and of the other 0.8 a sixteenth by chance
    assert float(none) == pytest.approx(0.1 + 0.8 / 16, abs=0.006)
    assert float(everything) == pytest.approx(0.1 + 0.8 / 16, abs=0.006)
    assert drop.mean(0).tolist() == pytest.approx([0.5] * 4, abs=0.01)


def data(folder: Path, n: int = 5) -> Path:
    """Pictures of a bar, and two maps that say where it is."""
    folder.mkdir()
    rows = []
    for i in range(n):
        bar = Image.new("L", (32, 32))
        bar.paste(255, (4 * i, 0, 4 * i + 8, 32))
        for name, level in (("edges", 255), ("depth", 128), ("image", 200)):
            bar.point(lambda v, level=level: min(v, level)).save(folder / f"{i}-{name}.png")
        rows.append({"text": "a bar", **{name: f"{i}-{name}.png"
                                         for name in ("image", *KINDS)}})  # fmt: skip
    write_examples(folder, rows)
    return folder


@pytest.mark.parametrize("part", ["local", "global"])
def test_training_lowers_the_loss_and_what_is_written_loads(
    backbone: StableDiffusion, tmp_path: Path, part: str
) -> None:
    kinds = KINDS if part == "local" else ()
    examples = read_examples(data(tmp_path / "data"), 32, pictures=("image", *kinds),
                             texts=("text",))  # fmt: skip
    task = uni.learn(
        backbone,
        Lesson(examples, {"system": "uni"}, uni.Options(part=part, kinds=",".join(kinds or KINDS))),
    )
    with torch.no_grad():
        task.net.eval()
        first = float(task.loss(task.net, 32, torch.Generator().manual_seed(5)))
    recipe = Recipe(steps=15, batch=8, lr=3e-3, warmup=1, ema=0.5)
    net = train(replace(task, sheet=None), recipe, tmp_path / "out" / part, device=CPU)
    with torch.no_grad():
        last = float(task.loss(net, 32, torch.Generator().manual_seed(5)))
    assert last < (0.98 if part == "local" else 0.995) * first
    loaded = load_adapters(backbone, tmp_path / "out")
    again: Any = loaded.local if part == "local" else loaded.world
    assert (loaded.local is None) == (part == "global")
    assert loaded.kinds == kinds
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), net.parameters()))
    assert task.sheet is not None
    assert task.sheet(net).shape == (3, 32 * (len(kinds) + 2), 5 * 32)


def test_it_is_built_from_what_a_user_says(backbone: StableDiffusion, tmp_path: Path) -> None:
    trained = adapters(backbone)
    assert trained.local is not None
    assert trained.world is not None
    write_net(trained.local, tmp_path / "w/local", {"kinds": KINDS})
    said = asked(PROMPT, 32, Guide(3.0), uni.Knobs(strength=0.7), weights=tmp_path / "w")
    bar = Image.new("RGB", (32, 32))
    bar.paste((255, 255, 255), (8, 0, 20, 32))
    bar.save(tmp_path / "bar.png")
    hint = torch.zeros(1, 3, 32, 32)
    hint[..., 8:20] = 1
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([400])
    with pytest.raises(InputError, match="'uni_controlnet' needs --control, --image or both"):
        prepared(SYSTEM, backbone, said)
    with pytest.raises(InputError, match=r"/w holds no global adapter: train one with threed tra"):
        prepared(SYSTEM, backbone, telling(said, image=tmp_path / "bar.png"))
    write_net(trained.world, tmp_path / "w/global", {"inputs": 24})
    both = telling(said, image=tmp_path / "bar.png",
                   control=(("depth-map", tmp_path / "bar.png"),))  # fmt: skip
    content = Clip(backbone.folder / "clip", CPU).images(hint)
    expected = uni.build(
        backbone,
        PROMPT,
        trained,
        {"depth": hint},
        content,
        guide=Guide(3.0),
        knobs=uni.Knobs(strength=0.7),
    )
    torch.testing.assert_close(prepared(SYSTEM, backbone, both).score(x, t), expected(x, t))
    twice = telling(
        both, control=(("edges", tmp_path / "bar.png"), ("edges-map", tmp_path / "bar.png"))
    )
    with pytest.raises(InputError, match="takes one map of each kind, got edges, edges-map"):
        prepared(SYSTEM, backbone, twice)
    bar.resize((64, 32)).save(tmp_path / "wide.png")
    wide = telling(replace(both, size=(64, 32)), control=(("depth-map", tmp_path / "wide.png"),))
    pictures = paint(backbone, prepared(SYSTEM, backbone, wide), steps=2, size=wide.size)
    assert pictures.shape == (1, 3, 32, 64)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match=r"none holds no adapters: neither local nor global"):
        prepared(SYSTEM, backbone, telling(both, weights=tmp_path / "none"))


def test_clip_is_transformers_and_finds_its_size(backbone: StableDiffusion) -> None:
    clip = Clip(backbone.folder / "clip", CPU)
    image = torch.rand(2, 3, 16, 16)
    model = CLIPModel.from_pretrained(backbone.folder / "clip")
    ids = clip.tokenizer([PROMPT, "a"], padding="max_length", max_length=LENGTH,
                         return_tensors="pt").input_ids  # fmt: skip
    with torch.no_grad():
        out = model(input_ids=ids, pixel_values=image * 2 - 1)
    for ours, theirs in ((clip.images(image), out.image_embeds), (clip.texts([PROMPT, "a"]),
                                                                 out.text_embeds)):  # fmt: skip
        torch.testing.assert_close(F.normalize(ours, dim=-1), theirs, atol=1e-5, rtol=1e-5)
    assert clip.images(torch.rand(1, 3, 40, 40)).shape == (1, 24)
    with pytest.raises(InputError, match="cannot be loaded as a CLIP"):
        Clip(backbone.folder / "vae", CPU)
