"""FLAIR, KeepFIT and RET-CLIP: random weights in the published layout, against the same towers called directly."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torchvision
import transformers
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from tower_parts import BERT, TEXTS, bert_state, resized, shaken, without_or_with

from mmkd_core.contract import CLIP_MEAN, CLIP_STD
from mmkd_core.errors import PluginError

RESNET_50 = {"layers": [1, 1, 1, 1], "width_per_group": 4}


@pytest.fixture
def flair_like(kit, plugin, open_hashes, write_bert):
    """Call with a teacher's name: its module, its smaller spec, a checkpoint in FLAIR's layout, what it was made of."""
    from torchvision.models.resnet import Bottleneck, ResNet

    def build(name):
        module = plugin(name)
        spec = resized(module.SPEC, open_hashes, 64, 12, RESNET_50)
        torch.manual_seed(0)
        resnet = ResNet(Bottleneck, **RESNET_50)
        resnet.fc = nn.Identity()
        resnet = shaken(resnet)
        bert = shaken(transformers.BertModel(transformers.BertConfig(**BERT | {"max_position_embeddings": 256})))
        image, text = nn.Linear(2048, 12, bias=False), nn.Linear(16, 12, bias=False)
        state = {f"vision_model.model.{name}": value for name, value in resnet.state_dict().items()}
        state |= {f"text_model.model.{name}": value for name, value in bert_state(bert).items()}
        state["vision_model.projection_head_vision.projection.weight"] = image.weight.data
        state["text_model.projection_head_text.projection.weight"] = text.weight.data
        state["logit_scale"] = torch.tensor(3.5)
        sizes = BERT | {"max_position_embeddings": 256}
        kit.publish(spec.weights[1], write_bert(tokenizer_config=False, **sizes))
        return module, spec, state, (resnet, bert, image, text)

    return build


def flair_pixels(picture: Image.Image, size: int) -> torch.Tensor:
    """As its authors: a float image, torchvision's Resize, and a canvas that is filled right and below."""
    image = torch.tensor(np.transpose(np.float32(picture.convert("RGB")) / 255, (2, 0, 1))[None])
    scale = max(image.shape[-2:]) / size
    shape = (int(image.shape[-2] / scale), int(image.shape[-1] / scale))
    image = torchvision.transforms.Resize(shape, antialias=True)(image)
    canvas = torch.zeros(1, 3, size, size)
    canvas[:, :, : image.shape[-2], : image.shape[-1]] = image
    return canvas[0]


def assert_flair_like(assert_same, images, teacher, upstream) -> None:
    resnet, bert, image_head, text_head = upstream
    length = teacher.spec.text.context_length
    tokenizer = transformers.AutoTokenizer.from_pretrained("emilyalsentzer/Bio_ClinicalBERT")
    batch = tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=length, return_tensors="pt")

    def text(_):  # as its authors for one text at a time, without the last normalisation
        rows = []
        for one in TEXTS:
            alone = tokenizer([one], truncation=True, max_length=length, return_tensors="pt")
            states = bert(**alone, output_hidden_states=True).hidden_states
            rows.append(torch.stack([states[1], states[2], states[-1]]).permute(1, 0, 2, 3).mean(2).mean(1))
        return text_head(nn.functional.normalize(torch.cat(rows), dim=-1))

    def image(pixels):
        return image_head(nn.functional.normalize(resnet(pixels), dim=-1))

    assert_same(teacher, images, [flair_pixels(p, 64) for p in images], batch["input_ids"], image, text)
    assert teacher.spec.logit_scale == pytest.approx(np.exp(3.5))


def test_flair(kit, flair_like, images, assert_same):
    module, spec, state, upstream = flair_like("flair")
    kit.publish(spec.weights[0], lambda folder: save_file(state, folder / "model.safetensors"))
    assert_flair_like(assert_same, images, kit.teacher(module, spec), upstream)


def keep_fit_file(kit, tmp_path, state) -> None:
    """Save it as its training script does, where a person would put it."""
    folder = tmp_path / "from-the-drive"
    folder.mkdir(exist_ok=True)
    training = {f"attention.W_{part}.weight": torch.rand(12, 12) for part in "qkvo"}
    torch.save(state | training, folder / "keepfit_flair_mm.pth")
    kit.choices = replace(kit.choices, weights=folder)


def test_keep_fit(kit, flair_like, images, assert_same, tmp_path):
    module, spec, state, upstream = flair_like("keep-fit")
    keep_fit_file(kit, tmp_path, state)
    assert_flair_like(assert_same, images, kit.teacher(module, spec), upstream)


