"""CXR-CLIP and BioViL-T: random weights in the published layout, against the same towers called directly."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision import transforms
from torchvision.models.resnet import Bottleneck, ResNet, resnet50
from tower_parts import BERT, SWIN, TEXTS, bert_state, old_swin_state, resized, shaken, without_or_with

from mmkd_core.errors import PluginError
from mmkd_core.plugins import downloads, weights

CXR_FILE = "https://twg.kakaocdn.net/brainrepo/models/cxr-clip/a25ce760064591c899f67c97ed7790de/swint_mcc.tar"


class Settings:
    """Stands for a class of a settings library in a checkpoint."""


@pytest.fixture
def serve_cxr(monkeypatch):
    """Call with weights and further entries: the web server has them as its authors' training saved them."""

    def serve(state, **entries):
        saved = {"model": state, "optimizer": {"state": {}, "param_groups": [{"lr": 5e-5}]}, "epoch": 15}
        saved |= {"config": {"model": {"name": "clip_custom"}}, "train_loss": 0.5, **entries}
        file = io.BytesIO()
        torch.save(saved, file)
        monkeypatch.setattr(downloads, "_open_url", lambda location: {CXR_FILE: io.BytesIO(file.getvalue())}[location])

    return serve


@pytest.fixture
def cxr(kit, plugin, open_hashes, write_bert):
    module = plugin("cxr-clip")
    spec = resized(module.SPEC, open_hashes, 32, 12, SWIN)
    sizes = BERT | {"max_position_embeddings": 256}
    torch.manual_seed(0)
    swin = shaken(transformers.SwinModel(transformers.SwinConfig(image_size=32, **SWIN)))
    bert = shaken(transformers.BertModel(transformers.BertConfig(**sizes)))
    image, text = nn.Linear(16, 12), nn.Linear(16, 12)
    state = {"logit_scale": torch.tensor(3.0)}
    state |= {f"image_encoder.image_encoder.{name}": value for name, value in old_swin_state(swin).items()}
    state |= {f"text_encoder.text_encoder.{name}": value for name, value in bert_state(bert).items()}
    for tower, head in (("image", image), ("text", text)):
        state |= {f"{tower}_projection.projection.{name}": value for name, value in head.state_dict().items()}
    kit.publish(spec.weights[1], write_bert(tokenizer_config=False, **sizes))
    return module, spec, state, (swin, bert, image, text)


def test_cxr_clip(kit, cxr, serve_cxr, images, assert_same):
    module, spec, state, (swin, bert, image_head, text_head) = cxr
    serve_cxr(state)
    teacher = kit.teacher(module, spec)
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec.weights[1].location)
    batch = tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=256, return_tensors="pt")
    prepare = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop(32),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )

    def image(pixels):
        return image_head(swin(pixel_values=pixels)["last_hidden_state"][:, 0])

    def text(_):  # as its authors: the longest text of the batch decides how much padding there is
        longest = tokenizer(list(TEXTS), padding="longest", truncation=True, max_length=256, return_tensors="pt")
        states = bert(**longest)["last_hidden_state"]
        return text_head(states[longest["input_ids"] == tokenizer.sep_token_id])

    assert_same(teacher, images, [prepare(p.convert("RGB")) for p in images], batch["input_ids"], image, text)
    assert teacher.spec.logit_scale == pytest.approx(np.exp(3.0))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("image_encoder.image_encoder.layernorm.weight", r"1 missing \(layernorm.weight\)"),
        ("text_encoder.text_encoder.encoder.layer.0.output.dense.bias", r"1 missing \(.*output.dense.bias\)"),
        ("text_projection.projection.bias", r"1 missing \(text_projection.bias\)"),
        ("image_projection.fc.weight", r"1 unexpected \(image_projection.fc.weight\)"),
        ("text_encoder.text_encoder.extra", r"1 unexpected \(extra\)"),
    ],
)
def test_every_weight_of_cxr_clip_is_accounted_for(kit, cxr, serve_cxr, name, problem):
    module, spec, state, _ = cxr
    serve_cxr(without_or_with(state, name))
    with pytest.raises(PluginError, match=rf"cxr-clip was not added, at step smoke check: .*{problem}"):
        kit.teacher(module, spec)


