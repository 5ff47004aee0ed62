"""A frozen diffusion model seen from outside: conditions in, a noise estimate out."""
