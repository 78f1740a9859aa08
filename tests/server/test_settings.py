"""Where settings come from, how they are validated, and the messages about invalid ones."""

import json
import logging
import os
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from typer.main import get_command

from loramux_server.cli.main import main
from loramux_server.settings import Settings, SettingsError, export_gpu_order, load_settings
from loramux_server.settings.wandb_environment import wandb_environment


@pytest.fixture(autouse=True)
def working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(environ: dict[str, str]) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(environ=environ)
    return str(caught.value)


def test_without_settings_the_server_is_on_loopback_with_the_demo_base() -> None:
    settings = load_settings(environ={})
    assert (settings.host, settings.port, settings.base, settings.api_keys) == ("127.0.0.1", 8000, "demo", ())
    assert settings.database_url == "sqlite:///.loramux/loramux.sqlite3"
    assert settings.allowed_roots == (Path("my-adapters"), Path("adapters"), Path(".loramux"))


def test_base_mismatch_is_warn_or_refuse() -> None:
    assert load_settings(environ={}).base_mismatch == "warn"
    assert load_settings(environ={"LORAMUX_BASE_MISMATCH": "refuse"}).base_mismatch == "refuse"
    assert "base_mismatch" in refusal({"LORAMUX_BASE_MISMATCH": "ignore"})


def test_a_queue_of_length_0_is_refused() -> None:
    assert load_settings(environ={"LORAMUX_TRAINING__QUEUE": "1"}).training.queue == 1
    assert "training.queue" in refusal({"LORAMUX_TRAINING__QUEUE": "0"})


def test_the_engine_sleeps_only_if_it_is_told_to_and_for_a_training_on_a_gpu() -> None:
    assert load_settings(environ={}).training.sleep is False
    assert load_settings(environ={"LORAMUX_TRAINING__SLEEP": "true"}).training.sleep is True
    assert "device is cpu" in refusal({"LORAMUX_TRAINING__SLEEP": "true", "LORAMUX_TRAINING__DEVICE": "cpu"})


@pytest.mark.parametrize("value", ["yes", "4", "Auto"])
def test_quantize_has_three_values(value: str) -> None:
    assert load_settings(environ={"LORAMUX_TRAINING__QUANTIZE": "never"}).training.quantize == "never"
    assert "training.quantize" in refusal({"LORAMUX_TRAINING__QUANTIZE": value})


def test_4_bits_on_a_cpu_are_refused() -> None:
    environ = {"LORAMUX_TRAINING__QUANTIZE": "always", "LORAMUX_TRAINING__DEVICE": "cpu"}
    assert "quantize is always, which needs a GPU" in refusal(environ)


def test_paths_inside_the_data_folder_follow_it() -> None:
    settings = load_settings(environ={"LORAMUX_DATA_DIR": "/srv/data"})
    assert settings.database_url == "sqlite:////srv/data/loramux.sqlite3"
    assert settings.allowed_roots == (Path("my-adapters"), Path("adapters"), Path("/srv/data"))


def test_options_override_the_environment_which_overrides_the_file(working_folder: Path) -> None:
    (working_folder / "loramux.yaml").write_text("base: file\nport: 1\nhost: localhost\nengine: {a: 1, b: 1, c: 1}\n")
    environ = {"LORAMUX_PORT": "2", "LORAMUX_BASE": "environment", "LORAMUX_ENGINE__B": "2", "LORAMUX_ENGINE__C": "2"}
    settings = load_settings(overrides={"base": "line", "port": None, "engine": {"c": 3}}, environ=environ)
    assert (settings.host, settings.port, settings.base) == ("localhost", 2, "line")
    assert settings.engine == {"a": 1, "b": 2, "c": 3}


def test_the_file_is_the_callers_else_the_environments_else_the_default(working_folder: Path) -> None:
    for name in ("loramux", "environment", "caller"):
        (working_folder / f"{name}.yaml").write_text(f"base: {name}")
    environ = {"LORAMUX_CONFIG": "environment.yaml"}
    assert load_settings(Path("caller.yaml"), environ=environ).base == "caller"
    assert load_settings(environ=environ).base == "environment"
    assert load_settings(environ={}).base == "loramux"


def test_engine_values_are_parsed_as_json_where_possible() -> None:
    environ = {"MAX_LORAS": "8", "ENFORCE_EAGER": "true", "DTYPE": "float32", "OVERRIDES": '{"a": [1]}'}
    settings = load_settings(environ={f"LORAMUX_ENGINE__{name}": value for name, value in environ.items()})
    assert settings.engine == {
        "max_loras": 8,
        "enforce_eager": True,
        "dtype": "float32",
        "overrides": {"a": [1]},
    }


