"""What a checkpoint says of itself in its own configuration, in the words of a spec.

    open_clip_config.json       preprocess_cfg and model_cfg, with open_clip's defaults where preprocess_cfg is there
    config.json                 of a model that the family ``transformers`` loads, with that library's defaults
    preprocessor_config.json    beside it

A checkpoint of another kind says nothing that is understood here. `mmkd teachers check` compares each fact with what
the spec declares, `mmkd teachers new --from` writes a spec from them.

Does not: judge. Weights can contradict their configuration (an activation that a training script chose and the file
does not name); only real features tell (`mmkd teachers check NAME --golden`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd_core.contract import CLIP_MEAN, CLIP_STD, TeacherSpec
from mmkd_core.errors import PluginError

OPEN_CLIP, TRANSFORMERS, PREPROCESSOR = "open_clip_config.json", "config.json", "preprocessor_config.json"
MODEL_TYPES = ("clip", "siglip", "vision-text-dual-encoder")
_FILTERS = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the filters that a spec can name; another one is told by its number."""
_CLOSE = 1e-4


@dataclass(frozen=True)
class Fact:
    """One thing that a configuration says: which, what, and in which file."""

    what: str
    value: Any
    file: str


def _activation(spec: TeacherSpec) -> object:
    """The activation that ``arch`` declares: by name, or as open_clip's model_cfg does."""
    config = spec.arch.get("model_cfg")
    return activation(config) if isinstance(config, dict) else spec.arch.get("activation")


DECLARED: dict[str, Callable[[TeacherSpec], object]] = {
    "image size": lambda spec: spec.image.size,
    "mean": lambda spec: spec.image.mean,
    "std": lambda spec: spec.image.std,
    "resize mode": lambda spec: spec.image.resize,
    "interpolation": lambda spec: spec.image.interpolation,
    "context length": lambda spec: spec.text.context_length,
    "embedding dimension": lambda spec: spec.embed_dim,
    "activation": _activation,
}
"""Everything that a configuration may say, and what a spec declares of it; None where it declares nothing."""


def differences(spec: TeacherSpec, facts: Collection[Fact]) -> Iterator[str]:
    """A clause for each fact that the spec declares otherwise, with both values."""
    for fact in facts:
        declared = DECLARED[fact.what](spec)
        if declared is not None and not _same(declared, fact.value):
            yield f"{fact.what}: the spec declares {_shown(declared)}, {fact.file} says {_shown(fact.value)}"


def stated(spec: TeacherSpec, weights: Mapping[str, Path]) -> list[Fact]:
    """All facts in the configurations of a checkpoint's folder, declared or not; none if it has no such file.

    Raises:
        PluginError: a configuration cannot be read, or makes no sense.
    """
    return read(spec, weights["model"])


def read(spec: TeacherSpec, folder: Path) -> list[Fact]:
    """The facts in a folder's configurations; raises like ``stated``."""
    here = [name for name in (OPEN_CLIP, TRANSFORMERS, PREPROCESSOR) if (folder / name).is_file()]
    configs = {name: _json(spec, folder / name) for name in here}
    try:
        if OPEN_CLIP in configs:
            return list(_open_clip(configs[OPEN_CLIP]))
        facts = list(_transformers(folder, configs[TRANSFORMERS])) if TRANSFORMERS in configs else []
        return [*facts, *(_preprocessor(configs[PREPROCESSOR]) if facts and PREPROCESSOR in configs else [])]
    except (AttributeError, TypeError, ValueError, KeyError, OSError) as error:
        what = f"{' and '.join(configs)} of teacher {spec.name} cannot be understood: {error}"
        raise PluginError(what, where=str(folder)) from error


