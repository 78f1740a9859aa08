"""Health, readiness and metrics."""

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter
from starlette.testclient import TestClient

from loramux_server.api.health import health_router
from loramux_server.middleware import add_error_handlers


class Engine:
    reason: str | None = None

    def not_ready_reason(self) -> str | None:
        return self.reason


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def client(engine: Engine) -> TestClient:
    registry = CollectorRegistry()
    Counter("seen", "Seen.", registry=registry).inc()
    app = FastAPI()
    add_error_handlers(app)
    app.include_router(health_router(engine.not_ready_reason, registry))
    return TestClient(app)


def test_health_is_ok_even_when_the_server_is_not_ready(client: TestClient, engine: Engine) -> None:
    engine.reason = "The engine is dead."
    assert client.get("/health").status_code == 200
    assert client.head("/health").status_code == 200


def test_ready_reports_why_the_server_is_not_ready(client: TestClient, engine: Engine) -> None:
    assert client.get("/ready").status_code == 200
    engine.reason = "The server is shutting down."
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert answer.json()["error"]["message"] == "The server is shutting down."
    assert answer.headers["retry-after"]


@pytest.mark.parametrize("accept", ["", "text/plain", "application/openmetrics-text; version=1.0.0"])
def test_metrics_have_the_accepted_format(client: TestClient, accept: str) -> None:
    answer = client.get("/metrics", headers={"accept": accept})
    assert "seen_total 1.0" in answer.text
    assert answer.headers["content-type"].startswith(accept.partition(";")[0] or "text/plain")


def test_metrics_can_be_limited_by_name(client: TestClient) -> None:
    assert "seen_total 1.0" in client.get("/metrics", params={"name[]": ["seen_total", "other"]}).text
    assert "seen" not in client.get("/metrics", params={"name[]": "other"}).text