@pytest.mark.parametrize("text", ["one,two", " one , two ", '["one", "two"]'])
def test_keys_and_roots_are_parsed_from_json_or_commas(text: str) -> None:
    settings = load_settings(environ={"LORAMUX_API_KEYS": text, "LORAMUX_ALLOWED_ROOTS": text})
    assert [key.get_secret_value() for key in settings.api_keys] == ["one", "two"]
    assert settings.allowed_roots == (Path("one"), Path("two"))


def test_an_empty_variable_is_ignored() -> None:
    assert load_settings(environ={"LORAMUX_API_KEYS": "", "LORAMUX_BASE": ""}).base == "demo"


def test_variables_of_other_programs_and_of_the_setup_script_are_ignored() -> None:
    load_settings(environ={"LORAMUX_BACKEND": "cpu", "LORAMUXER": "x", "PATH": "/bin", "PORT": "1"})


def variables_of(command: Any) -> set[str]:
    """Return the environment variables that a command and its subcommands read."""
    own = {str(parameter.envvar) for parameter in command.params if parameter.envvar}
    return own.union(*map(variables_of, getattr(command, "commands", {}).values()))


def test_variables_of_the_commands_are_ignored() -> None:
    names = variables_of(get_command(main))
    assert {"LORAMUX_CLI_URL", "LORAMUX_ARM_API_KEYS"} <= names
    load_settings(environ=dict.fromkeys(names, "x"))


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("LORAMUX_PROT", "LORAMUX_PORT"),
        ("LORAMUX_API_KEY", "LORAMUX_API_KEYS"),
        ("LORAMUX_ENGIN__MAX_LORAS", "LORAMUX_ENGINE"),
        ("LORAMUX_PORT__X", "LORAMUX_PORT"),
        ("loramux_prot", "LORAMUX_PORT"),
    ],
)
def test_an_unknown_variable_is_refused_with_a_suggestion(name: str, suggestion: str) -> None:
    assert refusal({name: "1"}) == f"Unknown setting {name}: did you mean {suggestion}?"


def test_an_unknown_key_in_the_file_is_refused_with_a_suggestion(working_folder: Path) -> None:
    (working_folder / "loramux.yaml").write_text("drain_secs: 1\nprot: 1\n")
    assert refusal({}).splitlines() == [
        "Unknown setting drain_secs: did you mean drain_seconds?",
        "Unknown setting prot: did you mean port?",
    ]


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [1\n", "just text", "\x00", "é".encode("latin-1")])
def test_an_invalid_file_is_refused_by_name_in_one_line(content: str | bytes, working_folder: Path) -> None:
    content = content if isinstance(content, bytes) else content.encode()
    (working_folder / "loramux.yaml").write_bytes(content)
    message = refusal({})
    assert message.startswith("loramux.yaml ")
    assert "\n" not in message


def test_an_empty_file_is_valid(working_folder: Path) -> None:
    (working_folder / "loramux.yaml").write_text("# nothing yet\n")
    assert load_settings(environ={}).base == "demo"


def test_a_missing_file_is_an_error() -> None:
    assert refusal({"LORAMUX_CONFIG": "missing.yaml"}).startswith("missing.yaml can't be read: ")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"LORAMUX_PORT": "x"}, "port: Input should be a valid integer, unable to parse string as an integer"),
        ({"LORAMUX_PORT": "65536"}, "port: Input should be less than or equal to 65535"),
        ({"LORAMUX_DRAIN_SECONDS": "-1"}, "drain_seconds: Input should be greater than or equal to 0"),
        ({"LORAMUX_ALLOWED_ROOTS": "a,"}, "allowed_roots: an item is empty"),
        ({"LORAMUX_ALLOWED_ROOTS": "[1"}, "allowed_roots: Expecting ',' delimiter: line 1 column 3 (char 2)"),
    ],
)
def test_an_invalid_value_is_reported_in_one_line(environ: dict[str, str], message: str) -> None:
    assert refusal(environ) == message


@pytest.mark.parametrize(
    ("urls", "problem"),
    [
        ("s3://a,/srv", "it should look like s3://bucket/folder"),
        ("s3://a,file://srv", "it should begin with one of s3://, "),
        ("s3://a/../b", "it must not contain the parts . and .."),
        ("https://", "it needs a host"),
    ],
)
def test_a_prefix_that_is_not_a_url_of_an_object_store_is_refused(urls: str, problem: str) -> None:
    assert refusal({"LORAMUX_ALLOWED_URLS": urls}).startswith(f"allowed_urls: {problem}")


def test_urls_are_parsed_from_json_or_commas_and_may_be_empty() -> None:
    for text, urls in (("s3://a, gs://b", ("s3://a", "gs://b")), ("[]", ())):
        assert load_settings(environ={"LORAMUX_ALLOWED_URLS": text}).allowed_urls == urls


def test_all_problems_are_reported_together() -> None:
    assert len(refusal({"LORAMUX_PORT": "x", "LORAMUX_MAX_BODY_BYTES": "0"}).splitlines()) == 2


