"""LoRAs of any net: put in, read back, in force by name and weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from threed.diffusion.parts.adapters import TEXT_TARGETS, Lora, Pair, adapted, pairs_of


def convolutional() -> nn.Module:
    """A net whose layers are of every kind that a LoRA may change."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 1), nn.Flatten(),
                         nn.Linear(24, 5), nn.Linear(5, 2, bias=False)).eval()  # fmt: skip


def text_encoder() -> nn.Module:
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    config = CLIPTextConfig(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2,
                            num_attention_heads=2, max_position_embeddings=7)  # fmt: skip
    return CLIPTextModel(config).eval().requires_grad_(False)


def random_pairs(net: nn.Module, ranks: dict[str, tuple[int, float]], seed: int) -> dict[str, Pair]:
    generator = torch.Generator().manual_seed(seed)
    pairs = {}
    for path, (rank, alpha) in ranks.items():
        weight = net.get_submodule(path).weight
        ones = [1] * (weight.ndim - 2)
        down = torch.randn(rank, *weight.shape[1:], generator=generator)
        up = torch.randn(weight.shape[0], rank, *ones, generator=generator)
        pairs[path] = Pair(down, up, alpha)
    return pairs


@pytest.mark.parametrize("weights", [{"a": 1.0}, {"a": 0.5, "b": -2.0}])
def test_loaded_pairs_are_added_to_the_weights_of_their_layers(weights: dict[str, float]) -> None:
    net, other, x = convolutional(), convolutional(), torch.randn(2, 3, 4, 4)
    loras = {"a": random_pairs(net, {"0": (2, 1.0), "1": (2, 3.0), "3": (4, 4.0)}, 1),
             "b": random_pairs(net, {"3": (1, 0.5), "4": (2, 1.0)}, 2)}  # fmt: skip
    plain = net(x)
    for name, pairs in loras.items():
        Lora.loaded(net, name, pairs)
        for path, pair in pairs.items():
            weight = other.get_submodule(path).weight
            added = pair.up.flatten(1) @ pair.down.flatten(1) * (pair.alpha / pair.rank)
            weight.data += weights.get(name, 0.0) * added.view_as(weight)
    with adapted(net, weights):
        torch.testing.assert_close(net(x), other(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(net(x), plain)


def test_pairs_are_read_back_as_they_were() -> None:
    net = convolutional()
    pairs = random_pairs(net, {"0": (2, 1.5), "4": (1, 1.0), "3": (2, 1.5)}, 1)
    lora = Lora.loaded(net, "one", pairs)
    Lora(net, "two", rank=1, seed=0, targets=("3",))
    read = pairs_of(net, "one")
    assert read.keys() == pairs.keys()
    for path, pair in pairs.items():
        assert torch.equal(read[path].down, pair.down)
        assert torch.equal(read[path].up, pair.up)
        assert read[path].alpha == pair.alpha
    with torch.no_grad():
        next(iter(lora.parameters.values())).zero_()
    assert all(bool(pair.down.any()) for pair in read.values()), "copies"
    assert all(parameter.requires_grad for parameter in lora.parameters.values())
    assert pairs_of(net, "two").keys() == {"3"}
    assert pairs_of(net, "three") == {}
    assert Lora.loaded(net, "four", {}).parameters == {}


def test_a_text_encoder_learns_by_an_alpha_of_its_own() -> None:
    net: Any = text_encoder()
    ids = torch.arange(7)[None]
    plain = net(ids)[0]
    lora = Lora(net, "toy", rank=2, alpha=6.0, seed=0, targets=TEXT_TARGETS)

    def out(weight: float) -> Tensor:
        with adapted(net, {"toy": weight}):
            hidden: Tensor = net(ids)[0]
            return hidden

    assert len(lora.parameters) == 2 * 4 * 2  # layers, targets, factors
    assert torch.equal(out(1.0), plain), "B is 0"
    gradients = torch.autograd.grad(out(1.0).sum(), list(lora.parameters.values()))
    for key, gradient in zip(lora.parameters, gradients):
        assert bool(gradient.any()) == ("lora_B" in key)
        nn.init.constant_(lora.parameters[key], 0.1)
    one = out(1.0)
    assert {(pair.rank, pair.alpha) for pair in pairs_of(net, "toy").values()} == {(2, 6.0)}
    halved = {path: Pair(pair.down, pair.up, 3.0) for path, pair in pairs_of(net, "toy").items()}
    Lora.loaded(net, "toy", halved)
    torch.testing.assert_close(out(2.0), one)
    assert not torch.equal(one, plain)
    assert torch.equal(net(ids)[0], plain)
