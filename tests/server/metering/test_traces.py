"""Each request has a span with OpenTelemetry's names, our route and cost, and the client's span as its parent."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from loramux_server.base_model import ResolvedBase
from loramux_server.metering.traces import RequestTracer
from loramux_server.metering.usage_record import Outcome, RunStats, UsageRecord
from tests.helpers.tiny_server import tiny_server
from tests.helpers.usage_records import CHARGE, NOON, record

CLIENT_TRACE, CLIENT_SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def span(ended: UsageRecord) -> ReadableSpan:
    exporter = InMemorySpanExporter()
    traces = RequestTracer(exporter)
    traces.record_charge(ended, CHARGE)
    traces.close()
    (sent,) = exporter.get_finished_spans()
    return sent


def test_a_span_has_times_route_tokens_and_cost() -> None:
    sent = span(record())
    assert (sent.name, sent.start_time, sent.end_time) == ("chat adapter", (NOON - 4) * 1e9, NOON * 1e9)
    assert [(event.name, event.timestamp) for event in sent.events] == [("first_token", (NOON - 3) * 1e9)]
    attributes = dict(sent.attributes or {})
    assert attributes["gen_ai.response.model"] == "tone@3f9c2ab01d44"
    assert attributes["gen_ai.usage.output_tokens"] == 11
    assert attributes["loramux.cost.gpu_hour_usd"] == 2e-6
    assert "error.type" not in attributes


def test_a_client_s_span_is_the_parent_and_an_invalid_one_is_ignored() -> None:
    parent = span(record(traceparent=f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01")).parent
    assert parent is not None
    assert (parent.trace_id, parent.span_id) == (int(CLIENT_TRACE, 16), int(CLIENT_SPAN, 16))
    assert span(record(traceparent="00-x\n-y")).parent is None


def test_a_failure_is_an_error_and_a_refusal_is_not() -> None:
    failed = record(outcome=Outcome.FAILED, status=500, error="server_error", stats=RunStats(), route=None)
    assert span(failed).status.status_code is StatusCode.ERROR
    assert span(record(outcome=Outcome.REFUSED)).status.status_code is StatusCode.UNSET


@pytest.fixture
def collector() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a collector, and the bodies it received."""
    bodies: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1/traces", bodies
        server.shutdown()
        thread.join()


async def test_a_server_sends_its_traces_to_the_configured_endpoint(
    tiny_base: ResolvedBase, tmp_path: Path, collector: tuple[str, list[bytes]]
) -> None:
    endpoint, bodies = collector
    async with tiny_server(tmp_path, tiny_base, traces_endpoint=endpoint) as tiny:
        await tiny.chat("tiny", extra_headers={"traceparent": f"00-{CLIENT_TRACE}-{CLIENT_SPAN}-01"})
    sent = [
        span
        for body in bodies
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert [(one.name, one.trace_id.hex(), one.parent_span_id.hex()) for one in sent] == [
        ("chat base", CLIENT_TRACE, CLIENT_SPAN)
    ]
