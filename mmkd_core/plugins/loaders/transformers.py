"""Teachers of the family ``transformers``: CLIPModel, SiglipModel or VisionTextDualEncoderModel in a local folder.

    config.json, tokenizer_config.json
    model.safetensors       or another single declared checkpoint, e.g. pytorch_model.bin
    tokenizer.json          or vocab.txt, or vocab.json and merges.txt

The spec's ``arch`` may hold ``activation``: what config.json must say of the vision tower.

transformers fills weights that are missing with random numbers and only warns; here that is an error. No remote code
is run, and the checkpoint is read here rather than there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import PluginError
from mmkd_core.plugins.loaders import checkpoint, towers
from mmkd_core.plugins.loaders import folder as files
from mmkd_core.plugins.loaders.preprocess import preprocess

CHECKPOINT = "model.safetensors"
MASKED = {"clip": False, "siglip": False, "vision-text-dual-encoder": True}
"""Model type to whether padding is masked. CLIP's text tower is causal and pools before the padding, SigLIP was trained
to read its padding; a BERT tower needs the mask."""


class TransformersTeacher:
    """A ``Teacher`` around a transformers model with ``get_image_features`` and ``get_text_features``."""

    def __init__(self, spec: TeacherSpec, model: Any, tokens: towers.TextTokens, masked: bool, device: str) -> None:
        self.spec = spec
        self.model = model.eval().requires_grad_(False).to(device)
        self._tokens = tokens
        self._masked = masked
        self._device = torch.device(device)

    @property
    def logit_scale(self) -> float:
        """The learnt one, exponentiated."""
        return float(self.model.logit_scale.exp())

    def preprocess(self, image: Image.Image) -> Tensor:
        """(3, size, size) float32 on the CPU."""
        return preprocess(image, self.spec.image)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, context_length) int64 on the CPU."""
        return self._tokens(texts)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D), not normalised."""
        return _embedding(self.model.get_image_features(pixel_values=images.to(self._device, torch.float32)))

    @torch.no_grad()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) to (B, D), not normalised."""
        tokens = tokens.to(self._device)
        mask = (tokens != self._tokens.pad).long() if self._masked else None
        return _embedding(self.model.get_text_features(input_ids=tokens, attention_mask=mask))


def load(
    spec: TeacherSpec, weights: Mapping[str, Path], device: str, tokens: towers.TextTokens | None = None
) -> TransformersTeacher:
    """Build the teacher from its verified folders.

    Args:
        spec: whose model it is.
        weights: its folders by role.
        device: where it shall run.
        tokens: its tokenizer; by default the one that transformers reads from the folder.

    Raises:
        PluginError: another model type, remote code, or weights that do not fit the configuration.
    """
    import transformers

    folder = weights["model"]
    files.refuse_arch(spec, "activation")
    files.require(spec, weights, folder, "config.json")
    files.refuse_undeclared(spec, weights, folder)
    files.check_configs(spec, folder)
    kind = files.read_config(spec, folder / "config.json").get("model_type")
    if kind not in MASKED:
        raise PluginError(
            f"teacher {spec.name} is a transformers model of type {kind!r}; built in are {', '.join(sorted(MASKED))}",
            next="Write mmkd_load_teacher in the plugin for other types",
        )
    if spec.text.tokenizer != "hf":
        raise PluginError(f"teacher {spec.name}: family transformers needs tokenizer hf, the spec says open_clip")
    tokens = tokens or towers.Tokens(spec, weights)
    config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    declared, said = spec.arch.get("activation"), getattr(config.vision_config, "hidden_act", None)
    if declared not in (None, said):
        raise PluginError(f"activation of teacher {spec.name}: the spec says {declared}, config.json says {said}")
    file = files.checkpoint(spec, folder, CHECKPOINT)
    model = towers.filled(spec, transformers.MODEL_MAPPING[type(config)], config, checkpoint.read(spec, file), file)
    return TransformersTeacher(spec, model, tokens, MASKED[kind], device)


def _embedding(output: Any) -> Tensor:
    """transformers 5 wraps the projected embedding, earlier ones return it."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features.float()
