from __future__ import annotations

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from mmkd_core.errors import ReleaseError
from mmkd_core.student.config import StudentConfig, TextConfig
from mmkd_core.student.model import Student, precision_dtype
from mmkd_core.student.tokenizer import fit_tokenizer

TEXTS = ["chest radiograph, no finding", "", "a lesion " * 30, "UNKNOWN words: zygote"]
AWKWARD = [
    "",
    "chest radiograph " * 20,
    "CHEST RADIOGRAPH WITH A NODULE",
    "9 haemorrhages, 3.5 mm, 1e-3",
    "liver\nlesion\t\r\n  ct",
    "naïve ﬁbrosis ２ 漢字 🫁",
    "the patient’s “left” lung",
    "CT &amp; MR, &lt;3 mm",
    "[EOS] [PAD] nodule",
    "schÃ¶n",
]


@pytest.fixture(scope="module")
def saved(built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("student") / "folder"
    built.save(folder)
    return folder


def test_save_and_load_are_exact(built, saved, pixels):
    loaded = Student.load(saved)
    assert loaded.model_config == built.model_config
    assert loaded.preprocess == built.preprocess
    ours, theirs = built.model.state_dict(), loaded.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert (loaded.logit_scale, loaded.pixels, loaded.embed_dim, loaded.context_length) == (
        built.logit_scale, 32, 16, 12,
    )  # fmt: skip
    np.testing.assert_array_equal(loaded.embed_images(pixels), built.embed_images(pixels))
    np.testing.assert_array_equal(loaded.embed_texts(TEXTS), built.embed_texts(TEXTS))


def test_saving_again_gives_the_same_bytes(saved, tmp_path):
    """A student is the same whether or not it has tokenized anything before it is saved."""
    Student.load(saved).save(tmp_path)
    for file in sorted(saved.iterdir()):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes(), file.name
    assert sorted(f.name for f in tmp_path.iterdir()) == [
        "open_clip_config.json",
        "open_clip_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_a_fresh_tokenizer_is_saved_as_a_used_one(tmp_path):
    config = StudentConfig(image_size=32, text=TextConfig(vocab_size=64, context_length=8, width=32, heads=1, layers=1))
    student = Student.build(config, ["one lung", "two lungs"], seed=0)
    student.save(tmp_path / "fresh")
    student.tokenize(["a long text that is cut and padded" * 4])
    student.save(tmp_path / "used")
    fresh, used = ((tmp_path / name / "tokenizer.json").read_bytes() for name in ("fresh", "used"))
    assert fresh == used


def test_float16_is_half_the_size_and_close(built, saved, tmp_path, pixels):
    built.save(tmp_path, dtype=torch.float16)
    small, large = ((f / "open_clip_model.safetensors").stat().st_size for f in (tmp_path, saved))
    assert 0.45 < small / large < 0.6
    half = Student.load(tmp_path)
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    np.testing.assert_allclose(half.embed_images(pixels), built.embed_images(pixels), atol=5e-3)
    np.testing.assert_allclose(half.embed_texts(TEXTS), built.embed_texts(TEXTS), atol=5e-3)


def test_embeddings_are_those_of_open_clip_itself(built, saved, pixels):
    """What anybody gets who has open_clip and this folder, and nothing of ours."""
    import open_clip
    from PIL import Image

    name = f"local-dir:{saved}"
    model, preprocess = open_clip.create_model_from_pretrained(name, return_transform=True)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(Image.fromarray(p)) for p in pixels]), normalize=True)
        texts = model.encode_text(tokenizer(TEXTS), normalize=True)
    np.testing.assert_allclose(built.embed_images(pixels), images.numpy(), atol=1e-5)
    np.testing.assert_allclose(built.embed_texts(TEXTS), texts.numpy(), atol=1e-5)
    assert model.logit_scale.exp().item() == pytest.approx(built.logit_scale)


