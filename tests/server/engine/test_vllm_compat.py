"""Where vLLM 0.26 has what 0.32 moved: checked in a process that has only such places."""

import subprocess
import sys

OLD = """
import sys, types
NEW = ("vllm.entrypoints.launchers", "vllm.entrypoints.serve.exception_handling")
OLD = {
    "vllm": (), "vllm.entrypoints": (), "vllm.entrypoints.openai": (), "vllm.exceptions": (),
    "vllm.entrypoints.openai.api_server": ("init_app_state",),
    "vllm.entrypoints.openai.cli_args": ("make_arg_parser", "validate_parsed_serve_args"),
}
for name, contents in OLD.items():
    module = sys.modules[name] = types.ModuleType(name)
    module.__path__ = []
    for each in contents:
        setattr(module, each, f"old {each}")
from loramux_server.engine import places
assert places.init_app_state == "old init_app_state", places.init_app_state
assert places.make_arg_parser == "old make_arg_parser"
assert places.LACKING == {"tool_strict_level"}
assert isinstance(places.GracefulHTTPError("full", 503), ValueError)
assert str(places.GracefulHTTPError("full", 503)) == "full"
assert places.init_exception_handler(object()) is None
"""


def test_what_moved_is_found_where_the_older_vllm_has_it() -> None:
    subprocess.run([sys.executable, "-c", OLD], check=True)
