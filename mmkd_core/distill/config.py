"""How a student is taught from features. Data only: imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mmkd_core.student.config import TrainConfig


class Weights(BaseModel):
    """Factor of each loss. A loss of weight 0 is not computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fd: float = Field(default=1.0, ge=0, description="feature distillation, per teacher's head")
    icl: float = Field(default=1.0, ge=0, description="interactive contrastive learning, per teacher's head")
    crd: float = Field(default=0.0, ge=0, description="contrastive relation (CRD of CLIP-KD), per teacher's head")
    gd: float = Field(default=0.0, ge=0, description="gradients of the contrast (GD of CLIP-KD), per teacher's head")
    afd: float = Field(default=0.0, ge=0, description="contrast of fused features (AFD of CLIP-KD), per teacher's head")
    clip: float = Field(default=0.1, ge=0, description="the student's own contrastive loss")
    untaught: float = Field(default=1.0, ge=0, description="clip for samples that no teacher teaches (recipe mmkd)")
    relation: float = Field(
        default=1.0, ge=0, description="relation of images to a bank of texts, on the shared embedding"
    )

    @model_validator(mode="after")
    def _something(self) -> Weights:
        if not (self.fd or self.icl or self.crd or self.gd or self.afd or self.clip or self.relation):
            raise ValueError("one of fd, icl, crd, gd, afd, clip and relation must be above 0")
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
    train: str = Field(
        default="full",
        pattern=r"^(full|last-[1-9]\d*|lora(-[1-9]\d*)?)$",
        description="full, the last N layers of both towers (last-N), or adapters of a rank (lora, lora-16)",
    )
    average: Literal["none", "tail", "ema"] = Field(
        default="none", description="weights of the result: the last, their mean over the last quarter, or exponential"
    )

    @property
    def factors(self) -> Weights:
        """The factors that count."""
        return self.weights or RECIPES[self.recipe]


class BudgetConfig(BaseModel):
    """How far the relation loss of an earlier teacher in a domain may rise, and what happens where it rises further."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rise: float = Field(default=0.1, ge=0, description="share by which it may rise over the parent's")
    slack: float = Field(default=0.01, gt=0, description="nats that it may rise beside that, where it was near 0")
    rate: float = Field(default=2.0, ge=0, description="step of the dual ascent; 0 watches and does nothing")
    most: float = Field(default=8.0, ge=0, description="largest multiplier")
    every: int = Field(default=10, ge=1, description="steps between two checks")
    rows: int = Field(default=8, ge=0, description="rows per teacher and domain that are watched; 0 is no budget")
    rows_per_check: int = Field(default=64, ge=1, description="rows that a check looks at; strata take turns")
    far: float = Field(default=3.0, gt=1, description="times the bound that is far above it")
    patience: int = Field(default=5, ge=1, description="checks far above the bound after which training stops")


class IncrementalConfig(DistillConfig):
    """A new teacher into a student that exists, with replay of what the earlier teachers taught."""

    replay: float = Field(default=0.5, ge=0, lt=1, description="share of each batch that is replayed")
    replay_rows: int = Field(default=2400, ge=0, description="length of the replay list")
    coreset: float = Field(default=0.2, ge=0, le=1, description="share of the replay list that is chosen by features")
    coreset_method: Literal["herding", "k-centre"] = Field(
        default="herding", description="choose typical rows, or the range of them"
    )
    at_once: int = Field(default=4, ge=1, description="earlier teachers that a step asks, in turn")
    budget: BudgetConfig = BudgetConfig()
    heads_first: float = Field(
        default=0.02, ge=0, le=1, description="share of the steps in which only heads learn, at the beginning"
    )
    keep: float | Literal["search"] = Field(
        default="search",
        description="share of the parent's weights in the result; or the least that the validation split allows",
    )
    loss: float = Field(
        default=0.004, ge=0, lt=1, description="AUC that the search lets a domain lose on the validation split"
    )
    parent: float = Field(default=2.0, ge=0, description="factor of the parent's relation beside the teachers'")

    @field_validator("keep")
    @classmethod
    def _share(cls, keep: float | str) -> float | str:
        if isinstance(keep, float) and not 0 <= keep < 1:
            raise ValueError("a share of at least 0 and less than 1, or search")
        return keep
