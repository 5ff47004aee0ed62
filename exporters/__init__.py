"""What becomes of a mesh: clean-up, unwrapping, baking, writing, looking, reporting."""
