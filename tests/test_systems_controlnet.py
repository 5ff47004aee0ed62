"""ControlNet: diffusers' pipeline, the original's files and equations, and what training does."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    DDIMScheduler,
    MultiControlNetModel,
    StableDiffusionControlNetPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tests import ldm
from tests.systems import asked, prepared, telling
from tests.test_diffusion_mvdream import SHAPE, base_folder
from tests.tiny import tiny_folder
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.detect import MapWarning
from threed.diffusion.guide import Guide
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.paint import Ready, paint
from threed.diffusion.parts.control import Around, Control, new_controlnet
from threed.diffusion.score import cfg, score
from threed.diffusion.weights import pack
from threed.learning.data import read_examples, write_examples
from threed.learning.loop import train
from threed.learning.recipe import Recipe
from threed.systems.control import controlnet
from threed.systems.control.controlnet import SYSTEM, Given, Window
from threed.systems.system import Lesson

CPU = torch.device("cpu")
PROMPT = "a red mug"


def random_net(backbone: StableDiffusion, seed: int = 0) -> Any:
    """A ControlNet that has learned something, though nobody knows what."""
    net = new_controlnet(backbone)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if "controlnet" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return net.eval().requires_grad_(False)


def theirs(backbone: StableDiffusion, nets: list[Any], hints: list[Tensor], noise: Tensor,
           steps: int = 5, **options: Any) -> Tensor:  # fmt: skip
    """What diffusers' pipeline makes, with its own attention everywhere."""
    copies = []
    for net in nets:
        other = ControlNetModel.from_config(net.config)
        other.register_to_config(global_pool_conditions=net.config.global_pool_conditions)
        other.load_state_dict(net.state_dict())
        copies.append(other)
    unet = UNet2DConditionModel.from_config(backbone.unet.config)
    unet.load_state_dict(backbone.unet.state_dict())
    one = len(nets) == 1
    pipe = StableDiffusionControlNetPipeline.from_pretrained(
        backbone.folder, unet=unet,
        controlnet=copies[0] if one else MultiControlNetModel(copies),
        feature_extractor=None, image_encoder=None,
    )  # fmt: skip
    pipe.scheduler = DDIMScheduler.from_config(backbone.scheduler_config)
    pipe.set_progress_bar_config(disable=True)
    return pipe(
        PROMPT, image=hints[0] if one else hints, latents=noise, num_inference_steps=steps,
        guidance_scale=6.0, negative_prompt="grey", output_type="pt", **options,
    ).images  # fmt: skip


@pytest.mark.parametrize(
    ("strengths", "window", "options"),
    [((0.8,), (0.0, 1.0), {}), ((1.0,), (0.2, 0.6), {}), ((1.0,), (0.0, 0.5), {"steps": 6}),
     ((1.0,), (0.5, 1.0), {"steps": 7}), ((1.0,), (0.0, 1.0), {"guess": True}),
     ((0.5, 1.2), (0.0, 0.8), {}), ((0.8,), (0.0, 1.0), {"pooled": (0,)}),
     ((0.5, 1.2), (0.0, 1.0), {"pooled": (0, 1)})],
    ids=["one", "window", "half", "other half", "guess", "two", "pooled", "two pooled"],
)  # fmt: skip
def test_a_sample_is_diffusers_sample(
    backbone: StableDiffusion,
    strengths: tuple[float, ...],
    window: tuple[float, float],
    options: dict[str, Any],
) -> None:
    guess, steps = options.get("guess", False), options.get("steps", 5)
    noise = torch.randn(1, 4, 8, 8)
    nets = [random_net(backbone, seed) for seed in range(len(strengths))]
    for pooled in options.get("pooled", ()):
        nets[pooled].register_to_config(global_pool_conditions=True)
    hints = [torch.rand(1, 3, 32, 32) for _ in strengths]
    scale: Any = list(strengths) if len(strengths) > 1 else strengths[0]
    expected = theirs(backbone, nets, hints, noise, controlnet_conditioning_scale=scale,
                      control_guidance_start=window[0], control_guidance_end=window[1],
                      guess_mode=guess, steps=steps)  # fmt: skip
    controls = [Given(net, hint, strength)
                for net, hint, strength in zip(nets, hints, strengths)]  # fmt: skip
    guided = controlnet.build(
        backbone,
        PROMPT,
        controls,
        guide=Guide(6.0, "grey"),
        knobs=controlnet.Knobs(guess=guess, start=window[0], end=window[1]),
    )
    ours = paint(backbone, Ready(guided, start=noise), steps=steps, size=32)
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)
    plain = controlnet.build(backbone, PROMPT, guide=Guide(6.0, "grey"))
    without = paint(backbone, Ready(plain, start=noise), steps=steps, size=32)
    assert float((ours - without).abs().max()) > 1e-3, "it made a difference"


