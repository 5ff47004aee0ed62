"""Writing packs: an extension for Blender, as a zip; nodes for ComfyUI, as a folder.

A pack stands alone: the client goes into it, and its files import each other from beside them.
"""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path

from threed.core.files import check_out, make_folder, write, write_together

HERE = Path(__file__).parent


def pack(name: str) -> dict[str, bytes]:
    """The files of a pack by their names: those of its folder here, and the client."""
    own = [path for path in sorted((HERE / name).iterdir()) if path.suffix in (".py", ".toml")]
    return {path.name: _alone(path, name) for path in (*own, HERE / "client.py")}


def _alone(path: Path, name: str) -> bytes:
    """A file's content, where it imports its neighbours from beside it."""
    ours = rf"^( *)from threed\.apps\.packs(?:\.{name})?\b\.?"
    return re.sub(ours, r"\1from .", path.read_text(encoding="utf-8"), flags=re.MULTILINE).encode()


def write_extension(path: Path) -> None:
    """Write Blender's extension as a zip, the same bytes every time. InputError for its place."""
    check_out(path, [".zip"])
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as file:
        for name, text in pack("blender").items():
            file.writestr(zipfile.ZipInfo(name), text, zipfile.ZIP_DEFLATED)
    write(path, content.getvalue())


def write_nodes(folder: Path) -> None:
    """Write ComfyUI's nodes in a folder. InputError for its place."""
    check_out(folder, folder=True)
    make_folder(folder)
    write_together({folder / name: text for name, text in pack("comfyui").items()})
