"""Students of every kind: saved, loaded by us and by plain open_clip, and shaped as transformers' CLIPModel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mmkd_core.errors import ReleaseError
from mmkd_core.student.config import StudentConfig, TextConfig
from mmkd_core.student.model import Student
from mmkd_core.student.tokenizer import clip_vocabulary, encode, read_published

TEXTS = ["a nodule in the left lung, 3 mm!", "no finding", "CT slice of the liver: it's a lesion's border"]
SMALL = {"width": 32, "heads": 2, "layers": 2, "context_length": 20}


def build(preset, texts=TEXTS, **text):
    config = StudentConfig(preset=preset, vision="vit-tiny", image_size=32, embed_dim=16, text={**SMALL, **text})
    student = Student.build(config, texts, seed=0)
    with torch.no_grad():  # fresh weights are so small that all texts embed alike
        for p in student.model.parameters():
            if p.ndim >= 2:
                p.mul_(3)
    student.model.eval()
    return student


def test_presets_are_the_published_shapes():
    paper, exportable = StudentConfig(preset="paper"), StudentConfig(preset="transformers")
    for config in (paper, exportable):
        assert (config.vision, config.pixels, config.quick_gelu, config.embed_dim) == ("vit-b-16", 224, True, 512)
    assert (paper.text.tower, paper.text.context_length, paper.text.vocab_size) == ("bert", 256, 30522)
    assert (paper.text.width, paper.text.heads, paper.text.layers) == (768, 12, 12)
    assert exportable.text == TextConfig(tokenizer="clip", context_length=77, width=512, heads=8, layers=12)
    assert StudentConfig(preset="paper", text={"layers": 2}).text.width == 768
    assert StudentConfig.model_validate(paper.model_dump()) == paper
    with pytest.raises(ValidationError, match="preset"):
        StudentConfig(preset="papre")


@pytest.mark.slow
def test_the_papers_student_at_its_full_size():
    """ViT-B/16 with a BERT-base of BiomedBERT's vocabulary and the MLP 768 -> 640 -> 512."""
    student = Student.build(StudentConfig(preset="paper", text={"vocab_size": 30522}), TEXTS, seed=0)
    text = student.model.text
    assert [layer.weight.shape for layer in (text.proj[0], text.proj[2])] == [(640, 768), (512, 640)]
    assert text.config.num_hidden_layers == 12
    assert sum(p.numel() for p in text.transformer.encoder.parameters()) == 85_054_464
    assert sum(p.numel() for p in student.model.visual.parameters()) == 86_192_640
    assert student.tokenize(TEXTS).shape == (3, 256)


@pytest.mark.parametrize("preset", ["paper", "transformers"])
def test_a_student_is_read_by_us_and_by_plain_open_clip(preset, pixels, tmp_path, monkeypatch):
    import open_clip

    student = build(preset)
    texts, images = student.embed_texts(TEXTS), student.embed_images(pixels)
    student.save(tmp_path)
    assert (tmp_path / "config.json").exists() == (preset == "paper")
    loaded = Student.load(tmp_path)
    assert np.array_equal(loaded.embed_texts(TEXTS), texts)
    monkeypatch.chdir(tmp_path)  # a BERT's configuration is found from inside
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    model.eval()
    with torch.no_grad():
        theirs = model.encode_text(tokenizer(TEXTS), normalize=True).numpy()
        seen = model.encode_image(student.prepare(pixels), normalize=True).numpy()
    np.testing.assert_allclose(texts, theirs, atol=1e-5)
    np.testing.assert_allclose(images, seen, atol=1e-5)
    assert np.abs(texts[0] - texts[1]).max() > 0.01


def test_a_bert_is_read_at_its_first_token_and_does_not_see_padding():
    student = build("paper")
    tokens = student.tokenize(TEXTS)
    start, end, pad = (student.tokenizer.tokenizer.token_to_id(token) for token in ("[CLS]", "[SEP]", "[PAD]"))
    assert tokens[:, 0].tolist() == [start] * 3
    assert all((row == end).sum() == 1 for row in tokens)
    assert (tokens == pad).any()
    with torch.no_grad():
        short = student.texts(tokens[1:2])
        long = student.texts(tokens)[1:2]
    torch.testing.assert_close(short, long, rtol=1e-5, atol=1e-5)


