"""Tiny open_clip models with random weights, built here; compared with open_clip called directly."""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmkd_core.contract import TeacherSpec, golden_image
from mmkd_core.errors import PluginError
from mmkd_core.plugins import PluginHost

TEXTS = ["a chest radiograph", "  Ultrasound&nbsp;of   the LIVER, with a cyst ", "scan " * 40, ""]
VISION = {"image_size": 16, "layers": 1, "width": 16, "patch_size": 8, "head_width": 8}
WORDS = "[PAD] [UNK] [CLS] [SEP] a chest radiograph ultrasound of the liver , with cyst scan"
NATIVE = {"context_length": 12, "vocab_size": 400, "width": 16, "heads": 2, "layers": 1}
BERT = {
    "model_type": "bert",
    "vocab_size": 400,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}


def write_tokenizer(folder: Path) -> None:
    """A lower-casing word tokenizer with a few words of the field, as a Hugging Face fast tokenizer."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = WORDS.split()
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 12, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_model(folder: Path, text: dict, half: bool = False, hf: bool = True) -> Path:
    """A folder in open_clip's local-dir shape with random weights."""
    import open_clip

    folder.mkdir(parents=True, exist_ok=True)
    text = dict(text, **({"hf_tokenizer_name": "org/words"} if hf else {}))
    model_cfg = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model_cfg}))
    if hf:
        write_tokenizer(folder)
    build = open_clip.CLIP
    if "hf_model_name" in text:
        (folder / "config.json").write_text(json.dumps(BERT))
        text = dict(text, hf_model_name=str(folder), hf_model_pretrained=False)
        build = open_clip.CustomTextCLIP
    torch.manual_seed(0)
    state = build(embed_dim=8, vision_cfg=VISION, text_cfg=text).state_dict()
    state = {key: (value.half() if half else value).contiguous() for key, value in state.items()}
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def spec_of(folder: Path, **changes) -> TeacherSpec:
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
    fields = {
        "name": "tiny",
        "title": "Tiny",
        "summary": "",
        "family": "open_clip",
        "weights": [{"role": "model", "kind": "path", "location": str(folder), "files": files}],
        "image": {"size": 16, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
        "text": {"tokenizer": "hf", "context_length": 12},
        "embed_dim": 8,
        "logit_scale": 10.0,
        "domains": ["xray"],
        "license": {"code": "MIT", "weights": "MIT", "commercial_use": True},
    }
    return TeacherSpec.model_validate(fields | changes)


def load(spec: TeacherSpec):
    return PluginHost.offering({}).load(spec)


def edit(folder: Path, **text) -> None:
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["text_cfg"].update(text)
    file.write_text(json.dumps(config))


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("native") / "m", NATIVE)


@pytest.fixture
def copy(native, tmp_path):
    """A copy of the native model that a test may damage."""
    return Path(shutil.copytree(native, tmp_path / "m"))


@pytest.fixture
def _no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def assert_parity(spec: TeacherSpec, folder: Path, **overrides) -> None:
    import open_clip

    teacher = load(spec)
    model, _, transform = open_clip.create_model_and_transforms(
        f"local-dir:{folder}", image_mean=spec.image.mean, image_std=spec.image.std, **overrides
    )
    model.eval()
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    image = golden_image(5)
    assert torch.equal(teacher.tokenize(TEXTS), tokens)
    assert torch.equal(teacher.preprocess(image), transform(image))
    with torch.no_grad():
        images, texts = model.encode_image(transform(image)[None]), model.encode_text(tokens)
    torch.testing.assert_close(teacher.encode_image(transform(image)[None]), images, atol=1e-6, rtol=0)
    torch.testing.assert_close(teacher.encode_text(tokens), texts, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("_no_network")
def test_a_native_text_tower_with_a_hugging_face_tokenizer(native):
    assert_parity(spec_of(native), native)


@pytest.mark.usefixtures("_no_network")
@pytest.mark.parametrize("pooler", ["cls_pooler", "mean_pooler", "cls_last_hidden_state_pooler"])
def test_a_hugging_face_text_tower_needs_no_hub(tmp_path, pooler):
    text = {"hf_model_name": "org/bert", "hf_pooler_type": pooler, "hf_proj_type": "mlp", "context_length": 12}
    folder = write_model(tmp_path / "m", text)
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    override = {"text_cfg": {**config, "hf_model_name": str(folder), "hf_model_pretrained": False}}
    assert_parity(spec_of(folder), folder, **override)


@pytest.mark.usefixtures("_no_network")
def test_clips_own_tokenizer(tmp_path):
    folder = write_model(tmp_path / "m", {**NATIVE, "vocab_size": 49408, "width": 8}, hf=False)
    assert_parity(spec_of(folder, text={"tokenizer": "open_clip", "context_length": 12}), folder)


def test_tokenizer_settings_are_followed(copy):
    edit(copy, tokenizer_kwargs={"clean": "canonicalize", "strip_sep_token": True})
    assert_parity(spec_of(copy), copy)
    assert 3 not in load(spec_of(copy)).tokenize(TEXTS)


def test_half_precision_becomes_float32(tmp_path):
    folder = write_model(tmp_path / "m", NATIVE, half=True)
    teacher = load(spec_of(folder))
    assert {p.dtype for p in teacher.model.parameters()} == {torch.float32}
    assert_parity(spec_of(folder), folder)


def test_the_teacher_keeps_the_contract(native):
    teacher = load(spec_of(native))
    images = torch.randn(3, 3, 16, 16, requires_grad=True)
    first = teacher.encode_image(images)
    assert first.shape == (3, 8)
    assert first.dtype == torch.float32
    assert not first.requires_grad
    assert not teacher.model.training
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert (first.norm(dim=1) - 1).abs().max() > 1e-3
    assert teacher.tokenize(TEXTS).dtype == torch.int64


def test_loading_moves_no_random_numbers(native):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load(spec_of(native))
    assert torch.equal(torch.rand(3), expected)


def test_a_pickle_of_tensors_is_read_and_a_pickle_of_code_is_not(copy):
    state = load_file(copy / "open_clip_model.safetensors")
    (copy / "open_clip_model.safetensors").unlink()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, copy / "weights.pt")
    assert torch.equal(load(spec_of(copy)).model.state_dict()["visual.proj"], state["visual.proj"])
    torch.save({"x": Path("/")}, copy / "weights.pt")
    with pytest.raises(PluginError, match=r"checkpoint of teacher tiny holds code \(pathlib\.\w+\) beside"):
        load(spec_of(copy))


