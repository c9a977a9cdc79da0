"""The smallest weights that a built-in loader accepts: random, from a seed, in the published layouts.

A new plugin starts with them, so that its tests really load, tokenize and encode before the real weights are there.
They know nothing.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from mmkd_core.contract import CLIP_MEAN, CLIP_STD

Family = Literal["open_clip", "transformers"]

SIZE, CONTEXT, DIM, LOGIT_SCALE = 32, 32, 16, 14.3
"""What a spec of these weights declares: pixels, tokens, dimensions, logit scale."""
_PAD, _EOS = 256, 257  # after the 256 bytes; the end of a text has the largest id, as in CLIP's own vocabulary
_WIDTH = 32


def write_tiny_weights(family: Family, folder: Path, seed: int = 0) -> list[str]:
    """Write random weights and a tokenizer of single bytes into a new folder; returns the names of the files."""
    import torch

    folder.mkdir(parents=True)
    _write_tokenizer(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _write_open_clip(folder) if family == "open_clip" else _write_transformers(folder)
    return sorted(path.name for path in folder.iterdir())


def _write_open_clip(folder: Path) -> None:
    import open_clip

    vision = {"image_size": SIZE, "layers": 1, "width": _WIDTH, "patch_size": 8, "head_width": 16}
    text = {"context_length": CONTEXT, "vocab_size": _EOS + 1, "width": _WIDTH, "heads": 2, "layers": 1}
    model = open_clip.CLIP(embed_dim=DIM, vision_cfg=vision, text_cfg=text)
    _save(model, folder / "open_clip_model.safetensors")
    config = {"embed_dim": DIM, "vision_cfg": vision, "text_cfg": {**text, "hf_tokenizer_name": "tokenizer.json"}}
    preprocess = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    whole = {"model_cfg": config, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(_pretty(whole), encoding="utf-8")


def _write_transformers(folder: Path) -> None:
    import transformers

    tower = {
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "projection_dim": DIM,
    }
    ids = {"pad_token_id": _PAD, "bos_token_id": _EOS, "eos_token_id": _EOS}
    text = {**tower, **ids, "vocab_size": _EOS + 1, "max_position_embeddings": CONTEXT}
    vision = {**tower, "image_size": SIZE, "patch_size": 8}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=DIM)
    config.save_pretrained(folder)
    processor = {
        "image_processor_type": "CLIPImageProcessor",
        **{f"do_{step}": True for step in ("resize", "center_crop", "rescale", "normalize", "convert_rgb")},
        "size": {"shortest_edge": SIZE},
        "crop_size": {"height": SIZE, "width": SIZE},
        "resample": 3,  # Pillow's bicubic
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    }
    (folder / "preprocessor_config.json").write_text(_pretty(processor), encoding="utf-8")
    _save(transformers.CLIPModel(config), folder / "model.safetensors")


def _save(model: Any, file: Path) -> None:
    from safetensors.torch import save_file

    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(state, file, metadata={"format": "pt"})


def _write_tokenizer(folder: Path) -> None:
    """One token per byte: any text has ids, and different texts have different ones."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("[PAD]", special=True), AddedToken("[EOS]", special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A [EOS]", special_tokens=[("[EOS]", _EOS)])
    tokenizer.save(str(folder / "tokenizer.json"))
    facts: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": CONTEXT,
        "pad_token": "[PAD]",
        "eos_token": "[EOS]",
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(_pretty(facts), encoding="utf-8")


def _pretty(facts: dict[str, Any]) -> str:
    return json.dumps(facts, indent=2, sort_keys=True) + "\n"
