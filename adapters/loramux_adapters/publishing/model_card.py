"""The model card of a published adapter: what was trained, on how much data, and what was measured. It quotes no data.

Its facts are the server's answers about the version and about the job that trained it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from huggingface_hub import ModelCardData

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)
_RECIPE = ("method", "epochs", "batch_size", "learning_rate", "rank", "alpha", "target_modules", "last_layers", "seed")

_MAX_NAME_LENGTH = 200

Facts = Mapping[str, Any]


def model_card(version: Facts, job: Facts | None, base: str, repository: str) -> str:
    """Return the text of the card.

    Args:
        version: the version, as `GET /admin/adapters/{name}/versions/{digest}` shows it.
        job: the job that trained it, as `GET /v1/fine_tuning/jobs/{id}` shows it; None if no job did, or it is gone.
        base: the base's name or Hub id, as the adapter's config has it.
        repository: `org/name` on the Hub.
    """
    base = base if _HUB_ID.fullmatch(base) else _plain(base)
    data = ModelCardData(
        library_name="peft",
        base_model=base if _HUB_ID.fullmatch(base) else None,
        pipeline_tag="text-generation",
        tags=["lora", "loramux"],
    )
    details = (job or {}).get("loramux") or {}
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {repository.partition('/')[2]}",
        f"A LoRA adapter of `{base}`, version `{version['id']}` of its server. The data are not here.",
        _table("Adapter", _adapter(version)),
        _table("Training", _training(job, details)),
        _measured(details),
        _use(repository, base),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _adapter(version: Facts) -> Iterator[tuple[str, Any]]:
    yield "rank, alpha", f"{version['rank']}, {version['alpha']:g}"
    yield "modules", ", ".join(version["target_modules"])
    yield "parameters", f"{version['parameters']:,}"


def _training(job: Facts | None, details: Facts) -> Iterator[tuple[str, Any]]:
    if job is None:
        return
    if details.get("examples"):
        yield "training examples", f"{details['examples']:,}"
    if details.get("tokens"):
        yield "trained tokens", f"{details['tokens']:,}"
    recipe = details.get("recipe") or {}
    for name in _RECIPE:
        value = recipe.get(name)
        if value is not None:
            yield name.replace("_", " "), ", ".join(value) if isinstance(value, list) else value
    if details.get("validation_loss") is not None:
        yield "validation loss", f"{details['validation_loss']:.3f}"


def _measured(details: Facts) -> str:
    """Return what was measured at the end of the job, in numbers: sentences may quote answers."""
    evaluation, preference = details.get("evaluation"), details.get("preference")
    if evaluation:
        return _section(_compared(evaluation), f"On {evaluation['questions']} held-out questions", evaluation)
    if preference:
        rows = [("preferred as people did", _interval(preference["accuracy"])), ("without effect", "0.500")]
        return _section(rows, f"On {preference['pairs']} held-out pairs of answers", preference)
    return "## Measured\n\nNothing: the adapter was not compared with its base on held-out data."


def _section(rows: Iterable[tuple[str, str]], where: str, facts: Facts) -> str:
    intro = f"{where}, with intervals of {100 * facts.get('confidence', 0.95):g} %:"
    return "\n\n".join(["## Measured", intro, _rows(rows)])


def _compared(evaluation: Facts) -> Iterator[tuple[str, str]]:
    """Yield the mean score of each arm, the adapter's gain, and the verdict."""
    measure = evaluation["measure"]
    arms = {"adapter": "this adapter", evaluation["rival"]: "the base with its best prompt"}
    for arm, label in ({"base": "the base as it is"} | arms).items():
        scores = evaluation["arms"].get(arm, {}).get("scores", {})
        if measure in scores:
            yield f"{label}, mean of `{measure}`", _interval(scores[measure])
    yield "difference of the adapter from the base with its best prompt", _interval(evaluation["gain"])
    yield "verdict", evaluation["verdict"]


def _interval(interval: Facts) -> str:
    return f"{interval['mean']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]"


def _use(repository: str, base: str) -> str:
    code = f"""```python
from peft import AutoPeftModelForCausalLM

model = AutoPeftModelForCausalLM.from_pretrained("{repository}")  # downloads {base}, if that is a Hub id
```

```bash
loramux adapter add NAME hf:{repository}
```"""
    return f"## Use\n\n{code}"


def _table(title: str, rows: Iterator[tuple[str, Any]]) -> str:
    found = list(rows)
    return f"## {title}\n\n{_rows(found)}" if found else ""


def _rows(rows: Iterable[tuple[str, object]]) -> str:
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {_cell(value)} |" for name, value in rows)])


def _plain(base: str) -> str:
    """Return a name from an adapter's config as text that ends no line, comment or code of the card."""
    return re.sub(r"[^\w./: -]", "", " ".join(base.split()))[:_MAX_NAME_LENGTH] or "its base"


def _cell(value: object) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")
