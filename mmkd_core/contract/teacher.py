"""What a loaded teacher can do. A protocol, not a base class: nothing to inherit, nothing to register."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from mmkd_core.contract.spec import TeacherSpec


class Teacher(Protocol):
    """A frozen CLIP-like model.

    Embeddings are float32 and NOT L2-normalised: normalisation is a step of ours and happens in one place. The model is
    in evaluation mode, none of its parameters requires a gradient, and encoding records none.

    A teacher may also have ``logit_scale``, a float: the learnt one from its checkpoint, already exponentiated. Adding
    the teacher writes it into ``mmkd.lock``, where it stands above the spec's.
    """

    @property
    def spec(self) -> TeacherSpec:
        """The declaration that this model was built from."""
        ...

    def preprocess(self, image: Image) -> Tensor:
        """Turn one 8-bit image into a float32 tensor of shape (3, H, W), on the CPU."""
        ...

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Turn B texts into int64 token ids of shape (B, L), on the CPU; longer texts are cut."""
        ...

    def encode_image(self, images: Tensor) -> Tensor:
        """Embed (B, 3, H, W) on any device; returns float32 (B, D) on the model's device."""
        ...

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embed (B, L) on any device; returns float32 (B, D) on the model's device."""
        ...
