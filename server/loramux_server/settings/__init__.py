"""The settings, read once at start and passed on; nothing else reads the environment."""

from loramux_server.settings.engine_environment import export_engine_environment, export_gpu_order
from loramux_server.settings.errors import SettingsError
from loramux_server.settings.loading import load_settings
from loramux_server.settings.schema import EXAMPLES_FOLDER, FairnessSettings, LimitSettings, Settings, TrainingSettings

__all__ = [
    "EXAMPLES_FOLDER",
    "FairnessSettings",
    "LimitSettings",
    "Settings",
    "SettingsError",
    "TrainingSettings",
    "export_engine_environment",
    "export_gpu_order",
    "load_settings",
]
