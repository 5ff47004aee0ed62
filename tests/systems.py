"""One case for each row of SYSTEMS: what the property tests build, on any backbone.

A new system joins by one entry of CASES.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from tests.tiny import eye
from tests.wardrobe import fitting, stirred
from threed.core.pictures import Size
from threed.diffusion.backbone import Backbone
from threed.diffusion.files import EMBEDDINGS
from threed.diffusion.guide import Guide
from threed.diffusion.inversion import Nulls, levels
from threed.diffusion.learned.lora import FILE, lora_of, write_lora
from threed.diffusion.learned.words import write_words
from threed.diffusion.paint import Ready
from threed.diffusion.parts import garment_encoder, ladi_nets, warping
from threed.diffusion.parts.adapters import Lora
from threed.diffusion.parts.aligner import Sizes
from threed.diffusion.parts.channels import widened, with_unet
from threed.diffusion.parts.control import new_controlnet
from threed.diffusion.parts.emasc import Emasc
from threed.diffusion.parts.garment_words import InversionAdapter
from threed.diffusion.parts.id_encoder import IdEncoder, Sight
from threed.diffusion.parts.image_adapter import ImageAdapter
from threed.diffusion.parts.image_tokens import Projection, Resampler
from threed.diffusion.parts.local_adapter import LocalAdapter
from threed.diffusion.parts.plans import Plan, Region
from threed.diffusion.parts.reader import new_reader
from threed.diffusion.parts.subjects import Grounding, SubjectAdapter
from threed.diffusion.parts.tryon_net import TryonNet, garment_net
from threed.diffusion.parts.uni_adapters import Adapters
from threed.diffusion.score import Score, cfg, dual_cfg, plain, score
from threed.systems.control import controlnet, rpg, self_guidance, uni_controlnet
from threed.systems.editing import instruct_pix2pix, prompt_to_prompt
from threed.systems.personalization import dco, style_aligned
from threed.systems.personalization.teach import rows_of
from threed.systems.reference import (
    instant_id,
    ip_adapter,
    kosmos_g,
    ms_diffusion,
    photo_maker,
)
from threed.systems.system import Request, System
from threed.systems.table import SYSTEMS
from threed.systems.tryon import bootcomp, idm_vton, ladi_vton, stable_viton
from threed.systems.tryon.wear import Wear

Leaf = tuple[Tensor, Score]
SERIES = "a blue hat", "a red mug", "a green car"


@dataclass(frozen=True)
class Case:
    """How to build a system for the property tests, out of nothing but a backbone."""

    typical: Callable[[Backbone], Ready]  # with knobs that change the picture
    neutral: Callable[[Backbone], Ready]  # with knobs that change nothing ...
    plain: Callable[[Backbone], Score]  # ... so that this is the same Score
    gradient: Callable[[Backbone], Leaf] | None = None  # an input that learns through the Score


def asked(
    prompt: str, size: Size = 64, guide: Guide = Guide(), knobs: Any = None, steps: int = 30,
    **inputs: Any,
) -> Request:  # fmt: skip
    """A request; inputs that are said once may be given by themselves."""
    given = {name: value if isinstance(value, tuple) else (value,)
             for name, value in inputs.items()}  # fmt: skip
    return Request(prompt, guide, steps, size, given, knobs)


def telling(request: Request, **inputs: Any) -> Request:
    """The request with other inputs; None takes one away."""
    other = asked(request.prompt, **{k: v for k, v in inputs.items() if v is not None}).inputs
    kept = {name: value for name, value in request.inputs.items() if name not in inputs}
    return replace(request, inputs={**kept, **other})


def prepared(system: System, backbone: Backbone, request: Request) -> Ready:
    """What a system makes of a request, with the weights that it loads for it."""
    system.check(request)
    return system.prepare(backbone, request, system.load(backbone, request))


def sampled(backbone: Backbone, *prompts: str, scale: float = 5.0) -> Score:
    """Plain classifier-free guidance towards prompts, an item each."""
    texts, others = (backbone.encode_text(p) for p in (prompts, [""] * len(prompts)))
    return score(backbone, [texts, others], cfg(scale))


def _learned_nulls(backbone: Backbone) -> Leaf:
    """Null-text tokens, which are found by gradients through the Score."""
    timesteps = levels(backbone, 4)
    tokens = backbone.encode_text([""]).tokens.repeat(4, 1, 1).requires_grad_()
    nulls = Nulls(timesteps, tokens)
    return tokens, prompt_to_prompt.build(backbone, "a blue mug", "a red mug", nulls=nulls)


def _picture(backbone: Backbone) -> Tensor:
    """[1, 3, S, S] a bright square on black, as a picture or as a map."""
    size = backbone.image_size
    picture = torch.zeros(1, 3, size, size)
    picture[..., size // 4 : size // 2, size // 4 : size // 2] = 1
    return picture


def _taught(make: Callable[[], Any]) -> Any:
    """A net beside the UNet, always the same, with a little in its convolutions of zeros."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        net = make()
        for value in net.parameters():
            if float(value.abs().max()) == 0:
                value.copy_(torch.randn_like(value) * 0.02)
    return net.eval().requires_grad_(False)


