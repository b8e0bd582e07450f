"""What a user may choose of a cluster's capacity. Pure."""

from zorya.core import capacity, errors
from zorya.core.model import Mode


def check(value: float) -> None:
    """Raise InvalidInput for what is no capacity."""
    if not capacity.is_capacity(value):
        raise errors.InvalidInput(
            f"{value:g} is not a capacity.",
            hint=f"Capacity is {capacity.STEP} to {capacity.LIMIT:g} ACUs in steps of {capacity.STEP}.",
        )


def check_bounds(least: float, most: float) -> None:
    """Raise InvalidInput for what cannot be a minimum and a maximum."""
    check(least)
    check(most)
    if least > most:
        raise errors.InvalidInput(f"The minimum capacity {least:g} is above the maximum {most:g}.", hint="Swap them.")


def choose_fixed(mode: Mode, *, wanted: float | None, present: float | None, most: float) -> float | None:
    """Answer the fixed capacity of a cluster: that which is `wanted`, else has been, else its maximum.

    A serverless one keeps what it has been for when it is provisioned again. Raises InvalidInput where it cannot be.
    """
    if mode is Mode.PROVISIONED:
        chosen = next(one for one in (wanted, present, most) if one is not None)
        check(chosen)
        return chosen
    if wanted is not None:
        raise errors.InvalidInput(
            "Only a provisioned cluster has a fixed capacity.",
            hint="Say that it is to be provisioned, or set the minimum and maximum.",
        )
    return present
