"""Which teacher may teach which sample.

``beliefs`` are softmaxes of cosines, ``measured`` is what probe images say of a teacher, ``captions`` what captions do
where there are no labels, ``evidence`` both over a corpus, ``case`` the rulings that can be made of it, ``rules`` the
table of rules, ``deciding`` applies one, ``results`` keeps the outcome on disk.

Names are looked up when they are asked for, so that a command can offer the rules without importing numpy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmkd_core.trust.beliefs import logits, posterior, unit
    from mmkd_core.trust.deciding import StudentProbe, admitted_at, decide, judge
    from mmkd_core.trust.evidence import DomainEvidence, Evidence, TeacherView, measure
    from mmkd_core.trust.measured import Status
    from mmkd_core.trust.published import PublishedTrust
    from mmkd_core.trust.results import DomainTrust, TeacherTrust
    from mmkd_core.trust.rules import RULES, TrustConfig

_HOMES = {
    "beliefs": ("logits", "posterior", "unit"),
    "deciding": ("StudentProbe", "admitted_at", "decide", "judge"),
    "evidence": ("DomainEvidence", "Evidence", "TeacherView", "measure"),
    "measured": ("Status",),
    "published": ("PublishedTrust",),
    "results": ("DomainTrust", "TeacherTrust"),
    "rules": ("RULES", "TrustConfig"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "RULES",
    "DomainEvidence",
    "DomainTrust",
    "Evidence",
    "PublishedTrust",
    "Status",
    "StudentProbe",
    "TeacherTrust",
    "TeacherView",
    "TrustConfig",
    "admitted_at",
    "decide",
    "judge",
    "logits",
    "measure",
    "posterior",
    "unit",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