def _instructed(backbone: Backbone, *, taught: bool, image_scale: float) -> Ready:
    base: Any = backbone
    unet = widened(base.unet, 4).eval().requires_grad_(False)
    if taught:
        unet.conv_in.weight[:, 4:] = 0.1 * unet.conv_in.weight[:, :4]
    return Ready(
        instruct_pix2pix.build(
            backbone,
            "a red mug",
            _picture(backbone),
            unet,
            guide=Guide(5.0),
            knobs=instruct_pix2pix.Knobs(image_scale=image_scale),
        )
    )


def _controlled(backbone: Backbone, strength: float, hint: Tensor | None = None) -> Ready:
    base: Any = backbone
    hint = _picture(backbone) if hint is None else hint
    given = controlnet.Given(_taught(lambda: new_controlnet(base)), hint)
    return Ready(
        controlnet.build(
            backbone,
            "a red mug",
            [given],
            guide=Guide(5.0),
            knobs=controlnet.Knobs(strength=strength),
        )
    )


def _learned_hint(backbone: Backbone) -> Leaf:
    hint = _picture(backbone).requires_grad_()
    return hint, _controlled(backbone, 1.0, hint).score


def _shown(backbone: Backbone, scale: float, features: Tensor | None = None) -> Ready:
    """A picture's features, through an adapter whose maps have learned something."""
    base: Any = backbone
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = ImageAdapter(base, Projection(24, base.unet.config.cross_attention_dim))
        features = torch.randn(1, 1, 24) if features is None else features
        for value in net.ip_adapter.parameters():
            value.data += 0.3 * torch.randn_like(value)
    loaded = ip_adapter.Loaded(net.eval().requires_grad_(False))
    told = ip_adapter.Told(features, torch.zeros(1, 24))
    knobs = ip_adapter.Knobs(scale=scale)
    return Ready(
        ip_adapter.build(backbone, "a red mug", loaded, told, guide=Guide(5.0), knobs=knobs)
    )


def _learned_picture(backbone: Backbone) -> Leaf:
    features = torch.ones(1, 1, 24).requires_grad_()
    return features, _shown(backbone, 1.0, features).score


def _together(
    backbone: Backbone, scale: float, features: Tensor | None = None, **knobs: Any
) -> Ready:
    """Two subjects' patches, each in its box."""
    base: Any = backbone
    with torch.random.fork_rng():
        torch.manual_seed(0)
        width, phrase = base.unet.config.cross_attention_dim, base.encoders[0].config.hidden_size
        grounding = Grounding(16, width, phrase, inner=64, heads=1, depth=1, tokens=3)
        net = SubjectAdapter(base, grounding)
        features = torch.randn(1, 2, 5, 16) if features is None else features
        for value in net.ms_adapter.parameters():
            value.data += 0.3 * torch.randn_like(value)
    loaded = ms_diffusion.Loaded(net.eval().requires_grad_(False))
    subjects = [("mug", (0.0, 0.0, 0.6, 1.0)), ("hat", (0.3, 0.2, 1.0, 1.0))]
    told = ms_diffusion.Told(features, [subjects])
    wanted = ms_diffusion.Knobs(scale=scale, **knobs)
    return Ready(
        ms_diffusion.build(backbone, "a red mug", loaded, told, guide=Guide(5.0), knobs=wanted)
    )


