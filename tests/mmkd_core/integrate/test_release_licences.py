from __future__ import annotations

from pathlib import Path

from mmkd_core.cli.releases import _licence
from mmkd_core.contract import LicenseInfo
from mmkd_core.integrate.releases import Release, licences, starts
from mmkd_core.student.card import model_card

FREE = LicenseInfo(code="MIT", weights="MIT", commercial_use=True)
NC = LicenseInfo(code="MIT", weights="CC-BY-NC-4.0", commercial_use=False)
ND = LicenseInfo(code="MIT", weights="CC-BY-NC-ND-4.0", commercial_use=False, derivatives=False)


def test_a_release_has_the_licence_of_its_most_restrictive_teacher():
    facts = licences(None, {"plip": FREE, "quilt": NC})
    assert facts["license"]["weights"] == "CC-BY-NC-4.0"
    assert {name: terms["weights"] for name, terms in facts["licenses"].items()} == {
        "plip": "MIT",
        "quilt": "CC-BY-NC-4.0",
    }
    assert _licence(facts) == "CC-BY-NC-4.0 (from quilt; no commercial use)"


def test_what_was_learnt_earlier_still_binds():
    parent = Release("0001", Path("0001"), licences(None, {"conch": ND}))
    facts = licences(parent, {"plip": FREE})
    assert list(facts["licenses"]) == ["conch", "plip"]
    assert _licence(facts) == "CC-BY-NC-ND-4.0 (from conch; no commercial use, no derivatives)"


def test_the_model_card_names_it():
    card = model_card("Student 0002", "Distilled", NC, {"plip": FREE, "quilt": NC}, "load it so")
    assert card.startswith("---\nlicense: cc-by-nc-4.0\nlibrary_name: open_clip\n")
    assert "\n---\n\n# Student 0002\n" in card
    assert "The weights are under CC-BY-NC-4.0. It does not allow commercial use." in card
    assert "| plip | MIT |\n| quilt | CC-BY-NC-4.0 (no commercial use) |\n" in card
    assert "\n    load it so\n" in card


def test_two_licences_that_forbid_different_things_bind_together():
    no_changes = LicenseInfo(code="MIT", weights="CC-BY-ND-4.0", commercial_use=True, derivatives=False)
    facts = licences(None, {"free": FREE, "quilt": NC, "still": no_changes})
    assert _licence(facts) == "CC-BY-ND-4.0 (from quilt, still; no commercial use, no derivatives)"
    taught = {name: LicenseInfo(**terms) for name, terms in facts["licenses"].items()}
    card = model_card("S", "Distilled.", LicenseInfo(**facts["license"]), taught)
    assert card.startswith("---\nlicense: other\n"), "a tag that allows commercial use would be wrong"
    assert "It does not allow commercial use or derivatives." in card


def test_a_licence_that_nobody_states_is_called_that():
    unknown = LicenseInfo(code="MIT", weights="LicenseRef-unknown", commercial_use=None, derivatives=None)
    alone = licences(None, {"free": FREE, "plip": unknown})
    assert _licence(alone) == "LicenseRef-unknown (from plip; not stated)"
    card = model_card("S", "Distilled.", LicenseInfo(**alone["license"]), {"plip": unknown})
    assert "Of some of what it learnt from nobody states a licence: that allows nothing by itself." in card
    assert "| plip | LicenseRef-unknown (not stated) |" in card
    facts = licences(None, {"conch": ND, "plip": unknown})
    assert _licence(facts) == "LicenseRef-unknown (from conch, plip; not stated, no commercial use, no derivatives)"


def test_a_student_without_teachers_has_a_card_too():
    card = model_card("S", "Trained here.", LicenseInfo(code="MIT", weights="LicenseRef-Own", commercial_use=True), {})
    assert card.startswith("---\nlicense: other\n")
    assert "The weights are under LicenseRef-Own. It allows commercial use and derivatives." in card
    assert "teacher" not in card


def test_a_card_says_what_was_measured_and_what_it_is_not_for():
    card = model_card("S", "Trained here.", FREE, {}, "load", [("ct", "91.0 (88.0 to 94.0)", 120)], "transformers")
    assert "library_name: transformers\n" in card
    assert "| ct | 91.0 (88.0 to 94.0) | 120 |" in card
    assert "## What it must not be used for" in card
    assert "## Results" not in model_card("S", "Trained here.", FREE, {})


def test_what_the_first_student_started_from_binds_it_and_its_descendants():
    start = {
        "image": {"path": "weights/metaclip.pt", "sha256": "0" * 64, "license": NC.model_dump(mode="json")},
        "text": {"path": "weights/bert", "sha256": "1" * 64},  # of an older mmkd, which did not ask
    }
    one = licences(None, {"plip": FREE}, {"image": start["image"]})
    assert _licence(one) == "CC-BY-NC-4.0 (from start of the image tower (metaclip.pt); no commercial use)"
    child = licences(Release("0001", Path("0001"), one), {"quilt": FREE}, {"image": start["text"]})
    assert child["license"]["weights"] == "CC-BY-NC-4.0"
    assert child["start"] == one["start"], "that of the first student, whatever stage 1 is now"
    both = licences(None, {"plip": FREE}, start)
    assert both["license"]["weights"] == "LicenseRef-unknown"
    assert _licence(both).startswith("LicenseRef-unknown (from start of ")
    same = {tower: {**start["image"]} for tower in ("image", "text")}
    assert list(starts(same)) == ["start of the image and the text tower (metaclip.pt)"]


def test_a_card_says_where_it_comes_from():
    card = model_card("S", "Trained here.", FREE, {}, origin=["Trained on 12 images.", "Fingerprint: `ab`."])
    assert "## Where it comes from\n\n- Trained on 12 images.\n- Fingerprint: `ab`.\n" in card
    assert "Where it comes from" not in model_card("S", "Trained here.", FREE, {})
