"""A critic: what the noise would be if the renders of the scene were all the pictures there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn

from guidance.distill import draw_noise
from guidance.prompts import Prompts
from threed.core.cameras import Cameras
from threed.diffusion.models.stable_diffusion import StableDiffusion
from threed.diffusion.noise import diffuse
from threed.diffusion.parts.adapters import Lora
from threed.diffusion.parts.hooks import hooked


class Critic(Protocol):
    """The score of a scene's renders, learned while the scene changes."""

    def noise(self, x: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        """Its estimate of the noise in x [B, C, h, w] at levels t [B], seen by B cameras."""
        ...

    def learn(
        self, z: Tensor, t: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> Tensor:
        """Take one step on latents z [B, C, h, w] with fresh noise at t [B]; the loss before it."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that it has learned, optimizer included."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state_dict, exactly."""
        ...


class LoraCritic:
    """The frozen model itself with a LoRA and a camera, as in ProlificDreamer (arXiv:2305.16213).

    It is told the prompt without view words; the camera, its c2w with the distance, goes through a
    small net into the time embedding, besides to a multi-view model the way it knows. The net's
    last layer begins as 0 (not so in the published code), so that the critic begins as the frozen
    model exactly. Several scenes may share one (particles): it learns from whatever it is shown.
    """

    def __init__(
        self,
        prompts: Prompts,
        backbone: StableDiffusion,
        *,
        rank: int,
        learning_rate: float,
        warmup: int,
        dropout: float,
        seed: int,
    ) -> None:
        """Prompts of the backbone; steps of warm-up from 0; the share of groups without camera."""
        self.prompts, self.backbone = prompts, backbone
        self.learning_rate, self.warmup, self.dropout = learning_rate, warmup, dropout
        self.lora = Lora(backbone.unet, "critic", rank=rank, seed=seed)
        width = backbone.unet.time_embedding.linear_2.out_features
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.camera = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        for parameter in self.camera[2].parameters():
            nn.init.zeros_(parameter)
        self.camera.to(backbone.device)
        self.optimizer = torch.optim.AdamW(self._parameters(), lr=learning_rate)

    def noise(self, x: Tensor, t: Tensor, cameras: Cameras) -> Tensor:
        """Its estimate of the noise in x [B, C, h, w] at levels t [B], seen by B cameras."""
        with torch.no_grad():
            return self._noise(x, t, cameras, cameras.c2w.flatten(1).to(self.backbone.device))

    def learn(
        self, z: Tensor, t: Tensor, cameras: Cameras, step: int, generator: Generator
    ) -> Tensor:
        """Take one step on latents z [B, C, h, w] with fresh noise at t [B]; the loss before it.

        The loss is the squared error of what the model predicts, noise or v, summed over the
        latents, a mean over the batch.
        """
        backbone = self.backbone
        seen = diffuse(z, t, draw_noise(z, generator), backbone.alphas_cumprod)
        kept = torch.rand(len(z) // backbone.views, 1, generator=generator) >= self.dropout
        kept = kept.repeat_interleave(backbone.views, 0).to(z)
        vector = cameras.c2w.flatten(1).to(backbone.device) * kept
        with torch.enable_grad():
            error = self._noise(seen.x, seen.t, cameras, vector) - seen.noise
            if backbone.prediction == "v_prediction":
                error = error / seen.alpha  # noise = alpha v + sigma x: errors differ by alpha
            loss = error.square().sum() / len(z)
            gradients = torch.autograd.grad(loss, self._parameters())
        for parameter, gradient in zip(self._parameters(), gradients, strict=True):
            parameter.grad = gradient
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * min(1.0, (step + 1) / (self.warmup + 1))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """The LoRA, the camera's net and the optimizer."""
        lora = {key: value.detach() for key, value in self.lora.parameters.items()}
        return {"lora": lora, "camera": self.camera.state_dict(),
                "optimizer": self.optimizer.state_dict()}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state_dict, exactly."""
        with torch.no_grad():
            for key, parameter in self.lora.parameters.items():
                parameter.copy_(state["lora"][key])
        self.camera.load_state_dict(state["camera"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _noise(self, x: Tensor, t: Tensor, cameras: Cameras, vector: Tensor) -> Tensor:
        condition = self.prompts.bare(cameras)
        condition = replace(condition, adapters={**condition.adapters, self.lora.name: 1.0})
        told, embedding = self.camera(vector), self.backbone.unet.time_embedding
        add = embedding.register_forward_hook(lambda _, __, output: output + told.to(output.dtype))
        with hooked([add]):
            return self.backbone.predict_noise(x, t, condition)

    def _parameters(self) -> list[nn.Parameter]:
        return [*self.lora.parameters.values(), *self.camera.parameters()]
