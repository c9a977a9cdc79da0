"""MUSK: random weights under the published names, against a BEiT-3 written out in plain torch."""

from __future__ import annotations

import importlib
import io
import math

import pytest
import torch
import torchvision.transforms as tv
from safetensors.torch import save_file
from torch.nn import functional as F

from mmkd_core.errors import PluginError
from mmkd_core.plugins import downloads, weights

TEXTS = (
    "a histopathology slide of colon adenocarcinoma",
    "  Chest X-ray:&nbsp;no   signs of PNEUMONIA, 2.5 cm ",
    "mri " * 300,
    "",
)
WIDTH, HEADS, LAYERS, HIDDEN = 32, 4, 2, 64
PIECES = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3), ("▁a", -2.0, 1), ("▁of", -2.0, 1)]
PIECES += [(letter, -5.0, 1) for letter in "▁bcdefghilmnoprstuxyCXPNEUMOIA:;&,.-25"]
IDS = {text: number + 1 for number, (text, _, _) in enumerate(PIECES)}
ARCH = {"width": WIDTH, "heads": HEADS, "layers": LAYERS, "hidden": HIDDEN, "patch": 16}
ARCH |= {"words": len(PIECES) + 1, "text_positions": 128}


def layer(name: str, width: int) -> dict:
    return {f"{name}.weight": 1 + torch.randn(width) * 0.1, f"{name}.bias": torch.randn(width) * 0.1}


def linear(name: str, into: int, out: int) -> dict:
    return {f"{name}.weight": torch.randn(out, into) * into**-0.5, f"{name}.bias": torch.randn(out) * 0.1}


