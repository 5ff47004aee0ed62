"""MVDream: published checkpoints, and the UNet's equations against the same written out plainly."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from diffusers import UNet2DConditionModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import ldm
from tests.tiny import WIDTH, tiny_folder
from threed.core.cameras import orbit
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.models.convert import convert_mvdream
from threed.diffusion.models.multiview import MultiViewDiffusion, camera_vector
from threed.diffusion.parts.attention import Views, install

SHAPE = ldm.Shape(context=WIDTH)


def base_folder(path: Path, shape: ldm.Shape = SHAPE) -> Path:
    """A single-view model of the UNet's shape: what a checkpoint was fine-tuned from."""
    tiny_folder(path)
    UNet2DConditionModel(
        sample_size=16,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(shape.channels, 2 * shape.channels),
        layers_per_block=shape.layers,
        attention_head_dim=shape.heads,
        cross_attention_dim=shape.context,
        use_linear_projection=shape.linear,
    ).save_pretrained(path / "unet")
    return path


def checkpoint(base: Path, shape: ldm.Shape = SHAPE) -> dict[str, Tensor]:
    """A random model under the names of the official file."""
    vae = load_file(base / "vae/diffusion_pytorch_model.safetensors")
    text = load_file(base / "text_encoder/model.safetensors")
    return {
        "betas": torch.rand(1000),
        **{f"model.diffusion_model.{k}": v for k, v in ldm.random_weights(shape).items()},
        "first_stage_model.decoder.conv_out.weight": vae["decoder.conv_out.weight"].half(),
        "cond_stage_model.model.token_embedding.weight": text[
            next(name for name in text if name.endswith("token_embedding.weight"))
        ].half(),
    }


@pytest.fixture(scope="module", params=[True, False], ids=["sd21", "sd15"])
def converted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[ldm.Shape, dict[str, Tensor], MultiViewDiffusion]:
    shape = replace(SHAPE, linear=request.param)
    path = tmp_path_factory.mktemp("mvdream")
    base = base_folder(path / "base", shape)
    state = checkpoint(base, shape)
    torch.save(state, path / "sd-v2.1-base-4view.pt")
    convert_mvdream(path / "sd-v2.1-base-4view.pt", base, path / "out")
    backbone = load_backbone(str(path / "out"), device="cpu")
    assert isinstance(backbone, MultiViewDiffusion)
    weights = {k.removeprefix("model.diffusion_model."): v for k, v in state.items()}
    return shape, weights, backbone


def test_the_unet_is_latent_diffusions_as_tests_ldm_writes_it_out(
    converted: tuple[ldm.Shape, dict[str, Tensor], MultiViewDiffusion],
) -> None:
    shape, weights, backbone = converted
    around = orbit(4, 32, start_deg=20)
    condition = replace(backbone.encode_text(["a", "red", "", "mug"]), cameras=around)
    x, t = torch.randn(4, 4, 8, 8), torch.tensor([600] * 4)
    with torch.no_grad():
        ours = backbone.predict_noise(x, t, condition)
        theirs = ldm.unet(weights, shape, x, t, condition.tokens, camera_vector(around), views=4)
    assert float(ours.std()) > 0.1
    assert float((ours - theirs).abs().max()) <= 1e-5
    apart = ldm.unet(weights, shape, x, t, condition.tokens, camera_vector(around), views=1)
    assert float((ours - apart).abs().max()) > 1e-3, "the views have seen each other"


def test_views_may_come_in_any_order(
    converted: tuple[ldm.Shape, dict[str, Tensor], MultiViewDiffusion],
) -> None:
    _, _, backbone = converted
    condition = replace(backbone.encode_text(["a", "red", "", "mug"]), cameras=orbit(4, 32))
    x, t = torch.randn(4, 4, 8, 8), torch.full((4,), 300)
    order = torch.tensor([2, 0, 3, 1])
    with torch.no_grad():
        straight = backbone.predict_noise(x, t, condition)
        mixed = backbone.predict_noise(x[order], t, condition.select(order))
    torch.testing.assert_close(mixed, straight[order], atol=1e-5, rtol=1e-5)


