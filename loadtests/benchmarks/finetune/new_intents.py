"""Examples of five intents made from a seed, to be learned by an adapter that knows others."""

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from random import Random

SYSTEM = "Intent?"
"""The system prompt of the intents that the adapter knows."""
_INTENTS = {
    "loyalty_points_balance": (
        ["reward points", "loyalty points", "bonus points", "points"],
        [
            "How many {} do I have?",
            "Where can I see my {}?",
            "Tell me the balance of my {}.",
            "Have my {} been added up?",
            "What are my {} worth now?",
            "Please show me the {} I collected.",
            "Did I earn any {} last month?",
        ],
    ),
    "open_joint_account": (
        ["my wife", "my husband", "my partner", "my sister"],
        [
            "I want an account together with {}.",
            "Can {} and I share one account?",
            "How do I open a joint account with {}?",
            "Is it possible to bank jointly with {}?",
            "{} and I would like one account for both of us.",
            "What papers do I need for a shared account with {}?",
            "Please add {} as a second owner of the account.",
        ],
    ),
    "order_chequebook": (
        ["chequebook", "cheque book", "book of cheques", "set of cheques"],
        [
            "I need a new {}.",
            "Can you post me a {}?",
            "How do I order a {}?",
            "My {} is used up.",
            "Please send a {} to my address.",
            "What does another {} cost?",
            "I ran out of cheques, I need a {}.",
        ],
    ),
    "report_a_death": (
        ["father", "mother", "uncle", "grandmother"],
        [
            "My {} died and had an account with you.",
            "I have to tell you that my {} has passed away.",
            "What happens to the account of my late {}?",
            "Who do I inform about the death of my {}?",
            "My {} is deceased, please close the account.",
            "I am the heir of my {} who died last week.",
            "How do I settle the account of my {} after the funeral?",
        ],
    ),
    "tax_statement": (
        ["tax office", "tax return", "tax adviser", "annual tax declaration"],
        [
            "I need a statement for my {}.",
            "Where do I get the paper for the {}?",
            "Can you send the yearly interest for my {}?",
            "My {} wants a certificate from the bank.",
            "Please issue the document for the {}.",
            "Which form shows my interest for the {}?",
            "How do I download the certificate for my {}?",
        ],
    ),
}
_HELD_OUT_SENTENCES = 2
"""Of each intent, with all their words."""


def write_new_intents(folder: Path, seed: int = 1) -> tuple[Path, Path]:
    """Write 100 examples to learn from, and 40 with other sentences to test with."""
    rng = Random(seed)  # noqa: S311 - reproducible data, not a secret
    training, test = folder / "new-intents.jsonl", folder / "new-intents-test.jsonl"
    write_lines(training, rng, [line for name in _INTENTS for line in _lines(name, slice(_HELD_OUT_SENTENCES, None))])
    write_lines(test, rng, [line for name in _INTENTS for line in _lines(name, slice(_HELD_OUT_SENTENCES))])
    return training, test


def write_lines(path: Path, rng: Random, lines: Sequence[str]) -> None:
    """Write lines of JSON in a random order."""
    path.write_text("".join(f"{line}\n" for line in rng.sample(lines, len(lines))), encoding="utf-8")


def _lines(intent: str, chosen: slice) -> list[str]:
    words, sentences = _INTENTS[intent]
    texts = [sentence.format(word) for sentence, word in product(sentences[chosen], words)]
    return [
        json.dumps(
            {
                "messages": [
                    {"role": "system", "content": SYSTEM},
                    {"role": "user", "content": text[0].upper() + text[1:]},
                    {"role": "assistant", "content": intent},
                ]
            }
        )
        for text in texts
    ]
