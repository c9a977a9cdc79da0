"""How a student is taught from features. Data only: imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mmkd_core.student.config import TrainConfig


class Weights(BaseModel):
    """Factor of each loss. A loss of weight 0 is not computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fd: float = Field(default=1.0, ge=0, description="feature distillation, per teacher's head")
    icl: float = Field(default=1.0, ge=0, description="interactive contrastive learning, per teacher's head")
    clip: float = Field(default=0.1, ge=0, description="the student's own contrastive loss")
    untaught: float = Field(default=1.0, ge=0, description="clip for samples that no teacher teaches (recipe mmkd)")
    relation: float = Field(
        default=1.0, ge=0, description="relation of images to a bank of texts, on the shared embedding"
    )

    @model_validator(mode="after")
    def _something(self) -> Weights:
        if not (self.fd or self.icl or self.clip or self.relation):
            raise ValueError("one of fd, icl, clip and relation must be above 0")
        return self


# Features within one domain differ little beside what sets the domains apart, so FD needs a large factor to carry
# findings; captions of people repeat, so ICL's negatives are often no negatives, and a large factor drowns the rest
# (docs/results).
RECIPES: dict[str, Weights] = {
    "mmkd": Weights(fd=5.0, icl=0.1, clip=0.1, relation=1.0),
    "paper": Weights(fd=1.0, icl=1.0, clip=0.1, relation=0.0),
}


class BankConfig(BaseModel):
    """The texts that images are related to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    captions: int = Field(default=16, ge=0, description="captions of the corpus per domain, beside all its prompts")
    per_step: int = Field(default=16, ge=2, description="texts of each domain that a step draws from the bank")


class DistillConfig(TrainConfig):
    """Stage 2: teachers' features into the pretrained student."""

    recipe: Literal["mmkd", "paper"] = "mmkd"
    weights: Weights | None = Field(default=None, description="factors of the losses; the recipe's own if left out")
    bank: BankConfig = BankConfig()

    @property
    def factors(self) -> Weights:
        """The factors that count."""
        return self.weights or RECIPES[self.recipe]


class IncrementalConfig(DistillConfig):
    """A new teacher into a student that exists, with replay of what the earlier teachers taught."""

    replay: float = Field(default=0.5, ge=0, lt=1, description="share of each batch that is replayed")
    replay_rows: int = Field(default=2400, ge=0, description="length of the replay list")
    coreset: float = Field(default=0.2, ge=0, le=1, description="share of the replay list that is chosen by features")
    coreset_method: Literal["herding", "k-centre"] = Field(
        default="herding", description="choose typical rows, or the range of them"
    )
    at_once: int = Field(default=4, ge=1, description="earlier teachers that a step asks, in turn")
    watch: int = Field(default=16, ge=0, description="rows per teacher and domain on which forgetting is watched")
    keep: float = Field(
        default=0.5, ge=0, lt=1, description="share of the parent's weights in the result (weight interpolation)"
    )
    parent: float = Field(default=2.0, ge=0, description="factor of the parent's relation beside the teachers'")
