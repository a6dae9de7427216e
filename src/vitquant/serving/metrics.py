"""What Prometheus reads at /metrics; every label has few values."""

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from starlette.responses import Response

if TYPE_CHECKING:
    from vitquant.serving.chain import Recipe

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0)
VARIATIONS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Of one server."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self.requests = Counter("vitquant_requests", "Answers.", ["endpoint", "status"], registry=registry)
        self.seconds = Histogram(
            "vitquant_request_seconds", "From headers to answer.", ["endpoint"], registry=registry, buckets=SECONDS
        )
        self.images = Counter("vitquant_images", "Images answered.", ["recipe"], registry=registry)
        self.batch = Histogram(
            "vitquant_batch_images", "Images given to a worker.", ["recipe"], registry=registry, buckets=SIZES
        )
        self.compute = Histogram(
            "vitquant_worker_seconds", "A batch in a worker.", ["recipe"], registry=registry, buckets=SECONDS
        )
        self.failures = Counter(
            "vitquant_recipe_failures", "What a breaker counts.", ["recipe", "kind"], registry=registry
        )
        self.restarts = Counter("vitquant_worker_restarts", "Workers that ended.", ["recipe"], registry=registry)
        self.serves = Gauge("vitquant_recipe_serves", "Whether a recipe may be used.", ["recipe"], registry=registry)
        self.waiting = Gauge("vitquant_waiting_images", "Images that wait for a worker.", registry=registry)
        self.compared = Counter("vitquant_shadow_images", "Images that FP32 saw too.", ["recipe"], registry=registry)
        self.differ = Counter("vitquant_shadow_differ", "Of another class by FP32.", ["recipe"], registry=registry)
        self.differ_high = Gauge(
            "vitquant_shadow_differ_high", "The most that their share may be.", ["recipe"], registry=registry
        )
        self.moved = Histogram(
            "vitquant_shadow_total_variation", "To FP32's.", ["recipe"], registry=registry, buckets=VARIATIONS
        )
        self.outside = Summary(
            "vitquant_shadow_outside", "Share of values beyond calibration's.", ["recipe"], registry=registry
        )
        self.alarm = Gauge("vitquant_shadow_alarm", "Whether too many differ.", ["recipe"], registry=registry)
        self.skipped = Counter("vitquant_shadow_skipped", "Images not compared.", registry=registry)
        self.lost = Counter("vitquant_shadow_lost_lines", "Of the log.", registry=registry)
        self.kept = Counter("vitquant_kept_images", "Written into the sample.", registry=registry)
        self.not_kept = Counter("vitquant_not_kept_images", "Drawn, and not written.", ["why"], registry=registry)
        self.swaps = Counter("vitquant_artifact_swaps", "Asked for, or undone.", ["outcome"], registry=registry)
        self.held = Gauge("vitquant_held_bytes", "Of bodies received and not yet decoded.", registry=registry)

    def watch(self, name: str, recipe: "Recipe") -> None:
        """Show whether a recipe serves."""
        self.serves.labels(name).set_function(lambda: float(recipe.serves))

    def response(self) -> Response:
        """All of them, as Prometheus reads them."""
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)
