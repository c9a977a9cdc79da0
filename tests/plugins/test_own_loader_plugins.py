"""PMC-CLIP and MedCLIP: random weights in the published files, against the same towers called directly."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
import torch
import transformers
from open_clip.modified_resnet import ModifiedResNet
from PIL import Image
from torch import nn
from tower_parts import BERT, SWIN, TEXTS, bert_state, old_swin_state, resized, shaken, without_or_with

from mmkd_core.contract import CLIP_MEAN, CLIP_STD, golden_image
from mmkd_core.errors import DataError, PluginError
from mmkd_core.plugins import downloads, weights

HEAD_WIDTH = 64  # of the authors' CLIPVisionCfg: src/pmc_clip/model/config.py; RN50_fusion4.json has none


def trained_heads(width: int) -> int:
    """Attention heads of PMC-CLIP's image tower as its training code builds it: src/pmc_clip/model/pmc_clip.py."""
    return width * 32 // HEAD_WIDTH


@pytest.fixture
def pmc(kit, plugin, open_hashes, write_bert):
    """The three published files; the plugin's module, its smaller spec, and the towers they came from."""
    module = plugin("pmc-clip")
    published = module.SPEC.arch
    small = {"layers": [1, 1, 1, 1], "width": 8, "heads": published["heads"] * 8 // published["width"]}
    spec = resized(module.SPEC, open_hashes, 64, 12, small)
    torch.manual_seed(0)
    visual = shaken(ModifiedResNet([1, 1, 1, 1], 12, trained_heads(8), image_size=64, width=8))
    bert = shaken(transformers.BertModel(transformers.BertConfig(**BERT)))
    projection = torch.randn(16, 12)

    def write(folder):
        assert {"attnpool.positional_embedding", "layer1.0.downsample.0.weight"} <= set(visual.state_dict())
        torch.save(visual.state_dict(), folder / "image_encoder(resnet50).pth")
        torch.save(bert_state(bert), folder / "text_encoder.pth")
        torch.save(nn.Parameter(projection), folder / "text_projection_layer.pth")

    kit.publish(spec.weights[0], write)
    kit.publish(spec.weights[1], write_bert(**BERT))
    return module, spec, visual, bert, projection


def test_pmc_clip(kit, pmc, images, assert_same):
    import open_clip

    module, spec, visual, bert, projection = pmc
    teacher = kit.teacher(module, spec)
    transform = open_clip.image_transform(64, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec.weights[1].location)
    batch = tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=77, return_tensors="pt")

    def text(tokens):  # as its authors: no attention mask, and the state at the id of [CLS]
        states = bert(input_ids=tokens).last_hidden_state
        return states[tokens == tokenizer.cls_token_id] @ projection

    assert_same(teacher, images, [transform(image) for image in images], batch["input_ids"], visual, text)


def test_pmc_clip_pools_with_as_many_heads_as_it_was_trained_with(kit, pmc, images):
    """Its attention pooling is torch's, with the training code's number of heads; with another it is not."""
    module, spec, visual, *_ = pmc
    teacher = kit.teacher(module, spec)
    pixels = torch.stack([teacher.preprocess(image) for image in images])
    pool, kept = visual.attnpool, {}
    with visual.layer4.register_forward_hook(lambda *call: kept.update(map=call[-1])), torch.no_grad():
        visual(pixels)

    def pooled(heads: int) -> torch.Tensor:
        attention = nn.MultiheadAttention(256, heads).eval()  # 256 = 32 x width
        queries = [getattr(pool, f"{name}_proj") for name in "qkv"]
        attention.in_proj_weight.data = torch.cat([layer.weight for layer in queries])
        attention.in_proj_bias.data = torch.cat([layer.bias for layer in queries])
        attention.out_proj.weight.data, attention.out_proj.bias.data = torch.eye(256), torch.zeros(256)
        places = kept["map"].flatten(2).permute(2, 0, 1)  # (places, B, 256)
        states = torch.cat([places.mean(0, keepdim=True), places]) + pool.positional_embedding[:, None]
        return pool.c_proj(attention(states[:1], states, states, need_weights=False)[0][0])

    with torch.no_grad():
        torch.testing.assert_close(teacher.encode_image(pixels), pooled(trained_heads(8)), atol=1e-5, rtol=0)
        assert (pooled(1) - pooled(4)).abs().max() > 1e-3, "the number of heads would not be noticed"


def test_pmc_clip_in_its_published_size(plugin):
    """A ResNet-50 whose attention pooling gives 768 numbers, with the heads and the scale of its authors."""
    spec = plugin("pmc-clip").SPEC
    assert spec.arch["heads"] == trained_heads(spec.arch["width"]) == 32
    assert spec.logit_scale == pytest.approx(np.exp(4.4292), abs=0.05)
    with torch.device("meta"):
        model = ModifiedResNet(output_dim=spec.embed_dim, image_size=spec.image.size, **spec.arch)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes["attnpool.positional_embedding"] == (50, 2048)
    assert shapes["attnpool.c_proj.weight"] == (768, 2048)
    assert shapes["layer3.5.conv3.weight"] == (1024, 256, 1, 1)


