"""Generates the data of the three examples from their phrases; a seed gives the same files on any machine.

Run as `python adapters/loramux_adapters/examples/generate.py`.

The `train` and `test` halves of each phrases.yaml share no sentence, name or product, so a good score on `test` can't
come from memory.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
SEED = 20
HALVES = ("train", "test")
TEST_ITEMS = 200

Phrases = dict[str, Any]
Pair = tuple[str, str]  # the user's message and the assistant's answer


def support_intent(rng: random.Random, _: Phrases, half: Phrases) -> Pair:
    """A customer's message and its label."""
    intent = rng.choice(list(half["requests"]))
    request = rng.choice(half["requests"][intent]).format(
        thing=rng.choice(half["things"]), number=rng.choice(half["numbers"])
    )
    message = " ".join(filter(None, (rng.choice(half["openings"]), request, rng.choice(half["closings"]))))
    return (message.lower() if rng.random() < 0.2 else message), intent


def order_json(rng: random.Random, phrases: Phrases, half: Phrases) -> Pair:
    """A customer's order, and the same as JSON."""
    kind = rng.choices(("collected", "delivered", "anytime"), (5, 4, 2))[0]
    name, time = rng.choice(half["names"]), rng.choice(list(phrases["times"]))
    products = rng.sample(list(half["products"]), rng.choice((1, 2, 2, 3)))
    amounts = [rng.choice(list(phrases["amounts"])) for _ in products]
    counts = [phrases["amounts"][amount] for amount in amounts]
    wanted = [
        f"{_article(amount, product)} {half['products'][product] if count > 1 else product}"
        for product, amount, count in zip(products, amounts, counts, strict=True)
    ]
    message = rng.choice(half[kind]).format(name=name, time=time, items=_join_list(wanted))
    order = {
        "customer": name,
        "items": [{"product": product, "quantity": count} for product, count in zip(products, counts, strict=True)],
        "time": None if kind == "anytime" else phrases["times"][time],
        "delivery": kind == "delivered",
    }
    return message[0].upper() + message[1:], json.dumps(order)


def house_tone(rng: random.Random, phrases: Phrases, half: Phrases) -> Pair:
    """A colleague's note about an order, and the letter to the customer in house style."""
    case = rng.choice(list(half["notes"]))
    weekday, month = rng.choice(list(phrases["weekdays"])), rng.choice(list(phrases["months"]))
    date = rng.randint(1, 28)
    facts = {
        "first": rng.choice(half["first"]),
        "last": rng.choice(half["last"]),
        "product": rng.choice(half["products"]),
        "number": rng.randint(1000, 9999),
        "reason": rng.choice(half["reasons"].get(case, [""])),
    }
    note = rng.choice(half["notes"][case]).format(day=f"{weekday} {date} {month}", **facts)
    day = f"{phrases['weekdays'][weekday]} {date} {phrases['months'][month]}"
    body = phrases["replies"][case].format(day=day, **facts)
    return note[0].upper() + note[1:], phrases["frame"].format(first=facts["first"], body=body)


# The generator of pairs, and the number of pairs to train on.
EXAMPLES: dict[str, tuple[Callable[[random.Random, Phrases, Phrases], Pair], int]] = {
    "support-intent": (support_intent, 720),
    "order-json": (order_json, 720),
    "house-tone": (house_tone, 320),
}


def generate(name: str, half: str) -> str:
    """Return the text of an example's train.jsonl or test.jsonl: distinct conversations, one per line."""
    phrases = yaml.safe_load((HERE / name / "phrases.yaml").read_text())
    rng = random.Random(f"{SEED}-{name}-{half}")  # noqa: S311 - data, not secrets
    make, train_items = EXAMPLES[name]
    pairs: dict[str, str] = {}
    while len(pairs) < (train_items if half == "train" else TEST_ITEMS):
        message, answer = make(rng, phrases, phrases[half])
        pairs.setdefault(message, answer)
    return "".join(_line(phrases["prompt"], *pair) for pair in pairs.items())


def _line(prompt: str, message: str, answer: str) -> str:
    contents = {"system": prompt, "user": message, "assistant": answer}
    messages = [{"role": role, "content": content} for role, content in contents.items()]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def _article(amount: str, product: str) -> str:
    return "an" if amount == "a" and product[0] in "aeiou" else amount


def _join_list(parts: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def main() -> None:
    """Write both files of every example."""
    for name in EXAMPLES:
        for half in HALVES:
            (HERE / name / f"{half}.jsonl").write_text(generate(name, half))


if __name__ == "__main__":
    main()
