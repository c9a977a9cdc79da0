"""Folders that other libraries load: transformers' ``AutoModel``, and ONNX.

Not every student fits into transformers: its CLIP has a vision transformer and a causal text transformer, and takes the
end of a text for granted in one case (id 2); its VisionTextDualEncoder has a vision transformer and a BERT that is read
through its pooler and a linear map. What does not fit is refused with a sentence, never approximated.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_core import advice
from mmkd_core.errors import ReleaseError
from mmkd_core.student import tokenizer as tok
from mmkd_core.student.model import Student
from mmkd_core.student.towers import is_bert

LEGACY_EOS = 2
"""Transformers' CLIP reads the output at the highest id, and not at the end of the text, if the end has this id."""
State = dict[str, Tensor]


def write_transformers(student: Student, folder: Path) -> None:
    """Write ``config.json``, ``model.safetensors``, tokenizer and image processor of a transformers model.

    A ``CLIPModel``, or with a BERT a ``VisionTextDualEncoderModel``.

    Raises:
        ReleaseError: the student's architecture is none that transformers has.
    """
    from safetensors.torch import save_file

    config = _transformers_config(student)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    save_file(_transformers_state(student), folder / "model.safetensors", metadata={"format": "pt"})
    tok.save_tokenizer(student.tokenizer, folder, student.context_length)
    squash = student.preprocess["resize_mode"] == "squash"
    side = {"height": student.pixels, "width": student.pixels}
    processor = {
        "image_processor_type": "CLIPImageProcessorPil",
        "do_resize": True,
        "size": side if squash else {"shortest_edge": student.pixels},
        "resample": 3,  # bicubic
        "do_center_crop": not squash,
        "crop_size": side,
        "do_rescale": True,
        "do_normalize": True,
        "do_convert_rgb": True,
        "image_mean": student.preprocess["mean"],
        "image_std": student.preprocess["std"],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2, sort_keys=True) + "\n")


def _transformers_config(student: Student) -> dict[str, Any]:
    vision, text = student.model_config["vision_cfg"], student.model_config["text_cfg"]
    bert = "hf_model_name" in text
    _refuse_what_does_not_fit(vision, text)
    activation = "quick_gelu" if student.model_config.get("quick_gelu") else "gelu"
    common = {"hidden_act": activation, "layer_norm_eps": 1e-5, "projection_dim": student.embed_dim}
    return {
        "architectures": ["VisionTextDualEncoderModel" if bert else "CLIPModel"],
        "model_type": "vision-text-dual-encoder" if bert else "clip",
        "projection_dim": student.embed_dim,
        "logit_scale_init_value": float(student.model.logit_scale.detach()),
        "torch_dtype": "float32",
        "vision_config": {
            **common,
            "model_type": "clip_vision_model",
            "hidden_size": vision["width"],
            "intermediate_size": int(vision["width"] * vision.get("mlp_ratio", 4.0)),
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["width"] // vision.get("head_width", 64),
            "image_size": student.pixels,
            "patch_size": vision["patch_size"],
        },
        "text_config": student.model.text.config.to_dict() if bert else {**common, **_clip_text(text)},
    }


def _refuse_what_does_not_fit(vision: dict[str, Any], text: dict[str, Any]) -> None:
    what, advice = "", "Export open-clip or onnx, or train a student with `student: {preset: transformers}`"
    if text.get("hf_proj_type", "linear") != "linear" or text.get("hf_pooler_type", "cls_pooler") != "cls_pooler":
        what = "VisionTextDualEncoder reads a BERT through its pooler and a linear map, this student through an MLP"
        advice = "Export open-clip or onnx, or train a student with `text: {head: linear}`"
    elif not all(isinstance(vision.get(key), int) for key in ("patch_size", "width", "layers")):
        what = "its models want a vision transformer, this one convolves"
    if what:
        raise ReleaseError(f"transformers has no model like this student: {what}", next=advice)
    if text.get("eos_id") == LEGACY_EOS:
        what = "the end of a text has id 2 in this student's tokenizer, which transformers reads in another way"
        raise ReleaseError(what, next="Export open-clip, or train a student with this version of mmkd")


