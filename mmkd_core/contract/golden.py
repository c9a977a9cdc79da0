"""Golden values: what a teacher must answer for one synthetic image and one text.

Weights that load "strictly" can still be wrong: a flipped activation, another context length, another normalisation or
a tokenizer that turns every word into [UNK] raise nothing. Eight numbers per tower notice all of them; pixels and token
ids say on which side of the model the difference lies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from mmkd_core.contract.teacher import Teacher

GOLDEN_VALUES = 8
GOLDEN_TOKENS = 16

Values = Annotated[tuple[float, ...], Field(min_length=1, max_length=64)]


class Golden(BaseModel):
    """The first values of the raw embeddings of one synthetic image and one text, and of what the model was given."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, allow_inf_nan=False)

    seed: int = Field(ge=0, description="Seed of the synthetic image, see golden_image.")
    prompt: str = Field(min_length=1, description="The text that is embedded, exactly as given (no template).")
    image: Values = Field(description="First values of the raw image embedding.")
    text: Values = Field(description="First values of the raw text embedding.")
    pixels: Values | None = Field(default=None, description="Preprocessed pixels, see pixels_of.")
    tokens: tuple[int, ...] | None = Field(
        default=None, min_length=1, max_length=64, description="First token ids of the prompt."
    )
    tolerance: float = Field(
        default=1e-3, gt=0, description="Largest accepted absolute difference, divided by the largest golden value."
    )


def golden_image(seed: int) -> Image:
    """A colour image of 320 x 256 pixels: noise on a coarse grid, enlarged, so that it survives any resizing.

    Neither square nor of any model's size, so that a wrong resize mode changes the embedding.
    """
    import numpy as np
    from PIL import Image as Pillow

    grid = np.random.Generator(np.random.Philox(seed)).integers(0, 256, (16, 20, 3), dtype=np.uint8)
    return Pillow.fromarray(grid.repeat(16, axis=0).repeat(16, axis=1))


def pixels_of(pixels: Tensor) -> tuple[float, ...]:
    """Eight of the values of a preprocessed image (3, H, W), spread evenly over all three channels."""
    flat = pixels.flatten()
    return tuple(flat[(2 * i + 1) * len(flat) // (2 * GOLDEN_VALUES)].item() for i in range(GOLDEN_VALUES))


def measure_golden(teacher: Teacher, seed: int, prompt: str, tolerance: float = 1e-3) -> Golden:
    """Ask a loaded teacher for its golden values, to be written into its spec."""
    pixels, tokens = teacher.preprocess(golden_image(seed)), teacher.tokenize([prompt])
    image, text = teacher.encode_image(pixels.unsqueeze(0)), teacher.encode_text(tokens)
    return Golden(
        seed=seed,
        prompt=prompt,
        image=tuple(image[0, :GOLDEN_VALUES].tolist()),
        text=tuple(text[0, :GOLDEN_VALUES].tolist()),
        pixels=pixels_of(pixels),
        tokens=tuple(tokens[0, :GOLDEN_TOKENS].tolist()),
        tolerance=tolerance,
    )
