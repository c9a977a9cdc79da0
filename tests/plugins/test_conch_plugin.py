"""CONCH: random weights under the published names, against its towers written out in plain torch."""

from __future__ import annotations

import importlib
import io
import math

import pytest
import timm.models.vision_transformer
import tokenizers
import torch
import torchvision.transforms as tv
import transformers
from tokenizers import models, normalizers, pre_tokenizers, processors
from torch.nn import functional as F

from mmkd_core.contract import CLIP_MEAN, CLIP_STD
from mmkd_core.errors import PluginError
from mmkd_core.plugins import downloads, weights

TEXTS = (
    "a histopathology slide of colon adenocarcinoma",
    "  Chest X-ray:&nbsp;no   signs of PNEUMONIA, 2.5 cm ",
    "mri " * 300,
    "",
)
WIDTH, DIM, HEADS, TOKENS = 32, 24, 4, 300
ARCH = {
    "vision": {"patch_size": 16, "embed_dim": WIDTH, "depth": 2, "num_heads": HEADS},
    "pooler_heads": 8,
    "text": {"vocab_size": TOKENS, "width": WIDTH, "heads": HEADS, "layers": 2},
}


def layer(name: str, width: int) -> dict:
    return {f"{name}.weight": 1 + torch.randn(width) * 0.1, f"{name}.bias": torch.randn(width) * 0.1}


def linear(name: str, into: int, out: int) -> dict:
    return {f"{name}.weight": torch.randn(out, into) * into**-0.5, f"{name}.bias": torch.randn(out) * 0.1}


def block(name: str, width: int) -> dict:
    """One residual block as CONCH's text tower and decoder save it."""
    attention = {
        f"{name}.attn.in_proj_weight": torch.randn(3 * width, width) * width**-0.5,
        f"{name}.attn.in_proj_bias": torch.randn(3 * width) * 0.1,
    }
    hidden = linear(f"{name}.mlp.c_fc", width, 4 * width) | linear(f"{name}.mlp.c_proj", 4 * width, width)
    norms = layer(f"{name}.ln_1", width) | layer(f"{name}.ln_2", width)
    return attention | linear(f"{name}.attn.out_proj", width, width) | hidden | norms


def published(size: int) -> tuple[dict, torch.nn.Module]:
    """All weights under the names of the published code, and the trunk that made some of them."""
    torch.manual_seed(0)
    trunk = timm.models.vision_transformer.VisionTransformer(img_size=size, num_classes=0, **ARCH["vision"])
    state = {
        f"visual.trunk.{name}": value + torch.randn_like(value) * 0.1 for name, value in trunk.state_dict().items()
    }
    trunk.load_state_dict({name.removeprefix("visual.trunk."): value for name, value in state.items()})
    pooler = "visual.attn_pool_contrast"
    state |= {f"{pooler}.query": torch.randn(1, DIM), f"{pooler}.attn.in_proj_bias": torch.randn(3 * DIM) * 0.1}
    for part, into in (("q", DIM), ("k", WIDTH), ("v", WIDTH)):
        state[f"{pooler}.attn.{part}_proj_weight"] = torch.randn(DIM, into) * into**-0.5
    state |= linear(f"{pooler}.attn.out_proj", DIM, DIM) | layer(f"{pooler}.ln_q", DIM) | layer(f"{pooler}.ln_k", WIDTH)
    state |= layer("visual.ln_contrast", DIM)
    state["visual.proj_contrast"] = torch.randn(DIM, DIM) * DIM**-0.5
    state |= {"visual.attn_pool_caption.query": torch.randn(256, WIDTH)} | layer("visual.ln_caption", WIDTH)
    state |= {"text_decoder.text_projection": torch.randn(WIDTH, TOKENS)} | block("text_decoder.cross_attn.0", WIDTH)
    state["text.token_embedding.weight"] = torch.randn(TOKENS, WIDTH)
    state["text.positional_embedding"] = torch.randn(128, WIDTH) * 0.3
    state["text.cls_emb"] = torch.randn(WIDTH)
    state["text.text_projection"] = torch.randn(WIDTH, DIM) * WIDTH**-0.5
    state |= layer("text.ln_final", WIDTH)
    for number in range(2):
        state |= block(f"text.transformer.resblocks.{number}", WIDTH)
    state["logit_scale"] = torch.tensor(4.0)
    return state, trunk.eval()


def normed(state: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])


