import pytest

from loramux_server.auth import Principal, Scope
from loramux_server.model_access import ModelAccess, is_own_alias

INFER = frozenset({Scope.INFER})
OWNERS = {"tone": "acme", "acme/support": "acme", "cards": "beta"}
ALIASES = {"gpt-4o": "base", "acme/best": "tone", "best": "cards", "gone": "removed"}


class Models:
    def own_name(self, model: str) -> str:
        name, at, digest = model.partition("@")
        return ALIASES.get(name, name) + at + digest

    def project_of(self, name: str) -> str | None:
        return OWNERS.get(name)


ACCESS = ModelAccess(Models(), "base")


def usable(*models: str, project: str = "acme") -> set[str]:
    """Return the models that a key may use; without `models`, those of its project."""
    caller = Principal("key", INFER, project, models=models or None)
    names = ["", "base", *OWNERS, *ALIASES, "tone@0123", "best@0123", "unknown", "unknown@0123"]
    return {name for name in names if ACCESS.may_use(caller, name)}


def test_a_key_may_use_the_base_and_what_its_project_has() -> None:
    assert usable() == {"", "base", "gpt-4o", "tone", "tone@0123", "acme/support", "acme/best"}
    assert usable(project="beta") == {"", "base", "gpt-4o", "cards", "best", "best@0123"}
    assert usable(project="other") == {"", "base", "gpt-4o"}


@pytest.mark.parametrize(
    ("models", "expected"),
    [
        (("*",), {"", "base", "gpt-4o", "tone", "tone@0123", "acme/support", "acme/best"}),
        (("acme/*",), {"acme/support", "acme/best"}),
        (("tone",), {"tone", "tone@0123", "acme/best"}),
        (("tone@0123",), {"tone@0123"}),
        (("gpt-4o",), {"gpt-4o"}),
        (("cards",), {"cards", "best", "best@0123"}),
        (("best",), {"best", "best@0123"}),
        (("c*", "b?st", "[a-z]*s"), set()),
        (("unknown", "gone", "removed"), set()),
    ],
)
def test_patterns_choose_among_the_project_s_models_and_written_out_names_among_all(
    models: tuple[str, ...], expected: set[str]
) -> None:
    assert usable(*models) == expected


def test_administrators_and_the_server_may_use_every_model() -> None:
    for caller in (None, Principal("root", frozenset({Scope.ADMIN}))):
        assert ACCESS.may_use(caller, "cards")
        assert ACCESS.may_use(caller, "unknown")


def test_a_key_owns_the_adapters_of_its_project_that_it_may_use() -> None:
    key = Principal("key", INFER, "acme", models=("tone", "cards"))
    names = ("base", "tone", "tone@0123", "cards", "acme/support", "acme/best")
    assert [name for name in names if ACCESS.owns(key, name)] == ["tone", "tone@0123"]


@pytest.mark.parametrize(("alias", "allowed"), [("acme/x", True), ("acme", False), ("acmex/x", False), ("x", False)])
def test_aliases_of_a_project_begin_with_its_name(alias: str, *, allowed: bool) -> None:
    assert is_own_alias(Principal("key", INFER, "acme"), alias) is allowed
