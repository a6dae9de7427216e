"""Names of timm's ViTs, and what a name that is none was meant to be."""

from difflib import get_close_matches

import timm

from vitquant.errors import VitquantError

MODULE = "vision_transformer"  # of timm: plain ViTs
SHOWN = 4  # names or tags that a message suggests


def check_name(name: str) -> None:
    """See that timm has a plain ViT of this name, and weights of its tag, where it names one after a dot.

    Raises:
        VitquantError: it has not; the message says what it has.
    """
    architecture, dot, tag = name.partition(".")
    if architecture in (renamed := timm.models.get_deprecated_models(MODULE)):
        raise VitquantError(f"model.name: timm has renamed {architecture!r}: write {renamed[architecture]}")
    if not timm.models.is_model_in_modules(architecture, MODULE):
        raise VitquantError(f"model.name: {_why_no_vit(architecture)}")
    names = timm.models.get_arch_pretrained_cfgs(architecture)
    if dot and name not in names:
        tags = [known.partition(".")[2] for known in names]
        shown = ", ".join(get_close_matches(tag, tags, SHOWN, cutoff=0)) + (", …" if len(tags) > SHOWN else "")
        raise VitquantError(f"model.name: timm has no weights {tag!r} of {architecture}: it has {shown}")


def _why_no_vit(architecture: str) -> str:
    """What timm has in place of an architecture that is none of its plain ViTs."""
    lists = f"`timm.list_models(module={MODULE!r})` lists them"
    elsewhere = [module for module in timm.list_modules() if timm.models.is_model_in_modules(architecture, module)]
    if elsewhere:
        return f"{architecture!r} is of timm's module {elsewhere[0]}: take one of {MODULE}, plain ViTs: {lists}"
    near = ", ".join(get_close_matches(architecture, timm.list_models(module=MODULE), SHOWN))
    return f"timm has no ViT {architecture!r}: {f'did you mean {near}? ' if near else ''}{lists}"
