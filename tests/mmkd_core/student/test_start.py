"""Where a student starts: open_clip's layouts, older names, other sizes, a BERT alone, an earlier release."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from mmkd_core.errors import ReleaseError
from mmkd_core.student.config import StartConfig, StudentConfig
from mmkd_core.student.model import Student
from mmkd_core.student.start import digests, licences, load_start, tokenizer_beside

CAPTIONS = ["a nodule in the left lung", "liver lesion", "no finding"]
TEXT = {"vocab_size": 128, "context_length": 12, "width": 32, "heads": 2, "layers": 2}


def build(seed, size=32, **text):
    config = StudentConfig(vision="vit-tiny", image_size=size, embed_dim=16, text={**TEXT, **text})
    return Student.build(config, CAPTIONS, seed)


def same(one, two, prefix=""):
    ours, theirs = one.model.state_dict(), two.model.state_dict()
    names = [name for name in ours if name.startswith(prefix)]
    assert names
    return all(torch.equal(ours[name], theirs[name]) for name in names)


@pytest.fixture
def other():
    student = build(1)
    with torch.no_grad():
        student.model.logit_scale.fill_(3.5)
    return student


def test_an_earlier_release_gives_both_towers_scale_and_tokenizer(other, tmp_path):
    other.save(tmp_path / "releases/0001/student")
    start = StartConfig.model_validate("releases/0001/student")
    assert (start.image, start.text) == ("releases/0001/student",) * 2
    student = Student.build(
        StudentConfig(vision="vit-tiny", image_size=32, embed_dim=16, text=TEXT),
        ["other words"],
        0,
        tokenizer_beside(start, tmp_path),
    )
    load_start(student, start, tmp_path)
    assert same(student, other)
    assert student.tokenize(CAPTIONS).tolist() == other.tokenize(CAPTIONS).tolist()
    file = tmp_path / "releases/0001/student/open_clip_model.safetensors"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    expected = {"path": "releases/0001/student", "sha256": digest}
    assert digests(start, tmp_path) == {"image": expected, "text": expected}


def test_one_tower_of_a_training_checkpoint_with_older_names(other, tmp_path):
    """As MetaCLIP publishes: a torch file, ``module.`` before each name, the text tower without ``text.``."""
    state = {f"module.{name.removeprefix('text.')}": value for name, value in other.model.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "b16_400m.pt")
    student, before = build(0), build(0)
    load_start(student, StartConfig(image="b16_400m.pt"), tmp_path)
    assert same(student, other, "visual.")
    assert same(student, before, "text.")
    assert student.logit_scale == before.logit_scale
    load_start(student, StartConfig.model_validate("b16_400m.pt"), tmp_path)
    assert same(student, other)


def test_position_embeddings_are_resized_as_open_clip_does(other, tmp_path):
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    other.save(tmp_path)
    student = build(0, size=64, context_length=20)
    load_start(student, StartConfig.model_validate(str(tmp_path)), tmp_path)
    expected = dict(other.model.state_dict())
    resize_pos_embed(expected, student.model)
    resize_text_pos_embed(expected, student.model)
    assert expected["visual.positional_embedding"].shape == (65, 128)
    for name, value in student.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_bert_alone_gives_all_but_the_projection(tmp_path):
    from transformers import BertForMaskedLM

    def paper(seed):
        text = {"vocab_size": 128, "context_length": 12, "width": 32, "heads": 2, "layers": 2}
        config = StudentConfig(preset="paper", vision="vit-tiny", image_size=32, embed_dim=16, text=text)
        return Student.build(config, CAPTIONS, seed)

    student, before = paper(0), paper(0)
    bert = BertForMaskedLM(student.model.text.config)
    state = {**bert.state_dict(), "bert.embeddings.position_ids": torch.arange(512)[None]}
    torch.save(state, tmp_path / "pytorch_model.bin")
    load_start(student, StartConfig(text=str(tmp_path)), tmp_path)
    for name, value in student.model.text.transformer.state_dict().items():
        assert torch.equal(value, bert.bert.state_dict()[name]), name
    assert same(student, before, "text.proj.")
    assert same(student, before, "visual.")


def test_a_bert_that_is_read_through_its_pooler_takes_it_where_there_is_one(tmp_path):
    from transformers import BertForMaskedLM, BertModel

    text = {**TEXT, "tower": "bert", "head": "linear"}
    config = StudentConfig(vision="vit-tiny", image_size=32, embed_dim=16, text=text)
    student, before = (Student.build(config, CAPTIONS, 0) for _ in range(2))
    shape = student.model.text.config
    for number, kind in enumerate((BertForMaskedLM, BertModel)):  # the first comes without a pooler
        folder = tmp_path / str(number)
        folder.mkdir()
        bert = kind(shape)
        torch.save(bert.state_dict(), folder / "pytorch_model.bin")
        load_start(student, StartConfig(text=str(folder)), tmp_path)
        body = getattr(bert, "bert", bert).state_dict()
        pooled = {name for name in student.model.text.transformer.state_dict() if name.startswith("pooler.")}
        assert pooled == {"pooler.dense.weight", "pooler.dense.bias"}
        for name, value in student.model.text.transformer.state_dict().items():
            if name in pooled and kind is BertForMaskedLM:
                assert torch.equal(value, before.model.text.transformer.state_dict()[name])
            else:
                assert torch.equal(value, body[name]), name
    with pytest.raises(ValidationError, match="head: linear is of a BERT"):
        StudentConfig(text={"head": "linear"})


def test_shapes_that_differ_are_a_sentence(other, tmp_path):
    other.save(tmp_path)
    start = StartConfig.model_validate(str(tmp_path))
    wanted = (
        r"do not fit the student's text tower: 24 missing \(.*, \.\.\.\) \(.*\)\. Set the student's shape to theirs, or"
    )
    with pytest.raises(ReleaseError, match=wanted):
        load_start(build(0, layers=4), start, tmp_path)
    wide = Student.build(StudentConfig(vision="vit-tiny", image_size=32, embed_dim=24, text=TEXT), CAPTIONS, 0)
    with pytest.raises(ReleaseError, match=r"the student's image tower: 1 of another shape \(visual\.proj\)"):
        load_start(wide, start, tmp_path)
    with pytest.raises(ReleaseError, match=r"another width than the student's.*or start the `image` tower only"):
        load_start(build(0, width=64), start, tmp_path)


def test_what_cannot_be_read_is_a_sentence(tmp_path):
    with pytest.raises(ReleaseError, match=r"no weights to start from .*Give a file, or a folder with one of"):
        digests(StartConfig(image="nowhere.pt"), tmp_path)
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    torch.save({"epoch": 1}, tmp_path / "empty.pt")
    torch.save({"code": np.random.default_rng}, tmp_path / "code.pt")
    for name, wanted in (("broken.safetensors", "read"), ("code.pt", "read"), ("empty.pt", "no table of weights")):
        with pytest.raises(ReleaseError, match=wanted):
            load_start(build(0), StartConfig(image=name), tmp_path)


def test_an_unknown_tower_is_refused():
    with pytest.raises(ValidationError, match="vision"):
        StartConfig.model_validate({"vision": "x"})


def test_the_licence_of_a_start_is_the_configured_one_or_what_its_folder_says(tmp_path):
    nc = {"code": "MIT", "weights": "CC-BY-NC-4.0", "commercial_use": False}
    (tmp_path / "releases/0001/student").mkdir(parents=True)
    (tmp_path / "releases/0001/release.json").write_text(json.dumps({"license": nc, "parent": None}))
    for name, card in (
        ("plain", "# No head\n"),
        ("card", "---\nlicense: cc-by-nc-nd-4.0\n---\n"),
        ("own", "---\nlicense: other\n---\n"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "README.md").write_text(card)
    (tmp_path / "plain" / "weights.pt").write_bytes(b"")

    def found(**start):
        return {tower: terms.weights for tower, terms in licences(StartConfig(**start), tmp_path).items()}

    assert found() == {}
    assert found(image="releases/0001/student", text="card") == {"image": "CC-BY-NC-4.0", "text": "CC-BY-NC-ND-4.0"}
    assert found(image="plain/weights.pt", text="own") == dict.fromkeys(("image", "text"), "LicenseRef-unknown")
    assert found(image="plain/weights.pt", license="Apache-2.0") == {"image": "Apache-2.0"}
    (terms,) = licences(StartConfig(text="card"), tmp_path).values()
    assert (terms.commercial_use, terms.derivatives) == (False, False)
    (terms,) = licences(StartConfig(text="plain", license="CC-BY-SA-4.0"), tmp_path).values()
    assert (terms.commercial_use, terms.derivatives) == (True, True)
