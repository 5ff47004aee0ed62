"""The loop that every system trains in: what it learns, writes, resumes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from threed.core.errors import InputError
from threed.diffusion.condition import Condition
from threed.diffusion.noise import alpha_sigma
from threed.learning.loop import Task, train, trainable
from threed.learning.losses import chosen, denoising_loss, without_text
from threed.learning.recipe import Recipe

CPU = torch.device("cpu")
RECIPE = Recipe(steps=12, batch=8, lr=0.05, warmup=3, ema=0.9)


class Line(nn.Module):
    """y = w x + b with dropout on x, and a part that is not to be trained."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(1))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.dropout = nn.Dropout(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(x) @ self.weight + self.bias + self.frozen


def task(net: nn.Module | None = None, **about: str) -> Task:
    def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        x = torch.randn(n, 3, generator=generator)
        return (net(x) - (x @ torch.tensor([1.0, -2.0, 0.5]) + 2)).square().mean()

    def save(net: nn.Module, folder: Path) -> None:
        save_file(
            {name: p.detach() for name, p in trainable(net).items()}, folder / "w.safetensors"
        )

    return Task(net or Line(), loss, save, {"system": "line", **about},
                sheet=lambda net: torch.full((3, 4, 4), float(net.dropout.training)))  # fmt: skip


def weights(path: Path) -> dict[str, Tensor]:
    state = torch.load(path / "checkpoint.pt", weights_only=True)
    momenta = {f"{i}.{name}": value for i, values in state["optimizer"]["state"].items()
               for name, value in values.items()}  # fmt: skip
    average = {f"average.{name}": value for name, value in state["average"].items()}
    return {**state["weights"], **average, **momenta}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_it_learns_and_writes_only_what_is_trained(tmp_path: Path) -> None:
    net = train(task(), replace(RECIPE, steps=400), tmp_path, device=CPU, sheet_every=200)
    assert isinstance(net, Line)
    # dropout shrinks the best weights to 0.8 of the true ones
    torch.testing.assert_close(net.weight.detach(), torch.tensor([0.8, -1.6, 0.4]),
                               atol=0.25, rtol=0)  # fmt: skip
    assert float(net.frozen) == 1
    written = load_file(tmp_path / "w.safetensors")
    assert written.keys() == {"weight", "bias"}
    assert torch.equal(written["weight"], net.weight)  # the average, which train returns
    assert not net.training
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == 400
    assert rows[-1]["loss"] < rows[0]["loss"] / 2
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.getextrema() == ((0, 0),) * 3  # drawn in eval mode


def test_a_run_that_was_cut_ends_as_one_that_was_not(tmp_path: Path) -> None:
    whole = train(task(), RECIPE, tmp_path / "whole", device=CPU)
    with pytest.raises(KeyboardInterrupt):
        train(cut(after=7), RECIPE, tmp_path / "cut", device=CPU, sheet_every=1)
    torch.manual_seed(77)  # whatever happened before does not matter
    resumed = train(task(), RECIPE, tmp_path / "cut", device=CPU, resume=True)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters()))


def cut(after: int) -> Task:
    """A task whose user loses patience."""
    plain, calls = task(), []

    def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        calls.append(n)
        if len(calls) > after:
            raise KeyboardInterrupt
        return plain.loss(net, n, generator)

    return replace(plain, loss=loss)


