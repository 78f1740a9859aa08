"""Fixtures that keep load tests quick in a process that has imported vLLM."""

from contextlib import nullcontext

import pytest

from loramux_loadtests.loadtest import plots, session


@pytest.fixture(autouse=True)
def no_gc_control(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the garbage collector alone: a full collection takes half a second, and thaws what the test run froze."""
    monkeypatch.setattr(session, "short_gc_pauses", nullcontext)


@pytest.fixture
def no_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave plots empty; test_page.py draws them."""
    monkeypatch.setattr(plots, "render_svg", lambda _draw: "<svg></svg>")
