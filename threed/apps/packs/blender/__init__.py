"""Blender's extension: a panel that has assets made, painted and changed by `threed serve`."""


def register() -> None:
    """Begin; only here is Blender needed."""
    from threed.apps.packs.blender import panel

    panel.register()


def unregister() -> None:
    """End, and leave nothing."""
    from threed.apps.packs.blender import panel

    panel.unregister()
