"""Our multi-view UNet beside MVDream's own module, at the same random weights.

    git clone https://github.com/bytedance/MVDream     # 618f844 was compared
    pip install einops omegaconf                       # in an environment of its own
    python benchmarks/mvdream.py --source MVDream

Nothing of theirs is part of this project: the checkout is imported from where it is. The UNet has
SD 2.1's shape (four resolutions, attention at three) in narrow layers; four views, cameras told.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from threed.apps.cli.show import say
from threed.core.cameras import orbit
from threed.diffusion.models.convert import diffusers_name, unet_config
from threed.diffusion.models.multiview import camera_vector
from threed.diffusion.parts.attention import Views, install

CHANNELS, CONTEXT, HEAD, LAYERS, VIEWS = 32, 48, 8, 2, 4
MULTIPLES = (1, 2, 4, 4)


def official(source: Path, *, linear: bool) -> Any:
    """Their module with random weights, the ones that begin as zeros too."""
    sys.path.insert(0, str(source / "mvdream"))  # past its __init__, which needs much more
    module = importlib.import_module("ldm.modules.diffusionmodules.openaimodel")
    heads = {"num_head_channels": HEAD} if linear else {"num_heads": HEAD}
    net = module.MultiViewUNetModel(
        image_size=8, in_channels=4, out_channels=4, model_channels=CHANNELS,
        attention_resolutions=[4, 2, 1], num_res_blocks=LAYERS, channel_mult=list(MULTIPLES),
        use_spatial_transformer=True, use_linear_in_transformer=linear, transformer_depth=1,
        context_dim=CONTEXT, legacy=False, camera_dim=16, use_checkpoint=False, **heads,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for name, value in net.named_parameters():
        if value.dim() > 1:
            size = value[0].numel() ** -0.5
            value.data = size * torch.randn(value.shape, generator=generator)
        else:
            value.data = (1.0 if "weight" in name else 0.0) + 0.1 * torch.randn(
                value.shape, generator=generator
            )
    return net.eval()


def ours(theirs: Any, *, linear: bool) -> Any:
    """Our UNet with their weights, as `threed convert` makes it."""
    widths = tuple(CHANNELS * k for k in MULTIPLES)
    base = {
        "sample_size": 16, "block_out_channels": widths, "layers_per_block": LAYERS,
        "cross_attention_dim": CONTEXT, "use_linear_projection": linear,
        "attention_head_dim": tuple(w // HEAD for w in widths) if linear else HEAD,
    }  # fmt: skip
    state = theirs.state_dict()
    net = UNet2DConditionModel.from_config(unet_config(base, state))
    net.load_state_dict({diffusers_name(name, LAYERS): value for name, value in state.items()})
    install(net)
    return net.eval()


@torch.no_grad()
def difference(source: Path, *, linear: bool) -> tuple[float, float]:
    """The largest difference of their outputs, and the spread of these."""
    theirs = official(source, linear=linear)
    mine = ours(theirs, linear=linear)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2 * VIEWS, 4, 16, 16, generator=generator)
    t = torch.tensor([37] * VIEWS + [811] * VIEWS)
    text = torch.randn(2 * VIEWS, 77, CONTEXT, generator=generator)
    cameras = torch.cat([camera_vector(orbit(VIEWS, 32, start_deg=start)) for start in (0, 20)])
    expected = theirs(x, t, context=text, camera=cameras, num_frames=VIEWS)
    found = mine(x, t, text, class_labels=cameras,
                 cross_attention_kwargs={"edits": (Views(VIEWS),)}).sample  # fmt: skip
    return float((expected - found).abs().max()), float(expected.std())


def main() -> None:
    """Both bases' shapes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, required=True, help="a checkout of MVDream")
    source = parser.parse_args().source
    for base, linear in (("sd21-base", True), ("sd15", False)):
        largest, spread = difference(source, linear=linear)
        say(f"{base}: largest difference {largest:.1e}, of outputs that spread {spread:.2f}")


if __name__ == "__main__":
    main()