def test_keep_fit_is_downloaded_by_a_person(kit, flair_like):
    module, spec, *_ = flair_like("keep-fit")
    with pytest.raises(PluginError, match="lie on a web page, from which only a person can download them") as caught:
        kit.teacher(module, spec)
    assert "drive.google.com" in str(caught.value)
    assert "Save them as keepfit_flair_mm.pth, then run `mmkd teachers add keep-fit --weights FOLDER`" in str(
        caught.value
    )
    assert not kit.lock.exists()


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("vision_model.model.layer4.0.bn3.running_var", r"1 missing \(layer4.0.bn3.running_var\)"),
        ("text_model.model.pooler.dense.bias", r"1 missing \(pooler.dense.bias\)"),
        ("text_model.projection_head_text.projection.weight", r"1 missing \(text_projection.weight\)"),
        ("attention.W_x.weight", r"1 unexpected \(attention.W_x.weight\)"),
    ],
)
def test_every_weight_of_keep_fit_is_accounted_for(kit, flair_like, tmp_path, name, problem):
    module, spec, state, _ = flair_like("keep-fit")
    keep_fit_file(kit, tmp_path, without_or_with(state, name))
    with pytest.raises(PluginError, match=rf"keep-fit was not added, at step smoke check: .*{problem}"):
        kit.teacher(module, spec)


@pytest.mark.parametrize("name", ["flair", "keep-fit"])
def test_its_published_size_is_torchvisions_resnet_50(plugin, name):
    from torchvision.models.resnet import Bottleneck, ResNet

    with torch.device("meta"):
        ours, theirs = ResNet(Bottleneck, **plugin(name).SPEC.arch), torchvision.models.resnet50()
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


VIT = {"patch_size": 16, "width": 16, "layers": 2, "heads": 2}
EYES = ("left", "right")


class Block(nn.Module):
    """One block of OpenAI's vision transformer, in plain torch, under the names that RET-CLIP saves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})

    def forward(self, x):
        y = self.ln_1(x)
        x = x + self.attn(y, y, y, need_weights=False)[0]
        y = self.mlp["c_fc"](self.ln_2(x))
        return x + self.mlp["c_proj"](y * torch.sigmoid(1.702 * y))


class Eye(nn.Module):
    """OpenAI's vision transformer for images of 32 pixels."""

    def __init__(self, patch_size: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch_size, patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.randn(width))
        self.positional_embedding = nn.Parameter(torch.randn((32 // patch_size) ** 2 + 1, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleDict({"resblocks": nn.Sequential(*(Block(width, heads) for _ in range(layers)))})
        self.proj = nn.Parameter(torch.randn(width, 6))

    def forward(self, images):
        patches = self.conv1(images).flatten(2).permute(2, 0, 1)  # (patches, B, width)
        first = self.class_embedding.expand(1, len(images), -1)
        states = torch.cat([first, patches]) + self.positional_embedding[:, None]
        return self.ln_post(self.transformer["resblocks"](self.ln_pre(states))[0]) @ self.proj


LONG_BERT = BERT | {"max_position_embeddings": 128}


@pytest.fixture
def ret(kit, plugin, open_hashes, write_bert):
    module = plugin("ret-clip")
    spec = resized(module.SPEC, open_hashes, 32, 12, VIT)
    torch.manual_seed(0)
    vision = shaken(Eye(**VIT))
    bert = shaken(transformers.BertModel(transformers.BertConfig(**LONG_BERT), add_pooling_layer=False))
    names = ("", "_left", "_right")
    heads = {f"text_projection{e}": nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 6)) for e in names}
    heads |= {f"{eye}_feature_mapping": nn.Linear(6, 6, bias=False) for eye in EYES}
    heads["global_feature_mapping"] = nn.Linear(12, 6, bias=False)
    heads = shaken(nn.ModuleDict(heads))
    state = {f"visual.{name}": value for name, value in vision.state_dict().items()}
    state |= {f"bert.{name}": value for name, value in bert.state_dict().items()}
    state |= heads.state_dict()
    state |= {f"logit_scale{e}": torch.tensor(value) for e, value in zip(names, (4.0, 3.0, 3.5), strict=True)}
    kit.publish(spec.weights[1], write_bert(**LONG_BERT))
    return module, spec, state, (vision, bert, heads)


def ret_file(kit, tmp_path, state, **entries) -> None:
    """Save it as its training script does, where a person would put it; bare if there are no further entries."""
    folder = tmp_path / "from-the-drive"
    folder.mkdir(exist_ok=True)
    state = {f"module.{name}": value for name, value in state.items()}
    state |= {"module.bert.pooler.dense.weight": torch.ones(16, 16), "module.bert.pooler.dense.bias": torch.ones(16)}
    torch.save({**entries, "state_dict": state} if entries else state, folder / "ret_clip_vit_b_16.pt")
    kit.choices = replace(kit.choices, weights=folder)


@pytest.mark.parametrize("entries", [{}, {"epoch": 10, "step": 100, "name": "run", "optimizer": {"state": {}}}])
def test_ret_clip(kit, ret, images, assert_same, tmp_path, entries):
    module, spec, state, (vision, bert, heads) = ret
    ret_file(kit, tmp_path, state, **entries)
    teacher = kit.teacher(module, spec)
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec.weights[1].location)
    tokens = torch.zeros(len(TEXTS), 100, dtype=torch.long)
    for row, text in zip(tokens, TEXTS, strict=True):  # as its authors: cut to 98, [CLS] and [SEP] around, zeros behind
        ids = tokenizer.convert_tokens_to_ids(["[CLS]", *tokenizer.tokenize(text)[:98], "[SEP]"])
        row[: len(ids)] = torch.tensor(ids)
    prepare = torchvision.transforms.Compose(
        [
            torchvision.transforms.Resize((32, 32), torchvision.transforms.InterpolationMode.BICUBIC),
            lambda picture: picture.convert("RGB"),
            torchvision.transforms.ToTensor(),
            torchvision.transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )

    def unit(vectors):
        return vectors / vectors.norm(dim=-1, keepdim=True)

    def image(pixels):
        return torch.cat([unit(heads[f"{eye}_feature_mapping"](vision(pixels))) for eye in EYES], dim=1)

    def text(tokens):
        state = bert(tokens, attention_mask=tokens.ne(0).float())[0][:, 0]
        return torch.cat([unit(heads[f"text_projection_{eye}"](state)) for eye in EYES], dim=1)

    assert_same(teacher, images, [prepare(picture) for picture in images], tokens, image, text)
    assert teacher.spec.logit_scale == pytest.approx((np.exp(3.0) + np.exp(3.5)) / 2)
    unknown = tokenizer.unk_token_id
    assert teacher.tokenize(["眼底"])[0, :5].tolist() == [
        tokenizer.cls_token_id,
        unknown,
        unknown,
        tokenizer.sep_token_id,
        tokenizer.pad_token_id,
    ]


def test_ret_clip_reads_curly_quotation_marks_as_its_authors_do(kit, ret, tmp_path):
    """Training, extraction and zero-shot of its own code make them straight: its vocabulary has no curly ones."""
    module, spec, state, _ = ret
    ret_file(kit, tmp_path, state)
    teacher = kit.teacher(module, spec)
    curly, straight = teacher.tokenize(
        ["\N{LEFT DOUBLE QUOTATION MARK}Slide\N{RIGHT DOUBLE QUOTATION MARK} a", '"slide" a']
    )
    assert curly.tolist() == straight.tolist()
    assert straight[:6].tolist() == [2, 25, 6, 25, 5, 3], "the words of write_bert's vocabulary; 1 is unknown"


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "visual.transformer.resblocks.1.attn.in_proj_bias",
            r"1 missing \(transformer.*in_proj_bias\)",
        ),
        ("bert.encoder.layer.0.attention.self.query.weight", r"1 missing \(.*query.weight\)"),
        ("right_feature_mapping.weight", r"1 missing \(right_feature_mapping.weight\)"),
        ("single_feature_mapping.weight", r"1 unexpected \(single_feature_mapping.weight\)"),
    ],
)
def test_every_weight_of_ret_clip_is_accounted_for(kit, ret, tmp_path, name, problem):
    module, spec, state, _ = ret
    ret_file(kit, tmp_path, without_or_with(state, name))
    with pytest.raises(PluginError, match=rf"ret-clip was not added, at step smoke check: .*{problem}"):
        kit.teacher(module, spec)


