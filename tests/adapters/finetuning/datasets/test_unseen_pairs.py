import json
from pathlib import Path

from loramux_adapters.finetuning.datasets.unseen_pairs import unseen_pairs
from tests.helpers.preferences import write_pairs


def test_new_prompts_stay_with_their_lines(tmp_path: Path) -> None:
    training = write_pairs(tmp_path / "training.jsonl", 6)
    found = unseen_pairs(training, write_pairs(tmp_path / "held-out.jsonl", 6, start=4))
    assert ([pair.line for pair in found.pairs], found.left_out) == ([3, 4, 5, 6], 2)


def test_a_repeated_pair_counts_once_and_another_answer_to_its_prompt_is_another_pair(tmp_path: Path) -> None:
    training = write_pairs(tmp_path / "training.jsonl", 2)
    held_out = write_pairs(tmp_path / "held-out.jsonl", 2, start=7)
    line = json.loads(held_out.read_text().splitlines()[0])
    other = line | {"non_preferred_output": [{"role": "assistant", "content": "prime"}]}
    with held_out.open("a") as file:
        file.writelines(json.dumps(repeated) + "\n" for repeated in (line, other))
    found = unseen_pairs(training, held_out)
    assert ([pair.line for pair in found.pairs], found.left_out) == ([1, 2, 4], 1)


def test_nothing_is_left_of_the_training_file_itself(tmp_path: Path) -> None:
    training = write_pairs(tmp_path / "training.jsonl")
    assert unseen_pairs(training, training) == ([], 10)