def published(size: int) -> dict:
    """All weights under the names that torchscale's BEiT3 gives them inside of MUSK."""
    torch.manual_seed(0)
    patches = (size // 16) ** 2
    state = {
        "beit3.text_embed.weight": torch.randn(ARCH["words"], WIDTH),
        "beit3.vision_embed.mask_token": torch.randn(1, 1, WIDTH),
        "beit3.vision_embed.cls_token": torch.randn(1, 1, WIDTH),
        "beit3.vision_embed.proj.weight": torch.randn(WIDTH, 3, 16, 16) * 0.05,
        "beit3.vision_embed.proj.bias": torch.randn(WIDTH) * 0.1,
        "beit3.encoder.embed_positions.A.weight": torch.randn(patches + 3, WIDTH) * 0.3,
        "beit3.encoder.embed_positions.B.weight": torch.randn(128, WIDTH) * 0.3,
        "vision_head.weight": torch.randn(WIDTH, WIDTH) * WIDTH**-0.5,
        "language_head.weight": torch.randn(WIDTH, WIDTH) * WIDTH**-0.5,
        "logit_scale": torch.tensor(4.0),
    }
    for tower in "AB":
        state |= layer(f"beit3.encoder.layer_norm.{tower}", WIDTH)
        for number in range(LAYERS):
            name = f"beit3.encoder.layers.{number}"
            for part in ("k", "v", "q", "out"):
                state |= linear(f"{name}.self_attn.{part}_proj.{tower}", WIDTH, WIDTH)
            state |= layer(f"{name}.self_attn.inner_attn_ln.{tower}", WIDTH)
            state |= layer(f"{name}.self_attn_layer_norm.{tower}", WIDTH)
            state |= layer(f"{name}.final_layer_norm.{tower}", WIDTH)
            state |= linear(f"{name}.ffn.{tower}.fc1", WIDTH, HIDDEN) | linear(f"{name}.ffn.{tower}.fc2", HIDDEN, WIDTH)
            state |= layer(f"{name}.ffn.{tower}.ffn_layernorm", HIDDEN)
    return state


def normed(state: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def projected(state: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def encoded(state: dict, tower: str, x: torch.Tensor, padding: torch.Tensor) -> torch.Tensor:
    """The multiway encoder on tokens of one kind; (B, L, width) to the first token's state (B, width)."""
    x = x + state[f"beit3.encoder.embed_positions.{tower}.weight"][2 : x.shape[1] + 2]
    x = x * (~padding)[..., None]
    mask = torch.zeros(padding.shape).masked_fill(padding, -math.inf)[:, None]
    for number in range(LAYERS):
        name = f"beit3.encoder.layers.{number}"
        y = normed(state, f"{name}.self_attn_layer_norm.{tower}", x)
        q, k, v = (projected(state, f"{name}.self_attn.{part}_proj.{tower}", y).chunk(HEADS, -1) for part in "qkv")
        heads = [
            (a * (WIDTH / HEADS) ** -0.5 @ b.transpose(1, 2) + mask).softmax(-1) @ c
            for a, b, c in zip(q, k, v, strict=True)
        ]
        y = normed(state, f"{name}.self_attn.inner_attn_ln.{tower}", torch.cat(heads, -1))
        x = x + projected(state, f"{name}.self_attn.out_proj.{tower}", y)
        y = normed(state, f"{name}.final_layer_norm.{tower}", x)
        y = F.gelu(projected(state, f"{name}.ffn.{tower}.fc1", y))
        x = x + projected(state, f"{name}.ffn.{tower}.fc2", normed(state, f"{name}.ffn.{tower}.ffn_layernorm", y))
    return normed(state, f"beit3.encoder.layer_norm.{tower}", x)[:, 0]


def image_features(state: dict, pixels: torch.Tensor) -> torch.Tensor:
    patches = F.unfold(pixels, 16, stride=16).transpose(1, 2) @ state["beit3.vision_embed.proj.weight"].flatten(1).T
    patches = patches + state["beit3.vision_embed.proj.bias"]
    x = torch.cat([state["beit3.vision_embed.cls_token"].expand(len(pixels), -1, -1), patches], 1)
    return encoded(state, "A", x, torch.zeros(x.shape[:2], dtype=torch.bool)) @ state["vision_head.weight"].T


def text_features(state: dict, tokens: torch.Tensor) -> torch.Tensor:
    x = state["beit3.text_embed.weight"][tokens]
    return encoded(state, "B", x, tokens == 1) @ state["language_head.weight"].T


def ids(text: str) -> list[int]:
    """What XLM-RoBERTa's tokenizer makes of these pieces: one higher than SentencePiece, its own special ones."""
    found: list[int] = []
    for word in text.split():
        parts = [f"▁{word}"] if f"▁{word}" in IDS else ["▁a", *word[1:]] if word[0] == "a" else ["▁", *word]
        for number in (IDS.get(part, 3) for part in parts):
            if number != 3 or found[-1:] != [3]:  # unknown characters in a row are one piece
                found.append(number)
    return [0, *found[:98], 2, *[1] * 98][:100] if len(found) < 98 else [0, *found[:98], 2]


@pytest.fixture
def served(monkeypatch):
    """What the web server gives, by address."""
    pages = {}
    monkeypatch.setattr(downloads, "_open_url", lambda location: io.BytesIO(pages[location]))
    return pages


@pytest.fixture
def musk(kit, plugin, open_hashes, write_sentencepiece, served, tmp_path):
    """The published tokenizer; the plugin's module, its smaller spec, the weights, and how to save them."""
    module = plugin("musk")
    image = module.SPEC.image.model_copy(update={"size": 48})
    spec = open_hashes(module.SPEC).model_copy(update={"image": image, "embed_dim": WIDTH, "arch": ARCH})
    write_sentencepiece(tmp_path / "tokenizer.spm", PIECES)
    served[spec.weights[1].location] = (tmp_path / "tokenizer.spm").read_bytes()

    def publish(state):
        return kit.publish(spec.weights[0], lambda folder: save_file(state, folder / "model.safetensors"))

    return module, spec, published(48), publish


def test_musk(kit, musk, images, assert_same):
    module, spec, state, publish = musk
    publish(state)
    teacher = kit.teacher(module, spec)
    resize = tv.Resize(48, interpolation=tv.InterpolationMode.BICUBIC, antialias=True)
    transform = tv.Compose([resize, tv.CenterCrop((48, 48)), tv.ToTensor(), tv.Normalize([0.5] * 3, [0.5] * 3)])
    assert_same(
        teacher,
        images,
        [transform(image.convert("RGB")) for image in images],
        torch.tensor([ids(text) for text in TEXTS]),
        lambda batch: image_features(state, batch),
        lambda batch: text_features(state, batch),
    )
    assert teacher.spec.logit_scale == pytest.approx(math.exp(4.0))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("beit3.encoder.layers.1.ffn.B.fc1.bias", r"1 missing \(text.layers.1.ffn.fc1.bias\)"),
        ("beit3.encoder.embed_positions.A.weight", r"1 missing \(image.embed_positions.weight\)"),
        ("beit3.vision_embed.cls_token", r"1 missing \(image.cls_token\)"),
        ("language_head.weight", r"1 missing \(text.head.weight\)"),
        ("beit3.encoder.layers.2.ffn.A.fc1.bias", r"1 unexpected \(image.layers.2.ffn.fc1.bias\)"),
        ("mlm_head.weight", r"1 unexpected \(mlm_head.weight\)"),
    ],
)
def test_every_weight_of_musk_is_accounted_for(kit, musk, name, problem):
    module, spec, state, publish = musk
    changed = {key: value for key, value in state.items() if key != name}
    if name not in state:
        changed[name] = torch.ones(1)
    publish(changed)
    with pytest.raises(PluginError, match=rf"musk was not added, at step smoke check: .*{problem}"):
        kit.teacher(module, spec)


def test_a_file_of_musk_that_is_swapped_is_noticed(kit, musk):
    module, spec, state, publish = musk
    publish(state)
    teacher = kit.teacher(module, spec)
    target = (weights.resolve(teacher.spec)["model"] / "model.safetensors").resolve()
    save_file(state | {"vision_head.weight": torch.eye(WIDTH)}, target)
    with pytest.raises(PluginError, match=r"model.safetensors of teacher musk is not the declared one"):
        kit.host.load(teacher.spec)


def test_a_tokenizer_of_musk_of_another_kind_is_named(kit, musk, served, write_sentencepiece, tmp_path):
    module, spec, state, publish = musk
    publish(state)
    write_sentencepiece(tmp_path / "bpe.spm", PIECES, b"\x18\x02")
    served[spec.weights[1].location] = (tmp_path / "bpe.spm").read_bytes()
    with pytest.raises(PluginError, match=r"tokenizer.spm of teacher musk cannot be read: it is no unigram model"):
        kit.teacher(module, spec)


def test_musk_in_its_published_size(plugin):
    """24 layers of width 1024 for each modality: 24 x 24 patches, [CLS] and the two positions that fairseq left out."""
    build = importlib.import_module("mmkd_musk.model").build
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in build(plugin("musk").SPEC).state_dict().items()}
    assert shapes["image.embed_positions.weight"] == (24 * 24 + 1 + 2, 1024)
    assert shapes["text.embed_positions.weight"] == (1024, 1024)
    assert shapes["text.embed.weight"] == (64010, 1024)
    assert shapes["image.layers.23.ffn.fc1.weight"] == (4096, 1024)
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == pytest.approx(675e6, rel=0.01)
