import pytest

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.sources.progress import progress_bar_class, size_check


def test_a_bar_reports_at_its_end_and_rarely_before() -> None:
    lines: list[str] = []
    with progress_bar_class("downloading", lines.append)(total=1_000_000, unit="B") as bar:
        for _ in range(1000):
            bar.update(1000)
    assert lines == ["downloading: 1.00MB of 1.00MB"]


def test_a_bar_with_another_unit_than_bytes_reports_and_limits_nothing() -> None:
    lines: list[str] = []
    with progress_bar_class("downloading", lines.append, size_check("x", 1))(total=3, unit="it") as bar:
        bar.update(3)
    assert lines == []


def test_an_announced_size_above_the_limit_is_refused_immediately() -> None:
    with pytest.raises(InvalidAdapter, match=r"x: the file is too large \(expected at most 10 bytes, found 11\)"):
        progress_bar_class("downloading", print, size_check("x", 10))(total=11, unit="B")


def test_received_bytes_above_the_limit_are_refused_although_fewer_were_announced() -> None:
    with progress_bar_class("downloading", lambda _: None, size_check("x", 10))(total=5, unit="B") as bar:
        bar.update(10)
        with pytest.raises(InvalidAdapter, match="too large"):
            bar.update(1)


def test_a_disabled_bar_enforces_the_limit_too() -> None:
    with progress_bar_class("downloading", lambda _: None, size_check("x", 10))(unit="B", disable=True) as bar:
        bar.update(10)
        with pytest.raises(InvalidAdapter, match="too large"):
            bar.update(1)