def _clip_text(text: dict[str, Any]) -> dict[str, Any]:
    return {
        "model_type": "clip_text_model",
        "hidden_size": text["width"],
        "intermediate_size": 4 * text["width"],
        "num_hidden_layers": text["layers"],
        "num_attention_heads": text["heads"],
        "max_position_embeddings": text["context_length"],
        "vocab_size": text["vocab_size"],
        "eos_token_id": text["eos_id"],
        "bos_token_id": None,
        "pad_token_id": text["pad_id"],
    }


def _transformers_state(student: Student) -> State:
    """open_clip's names become transformers'; joint projections of attention are split into three."""
    old: State = student.model.state_dict()
    new = {
        "logit_scale": old["logit_scale"],
        "vision_model.embeddings.class_embedding": old["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": old["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": old["visual.positional_embedding"],
        "visual_projection.weight": old["visual.proj"].T,
    }
    norms = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}  # sic
    towers = {"visual": "vision_model"}
    if is_bert(student.model.text):
        body = "text.transformer."
        new |= {f"text_model.{name.removeprefix(body)}": old[name] for name in old if name.startswith(body)}
        new["text_projection.weight"] = old["text.proj.weight"]
    else:
        new |= {
            "text_model.embeddings.token_embedding.weight": old["text.token_embedding.weight"],
            "text_model.embeddings.position_embedding.weight": old["text.positional_embedding"],
            "text_projection.weight": old["text.text_projection"].T,
        }
        norms["text.ln_final"] = "text_model.final_layer_norm"
        towers["text"] = "text_model"
    for ours, theirs in norms.items():
        new |= {f"{theirs}.{kind}": old[f"{ours}.{kind}"] for kind in ("weight", "bias")}
    for tower, model in towers.items():
        blocks = len({name.split(".")[3] for name in old if name.startswith(f"{tower}.transformer.resblocks.")})
        for number in range(blocks):
            new |= _block(old, f"{tower}.transformer.resblocks.{number}", f"{model}.encoder.layers.{number}")
    return {name: value.detach().float().contiguous().clone() for name, value in new.items()}


def _block(old: State, ours: str, theirs: str) -> State:
    names = {
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
        "attn.out_proj": "self_attn.out_proj",
    }
    block = {f"{theirs}.{b}.{kind}": old[f"{ours}.{a}.{kind}"] for a, b in names.items() for kind in ("weight", "bias")}
    for kind in ("weight", "bias"):
        joint = old[f"{ours}.attn.in_proj_{kind}"].chunk(3)
        block |= {f"{theirs}.self_attn.{n}_proj.{kind}": part for n, part in zip("qkv", joint, strict=True)}
    return block


class _Tower(nn.Module):
    """One tower with unit-norm output, for ONNX."""

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, batch: Tensor) -> Tensor:
        return F.normalize(self.tower(batch), dim=-1)


def write_onnx(student: Student, folder: Path) -> None:
    """Write ``image.onnx`` and ``text.onnx`` (unit-norm embeddings, any batch size), tokenizer and ``onnx.json``.

    Raises:
        ReleaseError: the packages that write ONNX are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ReleaseError(f"ONNX cannot be written: {error}", next=advice.install("onnx")) from error
    folder.mkdir(parents=True, exist_ok=True)
    student.model.eval()
    examples = {
        "image": torch.zeros(2, 3, student.pixels, student.pixels),
        "text": student.tokenize(["an image", "an image of the chest"]),
    }
    towers = {"image": student.model.visual, "text": student.model.text}
    for name, example in examples.items():
        program = torch.onnx.export(
            _Tower(towers[name]).eval(),
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=["pixels" if name == "image" else "tokens"],
            output_names=[f"{name}_embedding"],
            verbose=False,
        )
        assert program is not None
        program.save(folder / f"{name}.onnx", external_data=False)
    tok.save_tokenizer(student.tokenizer, folder, student.context_length)
    facts = {
        "image": {"input": "pixels", "size": student.pixels, **student.preprocess},
        "text": {"input": "tokens", "context_length": student.context_length},
        "logit_scale": student.logit_scale,
        "embed_dim": student.embed_dim,
    }
    (folder / "onnx.json").write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
