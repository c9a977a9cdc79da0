"""MedSigLIP: a random SiglipModel in the published layout, against transformers itself."""

from __future__ import annotations

import importlib
import json
import string

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from mmkd_core.errors import PluginError
from mmkd_core.plugins import weights

TEXTS = (
    "a histopathology slide of colon adenocarcinoma",
    "  Chest X-ray:&nbsp;no   signs of PNEUMONIA, 2.5 cm ",
    "mri " * 300,
    "",
)
SMALL = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
WORDS = ("▁a", "▁slide", "▁of", "▁chest", "▁mri")
SPECIAL = [("<pad>", 0.0, 3), ("</s>", 0.0, 3), ("<unk>", 0.0, 2)]
PIECES = [*SPECIAL, *((word, -2.0, 1) for word in WORDS), *((c, -5.0, 1) for c in "▁bcdefghilmnoprstuxy0123456789")]
IDS = {text: number for number, (text, _, _) in enumerate(PIECES)}


@pytest.fixture
def med_siglip(kit, plugin, open_hashes, write_sentencepiece):
    """The published files of a small model; the plugin's module, its smaller spec, and where the files lie."""
    module = plugin("med-siglip")
    image = module.SPEC.image.model_copy(update={"size": 28})
    spec = open_hashes(module.SPEC).model_copy(update={"image": image, "embed_dim": 16})

    def write(folder):
        torch.manual_seed(0)
        text = SMALL | {"vocab_size": len(PIECES), "max_position_embeddings": 64, "projection_size": 16}
        ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 1}
        config = transformers.SiglipConfig(
            text_config=text | ends, vision_config=SMALL | {"image_size": 28, "patch_size": 14}
        )
        model = transformers.SiglipModel(config)
        model.config.architectures = ["SiglipModel"]
        model.config.save_pretrained(folder)
        state = {name: value + torch.randn_like(value) * 0.05 for name, value in model.state_dict().items()}
        assert {"logit_scale", "logit_bias", "text_model.head.weight", "vision_model.head.probe"} <= set(state)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        write_sentencepiece(folder / "spiece.model", PIECES)
        special = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
        settings = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 64, "do_lower_case": True, **special}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    return module, spec, kit.publish(spec.weights[0], write)


def ids(text: str) -> list[int]:
    """What SigLIP's tokenizer must give with these pieces: whole words where they are known, else characters."""
    found: list[int] = []
    for word in text.lower().translate(str.maketrans("", "", string.punctuation)).split():
        parts = [f"▁{word}"] if f"▁{word}" in IDS else ["▁a", *word[1:]] if word[0] == "a" else ["▁", *word]
        for number in (IDS.get(part, IDS["<unk>"]) for part in parts):
            if number != IDS["<unk>"] or found[-1:] != [number]:  # unknown characters in a row are one piece
                found.append(number)
    return (found[:63] + [1] * 64)[:64]


def test_med_siglip(kit, med_siglip, images, assert_same):
    module, spec, _ = med_siglip
    teacher = kit.teacher(module, spec)
    upstream = transformers.SiglipModel.from_pretrained(spec.weights[0].location).eval()
    processor = transformers.SiglipImageProcessorPil(size={"height": 28, "width": 28})
    pixels = [processor(images=image, return_tensors="pt")["pixel_values"][0] for image in images]

    def image(pixel_values):
        return upstream.get_image_features(pixel_values=pixel_values).pooler_output

    def text(tokens):
        return upstream.get_text_features(input_ids=tokens).pooler_output

    assert_same(teacher, images, pixels, torch.tensor([ids(text) for text in TEXTS]), image, text)
    assert teacher.spec.logit_scale == pytest.approx(upstream.logit_scale.exp().item())
    assert teacher.spec.logit_scale != module.SPEC.logit_scale