def _learned_subjects(backbone: Backbone) -> Leaf:
    features = torch.ones(1, 2, 5, 16).requires_grad_()
    return features, _together(backbone, 1.0, features).score


def _interleaved(backbone: Backbone, words: float, seen: Tensor | None = None) -> Ready:
    """A picture's patches among words, read by a reader that has learned something."""
    base: Any = backbone
    with torch.random.fork_rng():
        torch.manual_seed(0)
        width, length = base.unet.config.cross_attention_dim, base.tokenizers[0].model_max_length
        sizes = Sizes(64, width, length, layers=1, positions=256)
        reader = new_reader(base, 16, sizes, slots=3, layers=1)
        seen = torch.randn(1, 5, 16) if seen is None else seen
        for value in reader.parameters():
            value.data += 0.1 * torch.randn_like(value)
    reader = reader.eval().requires_grad_(False)
    knobs = kosmos_g.Knobs(words=words)
    return Ready(
        kosmos_g.build(backbone, "a red <1> mug", reader, [seen], guide=Guide(5.0), knobs=knobs)
    )


def _learned_patches(backbone: Backbone) -> Leaf:
    seen = torch.ones(1, 5, 16).requires_grad_()
    return seen, _interleaved(backbone, 0.0, seen).score


def _person(backbone: Backbone, start_merge: float, who: Tensor | None = None) -> Ready:
    """A person of two pictures, through a net that has learned nothing yet."""
    base: Any = backbone
    width = base.unet.config.cross_attention_dim
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = IdEncoder(eye().vision_model, (12, width - 12), Sight()).requires_grad_(False)
        who = 3 * torch.randn(1, 2, 1, width) if who is None else who
    knobs = photo_maker.Knobs(start_merge=start_merge, lora=0.0)
    loaded = photo_maker.Loaded(net.eval())
    return Ready(
        photo_maker.build(backbone, "a man img in red", loaded, who, guide=Guide(5.0), knobs=knobs)
    )


def _learned_person(backbone: Backbone) -> Leaf:
    base: Any = backbone
    who = torch.randn(1, 2, 1, base.unet.config.cross_attention_dim).requires_grad_()
    return who, _person(backbone, 0.0, who).score


def _adapter(base: Any, inputs: int) -> ImageAdapter:
    """An adapter that has learned a little of so many numbers."""
    width = base.unet.config.cross_attention_dim
    adapter = ImageAdapter(base, Resampler(inputs, width, inner=64, heads=1, tokens=4))
    for value in adapter.ip_adapter.parameters():
        value.data += 0.3 * torch.randn_like(value)
    return adapter


def _identified(backbone: Backbone, knob: float, face: Tensor | None = None) -> Ready:
    """A face through an adapter and an IdentityNet that have learned a little."""
    base: Any = backbone
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = _adapter(base, 12)
        face = torch.randn(1, 12) if face is None else face
    nets = instant_id.Nets(adapter.requires_grad_(False), _taught(lambda: new_controlnet(base)))
    told = instant_id.Told(face, _picture(backbone))
    knobs = instant_id.Knobs(scale=knob, strength=knob)
    return Ready(instant_id.build(backbone, "a red mug", nets, told, guide=Guide(5.0), knobs=knobs))


def _learned_face(backbone: Backbone) -> Leaf:
    face = torch.ones(1, 12).requires_grad_()
    return face, _identified(backbone, 1.0, face).score


def _bent(backbone: Backbone, *, taught: bool, garment: Tensor | None = None) -> Ready:
    """A garment in a mask's place, through nets that have learned a little, or nothing yet."""
    base: Any = backbone
    worn = fitting() if garment is None else replace(fitting(), garment=garment)
    nets, guide = bending(base, taught=taught), Guide(5.0)
    score = ladi_vton.build(backbone, "a red mug", worn, nets, guide=guide)
    return ladi_vton.ready(backbone, score, worn, nets)


