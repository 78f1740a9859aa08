import sys
from pathlib import Path

from loramux_loadtests.servers import ServerSpec, free_port

SCRIPT = Path(__file__).with_name("fake_server.py")


def fake_spec(habit: str = "", name: str = "fake", environment: dict[str, str] | None = None) -> ServerSpec:
    port = free_port()
    command = (sys.executable, str(SCRIPT), str(port), habit)
    return ServerSpec(name, command, environment or {}, port, ready_path="/health")
