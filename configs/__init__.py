"""The presets, as YAML: only what differs from the defaults in threed/settings/."""
