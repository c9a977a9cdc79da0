from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mmkd_core.data.manifest import Corpus, image_id
from mmkd_core.data.phantom import DOMAINS, FINDINGS, PhantomConfig, Sample, generate, render, samples
from mmkd_core.data.phantom.canvas import PIXEL, blur, expose, field, stamp, trace
from mmkd_core.data.phantom.captions import prompts
from mmkd_core.data.phantom.generate import POOR_CAPTIONS
from mmkd_core.data.phantom.wording import FRAMES, PHRASES, PLAIN
from mmkd_core.errors import DataError

COLOUR = {"pathology", "fundus", "dermatology"}
EVERY = [(domain, finding) for domain in DOMAINS for finding in FINDINGS[domain]]


def rng(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


@pytest.fixture(scope="module")
def drawn() -> list[Sample]:
    return list(samples(PhantomConfig(seed=3, train=60, val=12, test=21)))


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_eight_domains_with_five_findings() -> None:
    assert DOMAINS == ("xray", "ct", "mri", "ultrasound", "pathology", "fundus", "oct", "dermatology")
    assert all(len(set(findings)) == 5 for findings in FINDINGS.values())


@pytest.mark.parametrize(("domain", "finding"), EVERY)
def test_render_depends_on_both_streams_and_nothing_else(domain: str, finding: str) -> None:
    image = render(domain, finding, rng(1), rng(2))
    assert image.dtype == np.uint8
    assert image.shape == ((64, 64, 3) if domain in COLOUR else (64, 64))
    assert image.std() > 10
    assert np.array_equal(image, render(domain, finding, rng(1), rng(2)))
    assert not np.array_equal(image, render(domain, finding, rng(9), rng(2)))
    assert not np.array_equal(image, render(domain, finding, rng(1), rng(9)))


def test_render_names_what_exists() -> None:
    with pytest.raises(DataError, match=r"The phantom has no domain 'xrya'\. Choose from: xray, ct, mri"):
        render("xrya", "nodule", rng(1), rng(2))
    with pytest.raises(DataError, match=r"ct has no finding 'nodule'\. Choose from: no finding, liver cyst"):
        render("ct", "nodule", rng(1), rng(2))


@pytest.mark.parametrize("domain", DOMAINS)
def test_findings_are_drawn_and_not_only_named(domain: str) -> None:
    """With the same streams, what the finding adds is larger than what another stream of noise would explain."""
    first, *others = FINDINGS[domain]
    plain = render(domain, first, rng(1), rng(2)).astype(float)
    for finding in others:
        assert np.abs(render(domain, finding, rng(1), rng(2)) - plain).mean() > 1


def test_patients_share_their_anatomy(drawn: list[Sample]) -> None:
    """Mean brightness varies less within a patient than between patients."""
    groups = defaultdict(list)
    for sample in drawn:
        if sample.domain == "oct":
            groups[sample.group_id].append(float(sample.image.mean()))
    several = [values for values in groups.values() if len(values) > 2]
    within = np.mean([np.std(values) for values in several])
    assert within < 0.6 * np.std([np.mean(values) for values in several])


# --- the drawing board -----------------------------------------------------------------------------------------------


def test_stamp_has_the_area_of_its_ellipses() -> None:
    drawn = stamp(np.array([-0.5, 0.4]), np.array([0.1, -0.3]), 5.0, 3.0, 0.7)
    assert drawn.sum() == pytest.approx(2 * np.pi * 15, rel=0.03)
    assert drawn.max() == 1


def test_stamp_is_cut_at_the_edges_and_draws_nothing_outside() -> None:
    half = stamp(-1.0, 0.0, 4.0, 4.0)
    assert half.sum() == pytest.approx(np.pi * 16 / 2, rel=0.1)
    assert half[:, 6:].max() == 0
    assert stamp(np.array([-3.0, 2.0, 0.0]), np.array([0.0, 0.0, -9.0]), 4.0, 4.0).max() == 0
    assert stamp(np.zeros(0), np.zeros(0), 1.0, 1.0).shape == (64, 64)


def test_trace_splats_its_weight() -> None:
    line = trace(np.linspace(-0.5, 0.5, 33), np.full(33, (31.5 + 0.5) * PIXEL - 1 + PIXEL / 2), 0.5)
    assert line.sum() == pytest.approx(16.5)
    assert np.count_nonzero(line.sum(1)) == 1


def test_blur_keeps_the_mean_level_and_field_has_unit_variance() -> None:
    assert blur(np.full((64, 64), 0.3, np.float32), 2.0, 0.5) == pytest.approx(0.3, abs=1e-5)
    stream = rng(5)
    for cells in (3, 9, 24):
        values = np.stack([field(stream, cells) for _ in range(200)])
        assert values.std() == pytest.approx(1, abs=0.1)
    assert np.abs(np.diff(field(stream, 3), axis=1)).mean() < np.abs(np.diff(field(stream, 24), axis=1)).mean()


@given(st.floats(-5, 5), st.floats(0.01, 100))
def test_exposure_hides_brightness_and_contrast_of_what_was_drawn(shift: float, gain: float) -> None:
    scene = rng(1).standard_normal((64, 64)).astype(np.float32)
    patient = {"level": 0.5, "contrast": 0.15}
    assert np.abs(expose(scene, patient, rng(2)) - expose(scene * gain + shift, patient, rng(2)).astype(int)).max() <= 1


# --- patients and splits ---------------------------------------------------------------------------------------------


def test_sizes_patients_and_splits(drawn: list[Sample]) -> None:
    assert Counter((s.domain, s.split) for s in drawn) == Counter(
        {(d, split): n for d in DOMAINS for split, n in (("train", 60), ("val", 12), ("test", 21))}
    )
    splits, sizes = defaultdict(set), Counter(s.group_id for s in drawn)
    for sample in drawn:
        splits[sample.group_id].add((sample.split, sample.domain))
    assert all(len(found) == 1 for found in splits.values())
    assert set(sizes.values()) == {1, 2, 3, 4}
    assert len({s.name for s in drawn}) == len({s.image.tobytes() for s in drawn}) == len(drawn)


def test_findings_are_balanced_and_mostly_shared_by_a_patient(drawn: list[Sample]) -> None:
    labels = Counter((s.domain, s.label) for s in drawn)
    assert set(labels) == set(EVERY)
    assert min(labels.values()) >= 8
    groups = defaultdict(list)
    for sample in drawn:
        groups[sample.group_id].append(sample.label)
    pairs = [a == b for labels in groups.values() for a, b in pairwise(labels)]
    assert 0.7 < np.mean(pairs) < 0.95


def same(a: Sample, b: Sample) -> bool:
    known = ("name", "domain", "split", "group_id", "label", "caption", "clean_caption", "truth")
    return all(getattr(a, k) == getattr(b, k) for k in known) and np.array_equal(a.image, b.image)


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32 - 1), st.permutations(DOMAINS), st.integers(1, 3))
def test_an_image_depends_only_on_seed_domain_patient_and_number(seed: int, domains: list[str], n: int) -> None:
    full = {s.name: s for s in samples(PhantomConfig(seed=seed, train=6, val=1, test=3))}
    part = list(samples(PhantomConfig(seed=seed, domains=tuple(domains[:n]), train=2, val=1, test=3)))
    assert len(part) == 6 * n
    assert all(same(sample, full[sample.name]) for sample in part)


