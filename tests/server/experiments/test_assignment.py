from hypothesis import given
from hypothesis import strategies as st

from loramux_server.experiments.assignment import add_prompt, assign
from tests.helpers.experiment_records import BASELINE_CONFIG, experiment_of

USERS = st.text(min_size=1, max_size=40)


@given(USERS, st.floats(0.01, 0.99))
def test_a_user_always_gets_the_same_variant_and_unit(user: str, share: float) -> None:
    experiment = experiment_of(BASELINE_CONFIG.model_copy(update={"share": share}))
    first, second = assign(experiment, user), assign(experiment, user)
    assert (first.variant, first.unit) == (second.variant, second.unit)


@given(USERS, st.floats(0.01, 0.5), st.floats(0.5, 0.99))
def test_a_user_of_a_small_share_is_also_one_of_a_larger_share(user: str, small: float, large: float) -> None:
    few, many = (
        assign(experiment_of(BASELINE_CONFIG.model_copy(update={"share": share})), user) for share in (small, large)
    )
    assert few.variant.name == "adapter" or many.variant.name == "baseline"


def test_the_share_of_the_users_is_that_of_the_experiment() -> None:
    experiment = experiment_of(BASELINE_CONFIG.model_copy(update={"share": 0.05}))
    sampled = sum(assign(experiment, f"user-{number}").variant.name == "baseline" for number in range(4000))
    assert 150 < sampled < 250


def test_experiments_choose_their_users_independently() -> None:
    first, second = experiment_of(BASELINE_CONFIG, "exp_a"), experiment_of(BASELINE_CONFIG, "exp_b")
    users = [f"user-{number}" for number in range(1000)]
    both = sum(assign(first, user).variant == assign(second, user).variant for user in users)
    assert 430 < both < 570


def test_the_unit_does_not_reveal_the_user() -> None:
    experiment = experiment_of(BASELINE_CONFIG)
    assert "alice" not in assign(experiment, "alice@example.com").unit
    assert len(assign(experiment, "x" * 100_000).unit) <= 32


def test_a_request_without_a_user_is_a_unit_of_its_own_and_drawn_at_random() -> None:
    experiment = experiment_of(BASELINE_CONFIG)
    first, second = (assign(experiment, None, draw=lambda: 0.1) for _ in range(2))
    assert first.unit != second.unit
    assert first.variant.name == "baseline"
    assert assign(experiment, None, draw=lambda: 0.9).variant.name == "adapter"


def test_a_shadow_experiment_always_answers_by_the_adapter() -> None:
    experiment = experiment_of(BASELINE_CONFIG.model_copy(update={"shadow": True}))
    chosen = assign(experiment, None, draw=lambda: 0.1)
    assert (chosen.variant.name, chosen.wants_shadow) == ("adapter", True)
    assert not assign(experiment, None, draw=lambda: 0.9).wants_shadow


SYSTEM, DEVELOPER, USER, ANSWER = (
    {"role": role, "content": role} for role in ("system", "developer", "user", "assistant")
)


def test_a_prompt_is_put_before_the_turns() -> None:
    assert add_prompt([USER, ANSWER], [SYSTEM, USER]) == [SYSTEM, USER, ANSWER, USER]
    assert add_prompt([SYSTEM, USER, ANSWER], [DEVELOPER, USER, ANSWER, USER]) == [
        SYSTEM, USER, ANSWER, USER, ANSWER, USER,
    ]  # fmt: skip


def test_without_a_prompt_the_request_stays_as_it_is() -> None:
    """T2: the request's own system message is not dropped."""
    assert add_prompt([], [SYSTEM, USER]) == [SYSTEM, USER]


def test_messages_of_any_shape_are_kept() -> None:
    odd = [{"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "x"}]}, "not a message"]
    assert add_prompt([SYSTEM], odd) == [SYSTEM, *odd]