def test_an_engine_setting_that_is_not_a_mapping_is_refused() -> None:
    assert "engine" in refusal({"LORAMUX_ENGINE": "nope"})


@pytest.mark.parametrize("keys", ["hunter two", "hunter\x7f", "hünter", "hunter,"])
def test_a_key_that_can_not_be_sent_is_refused_without_being_shown(keys: str) -> None:
    message = refusal({"LORAMUX_API_KEYS": keys})
    assert message.startswith("api_keys: ")
    assert "nter" not in message


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
def test_a_public_address_needs_keys(host: str) -> None:
    with pytest.raises(SettingsError, match="LORAMUX_API_KEYS"):
        load_settings(overrides={"host": host}, environ={})
    assert load_settings(overrides={"host": host}, environ={"LORAMUX_API_KEYS": "key"}).host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_a_loopback_address_needs_no_keys(host: str) -> None:
    assert load_settings(overrides={"host": host}, environ={}).host == host


def test_settings_hide_secrets_and_are_frozen() -> None:
    settings = load_settings(environ={"LORAMUX_API_KEYS": "hunter2", "LORAMUX_DATABASE_URL": "postgresql://u:pass@h/d"})
    assert "hunter2" not in repr(settings)
    assert "pass" not in repr(settings)
    with pytest.raises(ValidationError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_the_constructor_reads_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORAMUX_BASE", "environment")
    assert Settings().base == "demo"
    assert load_settings().base == "environment"


@given(st.dictionaries(st.text(max_size=12).map(lambda rest: f"LORAMUX_{rest}"), st.text(max_size=20), max_size=4))
def test_any_environment_gives_settings_or_a_settings_error(environ: dict[str, str]) -> None:
    try:
        load_settings(environ=environ)
    except SettingsError as error:
        assert str(error)


def test_prices_come_from_the_file_and_the_environment_together(tmp_path: Path) -> None:
    file = tmp_path / "loramux.yaml"
    file.write_text("prices: {base: {input: 0.15, output: 0.6}, adapters: {a/b: {multiplier: 2}}, gpu_hour: 2}")
    environ = {"LORAMUX_PRICES__BASE__INPUT": "0.25", "LORAMUX_PRICES__GPUS": "2"}
    prices = load_settings(file, environ=environ).prices
    assert (prices.base.input, prices.base.output) == (Decimal("0.25"), Decimal("0.6"))
    assert prices.adapters["a/b"].multiplier == 2
    assert prices.nanodollars_per_hour == 4_000_000_000


def test_prices_may_be_one_json_variable() -> None:
    prices = load_settings(environ={"LORAMUX_PRICES": '{"adapters": {"tone": {"training": 4.5}}}'}).prices
    assert prices.stated_training_cost("tone") == Decimal("4.5")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prices: {bse: {input: 1}}", "Unknown setting prices.bse: did you mean prices.base?"),
        ("prices: {base: {inputs: 1}}", "Unknown setting prices.base.inputs: did you mean prices.base.input?"),
        ("prices: {base: {input: -1}}", "prices.base.input: Input should be greater than or equal to 0"),
        ("prices: {gpus: 0}", "prices.gpus: Input should be greater than or equal to 1"),
        ("prices: cheap", "prices: Input should be a valid dictionary"),
        ("traces_endpoint: localhost:4318", "traces_endpoint: String should match pattern"),
    ],
)
def test_an_invalid_price_is_reported_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "loramux.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError, match=re.escape(message)):
        load_settings(file, environ={})


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("name", ["LORAMUX_USAGE_SUM_DAYS", "loramux_usage_sum_days"])
def test_a_deprecated_variable_works_with_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    assert load_settings(environ={name: "7"}).usage_rollup_days == 7
    assert warnings_of(caplog) == [f"{name} is deprecated: use LORAMUX_USAGE_ROLLUP_DAYS instead"]