def test_another_seed_gives_other_patients_and_images(drawn: list[Sample]) -> None:
    other = list(samples(PhantomConfig(seed=4, train=12, val=4, test=4)))
    assert not {s.group_id for s in drawn} & {s.group_id for s in other}
    assert not {s.image.tobytes() for s in drawn} & {s.image.tobytes() for s in other}


# --- words -----------------------------------------------------------------------------------------------------------


def named(domain: str, text: str) -> set[str]:
    """The findings whose phrases, with any words for the slots, make up ``text``."""
    found = set()
    for finding, phrases in PHRASES[domain].items():
        for frame in FRAMES[domain]:
            for phrase in phrases:
                pattern = re.sub(r"\\\{\w+\\\}", r"[\\w -]+", re.escape(frame.format(finding=phrase)))
                if re.fullmatch(pattern, text):
                    found.add(finding)
    return found


def test_there_are_many_wordings() -> None:
    for domain in DOMAINS:
        assert tuple(PHRASES[domain]) == FINDINGS[domain]
        assert len(set(FRAMES[domain])) == 4
        assert len(set(PLAIN[domain])) >= 6
        everything = [phrase for phrases in PHRASES[domain].values() for phrase in phrases]
        assert len(set(everything)) == len(everything) >= 6 * len(FINDINGS[domain])