def bending(base: Any, *, taught: bool) -> ladi_nets.Nets:
    """LaDI-VTON's small nets."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        nets = ladi_nets.Nets(widened(base.unet, 12).eval().requires_grad_(False))
        if taught:
            sizes = warping.Sizes(3, 32, 32, base=8, halvings=2)
            words = InversionAdapter(eye().config, 3, base.encoders[0].config.hidden_size)
            sight = SimpleNamespace(states=lambda seen: (seen[:, :, :5].mean(1)[..., :16], None))
            warper, emasc = stirred(warping.Warper(sizes)), stirred(Emasc(base.vae))
            stirred(nets.unet.conv_in)
            nets = ladi_nets.Nets(nets.unet, warper, emasc, stirred(words), cast(Any, sight))
    return nets


def _learned_fitting(backbone: Backbone) -> Leaf:
    garment = fitting().garment.requires_grad_()
    return garment, _bent(backbone, taught=True, garment=garment).score


def _looked(backbone: Backbone, *, taught: bool, garment: Tensor | None = None) -> Ready:
    """A garment that the way up looks at, or not yet."""
    base: Any = backbone
    worn = fitting() if garment is None else replace(fitting(), garment=garment)
    return stable_viton.ready(backbone, worn, looking(base, taught=taught))


def looking(base: Any, *, taught: bool) -> garment_encoder.Nets:
    """StableVITON's small nets."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = widened(base.unet, 9).eval().requires_grad_(False)
        nets = garment_encoder.GarmentNets(with_unet(base, unet), 16, 1)
        for net in (unet, nets) if taught else ():
            stirred(net, 0.05)
    sight = SimpleNamespace(states=lambda seen: (None, seen.mean(1)[:, 0, :16]))
    return garment_encoder.Nets(unet, nets.eval().requires_grad_(False), cast(Any, sight))


def _pictured(backbone: Backbone) -> Score:
    """The picture's word in the place of the text, and no more."""
    base: Any = backbone
    nets = looking(base, taught=False)
    return score(backbone, [stable_viton.pictured(base, nets, fitting().garment)], plain())


def _wearing(backbone: Backbone, knob: float, garment: Tensor | None = None) -> Ready:
    """A garment on a person, through a TryonNet that has learned no more than to look."""
    nets = wearing(backbone)
    person = _picture(backbone)
    garment = 1 - person if garment is None else garment
    wear = Wear(person, garment, person[:, :1], "upper", "a red mug", dense=person)
    knobs = idm_vton.Knobs(garment_scale=5.0, details=knob, picture=knob)
    return Ready(idm_vton.build(backbone, "a red mug", nets, wear, knobs=knobs))


def wearing(base: Any) -> idm_vton.Nets:
    """IDM-VTON's small nets."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        adapter = _adapter(base, 16)
    net = TryonNet(widened(base.unet, 9), adapter).eval().requires_grad_(False)
    return idm_vton.Nets(net, garment_net(base), cast(Any, Eye()))


class Eye:
    """What an image encoder sees, as a function of the picture's colours alone."""

    def see(self, pictures: Tensor, *, pooled: bool) -> Tensor:
        """[B, 5, 16]."""
        mean = pictures.mean((2, 3)) @ torch.randn(3, 80, generator=torch.manual_seed(1))
        return mean.unflatten(-1, (5, 16))

    def nothing(self, *, pooled: bool) -> Tensor:
        """[1, 5, 16]."""
        return torch.zeros(1, 5, 16)


def _learned_garment(backbone: Backbone) -> Leaf:
    garment = _picture(backbone).requires_grad_()
    return garment, _wearing(backbone, 1.0, garment).score


def _composed(backbone: Backbone, strength: float, flat: Tensor | None = None) -> Ready:
    """Two garments on a person, seen by the backbone's own UNet."""
    base: Any = backbone
    picture = _picture(backbone)
    flat = torch.cat([picture, 1 - picture]) if flat is None else flat
    outfit = bootcomp.Outfit(flat, ["shirt", "hat"], torch.ones(1, 2, dtype=torch.bool))
    knobs = bootcomp.Knobs(strength=strength)
    return Ready(
        bootcomp.build(backbone, "a red mug", base.unet, outfit, guide=Guide(5.0), knobs=knobs)
    )


def _learned_flat(backbone: Backbone) -> Leaf:
    flat = _picture(backbone).repeat(2, 1, 1, 1).requires_grad_()
    return flat, _composed(backbone, 1.0, flat).score


