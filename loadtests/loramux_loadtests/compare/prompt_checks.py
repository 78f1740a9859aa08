"""Warnings on the prompts of a comparison: system messages that are replaced, or unlike those of the training."""

from collections import Counter
from collections.abc import Sequence
from textwrap import shorten

from loramux_adapters.evaluation.content_text import content_text
from loramux_adapters.evaluation.evaluation_warning import EvaluationWarning, WarningCode
from loramux_adapters.evaluation.items import Chat, Item
from loramux_loadtests.compare.items import add_prompt, system_messages
from loramux_loadtests.compare.plan import Arm, Comparison


def prompt_warnings(comparison: Comparison) -> list[EvaluationWarning]:
    """Warn of prompts that replace the items' system messages, and of messages unlike those of the training."""
    challenger = [arm for arm in comparison.arms if arm.name == comparison.challenger]
    others = [arm for arm in comparison.arms if arm.name != comparison.challenger]
    trained = "; if its adapter was trained with that message, ask it without another one"
    found = [_replaced(comparison, others), _replaced(comparison, challenger, trained), _unlike_training(comparison)]
    return [warning for warning in found if warning]


def _replaced(comparison: Comparison, arms: Sequence[Arm], remark: str = "") -> EvaluationWarning | None:
    """Warn of the arms whose prompts replace the system messages of any items by different ones."""
    by_arm = {arm.name: _changed(comparison, arm) for arm in arms}
    replacing = [name for name, changed in by_arm.items() if changed]
    changed = sorted(set().union(*by_arm.values()))
    names = " and ".join(f"“{name}”" for name in replacing)
    subject = f"the prompt of {names} replaces" if len(replacing) == 1 else f"the prompts of {names} replace"
    message = f"{subject} the system message of {_share(changed, comparison.items)}{remark}"
    return _warning("replaced_system_message", message, changed, comparison)


def _changed(comparison: Comparison, arm: Arm) -> set[int]:
    return {
        number
        for number, item in enumerate(comparison.items)
        if system_messages(item.messages)
        and _contents(item.messages) != _contents(add_prompt(arm.prompt, item.messages))
    }


def _unlike_training(comparison: Comparison) -> EvaluationWarning | None:
    """Warn of a challenger that is asked with a system message that its training file does not have."""
    trained = Counter(_contents(item.messages) for item in comparison.training)
    if not trained:
        return None
    arm = next(arm for arm in comparison.arms if arm.name == comparison.challenger)
    unlike = [
        number
        for number, item in enumerate(comparison.items)
        if _contents(add_prompt(arm.prompt, item.messages)) not in trained
    ]
    [(usual, _)] = trained.most_common(1)
    own = f"mostly has “{shorten(' '.join(usual), 80, placeholder='…')}”" if usual else "mostly has none"
    return _warning(
        "untrained_system_message",
        f"“{arm.name}” is asked {_share(unlike, comparison.items)} with a system message, or none, that its training "
        f"file does not have, which {own}",
        unlike,
        comparison,
    )


def _warning(code: WarningCode, message: str, found: Sequence[int], comparison: Comparison) -> EvaluationWarning | None:
    """A warning that lists the items, unless it is about all of them."""
    items = () if len(found) == len(comparison.items) else tuple(found)
    return EvaluationWarning(code=code, message=message, items=items) if found else None


def _contents(chat: Chat) -> tuple[str, ...]:
    return tuple(content_text(message["content"]) for message in system_messages(chat))


def _share(found: Sequence[int], items: Sequence[Item]) -> str:
    return "all items" if len(found) == len(items) else f"{len(found)} of {len(items)} items"
