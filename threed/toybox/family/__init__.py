"""The small diffusion family: its nets, and how they are trained."""
