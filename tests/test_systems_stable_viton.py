"""StableVITON: its blocks written out, its published file, its loss, and what training does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests import ldm
from tests.systems import asked, prepared, telling
from tests.test_systems_ip_adapter import noisy
from tests.tiny import WIDTH, eye_folder, tiny_folder
from tests.wardrobe import files_of, fitting, fitting_folder, stirred
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.models.convert import latent_diffusion_names
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.paint import paint
from threed.diffusion.parts.attention import Record
from threed.diffusion.parts.channels import with_unet
from threed.diffusion.parts.garment_encoder import (
    HEADS,
    Clothed,
    Nets,
    expected_places,
    new_nets,
    read_nets,
    variation,
    write_nets,
)
from threed.diffusion.parts.image_encoder import ImageEncoder
from threed.diffusion.parts.image_word import ImageWord
from threed.diffusion.parts.skips import Joint
from threed.learning.augment import Move
from threed.learning.data import read_examples
from threed.runs.train import train
from threed.systems.system import Lesson
from threed.systems.tryon import stable_viton
from threed.systems.tryon.stable_viton import SYSTEM, Knobs, build, moved

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    loaded = load_backbone(str(tiny_folder(tmp_path_factory.mktemp("tiny") / "m")), device="cpu")
    assert isinstance(loaded, StableDiffusion)
    return loaded


@pytest.fixture(scope="module")
def eye(tmp_path_factory: pytest.TempPathFactory) -> ImageEncoder:
    return ImageEncoder(eye_folder(tmp_path_factory.mktemp("eye") / "e"), CPU)


def nets_of(backbone: StableDiffusion, eye: ImageEncoder, *, taught: bool = True) -> Nets:
    torch.manual_seed(0)
    nets = new_nets(backbone, eye, 2)
    for net in (nets.unet, nets.garment):
        stirred(net, 0.05 if taught else 0.0)
    return nets


def told(backbone: StableDiffusion, nets: Nets, n: int = 1) -> Any:
    """A condition with random channels: nine of the person, four of the garment."""
    g = torch.Generator().manual_seed(5)
    condition = stable_viton.pictured(backbone, nets, torch.rand(n, 3, 16, 16, generator=g))
    return replace(condition, channels=torch.randn(n, 13, 8, 8, generator=g))


def test_until_it_is_taught_it_is_bitwise_the_unet_that_paints(
    backbone: StableDiffusion, eye: ImageEncoder
) -> None:
    nets = nets_of(backbone, eye, taught=False)
    stirred(nets.unet)
    (x, t), condition = noisy(2), told(backbone, nets, 2)
    plain = replace(condition, channels=condition.channels[:, :9])
    expected = with_unet(backbone, nets.unet).predict_noise(x, t, plain)
    assert torch.equal(Clothed(backbone, nets).predict_noise(x, t, condition), expected)
    with pytest.raises(ValueError, match="needs a garment among its channels"):
        Clothed(backbone, nets).predict_noise(x, t, replace(condition, channels=None))


def test_the_encoder_gives_the_skips_of_the_unet_that_it_began_as(
    backbone: StableDiffusion, eye: ImageEncoder
) -> None:
    nets = nets_of(backbone, eye, taught=False)
    stirred(nets.unet)
    nets.garment.begin(nets.unet)
    (x, t), condition, skips = noisy(2), told(backbone, nets, 2), list[Tensor]()

    def keep(joint: Joint, h: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        skips.insert(0, skip)
        return h, skip

    own, garment = condition.channels.split([9, 4], 1)
    plain = replace(condition, channels=own, skips=(keep,))
    with_unet(backbone, nets.unet).predict_noise(x, t, plain)
    features = nets.garment.features(torch.cat([x, own], 1), t, condition.tokens, garment)
    assert len(features) == 2, "of the finer resolution: the coarser one is looked at by nobody"
    for feature, skip in zip(features, skips):
        torch.testing.assert_close(feature, skip, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        nets.garment.body.controlnet_cond_embedding.weight += 0.1
    other = nets.garment.features(torch.cat([x, own], 1), t, condition.tokens, garment)
    assert all(float((a - b).abs().max()) > 1e-3 for a, b in zip(other, features))


def test_where_it_looks_is_written_out(backbone: StableDiffusion, eye: ImageEncoder) -> None:
    """h + Z(block(h, garment)): a transformer of latent diffusion's, and a convolution."""
    crossing = nets_of(backbone, eye).garment.crossing
    g = torch.Generator().manual_seed(2)
    h, seen = torch.randn(2, 32, 8, 8, generator=g), torch.randn(2, 16, 8, 8, generator=g)
    state = crossing.warp_flow_blks[0].state_dict()
    keys = seen.flatten(2).transpose(1, 2)
    x = F.group_norm(h, 8, state["norm.weight"], state["norm.bias"], 1e-6)
    x = ldm.conv(state, "proj_in", x).flatten(2).transpose(1, 2)
    block = "transformer_blocks.0"

    def norm(number: int) -> Tensor:
        part = f"{block}.norm{number}"
        return F.layer_norm(x, (32,), state[f"{part}.weight"], state[f"{part}.bias"])

    own = norm(1)
    x = x + ldm.attention(state, f"{block}.attn1", own, own, HEADS)
    x = x + ldm.attention(state, f"{block}.attn2", norm(2), keys, HEADS)
    value, gate = ldm.linear(state, f"{block}.ff.net.0.proj", norm(3)).chunk(2, -1)
    x = x + ldm.linear(state, f"{block}.ff.net.2", value * F.gelu(gate))
    out = h + ldm.conv(state, "proj_out", x.transpose(1, 2).reshape(h.shape))
    zero = crossing.warp_zero_convs[0].state_dict()
    expected = h + F.conv2d(out, zero["weight"], zero["bias"])
    joint = Joint("up_blocks.1.resnets.0", crossing.first, 0)
    torch.testing.assert_close(crossing(joint, h, seen, None), expected, atol=1e-5, rtol=1e-5)


