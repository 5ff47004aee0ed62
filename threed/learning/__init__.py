"""Training: one loop, its losses, data, weights and optimisers."""
