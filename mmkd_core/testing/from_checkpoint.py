"""A spec filled in from a checkpoint's folder: what its configuration says and its weights learnt, with all hashes.

The folder is one that open_clip (``local-dir:``) or transformers (CLIP, SigLIP, two encoders) would load.

Does not: say what no file says. Domains, licence and title stay to be filled in, and so does whatever is left out.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmkd_core.contract import CLIP_MEAN, CLIP_STD, ImageSpec, TeacherSpec, TextSpec, WeightSource, hub
from mmkd_core.errors import PluginError
from mmkd_core.plugins.licences import UNKNOWN
from mmkd_core.plugins.loaders import folder as files
from mmkd_core.plugins.loaders import stated

CHECKPOINTS = {
    "open_clip": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    "transformers": (
        "model.safetensors",
        "model.safetensors.index.json",
        "pytorch_model.bin",
        "pytorch_model.bin.index.json",
    ),
}
_FITTING = {"resize mode": ("shortest", "longest", "squash"), "interpolation": ("bicubic", "bilinear")}
"""Facts for which a spec has few words."""


@dataclass(frozen=True)
class Filled:
    """A spec, and from which file each of its facts comes; what no file says is not in ``origin``."""

    spec: TeacherSpec
    origin: dict[str, str]
    unsaid: dict[str, object]
    """Facts for which a spec has no word, with what the file says."""


def filled(name: str, folder: Path) -> Filled:
    """The spec of the checkpoint in a folder.

    Raises:
        PluginError: it is none that mmkd loads by itself, lacks a file, asks for remote code, or makes no sense.
    """
    folder = folder.resolve()
    family = _family(folder)
    names = _names(folder, family)
    source = WeightSource(
        role="model", kind="path", location=str(folder), files={n: _sha256(folder / n) for n in names}
    )
    spec = TeacherSpec(
        name=name,
        title=name.replace("-", " ").title(),
        summary="",
        family=family,
        weights=(source,),
        # transformers converts to RGB first, open_clip last
        image=ImageSpec(
            size=224, mean=CLIP_MEAN, std=CLIP_STD, convert="before" if family == "transformers" else "after"
        ),
        text=TextSpec(tokenizer="hf", context_length=77),
        embed_dim=512,
        logit_scale=100.0,
        domains=("xray",),
        license=UNKNOWN,
    )
    files.check_configs(spec, folder)
    facts = {fact.what: fact for fact in stated.read(spec, folder)}
    unsaid = {
        what: facts.pop(what).value
        for what, words in _FITTING.items()
        if what in facts and facts[what].value not in words
    }
    origin = {what: fact.file for what, fact in facts.items()}
    values = {what: fact.value for what, fact in facts.items()}
    learnt = _learnt_scale(spec, folder)
    if learnt is not None:
        values["logit scale"], origin["logit scale"] = learnt
    return Filled(_with(spec, values, _text(spec, folder)), origin, unsaid)


def _with(spec: TeacherSpec, values: Mapping[str, Any], text: Mapping[str, Any]) -> TeacherSpec:
    hf = spec.family == "transformers" or bool(text.get("hf_tokenizer_name"))
    image = {
        "size": "image size",
        "mean": "mean",
        "std": "std",
        "resize": "resize mode",
        "interpolation": "interpolation",
    }
    facts = spec.model_dump()
    facts["image"] |= {field: values[what] for field, what in image.items() if what in values}
    facts["text"] |= {"tokenizer": "hf" if hf else "open_clip", "context_length": values.get("context length", 77)}
    facts["embed_dim"] = values.get("embedding dimension", 512)
    facts["logit_scale"] = values.get("logit scale", 100.0)
    facts["arch"] = {"activation": values["activation"]} if "activation" in values else {}
    try:
        tower = text.get("hf_model_name")  # its configuration is seldom in the same folder, its name is in the file
        if tower and stated.TRANSFORMERS not in spec.weights[0].files:
            facts["weights"] = (*spec.weights, hub(tower, stated.TRANSFORMERS, role="text_tower", tokenizer=True))
        return TeacherSpec.model_validate(facts)
    except ValueError as error:
        raise PluginError(f"its configuration makes no spec: {error}", where=spec.weights[0].location) from error


def _family(folder: Path) -> str:
    if (folder / stated.OPEN_CLIP).is_file():
        return "open_clip"
    if (folder / stated.TRANSFORMERS).is_file():
        try:
            kind = json.loads((folder / stated.TRANSFORMERS).read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError) as error:
            raise PluginError(f"{stated.TRANSFORMERS} cannot be read: {error}", where=str(folder)) from error
        if kind in stated.MODEL_TYPES:
            return "transformers"
        raise PluginError(
            f"its config.json is of a model of type {kind!r}; built in are {', '.join(stated.MODEL_TYPES)}",
            where=str(folder),
            next="Leave out --from, and write mmkd_load_teacher in the plugin",
        )
    raise PluginError(
        f"the folder has neither {stated.OPEN_CLIP} nor {stated.TRANSFORMERS}",
        where=str(folder),
        next="Name the folder that open_clip or transformers would load",
    )


def _names(folder: Path, family: str) -> list[str]:
    """The files that are read: configurations, one checkpoint with its parts, and the tokenizer."""
    usual = next((name for name in CHECKPOINTS[family] if (folder / name).is_file()), None)
    weights = usual or _only(folder)
    parts: set[str] = set()
    if weights.endswith(".index.json"):
        parts = set(json.loads((folder / weights).read_text(encoding="utf-8"))["weight_map"].values())
    configs = {stated.OPEN_CLIP, stated.PREPROCESSOR, *files.TOKENIZER_FILES}
    return sorted({weights, *parts, *(name for name in configs if (folder / name).is_file())})


def _only(folder: Path) -> str:
    for suffixes in ((".safetensors",), (".bin", ".pt", ".pth")):
        found = sorted(file.name for file in folder.iterdir() if file.suffix in suffixes)
        if len(found) == 1:
            return found[0]
        if found:
            raise PluginError(
                f"the folder has several checkpoints: {', '.join(found)}", where=str(folder), next="Keep one"
            )
    raise PluginError(
        "the folder has no checkpoint", where=str(folder), next="Put the weights beside its configuration"
    )


def _text(spec: TeacherSpec, folder: Path) -> dict[str, Any]:
    """open_clip's settings of the text tower; empty for the other family."""
    if spec.family == "transformers":
        return {}
    model: dict[str, Any] = files.read_config(spec, folder / stated.OPEN_CLIP).get("model_cfg") or {}
    return model.get("text_cfg") or {}


