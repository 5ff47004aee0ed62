"""LaDI-VTON: its nets written out, the official files, and what its stages of training do."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.nn import functional as F

from tests.systems import asked, prepared
from tests.test_systems_ip_adapter import noisy
from tests.tiny import WIDTH, eye_folder, tiny_folder
from tests.wardrobe import files_of, fitting, fitting_folder, stirred
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.detect import JOINTS, PALETTE, draw_pose
from threed.diffusion.guide import Guide
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.paint import paint
from threed.diffusion.parts.channels import with_unet
from threed.diffusion.parts.decoding import encoder_features
from threed.diffusion.parts.emasc import Emasc, emasc_skips
from threed.diffusion.parts.garment_words import InversionAdapter, worn_text
from threed.diffusion.parts.image_encoder import ImageEncoder
from threed.diffusion.parts.joints import pose_channels
from threed.diffusion.parts.ladi_nets import Nets, new_nets, read_nets, shown, write_nets
from threed.diffusion.parts.warping import (
    Sizes,
    Tps,
    Warper,
    beside,
    lattice,
    load_warper,
    resized,
    thin_plates,
    unevenness,
)
from threed.diffusion.progress import counted
from threed.learning.perceptual import Perceptual
from threed.runs.train import train
from threed.systems.tryon import ladi_vton
from threed.systems.tryon.ladi_vton import SYSTEM, Knobs, build, caption

CPU = torch.device("cpu")
SMALL = Sizes(3, 32, 32, base=12, halvings=2)


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    loaded = load_backbone(str(tiny_folder(tmp_path_factory.mktemp("tiny") / "m")), device="cpu")
    assert isinstance(loaded, StableDiffusion)
    return loaded


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ImageEncoder:
    return ImageEncoder(eye_folder(tmp_path_factory.mktemp("eye") / "e"), CPU)


def nets_of(backbone: StableDiffusion, encoder: ImageEncoder, pose: int = 3) -> Nets:
    torch.manual_seed(0)
    nets = new_nets(backbone, encoder, 3, pose, 32)
    for net in (nets.unet, nets.warper, nets.emasc, nets.words):
        stirred(net)
    return nets


def test_the_grid_is_the_thin_plate_spline_through_the_points() -> None:
    """Where control points go the lattice goes, affine maps are exact, and bending is least."""
    points = lattice()
    torch.testing.assert_close(thin_plates(9, 7) @ points.float(), _pixels(9, 7), atol=1e-5, rtol=0)
    affine = torch.tensor([[0.8, 0.3], [-0.2, 1.1]]), torch.tensor([0.1, -0.2])
    moved = points.float() @ affine[0].T + affine[1]
    torch.testing.assert_close(
        thin_plates(9, 7) @ moved, _pixels(9, 7) @ affine[0].T + affine[1], atol=1e-5, rtol=0
    )
    # solved the long way: phi weights with no affine part of their own, through the moved points
    g = torch.Generator().manual_seed(0)
    goal = points + 0.1 * torch.randn(25, 2, generator=g, dtype=torch.float64)
    apart = torch.cdist(points, points)
    phi = torch.where(apart > 0, apart**2 * apart.clamp_min(1e-9).log(), torch.zeros(()).double())
    side = torch.cat([torch.ones(25, 1, dtype=torch.float64), points], 1)
    whole = torch.cat([torch.cat([phi, side], 1), F.pad(side.T, (0, 3))])
    solved = torch.linalg.solve(whole, F.pad(goal, (0, 0, 0, 3)))
    pixels = _pixels(9, 7).double()
    far = torch.cdist(pixels, points)
    bend = torch.where(far > 0, far**2 * far.clamp_min(1e-9).log(), torch.zeros(()).double())
    expected = torch.cat([bend, torch.ones(63, 1, dtype=torch.float64), pixels], 1) @ solved
    torch.testing.assert_close(
        thin_plates(9, 7) @ goal.float(), expected.float(), atol=1e-4, rtol=1e-4
    )


def _pixels(height: int, width: int) -> Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width),
                          indexing="ij")  # fmt: skip
    return torch.stack([x, y], -1).flatten(0, 1)


def test_an_untaught_spline_leaves_the_garment_as_it_lies() -> None:
    worn, warper = fitting(2), Warper(SMALL).eval()
    person = beside(worn.agnostic, worn.pose)
    points = warper.tps(worn.garment, person)
    torch.testing.assert_close(points, lattice().float().expand(2, -1, -1), atol=1e-6, rtol=0)
    # published grids say where corners are, and grid_sample where pixels end: the border goes
    bent, _ = warper.bent(worn.garment, person)
    wanted = F.affine_grid(torch.eye(2, 3).expand(2, 2, 3), [2, 3, 32, 32], align_corners=True)
    expected = F.grid_sample(worn.garment, wanted, padding_mode="border", align_corners=False)
    torch.testing.assert_close(bent, expected, atol=1e-4, rtol=0)


def test_the_places_are_compared_columns_first() -> None:
    tps = Tps(SMALL).eval()
    seen = list[Tensor]()
    tps.loc_net["regression"].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    worn = fitting()
    tps(worn.garment, beside(worn.agnostic, worn.pose))
    a, b = tps.extractionA(worn.garment), tps.extractionB(beside(worn.agnostic, worn.pose))
    torch.testing.assert_close(a.square().sum(1), torch.ones(1, 8, 8), atol=1e-3, rtol=0)
    row, column = 2, 5
    alike = (a[0, :, row, column, None, None] * b[0]).sum(0)
    torch.testing.assert_close(seen[0][0, column * 8 + row], alike)


def test_only_an_uneven_lattice_costs_more() -> None:
    even = lattice().float()[None]
    least = unevenness(even)
    torch.testing.assert_close(least, torch.tensor(4 * 0.08 + 2 * 0.02))
    torch.testing.assert_close(unevenness(even + 0.05), least)
    bent = even.clone()
    bent[0, 12] += torch.tensor([0.4, 0.0])  # the one in the middle, along its row
    # in its row, steps² go 0.85², 0.05² instead of 0.45², and rise by so much at three places
    rises = torch.tensor([0.85**2 - 0.45**2, 0.85**2 - 0.05**2, 0.45**2 - 0.05**2])
    across = (rises.clamp(min=0.08).sum() + 12 * 0.08) / 15 - 0.08
    # in its column, steps across go 0.4 and back: their squares rise at two places of three
    down = (2 * 0.16 + 13 * 0.08) / 15 - 0.08
    spanned = (0.4 * 0.45 * 2 + 2 * 0.4 * 0.45) - 0.02
    torch.testing.assert_close(unevenness(bent) - least, across + down + spanned,
                               atol=1e-5, rtol=0)  # fmt: skip


def official(nets: Nets, out: Path) -> Path:
    """Write the nets as they were released: four pickles of tensors."""
    assert nets.warper is not None
    assert nets.emasc is not None
    assert nets.words is not None
    out.mkdir()
    halves = {part: getattr(nets.warper, part).state_dict() for part in ("tps", "refinement")}
    halves["tps"]["gridGen.inverse_kernel"] = torch.zeros(28, 28)
    torch.save(halves, out / "warping_dresscode.pth")
    torch.save(nets.emasc.state_dict(), out / "emasc_dresscode.pth")
    torch.save(nets.words.state_dict(), out / "inversion_adapter_dresscode.pth")
    torch.save(nets.unet.state_dict(), out / "unet_dresscode.pth")
    return out


def test_the_official_files_and_a_trainings_folder_hold_the_same(
    backbone: StableDiffusion, encoder: ImageEncoder, tmp_path: Path
) -> None:
    nets = nets_of(backbone, encoder, 18)
    wide = replace(nets, warper=stirred(Warper(Sizes(base=8))))  # of the published size and depth
    for place, own in ((tmp_path / "w", nets), (official(wide, tmp_path / "o"), wide)):
        if own is nets:
            write_nets(nets, place)
        read = read_nets(backbone, place, encoder)
        for part in ("unet", "warper", "emasc", "words"):
            state = getattr(read, part).state_dict()
            expected = getattr(own, part).state_dict()
            assert state.keys() == expected.keys()
            assert all(torch.equal(state[name], value) for name, value in expected.items()), part
        assert read.unet.config.in_channels == 31
    (tmp_path / "o/emasc_vitonhd.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"a folder emasc, or one official file emasc_\*.pth, and "
                       "there are 2"):  # fmt: skip
        read_nets(backbone, tmp_path / "o", encoder)
    with pytest.raises(InputError, match="no name in it begins with tps"):
        load_warper(tmp_path / "o/unet_dresscode.pth")


def test_the_published_layout_has_its_published_sizes() -> None:
    """Of an SD 2 VAE, of CLIP ViT-H and of 256 × 192: read off the official code."""
    with torch.device("meta"):
        vae = AutoencoderKL(down_block_types=("DownEncoderBlock2D",) * 4,
                            up_block_types=("UpDecoderBlock2D",) * 4,
                            block_out_channels=(128, 256, 512, 512))  # fmt: skip
        convolutions = [[conv.in_channels for conv in level if isinstance(conv, nn.Conv2d)]
                        + [level[2].out_channels] for level in Emasc(vae).conv]  # fmt: skip
        sizes = {name: tuple(v.shape) for name, v in Warper(Sizes()).state_dict().items()}
    assert convolutions == [[128, 128, 128], [128, 128, 256], [128, 128, 512], [256, 256, 512],
                            [512, 512, 512]]  # fmt: skip
    for name, shape in {
        "tps.extractionB.model.0.weight": (64, 21, 4, 4),
        "tps.extractionA.model.12.weight": (512, 512, 3, 3),
        "tps.extractionA.model.15.weight": (512, 512, 3, 3),
        "tps.loc_net.regression.conv.0.weight": (512, 192, 4, 4),
        "tps.loc_net.regression.linear.weight": (50, 768),
        "refinement.inc.double_conv.0.weight": (64, 24, 3, 3),
        "refinement.down4.maxpool_conv.1.double_conv.0.weight": (512, 512, 3, 3),
        "refinement.up1.conv.double_conv.0.weight": (512, 1024, 3, 3),
        "refinement.up1.conv.double_conv.3.weight": (256, 512, 3, 3),
        "refinement.up4.conv.double_conv.3.weight": (64, 64, 3, 3),
        "refinement.outc.conv.weight": (3, 64, 1, 1),
    }.items():
        assert sizes[name] == shape, name


def test_emasc_adds_what_the_encoder_saw_where_the_mask_leaves_it(
    backbone: StableDiffusion,
) -> None:
    worn, net, latents = fitting(), stirred(Emasc(backbone.vae)), torch.randn(1, 4, 8, 8)
    encoder, decoder, given = backbone.vae.encoder, backbone.vae.decoder, 2 * worn.agnostic - 1
    features = [encoder.conv_in(given)]
    x = features[0]
    for block in encoder.down_blocks:
        features.append(x)
        x = block(x)
    seen = encoder_features(backbone.vae, worn.agnostic)
    assert all(torch.equal(one, two) for one, two in zip(seen, features, strict=True))
    kept = [conv(f) * (1 - F.interpolate(worn.mask, f.shape[-2:]))
            for conv, f in zip(net.conv, features)]  # fmt: skip
    z = backbone.vae.post_quant_conv(latents / backbone.vae.config.scaling_factor)
    h = decoder.mid_block(decoder.conv_in(z))
    for block, more in zip(decoder.up_blocks, kept[:0:-1]):
        h = block(h + more)
    expected = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(h)) + kept[0])
    skips = emasc_skips(backbone, net, worn.agnostic, worn.mask)
    torch.testing.assert_close(backbone.decoded(latents, skips), expected, atol=1e-5, rtol=1e-5)
    nothing = emasc_skips(backbone, net, worn.agnostic, torch.ones_like(worn.mask))
    assert torch.equal(backbone.decoded(latents, nothing), backbone.decoded(latents))


def test_a_garments_words_stand_in_the_text_encoders_table(
    backbone: StableDiffusion, encoder: ImageEncoder
) -> None:
    torch.manual_seed(0)
    net, seen = InversionAdapter(encoder.eye, 3, WIDTH).eval(), torch.randn(2, 5, 16)
    rows = net(seen)
    h = net.post_layernorm(net.encoder_layers[0](seen, None)[:, 0])
    one, _, _, two, _, _, three = net.layers
    expected = three(F.gelu(two(F.gelu(one(h))))).reshape(2, 3, WIDTH)
    torch.testing.assert_close(rows, expected)
    told = worn_text(backbone, ["a hat", "a mug"], rows).tokens
    for number, text in enumerate(("a hat", "a mug")):
        alone = backbone.encode_text([f"{text} <x>"], {"<x>": (rows[number],)}).tokens
        torch.testing.assert_close(told[number : number + 1], alone)
    told.square().sum().backward()
    assert net.layers[0].weight.grad is not None


def test_the_unet_is_told_in_the_published_order(
    backbone: StableDiffusion, encoder: ImageEncoder
) -> None:
    """31 channels: noise 4, mask 1, masked person 4, pose 18, garment 4; guided from none."""
    nets, worn, (x, t) = nets_of(backbone, encoder, 18), fitting(), noisy()
    assert nets.warper is not None
    assert worn.pose is not None
    pose = pose_channels(worn.pose, 18)
    garment = backbone.encode_image(nets.warper(worn.garment, worn.agnostic, pose))
    masked = backbone.encode_image(worn.agnostic)
    small = F.interpolate(pose, (8, 8), mode="bilinear")
    mask = F.interpolate(worn.mask, (8, 8))
    channels = torch.cat([mask, masked, small, garment], 1)
    assert torch.equal(shown(worn.mask, masked, pose, garment), channels)
    other = torch.cat([mask, masked, 0 * small, 0 * garment], 1)
    wide = with_unet(backbone, nets.unet)
    text = said(backbone, nets, worn.garment)
    empty = backbone.encode_text([""])
    told, none = (wide.predict_noise(x, t, replace(one, channels=more))
                  for one, more in ((text, channels), (empty, other)))  # fmt: skip
    noise = build(backbone, "hat", worn, nets, guide=Guide(3.0))(x, t)
    torch.testing.assert_close(noise, none + 3 * (told - none), atol=1e-4, rtol=1e-4)
    with pytest.raises(InputError, match="needs --pose"):
        build(backbone, "hat", replace(worn, pose=None), nets)


def said(backbone: StableDiffusion, nets: Nets, garment: Tensor) -> Any:
    assert nets.words is not None
    assert nets.encoder is not None
    return worn_text(backbone, ["hat"], nets.words(nets.encoder.states(garment)[0]))


def test_the_garment_is_let_go_late(backbone: StableDiffusion, encoder: ImageEncoder) -> None:
    """After a share of the steps its latents are zeros, and all else is as before."""
    nets, worn, (x, _) = nets_of(backbone, encoder), fitting(), noisy()
    levels = torch.arange(900, 0, -100)  # ten steps, of which this is nine
    scores = [build(backbone, "hat", worn, nets, knobs=Knobs(garment_until=until))
              for until in (1.0, 0.0, 0.5)]  # fmt: skip
    for step, t in enumerate(levels):
        with counted(levels):
            whole, none, half = (score(x, t[None]) for score in scores)
        early = (step + 1) / len(levels) <= 0.5
        assert torch.equal(half, whole if early else none), step
        assert not torch.equal(whole, none)


def test_a_drawn_pose_becomes_a_map_for_each_joint() -> None:
    places = torch.rand(17, 3, generator=torch.Generator().manual_seed(0)).numpy()
    places[:, :2] = places[:, :2] * 200 + 28
    places[:, 2] = 1
    places[9, 2] = 0  # the left wrist is not seen
    drawn = torch.from_numpy(draw_pose(places, 256, 256).copy()).permute(2, 0, 1)[None] / 255
    maps = pose_channels(drawn, 18)[0]
    found = 0
    for joint, number in enumerate(JOINTS):
        if isinstance(number, tuple):
            continue
        if number == 9:
            assert float(maps[joint].max()) == 0
            continue
        y, x = divmod(int(maps[joint].argmax()), 256)
        found += abs(x - places[number, 0]) < 2 and abs(y - places[number, 1]) < 2
        near = float(maps[joint, y, min(x + 4, 255)] / maps[joint, y, x])
        assert near == pytest.approx(float(torch.exp(torch.tensor(-((4 / 4.5) ** 2)))), rel=0.5)
    assert found >= 14, "some lie under others"
    assert len(PALETTE) == 18
    assert pose_channels(drawn, 3) is drawn
    with pytest.raises(InputError, match="by 3 channels or by 18, not by 5"):
        pose_channels(drawn, 5)


def test_it_is_trained_in_stages_and_then_used(
    backbone: StableDiffusion, encoder: ImageEncoder, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(ladi_vton, "SHOWN_EXAMPLES", 1)
    assert caption("dress") == "a photo of a model wearing a dress"
    with pytest.raises(InputError, match=r"long: with the garment's 2 words it has \d+ tokens"):
        worn_text(backbone, [caption("upper")], torch.zeros(1, 2, WIDTH))
    monkeypatch.setattr(ladi_vton, "WORN", {"upper": "it"})
    data = fitting_folder(tmp_path / "data")
    told: dict[str, Any] = {"backbone": str(backbone.folder), "device": "cpu", "batch": 2,
                            "accumulate": 1, "lr": 1e-2, "size": 32, "tokens": 2, "steps": 1,
                            "encoder": str(encoder.folder)}  # fmt: skip
    whole = train("ladi_vton", data, tmp_path / "whole", **told)
    read = read_nets(backbone, whole, encoder)
    assert read.warper is not None
    assert asdict(read.warper.sizes) == asdict(SMALL)
    means = read.warper.refinement.inc.double_conv[1].running_mean
    assert float(means.abs().max()) > 0, "a batch norm's statistics are kept"
    first = with_extra(read.unet)
    assert float(first.abs().max()) > 0
    again = train("ladi_vton", data, tmp_path / "again", weights=str(whole), **told)
    other = read_nets(backbone, again, encoder)
    assert other.words is not None
    assert read.words is not None
    assert torch.equal(other.words.layers[0].weight, read.words.layers[0].weight)
    assert not torch.equal(with_extra(other.unet), first)
    asks = asked("", 32, weights=whole, encoder=encoder.folder, **files_of(data))
    made = paint(backbone, prepared(SYSTEM, backbone, asks), steps=2, size=32)
    assert made.shape == (1, 3, 32, 32)


@pytest.mark.parametrize(("small", "paces"), [
    (False, [(36_000, 1e-4), (36_000, 1e-4), (40_000, 1e-5), (200_000, 1e-5)]),
    (True, [(200_000, 1e-5)] * 4),
])  # fmt: skip
def test_stages_have_the_published_steps_and_rates(
    small: bool, paces: list[tuple[int, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    lesson, recipe = MagicMock(debias=small, about={}, start=None), ladi_vton.TRAINING.paper
    monkeypatch.setattr(ladi_vton, "School", MagicMock())
    stages = ladi_vton.learn(MagicMock(), lesson).first
    assert [stage.about["stage"] for stage in stages] == [*ladi_vton.STAGES]
    found = [(stage.share * recipe.steps, stage.rates[""] * recipe.lr) for stage in stages]
    assert found == [pytest.approx(pace) for pace in paces]


def with_extra(unet: Any) -> Tensor:
    """The weights of the channels that the backbone does not have."""
    weights: Tensor = unet.conv_in.weight[:, 4:].detach()
    return weights


def test_looks_are_compared_at_five_depths_of_vgg(tmp_path: Path) -> None:
    widths, state, inputs = ((4, 2), (4, 2), (4, 4), (4, 4), (4, 1)), {}, 3
    generator, number = torch.Generator().manual_seed(0), 0
    for channels, count in widths:
        for _ in range(count):
            state[f"features.{number}.weight"] = torch.randn(channels, inputs, 3, 3,
                                                             generator=generator) / 4  # fmt: skip
            state[f"features.{number}.bias"] = torch.zeros(channels)
            inputs, number = channels, number + 2
        number += 1
    state["classifier.0.weight"] = torch.zeros(1)
    torch.save(state, tmp_path / "vgg.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("threed.learning.perceptual.DEPTHS", widths)
        patch.setattr("threed.learning.perceptual.SIDE", 32)
        net = Perceptual(tmp_path / "vgg.pth")
    assert [net.seen, len(net.layers)] == [[1, 6, 11, 20, 29], 30]
    one, two = torch.rand(2, 1, 3, 32, 32, generator=generator)
    assert float(net(one, one)) == 0
    one.requires_grad_()
    net(one, two).backward()
    assert float(one.grad.abs().max()) > 0


def test_half_precision_learns_through_a_resize_on_a_cpu() -> None:
    picture = torch.rand(1, 3, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    small = resized(picture, (4, 4))
    assert small.dtype == torch.bfloat16
    small.float().sum().backward()  # type: ignore[no-untyped-call]
    assert picture.grad is not None
    assert float(picture.grad.float().sum()) == pytest.approx(3 * 16, rel=0.02)
