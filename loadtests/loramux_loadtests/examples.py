"""The example adapters and their data, which are installed with the package loramux_adapters."""

from importlib.resources import files
from pathlib import Path

PACKAGE = Path(str(files("loramux_adapters")))
"""The folder in which `examples/NAME/...` lies, in a checkout and where loramux was installed from a wheel."""
EXAMPLES = PACKAGE / "examples"


def example_adapters() -> dict[str, Path]:
    """Folders of the example adapters by name; empty if the installed package lacks their weights."""
    return {path.parent.name: path.parent.resolve() for path in sorted(EXAMPLES.glob("*/adapter_config.json"))}
