from pathlib import Path

from loramux_loadtests.machine import describe_machine


def test_the_machine_is_described_without_naming_it() -> None:
    described = describe_machine()
    assert described["memory_gib"] > 0
    assert described["commit"]
    assert Path("/etc/hostname").read_text().strip() not in described.values()