def test_deprecated_keys_of_the_file_work_with_a_warning(
    working_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (working_folder / "loramux.yaml").write_text("usage_sum_days: 7\ntraining: {trial_questions: 5, queue: 3}\n")
    settings = load_settings(environ={})
    assert (settings.usage_rollup_days, settings.training.evaluation_items, settings.training.queue) == (7, 5, 3)
    assert warnings_of(caplog) == [
        "usage_sum_days is deprecated: use usage_rollup_days instead",
        "training.trial_questions is deprecated: use training.evaluation_items instead",
    ]


@pytest.mark.parametrize(
    "environ",
    [{"LORAMUX_TRAINING__TRIAL_QUESTIONS": "5"}, {"LORAMUX_TRAINING": '{"trial_questions": 5}'}],
)
def test_a_deprecated_nested_variable_works_with_a_warning(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    assert load_settings(environ=environ).training.evaluation_items == 5
    [warning] = warnings_of(caplog)
    assert "is deprecated: use " in warning


def test_the_present_name_in_the_environment_overrides_the_deprecated_one_in_the_file(working_folder: Path) -> None:
    (working_folder / "loramux.yaml").write_text("usage_sum_days: 7\n")
    assert load_settings(environ={"LORAMUX_USAGE_ROLLUP_DAYS": "9"}).usage_rollup_days == 9


def test_a_setting_under_both_names_in_one_place_is_refused() -> None:
    environ = {"LORAMUX_USAGE_SUM_DAYS": "7", "LORAMUX_USAGE_ROLLUP_DAYS": "9"}
    message = "LORAMUX_USAGE_SUM_DAYS is the old name of LORAMUX_USAGE_ROLLUP_DAYS: set only the latter."
    assert refusal(environ) == message


def test_present_names_give_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    load_settings(environ={"LORAMUX_USAGE_ROLLUP_DAYS": "9", "LORAMUX_TRAINING__EVALUATION_ITEMS": "5"})
    assert warnings_of(caplog) == []


@pytest.mark.parametrize(("order", "exported"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST", "FASTEST_FIRST")])
def test_a_trainer_without_a_server_numbers_gpus_as_a_server_does(
    order: str | None, exported: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {} if order is None else {"CUDA_DEVICE_ORDER": order})
    export_gpu_order()
    assert os.environ["CUDA_DEVICE_ORDER"] == exported


def test_aliases_come_from_the_file_with_colons_in_their_names(working_folder: Path) -> None:
    text = "aliases:\n  ft:gpt-4o-mini-2024-07-18:acme:tone:abc123: tone\n  gpt-4o-mini: SmolLM2-135M-Instruct\n"
    (working_folder / "loramux.yaml").write_text(text)
    settings = load_settings(environ={"LORAMUX_ALIASES": '{"gpt-4o": "tone@0123456789ab"}'})
    assert settings.aliases == {
        "ft:gpt-4o-mini-2024-07-18:acme:tone:abc123": "tone",
        "gpt-4o-mini": "SmolLM2-135M-Instruct",
        "gpt-4o": "tone@0123456789ab",
    }


@pytest.mark.parametrize(
    ("aliases", "problem"),
    [
        ({"a b": "tone"}, "the alias 'a b' is invalid"),
        ({"x@0123456789ab": "tone"}, "is invalid"),
        ({"one": "two", "two": "tone"}, "the alias one points at two, an alias itself"),
        ({"one": "one"}, "an alias itself"),
        ({"one": ""}, "the alias one needs the name of a model"),
    ],
)
def test_an_alias_that_can_not_work_is_refused(aliases: dict[str, str], problem: str) -> None:
    assert problem in refusal({"LORAMUX_ALIASES": json.dumps(aliases)})


def test_processes_of_other_libraries_do_not_get_this_server_s_settings() -> None:
    environ = {"LORAMUX_API_KEYS": "secret", "loramux_base": "demo", "WANDB_API_KEY": "key", "PATH": "/bin"}
    assert wandb_environment(environ) == {"WANDB_API_KEY": "key", "PATH": "/bin"}


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"LORAMUX_CORS_ORIGINS": "chat.example.com"}, "'chat.example.com' is no origin"),
        ({"LORAMUX_CORS_ORIGINS": "https://chat.example.com/"}, "is no origin"),
        ({"LORAMUX_CORS_ORIGINS": "https://chat.example.com,https://*.example.com"}, "is no origin"),
        ({"LORAMUX_CORS_ORIGINS": "*"}, "every web page could use a server without keys"),
        ({"LORAMUX_SSL_KEYFILE": "key.pem"}, "ssl_keyfile is set without ssl_certfile"),
        ({"LORAMUX_CONNECTIONS__HEADERS": "0"}, "LORAMUX_CONNECTIONS__HEADERS"),
        ({"LORAMUX_CONNECTIONS__BODY_SECONDS": "-1"}, "LORAMUX_CONNECTIONS__BODY_SECONDS"),
        ({"LORAMUX_LOG__FORMAT": "xml"}, "LORAMUX_LOG__FORMAT"),
    ],
)
def test_settings_of_connections_and_the_log_are_checked(variables: dict[str, str], problem: str) -> None:
    assert problem in refusal(variables)


def test_origins_with_and_without_a_port_are_accepted() -> None:
    origins = "https://chat.example.com,http://localhost:3000,http://[::1]:8080,tauri://localhost"
    assert len(load_settings(environ={"LORAMUX_CORS_ORIGINS": origins}).cors_origins) == 4
    assert load_settings(environ={"LORAMUX_CORS_ORIGINS": "*", "LORAMUX_API_KEYS": "key"}).cors_origins == ("*",)
