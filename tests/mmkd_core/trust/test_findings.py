"""Multi-label domains: trust asks of each finding whether it is there."""

from pathlib import Path

import numpy as np
import pytest

from mmkd_core.audit.gap import gap, judged
from mmkd_core.data.manifest import Corpus
from mmkd_core.evaluate.fidelity import trusted_with
from mmkd_core.evaluate.zero_shot import zero_shot
from mmkd_core.trust import TeacherView, TrustConfig, decide
from mmkd_core.trust.evidence import probes_of

FINDINGS = ("effusion", "mass", "rare")
HAS = ((), ("effusion",), ("mass",), ("effusion", "mass"))
SIZES = {"train": 80, "val": 40, "test": 40}


def corpus(sizes=SIZES, rare=1):
    """Radiographs with none, one or both of two findings in turn; of each split ``rare`` have a third one."""
    rows = [
        {
            "image": f"{split}{i}",
            "image_id": f"{split}{i}",
            "caption": f"radiograph {i} of {split}",
            "domain": "xray",
            "labels": (*HAS[i % 4], "rare") if i < rare else HAS[i % 4],
            "group_id": f"{split} {i}",
            "split": split,
        }
        for split, count in sizes.items()
        for i in range(count)
    ]
    return Corpus.build(Path("/nowhere"), rows, {"xray": {name: (name,) for name in FINDINGS}})


def teacher(data, says=None, sure=0.3, claim=None):
    """Says that a finding is there, with a cosine ``sure`` above that of its absence; the truth if left out."""
    truth = data.findings(np.arange(len(data)), "xray")
    said = np.where(truth if says is None else says, sure, -sure)
    rest = np.sqrt(1 - (said**2).sum(axis=1))
    there = np.eye(3, 4, dtype=np.float32)
    image = np.column_stack([said, rest]).astype(np.float32)
    caption = np.random.default_rng(0).normal(size=(len(data), 4)).astype(np.float32)
    claims = {"xray": claim} if claim else {}
    return TeacherView("tutor", ("xray",), claims, 20.0, image, caption, {"xray": np.stack([there, -there])})


def trust(view, data, **settings):
    return decide(view, data, TrustConfig(probe="val", **settings))


def test_right_about_every_finding_teaches_all_but_what_could_not_be_measured():
    data = corpus()
    found = trust(teacher(data), data).domains["xray"]
    assert (found.status, found.n, found.classes, found.balanced) == ("measured", 40, 2, 1.0)
    assert (found.trusted, found.admitted, found.of) == (False, 79, 80)
    assert found.reason.endswith("teaches 79 of 80, all but rare, of which the probe has too few")
    data = corpus(rare=0)
    found = trust(teacher(data), data).domains["xray"]
    assert (found.trusted, found.admitted) == (True, 80)


def test_blind_to_one_finding_it_teaches_the_other():
    """It calls no mass: images with a mass, and those without anything, are not its to teach; effusions alone are."""
    data = corpus(rare=0)
    says = data.findings(np.arange(len(data)), "xray")
    says[:, 1] = False
    found = trust(teacher(data, says), data)
    here = found.domains["xray"]
    assert (here.status, here.trusted, here.sure_of) == ("measured", False, ("effusion",))
    assert here.admitted == 20
    taught = data.labels[found.mask]
    assert set(taught) == {("effusion",)}


def test_one_answer_for_all_is_no_better_than_chance():
    data = corpus(rare=0)
    for says in (True, False):
        found = trust(teacher(data, np.full((len(data), 3), says)), data).domains["xray"]
        assert (found.status, found.admitted) == ("not better than chance", 0)
        assert "effusion: balanced accuracy is not above 50 %" in found.reason


@pytest.mark.parametrize(("val", "status"), [(12, "not measured"), (24, "measured")])
def test_the_minimum_holds_for_each_finding(val, status):
    data = corpus({**SIZES, "val": val}, rare=0)
    assert trust(teacher(data), data).domains["xray"].status == status
    assert decide(teacher(data), data, TrustConfig()).domains["xray"].status == "measured"  # on training patients


def test_a_claim_is_no_measurement_here_either():
    data = corpus({**SIZES, "val": 4}, rare=0)
    assert not trust(teacher(data, claim=0.95), data).domains["xray"].admitted
    assert trust(teacher(data, claim=0.95), data, rule="claimed").domains["xray"].on_claim


def test_what_it_would_teach_of_the_test_split():
    data = corpus(rare=0)
    says = data.findings(np.arange(len(data)), "xray")
    says[:, 1] = False
    view = teacher(data, says)
    rows = data.where("test")
    part = zero_shot(view.image[rows], view.classes, view.logit_scale, data.take(rows))["xray"]
    own = trusted_with(part, trust(view, data).domains["xray"], 0.9)
    assert {part.label[row] for row in own} == {("effusion",)}
    assert len(own) == 10


def test_known_by_heart_in_one_finding_is_found_out():
    data = corpus(rare=0)
    says = data.findings(np.arange(len(data)), "xray")
    elsewhere = data.split != "val"
    says[elsewhere, 1] = np.random.default_rng(0).random(elsewhere.sum()) < 0.5
    view = teacher(data, says)
    seen = gap(probes_of(view, data, "xray", "val"), probes_of(view, data, "xray", "test"))
    assert judged({("tutor", "xray"): seen})["tutor", "xray"].unexplained