def test_another_seed_is_another_run_and_the_outside_is_left_alone(tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    train(task(), RECIPE, tmp_path / "a", device=CPU)
    assert torch.equal(torch.random.get_rng_state(), before)
    train(task(), replace(RECIPE, seed=1), tmp_path / "b", device=CPU)
    assert not same(weights(tmp_path / "a"), weights(tmp_path / "b"))


def test_two_batches_a_step_are_one_of_their_mean(tmp_path: Path) -> None:
    # without momentum's memory: one step from the same weights, by the mean of two gradients
    seen: list[Tensor] = []

    class Plain(Line):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return x @ self.weight + self.bias + self.frozen

    net = train(task(Plain()), replace(RECIPE, steps=1, accumulate=2, warmup=0), tmp_path,
                device=CPU)  # fmt: skip
    assert len(seen) == 2
    assert not torch.equal(*seen)
    other = Plain()
    x = torch.cat(seen[:2])
    (other(x) - (x @ torch.tensor([1.0, -2.0, 0.5]) + 2)).square().mean().backward()
    optimizer = torch.optim.AdamW(trainable(other).values(), lr=0.05, weight_decay=0.01)
    nn.utils.clip_grad_norm_(other.parameters(), 1.0)
    optimizer.step()
    # the average after one step: 0.1 of the start, which is 0
    torch.testing.assert_close(net.weight.detach(), other.weight.detach() * 0.9)


def test_half_precision_computes_in_it_and_keeps_the_weights_whole(tmp_path: Path) -> None:
    seen: list[torch.dtype] = []

    class Told(Line):
        def forward(self, x: Tensor) -> Tensor:
            out = super().forward(x)
            seen.append((x @ self.weight).dtype)
            return out

    for precision, dtype in (("no", torch.float32), ("bf16", torch.bfloat16)):
        recipe = replace(RECIPE, precision=precision, steps=1)
        net = train(task(Told()), recipe, tmp_path / precision, device=CPU)
        assert seen.pop() == dtype
        assert all(p.dtype == torch.float32 for p in net.parameters())


def test_the_rate_rises_holds_and_falls() -> None:
    recipe = Recipe(steps=100, batch=1, lr=1.0, warmup=10, cooldown=0.5)
    assert [recipe.rate(step) for step in (0, 9, 50, 75)] == pytest.approx([0.1, 1, 1, 0.5])
    assert recipe.rate(99) == pytest.approx(0.02)
    assert Recipe(steps=100, batch=1, lr=1.0, warmup=0).rate(99) == 1


def raised(act: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        act()
    return str(error.value)


def test_what_cannot_be_resumed_is_refused(tmp_path: Path) -> None:
    used, empty = tmp_path / "used", tmp_path / "empty"
    train(task(data="a"), RECIPE, used, device=CPU)
    text = raised(lambda: train(task(data="a"), RECIPE, used, device=CPU))
    assert text == f"{used} holds a training already; go on with --resume, or choose another"
    text = raised(lambda: train(task(data="a"), RECIPE, empty, device=CPU, resume=True))
    assert text.startswith(f"{empty} holds no training to resume")
    assert not empty.exists()
    other = replace(RECIPE, lr=0.1, steps=20)
    text = raised(lambda: train(task(data="b"), other, used, device=CPU, resume=True))
    assert "other settings: data was 'a' and is 'b'; lr was 0.05 and is 0.1. Resume" in text
    # more steps are no other settings
    train(task(data="a"), replace(RECIPE, steps=20), used, device=CPU, resume=True)
    assert torch.load(used / "checkpoint.pt", weights_only=True)["step"] == 20
    (used / "checkpoint.pt").write_bytes(b"nonsense")
    text = raised(lambda: train(task(data="a"), RECIPE, used, device=CPU, resume=True))
    assert "checkpoint.pt cannot be continued from" in text


def test_a_loss_that_is_no_number_stops_at_once(tmp_path: Path) -> None:
    broken = replace(task(), loss=lambda net, n, generator: net.bias.sum() * float("nan"))
    text = raised(lambda: train(broken, RECIPE, tmp_path, device=CPU))
    assert "the loss of step 1 is nan; lower --lr (now 0.05)" in text


@pytest.mark.parametrize(("change", "message"), [
    ({"steps": 0}, "steps must be at least 1, got 0"), ({"batch": -1}, "batch must be at least 1"),
    ({"lr": 0.0}, "lr must be above 0, got 0.0"), ({"lr": float("nan")}, "lr must be above 0"),
])  # fmt: skip
def test_recipes_that_cannot_train_are_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(RECIPE, **change)


# ---------------------------------------------------------------- the loss


class Exact:
    """A backbone whose noise is x itself; remembers what it was asked."""

    alphas_cumprod = torch.linspace(0.999, 0.005, 1000)

    def predict_noise(self, x: Tensor, t: Tensor, condition: Condition) -> Tensor:
        self.x, self.t = x, t
        return x


@pytest.mark.parametrize("debias", [False, True])
def test_the_loss_is_ddpms(debias: bool) -> None:
    backbone, z = Exact(), torch.randn(6, 4, 8, 8)
    condition = Condition(torch.zeros(6, 3, 5))
    loss = denoising_loss(backbone, z, condition, torch.Generator().manual_seed(3), debias=debias)
    alpha, sigma = alpha_sigma(backbone.alphas_cumprod, backbone.t)
    noise = (backbone.x - alpha * z) / sigma  # what must have been added
    assert abs(float(noise.std()) - 1) < 0.05
    weight = sigma / alpha if debias else 1.0
    torch.testing.assert_close(loss, (weight * (backbone.x - noise) ** 2).mean(), rtol=1e-4, atol=0)
    # one timestep in each sixth of the schedule
    assert sorted((backbone.t * 6 // 1000).tolist()) == [0, 1, 2, 3, 4, 5]


def test_a_share_of_the_conditions_is_left_out() -> None:
    drop = chosen(20_000, 0.3, torch.Generator().manual_seed(0))
    assert abs(float(drop.float().mean()) - 0.3) < 0.015
    full = Condition(torch.ones(4, 3, 5), pooled=torch.ones(4, 2))
    empty = Condition(torch.zeros(1, 3, 5), pooled=torch.zeros(1, 2))
    kept = without_text(full, empty, torch.tensor([True, False, False, True]))
    assert kept.tokens.mean((1, 2)).tolist() == [0, 1, 1, 0]
    assert kept.pooled is not None
    assert kept.pooled.mean(1).tolist() == [0, 1, 1, 0]
