from collections.abc import Sequence

from loramux_loadtests.compare.answer_log import ScoredAnswer
from loramux_loadtests.compare.plan import Comparison
from loramux_loadtests.compare.reference import choose_reference
from loramux_loadtests.compare.summary import summarize
from tests.helpers.comparisons import PROMPTED, TUNED, comparison, scored_answer

ARMS = ("bare", PROMPTED, TUNED)


def three_arms(count: int, reference: str | None = None) -> Comparison:
    found = comparison(count=count)
    return found._replace(arms=[found.arms[0]._replace(name="bare"), *found.arms], reference=reference)


def answers(bare: Sequence[float], prompted: Sequence[float], tuned: Sequence[float]) -> list[ScoredAnswer]:
    scores = zip(ARMS, (bare, prompted, tuned), strict=True)
    tokens = {"bare": 20, PROMPTED: 500, TUNED: 10}
    return [
        scored_answer(arm, item, score, input_tokens=tokens[arm])
        for arm, of_arm in scores
        for item, score in enumerate(of_arm)
    ]


def test_the_reference_is_the_best_of_the_others_on_items_that_count_for_nothing_else() -> None:
    found = summarize(three_arms(80), answers([1, 1, 0, 1] * 20, [0, 0, 0, 1] * 20, [1] * 80), {})
    choice = found.reference_choice
    assert choice
    assert (found.reference, len(choice.items), found.passes[-1].items) == ("bare", 20, 60)
    assert choice.scores["bare"] > choice.scores[PROMPTED]
    shown = [score for item, score in enumerate([1, 1, 0, 1] * 20) if item not in choice.items]
    assert found.passes[-1].arms["bare"].scores["accuracy"].estimate == sum(shown) / 60


def test_every_other_arm_is_compared_with_it_at_a_confidence_that_holds_for_all_at_once() -> None:
    several = summarize(three_arms(80, PROMPTED), answers([0, 0, 1, 1] * 20, [0, 1, 1, 1] * 20, [1] * 80), {})
    assert (several.reference_choice, several.confidence) == (None, 0.975)
    assert {arm: one.verdict for arm, one in several.passes[-1].relative.items()} == {"bare": "worse", TUNED: "better"}
    two = comparison(count=80)
    alone = [one for one in answers([0, 0, 1, 1] * 20, [0, 1, 1, 1] * 20, [1] * 80) if one.arm != "bare"]
    narrow = summarize(two, alone, {})
    assert narrow.confidence == 0.95
    assert narrow.passes[-1].difference.low > several.passes[-1].difference.low


def test_of_equals_it_is_the_shortest_prompt_unless_nothing_was_right_or_the_items_are_too_few_for_a_choice() -> None:
    def chosen(count: int, score: float) -> tuple[str, bool]:
        of_arms = {arm: [one for one in answers(*[[score] * count] * 3) if one.arm == arm] for arm in ARMS}
        reference, choice = choose_reference(three_arms(count), of_arms, "accuracy")
        return reference, choice is not None

    assert (chosen(80, 1.0), chosen(80, 0.0)) == (("bare", True), (PROMPTED, True))
    assert (chosen(4, 1.0), chosen(1, 1.0)) == ((PROMPTED, False), (PROMPTED, False))


def test_arms_of_another_server_are_candidates_only_if_there_are_no_others() -> None:
    found = three_arms(80)
    elsewhere = found.arms[0]._replace(url="http://elsewhere")
    scored = answers([1] * 80, [0] * 80, [1] * 80)
    assert summarize(found._replace(arms=[elsewhere, *found.arms[1:]]), scored, {}).reference == PROMPTED
    moved = [found.arms[0], found.arms[1], found.arms[2]._replace(url="http://elsewhere")]
    assert summarize(found._replace(arms=moved), scored, {}).reference == "bare"