def projected(state: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, mask: torch.Tensor | float) -> torch.Tensor:
    """Softmax attention, head by head; (B, Q, D), (B, K, D), (B, K, D) to (B, Q, D)."""
    parts = []
    for a, b, c in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        parts.append((a @ b.transpose(1, 2) / math.sqrt(a.shape[-1]) + mask).softmax(-1) @ c)
    return torch.cat(parts, -1)


def image_features(state: dict, trunk: torch.nn.Module, pixels: torch.Tensor) -> torch.Tensor:
    name = "visual.attn_pool_contrast"
    keys = normed(state, f"{name}.ln_k", trunk.forward_features(pixels))
    query = normed(state, f"{name}.ln_q", state[f"{name}.query"]).expand(len(keys), -1, -1)
    biases = state[f"{name}.attn.in_proj_bias"].chunk(3)
    q, k, v = (
        x @ state[f"{name}.attn.{part}_proj_weight"].T + bias
        for part, x, bias in zip("qkv", (query, keys, keys), biases, strict=True)
    )
    pooled = projected(state, f"{name}.attn.out_proj", attend(q, k, v, 8, 0.0))[:, 0]
    return normed(state, "visual.ln_contrast", pooled) @ state["visual.proj_contrast"]


def text_features(state: dict, tokens: torch.Tensor) -> torch.Tensor:
    """As CONCH: causal; the [CLS] at the end sees what follows each token that is no padding, and the first."""
    tokens = tokens[:, :-1]
    x = torch.cat([state["text.token_embedding.weight"][tokens], state["text.cls_emb"].expand(len(tokens), 1, -1)], 1)
    x = x + state["text.positional_embedding"]
    mask = torch.full((128, 128), -math.inf).triu(1).repeat(len(tokens), 1, 1)
    for row, ids in enumerate(tokens):
        mask[row, -1, 1:][ids == 0] = -math.inf
    for number in range(2):
        name = f"text.transformer.resblocks.{number}"
        y = normed(state, f"{name}.ln_1", x) @ state[f"{name}.attn.in_proj_weight"].T
        q, k, v = (y + state[f"{name}.attn.in_proj_bias"]).chunk(3, -1)
        x = x + projected(state, f"{name}.attn.out_proj", attend(q, k, v, HEADS, mask))
        hidden = F.gelu(projected(state, f"{name}.mlp.c_fc", normed(state, f"{name}.ln_2", x)))
        x = x + projected(state, f"{name}.mlp.c_proj", hidden)
    return normed(state, "text.ln_final", x[:, -1]) @ state["text.text_projection"]


