"""A frozen diffusion model seen from outside: conditions, scores, samplers."""
