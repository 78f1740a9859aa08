"""The environment of the processes that send metrics to Weights & Biases: without the settings of this server."""

import os
from collections.abc import Mapping

from loramux_server.settings.schema import PREFIX


def wandb_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment without API keys and other settings of this server."""
    return {name: value for name, value in environ.items() if not name.upper().startswith(PREFIX)}
