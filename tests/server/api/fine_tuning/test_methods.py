"""Methods of jobs, and adapters that jobs go on from, over HTTP."""

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from loramux_adapters.models import AdapterName, VersionId
from loramux_server.base_model import ResolvedBase
from tests.helpers.tiny_server import TinyServer, tiny_server

pytestmark = pytest.mark.asyncio(loop_scope="module")

CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]}
PAIR = {
    "input": {"messages": [{"role": "user", "content": "hi"}]},
    "preferred_output": [{"role": "assistant", "content": "ho"}],
    "non_preferred_output": [{"role": "assistant", "content": "no"}],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tiny_base: ResolvedBase, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TinyServer]:
    root = tmp_path_factory.mktemp("methods")
    async with tiny_server(root, tiny_base, training={"queue": 100}, engine={"max_lora_rank": 16}) as tiny:
        yield tiny


async def uploaded(tiny: TinyServer, line: dict[str, Any]) -> str:
    content = b"".join(json.dumps(line).encode() + b"\n" for _ in range(10))
    return (await tiny.client.files.create(file=("a.jsonl", content), purpose="fine-tune")).id


async def refusal(tiny: TinyServer, **body: Any) -> str:
    with pytest.raises(openai.BadRequestError) as refused:
        await tiny.client.fine_tuning.jobs.create(**body)
    return str(refused.value.body["message"])  # type: ignore[index]


async def estimated(tiny: TinyServer, **body: Any) -> Any:
    answer = await tiny.http.post("/admin/fine_tuning/estimate", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_a_job_by_dpo_has_its_hyperparameters_in_openais_form(tiny: TinyServer) -> None:
    pairs = await uploaded(tiny, PAIR)
    method: Any = {"type": "dpo", "dpo": {"hyperparameters": {"beta": 0.2, "n_epochs": 2, "batch_size": None}}}
    job = await tiny.client.fine_tuning.jobs.create(model="tiny", training_file=pairs, method=method)
    assert job.method is not None
    assert job.method.type == "dpo"
    assert job.method.dpo is not None
    assert job.method.dpo.hyperparameters is not None
    assert job.method.dpo.hyperparameters.beta in (0.2, "auto")
    await tiny.client.fine_tuning.jobs.cancel(job.id)
    recipe = (await estimated(tiny, model="tiny", training_file=pairs, method=method))["recipe"]
    assert (recipe["method"], recipe["beta"], recipe["epochs"]) == ("dpo", 0.2, 2)


async def test_a_file_of_the_other_kind_is_refused_with_the_method_that_takes_it(tiny: TinyServer) -> None:
    chat, pairs = await uploaded(tiny, CHAT), await uploaded(tiny, PAIR)
    dpo = {"type": "dpo"}
    assert await refusal(tiny, model="tiny", training_file=pairs) == (
        "The training_file has preference pairs, and the method supervised needs conversations: use the method dpo, or "
        "another file."
    )
    assert "use the method supervised" in await refusal(tiny, model="tiny", training_file=chat, method=dpo)
    message = await refusal(tiny, model="tiny", training_file=pairs, validation_file=chat, method=dpo)
    assert message.startswith("The validation_file has conversations")


async def test_null_hyperparameters_are_auto(tiny: TinyServer) -> None:
    chat = await uploaded(tiny, CHAT)
    nulls = {"n_epochs": None, "batch_size": None, "learning_rate_multiplier": None}
    lora = {"rank": None, "alpha": None, "target_modules": None, "last_layers": None, "early_stopping_patience": None}
    body = {"model": "tiny", "training_file": chat, "seed": 1}
    open_ones = await estimated(tiny, **body)
    for given in ({"hyperparameters": nulls}, {"lora": lora}, {"method": {"type": "supervised", "supervised": None}}):
        assert (await estimated(tiny, **body, **given))["recipe"] == open_ones["recipe"]


async def test_early_stopping_needs_a_validation_file(tiny: TinyServer) -> None:
    chat = await uploaded(tiny, CHAT)
    options: Any = {"early_stopping_patience": 3}
    message = await refusal(tiny, model="tiny", training_file=chat, extra_body={"lora": options})
    assert message == "lora.early_stopping_patience: expected a validation_file, by which to stop"
    body = {"model": "tiny", "training_file": chat, "validation_file": chat, "lora": options}
    assert (await estimated(tiny, **body))["recipe"]["early_stopping_patience"] == 3
    off = body | {"lora": {"early_stopping_patience": 0}}
    assert (await estimated(tiny, **off))["recipe"]["early_stopping_patience"] is None


async def test_a_job_goes_on_from_an_adapter_by_any_of_its_names(tiny: TinyServer) -> None:
    chat, version = await uploaded(tiny, CHAT), await tiny.add("ft:tiny:local:tone:1")
    await tiny.http.put("/admin/aliases/ft:gpt-4o-mini:acme:tone:abc", json={"target": "ft:tiny:local:tone:1"})
    for model in ("ft:tiny:local:tone:1", version, "ft:gpt-4o-mini:acme:tone:abc"):
        job = await tiny.client.fine_tuning.jobs.create(model=model, training_file=chat, suffix="more")
        found = (await tiny.http.get(f"/v1/fine_tuning/jobs/{job.id}")).json()
        assert (found["model"], found["loramux"]["from_version"], found["loramux"]["base"]) == (
            version,
            version,
            "tiny",
        )
        assert found["loramux"]["model"].startswith("ft:tiny:local:more:")
        await tiny.client.fine_tuning.jobs.cancel(job.id)


async def test_an_adapter_that_is_trained_further_keeps_its_shape(tiny: TinyServer) -> None:
    chat, version = await uploaded(tiny, CHAT), await tiny.add("shaped")
    body = {"model": version, "training_file": chat}
    recipe = (await estimated(tiny, **body))["recipe"]
    assert (recipe["rank"], recipe["alpha"], recipe["last_layers"]) == (4, 8, None)
    assert recipe["target_modules"] == ["q_proj", "v_proj"]
    assert (await estimated(tiny, **body, lora={"rank": 4}))["recipe"]["rank"] == 4
    message = await refusal(tiny, **body, extra_body={"lora": {"rank": 8}})
    assert message.startswith("lora.rank: the adapter to go on from keeps its own, 4: leave it out")


@pytest.mark.parametrize("model", ["nobody", "shaped@000000000000", "a" * 5000, "../../etc", "tiny@0", "\x00", ""])
async def test_a_model_that_is_not_served_is_refused(tiny: TinyServer, model: str) -> None:
    chat = await uploaded(tiny, CHAT)
    message = await refusal(tiny, model=model, training_file=chat)
    assert message.startswith("model: no base, adapter or alias is served as")
    assert len(message) < 400


async def test_a_split_name_must_be_a_version(tiny: TinyServer) -> None:
    chat = await uploaded(tiny, CHAT)
    versions = [await tiny.add("split", seed) for seed in (1, 2)]
    shares = {VersionId.parse(version).digest: 0.5 for version in versions}
    await tiny.server.adapter_service.set_alias(AdapterName("split"), shares, actor="test")
    message = await refusal(tiny, model="split", training_file=chat)
    assert "split between several versions: name one" in message
    assert (await estimated(tiny, model=versions[0], training_file=chat))["recipe"]["rank"] == 4


async def test_a_version_out_of_service_is_refused(tiny: TinyServer) -> None:
    chat, version = await uploaded(tiny, CHAT), await tiny.add("ill", 7)
    tiny.server.adapter_service.quarantine(VersionId.parse(version), "NaN")
    assert f"model: {version} is quarantined" in await refusal(tiny, model=version, training_file=chat)
