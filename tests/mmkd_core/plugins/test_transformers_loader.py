"""Tiny transformers models with random weights, built here; compared with transformers called directly."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmkd_core.contract import TeacherSpec
from mmkd_core.errors import PluginError
from mmkd_core.plugins import PluginHost

TEXTS = ["a chest scan", "scan"]
TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
IMAGE = {**TOWER, "image_size": 16, "patch_size": 8}


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "chest", "scan"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def build(kind: str):
    import transformers

    text = {**TOWER, "vocab_size": 20, "max_position_embeddings": 8, "pad_token_id": 0}
    torch.manual_seed(0)
    if kind == "clip":
        text |= {"bos_token_id": 2, "eos_token_id": 3}
        config = transformers.CLIPConfig(text_config=text, vision_config=IMAGE, projection_dim=8)
        return transformers.CLIPModel(config)
    if kind == "siglip":
        text |= {"projection_size": 16}
        return transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=IMAGE))
    vision, words = transformers.ViTConfig(**IMAGE), transformers.BertConfig(**text)
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(vision, words, projection_dim=8)
    return transformers.VisionTextDualEncoderModel(config)


@pytest.fixture
def folder(tmp_path, request):
    model = build(getattr(request, "param", "clip")).eval()
    model.save_pretrained(tmp_path / "m")
    write_tokenizer(tmp_path / "m")
    return tmp_path / "m"


def spec_of(folder: Path, **changes) -> TeacherSpec:
    files = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
    fields = {
        "name": "tiny",
        "title": "Tiny",
        "summary": "",
        "family": "transformers",
        "weights": [{"role": "model", "kind": "path", "location": str(folder), "files": files}],
        "image": {"size": 16, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]},
        "text": {"tokenizer": "hf", "context_length": 8},
        "embed_dim": 8,
        "logit_scale": 10.0,
        "domains": ["xray"],
        "license": {"code": "MIT", "weights": "MIT", "commercial_use": True},
    }
    return TeacherSpec.model_validate(fields | changes)


def load(spec: TeacherSpec):
    return PluginHost.offering({}).load(spec)


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("folder", ["clip", "siglip", "vision-text-dual-encoder"], indirect=True)
def test_it_equals_the_model_called_directly(folder):
    import transformers

    teacher = load(spec_of(folder))
    model = transformers.AutoModel.from_pretrained(folder).eval()
    batch = transformers.AutoTokenizer.from_pretrained(folder)(
        TEXTS, padding="max_length", truncation=True, max_length=8, return_tensors="pt"
    )
    mask = {} if model.config.model_type == "siglip" else {"attention_mask": batch["attention_mask"]}
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        image = model.get_image_features(pixel_values=images)
        text = model.get_text_features(input_ids=batch["input_ids"], **mask)
    tokens = teacher.tokenize(TEXTS)
    assert torch.equal(tokens, batch["input_ids"])
    torch.testing.assert_close(teacher.encode_image(images), image.pooler_output, atol=1e-6, rtol=0)
    torch.testing.assert_close(teacher.encode_text(tokens), text.pooler_output, atol=1e-6, rtol=0)
    assert not any(p.requires_grad for p in teacher.model.parameters())
    assert not teacher.encode_text(tokens).requires_grad


def test_a_split_checkpoint_equals_the_whole_one(folder):
    import transformers

    whole = load(spec_of(folder)).encode_image(torch.ones(1, 3, 16, 16))
    (folder / "model.safetensors").unlink()
    build("clip").save_pretrained(folder, max_shard_size="10KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    found = load(spec_of(folder)).encode_image(torch.ones(1, 3, 16, 16))
    torch.testing.assert_close(found, whole, atol=1e-6, rtol=0)
    upstream = transformers.CLIPModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = upstream.get_image_features(torch.ones(1, 3, 16, 16)).pooler_output
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_half_precision_becomes_float32(folder):
    file = folder / "model.safetensors"
    save_file({k: v.half() for k, v in load_file(file).items()}, file, metadata={"format": "pt"})
    assert load(spec_of(folder)).encode_image(torch.zeros(1, 3, 16, 16)).dtype == torch.float32


def test_missing_weights_are_an_error_not_random_numbers(folder):
    file = folder / "model.safetensors"
    state = load_file(file)
    save_file({k: v for k, v in state.items() if k != "visual_projection.weight"}, file, metadata={"format": "pt"})
    with pytest.raises(PluginError, match=r"do not fit its model: 1 missing \(visual_projection.weight\)"):
        load(spec_of(folder))
    save_file({**state, "extra.weight": torch.zeros(1)}, file, metadata={"format": "pt"})
    with pytest.raises(PluginError, match=r"do not fit its model: 1 unexpected \(extra.weight\)"):
        load(spec_of(folder))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("config.json", {"auto_map": {"AutoModel": "evil.Evil"}}, "config.json of teacher tiny asks for remote code"),
        ("tokenizer_config.json", {"trust_remote_code": True}, "tokenizer_config.json of teacher tiny asks for remote"),
        ("config.json", {"model_type": "blip"}, "is a transformers model of type 'blip'; built in are clip, siglip"),
    ],
)
def test_remote_code_and_other_models_are_refused(folder, file, changes, message):
    edit(folder / file, **changes)
    with pytest.raises(PluginError, match=message):
        load(spec_of(folder))


def test_a_pickle_of_tensors_is_read_and_a_pickle_of_code_is_not(folder):
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    ids = {f"{tower}.embeddings.position_ids": torch.arange(5)[None] for tower in ("text_model", "vision_model")}
    torch.save({**state, **ids}, folder / "pytorch_model.bin")
    found = load(spec_of(folder)).model.state_dict()
    assert set(found) == set(state)
    assert all(torch.equal(found[name], state[name]) for name in state)
    torch.save({**state, "x": Path("/")}, folder / "pytorch_model.bin")
    with pytest.raises(PluginError, match=r"checkpoint of teacher tiny holds code \(pathlib\.\w+\) beside its tensors"):
        load(spec_of(folder))


def test_a_vocabulary_is_a_tokenizer_too(folder):
    import transformers

    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    with pytest.raises(PluginError, match=r"needs a tokenizer, and its weights declare neither tokenizer.json nor"):
        load(spec_of(folder))
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "chest", "scan"]))
    tokens = load(spec_of(folder)).tokenize(TEXTS)
    upstream = transformers.AutoTokenizer.from_pretrained(folder)
    expected = upstream(TEXTS, padding="max_length", truncation=True, max_length=8, return_tensors="pt")["input_ids"]
    assert torch.equal(tokens, expected)
    assert tokens[0].tolist() == [2, 5, 6, 7, 3, 0, 0, 0]
