from typing import Any

import pytest

from loramux_server.base_model import ResolvedBase
from loramux_server.engine.arguments import EngineArgumentError, engine_arguments
from loramux_server.engine.refused_arguments import REFUSED


def parsed(base: ResolvedBase, **options: Any) -> Any:
    return engine_arguments(base.path, base.name, options)


def test_options_of_every_kind_are_parsed_by_vllm(tiny_base: ResolvedBase) -> None:
    arguments = parsed(
        tiny_base,
        max_loras=3,
        enforce_eager=True,
        async_scheduling=False,
        gpu_memory_utilization=0.5,
        hf_overrides={"vocab_size": 99},
        dtype="float32",
        max_cpu_loras=None,
    )
    assert (arguments.max_loras, arguments.enforce_eager, arguments.async_scheduling) == (3, True, False)
    assert (arguments.gpu_memory_utilization, arguments.dtype) == (0.5, "float32")
    assert arguments.hf_overrides == {"vocab_size": 99}
    assert arguments.max_cpu_loras is None


def test_an_automatic_rank_is_vllms_default(tiny_base: ResolvedBase) -> None:
    assert parsed(tiny_base, max_lora_rank="auto").max_lora_rank == parsed(tiny_base).max_lora_rank


def test_the_base_and_adapters_are_always_as_loramux_has_them(tiny_base: ResolvedBase) -> None:
    arguments = parsed(tiny_base)
    assert (arguments.model, arguments.served_model_name) == (str(tiny_base.path), ["tiny"])
    assert arguments.enable_lora


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_arguments_are_refused_with_the_reason_or_the_setting_to_use(
    tiny_base: ResolvedBase, name: str
) -> None:
    with pytest.raises(EngineArgumentError) as caught:
        parsed(tiny_base, **{name: "x"})
    assert str(caught.value) == f"the engine argument `{name}` can't be set: {REFUSED[name]}"


def test_several_engines_are_refused_whatever_argument_asks_for_them(tiny_base: ResolvedBase) -> None:
    """An adapter would be loaded into the slots of one of them only."""
    names = [name for name in vars(parsed(tiny_base)) if name.startswith("data_parallel_")]
    assert "data_parallel_size" in names
    for name in names:
        with pytest.raises(EngineArgumentError, match="run one per GPU"):
            parsed(tiny_base, **{name: 2})


def test_an_unknown_name_is_refused_with_a_suggestion(tiny_base: ResolvedBase) -> None:
    with pytest.raises(EngineArgumentError, match="`max_lora`; did you mean `max_loras`"):
        parsed(tiny_base, max_lora=3)


@pytest.mark.parametrize("options", [{"max_loras": "many"}, {"dtype": "float99"}, {"tool_call_parser": ""}])
def test_a_value_that_vllm_refuses_is_reported(tiny_base: ResolvedBase, options: dict[str, Any]) -> None:
    with pytest.raises(EngineArgumentError, match="vLLM refused it"):
        parsed(tiny_base, enable_auto_tool_choice=True, **options)


def test_a_value_that_looks_like_an_option_stays_a_value(tiny_base: ResolvedBase) -> None:
    arguments = parsed(tiny_base, revision="--host=0.0.0.0")
    assert (arguments.revision, arguments.host) == ("--host=0.0.0.0", None)


def test_refused_names_are_names_that_vllm_has(tiny_base: ResolvedBase) -> None:
    assert set(REFUSED) - set(vars(parsed(tiny_base))) <= {"grpc", "headless"}  # of another command line
