from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.data.captions import DOMAINS, finding, kinds, label_caption, prompts

SKIN = ["melanoma", "dermatofibroma", "psoriasis"]


@pytest.mark.parametrize("domain", [*DOMAINS, "electron-microscopy"])
def test_prompts_are_five_different_sentences_that_name_the_class(domain: str) -> None:
    sentences = prompts(domain, "melanoma")
    assert len(set(sentences)) == 5
    assert all("melanoma" in sentence for sentence in sentences)


def test_phrasing_is_readable() -> None:
    assert prompts("dermatology", "melanoma")[0] == "a dermatoscopic photograph showing melanoma"
    assert prompts("microscopy", "red blood cell")[1] == "a micrograph of a red blood cell"
    assert prompts("ultrasound", "benign")[0] == "an ultrasound image showing a benign finding"
    assert finding("eosinophil") == "an eosinophil"
    assert finding("no tumor") == "no tumor"
    assert kinds("electron-microscopy")[0] == "an electron microscopy image"


def test_the_image_chooses_among_many_wordings() -> None:
    texts = [label_caption("dermatology", ["melanoma"], SKIN, str(i)) for i in range(400)]
    assert texts == [label_caption("dermatology", ["melanoma"], SKIN, str(i)) for i in range(400)]
    assert len(set(texts)) == 28
    assert label_caption("dermatology", ["melanoma"], SKIN, "0") == "a dermoscopy image, melanoma"


@given(st.text(max_size=40), st.sampled_from([*DOMAINS, "brain tumor"]), st.sampled_from([*SKIN, "normal", "benign"]))
def test_a_caption_names_its_label_and_no_other(image: str, domain: str, label: str) -> None:
    classes = [*SKIN, "normal", "benign", "lesion", "abnormality"]
    text = label_caption(domain, [label], classes, image)
    assert [name for name in classes if name in text] == [label]


@pytest.mark.parametrize("label", ["normal", "benign", "malignant", "positive", "negative", "pituitary", "No Finding"])
def test_the_label_itself_stands_in_the_sentence(label: str) -> None:
    assert all(label in label_caption("mri", [label], [label], str(i)) for i in range(100))
    assert all(label in sentence for sentence in prompts("mri", label))


def test_several_labels_are_all_named() -> None:
    classes = ["edema", "effusion", "mass", "pneumonia"]
    texts = {label_caption("xray", ["edema", "mass", "pneumonia"], classes, str(i)) for i in range(200)}
    assert len(texts) == 28
    assert "a radiograph showing edema, mass and pneumonia" in texts
    assert not any("effusion" in text for text in texts)
    assert label_caption("xray", ["edema", "mass"], classes, "a").count("edema and mass") == 1


def test_none_of_the_labels_is_the_kind_of_image_only() -> None:
    texts = {label_caption("ct", [], ["nodule"], str(i)) for i in range(200)}
    assert {"a CT scan", "an example of a CT image", "this is a computed tomography slice"} < texts
    assert len(texts) == 16
    assert not any(word in text for text in texts for word in ("nodule", "normal", "no ", "without", "healthy"))


def test_classes_that_are_letters_do_not_take_the_sentences_away() -> None:
    texts = {label_caption("ct", ["B"], ["A", "B", "C"], str(i)) for i in range(300)}
    assert len(texts) == 28
    assert "a CT scan, B" in texts


def test_a_kind_of_image_that_is_named_like_a_class_is_not_said() -> None:
    classes = ["tumor", "glioma", "slide"]
    assert all("tumor" not in label_caption("brain tumor", ["glioma"], classes, str(i)) for i in range(50))
    assert all("tumor" not in label_caption("brain-tumor", [], classes, str(i)) for i in range(50))
    assert all("slide" not in label_caption("pathology", ["glioma"], classes, str(i)) for i in range(100))
    assert label_caption("brain tumor", ["glioma"], classes, "a") == "glioma"
    assert label_caption("brain tumor", [], classes, "a") == "a medical image"