def _divided(backbone: Backbone, base_ratio: float) -> Ready:
    halves = Region("a red mug", (0, 0, 0.5, 1)), Region("a blue hat", (0.5, 0, 1, 1))
    return Ready(
        rpg.build(backbone, Plan("a red mug", halves), knobs=rpg.Knobs(base_ratio=base_ratio))
    )


def _adapted(backbone: Backbone, strength: float) -> Ready:
    """A map only: tokens of a global adapter that has learned nothing are no direction to go in."""
    base: Any = backbone
    local = _taught(lambda: LocalAdapter(base, 2))
    adapters = Adapters(("edges", "depth"), local)
    maps = {"depth": _picture(backbone)}
    return Ready(
        uni_controlnet.build(
            backbone,
            "a red mug",
            adapters,
            maps,
            guide=Guide(5.0),
            knobs=uni_controlnet.Knobs(strength=strength),
        )
    )


def _unmoved(backbone: Backbone) -> Score:
    """Two scales over conditions without a picture: guidance towards the text, by its formula."""
    texts = [backbone.encode_text([words]) for words in ("a red mug", "", "")]
    return score(backbone, texts, dual_cfg(5.0, 2.0))


def _learned(backbone: Backbone, name: str, weight: float = 1.0, knobs: Any = None) -> Ready:
    """What a system makes after something was learned, of the files that hold it."""
    base: Any = backbone
    with tempfile.TemporaryDirectory() as kept, torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        out = Path(kept)
        if name == "textual_inversion":
            (rows,) = rows_of(base, "mug")
            learned = rows + weight * torch.randn_like(rows)
            write_words({"<toy>": (learned,)}, out / EMBEDDINGS)
            weight = 1.0
        elif name == "dreambooth":
            unet = copy.deepcopy(base.unet)
            for value in unet.parameters():
                value += 0.05 * torch.randn_like(value)
            unet.save_pretrained(out / "unet")
        else:
            net = copy.deepcopy(base.unet)
            lora = Lora(net, "case", rank=4, seed=0)
            for value in lora.parameters.values():
                value += 0.3 * torch.randn_like(value)
            write_lora(lora_of(with_unet(base, net), "case"), out / FILE)
        word = "<toy>" if name == "textual_inversion" else "mug"
        asks = asked(f"a red {word}", knobs=knobs, guide=Guide(5.0), weights=((out, weight),))
        if name == "dco":
            asks = telling(asks, base="a red mug")
        return SYSTEMS[name].prepare(SYSTEMS[name].equipped(backbone, asks), asks, None)


def _personal(name: str) -> Case:
    return Case(
        typical=lambda backbone: _learned(backbone, name),
        neutral=lambda backbone: _learned(backbone, name, weight=0.0),
        plain=lambda backbone: sampled(backbone, "a red mug"),
    )


