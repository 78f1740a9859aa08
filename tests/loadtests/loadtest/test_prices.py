from pathlib import Path

import pytest

from loramux_adapters.evaluation.token_prices import PriceList
from loramux_loadtests.loadtest.errors import LoadTestError
from loramux_loadtests.loadtest.prices import load_prices
from loramux_server.metering.pricing import Prices


@pytest.mark.parametrize(
    "text",
    [
        "base: {output: 2}\ndecode_weight: 3\nadapters: {tone: {training: 4}}",
        "model: tiny\nprices:\n  base: {output: 2}",
    ],
)
def test_a_list_is_read_by_itself_or_out_of_a_loramux_yaml(tmp_path: Path, text: str) -> None:
    (tmp_path / "prices.yaml").write_text(text)
    assert load_prices(tmp_path / "prices.yaml").base.output == 2.0


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("bsae: {input: 1}", "bsae"),
        ("base: {inptu: 1}", "base.inptu"),
        ("adapters: {tone: {multiplyer: 2}}", "adapters.tone.multiplyer"),
        ("model: tiny\nprizes: {base: {input: 1}}", "model"),
    ],
)
def test_a_name_that_no_list_has_is_refused(tmp_path: Path, text: str, name: str) -> None:
    (tmp_path / "prices.yaml").write_text(text)
    with pytest.raises(LoadTestError, match=f"prices.yaml: {name}: Extra inputs"):
        load_prices(tmp_path / "prices.yaml")


def test_a_load_test_reads_the_price_list_of_a_server() -> None:
    assert issubclass(Prices, PriceList)
    assert Prices.model_fields.keys() == PriceList.model_fields.keys()
