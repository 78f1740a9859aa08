from pathlib import Path

from benchmarks.finetune.new_intents import write_new_intents
from benchmarks.finetune.preference_data import write_preferences
from loramux_adapters.finetuning.datasets.preferences import read_preferences
from loramux_adapters.finetuning.datasets.reader import read_dataset


def test_the_pairs_are_preferences_whose_held_out_words_are_new(tmp_path: Path) -> None:
    training, held_out = (read_preferences(path) for path in write_preferences(tmp_path))
    assert (len(training), len(held_out)) == (160, 60)
    known = {message["content"] for pair in training for message in pair.prompt}
    assert not any(message["content"] in known for pair in held_out for message in pair.prompt)


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    for write in (write_preferences, write_new_intents):
        first, again = write(tmp_path), write(tmp_path / "again")
        assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]


def test_the_new_intents_are_tested_by_other_sentences(tmp_path: Path) -> None:
    training, test = (read_dataset(path) for path in write_new_intents(tmp_path))
    assert (len(training), len(test)) == (100, 40)
    texts = [{conversation.messages[1].content for conversation in found} for found in (training, test)]
    assert not texts[0] & texts[1]
    answers = [{conversation.messages[2].content for conversation in found} for found in (training, test)]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 5
