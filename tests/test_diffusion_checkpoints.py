"""Checkpoints are read for their tensors; nothing in them is executed."""

from __future__ import annotations

import pickle
import sys
import warnings
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.core.saved import Inert
from threed.diffusion.models.convert import averaged, read_state

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2).half()}


class Trap:
    """An object whose unpickling would call a function; `torch.save` writes it as it is."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.function, self.args, self.state = function, args, state

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.function, self.args)
        return parts if self.state is None else (*parts, self.state)


def is_read(path: Path) -> bool:
    """Whether the weights come out; else the file is refused with the sentence for that."""
    try:
        state = read_state(path)
    except InputError as error:
        if "is damaged, or holds more than weights; nothing in it was executed" in str(error):
            return False
        raise
    assert list(state) == list(WEIGHTS)
    assert all(torch.equal(state[name], value) for name, value in WEIGHTS.items())
    return True


@pytest.fixture
def lightning(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A class that pickles as Lightning's, and is gone when the file is read."""
    module: Any = ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    return module.ModelCheckpoint


def test_a_file_of_lightnings_with_classes_is_read(lightning: Any, tmp_path: Path) -> None:
    callback = lightning()
    callback.best = torch.tensor(0.5)
    torch.save({"epoch": 3, "state_dict": OrderedDict(WEIGHTS), "callbacks": {lightning: {"n": 1}},
                "hyper_parameters": [callback, {"x": callback}]}, tmp_path / "l.ckpt")  # fmt: skip
    for name in [name for name in sys.modules if name.startswith("pytorch_lightning")]:
        del sys.modules[name]
    assert is_read(tmp_path / "l.ckpt")
    assert not [name for name in sys.modules if name.startswith("pytorch_lightning")]


def traps(mark: Path) -> dict[str, Any]:
    """What writes a file, or says that it was called, if anything in a checkpoint is executed."""
    import os
    import subprocess
    from importlib import import_module

    code = f"open({str(mark)!r}, 'w').close()"
    return {
        "exec": Trap(exec, code),
        "eval": Trap(eval, code),
        "shell": Trap(os.system, f"touch {mark}"),
        "process": Trap(subprocess.Popen, ["touch", str(mark)]),
        "method": Trap(Path.touch, mark),
        "import": Trap(import_module, "antigravity"),
        "getattr": Trap(getattr, Trap(import_module, "os"), "system"),
        "state": Trap(Path, state={"__class__": Trap(eval, code), "__call__": Trap(eval, code)}),
        "slots": Trap(Path, state=(None, {"__init__": Trap(eval, code)})),
        "nested": [Trap(map, Trap(exec, code), [1]), {"x": {1: Trap(eval, code)}}],
    }


@pytest.mark.parametrize("trap", traps(Path("x")))
@pytest.mark.parametrize("beside", [True, False], ids=["beside", "among"])
def test_nothing_in_a_malicious_file_runs(tmp_path: Path, trap: str, beside: bool) -> None:
    mark = tmp_path / "mark"
    what = traps(mark)[trap]
    told = {"callbacks": what} if beside else {}
    state = WEIGHTS if beside else {**WEIGHTS, "z": what}
    torch.save({"state_dict": state, **told}, tmp_path / "m.ckpt")
    before, members = set(sys.modules), set(vars(Inert))
    # torch does not let `os` be named, nor what was made by a call be called
    assert is_read(tmp_path / "m.ckpt") is (trap not in ("shell", "method"))
    assert not mark.exists()
    assert "antigravity" not in set(sys.modules) - before
    assert vars(Inert()) == {}
    assert set(vars(Inert)) == members
    if trap not in ("shell", "process", "import", "getattr"):
        with suppress(Exception):
            pickle.loads(pickle.dumps(what))
        assert mark.exists(), "the trap is one"


def test_other_pickles_are_refused(tmp_path: Path) -> None:
    """A file of no zip, as `torch.save` wrote long ago or `pickle` does, may hold tensors only."""
    mark = tmp_path / "mark"
    what = {"a": traps(mark)["exec"]}
    (tmp_path / "p.pt").write_bytes(pickle.dumps(what))
    torch.save(what, tmp_path / "old.pt",
               _use_new_zipfile_serialization=False)  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("p.pt", "old.pt"):
            with pytest.raises(InputError, match="holds more than weights; nothing in it was exec"):
                read_state(tmp_path / name)
    assert not mark.exists()
    torch.save(WEIGHTS, tmp_path / "plain.pt", _use_new_zipfile_serialization=False)
    assert is_read(tmp_path / "plain.pt")


def test_averaged_weights_are_found_by_their_names_without_dots() -> None:
    names = ["model.diffusion_model.out.2.bias", "model.diffusion_model.out.2.weight"]
    raw: dict[str, Tensor] = {name: torch.zeros(1) for name in names}
    ema = {"model_ema.diffusion_modelout2bias": torch.ones(1)}
    other = {"first_stage_model.x": torch.ones(1)}
    found = averaged({**raw, **ema, **other})
    assert {name: float(value) for name, value in found.items()} == {"out.2.bias": 1,
                                                                     "out.2.weight": 0}  # fmt: skip
