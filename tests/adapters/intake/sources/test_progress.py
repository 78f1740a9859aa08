import pytest

from loramux_adapters.errors import InvalidAdapter
from loramux_adapters.intake.sources.progress import at_most, progress_bar


def test_a_bar_tells_at_its_end_and_seldom_before() -> None:
    lines: list[str] = []
    with progress_bar("downloading", lines.append)(total=1_000_000, unit="B") as bar:
        for _ in range(1000):
            bar.update(1000)
    assert lines == ["downloading: 1.00MB of 1.00MB"]


def test_a_bar_that_counts_other_things_than_bytes_is_silent_and_unbounded() -> None:
    lines: list[str] = []
    with progress_bar("downloading", lines.append, at_most("x", 1))(total=3, unit="it") as bar:
        bar.update(3)
    assert lines == []


def test_what_is_announced_above_the_bound_is_refused_at_once() -> None:
    with pytest.raises(InvalidAdapter, match=r"x: the file is too large \(expected at most 10 bytes, found 11\)"):
        progress_bar("downloading", print, at_most("x", 10))(total=11, unit="B")


def test_what_arrives_above_the_bound_is_refused_though_it_was_announced_as_less() -> None:
    with progress_bar("downloading", lambda _: None, at_most("x", 10))(total=5, unit="B") as bar:
        bar.update(10)
        with pytest.raises(InvalidAdapter, match="too large"):
            bar.update(1)


def test_a_bar_that_is_switched_off_counts_all_the_same() -> None:
    with progress_bar("downloading", lambda _: None, at_most("x", 10))(unit="B", disable=True) as bar:
        bar.update(10)
        with pytest.raises(InvalidAdapter, match="too large"):
            bar.update(1)
