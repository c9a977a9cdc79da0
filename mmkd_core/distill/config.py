"""How a student is taught from features. Data only: imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from mmkd_core.settings import Settings
from mmkd_core.student.config import TrainConfig


class Weights(Settings):
    """Factor of each loss. A loss of weight 0 is not computed."""

    fd: float = Field(default=0.0, ge=0, description="feature distillation")
    icl: float = Field(default=0.0, ge=0, description="interactive contrastive learning")
    crd: float = Field(default=0.0, ge=0, description="contrastive relation (CRD of CLIP-KD), per teacher's head")
    gd: float = Field(default=0.0, ge=0, description="gradients of the contrast (GD of CLIP-KD), per teacher's head")
    afd: float = Field(default=0.0, ge=0, description="contrast of fused features (AFD of CLIP-KD), per teacher's head")
    clip: float = Field(default=0.0, ge=0, description="the student's own contrastive loss")
    untaught: float = Field(default=1.0, ge=0, description="clip for samples that no teacher teaches (with heads)")
    relation: float = Field(
        default=0.0, ge=0, description="relation of images to a bank of texts, on the shared embedding"
    )


Term = Literal["fd", "icl", "crd", "gd", "afd", "clip", "untaught", "relation"]
Aligner = Literal["none", "linear", "autoencoder", "phi-s", "procrustes"]
INVERTIBLE = ("none", "phi-s")
"""Aligners of one teacher's space, from which there is a way back; the others make one space of all."""


class Parts(Settings):
    """What a recipe is made of."""

    weights: Weights
    heads: Literal["none", "linear", "mlp"]
    aligner: Aligner
    fd: Literal["cosine", "mse"]
    teacher_balance: Literal["none", "dispersion", "dropping"] = "none"

    @model_validator(mode="after")
    def _make_sense(self) -> Parts:
        weights = self.weights
        if not any(getattr(weights, name) for name in type(weights).model_fields if name != "untaught"):
            raise ValueError("one of fd, icl, crd, gd, afd, clip and relation must be above 0")
        if self.heads != "none" and self.aligner not in INVERTIBLE:
            raise ValueError(
                f"aligner {self.aligner} makes one space of all teachers, and a head learns its own teacher's: choose "
                "aligner phi-s or none, or heads none"
            )
        if self.heads == "none":
            wrong = [name for name in ("crd", "gd", "afd", "relation") if getattr(weights, name)]
            if wrong:
                raise ValueError(
                    f"{' and '.join(wrong)} cannot be had without heads, where a step has one random teacher per "
                    "sample: set their weight to 0, or heads to linear or mlp"
                )
        if self.teacher_balance != "none" and (self.heads == "none" or not weights.fd):
            raise ValueError(
                f"teacher_balance {self.teacher_balance} weighs the FD of the heads against one another: set it to "
                "none, or heads to linear or mlp and the weight of fd above 0"
            )
        return self


# Features within one domain differ little beside what sets the domains apart, so FD needs a large factor to carry
# findings; captions of people repeat, so ICL's negatives are often no negatives, and a large factor drowns the rest
# (docs/results).
_MMKD = Parts(weights=Weights(fd=5.0, icl=0.1, clip=0.1, relation=1.0), heads="linear", aligner="phi-s", fd="cosine")
_PAPER = Parts(weights=Weights(fd=50.0, icl=1.0, clip=1.0), heads="none", aligner="autoencoder", fd="mse")
RECIPES: dict[str, Parts] = {
    "mmkd": _MMKD,
    "paper": _PAPER,  # as in the released code
    "paper-published": _PAPER.model_copy(update={"weights": Weights(fd=1.0, icl=1.0, clip=0.1)}),  # as in the paper
}


class BankConfig(Settings):
    """The texts that images are related to."""

    captions: int = Field(default=16, ge=0, description="captions of the corpus per domain, beside all its prompts")
    per_step: int = Field(default=16, ge=2, description="texts of each domain that a step draws from the bank")