def test_the_pictures_word_is_attention_over_one_token(eye: ImageEncoder) -> None:
    torch.manual_seed(0)
    word = stirred(ImageWord(16, WIDTH, 2))
    x = seen = torch.randn(3, 16)
    for block in word.blocks:
        q, k, v = block.attn.c_qkv(block.ln_1(x))[:, None].chunk(3, -1)
        weights = (q @ k.transpose(1, 2) / 16**0.5).softmax(-1)
        x = x + block.attn.c_proj((weights @ v)[:, 0])
        x = x + block.mlp.c_proj(F.gelu(block.mlp.c_fc(block.ln_2(x))))
    torch.testing.assert_close(word(seen)[:, 0], word.proj_out(word.final_ln(x)))


def test_the_variation_of_an_identity_is_two() -> None:
    """Each place looks at itself: one row further, one row; one column further, one column."""
    weights = torch.eye(48).reshape(1, 8, 6, 48)
    places = expected_places(weights, 6)
    assert torch.equal(places[0, 5, 2], torch.tensor([5.0, 2.0]))
    assert float(variation(places, torch.ones(1, 8, 6))) == 2.0
    flat = expected_places(torch.full((1, 8, 6, 48), 1 / 48), 6)
    torch.testing.assert_close(variation(flat, torch.ones(1, 8, 6)), torch.tensor(0.0))
    # a jump of 3 rows and 2 columns counts where both sides are of the garment, and nowhere else
    jump = torch.zeros(1, 8, 6, 2)
    jump[:, 4:] += torch.tensor([3.0, 2.0])
    half = torch.ones(1, 8, 6)
    half[:, 4:] = 0
    assert float(variation(jump, half)) == 0
    torch.testing.assert_close(variation(jump, torch.ones(1, 8, 6)), torch.tensor(5.0 * 6 / 42))


def test_where_it_looks_is_recorded_with_its_gradient(
    backbone: StableDiffusion, eye: ImageEncoder
) -> None:
    nets, record = nets_of(backbone, eye), Record(lambda site: site.layer.cross)
    assert nets.garment.crossing.watched == 3, "of two resolutions there is one to look at"
    (x, t), condition = noisy(2), told(backbone, nets, 2)
    condition.channels.requires_grad_()
    noise = Clothed(backbone, nets, record).predict_noise(x, t, condition)
    plain = Clothed(backbone, nets).predict_noise(x, t, condition)
    torch.testing.assert_close(noise, plain, atol=1e-5, rtol=1e-5)
    (weights,) = record.kept.values()
    assert weights.shape == (2, 8, 8, 64)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 8, 8))
    variation(expected_places(weights, 8), torch.ones(2, 8, 8)).backward()
    assert float(condition.channels.grad[:, -4:].abs().max()) > 0


