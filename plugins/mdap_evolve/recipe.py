"""The settings of an evolution, which its record keeps."""

from typing import Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Method = Literal["es", "sft"]
Anchor = Literal["l2", "l1", "none"]

ALPHA: Final[dict[Method, float]] = {"es": 0.003, "sft": 0.0003}
"""The default step size of each method."""

STRENGTH: Final[dict[tuple[Method, Anchor], float]] = {
    ("es", "l2"): 6.0,
    ("sft", "l2"): 60.0,
    ("es", "l1"): 0.01,
    ("sft", "l1"): 0.1,
}
"""The default strength of each kind of anchor."""


class Recipe(BaseModel):
    """The settings for changing weights.

    Attributes:
        method: ``es``, evolution strategies; or ``sft``, supervised fine-tuning with Adam.
        iterations: updates of the weights.
        alpha: step size.
        sigma: how far each perturbation moves each weight.
        population: perturbations in an iteration, two for each pair of opposite ones.
        anchor: how an update pulls the weights back to their start values: ``l2`` in proportion, ``l1`` by a
            constant amount, ``none`` not at all.
        strength: of the anchor, lambda; an update pulls by alpha times lambda.
        batch: lessons in an iteration.
        contested: how many of these come from contested steps, if there are enough.
        seed: the seed of the perturbations and batches.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: Method = "es"
    iterations: int = Field(120, ge=1, le=100_000)
    alpha: float = Field(ALPHA["es"], gt=0, le=1)
    sigma: float = Field(0.004, gt=0, le=1)
    population: int = Field(30, ge=4, le=4096, multiple_of=2)
    anchor: Anchor = "l2"
    strength: float = Field(STRENGTH["es", "l2"], ge=0)
    batch: int = Field(32, ge=1, le=4096)
    contested: int = Field(24, ge=0)
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.contested > self.batch:
            raise ValueError(f"{self.contested} contested lessons are more than the batch of {self.batch}")
        if self.anchor != "none" and self.alpha * self.strength >= 1:
            raise ValueError("alpha times the anchor's strength must stay below 1")
        return self

    @property
    def pairs(self) -> int:
        """The number of pairs of opposite perturbations in an iteration."""
        return self.population // 2

    @property
    def averaged_from(self) -> int:
        """The first iteration, from 1, whose weights count towards the average that is kept."""
        return self.iterations // 2 + 1
