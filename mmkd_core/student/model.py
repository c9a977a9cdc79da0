"""A student in memory: an open_clip model with its tokenizer, and the folder that it is saved to.

The folder is open_clip's ``local-dir:`` layout (``open_clip_config.json``, ``open_clip_model.safetensors``,
``tokenizer.json``, ``tokenizer_config.json``, for a BERT ``config.json``), so that a student in training, a release, an
export and a teacher's weights are one format.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from mmkd_core.errors import ReleaseError
from mmkd_core.files import replacing
from mmkd_core.progress import Progress, Silent
from mmkd_core.student import tokenizer as tok
from mmkd_core.student import towers
from mmkd_core.student.config import StudentConfig
from mmkd_core.student.tokenizer import Vocabulary

Features = np.ndarray[Any, np.dtype[np.float32]]


def precision_dtype(precision: str) -> torch.dtype:
    """bf16 where it is asked for or where the CPU has instructions for it (without them it is slower than fp32)."""
    if precision == "auto":
        fast = torch.cuda.is_available() or torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode inside; every part of it is put back as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """On CPUs the fused backward pass takes three times as long as plain matrices for texts as short as captions."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" and torch.is_grad_enabled() else nullcontext()


def to_device(batch: Tensor, device: torch.device) -> Tensor:
    """A tensor of a batch where it is needed; on its way to a GPU it is pinned and the CPU does not wait."""
    return batch if device.type == "cpu" else batch.pin_memory().to(device, non_blocking=True)


