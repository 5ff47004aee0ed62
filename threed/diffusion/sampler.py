"""One sampling loop over diffusers' schedulers, as a function of a Score."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from threed.core.errors import InputError
from threed.diffusion.progress import counted
from threed.diffusion.score import Score

SCHEDULERS = {
    "ddim": "DDIMScheduler", "euler": "EulerDiscreteScheduler",
    "euler-ancestral": "EulerAncestralDiscreteScheduler", "dpm++": "DPMSolverMultistepScheduler",
}  # fmt: skip


def make_scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """A diffusers scheduler of SCHEDULERS with a backbone's noise schedule.

    It is told to expect epsilon, which is what a Score returns whatever the model predicts.
    InputError for an unknown name.
    """
    import diffusers

    if name not in SCHEDULERS:
        raise InputError(f"there is no sampler {name!r}; there are {', '.join(SCHEDULERS)}")
    kind = getattr(diffusers, SCHEDULERS[name])
    known = inspect.signature(kind.__init__).parameters
    kept = {key: value for key, value in config.items() if key in known}
    # latents are not bounded, whatever a scheduler's default says
    fixed = {"prediction_type": "epsilon", "clip_sample": False}
    return kind.from_config(kept | {key: fixed[key] for key in fixed.keys() & known.keys()})


@torch.no_grad()
def sample(
    score: Score,
    scheduler: Any,
    noise: Tensor,
    *,
    steps: int,
    generator: torch.Generator | None = None,
    clean: Tensor | None = None,
    strength: float = 1.0,
) -> Tensor:
    """Latents [B, C, h, w] from standard normal noise [B, C, h, w] in `steps` calls of the score.

    The generator decides the chance in ancestral schedulers. With clean latents, these are only
    noised up to the share `strength` of the levels, and the last so many of the steps are taken
    (SDEdit, arXiv:2108.01073).
    """
    scheduler.set_timesteps(steps, device=noise.device)
    takes = inspect.signature(scheduler.step).parameters
    options = {"generator": generator} if "generator" in takes else {}
    timesteps = scheduler.timesteps
    if clean is None:
        x: Tensor = noise * scheduler.init_noise_sigma
    else:
        left_out = len(timesteps) - max(1, round(strength * steps))
        if hasattr(scheduler, "set_begin_index"):  # one that counts its steps
            scheduler.set_begin_index(left_out)
        timesteps = timesteps[left_out:]
        x = scheduler.add_noise(clean, noise, timesteps[:1].expand(len(clean)))
    with counted(scheduler.timesteps):
        for t in timesteps:
            estimate = score(scheduler.scale_model_input(x, t), t.expand(len(x)))
            x = scheduler.step(estimate, t, x, return_dict=False, **options)[0]
    return x