def test_ret_clip_does_not_depend_on_what_only_a_patient_has(kit, ret, tmp_path, images):
    """Left out as its README says, so other values there give the same embeddings; swapping the eyes does not."""
    module, spec, state, _ = ret
    of_the_patient = ("global_feature_mapping.", "text_projection.", "logit_scale")
    ret_file(kit, tmp_path, state)
    teacher = kit.teacher(module, spec)
    pixels, tokens = torch.stack([teacher.preprocess(p) for p in images]), teacher.tokenize(TEXTS)
    found = teacher.encode_image(pixels), teacher.encode_text(tokens)
    ret_file(kit, tmp_path, {k: v + 1 if k.startswith(of_the_patient) else v for k, v in state.items()})
    kit.lock = kit.lock.with_name("other.lock")
    other = kit.teacher(module, spec)
    assert torch.equal(other.encode_image(pixels), found[0])
    assert torch.equal(other.encode_text(tokens), found[1])
    assert (found[0][:, :6] - found[0][:, 6:]).abs().max() > 0.01


def test_ret_clip_in_its_published_size(plugin):
    from open_clip.transformer import VisionTransformer

    spec = plugin("ret-clip").SPEC
    with torch.device("meta"):
        model = VisionTransformer(spec.image.size, mlp_ratio=4, output_dim=512, **spec.arch)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes["positional_embedding"] == (197, 768)
    assert shapes["proj"] == (768, 512)
    assert shapes["transformer.resblocks.11.attn.in_proj_weight"] == (2304, 768)