def test_one_net_that_pools_frees_the_unconditional_half_of_all(backbone: StableDiffusion) -> None:
    """Wherever it stands among them: diffusers asks the first net only, and cannot add the two."""
    one, two = (Given(random_net(backbone, seed), torch.rand(1, 3, 32, 32)) for seed in (0, 1))
    two.net.register_to_config(global_pool_conditions=True)
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([500])

    def at(scale: float, *given: Given) -> Tensor:
        return controlnet.build(backbone, PROMPT, given, guide=Guide(scale))(x, t)

    torch.testing.assert_close(at(6.0, one, two), at(6.0, two, one))
    torch.testing.assert_close(at(0.0, one, two), at(0.0))
    assert float((at(1.0, one, two) - at(1.0, two)).abs().max()) > 1e-3


def test_each_control_has_its_own_window(backbone: StableDiffusion) -> None:
    one, two = (Given(random_net(backbone, seed), torch.rand(1, 3, 32, 32)) for seed in (0, 1))
    x = torch.randn(1, 4, 8, 8)
    both = controlnet.build(
        backbone,
        PROMPT,
        [replace(one, window=Window(end=0.5)), replace(two, window=Window(start=0.3))],
    )

    def like(controls: list[Given], t: int) -> bool:
        at = torch.tensor([t])
        return torch.equal(both(x, at), controlnet.build(backbone, PROMPT, controls)(x, at))

    # progress is 1 - t / 1000
    assert [like([one], 999), like([one], 750), like([one, two], 650)] == [True] * 3
    assert [like([one, two], 550), like([two], 450), like([two], 3)] == [True] * 3
    assert not like([one], 450)
    with pytest.raises(InputError, match=r"control must start before it ends, got 0\.5 and 0\.5"):
        controlnet.Knobs(start=0.5, end=0.5)
    for window in ({"start": -0.1}, {"end": 1.5}):
        with pytest.raises(InputError, match=r"must be .*in 0\.\.1, got"):
            Window(**window)


# ---------------------------------------------------------------- the original's files


def conv(w: dict[str, Tensor], name: str, *size: int) -> None:
    w[f"{name}.weight"] = torch.randn(size) / (size[1] * size[2] * size[3]) ** 0.5
    w[f"{name}.bias"] = torch.randn(size[0]) / 30


def original(shape: ldm.Shape) -> dict[str, Tensor]:
    """Random tensors of a ControlNet by the original's names, of the UNet of tests.ldm."""
    w = {name: value for name, value in ldm.random_weights(shape).items()
         if name.startswith(("time", "input", "middle"))}  # fmt: skip
    widths = [3, 16, 16, 32, 32, 96, 96, 256, shape.channels]
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        conv(w, f"input_hint_block.{2 * i}", outputs, inputs, 3, 3)
    c = shape.channels
    for i, n in enumerate((c, c, c, 2 * c)):
        conv(w, f"zero_convs.{i}.0", n, n, 1, 1)
    conv(w, "middle_block_out.0", 2 * c, 2 * c, 1, 1)
    return w


