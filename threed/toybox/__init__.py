"""A small procedural world with ground truth, and the diffusion family trained on it."""
