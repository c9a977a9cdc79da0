"""The contract: all that the author of a teacher plugin imports, in one screen of names.

A plugin is a distribution with an entry point in the group ``mmkd.v1``. Its module holds a ``TeacherSpec`` and a hook
that returns it; where the model is an open_clip or transformers one, that is everything:

    from mmkd_core.contract import TeacherSpec, hookimpl

    SPEC = TeacherSpec(name="my-clip", ...)

    @hookimpl
    def mmkd_teachers():
        return [SPEC]

Does not: import torch, read files, reach the network.
"""

from mmkd_core.contract.golden import Golden, golden_image, measure_golden
from mmkd_core.contract.hookspecs import (
    ENTRY_POINT_GROUP,
    PLUGIN_API,
    hookimpl,
    hookspec,
    mmkd_load_teacher,
    mmkd_teachers,
)
from mmkd_core.contract.sources import WeightSource, hub
from mmkd_core.contract.spec import (
    CLIP_MEAN,
    CLIP_STD,
    NAME_PATTERN,
    ImageSpec,
    Isolation,
    LicenseInfo,
    Provenance,
    TeacherSpec,
    TextSpec,
    TrustClaim,
)
from mmkd_core.contract.teacher import Teacher

__all__ = [
    "CLIP_MEAN",
    "CLIP_STD",
    "ENTRY_POINT_GROUP",
    "NAME_PATTERN",
    "PLUGIN_API",
    "Golden",
    "ImageSpec",
    "Isolation",
    "LicenseInfo",
    "Provenance",
    "Teacher",
    "TeacherSpec",
    "TextSpec",
    "TrustClaim",
    "WeightSource",
    "golden_image",
    "hookimpl",
    "hookspec",
    "hub",
    "measure_golden",
    "mmkd_load_teacher",
    "mmkd_teachers",
]
