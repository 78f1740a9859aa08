"""Import vllm_compat in a process that has only the modules of another vLLM, and check what it found there."""

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Mapping

CLI_ARGS = ("make_arg_parser", "validate_parsed_serve_args")
OF_026 = {
    "vllm.exceptions": (),
    "vllm.entrypoints.chat_utils": ("load_chat_template",),
    "vllm.entrypoints.openai.api_server": ("init_app_state",),
    "vllm.entrypoints.openai.cli_args": CLI_ARGS,
    "vllm.v1.core.kv_cache_utils": ("_max_memory_usage_bytes_from_groups", "get_kv_cache_groups"),
}
OF_033 = {
    "vllm.exceptions": ("GracefulHTTPError",),
    "vllm.entrypoints.common.cli_args": CLI_ARGS,
    "vllm.entrypoints.launchers.api_server.app_state": ("init_app_state",),
    "vllm.entrypoints.serve.exception_handling.register": ("init_exception_handler",),
    "vllm.renderers.chat_utils": ("load_chat_template",),
    "vllm.v1.core.kv_cache_config_builder": ("get_kv_cache_config_builder",),
    "vllm.v1.core.kv_cache_planning": ("_max_memory_usage_bytes_from_groups", "get_kv_cache_groups_from_builder"),
}


def install_vllm(modules: Mapping[str, tuple[str, ...]]) -> None:
    """Put empty modules in vLLM's place, with these names in them."""
    for name, contents in modules.items():
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            parent = ".".join(parts[:length])
            sys.modules.setdefault(parent, types.ModuleType(parent)).__path__ = []
        for each in contents:
            setattr(sys.modules[name], each, f"stub {each}")


class NeedsPackage(importlib.abc.MetaPathFinder):
    """Makes the import of vLLM's new module fail because a package that it needs is not installed."""

    def find_spec(self, name: str, *_: object) -> importlib.machinery.ModuleSpec | None:
        """Raise the error for that module."""
        if name == "vllm.entrypoints.common.cli_args":
            raise ModuleNotFoundError("No module named 'orjson'", name="orjson")
        return None


def check_026() -> None:
    """Check the replacements for names that 0.26 does not have."""
    install_vllm(OF_026)
    from loramux_server.engine import vllm_compat

    assert vllm_compat.init_app_state == "stub init_app_state", vllm_compat.init_app_state
    assert vllm_compat.make_arg_parser == "stub make_arg_parser"
    assert "get_kv_cache_groups" in vllm_compat.kv_cache_bytes.__code__.co_names
    assert vllm_compat.load_chat_template == "stub load_chat_template"
    assert vllm_compat.CONVERT_MESSAGES == "_convert_anthropic_to_openai_request"
    assert list(vllm_compat.UNSUPPORTED_ARGUMENTS) == ["tool_strict_level"]
    assert isinstance(vllm_compat.GracefulHTTPError("full", 503), ValueError)
    assert str(vllm_compat.GracefulHTTPError("full", 503)) == "full"
    assert vllm_compat.init_exception_handler(object()) is None


def check_033() -> None:
    """Check that the names that moved are found."""
    install_vllm(OF_033)
    from loramux_server.engine import vllm_compat

    assert vllm_compat.make_arg_parser == "stub make_arg_parser"
    assert "get_kv_cache_groups_from_builder" in vllm_compat.kv_cache_bytes.__code__.co_names
    assert vllm_compat.CONVERT_MESSAGES == "to_chat_completion_request"


def check_missing_package() -> None:
    """Check that a package that vLLM misses is the error, and not that an older vLLM's module is not there."""
    install_vllm({name: names for name, names in OF_033.items() if "common" not in name})
    sys.modules["vllm.entrypoints.common"] = types.ModuleType("vllm.entrypoints.common")
    sys.modules["vllm.entrypoints.common"].__path__ = []
    sys.meta_path.insert(0, NeedsPackage())
    try:
        from loramux_server.engine import vllm_compat  # noqa: F401
    except ModuleNotFoundError as error:
        assert error.name == "orjson", error
    else:
        raise AssertionError("the error was hidden")


if __name__ == "__main__":
    {"0.26": check_026, "0.33": check_033, "missing": check_missing_package}[sys.argv[1]]()