@pytest.fixture
def tokenizer_file(tmp_path):
    """A byte-level BPE of the published kind: lower case, no accents, <start_of_text> and <end_of_text>."""
    special = ["<pad>", "<start_of_text>", "<end_of_text>", "<|person|>", "<|mrn|>", "<|specimen_id|>", "<|date|>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*special, *letters, "Ġa", "Ġs", "li"])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [("Ġ", "a"), ("Ġ", "s"), ("l", "i")]))
    tokenizer.add_special_tokens(special)
    parts = [normalizers.NFD(), normalizers.StripAccents(), normalizers.Lowercase()]
    tokenizer.normalizer = normalizers.Sequence(parts)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    ends = [("<start_of_text>", 1), ("<end_of_text>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing("<start_of_text> $A <end_of_text>", special_tokens=ends)
    tokenizer.save(str(tmp_path / "bpe.json"))
    return tmp_path / "bpe.json"


@pytest.fixture
def served(monkeypatch):
    """What the web server gives, by address."""
    pages = {}
    monkeypatch.setattr(downloads, "_open_url", lambda location: io.BytesIO(pages[location]))
    return pages


@pytest.fixture
def conch(kit, plugin, open_hashes, tokenizer_file, served):
    """The published tokenizer; the plugin's module, a smaller spec, the weights, their trunk, and how to save them."""
    module = plugin("conch")
    image = module.SPEC.image.model_copy(update={"size": 48})
    spec = open_hashes(module.SPEC).model_copy(update={"image": image, "embed_dim": DIM, "arch": ARCH})
    state, trunk = published(48)
    served[spec.weights[1].location] = tokenizer_file.read_bytes()

    def publish(state):
        return kit.publish(spec.weights[0], lambda folder: torch.save(state, folder / "pytorch_model.bin"))

    return module, spec, state, trunk, publish


def test_conch(kit, conch, tokenizer_file, images, assert_same):
    module, spec, state, trunk, publish = conch
    publish(state)
    teacher = kit.teacher(module, spec)
    cut = tv.Compose([tv.Resize(48, interpolation=tv.InterpolationMode.BICUBIC), tv.CenterCrop(48)])
    scale = tv.Compose([tv.ToTensor(), tv.Normalize(CLIP_MEAN, CLIP_STD)])
    pixels = [scale(cut(image).convert("RGB")) for image in images]
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer_file), pad_token="<pad>")
    settings = {"max_length": 127, "truncation": True, "padding": "max_length", "return_tensors": "pt"}
    tokens = F.pad(fast(list(TEXTS), **settings)["input_ids"], (0, 1), value=0)
    assert_same(
        teacher,
        images,
        pixels,
        tokens,
        lambda batch: image_features(state, trunk, batch),
        lambda batch: text_features(state, batch),
    )
    assert teacher.spec.logit_scale == pytest.approx(math.exp(4.0))


def test_the_decoder_may_be_missing_and_prefixes_of_training_stay_away(kit, conch):
    """The first release had no decoder; checkpoints of training have ``module.`` before each name."""
    module, spec, state, _, publish = conch
    publish({"state_dict": {f"module.{name}": v for name, v in state.items() if not name.startswith("text_decoder.")}})
    assert kit.teacher(module, spec).spec.logit_scale == pytest.approx(math.exp(4.0))


def test_positions_of_another_image_size_are_resampled(kit, conch, images):
    module, spec, state, trunk, publish = conch
    state["visual.trunk.pos_embed"] = torch.randn(1, 1 + 4, WIDTH)
    publish(state)
    teacher = kit.teacher(module, spec)
    grid = state["visual.trunk.pos_embed"][:, 1:].reshape(1, 2, 2, WIDTH).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, (3, 3), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
    trunk.pos_embed.data = torch.cat([state["visual.trunk.pos_embed"][:, :1], grid], 1)
    batch = torch.stack([teacher.preprocess(image) for image in images])
    with torch.no_grad():
        expected = image_features(state, trunk, batch)
    torch.testing.assert_close(teacher.encode_image(batch), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("visual.attn_pool_contrast.query", r"1 missing \(pooler.query\)"),
        ("visual.proj_contrast", r"1 missing or of another shape \(visual.proj_contrast\)"),
        ("text.cls_emb", r"1 missing \(text.cls_emb\)"),
        ("visual.trunk.norm.bias", r"1 missing \(trunk.norm.bias\)"),
        ("visual.head.proj.weight", r"1 unexpected \(visual.head.proj.weight\)"),
        ("text.transformer.extra", r"1 unexpected \(text.transformer.extra\)"),
    ],
)
def test_every_weight_of_conch_is_accounted_for(kit, conch, name, problem):
    module, spec, state, _, publish = conch
    changed = {key: value for key, value in state.items() if key != name}
    if name not in state:
        changed[name] = torch.ones(1)
    publish(changed)
    with pytest.raises(PluginError, match=rf"conch was not added, at step smoke check: .*{problem}"):
        kit.teacher(module, spec)


def test_a_file_of_conch_that_is_swapped_is_noticed(kit, conch):
    module, spec, state, _, publish = conch
    publish(state)
    teacher = kit.teacher(module, spec)
    target = (weights.resolve(teacher.spec)["model"] / "pytorch_model.bin").resolve()
    torch.save(state | {"visual.proj_contrast": torch.eye(DIM)}, target)
    with pytest.raises(PluginError, match=r"pytorch_model.bin of teacher conch is not the declared one"):
        kit.host.load(teacher.spec)


def test_a_damaged_tokenizer_of_conch_is_named(kit, conch, served):
    module, spec, state, _, publish = conch
    publish(state)
    served[spec.weights[1].location] = b"{}"
    with pytest.raises(PluginError, match=r"conch_byte_level_bpe_uncased.json of teacher conch cannot be read"):
        kit.teacher(module, spec)


def test_conch_in_its_published_size(plugin):
    """The shapes that its configuration and code give: 28 x 28 patches and a class token, 128 positions of texts."""
    build = importlib.import_module("mmkd_conch.model").build
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in build(plugin("conch").SPEC).state_dict().items()}
    assert shapes["trunk.pos_embed"] == (1, 785, 768)
    assert shapes["trunk.blocks.11.attn.qkv.weight"] == (2304, 768)
    assert shapes["pooler.attn.k_proj_weight"] == (512, 768)
    assert shapes["text.positional_embedding"] == (128, 768)
    assert shapes["text.token_embedding.weight"] == (32007, 768)
    assert shapes["text.text_projection"] == (768, 512)
