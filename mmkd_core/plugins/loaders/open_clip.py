"""Teachers of the family ``open_clip``: a folder as open_clip's ``local-dir:`` expects it, loaded offline and strictly.

    open_clip_config.json         model_cfg (read), preprocess_cfg (not read: the spec's ImageSpec decides)
    open_clip_model.safetensors   or another single declared checkpoint
    tokenizer.json, ...           where the spec's tokenizer is hf; also beside the text tower or in a folder of its own
    config.json                   where the text tower is a Hugging Face one; also under role text_tower

Checkpoints of training runs come without a configuration, or with the names of a fork. For them the spec's ``arch`` may
hold ``model_cfg`` (as in open_clip_config.json), ``renames`` (old beginning of a name to the new one) and ``ignore``
(names that the model has no use for). ``activation`` (gelu or quick_gelu) is what the configuration must say.

open_clip 3.3's own loading is not used, because it runs remote code that a configuration asks for, looks a Hugging
Face text tower up on the hub, picks whichever checkpoint it finds, and stretches position embeddings that do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import PluginError
from mmkd_core.plugins.loaders import checkpoint, stated
from mmkd_core.plugins.loaders import folder as files
from mmkd_core.plugins.loaders.preprocess import preprocess

CONFIG = stated.OPEN_CLIP
CHECKPOINT = "open_clip_model.safetensors"
FORMER_NAMES = {"proj": "hf_proj_type", "pooler_type": "hf_pooler_type"}
"""Settings of a Hugging Face text tower as open_clip 2.0 to 2.22 wrote them, and what they are called since."""
_TOKENIZER_SETTINGS = ("clean", "strip_sep_token")


class OpenClipTeacher:
    """A ``Teacher`` around an open_clip model."""

    def __init__(self, spec: TeacherSpec, model: nn.Module, tokenizer: Callable[..., Tensor], device: str) -> None:
        self.spec = spec
        # Convolutions run up to three times faster in this order of memory; transformers do not care.
        self.model: Any = model.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
        self._tokenizer = tokenizer
        self._device = torch.device(device)

    @property
    def logit_scale(self) -> float:
        """The learnt one, exponentiated."""
        return float(self.model.logit_scale.exp())

    def preprocess(self, image: Image.Image) -> Tensor:
        """(3, size, size) float32 on the CPU."""
        return preprocess(image, self.spec.image)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, context_length) int64 on the CPU."""
        return self._tokenizer(list(texts), context_length=self.spec.text.context_length)

    @torch.no_grad()
    def encode_image(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, D), not normalised."""
        pixels = images.to(self._device, torch.float32).contiguous(memory_format=torch.channels_last)
        features: Tensor = self.model.encode_image(pixels)
        return features.float()

    @torch.no_grad()
    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, L) to (B, D), not normalised."""
        features: Tensor = self.model.encode_text(tokens.to(self._device))
        return features.float()


def load(spec: TeacherSpec, weights: Mapping[str, Path], device: str) -> OpenClipTeacher:
    """Build the teacher from its verified folders.

    Raises:
        PluginError: the configuration asks for remote code, does not fit the spec, or the weights do not fit the model.
    """
    folder = weights["model"]
    files.refuse_arch(spec, "model_cfg", "renames", "ignore", "activation")
    config = _config(spec, weights)
    _check_config(spec, config)
    tokenizer = _tokenizer(spec, weights, config["text_cfg"])
    model = _build(spec, weights, config)
    _load_weights(spec, model, files.checkpoint(spec, folder, CHECKPOINT))
    return OpenClipTeacher(spec, model, tokenizer, device)