def plainly(w: dict[str, Tensor], shape: ldm.Shape, x: Tensor, t: Tensor, text: Tensor,
            hint: Tensor) -> list[Tensor]:  # fmt: skip
    """The original's equations, written out (arXiv:2302.05543, section 3.2)."""
    guide = hint
    for i in range(8):
        strided = i in (2, 4, 6)
        guide = ldm.conv(w, f"input_hint_block.{2 * i}", F.silu(guide) if i else guide,
                         stride=2 if strided else 1)  # fmt: skip
    silent = {
        "camera_embed.0.weight": torch.zeros(4 * shape.channels, 16),
        "camera_embed.2.weight": torch.zeros(4 * shape.channels, 4 * shape.channels),
    }
    emb = ldm.embed({**w, **silent}, t, torch.zeros(len(x), 16), shape.channels)
    fine, coarse = shape.heads
    h = ldm.conv(w, "input_blocks.0.0", x) + guide
    outs = [h]
    h = ldm.resnet(w, "input_blocks.1.0", h, emb)
    outs.append(h := ldm.transformer(w, "input_blocks.1.1", h, text, fine, shape, 1))
    outs.append(h := ldm.conv(w, "input_blocks.2.0.op", h, stride=2))
    outs.append(h := ldm.resnet(w, "input_blocks.3.0", h, emb))
    h = ldm.resnet(w, "middle_block.0", h, emb)
    h = ldm.transformer(w, "middle_block.1", h, text, coarse, shape, 1)
    h = ldm.resnet(w, "middle_block.2", h, emb)
    names = [f"zero_convs.{i}.0" for i in range(4)] + ["middle_block_out.0"]
    return [ldm.conv(w, name, out) for name, out in zip(names, [*outs, h])]


@pytest.mark.parametrize("whole", [True, False], ids=["control_sd15_x.pth", "control_v11_x.pth"])
def test_the_originals_file_gives_the_papers_equations(tmp_path: Path, whole: bool) -> None:
    """As `plainly` and tests.ldm write them out after the paper and the names in the file."""
    shape = replace(SHAPE, linear=False)
    backbone: Any = load_backbone(str(base_folder(tmp_path / "base", shape)), device="cpu")
    backbone.factor = 8  # as the original's, whatever the VAE of the test is
    weights = original(shape)
    state = {f"control_model.{name}": value for name, value in weights.items()}
    if whole:
        state["model.diffusion_model.out.2.bias"] = torch.zeros(4)
    torch.save(state, tmp_path / "control.pth")
    net = controlnet.load_net(backbone, tmp_path / "control.pth")
    x, t, hint = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.rand(2, 3, 64, 64)
    text = backbone.encode_text([PROMPT, ""])
    skips, middle = Control(backbone, Around(net), hint)(x, t, text)
    expected = plainly(weights, shape, x, t, text.tokens, hint)
    assert len(skips) + 1 == len(expected)
    for ours, other in zip([*skips, middle], expected):
        assert float(other.std()) > 0.01
        assert float((ours - other).abs().max()) <= 2e-5
    assert not controlnet.pools(net)
    (tmp_path / "control.pth").rename(tmp_path / "control_v11e_sd15_shuffle.pth")
    shuffle = controlnet.load_net(backbone, tmp_path / "control_v11e_sd15_shuffle.pth")
    pooled, middle = Control(backbone, Around(shuffle), hint)(x, t, text)
    for ours, other in zip([*pooled, middle], expected):
        torch.testing.assert_close(ours, other.mean((2, 3), keepdim=True), atol=2e-5, rtol=0)


def test_files_that_hold_no_such_net_are_refused(backbone: StableDiffusion, tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(InputError, match=message):
            controlnet.load_net(backbone, tmp_path / name)

    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pth")
    refused("other.pth", r"other.pth holds no ControlNet: no name in it begins with control_model.")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:200])
    refused("cut.pth", r"cut.pth is damaged, or holds more than weights; nothing in it was exec")
    save_file({"control_model.zero_convs.0.0.bias": torch.zeros(3)}, tmp_path / "cut.safetensors")
    refused("cut.safetensors", r"does not fit: controlnet_cond_embedding.blocks.0.bias is None")
    (tmp_path / "empty").mkdir()
    refused("empty", r"empty/config.json is missing")
    controlnet.save(random_net(backbone), tmp_path / "net")
    assert isinstance(controlnet.load_net(backbone, tmp_path / "net"), ControlNetModel)
    config = (tmp_path / "net/config.json").read_text()
    (tmp_path / "net/config.json").write_text(config.replace("ControlNetModel", "Other"))
    refused("net", "net holds a Other, where a ControlNetModel is needed")
    (tmp_path / "net/config.json").write_text(config)
    (tmp_path / "net/diffusion_pytorch_model.safetensors").unlink()
    refused("net", "net holds no diffusion_pytorch_model.safetensors; found config.json")


