"""PLIP, PubMedCLIP, MONET: random CLIP models as transformers of their time saved them, against transformers itself."""

from __future__ import annotations

import pytest
import torch
import transformers
from safetensors.torch import save_file

from mmkd_core.contract import CLIP_MEAN, CLIP_STD
from mmkd_core.errors import PluginError

TEXTS = (
    "a histopathology slide of colon adenocarcinoma",
    "  Chest X-ray:&nbsp;no   signs of PNEUMONIA, 2.5 cm ",
    "mri " * 300,
    "",
)
SMALL = {
    "projection_dim": 8,
    "text_config": {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "vision_config": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
        "patch_size": 16,
    },
}
FULL = {"projection_dim": 512, "text_config": {}, "vision_config": {"patch_size": 32}}
CASES = [pytest.param(name, SMALL, id=f"{name}-small") for name in ("plip", "pubmed-clip", "monet")]
CASES += [pytest.param(name, FULL, id=f"{name}-full", marks=pytest.mark.slow) for name in ("plip", "pubmed-clip")]
END = {"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1}


def write_clip(folder, sizes, safetensors=False):
    """config.json and the weights, with the buffers of position ids that transformers saved until 2023."""
    torch.manual_seed(0)
    sizes = sizes | {"text_config": sizes["text_config"] | END}
    model = transformers.CLIPModel(transformers.CLIPConfig(**sizes))
    model.config.architectures = ["CLIPModel"]
    model.config.save_pretrained(folder)
    state = {name: value + torch.randn_like(value) * 0.02 for name, value in model.state_dict().items()}
    assert {
        "logit_scale",
        "text_projection.weight",
        "visual_projection.weight",
        "text_model.embeddings.token_embedding.weight",
        "vision_model.pre_layrnorm.weight",
        "vision_model.encoder.layers.0.self_attn.q_proj.weight",
    } <= set(state)
    if safetensors:
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        return
    for tower in ("text_model", "vision_model"):
        length = len(state[f"{tower}.embeddings.position_embedding.weight"])
        state[f"{tower}.embeddings.position_ids"] = torch.arange(length)[None]
    torch.save(state, folder / "pytorch_model.bin")


def from_the_hub(spec, images):
    """Upstream's own way: model, processor and tokenizer by name, from the cache."""
    name, size = spec.weights[0].location, spec.image.size
    model = transformers.CLIPModel.from_pretrained(name).eval()
    # Pillow's resizing, with which these models were trained; the present default rounds differently.
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=list(spec.image.mean),
        image_std=list(spec.image.std),
    )
    pixels = [processor(images=image, return_tensors="pt")["pixel_values"][0] for image in images]
    batch = transformers.AutoTokenizer.from_pretrained(name)(
        list(TEXTS), padding="max_length", truncation=True, max_length=77, return_tensors="pt"
    )

    def image(pixel_values):
        return model.get_image_features(pixel_values=pixel_values).pooler_output

    def text(tokens):
        return model.get_text_features(input_ids=tokens, attention_mask=batch["attention_mask"]).pooler_output

    return pixels, batch["input_ids"], image, text


@pytest.mark.parametrize(("name", "sizes"), CASES)
def test_clip_models_of_transformers(kit, plugin, open_hashes, write_clip_tokenizer, images, assert_same, name, sizes):
    module = plugin(name)
    small = {"size": sizes["vision_config"].get("image_size", 224)}
    image = module.SPEC.image.model_copy(update=small)
    spec = open_hashes(module.SPEC).model_copy(update={"image": image, "embed_dim": sizes["projection_dim"]})

    def write(folder):
        write_clip(folder, sizes, safetensors="model.safetensors" in spec.weights[0].files)
        write_clip_tokenizer(folder)

    kit.publish(spec.weights[0], write)
    teacher = kit.teacher(module, spec)
    assert_same(teacher, images, *from_the_hub(spec, images))
    files = kit.host.teacher(name).resolved(teacher.spec.weights).weights[0].files
    assert {"vocab.json", "merges.txt", "tokenizer_config.json"} <= set(files)
    assert "vocab.txt" not in files
    assert teacher.spec.logit_scale == pytest.approx(teacher.model.logit_scale.exp().item())
    assert teacher.spec.logit_scale != module.SPEC.logit_scale
    assert f"{name}: its plugin declares no sha256 for some files; what comes now is trusted and locked" in kit.said


def test_these_tokens_are_clips_own(kit, plugin, write_clip_tokenizer):
    """The vocabulary of the tests is the real one: apart from padding, open_clip's tokenizer says the same."""
    import open_clip

    module = plugin("plip")
    spec = module.SPEC.model_copy(update={"image": module.SPEC.image.model_copy(update={"size": 32}), "embed_dim": 8})

    def write(folder):
        write_clip(folder, SMALL)
        write_clip_tokenizer(folder)

    kit.publish(spec.weights[0], write)
    ours = kit.teacher(module, spec).tokenize(["an h&e stained slide, 40x", "mri " * 300])
    theirs = open_clip.get_tokenizer("ViT-B-32")(["an h&e stained slide, 40x", "mri " * 300])
    end = int(theirs[0].argmax())
    assert torch.equal(ours[0, : end + 1], theirs[0, : end + 1])
    assert torch.equal(ours[1], theirs[1])


@pytest.mark.parametrize(("file", "key"), [("config.json", "auto_map"), ("tokenizer_config.json", "trust_remote_code")])
def test_remote_code_is_refused(kit, plugin, write_clip_tokenizer, file, key):
    import json

    module = plugin("plip")

    def write(folder):
        write_clip(folder, SMALL)
        write_clip_tokenizer(folder)
        config = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(config | {key: {"AutoModel": "evil.Evil"}}))

    kit.publish(module.SPEC.weights[0], write)
    with pytest.raises(PluginError, match=rf"plip was not added.*{file} of teacher plip asks for remote code with"):
        kit.teacher(module, module.SPEC)


def test_normalisation_is_clips_or_imagenets(plugin):
    for name in ("plip", "pubmed-clip"):
        assert (plugin(name).SPEC.image.mean, plugin(name).SPEC.image.std) == (CLIP_MEAN, CLIP_STD)
    assert (plugin("monet").SPEC.image.mean, plugin("monet").SPEC.image.std) == (
        tuple(transformers.image_utils.IMAGENET_DEFAULT_MEAN),
        tuple(transformers.image_utils.IMAGENET_DEFAULT_STD),
    )
