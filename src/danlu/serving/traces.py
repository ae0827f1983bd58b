"""Spans for OpenTelemetry, where a recipe names a collector; without one nothing here is loaded. A span is one request:
times, names and counts, as in the log; what was asked and answered is in none.

Names follow the semantic conventions for generative AI (gen_ai.*).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from danlu.core.errors import RunError
from danlu.serving.tally import Tally
from danlu.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

PATH = "/v1/traces"


class Traces:
    """Made only where `serving.traces` is set. Spans are sent by a thread of the SDK, in batches, and dropped when the
    collector is away."""

    def __init__(self, url: str, *, worker: str = "") -> None:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # optional by design
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise RunError("serve.no_otel", where="serving.traces", said=str(error)) from error
        whose = {"service.name": "danlu", "service.version": VERSION, "service.instance.id": worker}
        self._provider: TracerProvider = TracerProvider(resource=Resource(whose))
        place = url if url.rstrip("/").endswith(PATH) else url.rstrip("/") + PATH
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=place, timeout=5)))
        self._tracer = self._provider.get_tracer("danlu.serving", VERSION)

    def ended(self, tally: Tally) -> None:
        """A request's span, made at its end: nothing is carried through the gateway."""
        end_ns = time.time_ns()
        start_ns = end_ns - int(tally.whole_s * 1e9)
        span = self._tracer.start_span(f"{tally.kind or 'request'} {tally.lens}".strip(), start_time=start_ns)
        span.set_attributes(_attributes(tally))
        if tally.before_s:
            span.add_event("engine asked", timestamp=start_ns + int(tally.before_s * 1e9))
        if tally.first_s:
            span.add_event("first byte", timestamp=start_ns + int(tally.first_s * 1e9))
        if tally.status >= 500 or tally.outcome in ("failed", "lost"):
            from opentelemetry.trace import StatusCode  # as optional

            span.set_status(StatusCode.ERROR, tally.code)
        span.end(end_time=end_ns)

    def close(self) -> None:
        self._provider.shutdown()


def _attributes(tally: Tally) -> dict[str, Any]:
    return {
        "gen_ai.operation.name": {"completion": "text_completion", "embedding": "embeddings"}.get(tally.kind, "chat"),
        "gen_ai.request.model": tally.model[:200] if tally.lens else "",
        "gen_ai.response.model": tally.lens,
        "gen_ai.response.id": tally.id,
        "gen_ai.usage.input_tokens": tally.prompt_tokens,
        "gen_ai.usage.output_tokens": tally.answer_tokens,
        "http.response.status_code": tally.status,
        "danlu.key": tally.key,
        "danlu.replica": tally.replica,
        "danlu.outcome": tally.outcome,
        "danlu.tries": tally.num_tries,
    }