def test_clean_captions_name_the_finding_and_only_that(drawn: list[Sample]) -> None:
    for sample in drawn:
        assert named(sample.domain, sample.clean_caption) == {sample.label}
        assert "{" not in sample.clean_caption


def test_words_of_place_and_size_are_true(drawn: list[Sample]) -> None:
    checked: Counter[str] = Counter()
    for sample in drawn:
        for key, words in (("side", ("left", "right")), ("size", ("small", "medium-sized", "large"))):
            if key in sample.truth:
                said = {word for word in words if f" {word} " in f" {sample.clean_caption} "} - _spoken(sample)
                assert said <= {sample.truth[key]}, sample.clean_caption
                checked[key] += len(said)
    assert min(checked["side"], checked["size"]) > 20


def _spoken(sample: Sample) -> set[str]:
    """Words that the phrases of the label hold without any slot, such as "multiple small lesions"."""
    return {word for phrase in PHRASES[sample.domain][sample.label] for word in phrase.split()}


def test_poor_captions_have_the_shares_that_are_told() -> None:
    config = PhantomConfig(seed=1, domains=("xray", "oct"), train=500, val=0, test=0, **POOR_CAPTIONS)
    kinds: Counter[str] = Counter()
    for sample in samples(config):
        if sample.caption in PLAIN[sample.domain]:
            kinds["plain"] += 1
        elif sample.caption == sample.clean_caption:
            kinds["clean"] += 1
        else:
            assert len(named(sample.domain, sample.caption) - {sample.label}) == 1
            kinds["wrong"] += 1
    assert kinds["plain"] / 1000 == pytest.approx(0.5, abs=0.05)
    assert kinds["clean"] / 1000 == pytest.approx(0.35, abs=0.05)
    assert kinds["wrong"] / 1000 == pytest.approx(0.15, abs=0.04)


def test_captions_are_honest_unless_poor_ones_are_asked_for() -> None:
    sizes = {"train": 40, "val": 0, "test": 0}
    assert all(s.caption == s.clean_caption for s in samples(PhantomConfig(domains=("xray", "oct"), **sizes)))
    assert PhantomConfig().spoilt == ""
    assert PhantomConfig(**POOR_CAPTIONS).spoilt == (
        "The captions are poor on purpose: 50 % say only what kind of image it is, 15 % are false."
    )


def test_the_share_of_captions_leaves_images_and_clean_captions_alone() -> None:
    noisy, clean = (
        list(samples(PhantomConfig(domains=("ct",), train=20, val=0, test=0, plain_captions=a, wrong_captions=b)))
        for a, b in ((0.5, 0.5), (0.0, 0.0))
    )
    assert [s.image.tobytes() for s in noisy] == [s.image.tobytes() for s in clean]
    assert [s.clean_caption for s in noisy] == [s.caption for s in clean]
    assert not any(s.caption == s.clean_caption for s in noisy)


@pytest.mark.parametrize("domain", DOMAINS)
def test_prompts_are_distinct_sentences_without_slots(domain: str) -> None:
    table = prompts(domain)
    assert tuple(table) == FINDINGS[domain]
    sentences = [sentence for found in table.values() for sentence in found]
    assert len(set(sentences)) == len(sentences) == 6 * len(table)
    assert not any(re.search(r"[{}]|  | $|\b(the|a) on\b", sentence) for sentence in sentences)


# --- on disk ---------------------------------------------------------------------------------------------------------