def test_a_net_of_another_backbone_is_refused(backbone: StableDiffusion, tmp_path: Path) -> None:
    other = load_backbone(str(base_folder(tmp_path / "base")), device="cpu")
    controlnet.save(random_net(backbone), tmp_path / "net")
    with pytest.raises(InputError, match=r"another backbone than .*: its block_out_channels is "
                       r"\[16, 32\], not \[32, 64\]"):  # fmt: skip
        controlnet.load_net(other, tmp_path / "net")


# ---------------------------------------------------------------- training


def test_at_step_zero_nothing_is_changed_but_something_can_be_learned(
    backbone: StableDiffusion,
) -> None:
    net = new_controlnet(backbone)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([10, 900])
    guided = controlnet.build(
        backbone, PROMPT, [Given(net, torch.rand(1, 3, 32, 32))], guide=Guide(5.0)
    )
    texts = [backbone.encode_text([words] * 2) for words in (PROMPT, "")]
    plain = score(backbone, texts, cfg(5.0))(x, t)
    assert torch.equal(guided(x, t), plain)
    # a zero convolution has no output, but a gradient (section 3.1)
    (guided(x, t) - torch.randn_like(x)).square().mean().backward()
    zeros = {name: p for name, p in net.named_parameters()
             if name.startswith(("controlnet_down", "controlnet_mid"))}  # fmt: skip
    assert len(zeros) == 10
    assert all(float(p.grad.abs().max()) > 0 for p in zeros.values() if p.grad is not None)
    assert all(p.grad is not None for p in zeros.values())
    # the trainable copy gets none yet, and the locked UNet never
    assert float(net.conv_in.weight.grad.abs().max()) == 0
    assert all(p.grad is None for p in backbone.unet.parameters())


@pytest.mark.parametrize("kind", ["sdxl", "sd21", "multiview"])
def test_other_backbones_are_controlled_too(tmp_path: Path, kind: Any) -> None:
    other: Any = load_backbone(str(tiny_folder(tmp_path / kind, kind)), device="cpu")
    hint, x = torch.rand(1, 3, 32, 32), torch.randn(4, 4, 8, 8)
    t = torch.tensor([300]).expand(4)
    texts = [other.encode_text([words] * 4) for words in (PROMPT, "")]
    plain = score(other, texts, cfg(5.0))(x, t)
    for net, same in ((new_controlnet(other), True), (random_net(other), False)):
        frozen = net.eval().requires_grad_(False)
        guided = controlnet.build(other, [PROMPT] * 4, [Given(frozen, hint)], guide=Guide(5.0))
        assert torch.equal(guided(x, t), plain) is same


def data(folder: Path, n: int = 6) -> Path:
    """Pictures of a bar, and maps that say where it is."""
    folder.mkdir()
    rows = []
    for i in range(n):
        bar = Image.new("L", (32, 32))
        bar.paste(255, (4 * i, 0, 4 * i + 8, 32))
        bar.save(folder / f"{i}-map.png")
        bar.point(lambda v: 255 - v).save(folder / f"{i}.png")
        rows.append({"image": f"{i}.png", "text": "a bar", "place": f"{i}-map.png"})
    write_examples(folder, rows)
    return folder


def test_training_lowers_the_loss_and_only_the_copy_learns(
    backbone: StableDiffusion, tmp_path: Path
) -> None:
    examples = read_examples(data(tmp_path / "data"), 32, pictures=("image", "place"),
                             texts=("text",))  # fmt: skip
    before = {name: value.clone() for name, value in backbone.unet.state_dict().items()}
    task = controlnet.learn(
        backbone, Lesson(examples, {"system": "controlnet"}, controlnet.Options(kind="place"))
    )
    with torch.no_grad():
        first = float(task.loss(task.net, 32, torch.Generator().manual_seed(5)))
    recipe = Recipe(steps=20, batch=8, lr=3e-3, warmup=1, ema=0.5)
    net = train(replace(task, sheet=None), recipe, tmp_path / "out", device=CPU)
    with torch.no_grad():
        last = float(task.loss(net, 32, torch.Generator().manual_seed(5)))
    assert last < 0.97 * first
    assert all(torch.equal(before[name], value)
               for name, value in backbone.unet.state_dict().items())  # fmt: skip
    loaded = controlnet.load_net(backbone, tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), net.parameters()))
    picture = task.sheet(net) if task.sheet else None
    assert picture is not None
    assert picture.shape == (3, 96, 192)  # hint, made, real; six columns


