import gc
from functools import partial

import pytest

from loramux_loadtests.loadtest.runner import short_gc_pauses


def test_during_a_load_older_objects_are_not_collected_and_then_all_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    for name in ("collect", "freeze", "unfreeze"):
        monkeypatch.setattr(gc, name, partial(calls.append, name))
    before = gc.get_threshold()
    with short_gc_pauses():
        assert gc.get_threshold()[2] > 1000 * before[2]
        assert calls == ["collect", "freeze"]
    assert gc.get_threshold() == before
    assert calls == ["collect", "freeze", "unfreeze"]
