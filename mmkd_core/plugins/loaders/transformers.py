"""Teachers of the family ``transformers``: CLIPModel, SiglipModel or VisionTextDualEncoderModel in a local folder.

    config.json, model.safetensors, tokenizer.json, tokenizer_config.json

transformers fills weights that are missing with random numbers and only warns; here that is an error. Only
safetensors are read, and no remote code is run.
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
from mmkd_core.plugins.loaders import folder as files
from mmkd_core.plugins.loaders.preprocess import preprocess

CHECKPOINT = "model.safetensors"
MASKED = {"clip": False, "siglip": False, "vision-text-dual-encoder": True}
"""Model type to whether padding is masked. CLIP's text tower is causal and pools before the padding, SigLIP was trained
to read its padding; a BERT tower needs the mask."""


class TransformersTeacher:
    """A ``Teacher`` around a transformers model with ``get_image_features`` and ``get_text_features``."""

    def __init__(self, spec: TeacherSpec, model: Any, tokenizer: Any, masked: bool, device: str) -> None:
        self.spec = spec
        self.model = model.eval().requires_grad_(False).to(device)
        self._tokenizer = tokenizer
        self._masked = masked
        self._device = torch.device(device)

    def preprocess(self, image: Image.Image) -> Tensor:
        """(3, size, size) float32 on the CPU."""
        return preprocess(image, self.spec.image)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, context_length) int64 on the CPU."""
        batch = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=self.spec.text.context_length,
            return_tensors="pt",
        )
        tokens: Tensor = batch["input_ids"]
        return tokens

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D), not normalised."""
        return _embedding(self.model.get_image_features(pixel_values=images.to(self._device, torch.float32)))

    @torch.no_grad()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) to (B, D), not normalised."""
        tokens = tokens.to(self._device)
        mask = (tokens != self._tokenizer.pad_token_id).long() if self._masked else None
        return _embedding(self.model.get_text_features(input_ids=tokens, attention_mask=mask))


def load(spec: TeacherSpec, weights: Mapping[str, Path], device: str) -> TransformersTeacher:
    """Build the teacher from its verified folders.

    Raises:
        PluginError: another model type, remote code, or weights that do not fit the configuration.
    """
    import transformers

    folder, words = weights["model"], files.folder_for("tokenizer", weights)
    files.refuse_arch(spec)
    files.require(spec, weights, folder, "config.json", CHECKPOINT)
    files.require(spec, weights, words, "tokenizer.json")
    for place in {folder, words}:
        files.refuse_undeclared(spec, weights, place)
        files.check_configs(spec, place)
    kind = files.read_config(spec, folder / "config.json").get("model_type")
    if kind not in MASKED:
        raise PluginError(
            f"teacher {spec.name} is a transformers model of type {kind!r}; built in are {', '.join(sorted(MASKED))}",
            next="Write mmkd_load_teacher in the plugin for other types",
        )
    if spec.text.tokenizer != "hf":
        raise PluginError(f"teacher {spec.name}: family transformers needs tokenizer hf, the spec says open_clip")
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with torch.random.fork_rng(devices=[]):
        model, report = transformers.AutoModel.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **local
        )
    for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report[problem]:
            names = ", ".join(sorted(map(str, report[problem]))[:3])
            raise PluginError(
                f"weights of teacher {spec.name} do not fit config.json: {problem.replace('_', ' ')} {names}",
                where=str(folder),
            )
    tokenizer = transformers.AutoTokenizer.from_pretrained(words, **local)
    return TransformersTeacher(spec, model, tokenizer, MASKED[kind], device)


def _embedding(output: Any) -> Tensor:
    """transformers 5 wraps the projected embedding, earlier ones return it."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features.float()