def test_settings_of_cxr_clip_that_are_code_are_refused(kit, cxr, serve_cxr):
    module, spec, state, _ = cxr
    serve_cxr(state, config=Settings())
    with pytest.raises(PluginError, match=r"holds code \(.*Settings\) beside its tensors, which is refused"):
        kit.teacher(module, spec)


def test_cxr_clip_in_its_published_size_is_swin_tiny(plugin):
    spec = plugin("cxr-clip").SPEC
    with torch.device("meta"):
        model = transformers.SwinModel(transformers.SwinConfig(image_size=spec.image.size, **spec.arch))
    assert model.num_features == 768
    assert sum(value.numel() for value in model.parameters()) == 27_519_354  # Swin-T without its classifier


BIO_BERT = BERT | {"max_position_embeddings": 512}
BIO = {
    "resnet": {"layers": [1, 1, 1, 1], "width_per_group": 4},
    "channels": 8,
    "resize": 72,
    "lower_case": True,
    "bert": BIO_BERT,
}
BIO_IMAGE, BIO_TEXT = "biovil_t_image_model_proj_size_128.pt", "model.safetensors"


def two_image_layers(channels: int) -> dict:
    """What compares a radiograph with an earlier one: three blocks of attention."""
    parts = {"attn.proj.bias": (channels,), "mlp.fc1.bias": (channels,), "mlp.fc2.bias": (channels,)}
    parts |= {f"{norm}.{part}": (channels,) for norm in ("norm1", "norm2") for part in ("weight", "bias")}
    square = ("attn.proj_q", "attn.proj_k", "attn.proj_v", "attn.proj", "mlp.fc1", "mlp.fc2")
    parts |= {f"{name}.weight": (channels, channels) for name in square}
    layers = {f"blocks.{i}.{name}": torch.randn(shape) for i in range(3) for name, shape in parts.items()}
    layers |= {"type_embed": torch.randn(2, 1, channels)}
    return layers | {f"norm_post.{part}": torch.randn(channels) for part in ("weight", "bias")}


