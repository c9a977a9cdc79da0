"""The two hooks of plugin API 1. A plugin implements the first; only odd architectures need the second.

The number of the API is the name of the entry-point group: a plugin for ``mmkd.v2`` is listed as incompatible here and
never imported. Adding a hook, an optional hook argument or an optional spec field does not change the number.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from mmkd_core.contract.spec import TeacherSpec
    from mmkd_core.contract.teacher import Teacher

PLUGIN_API = 1
ENTRY_POINT_GROUP = f"mmkd.v{PLUGIN_API}"

hookspec = pluggy.HookspecMarker("mmkd")
hookimpl = pluggy.HookimplMarker("mmkd")


@hookspec
def mmkd_teachers() -> Iterable[TeacherSpec]:  # type: ignore[empty-body]
    """Declare the plugin's teachers.

    Called once per plugin and guarded: what it raises marks this plugin as broken and no other. It must be cheap: no
    torch, no network, no disk beyond the package's own small files. Each name is the entry point's name or starts with
    ``<entry point>-``, and is unique among all installed plugins.
    """


@hookspec(firstresult=True)
def mmkd_load_teacher(spec: TeacherSpec, weights: Mapping[str, Path], device: str) -> Teacher | None:
    """Build the ready model: evaluation mode, frozen, float32, on ``device``.

    Called only on the plugin that declared ``spec`` and on the built-in loaders (families ``open_clip`` and
    ``transformers``), never on a stranger.

    Args:
        spec: what ``mmkd_teachers`` declared.
        weights: role (``model``, ``tokenizer``, ``text_tower``) to a local folder whose declared files were verified
            by their sha256. Nothing else may be read and the network must not be touched.
        device: a torch device, e.g. ``cpu`` or ``cuda:0``.

    Returns:
        The teacher, or None for a family that this plugin does not know.
    """
