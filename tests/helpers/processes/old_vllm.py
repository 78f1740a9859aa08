"""Import vllm_compat in a process that has only the modules of vLLM 0.26, and check what it found there."""

import sys
import types

MODULES = {
    "vllm": (),
    "vllm.entrypoints": (),
    "vllm.entrypoints.openai": (),
    "vllm.exceptions": (),
    "vllm.entrypoints.chat_utils": ("load_chat_template",),
    "vllm.entrypoints.openai.api_server": ("init_app_state",),
    "vllm.v1": (),
    "vllm.v1.core": (),
    "vllm.v1.core.kv_cache_utils": ("_max_memory_usage_bytes_from_groups", "get_kv_cache_groups"),
    "vllm.entrypoints.openai.cli_args": ("make_arg_parser", "validate_parsed_serve_args"),
}


def install_old_vllm() -> None:
    """Put empty modules in vLLM's place, with the names of 0.26 in them."""
    for name, contents in MODULES.items():
        module = sys.modules[name] = types.ModuleType(name)
        module.__path__ = []
        for each in contents:
            setattr(module, each, f"old {each}")


if __name__ == "__main__":
    install_old_vllm()
    from loramux_server.engine import vllm_compat

    assert vllm_compat.init_app_state == "old init_app_state", vllm_compat.init_app_state
    assert vllm_compat.make_arg_parser == "old make_arg_parser"
    assert vllm_compat.get_kv_cache_groups == "old get_kv_cache_groups"
    assert vllm_compat.load_chat_template == "old load_chat_template"
    assert vllm_compat.CONVERT_MESSAGES == "_convert_anthropic_to_openai_request"
    assert list(vllm_compat.UNSUPPORTED_ARGUMENTS) == ["tool_strict_level"]
    assert isinstance(vllm_compat.GracefulHTTPError("full", 503), ValueError)
    assert str(vllm_compat.GracefulHTTPError("full", 503)) == "full"
    assert vllm_compat.init_exception_handler(object()) is None
