"""What the files of a backbone say of it: JSON and headers alone, so nothing heavy is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from threed.core.errors import InputError
from threed.diffusion.files import check_folder, count_numbers, parts, read_json
from threed.diffusion.reading import Vocabulary

UNET, TRANSFORMER = "UNet2DConditionModel", "SD3Transformer2DModel"
# what diffusers takes where a config.json leaves it out
DEFAULTS: dict[str, dict[str, Any]] = {
    UNET: {"sample_size": 64, "layers_per_block": 2, "block_out_channels": (320, 640, 1280, 1280)},
    TRANSFORMER: {"sample_size": 128, "patch_size": 2, "num_attention_heads": 18,
                  "attention_head_dim": 64},
    "AutoencoderKL": {"layers_per_block": 1, "block_out_channels": (64,), "latent_channels": 4},
}  # fmt: skip
# what decides the noise levels of a model that was trained to predict noise or v
NOISE = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02,
         "beta_schedule": "linear", "trained_betas": None,
         "rescale_betas_zero_snr": False}  # fmt: skip


@dataclass(frozen=True)
class Net:
    """One net of a backbone, as it will be when it is loaded."""

    part: str  # its subfolder
    config: Mapping[str, Any]  # its config.json, with the defaults that it leaves out
    numbers: int  # of its parameters and buffers
    width: int  # bytes of each

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return self.numbers * self.width


@dataclass(frozen=True)
class Facts:
    """What can be known of a backbone before it is loaded."""

    name: str
    folder: Path  # in diffusers' layout
    denoiser: Literal["unet", "transformer"]
    views: int  # pictures that it predicts together: 1, or 4
    image_size: int  # pixels a side that it was trained at
    factor: int  # pixels per latent, along an edge
    latent_channels: int
    prediction: str  # "epsilon", "v_prediction", or "flow"
    noise: Mapping[str, Any]  # the settings that decide its noise levels
    net: Net  # the denoiser
    vae: Net
    encoders: tuple[Net, ...]  # of text

    @property
    def bytes(self) -> int:
        """What all its nets take in memory."""
        return sum(net.bytes for net in (self.net, self.vae, *self.encoders))

    def require_unet(self, what: str) -> None:
        """InputError, which says what needs it, if the denoiser is not a UNet."""
        if self.denoiser != "unet":
            raise InputError(f"{what} needs a backbone with a UNet, and {self.name!r} has a "
                             "transformer: use --backbone toybox, sd15, sd21 or sdxl")  # fmt: skip

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The words that it was shown, if it says which."""
        return Vocabulary.of(self.folder)

    @property
    def place(self) -> Path:
        """Where its denoiser lies: two backbones of one place are the same."""
        return self.folder.resolve() / self.net.part


def read_facts(name: str, folder: Path, unet: str = "unet", *, half: bool = False) -> Facts:
    """Read what a folder in diffusers' layout says; `unet` is the subfolder of its UNet.

    half: its nets will be loaded in 16 bits a number. InputError if a part is missing or cut short,
    or if its denoiser is of a kind that is not known.
    """
    check_folder(folder, unet, half=half)
    *texts, _, part, _ = parts(folder, unet)
    encoders = [text for text in texts if text.startswith("text_encoder")]
    denoiser: Literal["unet", "transformer"] = "transformer" if part == "transformer" else "unet"
    wide = denoiser == "unet" and "text_encoder_2" in encoders  # SDXL's VAE overflows in float16
    width = 2 if half else 4
    net = _read_net(folder / part, UNET if denoiser == "unet" else TRANSFORMER, width)
    vae = _read_net(folder / "vae", "AutoencoderKL", 4 if wide else width)
    if denoiser == "transformer" and net.config.get("_class_name") != TRANSFORMER:
        raise InputError(f"backbone {name!r} has a {net.config.get('_class_name')}; of "
                         "transformers, Stable Diffusion 3 and 3.5 are known")  # fmt: skip
    stored = read_json(folder / "scheduler" / "scheduler_config.json")
    prediction, noise = _read_schedule(stored, denoiser)
    factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
    return Facts(
        name=name, folder=folder, denoiser=denoiser, factor=factor,
        views=4 if net.config.get("class_embed_type") == "projection" else 1,
        image_size=net.config["sample_size"] * factor,
        latent_channels=vae.config["latent_channels"], prediction=prediction, noise=noise,
        net=net, vae=vae, encoders=tuple(_read_net(folder / text, "", width) for text in encoders),
    )  # fmt: skip


def _read_net(folder: Path, kind: str, width: int) -> Net:
    config = read_json(folder / "config.json")
    known = DEFAULTS.get(kind, {})
    filled = known | {name: value for name, value in config.items()
                      if value is not None or name not in known}  # fmt: skip
    return Net(folder.name, filled, count_numbers(folder, half=width == 2), width)


def _read_schedule(stored: Mapping[str, Any], denoiser: str) -> tuple[str, Mapping[str, Any]]:
    """What a model predicts, and what decides its noise levels."""
    if denoiser == "transformer":
        return "flow", {"shift": float(stored.get("shift", 1.0))}
    noise = {name: stored.get(name, usual) for name, usual in NOISE.items()}
    return stored.get("prediction_type", "epsilon"), noise
