"""Voting settings for `-k robust`."""

from collections.abc import Mapping
from typing import Any

from mdap.rules.ledger import Ledger
from mdap.settings import Robust, VotingSettings, validated

_TEMPERATURES = (0.1,)


def promising(voting: VotingSettings, terms: Mapping[str, Any]) -> VotingSettings:
    """Return *voting* with these *terms* of `-k robust`, some of floor, target and length."""
    robust = validated(Robust, "setting", **{**(voting.robust or Robust()).model_dump(), **terms})
    ladder = Ledger(robust).ladder
    chosen: dict[str, Any] = {"k": ladder.first.margin, "robust": robust}
    if voting.max_samples is None:
        chosen["max_samples"] = ladder.samples_allowed
    if "temperatures" not in voting.model_fields_set:
        chosen["temperatures"] = _TEMPERATURES
    return validated(VotingSettings, "setting", **{**voting.model_dump(), **chosen})