SMALL = PhantomConfig(seed=5, domains=("oct", "fundus"), train=60, val=3, test=4)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_generate_writes_the_samples(tmp_path: Path) -> None:
    corpus = generate(tmp_path, SMALL)
    expected = list(samples(SMALL))
    assert len(corpus) == len(expected) == 134
    for i, sample in enumerate(expected):
        row = (corpus.image[i], corpus.caption[i], corpus.domain[i], corpus.label[i])
        assert row == (sample.name, sample.caption, sample.domain, sample.label)
        assert (corpus.group_id[i], corpus.split[i]) == (sample.group_id, sample.split)
    for i in (0, 40, 133):
        image = corpus.open(i)
        assert image.mode == ("RGB" if corpus.domain[i] == "fundus" else "L")
        assert np.array_equal(np.asarray(image), expected[i].image)
        assert corpus.image_id[i] == image_id(image)
    assert corpus.classes("oct") == list(FINDINGS["oct"])
    assert Corpus.load(tmp_path).fingerprint == corpus.fingerprint
    assert not list(tmp_path.rglob("*.tmp"))


def test_workers_do_not_matter(tmp_path: Path) -> None:
    generate(tmp_path / "one", SMALL)
    generate(tmp_path / "two", SMALL, workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_second_call_does_nothing_and_an_interrupted_one_is_mended(tmp_path: Path) -> None:
    first = generate(tmp_path, SMALL)
    before = files(tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}
    assert generate(tmp_path, SMALL).fingerprint == first.fingerprint
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()} == stamps

    state = json.loads((tmp_path / "phantom.json").read_text())
    (tmp_path / "phantom.json").write_text(json.dumps(state | {"complete": False}))
    (tmp_path / "manifest.parquet").unlink()
    (tmp_path / first.image[7]).unlink()
    (tmp_path / first.image[8]).with_name(f".{Path(first.image[8]).name}.tmp").write_bytes(b"half")
    assert generate(tmp_path, SMALL).fingerprint == first.fingerprint
    assert files(tmp_path) == before


def test_a_folder_with_another_corpus_is_refused_and_kept(tmp_path: Path) -> None:
    generate(tmp_path, SMALL)
    before = files(tmp_path)
    other = SMALL.model_copy(update={"seed": 6})
    with pytest.raises(DataError, match=r"The folder already holds another corpus .*Choose another folder"):
        generate(tmp_path, other)
    (tmp_path / "phantom.json").unlink()
    with pytest.raises(DataError, match="The folder already holds another corpus"):
        generate(tmp_path, SMALL)
    del before["phantom.json"]
    assert files(tmp_path) == before


def test_config_refuses_nonsense() -> None:
    with pytest.raises(DataError, match="The phantom has no domain 'x'"):
        PhantomConfig(domains=("x",))
    with pytest.raises(ValidationError, match="domains must be given, each once"):
        PhantomConfig(domains=("ct", "ct"))
    with pytest.raises(ValidationError, match=r"plain_captions \+ wrong_captions must be at most 1"):
        PhantomConfig(plain_captions=0.9, wrong_captions=0.2)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        PhantomConfig(size=3)  # type: ignore[call-arg]


# --- no shortcuts ----------------------------------------------------------------------------------------------------


def statistics(image: np.ndarray) -> np.ndarray:
    channels = image.reshape(64 * 64, -1).T / 255
    histograms = [np.histogram(c, 16, (0, 1))[0] / 4096 for c in channels]
    return np.concatenate([channels.mean(1), channels.std(1), *histograms])


@pytest.mark.slow
@pytest.mark.parametrize("domain", DOMAINS)
def test_colour_brightness_and_contrast_do_not_give_the_finding_away(domain: str) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def table(split: str) -> tuple[np.ndarray, np.ndarray]:
        rows = [s for s in samples(PhantomConfig(domains=(domain,), train=400, val=0, test=400)) if s.split == split]
        return np.stack([statistics(s.image) for s in rows]), np.array([s.label for s in rows])

    x, y = table("train")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(x, y)
    assert model.score(*table("test")) < 0.45
