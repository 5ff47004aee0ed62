"""What is wrong with a run, said from its settings and its models' files before anything is loaded.

Nothing here needs torch. What only a loaded model or a mesh can tell comes right after loading.
"""

from __future__ import annotations

from guidance.levels import check_falling
from threed.core.errors import InputError
from threed.core.profile import check_tools
from threed.core.words import find_phrase
from threed.diffusion.facts import Facts
from threed.diffusion.learned.names import spoken
from threed.diffusion.reading import PROMPT, check_known
from threed.runs.backbones import Backbones
from threed.runs.plan import plan_run
from threed.settings.run import Run, SystemSettings
from threed.settings.stage import WITH_CRITIC, Stage
from threed.systems.system import Request, System
from threed.systems.table import find_system


def check_run(
    run: Run, prompt: str | None = None, *, mesh: bool = False, editor: bool = False
) -> None:
    """InputError for the first thing that cannot work.

    prompt: what the run is to make, if that is known yet.
    mesh: the run begins with one, and its fields are left out already (`threed.runs.start`).
    editor: a function of the caller edits pictures for the guidance edit.
    """
    _check_beginning(run, mesh=mesh)
    _check_part(run, mesh=mesh)
    check_tools(run.asset.profile)
    models = Backbones(run)
    said = {} if prompt is None else all_prompts(run, prompt)
    for stage in run.stages:
        known, *others = models.known(stage)
        check_known(known.name, known.vocabulary, said)
        if run.part.word is not None and prompt is not None:
            known.require_unet("a part by a word")
            find_phrase(prompt if known.vocabulary is None else known.vocabulary.read(prompt),
                        run.part.word)  # fmt: skip
        if stage.guidance == "edit":
            _check_edit(run, stage, known, mesh=mesh, editor=editor)
        else:
            _check_guidance(stage, known)
            _check_lamp(run, stage)
            if stage.guidance == "denoise":
                _check_background(run, stage)
            _check_system(run, stage, known)
        if stage.guidance in WITH_CRITIC:
            _check_critic(stage, known, *others)
        if stage.guidance == "dreamflow":
            check_falling(stage.t_min, stage.t_max, stage.noise_levels, stage.steps)
    plan_run(run, models).check()
    if run.best_of > 1:
        _check_clip(models.known(run.stages[0])[0])


def _check_clip(known: Facts) -> None:
    """InputError unless there is a CLIP that can judge seeds; a backbone may bring its own."""
    if not (known.folder / "clip").is_dir():
        from threed.diffusion.parts.clip import find_clip

        find_clip(known.folder)


def _check_beginning(run: Run, *, mesh: bool) -> None:
    """InputError if the first scene cannot begin with a mesh, or without one."""
    kinds = {stage.scene for stage in run.stages}
    if run.surface.mesher == "flexicubes" and "surface" in kinds:
        from threed.scenes import flexicubes

        flexicubes.check()
    if not mesh and run.stages[0].scene == "textured":
        raise InputError("a textured stage paints a mesh: give one by --init, or use threed "
                         "texture")  # fmt: skip
    if mesh and run.textured.keep_uv and kinds != {"textured"}:
        raise InputError("texture coordinates can be kept only where the shape is: keep_uv needs "
                         "a run of textured stages")  # fmt: skip


def _check_part(run: Run, *, mesh: bool) -> None:
    """InputError if a part is to change, and the run has no mesh or makes all of it anew."""
    if not run.part.said:
        return
    if not mesh:
        raise InputError("part is of a mesh to begin with: give one by --init, or leave it out")
    if {stage.scene for stage in run.stages} != {"textured"}:
        raise InputError("a part of a mesh is painted anew, and a surface makes all of its shape: "
                         "use threed texture, or threed edit3d without --shape")  # fmt: skip
    if run.textured.gloss:
        raise InputError("gloss is learned of all of a mesh: leave textured.gloss out, or the part")


def _check_edit(run: Run, stage: Stage, known: Facts, *, mesh: bool, editor: bool) -> None:
    """InputError unless the pictures of a mesh can be edited."""
    if not mesh:
        raise InputError("guidance=edit changes an asset: use threed edit3d, or give one by --init")
    for name in ("random_background", "grey_background"):
        shares = getattr(stage, name)
        if any(share for _, share in shares.points):
            raise InputError(f"{name} must be 0 with guidance=edit, whose pictures are over "
                             f"white, got {shares.plain()}")  # fmt: skip
    if len({scale for _, scale in stage.guidance_scale.points}) > 1:
        raise InputError("guidance_scale must be one number with guidance=edit, which is told it "
                         f"once, got {stage.guidance_scale.plain()}")  # fmt: skip
    if not editor:
        known.require_unet("guidance=edit")
        if (told := run.system).name is not None:
            find_system(told.name).of_asset("", told.inputs, told.knobs)


