"""Tokenizers of students, in the form that ``AutoTokenizer`` reads: fitted to a corpus, CLIP's own, or a published one.

Fitted ids: ``[PAD]`` 0, ``[EOS]`` 1, ``[UNK]`` 2. The text tower reads its output at the first ``[EOS]``; transformers'
CLIP reads it elsewhere if that has id 2. For a BERT ``[PAD]``, ``[UNK]``, ``[CLS]``, ``[SEP]`` (it reads its output at
``[CLS]``, the first).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd_core.errors import ReleaseError
from mmkd_core.student.config import TextConfig

if TYPE_CHECKING:
    import torch

FITTED = {"pad_token": "[PAD]", "eos_token": "[EOS]", "unk_token": "[UNK]"}
FITTED_BERT = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
_START, _END = "<|startoftext|>", "<|endoftext|>"
CLIP = {"pad_token": _END, "unk_token": _END, "bos_token": _START, "eos_token": _END}
_KINDS = ("pad_token", "unk_token", "bos_token", "eos_token", "cls_token", "sep_token", "mask_token")
_FILES = ({"tokenizer.json"}, {"vocab.txt"}, {"vocab.json", "merges.txt"})


@dataclass(frozen=True)
class Vocabulary:
    """A ``tokenizers.Tokenizer`` and which of its tokens are special, by kind (``pad_token`` and so on)."""

    tokenizer: Any
    special: Mapping[str, str]

    @property
    def pad(self) -> int:
        """Id that fills up short texts."""
        return int(self.tokenizer.token_to_id(self.special["pad_token"]))

    @property
    def eos(self) -> int | None:
        """Id that ends a text; None in a vocabulary of BERT."""
        return self.tokenizer.token_to_id(self.special["eos_token"]) if "eos_token" in self.special else None

    def __len__(self) -> int:
        return int(self.tokenizer.get_vocab_size())


def vocabulary(config: TextConfig, texts: Iterable[str], published: Path | None = None) -> Vocabulary:
    """The vocabulary that a text tower asks for: published in a folder, CLIP's, or fitted to ``texts``."""
    if published is not None:
        return read_published(published)
    if config.tokenizer == "clip":
        return clip_vocabulary()
    return Vocabulary(fit_tokenizer(texts, config), FITTED if config.tower == "clip" else FITTED_BERT)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer in one of the published forms."""
    return folder.is_dir() and any(all((folder / name).is_file() for name in names) for names in _FILES)


def read_published(folder: Path) -> Vocabulary:
    """A tokenizer as the Hugging Face hub keeps it; no code of it is run, and nothing is fetched.

    Raises:
        ReleaseError: there is none.
    """
    from transformers import AutoTokenizer

    if not has_tokenizer(folder):
        raise ReleaseError(
            "this folder holds no tokenizer: no tokenizer.json, vocab.txt, or vocab.json with merges.txt",
            where=str(folder),
            next="Fetch its files, or leave `text.files` empty to fit one to the corpus",
        )
    fast = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    special = {kind: str(token) for kind in _KINDS if (token := getattr(fast, kind, None)) is not None}
    return Vocabulary(fast.backend_tokenizer, special)


def clip_vocabulary() -> Vocabulary:
    """CLIP's 49,408 pieces (Radford et al. 2021), which come with open_clip."""
    from open_clip.tokenizer import SimpleTokenizer
    from transformers import CLIPTokenizer

    own = SimpleTokenizer()
    names = {"<start_of_text>": _START, "<end_of_text>": _END}  # the same ids; transformers knows these names
    pieces = {names.get(piece, piece): number for piece, number in own.encoder.items()}
    fast = CLIPTokenizer(vocab=pieces, merges=list(own.bpe_ranks))
    return Vocabulary(fast.backend_tokenizer, CLIP)


def fit_tokenizer(texts: Iterable[str], config: TextConfig) -> Any:
    """Fit a ``tokenizers.Tokenizer`` of the asked kind on the distinct ``texts``; their order does not matter."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    corpus = sorted(set(_clean(texts)))
    normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    splitter = pre_tokenizers.BertPreTokenizer()
    common: dict[str, Any] = {"vocab_size": config.vocab_size, "show_progress": False}
    special = list((FITTED if config.tower == "clip" else FITTED_BERT).values())
    first = special
    kind: Any
    trainer: Any
    if config.tokenizer == "bpe":
        kind, trainer = models.BPE(unk_token="[UNK]"), trainers.BpeTrainer
    elif config.tokenizer == "wordpiece":
        kind, trainer = models.WordPiece(unk_token="[UNK]"), trainers.WordPieceTrainer
        # The trainer numbers inner letters in the order of a hash map, another one in each run, and breaks ties between
        # pairs by these numbers. Letters that are in the vocabulary before it starts keep the number they have.
        words = {word for text in corpus for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))}
        first = [*special, *sorted({f"##{letter}" for word in words for letter in word[1:]})]
    else:
        kind, trainer = models.WordLevel(unk_token="[UNK]"), trainers.WordLevelTrainer
    tokenizer = Tokenizer(kind)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.train_from_iterator(corpus, trainer(special_tokens=first, **common))
    if config.tokenizer == "wordpiece":  # inner letters were special for the trainer only
        tokenizer = Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
        tokenizer.add_special_tokens(special)
        tokenizer.decoder = decoders.WordPiece()
    frame = "$A [EOS]" if config.tower == "clip" else "[CLS] $A [SEP]"
    marks = [(token, number) for number, token in enumerate(special) if token in frame]
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=marks)
    return tokenizer


def save_tokenizer(vocabulary: Vocabulary, folder: Path, context_length: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``; other files of the folder stay."""
    _frame(vocabulary, context_length)  # or the file would tell whether the tokenizer was used before it was saved
    vocabulary.tokenizer.save(str(folder / "tokenizer.json"))
    facts = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_length,
        "clean_up_tokenization_spaces": False,
        **vocabulary.special,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")


def load_tokenizer(folder: Path) -> Vocabulary:
    """Read what ``save_tokenizer`` wrote."""
    from tokenizers import Tokenizer

    facts = json.loads((folder / "tokenizer_config.json").read_text())
    special = {kind: facts[kind] for kind in _KINDS if kind in facts}
    return Vocabulary(Tokenizer.from_file(str(folder / "tokenizer.json")), special)


def encode(vocabulary: Vocabulary, texts: Sequence[str], context_length: int) -> torch.Tensor:
    """Token ids of ``texts``, padded and cut to ``context_length``: int64 (B, L), as open_clip's ``HFTokenizer``."""
    import torch

    _frame(vocabulary, context_length)
    encoded = vocabulary.tokenizer.encode_batch(_clean(texts))
    return torch.tensor([item.ids for item in encoded], dtype=torch.int64).reshape(len(texts), context_length)


def _frame(vocabulary: Vocabulary, context_length: int) -> None:
    vocabulary.tokenizer.enable_truncation(context_length)
    pad = vocabulary.special["pad_token"]
    vocabulary.tokenizer.enable_padding(length=context_length, pad_id=vocabulary.pad, pad_token=pad)


def _clean(texts: Iterable[str]) -> list[str]:
    """Mend encodings and entities and fold white space by open_clip's own function, so that the ids agree."""
    from open_clip.tokenizer import get_clean_fn

    clean = get_clean_fn("whitespace")
    return [clean(text) for text in texts]