def test_clips_tokens_are_open_clips():
    from open_clip.tokenizer import SimpleTokenizer

    vocabulary, theirs = clip_vocabulary(), SimpleTokenizer(context_length=12)
    assert len(vocabulary) == 49408
    long = "pleural effusion " * 9
    texts = [*TEXTS, "Ärztin &amp; caf\u00e9 -- 12345", "", long]
    ours = encode(vocabulary, texts, 12)
    for row, expected in zip(ours, theirs(texts), strict=True):
        end = int((expected == 49407).nonzero()[0])
        assert row[: end + 1].tolist() == expected[: end + 1].tolist()
        assert set(row[end:].tolist()) == {49407}


def test_a_published_tokenizer_is_taken_as_it_is(tmp_path):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "lung", "nod", "##ule", "a"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    vocabulary = read_published(tmp_path)
    assert (len(vocabulary), vocabulary.pad, vocabulary.eos) == (9, 0, None)
    assert encode(vocabulary, ["A nodule"], 7).tolist() == [[2, 8, 6, 7, 3, 0, 0]]
    config = StudentConfig(preset="paper", vision="vit-tiny", image_size=32, embed_dim=16, text=SMALL)
    student = Student.build(config, [], 0, published=tmp_path)
    assert student.model.text.config.vocab_size == 9
    student.save(tmp_path / "student")
    assert Student.load(tmp_path / "student").tokenize(["A nodule"]).tolist() == student.tokenize(["A nodule"]).tolist()
    with pytest.raises(ReleaseError, match=r"this folder holds no tokenizer.*leave `text\.files` empty"):
        read_published(tmp_path / "nowhere")


def renamed(student):
    """The weights of a student under the names of transformers' CLIPModel."""
    names = {
        "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
        "visual.class_embedding": "vision_model.embeddings.class_embedding",
        "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
        "visual.ln_pre.": "vision_model.pre_layrnorm.",
        "visual.ln_post.": "vision_model.post_layernorm.",
        "text.token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "text.positional_embedding": "text_model.embeddings.position_embedding.weight",
        "text.ln_final.": "text_model.final_layer_norm.",
    }
    inner = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "c_fc": "fc1", "c_proj": "fc2"}
    state = {}
    for name, value in student.model.state_dict().items():
        if name == "logit_scale":
            state[name] = value
        elif name in ("visual.proj", "text.text_projection"):
            state["visual_projection.weight" if name == "visual.proj" else "text_projection.weight"] = value.T
        elif ".resblocks." in name:
            tower = "vision_model" if name.startswith("visual") else "text_model"
            _, rest = name.split(".resblocks.")
            number, *path = rest.split(".")
            base = f"{tower}.encoder.layers.{number}"
            if path[0] == "attn" and path[1].startswith("in_proj"):
                kind = path[1].removeprefix("in_proj_")
                for part, chunk in zip("qkv", value.chunk(3), strict=True):
                    state[f"{base}.self_attn.{part}_proj.{kind}"] = chunk
            elif path[0] == "attn":
                state[f"{base}.self_attn.out_proj.{path[-1]}"] = value
            else:
                state[f"{base}.{'mlp.' if path[0] == 'mlp' else ''}{inner[path[-2]]}.{path[-1]}"] = value
        else:
            old = next(old for old in names if name.startswith(old))
            state[names[old] + name.removeprefix(old)] = value
    return state


def test_every_part_of_the_exportable_student_has_its_like_in_transformers(pixels):
    """The conversion is somebody else's work; that it can be exact is a matter of architecture."""
    from transformers import CLIPConfig, CLIPModel

    student = build("transformers")
    text = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": 49408, "max_position_embeddings": 20, "eos_token_id": 49407, "bos_token_id": 49406}
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={**text, **ids, "pad_token_id": 49407, "projection_dim": 16},
        vision_config={**vision, "image_size": 32, "patch_size": 8, "projection_dim": 16},
        projection_dim=16,
    )
    assert config.text_config.hidden_act == config.vision_config.hidden_act == "quick_gelu"
    theirs = CLIPModel(config).eval()
    theirs.load_state_dict(renamed(student))
    tokens = student.tokenize(TEXTS)
    with torch.no_grad():
        images = theirs(input_ids=tokens, pixel_values=student.prepare(pixels), attention_mask=(tokens != -1).long())
    np.testing.assert_allclose(student.embed_images(pixels), images.image_embeds.numpy(), atol=1e-5)
    np.testing.assert_allclose(student.embed_texts(TEXTS), images.text_embeds.numpy(), atol=1e-5)
