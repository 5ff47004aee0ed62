"""The procedural world: toys, figures, scenes, their pictures and captions."""
