"""What an integration takes to be taught, what the parent's guesses may be given up for, and what is watched."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mmkd_core.data.manifest import Corpus
from mmkd_core.distill.replay import UNTAUGHT, Replay
from mmkd_core.integrate import distillation
from mmkd_core.integrate.distillation import Distillation
from mmkd_core.trust import DomainTrust, TeacherTrust

DOMAINS = ("ct", "mri", "oct", "xray")
EACH = 4


def rows(domain: str, *places: int) -> list[int]:
    """Rows of the corpus: the last of each domain is in the test split."""
    return [DOMAINS.index(domain) * EACH + place for place in places]


def trust(name: str, whole: tuple[str, ...], some: dict[str, list[int]]) -> TeacherTrust:
    """Trusted with whole domains, and with single samples of others."""
    mask = np.zeros(len(DOMAINS) * EACH, dtype=bool)
    domains = {}
    for domain in DOMAINS:
        admitted = [0, 1, 2] if domain in whole else some.get(domain, [])
        mask[rows(domain, *admitted)] = True
        domains[domain] = DomainTrust(9, 0.9, 0.8, None, True, domain in whole, len(admitted), 3, "because")
    return TeacherTrust(name, mask, domains, {"threshold": 0.9}, "c")


@pytest.fixture
def job() -> Distillation:
    """Old teacher: all of ct, one sample of mri. Newcomer: declares mri and xray, lucky with one sample of oct."""
    facts = [
        {
            "image": f"{domain}{i}.png",
            "image_id": f"{domain}{i}",
            "caption": f"{domain} {i}",
            "domain": domain,
            "label": None,
            "group_id": f"{domain}{i}",
            "split": "test" if i == EACH - 1 else "train",
        }
        for domain in DOMAINS
        for i in range(EACH)
    ]
    made: Any = object.__new__(Distillation)
    made.corpus = Corpus.build(Path("nowhere"), facts, {})
    made.specs = {"old": SimpleNamespace(domains=("ct", "mri")), "new": SimpleNamespace(domains=("mri", "xray"))}
    made.trust = {"old": trust("old", ("ct",), {"mri": [0]}), "new": trust("new", ("xray",), {"mri": [1], "oct": [2]})}
    made.parent = SimpleNamespace(teachers=["old", "gone"], heads=Path("nowhere"))
    made.parent_spec = SimpleNamespace(name="student-0001")
    return made


def test_a_domain_is_taught_whole_or_where_it_is_declared_and_admitted_for_a_part(job):
    assert job.earlier == ["old"], "a teacher that is not in use any more cannot be asked"
    assert job.taught(["old"]) == ["ct", "mri"]
    assert job.taught(["new"]) == ["mri", "xray"], "a lucky sample of oct is no lesson in oct"
    assert job.taught(["old", "new"]) == ["ct", "mri", "xray"]
    assert job.taught([]) == []


def test_a_domain_that_is_declared_and_where_nothing_is_admitted_is_not_taught(job):
    job.trust["new"] = trust("new", ("xray",), {})
    assert job.taught(["new"]) == ["xray"]


def test_given_up_is_what_nobody_taught_in_domains_that_the_newcomer_teaches(job):
    # mri: 0 is old's, 1 is new's, 2 is nobody's, 3 is the test split. oct: nobody teaches the domain as such.
    assert np.flatnonzero(job._given_up(["new"])).tolist() == rows("mri", 2)
    job.trust["new"] = trust("new", ("mri",), {})
    assert not job._given_up(["new"]).any(), "all of mri is taught now"
    job.specs["new"] = SimpleNamespace(domains=("oct",))
    job.trust["new"] = trust("new", (), {"oct": [2]})
    assert np.flatnonzero(job._given_up(["new"])).tolist() == rows("oct", 0, 1)


def test_watched_is_what_earlier_teachers_teach(job, monkeypatch):
    monkeypatch.setattr(distillation, "load_heads", lambda folder: {})
    watched = {
        ("old", "ct"): np.array(rows("ct", 0)),
        ("old", "mri"): np.array(rows("mri", 0)),
        ("old", "oct"): np.array(rows("oct", 0)),  # a lucky sample of a domain that it does not teach
        (UNTAUGHT, "mri"): np.array(rows("mri", 2)),
        (UNTAUGHT, "oct"): np.array(rows("oct", 0, 1)),
    }
    found = job._earlier(Replay({}, watched))
    assert set(found.watched) == {("old", "ct"), ("old", "mri")}
    assert job._earlier(None) is None
    job.parent = None
    assert job._earlier(Replay({}, watched)) is None
