"""The values that travel between the packages. Nothing here imports the rest of threed."""
