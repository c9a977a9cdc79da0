"""Single transformers models and their tokenizers, built from local configurations: towers that no library pairs.

``Pair`` makes a ``Teacher`` of two of them.

transformers has renamed weights over the years and knows its own older names, so a checkpoint goes through its
mapping; what is missing or left over after that is an error, where transformers would fill in random numbers.

Does not: fetch anything, or let transformers read a checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import PluginError
from mmkd_core.plugins.loaders import checkpoint
from mmkd_core.plugins.loaders import folder as files


def filled(spec: TeacherSpec, kind: Any, config: Any, state: Mapping[str, Tensor], file: Path, **options: Any) -> Any:
    """A transformers model in float32 with all weights of a checkpoint.

    Args:
        spec: whose model it is, for messages.
        kind: the class, e.g. ``transformers.SwinModel``.
        config: its configuration.
        state: the weights under the names of any version of transformers.
        file: where they came from, for messages.
        options: passed to the class, e.g. ``add_pooling_layer=False``.

    Raises:
        PluginError: one sentence with all weights that are missing, unexpected or of another shape.
    """
    with torch.random.fork_rng(devices=[]), _quietly():
        model, report = kind.from_pretrained(
            None,
            config=config,
            state_dict=checkpoint.without_position_ids(spec, state, ()),
            dtype=torch.float32,
            output_loading_info=True,
            **options,
        )
    checkpoint.complain(
        spec,
        file,
        missing=report["missing_keys"],
        unexpected=report["unexpected_keys"],
        of_another_shape=[name for name, *_ in report["mismatched_keys"]],
    )
    return model


def bert_config(spec: TeacherSpec, weights: Mapping[str, Path]) -> Any:
    """The ``BertConfig`` in role ``text_tower``.

    Raises:
        PluginError: there is no config.json, it asks for remote code, or it is of another model type.
    """
    import transformers

    folder = files.folder_for("text_tower", weights)
    files.require(spec, weights, folder, "config.json")
    kind = files.read_config(spec, folder / "config.json").get("model_type")
    if kind != "bert":
        raise PluginError(f"the text tower of teacher {spec.name} is of type {kind!r}, not 'bert'", where=str(folder))
    return transformers.BertConfig.from_pretrained(folder, local_files_only=True)


def mean_of_states(bert: Any, tokens: Tensor, pad: int, layers: Sequence[int]) -> Tensor:
    """The mean of some hidden states over layers and over all tokens but padding.

    Args:
        bert: a ``BertModel``.
        tokens: (B, L) ids on its device.
        pad: the id of padding.
        layers: which states: 0 is the embedding, 1 the first layer's output, -1 the last's.

    Returns:
        (B, hidden size).
    """
    mask = (tokens != pad).long()
    states = bert(input_ids=tokens, attention_mask=mask, output_hidden_states=True).hidden_states
    mean = torch.stack([states[layer] for layer in layers]).mean(dim=0)  # (B, L, hidden)
    pooled: Tensor = (mean * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
    return pooled


class TextTokens(Protocol):
    """Texts to ids of the spec's context length, and which id fills up."""

    @property
    def pad(self) -> int:
        """The id of padding."""

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B, context_length) int64 on the CPU."""


class Tokens:
    """A Hugging Face tokenizer: texts to ids, padded to the spec's context length, longer texts cut."""

    def __init__(self, spec: TeacherSpec, weights: Mapping[str, Path], tokenizer: Any = None) -> None:
        """Read the declared files, or take a tokenizer where they name code that must not run."""
        import transformers

        self._length = spec.text.context_length
        self._tokenizer = tokenizer or transformers.AutoTokenizer.from_pretrained(
            files.tokenizer_folder(spec, weights), local_files_only=True, trust_remote_code=False
        )

    @property
    def pad(self) -> int:
        """The id of padding."""
        return int(self._tokenizer.pad_token_id)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B, context_length) int64 on the CPU."""
        batch = self._tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
        )
        tokens: Tensor = batch["input_ids"]
        return tokens


def tokenizer_file(spec: TeacherSpec, file: Path) -> Any:
    """The ``tokenizers.Tokenizer`` in one JSON file, for a plugin that pads and cuts on its own.

    Raises:
        PluginError: it holds no tokenizer.
    """
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises bare ones
        raise PluginError(f"{file.name} of teacher {spec.name} cannot be read: {error}", where=str(file)) from error


class Pair:
    """Two towers and how images and texts are prepared for them, as a ``Teacher``."""

    def __init__(
        self,
        spec: TeacherSpec,
        model: nn.Module,
        prepare: Callable[[Image.Image], Tensor],
        tokens: Tokens,
        logit_scale: float,
        device: str,
    ) -> None:
        """Put together what its parameters say.

        Args:
            spec: whose towers they are.
            model: has ``encode_image(pixels)`` and ``encode_text(tokens)``, which answer (B, D), not normalised.
            prepare: one image to float32 (3, H, W).
            tokens: texts to ids.
            logit_scale: multiplies the cosine, already exponentiated.
            device: where it runs.
        """
        self.spec = spec
        self.logit_scale = logit_scale
        self.model: Any = model.eval().requires_grad_(False).to(device)
        self._prepare = prepare
        self._tokens = tokens
        self._device = torch.device(device)

    def preprocess(self, image: Image.Image) -> Tensor:
        """(3, H, W) float32 on the CPU."""
        return self._prepare(image)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, context_length) int64 on the CPU."""
        return self._tokens(texts)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D), not normalised."""
        features: Tensor = self.model.encode_image(images.to(self._device, torch.float32))
        return features

    @torch.no_grad()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) to (B, D), not normalised."""
        features: Tensor = self.model.encode_text(tokens.to(self._device))
        return features


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' progress bar and its table of missing keys, which ``complain`` says in a sentence."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()
