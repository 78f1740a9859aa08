from hypothesis import given, settings
from hypothesis import strategies as st

from loramux_adapters import errors
from loramux_adapters.errors import AdapterError, InvalidAdapter

OWN = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, AdapterError)}


def test_error_codes_are_stable() -> None:
    assert {kind.__name__: kind.code for kind in OWN} == {
        "AdapterError": "adapter_error",
        "InvalidAdapterName": "adapter_name_invalid",
        "InvalidVersion": "version_invalid",
        "InvalidAlias": "alias_invalid",
        "UnsupportedBase": "base_unsupported",
        "InvalidAdapter": "adapter_invalid",
        "AdapterRejected": "adapter_rejected",
        "SourceUnavailable": "source_unavailable",
        "PathNotAllowed": "path_not_allowed",
        "AdapterNotFound": "adapter_not_found",
        "VersionNotFound": "version_not_found",
        "VersionNotReady": "version_not_ready",
        "VersionQuarantined": "adapter_quarantined",
        "VersionInUse": "version_in_use",
        "NothingToRollBack": "nothing_to_roll_back",
        "PinLimit": "pin_limit_reached",
        "AdapterExists": "adapter_exists",
        "AliasNotFound": "alias_not_found",
        "AliasConflict": "alias_conflict",
        "AliasTargetMissing": "model_not_found",
        "StoreError": "adapter_store_failed",
        "TransientError": "adapter_error",
        "AdapterLoadingFailed": "adapter_loading_failed",
        "NoAdapterCapacity": "no_adapter_capacity",
        "EngineAsleep": "engine_asleep",
    }


def test_the_module_docstring_lists_every_error() -> None:
    for kind in OWN:
        assert f"{kind.__name__} " in str(errors.__doc__)
        assert kind.code in str(errors.__doc__)


def test_an_invalid_adapter_says_where_what_was_expected_and_what_was_found() -> None:
    error = InvalidAdapter("the shape is wrong", where="layer.0", expected=(4, 16), found=(8, 16))
    assert error.message == "layer.0: the shape is wrong (expected (4, 16), found (8, 16))"


@settings(deadline=None)
@given(st.text(), st.text())
def test_values_from_a_hostile_file_are_printed_on_one_short_line(where: str, found: str) -> None:
    message = InvalidAdapter("wrong", where=where, found=found).message
    assert message.isprintable()
    assert len(message) < 500
