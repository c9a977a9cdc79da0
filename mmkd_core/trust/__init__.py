"""Which teacher may teach which sample: the 90 % rule, the rule by gain, the paper's own list, or everyone.

``beliefs`` are softmaxes of cosines, ``evidence`` measures what a teacher knows about a corpus, ``rule`` turns that
into a mask and a reason per domain, ``results`` keeps the outcome on disk.
"""

from mmkd_core.trust.beliefs import logits, posterior, unit
from mmkd_core.trust.evidence import DomainEvidence, Evidence, TeacherView, measure
from mmkd_core.trust.published import PublishedTrust
from mmkd_core.trust.results import DomainTrust, TeacherTrust
from mmkd_core.trust.rule import RULES, StudentProbe, TrustConfig, admitted_at, decide, judge

__all__ = [
    "RULES",
    "DomainEvidence",
    "DomainTrust",
    "Evidence",
    "PublishedTrust",
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