CASES = {
    "prompt_to_prompt": Case(
        typical=lambda backbone: Ready(
            prompt_to_prompt.build(
                backbone,
                "a blue mug",
                "a red mug",
                words=prompt_to_prompt.Words(blend=("mug",), weigh=(("blue", 2.0),)),
            ),
            rows=2,
        ),
        neutral=lambda backbone: Ready(
            prompt_to_prompt.build(
                backbone,
                "a blue mug",
                "a red mug",
                knobs=prompt_to_prompt.Knobs(cross_replace=0.0, self_replace=0.0),
            ),
            rows=2,
        ),
        plain=lambda backbone: sampled(backbone, "a red mug", "a blue mug"),
        gradient=_learned_nulls,
    ),
    "instruct_pix2pix": Case(
        typical=lambda backbone: _instructed(backbone, taught=True, image_scale=2.0),
        neutral=lambda backbone: _instructed(backbone, taught=False, image_scale=2.0),
        plain=_unmoved,
    ),
    "style_aligned": Case(
        typical=lambda backbone: Ready(
            style_aligned.build(backbone, SERIES), rows=3, results=(1, 2), own_noise=True
        ),
        neutral=lambda backbone: Ready(
            style_aligned.build(
                backbone, SERIES, knobs=style_aligned.Knobs(plain_share=1.0, norms=False)
            ),
            rows=3,
            own_noise=True,
        ),
        plain=lambda backbone: sampled(backbone, *SERIES),
    ),
    "controlnet": Case(
        typical=lambda backbone: _controlled(backbone, 1.0),
        neutral=lambda backbone: _controlled(backbone, 0.0),
        plain=lambda backbone: sampled(backbone, "a red mug"),
        gradient=_learned_hint,
    ),
    "uni_controlnet": Case(
        typical=lambda backbone: _adapted(backbone, 1.0),
        neutral=lambda backbone: _adapted(backbone, 0.0),
        plain=lambda backbone: sampled(backbone, "a red mug"),
    ),
    "rpg": Case(
        typical=lambda backbone: _divided(backbone, 0.2),
        neutral=lambda backbone: _divided(backbone, 1.0),
        plain=lambda backbone: sampled(backbone, "a red mug"),
    ),
    "self_guidance": Case(
        typical=lambda backbone: Ready(
            self_guidance.build(
                backbone,
                "a red mug",
                asked=self_guidance.Asked(move=(("mug", (0.2, 0.0)),), resize=(("mug", 0.5),)),
            ),
            rows=2,
        ),
        neutral=lambda backbone: Ready(
            self_guidance.build(
                backbone,
                "a red mug",
                asked=self_guidance.Asked(move=(("mug", (0.2, 0.0)),)),
                knobs=self_guidance.Knobs(strength=0.0),
            ),
            rows=2,
        ),
        plain=lambda backbone: sampled(backbone, "a red mug", "a red mug"),
    ),
    "textual_inversion": _personal("textual_inversion"),
    "dreambooth": _personal("dreambooth"),
    "lora": _personal("lora"),
    "dco": replace(
        _personal("dco"),
        neutral=lambda backbone: _learned(backbone, "dco", knobs=dco.Knobs(consistency=0.0)),
    ),
    "ip_adapter": Case(
        typical=lambda backbone: _shown(backbone, 1.0),
        neutral=lambda backbone: _shown(backbone, 0.0),
        plain=lambda backbone: sampled(backbone, "a red mug"),
        gradient=_learned_picture,
    ),
    "ms_diffusion": Case(
        typical=lambda backbone: _together(backbone, 1.0),
        neutral=lambda backbone: _together(backbone, 1.0, strengths="0,0"),
        plain=lambda backbone: sampled(backbone, "a red mug"),
        gradient=_learned_subjects,
    ),
    "kosmos_g": Case(
        typical=lambda backbone: _interleaved(backbone, 0.0),
        neutral=lambda backbone: _interleaved(backbone, 1.0),
        plain=lambda backbone: sampled(backbone, "a red mug"),
        gradient=_learned_patches,
    ),
    "photo_maker": Case(
        typical=lambda backbone: _person(backbone, 0.0),
        neutral=lambda backbone: _person(backbone, 1.0),
        plain=lambda backbone: sampled(backbone, "a man in red"),
        gradient=_learned_person,
    ),
    "instant_id": Case(
        typical=lambda backbone: _identified(backbone, 1.0),
        neutral=lambda backbone: _identified(backbone, 0.0),
        plain=lambda backbone: sampled(backbone, "a red mug"),
        gradient=_learned_face,
    ),
    "ladi_vton": Case(
        typical=lambda backbone: _bent(backbone, taught=True),
        neutral=lambda backbone: _bent(backbone, taught=False),
        plain=lambda backbone: sampled(backbone, "a red mug"),
        gradient=_learned_fitting,
    ),
    "stable_viton": Case(
        typical=lambda backbone: _looked(backbone, taught=True),
        neutral=lambda backbone: _looked(backbone, taught=False),
        plain=_pictured,
    ),
    "idm_vton": Case(
        typical=lambda backbone: _wearing(backbone, 1.0),
        neutral=lambda backbone: _wearing(backbone, 0.0),
        plain=lambda backbone: sampled(backbone, "model is wearing a red mug"),
        gradient=_learned_garment,
    ),
    "bootcomp": Case(
        typical=lambda backbone: _composed(backbone, 1.0),
        neutral=lambda backbone: _composed(backbone, 0.0),
        plain=lambda backbone: sampled(backbone, "a red mug"),
        gradient=_learned_flat,
    ),
}
