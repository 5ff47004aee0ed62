"""IDM-VTON: the published equations, its published files, and what training does."""

from __future__ import annotations

import copy
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

from tests.systems import asked, prepared
from tests.test_diffusion_condition import shares_a_call
from tests.test_diffusion_reference_attention import Sliced, processors
from tests.tiny import Kind, eye_folder, tiny_folder
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.guide import Guide
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.packed import write_packed
from threed.diffusion.paint import paint
from threed.diffusion.parts.channels import with_unet
from threed.diffusion.parts.image_adapter import ImageTokens, block_scales
from threed.diffusion.parts.reference_attention import recorded
from threed.diffusion.parts.tryon_net import (
    Garments,
    TryonNet,
    garment_net,
    load_tryon_net,
    save_tryon_net,
)
from threed.learning.data import read_examples, write_examples
from threed.learning.loop import train
from threed.learning.recipe import Recipe
from threed.systems.system import Lesson
from threed.systems.tryon import idm_vton
from threed.systems.tryon.idm_vton import ROLES, SYSTEM, TEXTS, Knobs, Nets, Options, build
from threed.systems.tryon.wear import Wear

CPU = torch.device("cpu")
FILE = "diffusion_pytorch_model.safetensors"
T = torch.tensor([600, 20])


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusion:
    return loaded(tmp_path_factory.mktemp("tiny") / "m", "sd15")


def loaded(folder: Path, kind: Kind) -> StableDiffusion:
    eye_folder(tiny_folder(folder, kind) / "clip")
    model = load_backbone(str(folder), device="cpu")
    assert isinstance(model, StableDiffusion)
    return model


def new(backbone: StableDiffusion, seed: int = 1, **options: Any) -> Nets:
    """Nets that have learned something, always the same."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        nets = idm_vton.new_nets(backbone, Options(**options))
        for value in nets.tryon.parameters():
            value.data += 0.05 * torch.randn_like(value)
    nets.tryon.eval().requires_grad_(False)
    return nets


def wearing(count: int = 1) -> Wear:
    """Persons and garments of nothing but chance."""
    g = torch.Generator().manual_seed(2)
    person, garment, dense = (torch.rand(count, 3, 32, 32, generator=g) for _ in range(3))
    mask = torch.zeros(count, 1, 32, 32)
    mask[..., 8:24, 4:28] = 1
    return Wear(person, garment, mask, "upper", "a red shirt", dense=dense)


def noisy(count: int = 2) -> tuple[Tensor, Tensor]:
    return torch.randn(count, 4, 8, 8, generator=torch.Generator().manual_seed(3)), T[:count]


def test_it_is_the_published_equation(backbone: StableDiffusion) -> None:
    """Thirteen channels in their order, GarmentNet at the same t, zeros for guidance's other."""
    nets, wear, (x, t) = new(backbone), wearing(2), noisy()
    garments = ["a red shirt", "a blue hat"]
    ours = build(backbone, garments, nets, wear, guide=Guide(9.0, "grey"))(x, t)
    mask = torch.nn.functional.interpolate(wear.mask, (8, 8))
    assert wear.dense is not None
    agnostic, dense, cloth = map(backbone.encode_image, (wear.agnostic, wear.dense, wear.garment))
    given = torch.cat([x, mask, agnostic, dense], 1)
    about = backbone.encode_text([f"a photo of {words}" for words in garments])
    features = recorded(backbone, cloth, t, about).features
    view, adapter = with_unet(backbone, nets.tryon.unet), nets.tryon.adapter
    noises = []
    for texts, there in (
        ([f"model is wearing {words}" for words in garments], 1),
        (["grey"] * 2, 0),
    ):
        seen = nets.encoder.see(wear.garment, pooled=False)
        seen = seen if there else nets.encoder.nothing(pooled=False)
        tokens = adapter(seen.expand(2, -1, -1)[:, None])
        edit = ImageTokens(tokens, adapter, block_scales([*adapter.places], "all", 1.0))
        told = replace(view.encode_text(texts), channels=given[:, 4:], attention=(edit,))
        make = {name: Sliced(there * value[:, 0]) for name, value in features.items()}
        with processors(view, make.get):
            noises.append(view.predict_noise(x, t, told))
    expected = noises[1] + 2 * (noises[0] - noises[1])
    torch.testing.assert_close(ours, expected, atol=2e-5, rtol=1e-4)
    without = build(backbone, garments, nets, wear, knobs=Knobs(details=0))(x, t)
    assert float((without - ours).abs().max()) > 1e-2