def published(nets: Nets, path: Path) -> Path:
    """Write nets as VITONHD.ckpt holds them, with what nobody looks at, and its VAE."""

    def named(net: Any, prefix: str) -> dict[str, Tensor]:
        paths = {name.rpartition(".")[0] for name in net.state_dict()}
        own = latent_diffusion_names(paths, net.config.layers_per_block)
        return {f"{prefix}{own[name.rpartition('.')[0]]}.{name.rpartition('.')[2]}": value
                for name, value in net.state_dict().items()
                if name.rpartition(".")[0] in own}  # fmt: skip

    body, crossing, word = nets.garment.body, nets.garment.crossing, nets.garment.word
    state = named(nets.unet, "model.diffusion_model.") | named(body, "control_model.")
    state |= {f"model.diffusion_model.{k}": v for k, v in crossing.state_dict().items()}
    state |= {f"control_model.cond_first_block.0.{k}": v
              for k, v in body.controlnet_cond_embedding.state_dict().items()}  # fmt: skip
    state |= {f"{'cond_stage_model.' if k.startswith(('mapper', 'final')) else ''}{k}": v
              for k, v in word.state_dict().items()}  # fmt: skip
    state |= {"control_model.middle_block.0.in_layers.0.weight": torch.zeros(32),
              "first_stage_model.quant_conv.bias": torch.zeros(8)}  # fmt: skip
    torch.save({"state_dict": state, "global_step": 7}, path)
    return path


