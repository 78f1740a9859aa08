"""The number of requests after which an adapter's savings cover its fixed cost."""

from decimal import Decimal
from math import ceil


def break_even(base_cost: Decimal, cost: Decimal, fixed_cost: Decimal) -> tuple[Decimal, int | None]:
    """Return the saving per request, and the number of requests per month that cover `fixed_cost`.

    The number is None if nothing is saved. `fixed_cost` is the cost of training and of one month of storage; from the
    second month on, only the storage has to be covered again. All amounts are in one unit, such as nano-dollars.
    """
    saving = base_cost - cost
    return saving, ceil(fixed_cost / saving) if saving > 0 else None
