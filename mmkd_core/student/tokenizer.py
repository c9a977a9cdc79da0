"""Fit a small tokenizer to a corpus and keep it in the form that ``AutoTokenizer`` reads.

Ids: ``[PAD]`` 0, ``[UNK]`` 1, ``[EOS]`` 2 (the text tower reads its output at the first ``[EOS]``).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd_core.student.config import TextConfig

if TYPE_CHECKING:
    import torch

SPECIAL = ["[PAD]", "[UNK]", "[EOS]"]
PAD, UNK, EOS = range(3)


def fit_tokenizer(texts: Iterable[str], config: TextConfig) -> Any:
    """Fit a ``tokenizers.Tokenizer`` of the asked kind on the distinct ``texts``; their order does not matter."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    corpus = sorted(set(_clean(texts)))
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.BertPreTokenizer()
    common: dict[str, Any] = {"vocab_size": config.vocab_size, "show_progress": False}
    first = SPECIAL
    kind: Any
    trainer: Any
    if config.tokenizer == "bpe":
        kind, trainer = models.BPE(unk_token="[UNK]"), trainers.BpeTrainer
    elif config.tokenizer == "wordpiece":
        kind, trainer = models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer
        # The trainer numbers inner letters in the order of a hash map, another one in each run, and breaks ties between
        # pairs by these numbers. Letters that are in the vocabulary before it starts keep the number they have.
        words = {word for text in corpus for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
        first = [*SPECIAL, *sorted({f"##{letter}" for word in words for letter in word[1:]})]
    else:
        kind, trainer = models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer
    tokenizer = Tokenizer(kind)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.train_from_iterator(corpus, trainer(special_tokens=first, **common))
    if config.tokenizer == "wordpiece":  # inner letters were special for the trainer only
        tokenizer = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
        tokenizer.add_special_tokens(SPECIAL)
        tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [EOS]", special_tokens=[("[EOS]", EOS)])
    return tokenizer


def save_tokenizer(tokenizer: Any, folder: Path, context_length: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``; other files of the folder stay."""
    _frame(tokenizer, context_length)  # or the file would tell whether the tokenizer was used before it was saved
    tokenizer.save(str(folder / "tokenizer.json"))
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "eos_token": "[EOS]",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def encode(tokenizer: Any, texts: Sequence[str], context_length: int) -> torch.Tensor:
    """Token ids of ``texts``, padded and cut to ``context_length``: int64 (B, L), as open_clip's ``HFTokenizer``."""
    import torch

    _frame(tokenizer, context_length)
    encoded = tokenizer.encode_batch(_clean(texts))
    return torch.tensor([item.ids for item in encoded], dtype=torch.int64).reshape(len(texts), context_length)


def _frame(tokenizer: Any, context_length: int) -> None:
    tokenizer.enable_truncation(context_length)
    tokenizer.enable_padding(length=context_length, pad_id=PAD, pad_token="[PAD]")


def _clean(texts: Iterable[str]) -> list[str]:
    """Mend encodings and entities and fold white space by open_clip's own function, so that the ids agree."""
    from open_clip.tokenizer import get_clean_fn

    clean = get_clean_fn("whitespace")
    return [clean(text) for text in texts]
