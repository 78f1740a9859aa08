from pathlib import Path

import pytest
from pydantic import ValidationError

from loramux_adapters.finetuning.errors import InvalidRecipe
from loramux_adapters.finetuning.recipes.recipe import Recipe, load_recipe


def loaded(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_bytes(text.encode("latin-1"))
    return load_recipe(path)


def test_a_recipe_file_needs_only_the_keys_that_differ_from_the_defaults(tmp_path: Path) -> None:
    recipe = loaded(tmp_path, "rank: 4\ntarget_modules: [q_proj, v_proj]\n")
    assert recipe == Recipe(rank=4, target_modules=("q_proj", "v_proj"))
    assert loaded(tmp_path, "").target_modules == "all-linear"


def test_json_is_read_too(tmp_path: Path) -> None:
    assert loaded(tmp_path, '{"last_layers": 12}').last_layers == 12


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rnak: 4", "rnak: Extra inputs"),
        ("rank: 0\nbatch_size: many", r"rank: .*\n  batch_size: "),
        ("target_modules: []", "target_modules"),
        ("target_modules: [q_proj, q_proj]", "names a module twice"),
        ("target_modules: ['(a+)+']", "target_modules"),
        ("learning_rate: .nan", "learning_rate"),
        ("alpha: .inf", "alpha"),
        ("last_layers: 0", "last_layers"),
        ("- rank", "not a recipe"),
        ("just words", "not a recipe"),
        ("{", "is not YAML"),
        ("rank: \xff", "is not YAML"),
        ("!!python/object/apply:os.getcwd []", "is not YAML"),
    ],
)
def test_an_invalid_recipe_is_refused_with_its_wrong_keys(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(InvalidRecipe, match=reason):
        loaded(tmp_path, text)


def test_a_recipe_is_immutable() -> None:
    with pytest.raises(ValidationError):
        Recipe().rank = 4  # type: ignore[misc]


def test_what_a_recipe_of_an_earlier_release_was_saved_under_does_not_change() -> None:
    """A training that was paused before an update resumes after it."""
    assert Recipe(rank=4, seed=7).fingerprint() == (
        '{"rank":4,"alpha":16.0,"target_modules":"all-linear","last_layers":null,"learning_rate":0.001,"epochs":1,'
        '"batch_size":8,"max_length":1024,"seed":7}'
    )


@pytest.mark.parametrize("changes", [{"method": "dpo"}, {"beta": 0.1}, {"early_stopping_patience": 1}])
def test_other_recipes_are_saved_under_other_names(changes: dict[str, object]) -> None:
    assert Recipe.model_validate(changes).fingerprint() != Recipe().fingerprint()