def test_embeddings_are_unit_norm_and_do_not_depend_on_the_batch(built, pixels):
    images, texts = built.embed_images(pixels), built.embed_texts(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(images, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(texts, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(built.embed_images(pixels, batch=5), images, atol=1e-6)
    np.testing.assert_allclose(built.embed_texts(TEXTS, batch=3), texts, atol=1e-6)
    assert built.embed_texts([]).shape == (0, 16)
    assert built.embed_images(pixels[:0]).shape == (0, 16)


def test_prepare_normalises_as_written_down(built, pixels):
    expected = (pixels / 255 - np.array(built.preprocess["mean"])) / np.array(built.preprocess["std"])
    np.testing.assert_allclose(built.prepare(pixels).numpy(), expected.transpose(0, 3, 1, 2), atol=1e-6)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "word"])
def test_token_ids_are_those_of_open_clips_tokenizer(kind, tmp_path):
    from open_clip.tokenizer import HFTokenizer

    text = TextConfig(tokenizer=kind, vocab_size=160, context_length=12, width=32, heads=2, layers=1)
    corpus = ["chest radiograph, no finding", "the patient’s left lung: 3 nodules", "naïve ﬁbrosis, CT & MR"]
    student = Student.build(StudentConfig(image_size=32, embed_dim=8, text=text), corpus, seed=0)
    student.save(tmp_path)
    ours, theirs = student.tokenize(AWKWARD), HFTokenizer(str(tmp_path), context_length=12)(AWKWARD)
    assert ours.dtype == theirs.dtype == torch.int64
    assert ours.tolist() == theirs.tolist()
    assert ours[0].tolist() == [1] + [0] * 11
    assert ours[1, -1] == 1  # a text that is cut still ends with [EOS]
    assert 2 not in student.tokenize(corpus)  # what it was fitted to holds nothing unknown


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(texts=st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_token_ids_of_any_text(saved_tokenizers, texts):
    student, theirs = saved_tokenizers
    assert student.tokenize(texts).tolist() == theirs(texts).tolist()


@pytest.fixture(scope="module")
def saved_tokenizers(saved):
    from open_clip.tokenizer import HFTokenizer

    return Student.load(saved), HFTokenizer(str(saved), context_length=12)


@pytest.mark.parametrize("kind", ["wordpiece", "bpe", "word"])
def test_the_tokenizer_is_a_function_of_the_set_of_texts(kind):
    """A student that is built again after a kill must number its words as before."""
    texts = [
        f"{a} {b} of the {c}" for a in ("liver", "no", "tiny") for b in ("lesion", "nodule") for c in ("lung", "eye")
    ]
    config = TextConfig(tokenizer=kind, vocab_size=70)
    same = {fit_tokenizer(row, config).to_str() for row in (texts, texts[::-1], texts * 2) for _ in range(5)}
    assert len(same) == 1
    assert json.loads(same.pop())["model"]["vocab"].items() >= {"[PAD]": 0, "[EOS]": 1, "[UNK]": 2}.items()


def test_word_pieces_begin_with_the_special_tokens_and_mean_nothing_special(built):
    vocabulary = built.tokenizer.tokenizer.get_vocab()
    assert [vocabulary[name] for name in ("[PAD]", "[EOS]", "[UNK]")] == [0, 1, 2]
    assert sorted(vocabulary.values()) == list(range(built.tokenizer.tokenizer.get_vocab_size()))
    assert {token.content for token in built.tokenizer.tokenizer.get_added_tokens_decoder().values()} == {
        "[PAD]", "[EOS]", "[UNK]",
    }  # fmt: skip
    assert built.tokenizer.tokenizer.decode(built.tokenize(["Normal retina"])[0].tolist()) == "normal retina"


@pytest.mark.parametrize("vision", ["resnet-timm", "resnet-tiny", "vit-tiny"])
def test_the_seed_decides_the_weights_and_leaves_the_callers_random_numbers_alone(vision):
    text = TextConfig(vocab_size=64, width=32, heads=2, layers=1)
    config = StudentConfig(vision=vision, image_size=32, embed_dim=8, text=text)
    torch.manual_seed(5)
    one = Student.build(config, ["a"], seed=1)
    after = torch.rand(1)
    two = Student.build(config, ["a"], seed=1)
    other = Student.build(config, ["a"], seed=2)
    first, again, unlike = (s.model.state_dict() for s in (one, two, other))
    assert all(torch.equal(first[name], again[name]) for name in first)
    for tower in ("visual.", "text."):
        assert any(not torch.equal(first[name], unlike[name]) for name in first if name.startswith(tower))
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
    assert one.logit_scale == pytest.approx(1 / 0.07, rel=1e-5)


def test_a_vision_transformer_is_a_student_too(pixels, tmp_path):
    text = TextConfig(vocab_size=64, context_length=8, width=32, heads=2, layers=1)
    student = Student.build(StudentConfig(vision="vit-tiny", image_size=32, embed_dim=8, text=text), ["a lung"], seed=0)
    student.save(tmp_path)
    np.testing.assert_array_equal(Student.load(tmp_path).embed_images(pixels), student.embed_images(pixels))


def test_a_folder_without_a_student(tmp_path):
    with pytest.raises(ReleaseError, match=r"^this folder holds no student"):
        Student.load(tmp_path)


def test_a_folder_with_damaged_weights(built, tmp_path):
    built.save(tmp_path)
    file = tmp_path / "open_clip_model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ReleaseError, match=r"^this folder holds no student"):
        Student.load(tmp_path)


def test_weights_that_do_not_fit(built, tmp_path):
    built.save(tmp_path)
    file = tmp_path / "open_clip_model.safetensors"
    state = load_file(file)
    del state["logit_scale"]
    save_file(state, file)
    with pytest.raises(ReleaseError, match=r"^the student's weights do not fit its configuration"):
        Student.load(tmp_path)


def test_a_configuration_without_a_model(built, tmp_path):
    built.save(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"preprocess_cfg": built.preprocess}))
    with pytest.raises(ReleaseError, match=r"^this folder holds no student"):
        Student.load(tmp_path)


def test_saving_does_not_touch_the_model(built, tmp_path):
    before = deepcopy(built.model.state_dict())
    built.save(tmp_path, dtype=torch.float16)
    assert all(torch.equal(before[name], value) for name, value in built.model.state_dict().items())


def test_precision():
    assert precision_dtype("bf16") is torch.bfloat16
    assert precision_dtype("fp32") is torch.float32
    assert precision_dtype("auto") in (torch.bfloat16, torch.float32)


def test_an_unknown_vision_tower_is_answered_with_those_that_there_are():
    want = r"no vision tower is called 'resnet-50'; there are resnet-timm, resnet-tiny, vit-tiny, vit-b-16"
    with pytest.raises(ValidationError, match=want):
        StudentConfig(vision="resnet-50")
