from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mmkd_core.contract import TeacherSpec, WeightSource

A, B = "a" * 64, "b" * 64
COMMIT = "0123456789" * 4
FIELDS = {
    "name": "quilt-net",
    "title": "QuiltNet",
    "summary": "One sentence",
    "family": "open_clip",
    "arch": {"width": 3},
    "weights": [
        {"role": "model", "kind": "hf", "location": "org/quilt", "revision": COMMIT, "files": {"w": A, "c.json": B}},
        {"role": "tokenizer", "kind": "package", "location": "mmkd_quilt:words", "files": {"tokenizer.json": B}},
    ],
    "image": {"size": 224, "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
    "text": {"tokenizer": "hf", "context_length": 77, "template": "a slide of {}"},
    "embed_dim": 512,
    "logit_scale": 100.0,
    "domains": ["pathology"],
    "trust": {"pathology": {"score": 0.9, "metric": "accuracy", "dataset": "LC25000", "n": 9, "source": "Table 2"}},
    "license": {"code": "MIT", "weights": "MIT", "commercial_use": True},
}


def spec(**changes) -> TeacherSpec:
    return TeacherSpec.model_validate(FIELDS | changes)


def source(**changes) -> WeightSource:
    return WeightSource.model_validate(FIELDS["weights"][0] | changes)


def test_a_spec_survives_json_and_cannot_be_changed():
    original = spec()
    assert TeacherSpec.model_validate_json(original.model_dump_json()) == original
    with pytest.raises(ValidationError, match="frozen"):
        original.name = "other"


def test_the_fingerprint_is_the_hash_of_the_canonical_json_of_what_changes_numbers():
    parts = {
        "family": "open_clip",
        "arch": {"width": 3},
        "image": {
            "size": 224,
            "resize": "shortest",
            "interpolation": "bicubic",
            "convert": "after",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.25, 0.25, 0.25],
        },
        "text": {"tokenizer": "hf", "context_length": 77, "template": "a slide of {}"},
        "embed_dim": 512,
        "weights": [["model", {"w": A, "c.json": B}], ["tokenizer", {"tokenizer.json": B}]],
    }
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    assert spec().fingerprint == hashlib.sha256(text.encode()).hexdigest()[:32]


@pytest.mark.parametrize(
    "changes",
    [
        {"family": "transformers"},
        {"arch": {"width": 4}},
        {"embed_dim": 256},
        {"image": FIELDS["image"] | {"resize": "squash"}},
        {"image": FIELDS["image"] | {"convert": "before"}},
        {"text": FIELDS["text"] | {"context_length": 64}},
        {"weights": [FIELDS["weights"][0] | {"files": {"w": B, "c.json": B}}, FIELDS["weights"][1]]},
        {"weights": FIELDS["weights"][:1]},
    ],
)
def test_what_changes_numbers_changes_the_fingerprint(changes):
    assert spec(**changes).fingerprint != spec().fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other", "title": "Other", "summary": ""},
        {"logit_scale": 1.0},
        {"license": {"code": "X", "weights": "Y", "commercial_use": False}},
        {"domains": ["ct"], "trust": {}},
        {"provenance": {"paper": "P"}},
        {"weights": [FIELDS["weights"][0] | {"location": "mirror/quilt"}, FIELDS["weights"][1]]},
        {"weights": [FIELDS["weights"][0] | {"revision": "f" * 40}, FIELDS["weights"][1]]},
    ],
)
def test_what_changes_no_numbers_keeps_the_fingerprint(changes):
    assert spec(**changes).fingerprint == spec().fingerprint