class Student:
    """An open_clip model, its tokenizer and its preprocessing.

    Attributes:
        model: ``open_clip.CustomTextCLIP``; ``model.visual``, ``model.text`` and ``model.logit_scale`` (log).
        tokenizer: its ``Vocabulary``.
        pixels: side of the square input image.
    """

    def __init__(
        self, model: Any, tokenizer: Vocabulary, model_config: dict[str, Any], preprocess: dict[str, Any]
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.model_config, self.preprocess = model_config, preprocess
        size = model_config["vision_cfg"]["image_size"]
        self.pixels = int(size)
        self.embed_dim = int(model_config["embed_dim"])
        self._mean = torch.tensor(preprocess["mean"]).view(1, 3, 1, 1)
        self._std = torch.tensor(preprocess["std"]).view(1, 3, 1, 1)

    @classmethod
    def build(cls, config: StudentConfig, texts: Iterable[str], seed: int, published: Path | None = None) -> Student:
        """A student with random weights (from ``seed``).

        Args:
            texts: what a tokenizer is fitted to, if the configuration asks for one.
            published: folder of a tokenizer to take instead.
        """
        vocabulary = tok.vocabulary(config.text, texts, published)
        model_config = {
            "embed_dim": config.embed_dim,
            "custom_text": True,
            "init_logit_scale": float(np.log(1 / config.init_temperature)),
            "vision_cfg": config.vision_config,
            "text_cfg": towers.text_config(config.text, vocabulary),
        }
        if config.quick_gelu:
            model_config["quick_gelu"] = True
        preprocess = {
            "mean": list(config.mean),
            "std": list(config.std),
            "interpolation": "bicubic",
            "resize_mode": config.resize,
        }
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            bert = towers.bert_config(config.text, vocabulary) if config.text.tower == "bert" else None
            model = towers.open_clip_model(model_config, bert)
        return cls(model, vocabulary, model_config, preprocess)

    @classmethod
    def load(cls, folder: Path) -> Student:
        """Read a student from its folder.

        Raises:
            ReleaseError: if a file is missing or the weights do not fit the configuration.
        """
        from safetensors.torch import load_file

        try:
            config = json.loads((folder / "open_clip_config.json").read_text())
            weights = load_file(folder / "open_clip_model.safetensors")
            vocabulary = tok.load_tokenizer(folder)
            shape, preprocess = config["model_cfg"], config["preprocess_cfg"]
            bert = towers.read_bert_config(folder) if "hf_model_name" in shape["text_cfg"] else None
            if bert is not None:
                shape["text_cfg"]["hf_model_name"] = "."  # an exported folder says where it lay
        except Exception as error:
            raise ReleaseError("this folder holds no student", where=f"{folder}: {error}") from error
        model = towers.open_clip_model(shape, bert)
        try:
            model.load_state_dict(
                {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
            )
        except RuntimeError as error:
            raise ReleaseError("the student's weights do not fit its configuration", where=str(folder)) from error
        return cls(model, vocabulary, shape, preprocess)

    def save(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the folder; ``dtype`` float16 halves the weights (for shipping, not for training on)."""
        from safetensors.torch import save

        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"model_cfg": self.model_config, "preprocess_cfg": self.preprocess}, indent=2, sort_keys=True)
        (folder / "open_clip_config.json").write_text(text + "\n")
        tok.save_tokenizer(self.tokenizer, folder, self.context_length)
        state = {
            name: (value.to(dtype) if value.is_floating_point() else value).cpu().contiguous().clone()
            for name, value in self.model.state_dict().items()
        }
        if towers.is_bert(self.model.text):
            self.model.text.config.save_pretrained(folder)
        with replacing(folder / "open_clip_model.safetensors") as file:
            file.write(save(state, metadata={"format": "pt"}))

    @property
    def device(self) -> torch.device:
        """Where the weights are. Images and tokens are brought there, embeddings stay there."""
        device: torch.device = self.model.logit_scale.device
        return device

    @property
    def context_length(self) -> int:
        """Longest text in tokens."""
        return int(self.model_config["text_cfg"]["context_length"])

    @property
    def logit_scale(self) -> float:
        """The factor on cosines, already exponentiated."""
        return float(self.model.logit_scale.detach().exp())

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids (B, L)."""
        return tok.encode(self.tokenizer, texts, self.context_length)

    def prepare(self, pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
        """uint8 (B, H, W, 3) at the student's size to the normalised float tensor (B, 3, H, W) on its device."""
        images = to_device(torch.from_numpy(np.array(pixels)), self.device).permute(0, 3, 1, 2).float().div_(255)
        return (images - self._mean.to(self.device)) / self._std.to(self.device)

    def images(self, batch: Tensor) -> Tensor:
        """Image embeddings (B, D), not normalised, with gradient."""
        features: Tensor = self.model.visual(batch.contiguous(memory_format=torch.channels_last))
        return features.float()

    def texts(self, tokens: Tensor) -> Tensor:
        """Text embeddings (B, D), not normalised, with gradient.

        Attention is causal and the output is read at the end of the text (of a BERT: padding is masked and the output
        is read at its beginning), so the padding that all texts of a batch share changes nothing and is cut off: on
        two cores it was a fifth of a training step.
        """
        pad, tower = self.tokenizer.pad, self.model.text
        length = int((tokens != pad).any(0).sum()) + (pad == self.tokenizer.eos)  # where padding ends a text too, once
        tokens = to_device(tokens[:, : max(1, length)], self.device)
        if towers.is_bert(tower):
            embedded: Tensor = tower(tokens)
            return embedded.float()
        length = tokens.shape[1]
        whole = tower.attn_mask
        tower.attn_mask = whole[:length, :length]  # open_clip applies its mask uncut
        try:
            with _attention(self.device):
                features: Tensor = tower(tokens)
        finally:
            tower.attn_mask = whole
        return features.float()

    @torch.inference_mode()
    def embed_images(
        self, pixels: np.ndarray[Any, np.dtype[np.uint8]], progress: Progress | None = None, batch: int = 256
    ) -> Features:
        """Unit-norm image embeddings (N, D) of uint8 pixels (N, H, W, 3), in float32 without gradient."""
        self.model.eval()
        out = np.empty((len(pixels), self.embed_dim), np.float32)
        with (progress or Silent()).task("student: images", len(pixels), "images") as advance:
            for start in range(0, len(pixels), batch):
                part = self.images(self.prepare(pixels[start : start + batch]))
                out[start : start + len(part)] = F.normalize(part, dim=-1).cpu().numpy()
                advance(len(part))
        return out

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str], batch: int = 512) -> Features:
        """Unit-norm text embeddings (N, D), in float32 without gradient."""
        self.model.eval()
        parts = [
            F.normalize(self.texts(self.tokenize(texts[start : start + batch])), dim=-1).cpu().numpy()
            for start in range(0, len(texts), batch)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.embed_dim), np.float32)
