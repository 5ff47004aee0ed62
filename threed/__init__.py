"""threed: text to 3D assets, and the image systems that guide them.

Importing this package loads neither torch nor diffusers; the names of the public API are
looked up when first used.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "generate": "threed.runs.generate",
    "texture": "threed.runs.generate",
    "edit3d": "threed.runs.generate",
    "resume": "threed.runs.generate",
    "image": "threed.runs.image",
    "train": "threed.runs.train",
    "Job": "threed.runs.job",
    "read_job": "threed.runs.jobs",
    "do": "threed.runs.do",
    "Asset": "threed.runs.asset",
    "Run": "threed.settings.run",
    "load_run": "threed.settings.presets",
    "load_backbone": "threed.diffusion.catalog",
    "Cameras": "threed.core.cameras",
    "Mesh": "threed.core.mesh",
    "InputError": "threed.core.errors",
}
__all__ = ["__version__", *_PUBLIC]


def check_siblings(root: Path) -> None:
    """Raise ImportError if a top-level package of ours is shadowed by another distribution.

    root is the folder that holds threed/. The packages are looked up, never imported.
    """
    for name in ("guidance", "renderers", "exporters", "configs"):
        spec = find_spec(name)
        origin = spec.origin if spec else None
        found = Path(origin).resolve().parent if origin else None
        if found != (root / name).resolve():
            raise ImportError(
                f"threed needs its own package '{name}' at {root / name}, but Python found "
                f"{found or 'nothing'}. If another distribution of that name is installed, remove "
                f"it (pip uninstall {name}) or give threed an environment of its own."
            )


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'threed' has no attribute '{name}'")
    return getattr(import_module(_PUBLIC[name]), name)


check_siblings(Path(__file__).resolve().parent.parent)
