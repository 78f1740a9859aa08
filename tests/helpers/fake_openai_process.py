import sys
from pathlib import Path

from loramux_loadtests.servers import ServerSpec, free_port
from tests.helpers.llama_bases import LlamaSizes, write_weights

SCRIPT = Path(__file__).with_name("fake_openai_server.py")
SMALL = LlamaSizes(8, 8, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=1)


def fake_spec(mode: str = "", name: str = "fake", environment: dict[str, str] | None = None) -> ServerSpec:
    port = free_port()
    command = (sys.executable, str(SCRIPT), str(port), mode)
    return ServerSpec(name, command, environment or {}, port, ready_path="/health")


def small_base(folder: Path) -> Path:
    """Write the weights of a base, whose shapes are all that synthetic adapters need."""
    base = folder / "base"
    base.mkdir(parents=True)
    write_weights(base, SMALL)
    return base