def test_one_view_is_the_unet_of_one_picture_exactly(
    converted: tuple[ldm.Shape, dict[str, Tensor], MultiViewDiffusion],
) -> None:
    _, _, backbone = converted
    flat = {k: v for k, v in backbone.unet.config.items() if not k.startswith("_")}
    flat |= {"class_embed_type": None, "projection_class_embeddings_input_dim": None}
    single = UNet2DConditionModel.from_config(flat).eval()
    state = backbone.unet.state_dict()
    single.load_state_dict({k: v for k, v in state.items() if not k.startswith("class_emb")})
    install(single)
    tokens, x, t = torch.randn(2, 32, WIDTH), torch.randn(2, 4, 8, 8), torch.tensor([100, 800])
    edits = {"edits": (Views(1),)}
    with torch.no_grad():
        # the class embedding without its last layer adds nothing
        last = backbone.unet.class_embedding.linear_2
        kept = last.weight.clone(), last.bias.clone()
        last.weight.zero_(), last.bias.zero_()
        many = backbone.unet(
            x, t, tokens, class_labels=torch.randn(2, 16), cross_attention_kwargs=edits
        ).sample
        last.weight.copy_(kept[0]), last.bias.copy_(kept[1])
        assert torch.equal(many, single(x, t, tokens).sample)


@pytest.mark.parametrize("kind", ["state_dict", "safetensors", "folder"])
def test_every_published_layout_gives_the_same_backbone(tmp_path: Path, kind: str) -> None:
    base = base_folder(tmp_path / "base")
    state = checkpoint(base)
    if kind == "state_dict":
        source = tmp_path / "model.ckpt"
        torch.save({"state_dict": state, "global_step": 3}, source)
    elif kind == "safetensors":
        source = tmp_path / "model.safetensors"
        save_file(state, source)
    else:  # conversions keep the names within a folder in diffusers' layout
        source = tmp_path / "conversion"
        (source / "unet").mkdir(parents=True)
        prefix = "model.diffusion_model."
        unet = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        save_file(unet, source / "unet/diffusion_pytorch_model.safetensors")
    convert_mvdream(source, base, tmp_path / "out")
    written = load_file(tmp_path / "out/unet/diffusion_pytorch_model.safetensors")
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    theirs = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    assert torch.equal(written[name], state[theirs])
    config = json.loads((tmp_path / "out/unet/config.json").read_text())
    assert (config["sample_size"], config["class_embed_type"]) == (8, "projection")
    assert load_backbone(str(tmp_path / "out"), device="cpu").views == 4


def test_what_cannot_be_converted_is_said(tmp_path: Path) -> None:
    base = base_folder(tmp_path / "base")
    state = checkpoint(base)

    def refused(message: str, like: Path = base, **changes: Tensor | None) -> None:
        changed = {**state, **changes}
        torch.save({k: v for k, v in changed.items() if v is not None}, tmp_path / "model.pt")
        with pytest.raises(InputError, match=message):
            convert_mvdream(tmp_path / "model.pt", like, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    unet = "model.diffusion_model."
    camera = f"{unet}camera_embed.0.weight"
    refused("holds no MVDream UNet", **{camera: None})
    refused(r"does not fit: conv_out\.bias is None, and \(4,\) was", **{f"{unet}out.2.bias": None})
    refused("more is no tensor of a UNet", **{f"{unet}more": torch.ones(1)})
    other = {"first_stage_model.decoder.conv_out.weight": torch.zeros(3, 8, 3, 3)}
    refused("not fine-tuned from .*base: their vaes differ", **other)
    refused("predicts v, and MVDream predicts noise", tiny_folder(tmp_path / "v", "sd21"))
    with pytest.raises(InputError, match="there is no file"):
        convert_mvdream(tmp_path / "none.pt", base, tmp_path / "out")
    (tmp_path / "bad.pt").write_bytes(b"no weights at all")
    with pytest.raises(InputError, match="nothing in it was executed"):
        convert_mvdream(tmp_path / "bad.pt", base, tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        convert_mvdream(tmp_path / "model.pt", base, base)


def test_the_command_converts(tmp_path: Path) -> None:
    from threed.apps.cli.main import app

    base = base_folder(tmp_path / "base")
    torch.save(checkpoint(base), tmp_path / "model.pt")
    words = ["convert", str(tmp_path / "model.pt"), "--like", str(base), "--out"]
    result = CliRunner().invoke(app, [*words, str(tmp_path / "made")])
    assert result.exit_code == 0
    assert result.stdout.strip() == str(tmp_path / "made")
    assert load_backbone(str(tmp_path / "made"), device="cpu").views == 4


def test_the_sides_of_a_thing_are_asked_for_by_their_number(tmp_path: Path) -> None:
    from threed.apps.cli.main import app

    words = ["image", "a red mug", "--steps", "1", "--out", str(tmp_path / "a.png"), "--views"]
    assert CliRunner().invoke(app, [*words, "4"]).exit_code == 0
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (4 * 64, 64)
    for more, message in ((["3"], "'toybox-multiview' sees 4 at once"),
                          (["4", "--backbone", "toybox"], "'toybox' sees 1 at once")):  # fmt: skip
        result = CliRunner().invoke(app, [*words, *more])
        assert isinstance(result.exception, InputError)
        assert message in str(result.exception)
