"""Sends a trace of each request by OTLP over HTTP; the only module that imports opentelemetry."""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from loramux_server.metering.cost_allocation import NANODOLLARS, EngineTime
from loramux_server.metering.usage_record import Charge, Operation, Outcome, UsageRecord

_OPERATIONS = {Operation.COMPLETIONS: "text_completion"}
"""OpenTelemetry's names; all other operations are `chat`."""


class RequestTracer:
    """A ChargeSink that exports a span per request, a child of the client's if it sent a `traceparent` header.

    A background thread exports spans in batches; if the collector is unreachable, they are dropped.
    """

    def __init__(self, exporter: SpanExporter) -> None:
        self._provider = TracerProvider(resource=Resource({"service.name": "loramux"}), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("loramux")

    def record_charge(self, record: UsageRecord, charge: Charge) -> None:
        """Export the request's span, from its arrival to its end, with an event at its first token."""
        parent = TraceContextTextMapPropagator().extract({"traceparent": record.traceparent or ""})
        name = f"{record.operation} {record.route.kind if record.route else 'none'}"
        span = self._tracer.start_span(
            name, parent, SpanKind.SERVER, _attributes(record, charge), start_time=_nanoseconds(record.started_at)
        )
        if record.stats.first_token is not None:
            span.add_event("first_token", timestamp=_nanoseconds(record.started_at + record.stats.first_token))
        if record.outcome is Outcome.FAILED:
            span.set_status(StatusCode.ERROR, record.error)
        span.end(_nanoseconds(record.ended_at))

    def record_engine_time(self, engine_time: EngineTime) -> None:
        """Do nothing: only requests have traces."""

    def close(self) -> None:
        """Export the remaining spans."""
        self._provider.shutdown()


def otlp_tracer(endpoint: str) -> RequestTracer:
    """Return a tracer that exports to `endpoint`, such as http://127.0.0.1:4318/v1/traces."""
    return RequestTracer(OTLPSpanExporter(endpoint))


def _attributes(record: UsageRecord, charge: Charge) -> dict[str, AttributeValue]:
    """Use OpenTelemetry's names where there are any; leave out attributes without a value."""
    stats, route = record.stats, record.route
    values: dict[str, AttributeValue | None] = {
        "gen_ai.operation.name": _OPERATIONS.get(record.operation, "chat"),
        "gen_ai.provider.name": "loramux",
        "gen_ai.response.model": f"{route.adapter}@{route.version}" if route and route.adapter else None,
        "gen_ai.response.finish_reasons": (stats.finish_reason,) if stats.finish_reason else None,
        "gen_ai.usage.input_tokens": stats.input_tokens,
        "gen_ai.usage.cache_read.input_tokens": stats.cached_tokens,
        "gen_ai.usage.output_tokens": stats.output_tokens,
        "http.response.status_code": record.status,
        "error.type": record.error,
        "loramux.request_id": record.request_id,
        "loramux.key_id": record.key_id,
        "loramux.outcome": record.outcome,
        "loramux.route": route.kind if route else "none",
        "loramux.adapter": route.adapter if route else None,
        "loramux.version": route.version if route else None,
        "loramux.cold": stats.cold,
        "loramux.lease_wait_seconds": stats.lease_wait,
        "loramux.queue_seconds": stats.queue,
        "loramux.time_to_first_token_seconds": stats.first_token,
        "loramux.time_per_output_token_seconds": stats.time_per_output_token,
        "loramux.cost.price_list_usd": _usd(charge.price_list),
        "loramux.cost.gpu_hour_usd": _usd(charge.gpu_hour),
        "loramux.price_version": charge.price_version,
    }
    return {name: value for name, value in values.items() if value is not None}


def _usd(nanodollars: int | None) -> float | None:
    return None if nanodollars is None else nanodollars / NANODOLLARS


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 10**9)
