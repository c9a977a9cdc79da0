"""The plugins of family open_clip: random weights as their authors publish them, compared with open_clip itself."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import HFTokenizer
from safetensors.torch import save_file

from mmkd_core.contract import CLIP_MEAN, CLIP_STD
from mmkd_core.errors import PluginError

TEXTS = (
    "a histopathology slide of colon adenocarcinoma",
    "  Chest X-ray:&nbsp;no   signs of PNEUMONIA, 2.5 cm ",
    "mri " * 300,
    "",
)
BERT = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 256,
    "type_vocab_size": 2,
}
BIG_BERT = BERT | {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
}
BIOMED_BERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
TEXT_TOWER = {
    "hf_model_name": BIOMED_BERT,
    "hf_tokenizer_name": BIOMED_BERT,
    "hf_proj_type": "mlp",
    "hf_pooler_type": "cls_last_hidden_state_pooler",
    "context_length": 256,
}
NATIVE = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
SMALL_VIT = {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 16}
PREPROCESS = {"mean": CLIP_MEAN, "std": CLIP_STD}


def timm_tower(name: str, size: int, pretrained: bool = False) -> dict:
    tower = {"timm_model_name": name, "timm_model_pretrained": pretrained, "timm_pool": "", "timm_proj": "linear"}
    return tower | {"image_size": size}


def randomly(build, config: dict) -> dict[str, torch.Tensor]:
    """The weights of a model that open_clip builds, all of them random: biases and norms too."""
    torch.manual_seed(0)
    config = json.loads(json.dumps(config))
    if config["vision_cfg"].get("timm_model_name"):
        config["vision_cfg"]["timm_model_pretrained"] = False
    config["text_cfg"]["hf_model_pretrained"] = False
    if "hf_model_name" not in config["text_cfg"]:
        del config["text_cfg"]["hf_model_pretrained"]
    state = build(**config).state_dict()
    return {name: value + torch.randn_like(value) * 0.02 for name, value in state.items()}


def with_position_ids(state: dict, length: int) -> dict:
    """As transformers before 4.31 saved them."""
    return state | {"text.transformer.embeddings.position_ids": torch.arange(length)[None]}


def small(spec, open_hashes, **changes):
    image = spec.image.model_copy(update={"size": changes.pop("size")})
    return open_hashes(spec).model_copy(update={"image": image, **changes})


def from_the_hub(spec, images):
    """Upstream's own way: everything by name, from the cache."""
    name = f"hf-hub:{spec.weights[0].location}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.eval()
    tokens = open_clip.get_tokenizer(name)(list(TEXTS))
    return [transform(image) for image in images], tokens, model.encode_image, model.encode_text


def publish_open_clip(kit, spec, config, write_weights, bert=None):
    if bert is not None:
        kit.publish(spec.weights[1], bert)

    def write(folder):
        whole = {"model_cfg": config, "preprocess_cfg": PREPROCESS}
        (folder / "open_clip_config.json").write_text(json.dumps(whole))
        write_weights(folder)

    return kit.publish(spec.weights[0], write)


