import os
from pathlib import Path

import pytest
from tools.steps import SetupError, StepRunner
from tools.uv import cache_folder, find_uv, uv_environment, uv_settings

from tools import uv


def test_pips_configuration_becomes_uvs_variables(tmp_path: Path) -> None:
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


def test_environment_variables_override_the_install_section_which_overrides_the_global_one() -> None:
    lines = [
        ":env:.index-url='https://env'",
        "global.index-url='https://global'",
        "install.index-url='https://install'",
    ]
    assert uv_settings("\n".join(lines))["UV_DEFAULT_INDEX"] == "https://env"
    assert uv_settings("\n".join(lines[1:]))["UV_DEFAULT_INDEX"] == "https://install"
    assert uv_settings("download.index-url='https://other'") == {}


def test_missing_folders_of_wheels_are_left_out_because_uv_would_fail(tmp_path: Path) -> None:
    listing = f"global.find-links='{tmp_path} /no/such/folder https://wheels.example/'"
    assert uv_settings(listing) == {"UV_FIND_LINKS": f"{tmp_path},https://wheels.example/"}
    assert uv_settings("global.find-links='/no/such/folder'") == {}


@pytest.mark.parametrize("listing", ["", "\n\n", "no pip here", "global.cert", "global.cert=", "=='"])
def test_a_listing_without_settings_is_accepted(listing: str) -> None:
    assert uv_settings(listing) == {}


def test_uvs_own_variables_override_pips_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(uv, "_pip_config", lambda _: "global.index-url='https://pip'\nglobal.cert='/pip.pem'")
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://uv")
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    environment = uv_environment(tmp_path)
    assert (environment["UV_DEFAULT_INDEX"], environment["SSL_CERT_FILE"]) == ("https://uv", "/pip.pem")


def _fake_uv(path: Path, output: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {output}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def _isolated_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path / "path"), "/usr/bin", "/bin"]))


@pytest.mark.usefixtures("_isolated_path")
def test_a_uv_on_the_path_is_used(tmp_path: Path) -> None:
    found = _fake_uv(tmp_path / "path" / "uv", "uv 0.13.9")
    assert find_uv(tmp_path / "private", tmp_path, StepRunner(), 0) == str(found)


@pytest.mark.usefixtures("_isolated_path")
@pytest.mark.parametrize("output", ["uv 0.4.30", "nonsense"])
def test_the_private_uv_replaces_one_on_the_path_that_is_too_old(tmp_path: Path, output: str) -> None:
    _fake_uv(tmp_path / "path" / "uv", output)
    private = _fake_uv(tmp_path / "private" / "bin" / "uv", "uv 0.13.9")
    assert find_uv(tmp_path / "private", tmp_path, StepRunner(), 0) == str(private)


@pytest.mark.usefixtures("_isolated_path")
def test_without_ensurepip_the_error_names_the_package_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(SetupError, match="apt-get install python3-venv"):
        find_uv(tmp_path / "private", tmp_path, StepRunner(), 0)


def test_the_cache_is_where_uv_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder({}) == tmp_path
    (tmp_path / ".cache" / "uv").mkdir(parents=True)
    (tmp_path / "xdg").mkdir()
    (tmp_path / "own").mkdir()
    assert cache_folder({}) == tmp_path / ".cache" / "uv"
    assert cache_folder({"XDG_CACHE_HOME": str(tmp_path / "xdg")}) == tmp_path / "xdg"
    assert cache_folder({"UV_CACHE_DIR": str(tmp_path / "own"), "XDG_CACHE_HOME": "/x"}) == tmp_path / "own"
