"""How others lay a model's tensors out in a checkpoint: the entry they are in, what is beside them, and prefixes."""

import re
import sys
from collections import Counter
from collections.abc import Collection
from pathlib import Path
from typing import Any

from torch import Tensor

from vitquant.errors import printable
from vitquant.models import transformers_vit

ENTRIES = (  # as timm looks for them, averaged weights first (timm.models.load_state_dict); then what others write
    *("state_dict_ema", "model_ema", "state_dict", "model"),
    *("model_state_dict", "module", "net", "teacher", "student"),  # DINO evaluates the teacher
)
DEEPEST = 4  # entries in entries, which in a pickle could go round
PREFIXES = ("_orig_mod.", "module.", "model.", "net.", "backbone.", "encoder.", "student.", "teacher.")  # of wrappers
WRAPPED = "(?:" + "|".join(map(re.escape, PREFIXES)) + ")*"
CLASSIFIER = ("head.", "head_dist.", "aux_head.")  # what timm's names of it begin with
BESIDE = re.compile(rf"({WRAPPED})((?:head|head_dist|aux_head|classifier|fc)\..*)")  # one that is not timm's own
LINEAR = re.compile(r"^(?:classifier|fc)\.(weight|bias)$")
SHOWN = 5  # of what a message lists


def entry(content: Any, file: Path) -> Any:
    """What is in the entry that holds a model's tensors, or the content itself; which one it was goes to the log."""
    path: list[str] = []
    others: list[str] = []
    while isinstance(content, dict) and len(path) < DEEPEST:
        found = [key for key in ENTRIES if isinstance(content.get(key), dict) and content[key]]
        if not found:
            break
        content = content[found[0]]
        path.append(found[0])
        others += found[1:]
    if path:
        beside = f", and not {', '.join(others)}, which are there too" if others else ""
        print(f"weights: {file}: its entry {'.'.join(path)} is taken{beside}", file=sys.stderr)
    return content


def parts(tensors: dict[str, Tensor], own: Collection[str] = ()) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Backbone and classifier under timm's names, without the prefixes of wrappers.

    What stands beside a wrapped backbone, such as a loss's weights, is left out; the log names it.

    Args:
        own: names that the backbone has: some keep a norm below `head.`.
    """
    tensors = transformers_vit.under_timms_names(tensors)
    prefix = _prefix(tensors, own)
    backbone: dict[str, Tensor] = {}
    classifier: dict[str, Tensor] = {}
    beside: list[str] = []
    for name, tensor in tensors.items():
        short = name.removeprefix(prefix)
        if name.startswith(prefix):
            (classifier if short.startswith(CLASSIFIER) and short not in own else backbone)[short] = tensor
        elif (match := BESIDE.fullmatch(name)) and prefix.startswith(match[1]):
            classifier[LINEAR.sub(r"head.\1", match[2])] = tensor
        else:
            beside.append(name)
    if beside:
        said = printable(f"{prefix}… is the model; left out, as beside it: {shown(beside, ', ')}")
        print(f"weights: {said}", file=sys.stderr)
    return backbone, classifier


def _prefix(names: Collection[str], own: Collection[str]) -> str:
    """That of the most names below which there is a backbone; else what all but a classifier's begin with."""
    tops = {name.partition(".")[0] for name in own if not name.startswith(CLASSIFIER)} or {"patch_embed"}
    pattern = re.compile(rf"({WRAPPED})(?:{'|'.join(map(re.escape, sorted(tops)))})(?:\..*)?")
    counts = Counter(match[1] for name in names if (match := pattern.fullmatch(name)))
    if counts:
        return max(counts, key=lambda prefix: (counts[prefix], "teacher." in prefix))
    wrappers = [match[0] for name in names if not name.startswith(CLASSIFIER) and (match := re.match(WRAPPED, name))]
    shortest = min(wrappers, key=len, default="")
    return shortest if all(wrapper.startswith(shortest) for wrapper in wrappers) else ""


def shown(items: list[str], separator: str = "; ") -> str:
    """The first of them, and how many more there are."""
    more = f"{separator}and {len(items) - SHOWN} more" if len(items) > SHOWN else ""
    return separator.join(items[:SHOWN]) + more