def _check_guidance(stage: Stage, known: Facts) -> None:
    """InputError unless a model sees as many views as the guidance shows it."""
    many = known.views > 1
    if stage.guidance == ("sds" if many else "mvdream"):
        kind, right = ("multi-view", "mvdream") if many else ("single-view", "sds")
        raise InputError(f"the backbone {known.name!r} is {kind}, but guidance is "
                         f"{stage.guidance!r}: use guidance={right}, or its preset")  # fmt: skip
    for _, batch in stage.batch.points:
        if batch % known.views:
            raise InputError(f"batch must be a multiple of the {known.views} views of "
                             f"{known.name!r}, got {batch:g}")  # fmt: skip


def _check_background(run: Run, stage: Stage) -> None:
    """InputError for pictures that are kept, with a background or a light that changes."""
    grey = {share for _, share in stage.grey_background.points}
    if any(share for _, share in stage.random_background.points) or grey not in ({0}, {1}):
        raise InputError("guidance=denoise keeps pictures, so that they need one background: "
                         "random_background 0, and grey_background 0 or 1, got "
                         f"{stage.random_background.plain()} and "
                         f"{stage.grey_background.plain()}")  # fmt: skip
    if (shading := run.shading_of(stage)) > 0 and not stage.lamp.still:
        raise InputError("guidance=denoise keeps pictures, so that no lamp may change: with "
                         f"{stage.scene}.shading={shading:g} lamp.place must be even and lamp.soft "
                         "false; or set it to 0")  # fmt: skip


def _check_lamp(run: Run, stage: Stage) -> None:
    """InputError for gloss that nothing is to show."""
    if stage.scene == "textured" and run.textured.gloss and stage.lamp.place == "even":
        raise InputError("textured.gloss shows under a lamp that moves: lamp.place must be cone or "
                         "normal, got even. guidance=denoise takes no such lamp: use another "
                         "preset, such as texture")  # fmt: skip


def _check_system(run: Run, stage: Stage, known: Facts) -> None:
    """InputError if a run has a system, and the guidance or the model cannot follow it."""
    if run.system == SystemSettings():
        return
    if stage.guidance in ("csd", "nfsd"):
        raise InputError(f"guidance={stage.guidance} takes prompts apart and cannot follow a "
                         "system: use sds, ism, vsd or dreamflow")  # fmt: skip
    scene = stage.guidance != "edit"
    read_steering(run.system, "")[0].check_backbone(known, scene=scene)


def all_prompts(run: Run, prompt: str) -> dict[str, str]:
    """The prompts that a run gives its models to read, by what they are called.

    A system that edits the scene's own pictures is told nothing but the instruction. Learned words
    are read as what they began as, as a model without them reads them.
    """
    said, words = {PROMPT: prompt}, own_words(run, prompt)
    if run.system.name is not None and not _edits(run):
        system, request = read_steering(run.system, prompt)
        said |= system.prompts(request)
    return {what: spoken(text, words) for what, text in said.items()}


def own_words(run: Run, prompt: str = "") -> dict[str, str]:
    """The words that a run's system is told were learned, and what each began as."""
    if run.system.name is None or _edits(run):
        return {}
    system, request = read_steering(run.system, prompt)
    return system.own_words(request)


def _edits(run: Run) -> bool:
    return any(stage.guidance == "edit" for stage in run.stages)


def read_steering(said: SystemSettings, prompt: str) -> tuple[System, Request]:
    """Find the system of a run and what it is asked for.

    InputError where that is wrong, or for what is about one picture.
    """
    if said.name is None:
        told = f"--{next(iter(said.inputs))}" if said.inputs else "system.knobs"
        raise InputError(f"{told} is for a system: say which by system.name, or --system")
    system = find_system(said.name)
    request = system.request(prompt, said.inputs, said.knobs)
    for item in system.inputs:
        if item.kind.flat and item.name in request.inputs:
            raise InputError(f"system {system.name!r} with --{item.name} changes one picture, and "
                             "a scene has many: threed edit3d changes an asset")  # fmt: skip
    return system, request


def _check_critic(stage: Stage, known: Facts, other: Facts | None = None) -> None:
    """InputError unless a critic can be trained: in the model itself, or in another one."""
    judge = other or known
    for what in ("latent_channels", "factor", "views"):
        if getattr(judge, what) != getattr(known, what):
            raise InputError(f"critic.model {judge.name!r} cannot judge the latents of "
                             f"{known.name!r}: {what} is {getattr(judge, what)}, not "
                             f"{getattr(known, what)}")  # fmt: skip
    if judge.noise != known.noise:
        raise InputError(f"critic.model {judge.name!r} has other noise levels than {known.name!r}")
    if judge.denoiser != "unet":
        raise InputError(f"{stage.guidance} trains a LoRA in a UNet, and {judge.name!r} has a "
                         "transformer: use guidance=sds, csd, nfsd or ism with it")  # fmt: skip