def test_the_official_file_and_a_trainings_folder_hold_the_same(
    backbone: StableDiffusion, eye: ImageEncoder, tmp_path: Path
) -> None:
    nets = nets_of(backbone, eye)
    write_nets(nets, tmp_path / "w")
    for place in (tmp_path / "w", published(nets, tmp_path / "VITONHD.ckpt")):
        read = read_nets(backbone, place, eye)
        for net, own in ((read.unet, nets.unet), (read.garment, nets.garment)):
            state = net.state_dict()
            assert state.keys() == own.state_dict().keys()
            assert all(torch.equal(state[k], v) for k, v in own.state_dict().items()), place
    torch.save({"state_dict": {"a": torch.zeros(1)}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"other.ckpt holds no StableVITON: .*learnable_vector"):
        read_nets(backbone, tmp_path / "other.ckpt", eye)


def test_it_begins_from_noise_and_never_sees_what_is_under_the_mask(
    backbone: StableDiffusion, eye: ImageEncoder
) -> None:
    nets, worn = nets_of(backbone, eye), fitting()
    other = replace(worn, person=torch.where(worn.mask > 0, 0.9, worn.person))
    made = [stable_viton.ready(backbone, one, nets) for one in (worn, other)]
    assert all(ready.start is None for ready in made)
    one, two = (paint(backbone, ready, steps=2, size=32) for ready in made)
    assert torch.equal(one, two)
    kept = worn.mask.expand_as(one) == 0
    assert torch.equal(one[kept], worn.person[kept])
    with pytest.raises(InputError, match="needs --dense"):
        build(backbone, replace(worn, dense=None), nets)


def test_its_scale_guides_from_no_picture(backbone: StableDiffusion, eye: ImageEncoder) -> None:
    nets, worn, (x, t) = nets_of(backbone, eye), fitting(), noisy()
    one, none, three = (build(backbone, worn, nets, knobs=Knobs(scale=s))(x, t) for s in (1, 0, 3))
    torch.testing.assert_close(three, none + 3 * (one - none), atol=1e-4, rtol=1e-4)


def test_masks_move_with_the_picture() -> None:
    g = torch.Generator().manual_seed(3)
    seen = {role: torch.zeros(8, 3, 32, 32) for role in ("image", "agnostic", "dense", "garment")}
    spot = torch.zeros(8, 1, 32, 32)
    spot[..., 6:20, 4:14] = 1
    seen |= {"mask": spot, "worn": spot, "dense": spot.expand(-1, 3, -1, -1)}
    there = moved(seen, g)
    assert torch.equal(there["mask"], there["worn"])
    assert torch.equal((there["dense"][:, :1] >= 0.5).float(), there["mask"])
    grey = (there["agnostic"] - 128 / 255).abs().amax(1, keepdim=True) < 1e-6
    assert bool(grey[there["mask"] > 0].all())
    areas = there["mask"].flatten(1).sum(1)
    assert len(areas.unique()) > 2, "some were scaled"
    assert not torch.equal(there["mask"], spot)


def test_a_move_shifts_scales_and_mirrors() -> None:
    picture = torch.zeros(1, 1, 16, 16)
    picture[..., 2, 3] = 1

    def put(dx: float, dy: float, scale: float, mirrored: bool) -> Tensor:
        move = Move(torch.tensor([[dx, dy]]), torch.tensor([scale]), torch.tensor([mirrored]))
        return move(picture)[0, 0]

    for mirrored, row, column in ((False, 6, 11), (True, 6, 4)):
        shift = 0.5 if not mirrored else -0.5
        out = put(shift, 0.25, 1.0, mirrored)
        assert float(out[row, column]) == pytest.approx(1, abs=1e-5)
    assert float(put(0, 0, 2.0, False).sum()) < 4.1


def test_it_is_trained_in_stages_and_then_used(
    backbone: StableDiffusion, eye: ImageEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stable_viton, "SHOWN_EXAMPLES", 1)
    data = fitting_folder(tmp_path / "data")
    whole = train("stable_viton", data, tmp_path / "w", steps=1, batch=2, accumulate=1, lr=1e-2,
                  backbone=str(backbone.folder), device="cpu", size=32,
                  encoder=str(eye.folder))  # fmt: skip
    assert sorted(path.name for path in whole.iterdir() if path.is_dir()) == [
        "garment", "looking", "painting", "unet"]  # fmt: skip
    nets = read_nets(backbone, whole, eye)
    for net in (nets.unet, nets.garment):
        net.requires_grad_(False)
    assert float(nets.unet.conv_in.weight[:, 4:].abs().max()) > 0, "it learned to paint"
    own = nets.garment.body.down_blocks[0].resnets[0].conv1.weight
    assert float((own - nets.unet.down_blocks[0].resnets[0].conv1.weight).abs().max()) < 0.1
    assert float((own - backbone.unet.down_blocks[0].resnets[0].conv1.weight).abs().max()) > 0
    for zero in nets.garment.crossing.warp_zero_convs:
        assert float(zero.weight.abs().max()) > 0
    asks = asked("", 32, weights=whole, encoder=eye.folder, **files_of(data))
    made = paint(backbone, prepared(SYSTEM, backbone, asks), steps=2, size=32)
    assert made.shape == (1, 3, 32, 32)
    with pytest.raises(InputError, match="--dense is needed"):
        prepared(SYSTEM, backbone, telling(asks, dense=None))


def test_unlocked_the_way_up_learns_while_the_garment_is_looked_at(
    backbone: StableDiffusion, eye: ImageEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stable_viton, "SHOWN_EXAMPLES", 1)
    data, states = fitting_folder(tmp_path / "data"), []
    for unlocked in (False, True):
        out = train("stable_viton", data, tmp_path / str(unlocked), steps=1, batch=2, accumulate=1,
                    lr=1e-2, backbone=str(backbone.folder), device="cpu", size=32,
                    encoder=str(eye.folder), unlocked=unlocked)  # fmt: skip
        states.append(read_nets(backbone, out, eye).unet.state_dict())
    locked, free = states
    moved = {name for name in locked if not torch.equal(locked[name], free[name])}
    assert moved
    assert all(name.startswith(("up_blocks.", "conv_out.")) for name in moved)
    assert any(".resnets.0.conv1" in name for name in moved)


@pytest.mark.parametrize("augment", [False, True])
def test_the_last_stage_counts_the_variation(
    backbone: StableDiffusion, eye: ImageEncoder, tmp_path: Path, augment: bool
) -> None:
    data = fitting_folder(tmp_path / "data")
    losses = []
    for weight in (0.0, 10.0):
        options = stable_viton.Options(variation=weight, augment=augment, encoder=str(eye.folder))
        examples = read_examples(data, 32, pictures=stable_viton.ROLES)
        torch.manual_seed(0)
        school = stable_viton.School(backbone, Lesson(examples, {}, options))
        stirred(school.nets.garment, 0.05)
        school.hold()
        losses.append(school.loss(school.nets.garment, 3, torch.Generator().manual_seed(0)))
    assert float(losses[1] - losses[0]) > 0.01
