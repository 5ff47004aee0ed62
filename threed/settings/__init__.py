"""What decides a run, as data: types, ranges, defaults, presets."""
