"""ELPV: 2,624 electroluminescence photographs of solar cells, 300 × 300, 8 classes (cell type × defect level).

Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence
Imagery", EU PVSEC 2018. CC BY-NC-SA 4.0. The images come from the wheel `elpv-dataset`.
"""

from pathlib import Path

import pandas as pd

from vitquant.data.samples import Sample, file_sample
from vitquant.errors import VitquantError
from vitquant.params import ElpvData
from vitquant.wheels import extract_from_wheel

FOLDER = "elpv_dataset/data"


def fetch(params: ElpvData, raw: Path) -> None:
    """Download the wheel and write its labels and images below `raw`."""
    extract_from_wheel(params.wheel, params.sha256, lambda name: name.startswith(f"{FOLDER}/"), raw)


def samples(params: ElpvData, raw: Path) -> list[Sample]:  # noqa: ARG001  # every source takes its parameters
    """Every image with its class, `<mono|poly>-<defect probability in percent>`, in the order of labels.csv.

    Raises:
        VitquantError: labels.csv is missing, cannot be read, or names an image that is absent.
    """
    labels = raw / FOLDER / "labels.csv"
    try:
        table = pd.read_csv(labels, sep=r"\s+", names=["path", "probability", "type"])
        found = [
            file_sample(labels.parent / path, raw, f"{cell}-{round(100 * probability)}")
            for path, probability, cell in table.itertuples(index=False)
        ]
    except (OSError, ValueError, TypeError) as error:
        raise VitquantError(f"{labels} cannot be read ({error}): run `dvc repro -f fetch`") from None
    for sample in found:
        if not (raw / sample.name).is_file():
            raise VitquantError(f"{labels} names {sample.name}, which is absent: run `dvc repro -f fetch`")
    return found
