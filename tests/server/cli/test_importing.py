"""`loramux import`: its options."""

import pytest
from typer.testing import CliRunner

from loramux_server.cli.main import main


@pytest.mark.parametrize("option", ["tone", "=tone", "gpt-4o-mini.ft-1="])
def test_a_deployment_without_its_model_or_name_is_refused(option: str) -> None:
    result = CliRunner().invoke(main, ["import", "azure", "--deployment", option])
    assert result.exit_code == 2
    assert f"--deployment '{option}': expected MODEL=DEPLOYMENT" in result.output
