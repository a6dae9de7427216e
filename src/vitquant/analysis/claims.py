"""The audit of the seed report: every number and fact it states, a row of data with the rule of its verdict."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from vitquant.analysis import advice, rules
from vitquant.analysis import quantities as measured
from vitquant.analysis.findings import Findings, Study
from vitquant.analysis.quantities import Measured, quote
from vitquant.analysis.recommend import BUDGET
from vitquant.analysis.rules import Claim, amount, change, fact, impossible, of_vit_b
from vitquant.analysis.studies import vit_b_of
from vitquant.params import BASELINE, SEED_RECIPE
from vitquant.results.drift import Drifts
from vitquant.results.serving import Serving

LATENCY_CHANGE, MEMORY_CHANGE, SIZE_CHANGE = -36.6, -63.2, -74.4  # percent
PARAMETERS = 86.4  # millions: of ViT-B/16 with its head; DINOv2's ViT-B/14 has 86.6
SAME_MODEL = of_vit_b(fact("as in the model measured here", "another number in the model measured here"))

OfViTB = partial(Claim, of_the_model=True)

CLAIMS = (  # in the seed report's order
    OfViTB("architecture", "DINOv2 as ViT-Base/16, patches of 16 × 16", "", measured.model, BASELINE, impossible(
        "DINOv2 was published with patches of 14 only: `dinov2_vits14`, `vitb14`, … (Oquab et al. 2023)")),
    Claim("input", "224 × 224", "pixels", measured.input_size, BASELINE, fact("the same input", "another input size")),
    OfViTB("hidden width", "768", "", measured.shape(0), BASELINE, SAME_MODEL),
    OfViTB("attention heads", "12", "", measured.shape(1), BASELINE, SAME_MODEL),
    OfViTB("layers", "12", "", measured.shape(2), BASELINE, SAME_MODEL),
    Claim("data", "Tiny ImageNet, centre-cropped to 224 × 224", "", measured.data, BASELINE, impossible(
        "Tiny ImageNet's images are 64 × 64: they must be enlarged before 224 × 224 can be cut out of them")),
    Claim("method", "dynamic quantization that keeps activations in floating point", "",
          measured.words(f"`{SEED_RECIPE}`"), SEED_RECIPE, impossible(
        "dynamic quantization rounds each linear layer's input to 8 bits at run time; weight-only methods keep it")),
    Claim("where it ran", "`quantize_dynamic` on an NVIDIA T4", "",
          measured.words("on the CPU, the only place it runs"), SEED_RECIPE, rules.no_cuda_kernel),
    OfViTB("average inference, FP32", 45.3, "ms", measured.t4_latency, BASELINE, rules.on_t4),
    OfViTB("average inference, INT8", 28.7, "ms", measured.mean_latency, SEED_RECIPE, impossible(
        "stated for a GPU, where `quantize_dynamic` cannot run")),
    OfViTB("inference time, change", LATENCY_CHANGE, "%", measured.time_change, SEED_RECIPE, rules.time_change),
    OfViTB("memory, FP32", 342.0, "MB", measured.peak_memory, BASELINE, impossible(
        "that is a ViT-B's FP32 weights by themselves (4 bytes × 85.6 million); to run it takes activations too")),
    OfViTB("memory, INT8", 126.0, "MB", measured.peak_memory, SEED_RECIPE, of_vit_b(amount)),
    OfViTB("memory, change", MEMORY_CHANGE, "%", measured.memory_change, SEED_RECIPE, of_vit_b(change)),
    OfViTB("model size, FP32", 86.4, "MB", measured.model_size, BASELINE, impossible(
        f"{PARAMETERS} is a ViT-B's number of parameters in millions; in FP32 they take {4 * PARAMETERS:.1f} MB")),
    OfViTB("model size, INT8", 22.1, "MB", measured.model_size, SEED_RECIPE, impossible(
        f"{PARAMETERS} million INT8 weights take at least {PARAMETERS} MB")),
    OfViTB("model size, change", SIZE_CHANGE, "%", measured.size_change, SEED_RECIPE, change),
    OfViTB("variance over runs", "low", "", measured.variation, SEED_RECIPE, rules.steady),
    Claim("top-1, FP32", 81.24, "%", measured.top1, BASELINE, rules.accuracy),
    Claim("top-1, INT8", 80.96, "%", measured.top1, SEED_RECIPE, rules.accuracy),
    Claim("top-1, difference", -0.28, "pp", measured.top1_delta, SEED_RECIPE, rules.difference),
    Claim("top-5, FP32", 95.67, "%", measured.top5, BASELINE, rules.accuracy),
    Claim("top-5, INT8", 95.42, "%", measured.top5, SEED_RECIPE, rules.accuracy),
    Claim("top-5, difference", -0.25, "pp", measured.top5_delta, SEED_RECIPE, rules.difference),
    Claim("accuracy kept", f"within {BUDGET:g} %", "", measured.top1_delta, SEED_RECIPE, rules.within_budget),
)  # fmt: skip
SETUP = (  # what the seed report ran on: a name, its value there, and the quantity here
    ("PyTorch", "2.0.1", measured.version("torch")),
    ("torchvision", "0.15.2", measured.version("torchvision")),
    ("Python", "3.8+", measured.version("python")),
    ("CUDA", "11.8", measured.cuda_version),
    ("GPU", "NVIDIA T4", measured.gpus),
    ("main memory", "32 GB", measured.main_memory),
    ("CPU", "Intel Xeon, 8 cores", measured.processor),
)


@dataclass(frozen=True)
class Audited:
    """A claim, what was measured of it, and the verdict."""

    claim: Claim
    measured: Measured | None
    verdict: str
    reason: str


def audit(
    findings: Findings,
    others: Mapping[str, Study] | None = None,
    serving: Serving | None = None,
    drifts: Drifts | None = None,
) -> list[Audited]:
    """Every claim of the seed report, judged, and its advice for production.

    Args:
        others: studies beside the findings' own; where that is of no ViT-B, the first that is tells of what does not
            depend on the weights.
        serving: what the server was measured to do.
        drifts: what recipes were measured to do with images that drifted.
    """
    vit_b = vit_b_of(findings.study, others or {})
    other = vit_b is not None and vit_b is not findings.study
    seeds = findings.model_copy(update={"study": vit_b}) if vit_b else findings
    found = []
    for claim in (*CLAIMS, *advice.claims(serving, drifts)):
        source = seeds if claim.of_the_model else findings
        here = claim.quantity(source, claim.recipe)
        if vit_b and other and claim.of_the_model and here and not here.study:
            here = replace(here, where=", ".join(filter(None, (here.where, f"`{quote(vit_b.facts.name)}`"))))
        found.append(Audited(claim, here, *claim.rule(claim, here, source)))
    return found


def setup(findings: Findings) -> list[tuple[str, str, Measured | None]]:
    """What the seed report ran on, and what was used here: no claims, and nothing to judge."""
    return [(what, theirs, quantity(findings, BASELINE)) for what, theirs, quantity in SETUP]


def counts(audited: list[Audited]) -> dict[str, int]:
    """How many claims have each verdict, of those that any has."""
    numbers = {verdict: sum(each.verdict == verdict for each in audited) for verdict in rules.VERDICTS}
    return {verdict: number for verdict, number in numbers.items() if number}