def test_the_bias_of_med_siglip_does_not_change_what_trust_sees(kit, med_siglip, images):
    module, spec, _ = med_siglip
    teacher = kit.teacher(module, spec)
    upstream = transformers.SiglipModel.from_pretrained(spec.weights[0].location).eval()
    pixels = torch.stack([teacher.preprocess(image) for image in images])
    tokens = teacher.tokenize(TEXTS)
    with torch.no_grad():
        logits = upstream(input_ids=tokens, pixel_values=pixels).logits_per_image
    assert abs(upstream.logit_bias.item()) > 1e-3
    unit = torch.nn.functional.normalize
    cosine = unit(teacher.encode_image(pixels), dim=-1) @ unit(teacher.encode_text(tokens), dim=-1).T
    torch.testing.assert_close((teacher.spec.logit_scale * cosine).softmax(-1), logits.softmax(-1))


def test_these_tokens_are_transformers_own(plugin, tmp_path):
    """Where the library is installed that transformers needs for it: the same ids from a model that it trained."""
    library = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    library.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXTS[:3], "mri of a brain", "5 µm, 40x"] * 20),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=80,
        hard_vocab_limit=False,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    spec, file = plugin("med-siglip").SPEC, tmp_path / "spiece.model"
    upstream = transformers.SiglipTokenizer(str(file))
    ours = importlib.import_module("mmkd_med_siglip.model").SiglipTokens(spec, file)
    texts = [*TEXTS, "q", "Zq ä qq", "h&e, 40x\tslide", "a_b-c (d)", "Ｆｕｌｌ ﬁbrosis 5µm", " ▁mri"]
    theirs = upstream(texts, padding="max_length", truncation=True, max_length=64, return_tensors="pt")["input_ids"]
    assert ours.pad == upstream.pad_token_id
    assert torch.equal(ours(texts), theirs)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("vision_model.head.probe", r"1 missing \(vision_model.head.probe\)"),
        ("logit_bias", r"1 missing \(logit_bias\)"),
        ("text_model.extra.weight", r"1 unexpected \(text_model.extra.weight\)"),
    ],
)
def test_every_weight_of_med_siglip_is_accounted_for(kit, med_siglip, name, problem):
    module, spec, snapshot = med_siglip
    file = (snapshot / "model.safetensors").resolve()
    state = load_file(file)
    changed = {key: value for key, value in state.items() if key != name}
    if name not in state:
        changed[name] = torch.ones(1)
    save_file(changed, file, metadata={"format": "pt"})
    with pytest.raises(PluginError, match=rf"med-siglip was not added, at step smoke check: .*{problem}"):
        kit.teacher(module, spec)


def test_a_tokenizer_of_med_siglip_that_is_swapped_is_noticed(kit, med_siglip, write_sentencepiece):
    module, spec, _ = med_siglip
    teacher = kit.teacher(module, spec)
    folder = weights.resolve(teacher.spec)["model"]
    write_sentencepiece((folder / "spiece.model").resolve(), [*SPECIAL, ("▁", -1.0, 1)])
    with pytest.raises(PluginError, match=r"spiece.model of teacher med-siglip is not the declared one"):
        kit.host.load(teacher.spec)


def test_med_siglip_in_its_published_size(plugin):
    """SO400M/14 at 448 pixels, 27 layers of width 1152: 32 x 32 patches, and one number for each dimension."""
    spec = plugin("med-siglip").SPEC
    sizes = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
    vision = sizes | {"image_size": spec.image.size, "patch_size": 14}
    text = sizes | {"vocab_size": 32000, "max_position_embeddings": spec.text.context_length}
    config = transformers.SiglipConfig(text_config=text, vision_config=vision)
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in transformers.SiglipModel(config).state_dict().items()}
    assert shapes["vision_model.embeddings.position_embedding.weight"] == (1024, spec.embed_dim)
    assert shapes["text_model.embeddings.position_embedding.weight"] == (64, 1152)
    assert shapes["text_model.head.weight"] == (spec.embed_dim, 1152)
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == pytest.approx(878e6, rel=0.01)