def test_a_net_says_what_maps_it_was_taught(backbone: StableDiffusion, tmp_path: Path) -> None:
    examples = read_examples(data(tmp_path / "data", 2), 32, pictures=("image", "place"),
                             texts=("text",))  # fmt: skip
    task = controlnet.learn(backbone, Lesson(examples, {}, controlnet.Options(kind="place")))
    train(replace(task, sheet=None), Recipe(steps=1, batch=1, lr=1e-3), tmp_path / "out",
          device=CPU)  # fmt: skip
    pack(tmp_path / "out", tmp_path / "small")
    picture = tmp_path / "data/0-map.png"
    for folder in (tmp_path / "out", tmp_path / "small"):
        said = asked(PROMPT, 32, weights=folder, control=(("place-map", picture),))
        prepared(SYSTEM, backbone, said)  # a warning would be an error
        with pytest.warns(MapWarning, match="kind 'place', and is given one of 'depth'"):
            prepared(SYSTEM, backbone, telling(said, control=(("depth-map", picture),)))
        assert ControlNetModel.from_pretrained(folder).config[controlnet.KIND] == "place"
    controlnet.save(random_net(backbone), tmp_path / "silent")
    prepared(SYSTEM, backbone, telling(said, weights=tmp_path / "silent"))


def test_it_is_built_from_what_a_user_says(backbone: StableDiffusion, tmp_path: Path) -> None:
    nets = {"edges": random_net(backbone, 0), "place": random_net(backbone, 1)}
    for kind, net in nets.items():
        controlnet.save(net, tmp_path / "nets" / kind)
    bar = Image.new("RGB", (32, 32))
    bar.paste((255, 255, 255), (8, 0, 20, 32))
    bar.save(tmp_path / "bar.png")
    hint = torch.zeros(1, 3, 32, 32)
    hint[..., 8:20] = 1
    said = asked(
        PROMPT, 32, Guide(3.0), controlnet.Knobs(strength=0.5), weights=tmp_path / "nets",
        control=tuple((f"{kind}-map", tmp_path / "bar.png") for kind in nets),
    )  # fmt: skip
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([400])
    expected = controlnet.build(
        backbone,
        PROMPT,
        [Given(net, hint) for net in nets.values()],
        guide=Guide(3.0),
        knobs=controlnet.Knobs(strength=0.5),
    )
    assert torch.equal(prepared(SYSTEM, backbone, said).score(x, t), expected(x, t))
    bar.resize((64, 32)).save(tmp_path / "wide.png")
    wide = telling(replace(said, size=(64, 32)), control=(("edges-map", tmp_path / "wide.png"),))
    pictures = paint(backbone, prepared(SYSTEM, backbone, wide), steps=2, size=wide.size)
    assert pictures.shape == (1, 3, 32, 64)
    one = telling(said, control=said.all("control")[:1], weights=tmp_path / "nets/edges")
    alone = controlnet.build(
        backbone,
        PROMPT,
        [Given(nets["edges"], hint)],
        guide=Guide(3.0),
        knobs=controlnet.Knobs(strength=0.5),
    )
    assert torch.equal(prepared(SYSTEM, backbone, one).score(x, t), alone(x, t))
    twice = telling(one, control=2 * one.all("control"))  # one net serves both
    doubled = controlnet.build(
        backbone,
        PROMPT,
        2 * [Given(nets["edges"], hint)],
        guide=Guide(3.0),
        knobs=controlnet.Knobs(strength=0.5),
    )
    assert torch.equal(prepared(SYSTEM, backbone, twice).score(x, t), doubled(x, t))
    other = telling(said, control=(("depth-map", tmp_path / "bar.png"),))
    with pytest.raises(InputError, match=r"holds no net for 'depth'.*\(there are: edges, place\)"):
        prepared(SYSTEM, backbone, other)
