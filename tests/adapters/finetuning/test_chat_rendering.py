from pathlib import Path

import pytest

from loramux_adapters.finetuning.chat_rendering import ChatRendering, TemplateUse, read_stop_token_ids


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ('{"eos_token_id": 2}', (2,)),
        ('{"eos_token_id": [2, 7]}', (2, 7)),
        ('{"eos_token_id": [2, "7", true, null, 3.5, [1]]}', (2,)),
        ('{"eos_token_id": null}', ()),
        ("{}", ()),
        ("[2]", ()),
        ("not JSON", ()),
        ("\ud800", ()),
    ],
)
def test_the_ends_of_answers_are_read_from_the_generation_config(
    tmp_path: Path, text: str, tokens: tuple[int, ...]
) -> None:
    (tmp_path / "generation_config.json").write_bytes(text.encode(errors="surrogatepass"))
    assert read_stop_token_ids(tmp_path) == tokens


def test_a_base_without_a_generation_config_has_none(tmp_path: Path) -> None:
    assert read_stop_token_ids(tmp_path) == ()


def test_an_interrupted_training_of_an_earlier_release_goes_on_after_an_upgrade() -> None:
    of_release_02 = (
        '{"template":"T","kwargs":{"a":1},"has_content_parts":true,"tokenizer":"t","stop_token_ids":[1,2],'
        '"answer_prefix":"x","refusal":null}'
    )
    rendering = ChatRendering(
        template="T",
        kwargs={"a": 1},
        has_content_parts=True,
        tokenizer="t",
        stop_token_ids=(1, 2),
        answer_prefix="x",
    )
    assert rendering.fingerprint() == of_release_02


def test_renderings_that_differ_have_different_fingerprints() -> None:
    with_tools = ChatRendering(with_tools=TemplateUse(template="tools"))
    renderings = [ChatRendering(), with_tools, ChatRendering(has_reasoning_parser=True), ChatRendering(template="T")]
    assert len({rendering.fingerprint() for rendering in renderings}) == len(renderings)
