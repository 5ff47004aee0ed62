"""Differentiable rendering: volumes, meshes, and the kernels below both."""
