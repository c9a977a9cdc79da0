from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmkd_core.data.captions import DOMAINS, caption_rng, clean_caption, finding, kinds, people_caption, prompts

LABELS = ["melanoma", "dermatofibroma", "psoriasis"]


@pytest.mark.parametrize("domain", [*DOMAINS, "electron-microscopy"])
def test_prompts_are_five_different_sentences_that_name_the_class(domain: str) -> None:
    sentences = prompts(domain, "melanoma")
    assert len(set(sentences)) == 5
    assert all("melanoma" in sentence for sentence in sentences)


def test_phrasing_is_readable() -> None:
    assert prompts("dermatology", "melanoma")[0] == "a dermatoscopic photograph showing melanoma"
    assert prompts("microscopy", "red blood cell")[1] == "a micrograph of a red blood cell"
    assert prompts("ultrasound", "benign")[0] == "an ultrasound image showing a benign lesion"
    assert finding("eosinophil") == "an eosinophil"
    assert finding("no tumor") == "no tumor"
    assert kinds("electron-microscopy")[0] == "an electron microscopy image"


def test_people_captions_have_the_shares_that_are_promised() -> None:
    counts: Counter[str] = Counter()
    wordings = set()
    for i in range(4000):
        text = people_caption("dermatology", "melanoma", LABELS, caption_rng(0, str(i), "people"))
        named = [label for label in LABELS if label in text]
        counts["bare" if not named else "right" if named == ["melanoma"] else "wrong"] += 1
        wordings.add(text)
    # Three standard deviations of a share of 4,000 are at most 2.4 points.
    assert counts["bare"] / 4000 == pytest.approx(0.50, abs=0.024)
    assert counts["right"] / 4000 == pytest.approx(0.35, abs=0.024)
    assert counts["wrong"] / 4000 == pytest.approx(0.15, abs=0.018)
    assert len(wordings) > 80


def test_a_single_class_has_no_wrong_finding() -> None:
    texts = [people_caption("oct", "drusen", ["drusen"], caption_rng(1, str(i))) for i in range(400)]
    named = sum("drusen" in text for text in texts) / 400
    assert named == pytest.approx(0.35, abs=0.08)


@given(st.integers(0, 2**40), st.text(max_size=40), st.sampled_from(DOMAINS))
def test_clean_captions_name_the_label_and_repeat(seed: int, image: str, domain: str) -> None:
    texts = [clean_caption(domain, "melanoma", caption_rng(seed, image, "clean")) for _ in range(2)]
    assert texts[0] == texts[1]
    assert "melanoma" in texts[0]


def test_seed_image_and_kind_all_matter() -> None:
    draws = [caption_rng(*key).random() for key in ((0, "a", "x"), (1, "a", "x"), (0, "b", "x"), (0, "a", "y"))]
    assert len(set(draws)) == 4
    assert caption_rng(0, "a", "x").random() == draws[0]