def test_several_checkpoints_are_ambiguous(copy):
    (copy / "open_clip_model.safetensors").rename(copy / "a.safetensors")
    load(spec_of(copy))
    (copy / "b.safetensors").write_bytes((copy / "a.safetensors").read_bytes())
    with pytest.raises(PluginError, match=r"declares several checkpoints: a.safetensors, b.safetensors; keep one"):
        load(spec_of(copy))


def test_weights_are_strict(copy):
    file = copy / "open_clip_model.safetensors"
    state = load_file(file)
    save_file({k: v for k, v in state.items() if k != "visual.proj"}, file)
    with pytest.raises(PluginError, match=r"do not fit its model: 1 missing \(visual.proj\)"):
        load(spec_of(copy))
    # 3 x 3 patches: open_clip would stretch them
    grid = torch.cat([state["visual.positional_embedding"], torch.zeros(5, 16)])
    save_file({**state, "visual.positional_embedding": grid}, file)
    with pytest.raises(PluginError, match=r"1 of another shape \(visual.positional_embedding\)"):
        load(spec_of(copy))


@pytest.mark.parametrize(
    "settings", [{"trust_remote_code": True}, {"nested": [{"auto_map": {"AutoTokenizer": "evil.Evil"}}]}]
)
def test_remote_code_is_refused_in_the_configuration(copy, settings):
    edit(copy, tokenizer_kwargs=settings)
    with pytest.raises(PluginError, match=r"open_clip_config.json of teacher tiny asks for remote code with"):
        load(spec_of(copy))


def test_remote_code_is_refused_in_the_tokenizer_and_the_text_tower(tmp_path):
    text = {"hf_model_name": "x/y", "hf_pooler_type": "cls_pooler", "context_length": 12}
    folder = write_model(tmp_path / "m", text)
    for name in ("tokenizer_config.json", "config.json"):
        before = (folder / name).read_text()
        (folder / name).write_text(json.dumps(json.loads(before) | {"auto_map": {"AutoConfig": "evil.Evil"}}))
        (folder / "evil.py").write_text("raise SystemExit('remote code ran')")
        with pytest.raises(PluginError, match=f"{name} of teacher tiny asks for remote code with 'auto_map'"):
            load(spec_of(folder))
        (folder / name).write_text(before)


def test_other_tokenizer_settings_are_refused(copy):
    edit(copy, tokenizer_kwargs={"vocab_file": "/etc/passwd"})
    with pytest.raises(PluginError, match="sets tokenizer_kwargs vocab_file, which is refused"):
        load(spec_of(copy))


def test_a_timm_model_of_the_hub_is_refused(copy):
    file = copy / "open_clip_config.json"
    config = json.loads(file.read_text())
    config["model_cfg"]["vision_cfg"]["timm_model_name"] = "hf-hub:org/model"
    file.write_text(json.dumps(config))
    with pytest.raises(PluginError, match="names timm model 'hf-hub:org/model', which lies outside its folder"):
        load(spec_of(copy))


def test_files_that_nobody_declared_are_not_read(native, copy):
    declared = spec_of(native).model_dump()
    declared["weights"][0]["location"] = str(copy)
    (copy / "added_tokens.json").write_text("{}")
    with pytest.raises(PluginError, match=r"added_tokens.json of teacher tiny would be read but .* do not declare it"):
        load(TeacherSpec.model_validate(declared))
    (copy / "added_tokens.json").unlink()
    del declared["weights"][0]["files"]["open_clip_config.json"]
    with pytest.raises(PluginError, match=r"needs open_clip_config.json, which its weights do not declare"):
        load(TeacherSpec.model_validate(declared))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": 9}, "embed_dim of teacher tiny: the spec says 9, open_clip_config.json says 8"),
        ({"image": {"size": 24, "mean": [0] * 3, "std": [1] * 3}}, "image size of teacher tiny: the spec says 24"),
        ({"text": {"tokenizer": "hf", "context_length": 10}}, "context_length of teacher tiny: the spec says 10"),
        ({"text": {"tokenizer": "open_clip", "context_length": 12}}, "the spec says tokenizer open_clip"),
        ({"arch": {"width": 1}}, "sets arch width, which family open_clip does not read"),
    ],
)
def test_spec_and_configuration_must_agree(native, changes, message):
    with pytest.raises(PluginError, match=message):
        load(spec_of(native, **changes))


def test_a_tokenizer_may_lie_in_a_folder_of_its_own(native, copy, tmp_path):
    words = tmp_path / "words"
    words.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (copy / name).rename(words / name)
    both = [*spec_of(copy).model_dump()["weights"], spec_of(words).model_dump()["weights"][0] | {"role": "tokenizer"}]
    teacher = load(spec_of(copy, weights=both))
    assert torch.equal(teacher.tokenize(TEXTS), load(spec_of(native)).tokenize(TEXTS))
