"""Names of timm's ViTs, and what a name that is none was meant to be."""

from difflib import get_close_matches

import timm

from vitquant.errors import VitquantError

MODULES = (  # of timm: transformers for images, which can be made for any size of image
    *("vision_transformer", "deit", "eva", "beit", "vision_transformer_relpos", "vision_transformer_hybrid"),
    *("vision_transformer_sam", "swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr"),
    *("cait", "convit", "crossvit", "hiera", "levit", "mvitv2", "nest", "pit", "tnt", "twins", "volo", "xcit"),
)
LISTS = f"`timm.list_models(module=…)` lists those of the modules {', '.join(MODULES)}"
SHOWN = 4  # names or tags that a message suggests


def check_name(name: str, key: str = "") -> None:
    """See that timm has a transformer for images of this name, and weights of its tag, where it names one after a dot.

    Args:
        key: where the name stands, for messages.

    Raises:
        VitquantError: it has not; the message says what it has.
    """
    oddity = _oddity(name)
    if oddity:
        raise VitquantError(f"{key}: {oddity}" if key else oddity)


def _oddity(name: str) -> str:
    """Why timm has no such transformer, or no such weights; empty where it has."""
    architecture, dot, tag = name.partition(".")
    renamed = {old: new for module in MODULES for old, new in timm.models.get_deprecated_models(module).items()}
    if renamed.get(architecture):
        return f"timm has renamed {architecture!r}: write {renamed[architecture]}"
    if not timm.models.is_model_in_modules(architecture, MODULES):
        return _why_no_vit(architecture)
    names = timm.models.get_arch_pretrained_cfgs(architecture)
    if dot and name not in names:
        tags = [known.partition(".")[2] for known in names]
        shown = ", ".join(get_close_matches(tag, tags, SHOWN, cutoff=0)) + (", …" if len(tags) > SHOWN else "")
        return f"timm has no weights {tag!r} of {architecture}: it has {shown}"
    return ""


def _why_no_vit(architecture: str) -> str:
    """What timm has in place of an architecture that is none of its transformers for images."""
    elsewhere = [module for module in timm.list_modules() if timm.models.is_model_in_modules(architecture, module)]
    if elsewhere:
        return f"{architecture!r} is of timm's module {elsewhere[0]}: take a transformer for images: {LISTS}"
    known = sorted(name for module in MODULES for name in timm.list_models(module=module))
    words = set(architecture.lower().split("_"))
    holding = [name for name in known if words <= set(name.split("_"))]
    holding.sort(key=lambda name: (not name.startswith(architecture.lower()), len(name)))
    near = ", ".join(holding[:SHOWN] or get_close_matches(architecture, known, SHOWN))
    return f"timm has no ViT {architecture!r}: {f'did you mean {near}? ' if near else ''}{LISTS}"