def test_a_file_of_pmc_clip_that_is_swapped_is_noticed(kit, pmc):
    module, spec, *_ = pmc
    teacher = kit.teacher(module, spec)
    folder = weights.resolve(teacher.spec)["model"]
    target = (folder / "text_projection_layer.pth").resolve()
    torch.save(torch.zeros(16, 12), target)
    with pytest.raises(PluginError, match=r"text_projection_layer.pth of teacher pmc-clip is not the declared one"):
        kit.host.load(teacher.spec)


def med_state(spec) -> tuple[dict, nn.Module, nn.Module, nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    swin = shaken(transformers.SwinModel(transformers.SwinConfig(image_size=spec.image.size, **spec.arch)))
    bert = shaken(transformers.BertModel(transformers.BertConfig(**BERT)))
    image = nn.Linear(swin.num_features, spec.embed_dim, bias=False)
    text = nn.Linear(16, spec.embed_dim, bias=False)
    state = {"logit_scale": torch.tensor(3.0)}
    state |= {f"vision_model.model.{name}": value for name, value in old_swin_state(swin).items()}
    state |= {f"text_model.model.{name}": value for name, value in bert_state(bert).items()}
    state["vision_model.projection_head.weight"] = image.weight.data
    state["text_model.projection_head.weight"] = text.weight.data
    return state, swin, bert, image, text


def zipped(state: dict) -> bytes:
    file, archive = io.BytesIO(), io.BytesIO()
    torch.save(state, file)
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("pytorch_model.bin", file.getvalue())
    return archive.getvalue()


@pytest.fixture
def served(monkeypatch):
    """What the web server gives, by address."""
    pages = {}
    monkeypatch.setattr(downloads, "_open_url", lambda location: io.BytesIO(pages[location]))
    return pages


@pytest.fixture
def med(kit, plugin, open_hashes, write_bert, served):
    module = plugin("med-clip")
    spec = resized(module.SPEC, open_hashes, 32, 12, SWIN)
    state, *upstream = med_state(spec)
    served["https://storage.googleapis.com/pytrial/medclip-vit-pretrained.zip"] = zipped(state)
    kit.publish(spec.weights[1], write_bert(tokenizer_config=False, **BERT))
    return module, spec, state, upstream


def med_pixels(image: Image.Image, size: int) -> torch.Tensor:
    """MedCLIP's processor in numpy: gray on a black square, resized, scaled, one mean and one deviation."""
    side = max(size, *image.size)
    square = np.zeros((side, side), np.uint8)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    square[top : top + image.height, left : left + image.width] = np.array(image.convert("L"))
    resized = Image.fromarray(square).resize((size, size), Image.Resampling.BICUBIC)
    gray = np.array(resized, np.float32) / np.float32(255)
    gray = (gray - np.float32(0.5862785803043838)) / np.float32(0.27950088968644304)
    return torch.from_numpy(np.stack([gray] * 3))


def test_med_clip(kit, med, images, assert_same):
    module, spec, _, (swin, bert, image_head, text_head) = med
    teacher = kit.teacher(module, spec)
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec.weights[1].location)
    batch = tokenizer(list(TEXTS), padding="max_length", truncation=True, max_length=77, return_tensors="pt")

    def text(_):  # as its authors for one text at a time, which brings no padding
        rows = []
        for one in TEXTS:
            alone = tokenizer([one], truncation=True, max_length=77, return_tensors="pt")
            states = bert(**alone, output_hidden_states=True).hidden_states
            rows.append(torch.stack([states[1], states[2], states[-1]]).permute(1, 0, 2, 3).mean(2).mean(1))
        return text_head(torch.cat(rows))

    def image(pixels):
        return image_head(swin(pixels).pooler_output)

    pixels = [med_pixels(picture, 32) for picture in images]
    assert_same(teacher, images, pixels, batch["input_ids"], image, text)
    assert teacher.spec.logit_scale == pytest.approx(np.exp(3.0))


def test_med_clip_takes_no_deep_image(kit, med):
    module, spec, *_ = med
    teacher = kit.teacher(module, spec)
    with pytest.raises(DataError, match="more than 8 bits per channel"):
        teacher.preprocess(golden_image(0).convert("I"))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("vision_model.model.layernorm.weight", r"1 missing \(layernorm.weight\)"),
        ("text_model.model.pooler.dense.bias", r"1 missing \(pooler.dense.bias\)"),
        ("text_model.projection_head.weight", r"1 missing \(text_projection.weight\)"),
        ("vision_model.fc.weight", r"1 unexpected \(vision_model.fc.weight\)"),
        ("text_model.model.extra", r"1 unexpected \(extra\)"),
    ],
)
def test_every_weight_of_med_clip_is_accounted_for(kit, med, served, name, problem):
    module, spec, state, _ = med
    served["https://storage.googleapis.com/pytrial/medclip-vit-pretrained.zip"] = zipped(without_or_with(state, name))
    with pytest.raises(PluginError, match=rf"med-clip was not added, at step smoke check: .*{problem}"):
        kit.teacher(module, spec)


def test_loading_moves_no_random_numbers(kit, med):
    module, spec, *_ = med
    kit.teacher(module, spec)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    kit.teacher(module, spec)
    assert torch.equal(torch.rand(3), expected)
