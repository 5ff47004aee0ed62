"""The loop that every system trains in: what it learns, writes, resumes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tests.tiny import tiny_folder
from threed.core.errors import InputError
from threed.diffusion.catalog import load_backbone
from threed.diffusion.condition import Condition
from threed.learning.loop import Task, train, train_stages, trainable
from threed.learning.losses import denoising_loss
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
    assert "checkpoint.pt is damaged, or holds more than weights" in text
    torch.save({"weights": {}, "average": {}, "optimizer": {}, "step": 1}, used / "checkpoint.pt")
    text = raised(lambda: train(task(data="a"), RECIPE, used, device=CPU, resume=True))
    assert "checkpoint.pt cannot be continued from: it is of another net" in text


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


# ---------------------------------------------------------------- the seams


def test_groups_of_parameters_have_rates_of_their_own(tmp_path: Path) -> None:
    for muon in (False, True):
        recipe = replace(RECIPE, steps=1, warmup=0, ema=0.0, weight_decay=0.0, muon=muon)
        slow = replace(task(), rates={"bias": 0.1, "weight": 2.0})
        net = train(slow, recipe, tmp_path / str(muon), device=CPU)
        assert isinstance(net, Line)
        # Adam's first step is the rate, whatever the gradient's size
        torch.testing.assert_close(net.weight.detach().abs(), torch.full((3,), 0.1))
        torch.testing.assert_close(net.bias.detach().abs(), torch.full((1,), 0.005))
    other = replace(slow, rates={"bias": 0.2})
    text = raised(lambda: train(other, recipe, tmp_path / "True", device=CPU, resume=True))
    assert "rates was {'bias': 0.1, 'weight': 2.0} and is {'bias': 0.2}" in text
    with pytest.raises(ValueError, match="no parameter that is trained begins with words"):
        train(replace(slow, rates={"words": 0.1}), recipe, tmp_path / "no", device=CPU)


def counted(after: int | None = None) -> Task:
    """A task that uses every seam: rates, batches made ahead, weights put right after a step."""
    plain, calls = task(), []

    def batch(n: int, generator: torch.Generator) -> dict[str, Any]:
        return {"x": torch.randn(n, 3, generator=generator), "n": n}

    def loss(net: nn.Module, batch: dict[str, Any], generator: torch.Generator) -> Tensor:
        calls.append(batch["n"])
        if after is not None and len(calls) > after:
            raise KeyboardInterrupt
        aim = batch["x"] @ torch.tensor([1.0, -2.0, 0.5]) + torch.rand((), generator=generator)
        return (net(batch["x"]) - aim).square().mean()

    def keep(net: nn.Module) -> None:
        assert isinstance(net, Line)
        net.weight[0] = 0.25

    return replace(plain, loss=loss, rates={"bias": 0.1}, after_step=keep, batch=batch)


def test_a_run_that_uses_every_seam_resumes_to_the_bit(tmp_path: Path) -> None:
    recipe = replace(RECIPE, accumulate=2, muon=True)
    train(counted(), recipe, tmp_path / "whole", device=CPU)
    with pytest.raises(KeyboardInterrupt):
        train(counted(after=13), recipe, tmp_path / "cut", device=CPU, sheet_every=1)
    assert torch.load(tmp_path / "cut/checkpoint.pt", weights_only=True)["step"] == 6
    train(counted(), recipe, tmp_path / "cut", device=CPU, resume=True)
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert float(weights(tmp_path / "whole")["weight"][0]) == 0.25


def test_a_batch_norms_statistics_are_averaged_and_resumed_with_its_weights(
    tmp_path: Path,
) -> None:
    """What a stage begins with is made before its first step, and never again."""
    began = []

    def normed() -> Task:
        net = Line()
        net.norm = nn.BatchNorm1d(3)
        fitted = task(net)

        def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
            seen: Any = net
            x = torch.randn(n, 3, generator=generator) + 4
            return fitted.loss(net, n, generator) + seen.norm(x).square().mean()

        return replace(fitted, loss=loss, start=lambda: began.append(net.weight.tolist()[0]))

    whole: Any = train(normed(), RECIPE, tmp_path / "whole", device=CPU)
    train(normed(), replace(RECIPE, steps=4), tmp_path / "cut", device=CPU)
    cut: Any = train(normed(), RECIPE, tmp_path / "cut", device=CPU, resume=True)
    assert began == [0.0, 0.0]
    assert same(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    live = weights(tmp_path / "whole")
    for name in ("norm.running_mean", "norm.running_var"):
        assert torch.equal(cut.get_buffer(name), whole.get_buffer(name))
        assert torch.equal(whole.get_buffer(name), live[f"average.{name}"])
        assert not torch.equal(live[name], live[f"average.{name}"])


def test_settings_from_before_a_recipe_could_say_more_are_resumed(tmp_path: Path) -> None:
    train(task(), RECIPE, tmp_path, device=CPU)
    path = tmp_path / "settings.json"
    settings = json.loads(path.read_text())
    assert settings.pop("beta2") == 0.999
    path.write_text(json.dumps(settings))
    text = raised(lambda: train(task(), replace(RECIPE, beta2=0.9), tmp_path, device=CPU,
                                resume=True))  # fmt: skip
    assert "beta2 was 0.999 and is 0.9" in text
    train(task(), replace(RECIPE, steps=14), tmp_path, device=CPU, resume=True)


def test_a_new_word_is_learned_and_the_others_stay(tmp_path: Path) -> None:
    # Textual Inversion (arXiv:2208.01618): two rows of the token table, the text encoder around
    # them frozen. AdamW's decay moves every row of a table, so the others are put back; the new
    # ones keep the length of the word that they began as (Lee et al. 2024, DCO).
    backbone: Any = load_backbone(str(tiny_folder(tmp_path / "model")), device="cpu")
    encoder = backbone.encoders[0]
    table = encoder.get_input_embeddings().weight.requires_grad_()
    rows = list(range(len(table) - 2, len(table)))
    start = table.detach().clone()
    length = start[:2].norm(dim=-1, keepdim=True)
    ids = torch.tensor([[0, *rows, 1, 1]])
    latents = torch.randn(1, 4, 8, 8)

    def loss(net: nn.Module, n: int, generator: torch.Generator) -> Tensor:
        condition = Condition(net(ids.expand(n, -1))[0])
        return denoising_loss(backbone, latents.expand(n, -1, -1, -1), condition, generator)

    def put_right(net: nn.Module) -> None:
        kept = table[rows]
        table.copy_(start)
        table[rows] = kept / kept.norm(dim=-1, keepdim=True) * length

    word = Task(encoder, loss, lambda net, folder: None, {"system": "word"}, after_step=put_right)
    recipe = Recipe(steps=6, batch=2, lr=0.1, warmup=1, weight_decay=0.5, ema=0.0)
    train(word, recipe, tmp_path / "out", device=CPU)
    others = torch.arange(len(table) - 2)
    assert torch.equal(table[others], start[others])
    assert not torch.isclose(table[rows], start[rows]).any()
    torch.testing.assert_close(table[rows].norm(dim=-1, keepdim=True), length)


def test_a_stage_takes_its_share_of_the_steps(tmp_path: Path) -> None:
    whole = replace(task(), first=(replace(task(stage="short"), share=0.25),))
    train_stages(whole, RECIPE, tmp_path, device=CPU)
    found = [json.loads((place / "settings.json").read_text())["steps"]
             for place in (tmp_path / "short", tmp_path)]  # fmt: skip
    assert found == [3, 12]