def _learnt_scale(spec: TeacherSpec, folder: Path) -> tuple[float, str] | None:
    """exp(logit_scale) of the checkpoint, to four digits, and in which file it is."""
    from mmkd_core.plugins.loaders import checkpoint

    file = files.checkpoint(spec, folder, CHECKPOINTS[spec.family][0])
    scale = checkpoint.read(spec, file).get("logit_scale")
    return None if scale is None or scale.numel() != 1 else (float(f"{scale.float().exp().item():.4g}"), file.name)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def sources(found: Filled) -> str:
    """What stands in the tuple of weights, with the text tower that the configuration names."""
    towers = [
        f"hub({tower.location!r}, {stated.TRANSFORMERS!r}, role='text_tower', tokenizer=True),"
        for tower in found.spec.weights[1:]
    ]
    return "WEIGHTS," + "".join(f"\n        {tower}  # CHANGE: revision=... of the text tower" for tower in towers)


def lines(found: Filled) -> Iterator[tuple[str, str]]:
    """Source lines of the declaration, each with the comment behind it: the file that says it, or that none does."""
    spec, image, text = found.spec, found.spec.image, found.spec.text
    code: dict[str, tuple[str, ...]] = {
        f"    family={spec.family!r}, arch={dict(spec.arch)!r},": ("activation",),
        f"    image=ImageSpec(size={image.size}, convert={image.convert!r},": ("image size",),
        f"        resize={image.resize!r}, interpolation={image.interpolation!r},": ("resize mode", "interpolation"),
        f"        mean={image.mean!r},": ("mean",),
        f"        std={image.std!r}),": ("std",),
        f"    text=TextSpec(tokenizer={text.tokenizer!r}, context_length={text.context_length}),": ("context length",),
        f"    embed_dim={spec.embed_dim},": ("embedding dimension",),
        f"    logit_scale={spec.logit_scale},": ("logit scale",),
    }
    for line, facts in code.items():
        yield line, _comment(found, facts)


def _comment(found: Filled, facts: tuple[str, ...]) -> str:
    strange = [f"{what} is {found.unsaid[what]!r}: a spec has no word for it" for what in facts if what in found.unsaid]
    absent = [f"no file says the {what}" for what in facts if what not in found.origin and what not in found.unsaid]
    if strange or absent:
        return f"CHANGE: {'; '.join([*strange, *absent])}"
    return ", ".join(dict.fromkeys(found.origin[what] for what in facts))
