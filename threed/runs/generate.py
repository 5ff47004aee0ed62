"""Make, paint or change an asset: what a face calls.

Settings are judged first, by `threed.runs.check`; torch is imported only when they hold.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from threed.core.errors import InputError
from threed.core.files import default_folder
from threed.core.words import check_prompt
from threed.runs.check import check_run
from threed.runs.folder import RunFolder, refuse_used
from threed.runs.plan import MemoryPlan, plan_run
from threed.runs.progress import Listener
from threed.runs.start import Start, Up, for_mesh, shaped
from threed.settings.base import replace
from threed.settings.presets import load_run, preset_for
from threed.settings.run import DEFAULT_BACKBONE, Run, SystemSettings

if TYPE_CHECKING:
    from guidance.edits import Edit
    from threed.runs.asset import Asset


def generate(
    prompt: str,
    run: Run | None = None,
    *,
    init: Path | str | None = None,
    up: Up | None = None,
    front: float = 0.0,
    preview: bool = False,
    out: Path | str | None = None,
    progress: Listener | None = None,
) -> Asset:
    """Make an asset of a prompt; all files are in `asset.folder` (default outputs/<slug>-<time>).

    The run defaults to the default preset. `init` is a mesh file to begin with instead of a field:
    GLB, OBJ, PLY or STL, any scale, textured or not; `up` says its upward axis where that is not
    the one of its format, `front` where it faces (degrees, against the clock from above), and the
    asset stands where the mesh stood. With `preview`, four views that the backbone itself makes of
    the prompt are written to views.png before the first step. Interrupted by Ctrl-C it leaves a
    checkpoint, raises KeyboardInterrupt, and `resume` goes on. A RunWarning tells of an asset with
    several fronts. InputError for what the user can change; what is wrong with the settings is said
    before anything is loaded.
    """
    if init is None and (up is not None or front):
        raise InputError("up and front are of a mesh to begin with: name it as init, or leave them")
    start = None if init is None else Start(Path(init), up, front)
    if run is None:
        run = load_run() if start is None else load_run(preset_for(DEFAULT_BACKBONE, "refine"))
    return _make(prompt, run, start, preview=preview, out=out, progress=progress)


def texture(
    mesh: Path | str,
    prompt: str,
    run: Run | None = None,
    *,
    keep_uv: bool = False,
    up: Up | None = None,
    front: float = 0.0,
    out: Path | str | None = None,
    progress: Listener | None = None,
) -> Asset:
    """Paint a mesh file as a prompt says; its shape stays. Everything else is as in `generate`.

    With keep_uv the mesh, broken or not, keeps its texture coordinates, bit by bit, and the texture
    is baked into them; without, it is repaired, and gets new ones. The run defaults to the preset
    for textures.
    """
    run = run or load_run(preset_for(DEFAULT_BACKBONE, "texture"))
    if keep_uv:
        run = replace(run, textured=replace(run.textured, keep_uv=True))
    return _make(prompt, run, Start(Path(mesh), up, front), out=out, progress=progress)


def edit3d(
    mesh: Path | str,
    instruction: str,
    run: Run | None = None,
    *,
    edit: Edit | None = None,
    shape: bool = False,
    up: Up | None = None,
    out: Path | str | None = None,
    progress: Listener | None = None,
) -> Asset:
    """Change an asset's file as an instruction says: "make it blue". Files are as of `generate`.

    Its pictures are edited one after the other, and it follows them (Instruct-NeRF2NeRF); its
    colours alone, with `shape` its shape too. `edit` edits a picture, by default InstructPix2Pix,
    whose weights run.system names or come with the backbone. The run defaults to the preset for
    edits. InputError, among others, where there are no weights: it says how to train them.
    """
    run = run or load_run(preset_for("toybox", "edit"))
    if shape:
        run = replace(run, stages=tuple(map(shaped, run.stages)))
    return _make(instruction, run, Start(Path(mesh), up), edit=edit, out=out, progress=progress)


def resume(
    path: Path | str, *, edit: Edit | None = None, progress: Listener | None = None
) -> Asset:
    """Go on with the run in a folder from its last checkpoint.

    On a CPU the result is as if it had never been interrupted. `edit` is as in `edit3d`: a function
    is not kept in the folder.
    """
    folder = RunFolder.open(Path(path))
    from threed.runs.loop import finish, go_on

    return finish(go_on(folder, edit, progress))


def plan(run: Run | None = None, *, with_mesh: bool = False) -> MemoryPlan:
    """Say how much memory a run needs at most, by stage, and in what chunks it works; run nothing.

    with_mesh: the run begins with a mesh, and so without its fields.
    """
    run = run or load_run()
    return plan_run(for_mesh(run) if with_mesh else run)


def _make(
    prompt: str,
    run: Run,
    start: Start | None,
    *,
    edit: Edit | None = None,
    preview: bool = False,
    out: Path | str | None = None,
    progress: Listener | None = None,
) -> Asset:
    """Judge what is asked, then make the asset; the arguments are those of `generate`."""
    prompt = check_prompt(prompt)
    path = Path(out) if out is not None else default_folder(prompt)
    refuse_used(path)
    run = run if start is None else for_mesh(run)
    check_run(run, prompt, mesh=start is not None, editor=edit is not None)
    if run.system != SystemSettings():
        from threed.runs.steer import settled

        run = settled(run, prompt)
    from threed.runs.loop import begin, finish

    begun = begin(prompt, run, path, start, preview=preview, edit=edit, progress=progress)
    return finish(begun)