BIOMED_SIZES = [
    pytest.param("test_vit", 160, 8, BERT, id="small"),
    pytest.param("vit_base_patch16_224", 224, 512, BIG_BERT, id="full", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("tower", "size", "dim", "bert"), BIOMED_SIZES)
def test_biomed_clip(kit, plugin, open_hashes, write_bert, images, assert_same, tower, size, dim, bert):
    module = plugin("biomed-clip")
    spec = small(module.SPEC, open_hashes, size=size, embed_dim=dim)
    config = {"embed_dim": dim, "vision_cfg": timm_tower(tower, size), "text_cfg": TEXT_TOWER}

    def write(folder):
        state = with_position_ids(randomly(open_clip.CustomTextCLIP, config), bert["max_position_embeddings"])
        assert {
            "logit_scale",
            "visual.trunk.cls_token",
            "visual.trunk.blocks.0.attn.qkv.weight",
            "visual.head.proj.weight",
            "text.transformer.encoder.layer.0.attention.self.query.weight",
            "text.proj.0.weight",
            "text.proj.2.weight",
        } <= set(state)
        assert not any("pooler" in name for name in state)
        torch.save(state, folder / "open_clip_pytorch_model.bin")

    publish_open_clip(kit, spec, config, write, write_bert(**bert))
    assert_same(kit.teacher(module, spec), images, *from_the_hub(spec, images))


def test_a_configuration_that_says_otherwise_is_named_when_a_teacher_is_added(kit, plugin, open_hashes):
    """The spec may be right, so it is added; the check that the kit runs after it fails."""
    module = plugin("derm-lip")
    spec = small(module.SPEC, open_hashes, size=32, embed_dim=8)
    config = {"embed_dim": 8, "vision_cfg": SMALL_VIT, "text_cfg": NATIVE}
    whole = {"model_cfg": config, "preprocess_cfg": {"mean": (0.5, 0.5, 0.5), "std": CLIP_STD}}

    def write(folder):
        (folder / "open_clip_config.json").write_text(json.dumps(whole))
        save_file(randomly(open_clip.CLIP, config), folder / "open_clip_model.safetensors")

    kit.publish(spec.weights[0], write)
    with pytest.raises(AssertionError, match="configuration"):
        kit.teacher(module, spec)
    (line,) = [line for line in kit.said if line.startswith("derm-lip: mean: the spec declares (0.481455, ")]
    assert "open_clip_config.json says (0.5, 0.5, 0.5); its features follow the spec" in line
    assert "derm-lip" in kit.lock.read_text()


def test_random_weights_are_not_taken_for_the_published_ones(kit, plugin, write_bert):
    module = plugin("biomed-clip")
    config = {"embed_dim": 8, "vision_cfg": timm_tower("test_vit", 160), "text_cfg": TEXT_TOWER}
    publish_open_clip(
        kit, module.SPEC, config, lambda folder: torch.save({}, folder / "open_clip_pytorch_model.bin"), write_bert()
    )
    with pytest.raises(PluginError, match=r"biomed-clip was not added, at step weights: .* is not the declared one"):
        kit.teacher(module, module.SPEC)
    assert not kit.lock.exists()


def test_derm_lip(kit, plugin, open_hashes, images, assert_same):
    module = plugin("derm-lip")
    spec = small(module.SPEC, open_hashes, size=32, embed_dim=8)
    config = {"embed_dim": 8, "vision_cfg": SMALL_VIT, "text_cfg": NATIVE}

    def write(folder):
        save_file(randomly(open_clip.CLIP, config), folder / "open_clip_model.safetensors")

    publish_open_clip(kit, spec, config, write)
    assert_same(kit.teacher(module, spec), images, *from_the_hub(spec, images))


QUILT_SIZES = [
    pytest.param(SMALL_VIT, NATIVE, 8, id="small"),
    pytest.param(
        {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
        NATIVE | {"width": 512, "heads": 8, "layers": 12},
        512,
        id="full",
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("vision", "text", "dim"), QUILT_SIZES)
def test_quilt_net(kit, plugin, open_hashes, images, assert_same, vision, text, dim):
    module = plugin("quilt-net")
    spec = small(module.SPEC, open_hashes, size=vision["image_size"], embed_dim=dim)
    config = {"embed_dim": dim, "vision_cfg": vision, "text_cfg": text}

    def write(folder):
        state = randomly(open_clip.CLIP, config)
        assert {"visual.conv1.weight", "transformer.resblocks.0.ln_1.weight", "text_projection"} <= set(state)
        torch.save(state, folder / "open_clip_pytorch_model.bin")

    publish_open_clip(kit, spec, config, write)
    assert_same(kit.teacher(module, spec), images, *from_the_hub(spec, images))


def test_genmed_clip(kit, plugin, open_hashes, write_bert, images, assert_same):
    """Its configuration asks timm for pretrained weights; neither side may go for them."""
    module = plugin("genmed-clip")
    spec = small(module.SPEC, open_hashes, size=160, embed_dim=8)
    tower = timm_tower("test_vit", 160, pretrained=True)
    config = {"embed_dim": 8, "vision_cfg": tower, "text_cfg": TEXT_TOWER}

    def write(folder):
        state = randomly(open_clip.CustomTextCLIP, config)
        save_file(state, folder / "open_clip_model.safetensors")
        torch.save(state, folder / "open_clip_pytorch_model.bin")

    publish_open_clip(kit, spec, config, write, write_bert(**BERT))
    assert_same(kit.teacher(module, spec), images, *from_the_hub(spec, images))
    assert "open_clip_pytorch_model.bin" not in kit.host.teacher("genmed-clip").weights[0].files


@pytest.mark.parametrize("kept", [(), ("hf_proj_type", "hf_pooler_type")])
def test_a_configuration_of_an_earlier_open_clip(kit, plugin, open_hashes, write_bert, images, assert_same, kept):
    """QuiltNet-B-16-PMB, of the same author, came with the names ``proj`` and ``pooler_type``: they mean the same."""
    module = plugin("genmed-clip")
    spec = small(module.SPEC, open_hashes, size=160, embed_dim=8)
    former = {name: value for name, value in TEXT_TOWER.items() if name not in {"hf_proj_type", "hf_pooler_type"}}
    former |= {"proj": "mlp", "pooler_type": "cls_last_hidden_state_pooler"}
    config = {"embed_dim": 8, "vision_cfg": timm_tower("test_vit", 160), "text_cfg": TEXT_TOWER}
    kit.publish(spec.weights[1], write_bert(**BERT))
    state = randomly(open_clip.CustomTextCLIP, config)
    text = former | {name: TEXT_TOWER[name] for name in kept}
    write = partial(save_file, state)
    publish_open_clip(kit, spec, {**config, "text_cfg": text}, lambda f: write(f / "open_clip_model.safetensors"))
    teacher = kit.teacher(module, spec)
    config["text_cfg"] = TEXT_TOWER | {"hf_model_pretrained": False}
    pixels, model = upstream(open_clip.CustomTextCLIP, config, state, spec, images)
    tokens = HFTokenizer(BIOMED_BERT, context_length=256)(list(TEXTS))
    assert_same(teacher, images, pixels, tokens, model.encode_image, model.encode_text)


def test_former_and_present_names_that_say_different_things_are_refused(kit, plugin, open_hashes, write_bert):
    module = plugin("genmed-clip")
    spec = small(module.SPEC, open_hashes, size=160, embed_dim=8)
    text = TEXT_TOWER | {"proj": "linear"}
    config = {"embed_dim": 8, "vision_cfg": timm_tower("test_vit", 160), "text_cfg": text}
    publish_open_clip(kit, spec, config, lambda f: save_file({}, f / "open_clip_model.safetensors"), write_bert(**BERT))
    with pytest.raises(PluginError, match=r"open_clip_config.json .* says proj 'linear' and hf_proj_type 'mlp'"):
        kit.teacher(module, spec)


def training_checkpoint(state: dict) -> dict:
    """As open_clip's training script saves it, with the number of numpy that many runs leave in it."""
    return {
        "epoch": 20,
        "name": "run",
        "state_dict": {f"module.{name}": value for name, value in state.items()},
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "best": np.float64(0.87),
    }


def upstream(build, config, state, spec, images):
    """The same architecture from open_clip, filled with the same tensors."""
    model = build(**config)
    model.load_state_dict(state, strict=True)
    model.eval()
    transform = open_clip.image_transform(spec.image.size, is_train=False, mean=CLIP_MEAN, std=CLIP_STD)
    return [transform(image) for image in images], model


def test_bmc_clip(kit, plugin, open_hashes, images, assert_same):
    module = plugin("bmc-clip")
    config = {"embed_dim": 8, "vision_cfg": SMALL_VIT, "text_cfg": NATIVE}
    spec = small(module.SPEC, open_hashes, size=32, embed_dim=8, arch={"model_cfg": config})
    state = randomly(open_clip.CLIP, config)
    kit.publish(spec.weights[0], lambda folder: torch.save(training_checkpoint(state), folder / "BMC_CLIP_CF.pt"))
    teacher = kit.teacher(module, spec)
    pixels, model = upstream(open_clip.CLIP, config, state, spec, images)
    tokens = open_clip.get_tokenizer("ViT-L-14")(list(TEXTS))
    assert_same(teacher, images, pixels, tokens, model.encode_image, model.encode_text)


def test_bmc_clip_is_the_model_that_its_users_build(plugin):
    config = open_clip.get_model_config("ViT-L-14")
    assert plugin("bmc-clip").SPEC.arch == {"model_cfg": config}


@pytest.mark.parametrize("with_pooler", [False, True])
def test_unimed_clip(kit, plugin, open_hashes, write_bert, images, assert_same, with_pooler):
    module = plugin("unimed-clip")
    config = {"embed_dim": 8, "quick_gelu": True, "vision_cfg": SMALL_VIT, "text_cfg": TEXT_TOWER}
    arch = module.SPEC.arch | {"model_cfg": config}
    spec = small(module.SPEC, open_hashes, size=32, embed_dim=8, arch=arch)
    kit.publish(spec.weights[1], write_bert(**BERT))
    state = randomly(open_clip.CustomTextCLIP, config)
    saved = with_position_ids(state, 256)
    if with_pooler:
        pooler = {"weight": torch.randn(16, 16), "bias": torch.randn(16)}
        saved |= {f"text.transformer.pooler.dense.{name}": value for name, value in pooler.items()}
    saved = {name.replace("text.", "text_encoder.", 1): value for name, value in saved.items()}
    assert "text_encoder.proj.0.weight" in saved
    kit.publish(
        spec.weights[0], lambda folder: torch.save(training_checkpoint(saved), folder / "unimed-clip-vit-b16.pt")
    )
    teacher = kit.teacher(module, spec)
    config["text_cfg"] = TEXT_TOWER | {"hf_model_pretrained": False}
    pixels, model = upstream(open_clip.CustomTextCLIP, config, state, spec, images)
    tokens = HFTokenizer(BIOMED_BERT, context_length=256)(list(TEXTS))
    assert_same(teacher, images, pixels, tokens, model.encode_image, model.encode_text)


def test_unimed_clip_is_the_model_that_its_authors_name(plugin):
    config = open_clip.get_model_config("ViT-B-16-quickgelu")
    ours = plugin("unimed-clip").SPEC.arch["model_cfg"]
    assert {key: ours[key] for key in ("embed_dim", "quick_gelu", "vision_cfg")} == {
        key: config[key] for key in ("embed_dim", "quick_gelu", "vision_cfg")
    }
    assert ours["text_cfg"] == TEXT_TOWER


@pytest.mark.parametrize("damage", ["missing", "unexpected"])
def test_every_weight_is_accounted_for(kit, plugin, open_hashes, write_bert, damage):
    module = plugin("unimed-clip")
    config = {"embed_dim": 8, "quick_gelu": True, "vision_cfg": SMALL_VIT, "text_cfg": TEXT_TOWER}
    spec = small(module.SPEC, open_hashes, size=32, embed_dim=8, arch=module.SPEC.arch | {"model_cfg": config})
    kit.publish(spec.weights[1], write_bert(**BERT))
    state = randomly(open_clip.CustomTextCLIP, config)
    if damage == "missing":
        del state["text.proj.2.weight"]
    else:
        state["text.proj.4.weight"] = torch.ones(1)
    kit.publish(spec.weights[0], lambda folder: torch.save(state, folder / "unimed-clip-vit-b16.pt"))
    with pytest.raises(PluginError, match=rf"at step smoke check: .*do not fit its model: 1 {damage} \(text.proj.\d"):
        kit.teacher(module, spec)
    assert not kit.lock.exists()