class DistillConfig(TrainConfig):
    """Stage 2: teachers' features into the pretrained student."""

    recipe: Literal["mmkd", "paper", "paper-published"] = Field(
        default="mmkd", description="gives each of the next five where it is left out"
    )
    weights: dict[Term, Annotated[float, Field(ge=0)]] = Field(
        default={}, description="factors of losses, by name; the recipe's where left out"
    )
    heads: Literal["none", "linear", "mlp"] | None = Field(
        default=None, description="map from the student to each teacher; none: all teach the shared embedding"
    )
    aligner: Aligner | None = Field(default=None, description="what is done to teachers' features before")
    fd: Literal["cosine", "mse"] | None = Field(
        default=None, description="FD as cosine and smooth L1, or as mean square"
    )
    teacher_balance: Literal["none", "dispersion", "dropping"] | None = Field(
        default=None, description="of FD: teachers alike, by how far they spread, or the worst and half of the others"
    )
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
    def parts(self) -> Parts:
        """What the recipe and the settings beside it come to.

        Raises:
            ValueError: they do not go together.
        """
        recipe = RECIPES[self.recipe]
        given = {name: value for name in Parts.model_fields if (value := getattr(self, name)) is not None}
        given["weights"] = recipe.weights.model_copy(update={str(name): value for name, value in self.weights.items()})
        return Parts.model_validate({name: getattr(recipe, name) for name in Parts.model_fields} | given)

    @property
    def factors(self) -> Weights:
        """The factors that count."""
        return self.parts.weights

    @model_validator(mode="after")
    def _make_sense(self) -> DistillConfig:
        _ = self.parts  # says what does not go together
        return self


class BudgetConfig(Settings):
    """How far the relation loss of an earlier teacher in a domain may rise, and what happens where it rises further."""

    rise: float = Field(default=0.1, ge=0, description="share by which it may rise over the parent's")
    slack: float = Field(default=0.05, gt=0, description="nats that it may rise beside that, where it was near 0")
    rate: float = Field(default=2.0, ge=0, description="step of the dual ascent; 0 watches and does nothing")
    most: float = Field(default=8.0, ge=0, description="largest multiplier")
    every: int = Field(default=20, ge=1, description="steps between two checks")
    rows: int = Field(default=8, ge=0, description="rows per teacher and domain that are watched; 0 is no budget")
    rows_per_check: int = Field(default=64, ge=1, description="rows that a check looks at; strata take turns")
    patience: float = Field(
        default=0.25, gt=0, le=1, description="share of the run's steps with a domain lost after which it stops"
    )


class IncrementalConfig(DistillConfig):
    """A new teacher into a student that exists, with replay of what the earlier teachers taught.

    A tenth of a distillation's work, in small batches: the same samples in four times the steps teach more and spoil
    less (docs/decisions/0027).
    """

    steps: int = Field(default=160, ge=1)
    batch_size: int = Field(default=32, ge=2, description="samples of a step, over all processes")
    warmup: int = Field(default=20, ge=0, description="steps of linear warm-up before the cosine")
    average: Literal["none", "tail", "ema"] = Field(
        default="tail", description="weights of the result: the last, their mean over the last quarter, or exponential"
    )
    replay: float = Field(default=0.5, ge=0, lt=1, description="share of each batch that is replayed")
    replay_rows: int = Field(default=20_000, ge=0, description="length of the replay list")
    coreset: float = Field(default=0.2, ge=0, le=1, description="share of the replay list that is chosen by features")
    coreset_method: Literal["herding", "k-centre"] = Field(
        default="herding", description="choose typical rows, or the range of them"
    )
    at_once: int = Field(default=2, ge=1, description="earlier teachers that a step asks, in turn")
    budget: BudgetConfig = BudgetConfig()
    norms: Literal["learn", "keep"] = Field(
        default="learn", description="running statistics of batch norms; keep the parent's where a batch is split"
    )
    heads_first: float = Field(
        default=0.02, ge=0, le=1, description="share of the steps in which only heads learn, at the beginning"
    )
    keep: float | Literal["search"] = Field(
        default="search",
        description="share of the parent's weights in the result; or the least that the validation split allows",
    )
    loss: float = Field(
        default=0.002, ge=0, lt=1, description="AUC that the search lets a domain lose, beyond one standard error"
    )
    parent: float = Field(default=3.0, ge=0, description="factor of the parent's relation beside the teachers'")

    @field_validator("keep")
    @classmethod
    def _share(cls, keep: float | str) -> float | str:
        if isinstance(keep, float) and not 0 <= keep < 1:
            raise ValueError("a share of at least 0 and less than 1, or search")
        return keep
