"""The data sources by the name that `data.source` gives them. A source has `fetch` and `samples`."""

from types import ModuleType

from vitquant.data import elpv, folder, tiny_imagenet

SOURCES: dict[str, ModuleType] = {"elpv": elpv, "folder": folder, "tiny-imagenet": tiny_imagenet}
