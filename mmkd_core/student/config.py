"""What a student is made of and how its first stage is trained. Data only: imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mmkd_core.settings import Settings

VisionConfig = dict[str, int | float | str | bool | list[int]]

# Vision towers in open_clip's own words. On two CPU cores a convolution learns from a few thousand images what a
# transformer of the same cost does not; `vit-b-16` is the paper's student and wants a GPU.
VISION_TOWERS: dict[str, VisionConfig] = {
    "resnet-timm": {"timm_model_name": "test_resnet", "timm_pool": "avg", "timm_proj": "linear", "image_size": 64},
    "resnet-tiny": {"layers": [1, 1, 1, 1], "width": 12, "head_width": 64, "image_size": 64},
    "vit-tiny": {"layers": 4, "width": 128, "head_width": 32, "patch_size": 8, "image_size": 64},
    "vit-b-16": {"layers": 12, "width": 768, "patch_size": 16, "image_size": 224},
}


class TextConfig(Settings):
    """The text tower and its tokenizer, which is fitted to the corpus before training unless another is asked for."""

    tower: Literal["clip", "bert"] = Field(default="clip", description="CLIP's transformer, or transformers' BERT")
    tokenizer: Literal["wordpiece", "bpe", "word", "clip"] = Field(
        default="wordpiece", description="fitted to the corpus, or CLIP's own"
    )
    files: str = Field(default="", description="folder of a published tokenizer to use instead, as BiomedBERT's")
    vocab_size: int = Field(default=1024, ge=64, description="largest vocabulary; small corpora stay below it")
    context_length: int = Field(default=32, ge=4)
    width: int = Field(default=64, ge=1)
    heads: int = Field(default=2, ge=1)
    layers: int = Field(default=1, ge=1)
    head: Literal["mlp", "linear"] = Field(
        default="mlp",
        description="of a BERT: an MLP on the first token as MMKD-CLIP's, or as transformers: pooler, linear map",
    )

    @model_validator(mode="after")
    def _of_a_bert(self) -> TextConfig:
        if self.head == "linear" and self.tower != "bert":
            raise ValueError("head: linear is of a BERT; CLIP's own tower always ends in a linear map")
        return self


PRESETS: dict[str, dict[str, Any]] = {
    "small": {},
    # MMKD-CLIP: ViT-B/16 with QuickGELU and BiomedBERT, 256 tokens. `text.files` gives it BiomedBERT's own vocabulary.
    "paper": {
        "vision": "vit-b-16",
        "quick_gelu": True,
        "embed_dim": 512,
        "resize": "shortest",
        "text": {
            "tower": "bert",
            "vocab_size": 30522,
            "context_length": 256,
            "width": 768,
            "heads": 12,
            "layers": 12,
        },
    },
    # The shape of CLIP ViT-B/16: every part of it has its like in transformers' CLIPModel.
    "transformers": {
        "vision": "vit-b-16",
        "quick_gelu": True,
        "embed_dim": 512,
        "resize": "shortest",
        "text": {"tokenizer": "clip", "context_length": 77, "width": 512, "heads": 8, "layers": 12},
    },
}


class StartConfig(Settings):
    """Weights to start from: files or folders of open_clip, MetaCLIP or an earlier release; for the text a BERT too."""

    image: str = ""
    text: str = ""
    license: str = Field(
        default="", description="SPDX identifier of these weights' licence, where the folder does not say it"
    )

    @model_validator(mode="before")
    @classmethod
    def _both(cls, value: Any) -> Any:
        return {"image": value, "text": value} if isinstance(value, str) else value


class StudentConfig(Settings):
    """Architecture of a student. Everything that shapes its weights is here."""

    preset: Literal["small", "paper", "transformers"] = Field(
        default="small", description="settings of all that is left out below"
    )
    start: StartConfig = Field(
        default=StartConfig(),
        description="a path for both towers, or for `image` and `text`; random if left out",
    )
    vision: str = Field(default="resnet-timm", description=f"one of {', '.join(VISION_TOWERS)}")
    image_size: int | None = Field(default=None, ge=1, description="pixels; the tower's own if left out")
    quick_gelu: bool = Field(default=False, description="the activation of OpenAI's and MetaCLIP's weights")
    text: TextConfig = TextConfig()
    embed_dim: int = Field(default=128, ge=1)
    resize: Literal["squash", "shortest"] = "squash"
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    init_temperature: float = Field(default=0.07, gt=0, description="the logit scale starts at 1 / this")

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("preset", "small") not in PRESETS:
            return given
        preset = PRESETS[given.get("preset", "small")]
        text = given.get("text", {})
        merged = {**preset.get("text", {}), **text} if isinstance(text, dict) else text
        return {**preset, **given, "text": merged}

    @field_validator("vision")
    @classmethod
    def _known(cls, vision: str) -> str:
        if vision not in VISION_TOWERS:
            raise ValueError(f"no vision tower is called {vision!r}; there are {', '.join(VISION_TOWERS)}")
        return vision

    @property
    def pixels(self) -> int:
        """Side of the square image that the vision tower takes."""
        return self.image_size or int(self.vision_config["image_size"])  # type: ignore[arg-type]

    @property
    def vision_config(self) -> VisionConfig:
        """``vision_cfg`` as open_clip wants it."""
        tower = dict(VISION_TOWERS[self.vision])
        if self.image_size:
            tower["image_size"] = self.image_size
        return tower


class TrainConfig(Settings):
    """What any stage of training needs to know about steps and the optimiser."""

    steps: int = Field(default=400, ge=1)
    batch_size: int = Field(default=128, ge=2, description="samples of a step, over all processes")
    accumulate: int = Field(
        default=1, ge=1, description="pieces that a process embeds its part of a batch in: less memory, the same step"
    )
    lr: float = Field(default=2e-3, gt=0)
    warmup: int = Field(default=40, ge=0, description="steps of linear warm-up before the cosine")
    final_lr: float = Field(default=0.02, ge=0, le=1, description="share of lr that is left at the end")
    weight_decay: float = Field(default=0.05, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    crop: float = Field(default=0.85, gt=0, le=1, description="smallest random crop, as a share of the side; 1 is none")
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    balance: Literal["natural", "sqrt", "uniform"] = Field(
        default="sqrt",
        description="share of a domain in a batch: by its size, by the square root of it, or the same for all",
    )


class PretrainConfig(TrainConfig):
    """Stage 1: CLIP loss on image-caption pairs."""

    steps: int = Field(default=400, ge=0, description="0: the student that `start` names goes on as it is")
    captions: Literal["own", "labels"] = Field(
        default="own", description="the samples' own captions, or sentences made from their labels"
    )
    domains: tuple[str, ...] = Field(default=(), description="train on these domains only; empty is all")
