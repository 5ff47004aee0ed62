"""Nets that are kept as differences from a backbone's UNet."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.tiny import tiny_folder
from threed.core.errors import InputError
from threed.diffusion.files import count_numbers, metadata
from threed.diffusion.models.convert import read_state
from threed.diffusion.models.latent import load_net
from threed.diffusion.packed import packed, unpacked
from threed.diffusion.weights import STEM, pack


def near(state: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The state, each tensor moved by this share of its spread."""
    torch.manual_seed(0)
    return {name: value + share * value.std().nan_to_num(1) * torch.randn_like(value)
            for name, value in state.items()}  # fmt: skip


def test_in_16_bits_nothing_is_lost_and_what_is_the_unets_is_empty() -> None:
    base = {"a.weight": torch.randn(4, 3), "b.weight": torch.randn(2, 2), "b.bias": torch.randn(2)}
    base = {name: value.half() for name, value in base.items()}
    state = base | {"b.weight": torch.randn(2, 2).half(), "new.weight": torch.randn(5, 2).half()}
    found = packed(state, base, 16)
    assert found["a.weight.change"].numel() == 0
    back = unpacked(found, base)
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())


@pytest.mark.parametrize("name", ["a.weight", "body.a.weight"])
def test_in_8_bits_a_weight_is_off_by_half_a_step_of_its_row_at_most(name: str) -> None:
    torch.manual_seed(1)
    base = {"a.weight": torch.randn(6, 4, 3, 3)}
    state = {name: base["a.weight"] + 0.01 * torch.randn(6, 4, 3, 3), "own": torch.randn(3, 8)}
    found = packed(state, base, 8)
    assert {name + ".change", name + ".step", "own.whole", "own.step"} == found.keys()
    back = unpacked(found, base)
    for key, value in state.items():
        change = value - base["a.weight"] if key == name else value
        step = change.flatten(1).abs().amax(1) / 127
        off = (back[key] - value).flatten(1).abs().amax(1)
        assert (off <= 0.501 * step + 1e-7).all()


def test_a_row_of_zeros_and_a_net_far_from_the_unet_come_back() -> None:
    base = {"w": 100 * torch.randn(3, 4)}
    state = {"w": torch.tensor([[0.0] * 4, [1e-20] * 4, [1.0, -1.0, 0.5, 0.25]])}
    found = packed(state, base, 8)
    assert "w.whole" in found  # the difference would be larger than the net
    assert unpacked(found, base)["w"] == pytest.approx(state["w"], abs=0.004)


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A UNet near a backbone's, in 8 bits in its folder."""
    home = tmp_path / "home"
    tiny_folder(home)
    state = near(load_file(home / "unet" / f"{STEM}.safetensors"), 0.02)
    trained = tmp_path / "trained" / "unet"
    trained.mkdir(parents=True)
    shutil.copyfile(home / "unet" / "config.json", trained / "config.json")
    save_file(state, trained / f"{STEM}.safetensors")
    return pack(tmp_path / "trained", home / "mine", 8) / "unet"


def test_a_packed_net_is_small_and_loads_as_any_other(beside: Path, tmp_path: Path) -> None:
    file, whole = (folder / f"{STEM}.safetensors" for folder in (beside, tmp_path / "trained/unet"))
    assert file.stat().st_size < 0.4 * whole.stat().st_size
    there, here = read_state(whole), read_state(file)
    assert here.keys() == there.keys()
    for name, value in there.items():
        assert (here[name] - value).norm() <= 0.001 * value.norm() + 1e-3 * value.numel() ** 0.5
    assert count_numbers(beside, half=False) == sum(value.numel() for value in there.values())
    net = load_net(UNet2DConditionModel, beside, device=torch.device("cpu"), dtype=torch.float32)
    assert all(torch.equal(value, here[name].float()) for name, value in net.state_dict().items())


def test_away_from_its_backbone_it_is_refused(beside: Path, tmp_path: Path) -> None:
    away = shutil.copytree(beside, tmp_path / "away")
    with pytest.raises(InputError, match=r"away.+must lie in that backbone's folder"):
        read_state(away / f"{STEM}.safetensors")
    with pytest.raises(InputError, match="must lie in that backbone's folder"):
        pack(tmp_path / "trained", tmp_path / "other", 8)
    assert not (tmp_path / "other").exists()


def test_what_differs_from_a_tensor_that_the_unet_lacks_is_damaged(beside: Path) -> None:
    file = beside / f"{STEM}.safetensors"
    save_file({"no.such.change": torch.zeros(0, dtype=torch.int8)}, file, metadata(file))
    with pytest.raises(InputError, match="is damaged"):
        read_state(file)
