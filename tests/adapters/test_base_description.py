import pytest

from loramux_adapters.base_description import BaseDescription, TargetModule
from tests.helpers.adapter_files import BASE

ATTENTION = TargetModule(inputs=64, outputs=64)
PACKED = TargetModule(inputs=64, outputs=128, experts=4, parameter="gate_up_proj")
EXPERT = TargetModule(inputs=64, outputs=32, is_expert=True)
NO = {"refusal": "not on a CPU"}


def described(**modules: TargetModule) -> BaseDescription:
    return BaseDescription.of(modules, spec=BASE.spec, parameters=1)


@pytest.mark.parametrize(
    ("modules", "refusal"),
    [
        ({"q_proj": ATTENTION}, None),
        ({"q_proj": ATTENTION.model_copy(update=NO)}, None),
        ({"q_proj": ATTENTION, "experts": PACKED}, None),
        ({"q_proj": ATTENTION, "experts": PACKED.model_copy(update=NO)}, "not on a CPU"),
        ({"q_proj": ATTENTION, "experts": PACKED.model_copy(update=NO), "up_proj": EXPERT}, None),
        ({"q_proj": ATTENTION, "up_proj": EXPERT.model_copy(update=NO)}, "not on a CPU"),
    ],
)
def test_a_base_says_why_no_expert_can_have_adapters(modules: dict[str, TargetModule], refusal: str | None) -> None:
    assert described(**modules).experts_refusal == refusal
