import os
from pathlib import Path

import pytest
from tools.progress import Progress, SetupError
from tools.uv import find_uv, uv_environment, uv_settings

from tools import uv


def test_what_pip_was_told_is_told_to_uv(tmp_path: Path) -> None:
    listing = f"""global.cert='/etc/ca.pem'
global.extra-index-url='https://two.example/simple\\nfile:///mirror/simple'
global.find-links='{tmp_path}'
global.index-url='https://one.example/simple'
global.timeout='60'
"""
    assert uv_settings(listing) == {
        "SSL_CERT_FILE": "/etc/ca.pem",
        "UV_DEFAULT_INDEX": "https://one.example/simple",
        "UV_INDEX": "https://two.example/simple file:///mirror/simple",
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_FIND_LINKS": str(tmp_path),
    }


def test_the_environment_wins_over_the_section_for_installs_and_that_over_the_global_one() -> None:
    lines = [
        ":env:.index-url='https://env'",
        "global.index-url='https://global'",
        "install.index-url='https://install'",
    ]
    assert uv_settings("\n".join(lines))["UV_DEFAULT_INDEX"] == "https://env"
    assert uv_settings("\n".join(lines[1:]))["UV_DEFAULT_INDEX"] == "https://install"
    assert uv_settings("download.index-url='https://other'") == {}


def test_folders_of_wheels_that_do_not_exist_are_left_out_because_uv_would_stop(tmp_path: Path) -> None:
    listing = f"global.find-links='{tmp_path} /no/such/folder https://wheels.example/'"
    assert uv_settings(listing) == {"UV_FIND_LINKS": f"{tmp_path},https://wheels.example/"}
    assert uv_settings("global.find-links='/no/such/folder'") == {}


@pytest.mark.parametrize("listing", ["", "\n\n", "no pip here", "global.cert", "global.cert=", "=='"])
def test_a_listing_that_says_nothing_is_no_error(listing: str) -> None:
    assert uv_settings(listing) == {}


def test_what_is_set_for_uv_wins_over_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uv, "_pip_config", lambda _: "global.index-url='https://pip'\nglobal.cert='/pip.pem'")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    environment = uv_environment(tmp_path)
    assert (environment["UV_DEFAULT_INDEX"], environment["SSL_CERT_FILE"]) == ("https://uv", "/pip.pem")


def _pretend_uv(path: Path, words: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {words}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def _only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "path"), "/usr/bin", "/bin"]))


@pytest.mark.usefixtures("_only")
def test_a_uv_on_the_path_is_used(tmp_path: Path) -> None:
    there = _pretend_uv(tmp_path / "path" / "uv", "uv 0.13.9")
    assert find_uv(tmp_path / "private", tmp_path, Progress(), 0) == str(there)


@pytest.mark.usefixtures("_only")
@pytest.mark.parametrize("words", ["uv 0.4.30", "nonsense"])
def test_a_uv_that_is_too_old_is_passed_over_for_the_private_one(tmp_path: Path, words: str) -> None:
    _pretend_uv(tmp_path / "path" / "uv", words)
    private = _pretend_uv(tmp_path / "private" / "bin" / "uv", "uv 0.13.9")
    assert find_uv(tmp_path / "private", tmp_path, Progress(), 0) == str(private)


@pytest.mark.usefixtures("_only")
def test_a_python_that_makes_no_environments_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SetupError, match="apt-get install python3-venv"):
        find_uv(tmp_path / "private", tmp_path, Progress(), 0)
