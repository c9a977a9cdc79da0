"""The two kinds of text towers in open_clip's words, and the model that they are built into without a network."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from mmkd_core.student.config import TextConfig
from mmkd_core.student.tokenizer import Vocabulary

BERT_POSITIONS = 512
"""Position embeddings of a BERT, whatever length of them is used."""


def text_config(config: TextConfig, vocabulary: Vocabulary) -> dict[str, Any]:
    """``text_cfg`` of a student. A BERT is read at its first token, through an MLP of two layers as MMKD-CLIP's.

    Or (``head: linear``) through the pooler that it was published with and a linear map, as transformers'
    ``VisionTextDualEncoder`` does it.
    """
    common = {"context_length": config.context_length, "vocab_size": len(vocabulary), "hf_tokenizer_name": "local"}
    if config.tower == "bert":
        return {
            **common,
            "hf_model_name": ".",  # its config.json lies beside: plain open_clip finds it when it runs in the folder
            "hf_model_pretrained": False,
            "hf_proj_type": config.head,
            "hf_pooler_type": "cls_pooler" if config.head == "linear" else "cls_last_hidden_state_pooler",
        }
    return {
        **common,
        "width": config.width,
        "heads": config.heads,
        "layers": config.layers,
        "pool_type": "eos",
        "eos_id": vocabulary.eos,
        "pad_id": vocabulary.pad,
    }


def bert_config(config: TextConfig, vocabulary: Vocabulary) -> Any:
    """The ``BertConfig`` of a text tower."""
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=config.width,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        intermediate_size=4 * config.width,
        max_position_embeddings=max(BERT_POSITIONS, config.context_length),
        pad_token_id=vocabulary.pad,
    )


def read_bert_config(folder: Path) -> Any:
    """The ``BertConfig`` beside a student's weights."""
    from transformers import BertConfig

    return BertConfig.from_pretrained(folder, local_files_only=True)


def is_bert(tower: nn.Module) -> bool:
    """Whether a text tower is one of transformers."""
    from open_clip.hf_model import HFTextEncoder

    return isinstance(tower, HFTextEncoder)


def open_clip_model(model_config: dict[str, Any], bert: Any = None) -> nn.Module:
    """A ``CustomTextCLIP`` with random weights; ``bert`` is the configuration of a text tower of transformers."""
    from open_clip.model import CustomTextCLIP

    config = json.loads(json.dumps(model_config))  # open_clip edits what it is given
    config.pop("custom_text", None)  # a word to open_clip's factory, which chooses this class by it
    with TemporaryDirectory() as folder:
        if bert is not None:  # open_clip reads it from a folder or from the hub
            bert.save_pretrained(folder)
            config["text_cfg"] |= {"hf_model_name": folder, "hf_model_pretrained": False}
        model: nn.Module = CustomTextCLIP(**config, output_dict=False)
    return model