def test_garments_that_are_alike_are_seen_once(
    backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    plain = backbone.unet.forward

    def forward(x: Tensor, *args: Any, **options: Any) -> Any:
        sizes.append(len(x))
        return plain(x, *args, **options)

    monkeypatch.setattr(backbone.unet, "forward", forward)
    latents, tokens = torch.randn(2, 4, 8, 8), backbone.encode_text(["a hat", "two"]).tokens
    rows = torch.tensor([0, 1, 0, 0])
    worn = torch.tensor([True, True, False, True])
    part = Garments(backbone, latents[rows], tokens[rows], worn)
    t = torch.tensor([5, 5, 5, 700])
    together = part.at(t)
    assert sizes == [3]
    for row in range(4):
        here = torch.tensor([row])
        alone = part.select(here).at(t[here])
        for name, value in together.features.items():
            torch.testing.assert_close(value[here], alone.features[name], atol=1e-5, rtol=1e-5)
    assert all(float(value[2].abs().max()) == 0 for value in together.features.values())


def test_a_garment_on_one_side_alone_shares_the_call(
    backbone: StableDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, net = backbone.encode_text(["a", "b", "c", "d"]), copy.deepcopy(backbone.unet)
    seen = Garments(with_unet(backbone, net), torch.randn(4, 4, 8, 8), told.tokens,
                    torch.ones(4, dtype=torch.bool))  # fmt: skip
    conditions = [replace(told, attention=(seen,)), told]
    shares_a_call(backbone, torch.randn(4, 4, 8, 6), conditions, monkeypatch)


@pytest.mark.parametrize("kind", ["sd15", "sdxl"])
def test_published_files_come_back(kind: Kind, tmp_path: Path) -> None:
    """All of TryonNet in one file, by the names of the official classes; GarmentNet untold."""
    base = loaded(tmp_path / "m", kind)
    nets, place = new(base), tmp_path / "w"
    save_tryon_net(nets.tryon, place / "unet")
    state = load_file(place / "unet" / FILE)
    for name, shape in {
        "conv_in.weight": (16, 13, 3, 3),
        "encoder_hid_proj.latents": (1, 16, 64),
        "encoder_hid_proj.layers.3.0.to_kv.weight": (128, 64),
        "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.weight": (
            32, base.unet.config.cross_attention_dim),
    }.items():  # fmt: skip
        assert tuple(state[name].shape) == shape
    config = json.loads((place / "unet" / "config.json").read_text())
    assert (config["encoder_hid_dim"], config["encoder_hid_dim_type"]) == (16, "ip_image_proj")
    again = load_tryon_net(base, place / "unet").state_dict()
    assert all(torch.equal(again[name], value) for name, value in nets.tryon.state_dict().items())
    base.unet.save_pretrained(place / "unet_encoder")
    eye_folder(place / "image_encoder")
    request = asked("a hat", 32, weights=place)
    back = idm_vton.load(base, request)
    assert back.encoder.folder == place / "image_encoder"
    before = replace(nets, encoder=back.encoder)  # the one beside a backbone scales otherwise
    (x, t), wear = noisy(), wearing(2)
    torch.testing.assert_close(build(base, "a hat", back, wear)(x, t),
                               build(base, "a hat", before, wear)(x, t))  # fmt: skip
    shared = garment_net(base).unet.conv_in.weight
    assert shared.data_ptr() == base.unet.conv_in.weight.data_ptr()


def test_packed_it_is_nearly_the_same(backbone: StableDiffusion) -> None:
    nets, place = new(backbone), backbone.folder / "idm_vton" / "unet"
    save_tryon_net(nets.tryon, place)
    write_packed(load_file(place / FILE), place / FILE, 8)
    small = load_tryon_net(backbone, place).state_dict()
    for name, value in nets.tryon.state_dict().items():
        assert float((small[name] - value).norm()) <= 0.01 * float(value.norm()), name


def test_files_that_are_no_tryon_net_say_so(backbone: StableDiffusion, tmp_path: Path) -> None:
    nets = new(backbone)
    backbone.unet.save_pretrained(tmp_path / "plain")
    with pytest.raises(InputError, match=r"is no TryonNet: no name in it begins with encoder_hid"):
        load_tryon_net(backbone, tmp_path / "plain")
    save_tryon_net(nets.tryon, tmp_path / "unet")
    state = load_file(tmp_path / "unet" / FILE)
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k_ip.weight"
    cut = {name: value for name, value in state.items() if name != layer}
    save_file(cut, tmp_path / "unet" / FILE)
    with pytest.raises(InputError, match="does not fit"):
        load_tryon_net(backbone, tmp_path / "unet")
    narrow = TryonNet(backbone.unet, nets.tryon.adapter)
    save_tryon_net(narrow, tmp_path / "narrow")
    with pytest.raises(InputError, match="it takes 4 channels, where 13 are needed"):
        load_tryon_net(backbone, tmp_path / "narrow")


def people(folder: Path, count: int = 4) -> Path:
    """Examples of persons in a garment."""
    folder.mkdir()
    rows = []
    for i in range(count):
        row = {"garment_text": "a red shirt", "category": "upper", "text": "a person"}
        for role in ROLES:
            picture = Image.new("RGB", (32, 32), "white" if role in ("garment", "mask") else "grey")
            picture.paste((200, 40 * i, 0) if role != "mask" else 0, (4, 4, 12, 12 + i))
            picture.save(folder / f"{i}-{role}.png")
            row[role] = f"{i}-{role}.png"
        rows.append(row)
    write_examples(folder, rows)
    return folder


def lesson(folder: Path, **options: Any) -> Lesson:
    examples = read_examples(folder, 32, pictures=ROLES, texts=TEXTS)
    return Lesson(examples, {"system": "idm_vton"}, Options(**options))


@pytest.mark.parametrize("layers", ["all", "decoder"])
def test_training_changes_what_it_says_and_can_be_used(
    layers: str, backbone: StableDiffusion, tmp_path: Path
) -> None:
    folder = people(tmp_path / "data")
    torch.manual_seed(0)
    task = idm_vton.learn(backbone, lesson(folder, layers=layers))
    before = {name: value.clone() for name, value in task.net.state_dict().items()}
    train(task, Recipe(steps=2, batch=2, lr=0.01, warmup=1), tmp_path / "out", device=CPU)
    changed = {name for name, value in task.net.state_dict().items()
               if not torch.equal(value, before[name])}  # fmt: skip
    assert any(name.startswith("unet.up_blocks") for name in changed)
    others = {name for name in changed if not name.startswith("unet.up_blocks")}
    if layers == "decoder":
        assert not others
    else:
        assert {"unet.conv_in.weight", "adapter.image_proj.latents"} < others
        assert any(name.startswith("adapter.ip_adapter") for name in others)
    again = idm_vton.load_trained(backbone, tmp_path / "out")
    assert all(torch.equal(value, task.net.state_dict()[name])
               for name, value in again.state_dict().items())  # fmt: skip
    assert (tmp_path / "out" / "sheet.png").is_file()


def test_where_the_garment_is_left_out_nothing_of_it_is_told(
    backbone: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = people(tmp_path / "one"), people(tmp_path / "other")
    file = folders[1] / "metadata.jsonl"
    file.write_text(file.read_text().replace("a red shirt", "two"))
    for row in range(4):
        Image.new("RGB", (32, 32), "blue").save(folders[1] / f"{row}-garment.png")

    def loss(folder: Path, share: float) -> float:
        monkeypatch.setattr(idm_vton, "DROP", share)
        torch.manual_seed(0)
        task = idm_vton.learn(backbone, lesson(folder))
        with torch.no_grad():
            for value in task.net.parameters():
                value += 0.05 * torch.randn_like(value)
            return float(task.loss(task.net, 4, torch.Generator().manual_seed(1)))

    assert loss(folders[0], 1.0) == loss(folders[1], 1.0)
    assert loss(folders[0], 0.0) != loss(folders[1], 0.0)


def test_a_request_is_painted_and_nothing_else_changes(tmp_path: Path) -> None:
    backbone: Any = load_backbone(str(tiny_folder(tmp_path / "m")), device="cpu")
    nets = new(backbone, encoder=str(eye_folder(tmp_path / "w" / "image_encoder")))
    save_tryon_net(nets.tryon, tmp_path / "w" / "unet")
    person = Image.new("RGB", (32, 32), (250, 250, 250))
    person.paste((10, 120, 60), (8, 4, 24, 30))
    mask = Image.new("L", (32, 32))
    mask.paste(255, (8, 8, 24, 20))
    garment = Image.new("RGB", (20, 32), "white")
    garment.paste((200, 0, 0), (4, 6, 16, 26))
    dense = Image.new("RGB", (32, 32))
    dense.paste((0, 90, 200), (8, 4, 24, 30))
    for name, picture in {
        "person": person,
        "mask": mask,
        "garment": garment,
        "dense": dense,
    }.items():
        picture.save(tmp_path / f"{name}.png")
    files = {name: tmp_path / f"{name}.png" for name in ("person", "mask", "garment", "dense")}
    request = asked("a red shirt", 32, weights=tmp_path / "w", **files)
    made = paint(backbone, prepared(SYSTEM, backbone, request), steps=2, size=32, n=2)
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[8:20, 8:24] = True
    shown = torch.from_numpy(np.array(person)).permute(2, 0, 1).float() / 255
    assert torch.equal(made[..., ~inside], shown[:, ~inside].expand(2, -1, -1))
    assert float((made - shown)[..., inside].abs().max()) > 0.05
    with pytest.raises(InputError, match="--dense is needed"):
        prepared(SYSTEM, backbone, replace(request, inputs={
            name: value for name, value in request.inputs.items() if name != "dense"}))  # fmt: skip