@settings(max_examples=30)
@given(st.randoms(use_true_random=False), st.dictionaries(st.text(max_size=5), st.integers() | st.text(), max_size=5))
def test_the_order_of_writing_does_not_matter(random, arch):
    weights = [dict(entry) for entry in FIELDS["weights"]]
    random.shuffle(weights)
    for entry in weights:
        files = list(entry["files"].items())
        random.shuffle(files)
        entry["files"] = dict(files)
    keys = list(arch.items())
    random.shuffle(keys)
    assert spec(weights=weights, arch=dict(keys)).fingerprint == spec(arch=arch).fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "Quilt"}, "String should match pattern"),
        ({"name": "quilt--net"}, "String should match pattern"),
        ({"colour": "red"}, "Extra inputs are not permitted"),
        ({"summary": "x" * 121}, "at most 120 characters"),
        ({"weights": []}, "at least 1 item"),
        ({"weights": FIELDS["weights"][1:]}, "role model once and no role twice, not tokenizer"),
        ({"weights": FIELDS["weights"][:1] * 2}, "no role twice, not model, model"),
        ({"domains": ["ct", "ct"], "trust": {}}, "domains must not repeat"),
        ({"domains": ["ct"]}, "trust is claimed for pathology, which domains does not list"),
        ({"logit_scale": float("nan")}, "finite number"),
        ({"image": FIELDS["image"] | {"std": [0.5, 0, 0.5]}}, "std must be positive in each channel"),
        ({"text": FIELDS["text"] | {"template": "a slide"}}, "must contain {} exactly once"),
    ],
)
def test_a_wrong_spec_is_refused_with_a_reason(changes, message):
    with pytest.raises(ValidationError, match=message.replace("{", r"\{").replace("}", r"\}")):
        spec(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"revision": "main"}, "must be a commit of 40 hex digits, not a branch or a tag"),
        ({"location": "quilt"}, "must be 'org/repository' for kind hf"),
        ({"kind": "path", "location": "/w"}, "revision belongs to kind hf and hf-dataset only, not to path"),
        ({"kind": "path", "location": "w", "revision": None}, "must be an absolute folder"),
        ({"kind": "package", "location": "a:../b", "revision": None}, "must be 'package' or 'package:folder'"),
        ({"kind": "package", "location": "a b", "revision": None}, "must be 'package' or 'package:folder'"),
        ({"kind": "hf-dataset", "location": "quilt"}, "must be 'org/repository' for kind hf-dataset"),
        ({"kind": "url", "location": "http://x.org/a.zip", "revision": None}, "must begin with https:// for kind url"),
        ({"kind": "manual", "location": "drive", "revision": None}, "must begin with https:// for kind manual"),
        ({"kind": "url", "location": "https://x.org/a.pt", "revision": None}, "files must name exactly one"),
        ({"kind": "path", "location": "/w", "revision": None, "files": {"w": None}}, "each needs its sha256"),
        ({"kind": "path", "location": "/w", "revision": None, "optional": ["v"]}, "each needs its sha256"),
        ({"optional": ["w"]}, "w cannot be both needed and optional"),
        ({"optional": ["../w"]}, "must be relative, with forward slashes"),
        ({"files": {}}, "at least 1 item"),
        ({"files": {"w": "abc"}}, "String should match pattern"),
        ({"files": {"../w": A}}, "must be relative, with forward slashes"),
        ({"files": {"/etc/passwd": A}}, "must be relative, with forward slashes"),
        ({"files": {"a\\w": A}}, "must be relative, with forward slashes"),
        ({"files": {"C:w": A}}, "must be relative, with forward slashes"),
    ],
)
def test_a_wrong_source_is_refused_with_a_reason(changes, message):
    with pytest.raises(ValidationError, match=message):
        source(**changes)


OPEN = {"revision": None, "files": {"w": None, "c.json": B}, "optional": ["vocab.txt"]}
MEASURED = {"revision": COMMIT, "files": {"w": A, "c.json": B}, "optional": []}


def open_spec(**changes) -> TeacherSpec:
    return spec(weights=[FIELDS["weights"][0] | OPEN | changes, FIELDS["weights"][1]])


def test_what_was_measured_completes_a_spec_and_decides_its_fingerprint():
    declared = open_spec()
    assert not declared.pinned
    tokenizer = declared.weights[1]
    resolved = declared.resolved([tokenizer, source(**MEASURED)])
    assert resolved.pinned
    assert resolved == spec()
    assert resolved.fingerprint == spec().fingerprint != declared.fingerprint
    more = declared.resolved([source(**MEASURED | {"files": {"w": A, "c.json": B, "vocab.txt": A}}), tokenizer])
    assert more.fingerprint != resolved.fingerprint
    assert spec().resolved(spec().weights) == spec()


def test_the_same_bytes_may_come_from_elsewhere():
    mine = WeightSource(role="model", kind="path", location="/mine", files={"w": A, "c.json": B})
    assert open_spec(revision=COMMIT).resolved([mine, spec().weights[1]]).fingerprint == spec().fingerprint


@pytest.mark.parametrize(
    "changes",
    [
        {"files": {"w": A, "c.json": A}},
        {"files": {"w": A}},
        {"files": {"w": A, "c.json": B, "code.py": A}},
        {"files": {"w": None, "c.json": B}},
        {"optional": ["vocab.txt"]},
        {"revision": "f" * 40},
    ],
)
def test_what_contradicts_a_spec_does_not_complete_it(changes):
    with pytest.raises(ValueError, match="its model weights are not those that the spec declares"):
        open_spec(revision=COMMIT).resolved([source(**MEASURED | changes), spec().weights[1]])


def test_other_roles_do_not_complete_a_spec():
    with pytest.raises(ValueError, match="the roles of its weights are not those of the spec"):
        open_spec().resolved([source(**MEASURED)])