def bio_image_state(arch: dict, dim: int) -> tuple[dict, nn.Module, nn.Module, nn.Module]:
    """The published file for images and the layers in it: ResNet, mapping to fewer channels, projection."""
    channels = arch["channels"]
    resnet = shaken(ResNet(Bottleneck, **arch["resnet"]))
    mapping = nn.Conv2d(2048, channels, 1, bias=False)
    projector = nn.Sequential(
        nn.Conv2d(2 * channels, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(), nn.Conv2d(dim, dim, 1)
    )
    state = {f"encoder.encoder.{name}": value for name, value in resnet.state_dict().items()}
    state |= {"encoder.backbone_to_vit.weight": mapping.weight.data}
    state |= {"encoder.missing_previous_emb": torch.randn(1, channels, 1, 1)}
    state |= {f"encoder.vit_pooler.{name}": value for name, value in two_image_layers(channels).items()}
    state |= {f"projector.model.{name}": value for name, value in shaken(projector).state_dict().items()}
    return state, resnet, mapping, projector


@pytest.fixture
def bio(plugin, open_hashes):
    module = plugin("bio-vil-t")
    spec = resized(module.SPEC, open_hashes, 64, 12, BIO)
    torch.manual_seed(0)
    image_state, *vision = bio_image_state(BIO, 12)
    bert = shaken(transformers.BertForMaskedLM(transformers.BertConfig(**BIO_BERT)))
    head = {"dense_to_hidden": nn.Linear(16, 12), "LayerNorm": nn.LayerNorm(12, eps=1e-12)}
    head = shaken(nn.ModuleDict(head | {"dense_to_output": nn.Linear(12, 12)}))
    state = {name: value for name, value in bert.state_dict().items() if not name.startswith("cls.predictions.decoder")}
    state |= {"bert.pooler.dense.weight": torch.ones(16, 16), "bert.pooler.dense.bias": torch.ones(16)}
    state |= {"bert.embeddings.position_ids": torch.arange(512)[None]}
    state |= {f"cls_projection_head.{name}": value for name, value in head.state_dict().items()}
    return module, spec, (image_state, state), (*vision, bert, head)


@pytest.fixture
def publish_bio(kit, write_bert):
    """Call with a spec and both states: published beside remote code; gives the vocabulary."""

    def publish(spec, image_state, state):
        def write(folder):
            write_bert(tokenizer_config=False, **BIO_BERT)(folder)
            torch.save(image_state, folder / BIO_IMAGE)
            save_file({name: value.contiguous() for name, value in state.items()}, folder / BIO_TEXT)
            remote = {"auto_map": {"AutoTokenizer": ["configuration_cxrbert.CXRBertTokenizer", None]}}
            tokenizer = {"do_lower_case": True, "tokenizer_class": "CXRBertTokenizer"} | remote
            (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
            config = {"model_type": "cxr-bert", "auto_map": {"AutoModel": "modeling_cxrbert.CXRBertModel"}}
            (folder / "config.json").write_text(json.dumps(config))
            (folder / "modeling_cxrbert.py").write_text("raise SystemExit('this must not run')")
            (folder / "configuration_cxrbert.py").write_text("raise SystemExit('this must not run')")

        snapshot = kit.publish(spec.weights[0], write)
        return {word: number for number, word in enumerate((snapshot / "vocab.txt").read_text().split())}

    return publish


def bio_pixels(picture):
    """hi-ml's way: values stretched over 8 bits, gray, resized and cropped, the one channel three times."""
    values = np.asarray(picture if picture.mode == "L" else picture.convert("RGB")).astype(float)
    values -= values.min()
    values /= values.max()
    values *= 255
    prepare = transforms.Compose([transforms.Resize(72), transforms.CenterCrop(64), transforms.ToTensor()])
    return prepare(Image.fromarray(values.astype(np.uint8)).convert("L")).repeat_interleave(3, dim=0)


def test_bio_vil_t(kit, bio, publish_bio, images, assert_same):
    module, spec, states, (resnet, mapping, projector, bert, head) = bio
    vocabulary = publish_bio(spec, *states)
    teacher = kit.teacher(module, spec)
    tokenizer = transformers.BertTokenizer(vocab=vocabulary)
    batch = tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=512, return_tensors="pt")

    def image(pixels):
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(pixels))))
        x = mapping(resnet.layer4(resnet.layer3(resnet.layer2(resnet.layer1(x)))))
        missing = states[0]["encoder.missing_previous_emb"].repeat(len(x), 1, *x.shape[2:])
        return torch.mean(projector(torch.cat([x, missing], dim=1)), dim=(2, 3))

    def text(_):
        states = bert(**batch, output_hidden_states=True).hidden_states[-1]
        return head["dense_to_output"](head["LayerNorm"](nn.functional.gelu(head["dense_to_hidden"](states[:, 0]))))

    stretched = [bio_pixels(picture) for picture in images]
    assert_same(teacher, images, stretched, batch["input_ids"], image, text)
    assert min(float(pixels.min()) for pixels in stretched) < 0.1
    assert set(teacher.spec.weights[0].files) == set(module.SPEC.weights[0].files), "nothing else is read"


def test_bio_vil_t_stretches_gray_values_but_not_a_single_one(kit, bio, publish_bio):
    module, spec, states, _ = bio
    publish_bio(spec, *states)
    teacher = kit.teacher(module, spec)
    dim = Image.fromarray(np.linspace(100, 120, 90 * 90).reshape(90, 90).astype(np.uint8))
    assert teacher.preprocess(dim).min() < 0.1
    assert teacher.preprocess(dim).max() > 0.9
    flat = teacher.preprocess(Image.new("L", (90, 90), 51))
    torch.testing.assert_close(flat, torch.full((3, 64, 64), 0.2))


