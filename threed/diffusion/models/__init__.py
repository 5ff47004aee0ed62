"""Published diffusion models as backbones."""
