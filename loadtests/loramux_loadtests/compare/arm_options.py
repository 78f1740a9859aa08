"""Arms from options of the command line, and those of an example folder."""

from collections.abc import Sequence
from pathlib import Path

from loramux_loadtests.compare.errors import ComparisonError
from loramux_loadtests.compare.items import read_prompt, system_messages
from loramux_loadtests.compare.plan import ArmConfig

EXAMPLE_COUNTS = (0, 4)
"""Besides all examples of the few-shot prompt, where it has more."""


def example_arms(base: str, adapter: str, folder: Path) -> dict[str, ArmConfig]:
    """The arms of an example folder: the base with ever more of its prompts, and the adapter with the short one.

    Raises:
        ComparisonError: the few-shot prompt can't be read.
    """
    short, few_shot = Path("prompt_short.json"), Path("prompt_few_shot.json")
    prompt = read_prompt(folder / few_shot)
    available = (len(prompt) - len(system_messages(prompt))) // 2
    some = {
        f"base, {count} examples" if count else "base, instructions": ArmConfig(
            model=base, prompt=few_shot, examples=count
        )
        for count in EXAMPLE_COUNTS
        if count < available
    }
    return {
        "base, short prompt": ArmConfig(model=base, prompt=short),
        **some,
        "base, few-shot prompt": ArmConfig(model=base, prompt=few_shot),
        "adapter, short prompt": ArmConfig(model=adapter, prompt=short),
    }


def parse_arm(text: str) -> tuple[str, ArmConfig]:
    """Parse NAME=MODEL or NAME=MODEL:PROMPT_FILE; as a model's name may have colons, the file must exist.

    Raises:
        ComparisonError: the text has another form, or the file does not exist.
    """
    name, equals, rest = text.partition("=")
    if not (name and equals and rest):
        raise ComparisonError(f"invalid --arm {text!r}; expected NAME=MODEL or NAME=MODEL:PROMPT_FILE")
    model, colon, file = rest.rpartition(":")
    if colon and Path(file).is_file():
        return name, ArmConfig(model=model, prompt=Path(file).resolve())
    if file.endswith((".json", ".txt", ".md")):
        raise ComparisonError(f"--arm {text!r}: the prompt file {file} does not exist")
    return name, ArmConfig(model=rest)


def parse_keys(texts: Sequence[str]) -> dict[str, str]:
    """Parse several ARM=KEY.

    Raises:
        ComparisonError: one has another form; the message does not contain the key.
    """
    parts = [text.partition("=") for text in texts]
    if not all(name and key for name, _, key in parts):
        raise ComparisonError("invalid --arm-api-key; expected ARM=KEY")
    return {name: key for name, _, key in parts}


def parse_arms(texts: Sequence[str]) -> dict[str, ArmConfig]:
    """Parse several arms, by their names.

    Raises:
        ComparisonError: one is invalid, or two have the same name.
    """
    arms: dict[str, ArmConfig] = {}
    for name, arm in map(parse_arm, texts):
        if name in arms:
            raise ComparisonError(f"two arms have the name {name!r}")
        arms[name] = arm
    return arms
