"""What a diffusion step can be told: attention, adapters, channels, nets beside the UNet."""
