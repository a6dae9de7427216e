"""URLs as messages show them."""

import re


def shown(text: str) -> str:
    """`text`, its URLs without the user names and passwords that may stand before their hosts."""
    return re.sub(r"(?<=//)[^/?#\s]*@", "", text)
