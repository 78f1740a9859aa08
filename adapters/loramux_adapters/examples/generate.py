"""Makes the three examples' data from their phrases: the same files from the same seed, on any machine.

Run as `python adapters/loramux_adapters/examples/generate.py`.

Each example's phrases.yaml has a `train` and a `test` half that share no
sentence, name or product, so a good score on `test` can't come from having seen it.
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
Pair = tuple[str, str]  # what the user writes, what the assistant answers


def support_intent(draw: random.Random, _: Phrases, half: Phrases) -> Pair:
    """A customer's message and its label."""
    intent = draw.choice(list(half["requests"]))
    request = draw.choice(half["requests"][intent]).format(
        thing=draw.choice(half["things"]), number=draw.choice(half["numbers"])
    )
    message = " ".join(filter(None, (draw.choice(half["openings"]), request, draw.choice(half["closings"]))))
    return (message.lower() if draw.random() < 0.2 else message), intent


def order_json(draw: random.Random, phrases: Phrases, half: Phrases) -> Pair:
    """An order as a customer writes it, and as the till wants it."""
    kind = draw.choices(("collected", "delivered", "anytime"), (5, 4, 2))[0]
    name, time = draw.choice(half["names"]), draw.choice(list(phrases["times"]))
    products = draw.sample(list(half["products"]), draw.choice((1, 2, 2, 3)))
    amounts = [draw.choice(list(phrases["amounts"])) for _ in products]
    counts = [phrases["amounts"][amount] for amount in amounts]
    wanted = [
        f"{_article(amount, product)} {half['products'][product] if count > 1 else product}"
        for product, amount, count in zip(products, amounts, counts, strict=True)
    ]
    message = draw.choice(half[kind]).format(name=name, time=time, items=_listed(wanted))
    order = {
        "customer": name,
        "items": [{"product": product, "quantity": count} for product, count in zip(products, counts, strict=True)],
        "time": None if kind == "anytime" else phrases["times"][time],
        "delivery": kind == "delivered",
    }
    return message[0].upper() + message[1:], json.dumps(order)


def house_tone(draw: random.Random, phrases: Phrases, half: Phrases) -> Pair:
    """A colleague's note about an order, and the letter that the house writes of it."""
    case = draw.choice(list(half["notes"]))
    weekday, month = draw.choice(list(phrases["weekdays"])), draw.choice(list(phrases["months"]))
    date = draw.randint(1, 28)
    facts = {
        "first": draw.choice(half["first"]),
        "last": draw.choice(half["last"]),
        "product": draw.choice(half["products"]),
        "number": draw.randint(1000, 9999),
        "reason": draw.choice(half["reasons"].get(case, [""])),
    }
    note = draw.choice(half["notes"][case]).format(day=f"{weekday} {date} {month}", **facts)
    day = f"{phrases['weekdays'][weekday]} {date} {phrases['months'][month]}"
    body = phrases["replies"][case].format(day=day, **facts)
    return note[0].upper() + note[1:], phrases["frame"].format(first=facts["first"], body=body)


# How a pair is made, and of how many an adapter learns.
EXAMPLES: dict[str, tuple[Callable[[random.Random, Phrases, Phrases], Pair], int]] = {
    "support-intent": (support_intent, 720),
    "order-json": (order_json, 720),
    "house-tone": (house_tone, 320),
}


def generate(name: str, half: str) -> str:
    """The text of an example's train.jsonl or test.jsonl: different conversations, one a line."""
    phrases = yaml.safe_load((HERE / name / "phrases.yaml").read_text())
    draw = random.Random(f"{SEED}-{name}-{half}")  # noqa: S311 - data, not secrets
    make, train_items = EXAMPLES[name]
    pairs: dict[str, str] = {}
    while len(pairs) < (train_items if half == "train" else TEST_ITEMS):
        message, answer = make(draw, phrases, phrases[half])
        pairs.setdefault(message, answer)
    return "".join(_line(phrases["prompt"], *pair) for pair in pairs.items())


def _line(prompt: str, message: str, answer: str) -> str:
    contents = {"system": prompt, "user": message, "assistant": answer}
    messages = [{"role": role, "content": content} for role, content in contents.items()]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def _article(amount: str, product: str) -> str:
    return "an" if amount == "a" and product[0] in "aeiou" else amount


def _listed(parts: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), parts[-1])))


def main() -> None:
    """Write both files of every example."""
    for name in EXAMPLES:
        for half in HALVES:
            (HERE / name / f"{half}.jsonl").write_text(generate(name, half))


if __name__ == "__main__":
    main()
