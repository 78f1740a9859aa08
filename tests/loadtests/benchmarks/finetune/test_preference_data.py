from pathlib import Path
from statistics import fmean

from benchmarks.finetune.new_intents import write_new_intents
from benchmarks.finetune.preference_data import write_preferences, write_preferred
from loramux_adapters.finetuning.datasets.preferences import PreferencePair, read_preferences
from loramux_adapters.finetuning.datasets.reader import read_dataset

NAMES = ["Ana", "Bo", "Carla", "Dev", "Elif", "Femi", "Greta", "Hugo", "Ines", "Jonas", "Kofi", "Leila", "Mira", "Nils"]


def texts(pair: PreferencePair) -> list[str]:
    """Return the question and both answers of a pair."""
    return [str(message["content"]) for message in (pair.prompt[-1], pair.preferred, pair.rejected)]


def test_the_held_out_pairs_have_questions_and_answers_of_their_own(tmp_path: Path) -> None:
    training, held_out = (read_preferences(path) for path in write_preferences(tmp_path))
    assert (len(training), len(held_out)) == (160, 60)
    known = {text for pair in training for text in texts(pair)}
    assert not any(text in known for pair in held_out for text in texts(pair))


def test_neither_length_nor_the_customers_name_tells_which_answer_is_preferred(tmp_path: Path) -> None:
    for path in write_preferences(tmp_path):
        pairs = read_preferences(path)
        answers = [[str(message["content"]) for message in (pair.preferred, pair.rejected)] for pair in pairs]
        differences = [len(preferred.split()) - len(other.split()) for preferred, other in answers]
        assert abs(fmean(differences)) <= 1
        assert {preferred.count(name) for preferred, _ in answers for name in NAMES} == {0, 1}
        assert 0.4 < fmean(any(name in other for name in NAMES) for _, other in answers) < 0.6


def test_the_preferred_answers_are_a_training_file(tmp_path: Path) -> None:
    training, _ = write_preferences(tmp_path)
    pairs, examples = read_preferences(training), read_dataset(write_preferred(tmp_path, training))
    assert [conversation.messages[-1].content for conversation in examples] == [
        pair.preferred["content"] for pair in pairs
    ]


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