def _config(spec: TeacherSpec, weights: Mapping[str, Path]) -> dict[str, Any]:
    """The model's configuration, from the spec or else from the folder."""
    config, where = spec.arch.get("model_cfg"), "arch"
    if config is None:
        files.require(spec, weights, weights["model"], CONFIG)
        config, where = files.read_config(spec, weights["model"] / CONFIG).get("model_cfg"), CONFIG
    if not isinstance(config, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= set(config):
        raise PluginError(f"{where} of teacher {spec.name} has no complete model_cfg", where=str(weights["model"]))
    return {**config, "text_cfg": _present_names(spec, config["text_cfg"])}


def _present_names(spec: TeacherSpec, text: Any) -> dict[str, Any]:
    """The settings of a text tower under the names that open_clip reads now."""
    found = dict(text)
    for former, name in FORMER_NAMES.items():
        if former in found and found.get(name, found[former]) != found[former]:
            raise PluginError(
                f"{CONFIG} of teacher {spec.name} says {former} {found[former]!r} and {name} {found[name]!r}"
            )
        if former in found:
            found[name] = found.pop(former)
    return found


def _check_config(spec: TeacherSpec, config: Mapping[str, Any]) -> None:
    """What the spec and the configuration both say must agree; what would reach the hub is refused."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    size = vision.get("image_size", 224)
    pairs: list[tuple[str, object, object]] = [("embed_dim", spec.embed_dim, config["embed_dim"])]
    pairs.append(("image size", spec.image.size, size[0] if isinstance(size, list) and len(set(size)) == 1 else size))
    if not text.get("hf_model_name"):  # a native text tower takes exactly this many tokens
        pairs.append(("context_length", spec.text.context_length, text.get("context_length", 77)))
    if "activation" in spec.arch:
        pairs.append(("activation", spec.arch["activation"], stated.activation(config)))
    for what, declared, configured in pairs:
        if declared != configured:
            raise PluginError(f"{what} of teacher {spec.name}: the spec says {declared}, {CONFIG} says {configured}")
    name = vision.get("timm_model_name") or ""
    if ":" in name or "/" in name:
        raise PluginError(f"{CONFIG} of teacher {spec.name} names timm model {name!r}, which lies outside its folder")


def _build(spec: TeacherSpec, weights: Mapping[str, Path], model_cfg: Mapping[str, Any]) -> nn.Module:
    """The architecture in float32, with weights that are overwritten next; nothing is fetched."""
    import open_clip

    config = deepcopy(dict(model_cfg))
    custom_text = config.pop("custom_text", False)
    if config["vision_cfg"].get("timm_model_name"):
        config["vision_cfg"]["timm_model_pretrained"] = False
    if config["text_cfg"].get("hf_model_name"):
        folder = files.folder_for("text_tower", weights)
        files.require(spec, weights, folder, "config.json")
        files.read_config(spec, folder / "config.json")
        config["text_cfg"].update(hf_model_name=str(folder), hf_model_pretrained=False)
        custom_text = True
    make = open_clip.CustomTextCLIP if custom_text else open_clip.CLIP
    if custom_text and "multimodal_cfg" in config:
        make = open_clip.CoCa
    with torch.random.fork_rng(devices=[]):  # the initialisation must not move the caller's random numbers
        model: nn.Module = make(**config)
    return model.float()


def _load_weights(spec: TeacherSpec, model: nn.Module, file: Path) -> None:
    """Copy the checkpoint into the model, all of it and nothing else."""
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    state = checkpoint.renamed(checkpoint.read(spec, file), _listed(spec, "renames", dict))
    state = convert_state_dict(model, state)
    own = model.state_dict()
    if "text.positional_embedding" in own or "text.proj.weight" in own:
        state = convert_to_custom_text_state_dict(state)
    checkpoint.fit(spec, model, state, file, ignore=map(str, _listed(spec, "ignore", list)))


def _listed(spec: TeacherSpec, setting: str, kind: type) -> Any:
    """A setting of ``arch`` that is a list or a mapping of names; empty if it is not there."""
    value = spec.arch.get(setting, kind())
    if not isinstance(value, kind):
        raise PluginError(f"arch {setting} of teacher {spec.name} must be a {kind.__name__}")
    return value


def _tokenizer(spec: TeacherSpec, weights: Mapping[str, Path], text: Mapping[str, Any]) -> Callable[..., Tensor]:
    """open_clip's own tokenizer classes, with a folder instead of a name of the hub."""
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    settings = dict(text.get("tokenizer_kwargs") or {})
    strange = sorted(set(settings) - set(_TOKENIZER_SETTINGS))
    if strange:
        raise PluginError(
            f"{CONFIG} of teacher {spec.name} sets tokenizer_kwargs {', '.join(strange)}, which is refused",
            next=f"Known are {' and '.join(_TOKENIZER_SETTINGS)}",
        )
    named = bool(text.get("hf_tokenizer_name"))
    if spec.text.tokenizer == "open_clip":
        if named:
            raise PluginError(
                f"teacher {spec.name}: the spec says tokenizer open_clip, {CONFIG} names a Hugging Face one"
            )
        return SimpleTokenizer(  # type: ignore[no-any-return]
            context_length=spec.text.context_length, **settings
        )
    if not named and "tokenizer" not in weights:
        raise PluginError(f"teacher {spec.name}: the spec says tokenizer hf, {CONFIG} has no hf_tokenizer_name")
    folder = files.tokenizer_folder(spec, weights)
    return HFTokenizer(  # type: ignore[no-any-return]
        str(folder),
        context_length=spec.text.context_length,
        tokenizer_mode=text.get("tokenizer_mode"),
        local_files_only=True,
        trust_remote_code=False,
        **settings,
    )
