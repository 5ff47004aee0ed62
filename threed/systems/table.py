"""The table of systems. A row lies in the system's own file; importing them all loads no torch."""

from __future__ import annotations

from threed.core.errors import InputError
from threed.core.words import did_you_mean
from threed.systems.control.controlnet import SYSTEM as CONTROLNET
from threed.systems.control.rpg import SYSTEM as RPG
from threed.systems.control.self_guidance import SYSTEM as SELF_GUIDANCE
from threed.systems.control.uni_controlnet import SYSTEM as UNI_CONTROLNET
from threed.systems.editing.instruct_pix2pix import SYSTEM as INSTRUCT_PIX2PIX
from threed.systems.editing.prompt_to_prompt import SYSTEM as PROMPT_TO_PROMPT
from threed.systems.personalization.dco import SYSTEM as DCO
from threed.systems.personalization.dreambooth import SYSTEM as DREAMBOOTH
from threed.systems.personalization.lora import SYSTEM as LORA
from threed.systems.personalization.style_aligned import SYSTEM as STYLE_ALIGNED
from threed.systems.personalization.textual_inversion import SYSTEM as TEXTUAL_INVERSION
from threed.systems.reference.instant_id import SYSTEM as INSTANT_ID
from threed.systems.reference.ip_adapter import SYSTEM as IP_ADAPTER
from threed.systems.reference.kosmos_g import SYSTEM as KOSMOS_G
from threed.systems.reference.ms_diffusion import SYSTEM as MS_DIFFUSION
from threed.systems.reference.photo_maker import SYSTEM as PHOTO_MAKER
from threed.systems.system import System, Training
from threed.systems.tryon.bootcomp import SYSTEM as BOOTCOMP
from threed.systems.tryon.idm_vton import SYSTEM as IDM_VTON
from threed.systems.tryon.ladi_vton import SYSTEM as LADI_VTON
from threed.systems.tryon.stable_viton import SYSTEM as STABLE_VITON

_ROWS = (  # in the order in which they are listed
    PROMPT_TO_PROMPT,
    INSTRUCT_PIX2PIX,
    STYLE_ALIGNED,
    CONTROLNET,
    UNI_CONTROLNET,
    RPG,
    SELF_GUIDANCE,
    TEXTUAL_INVERSION,
    DREAMBOOTH,
    LORA,
    DCO,
    IP_ADAPTER,
    MS_DIFFUSION,
    KOSMOS_G,
    PHOTO_MAKER,
    INSTANT_ID,
    LADI_VTON,
    STABLE_VITON,
    IDM_VTON,
    BOOTCOMP,
)
SYSTEMS = {system.name: system for system in _ROWS}


def find_system(name: str) -> System:
    """The system of that name. InputError names the nearest, and all there are."""
    if name in SYSTEMS:
        return SYSTEMS[name]
    raise InputError(f"there is no system {name!r}{did_you_mean(name, SYSTEMS)}")


def find_training(name: str) -> Training:
    """How a system is taught. InputError for one that has nothing to train, or is not there."""
    training = find_system(name).training
    if training is None:
        taught = ", ".join(row.name for row in SYSTEMS.values() if row.training)
        raise InputError(f"system {name!r} has nothing to train; {taught} have")
    return training