def _json(spec: TeacherSpec, file: Path) -> dict[str, Any]:
    """A configuration as data. It may name code: a loader refuses that or was allowed it, here none is run."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PluginError(f"{file.name} of teacher {spec.name} cannot be read: {error}", where=str(file)) from error
    if not isinstance(config, dict):
        raise PluginError(f"{file.name} of teacher {spec.name} is no JSON object", where=str(file))
    return config


def _open_clip(config: Mapping[str, Any]) -> Iterator[Fact]:
    model = config.get("model_cfg") or {}
    vision, text = model.get("vision_cfg") or {}, model.get("text_cfg") or {}
    found = {
        "embedding dimension": model.get("embed_dim"),
        "image size": _square(vision.get("image_size", 224)),
        "context length": text.get("context_length", 77),
        "activation": activation(model),
    }
    preprocess = config.get("preprocess_cfg")
    if preprocess:
        filter_ = preprocess.get("interpolation", "bicubic")
        found |= {
            "mean": _channels(preprocess.get("mean", CLIP_MEAN)),
            "std": _channels(preprocess.get("std", CLIP_STD)),
            "resize mode": preprocess.get("resize_mode", "shortest"),
            "interpolation": "bicubic" if filter_ == "random" else filter_,  # of training; evaluation takes bicubic
        }
    yield from (Fact(what, value, OPEN_CLIP) for what, value in found.items() if value is not None)


def _transformers(folder: Path, plain: Mapping[str, Any]) -> Iterator[Fact]:
    kind = plain.get("model_type")
    if kind not in MODEL_TYPES:
        return
    import transformers

    config: Any = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    vision, text = config.vision_config, config.text_config
    found = {
        "embedding dimension": vision.hidden_size if kind == "siglip" else config.projection_dim,
        "image size": _square(getattr(vision, "image_size", None)),
        # A tower that is not CLIP-like takes any length up to its positions, so its configuration does not say which.
        "context length": text.max_position_embeddings if kind != MODEL_TYPES[2] else None,
        "activation": getattr(vision, "hidden_act", None) if kind != MODEL_TYPES[2] else None,
    }
    yield from (Fact(what, value, TRANSFORMERS) for what, value in found.items() if value is not None)


def _preprocessor(config: Mapping[str, Any]) -> Iterator[Fact]:
    """Of an image processor; what it leaves out is not told, since its defaults changed with the library."""
    size, crop = config.get("size"), config.get("crop_size")
    crops = bool(config.get("do_center_crop")) and crop is not None
    found: dict[str, Any] = {"image size": _square(crop if crops else size)}
    if config.get("do_resize", True) and size is not None:
        short = size if isinstance(size, int) else size.get("shortest_edge")
        if crops:
            fits = short == _square(crop)
            found["resize mode"] = "shortest" if fits else f"resize to {_square(size) or short}, then crop"
        else:
            found["resize mode"] = "squash" if _square(size) and short is None else None
    if config.get("do_normalize", True):
        found |= {"mean": _channels(config.get("image_mean")), "std": _channels(config.get("image_std"))}
    if (number := config.get("resample")) is not None:
        found["interpolation"] = _FILTERS.get(number, f"Pillow's filter {number}")
    yield from (Fact(what, value, PREPROCESSOR) for what, value in found.items() if value is not None)


def activation(model: Mapping[str, Any]) -> str:
    """The one that open_clip builds from a model_cfg."""
    return "quick_gelu" if model.get("quick_gelu") else "gelu"


def _square(size: object) -> object:
    """One side of a square; both where they differ, None where there is none."""
    if isinstance(size, Mapping):
        size = [size.get("height"), size.get("width")] if "height" in size else size.get("shortest_edge")
    if isinstance(size, (list, tuple)):
        return size[0] if len(set(size)) == 1 else " x ".join(map(str, size))
    return size


def _channels(values: object) -> tuple[float, ...] | None:
    if isinstance(values, (int, float)):
        return (float(values),) * 3
    return tuple(map(float, values)) if isinstance(values, (list, tuple)) else None


def _same(declared: object, said: object) -> bool:
    if isinstance(declared, tuple) and isinstance(said, tuple):
        return len(declared) == len(said) and all(abs(a - b) <= _CLOSE for a, b in zip(declared, said, strict=True))
    return declared == said


def _shown(value: object) -> str:
    return f"({', '.join(f'{one:.6g}' for one in value)})" if isinstance(value, tuple) else str(value)