def test_bio_vil_t_makes_texts_lower_case_if_its_spec_says_so(kit, bio, publish_bio):
    module, spec, states, _ = bio
    vocabulary = publish_bio(spec, *states)
    assert spec.arch["lower_case"] is True
    teacher = kit.teacher(module, spec.model_copy(update={"arch": spec.arch | {"lower_case": False}}))
    tokens = teacher.tokenize(["path", "PATH"])
    assert (tokens[0, 1], tokens[1, 1]) == (vocabulary["path"], vocabulary["[UNK]"])


@pytest.mark.parametrize(
    ("file", "name", "problem"),
    [
        (0, "encoder.encoder.layer3.0.bn1.running_mean", r"1 missing \(encoder.encoder.layer3.0.bn1.running_mean\)"),
        (0, "encoder.missing_previous_emb", r"1 missing \(encoder.missing_previous_emb\)"),
        (0, "projector.model.3.bias", r"1 missing \(projector.model.3.bias\)"),
        (0, "classifier.fc_0.model.weight", r"1 unexpected \(classifier.fc_0.model.weight\)"),
        (1, "bert.encoder.layer.2.output.dense.bias", r"1 missing \(.*output.dense.bias\)"),
        (1, "cls_projection_head.LayerNorm.weight", r"1 missing \(cls_projection_head.LayerNorm.weight\)"),
        (1, "bert.extra", r"1 unexpected \(extra\)"),
    ],
)
def test_every_weight_of_bio_vil_t_is_accounted_for(kit, bio, publish_bio, file, name, problem):
    module, spec, states, _ = bio
    changed = list(states)
    changed[file] = without_or_with(states[file], name)
    publish_bio(spec, *changed)
    with pytest.raises(PluginError, match=rf"bio-vil-t was not added, at step smoke check: .*{problem}"):
        kit.teacher(module, spec)


def test_a_file_of_bio_vil_t_that_is_swapped_is_noticed(kit, bio, publish_bio):
    module, spec, states, _ = bio
    publish_bio(spec, *states)
    teacher = kit.teacher(module, spec)
    (weights.resolve(teacher.spec)["model"] / BIO_IMAGE).resolve().write_bytes(b"another")
    with pytest.raises(PluginError, match=rf"{BIO_IMAGE} of teacher bio-vil-t is not the declared one"):
        kit.host.load(teacher.spec)


def test_the_image_file_of_bio_vil_t_in_its_published_size(plugin):
    """372 entries, as people who have the published file count them, and torchvision's ResNet-50 among them."""
    spec = plugin("bio-vil-t").SPEC
    state, resnet, *_ = bio_image_state(spec.arch, spec.embed_dim)
    assert len(state) == 372
    shapes = {name: tuple(value.shape) for name, value in resnet50().state_dict().items()}
    assert {name: tuple(value.shape) for name, value in resnet.state_dict().items()} == shapes
    # 109,745,561 bytes: four per number, and what torch writes about each entry
    numbers = sum(value.numel() * value.element_size() for value in state.values())
    assert 109_500_000 < numbers < 109_745_561


def test_the_text_file_of_bio_vil_t_in_its_published_size(plugin):
    """440,909,232 bytes: BERT base with a pooling, the head for masked words and the projection, and 29 kB of names."""
    spec = plugin("bio-vil-t").SPEC
    config = transformers.BertConfig(**spec.arch["bert"])
    with torch.device("meta"):
        masked, pooled = transformers.BertForMaskedLM(config), transformers.BertModel(config).pooler
    projection = 768 * 128 + 128 + 2 * 128 + 128 * 128 + 128
    numbers = sum(value.numel() for model in (masked, pooled) for value in model.parameters()) + projection
    assert 0 < 440_909_232 - 4 * numbers < 30_000
