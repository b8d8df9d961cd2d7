"""Voting settings for `-k robust`."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from pydantic import ValidationError

from mdap.errors import UsageError
from mdap.rules.ledger import Ledger
from mdap.settings import Robust, VotingSettings, explain

__all__ = ["promising", "with_share"]

_TEMPERATURES = (0.1,)


def promising(voting: VotingSettings, terms: Mapping[str, Any]) -> VotingSettings:
    """Return *voting* with the terms of `-k robust`.

    Args:
        voting: the other voting settings.
        terms: changes to the terms in *voting*: floor, target, length.

    Raises:
        UsageError: no margin can reach the target, or a setting conflicts with it.
    """
    try:
        robust = Robust(**{**(voting.robust or Robust()).model_dump(), **terms})
        ladder = Ledger(robust).ladder
        chosen: dict[str, Any] = {"k": ladder.first.margin, "robust": robust}
        if voting.max_samples is None:
            chosen["max_samples"] = ladder.samples_allowed
        if "temperatures" not in voting.model_fields_set:
            chosen["temperatures"] = _TEMPERATURES
        return VotingSettings(**{**voting.model_dump(), **chosen})
    except ValidationError as error:
        raise UsageError(explain("setting", error)) from None


def with_share(voting: VotingSettings, share: Fraction, length: int | None) -> VotingSettings:
    """Return *voting* for a nested run that may spend *share* of the budget of the whole.

    Raises:
        UsageError: no margin can reach the target.

    """
    return promising(voting, {"target": float(1 - share), "length": length})
