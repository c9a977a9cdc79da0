"""Teachers as plugins: who offers them (host), who may be used (lock), where their files are (weights), how they arrive
(lifecycle, sources, installer, packs, sync), how they answer (opening; loaders for the two common families, isolation
for those with an environment of their own).

`lifecycle`, `packs` and `sync` are imported from there: what installs packages is slow to import, and `mmkd
teachers list` needs none of it.

Does not: import torch, open_clip or transformers when imported.
"""

from mmkd_core.plugins.host import PluginHost
from mmkd_core.plugins.listing import TeacherInfo, TeacherRow, info, listing
from mmkd_core.plugins.lock import Lock, LockedTeacher, locked_spec, read_lock, require_locked, write_lock
from mmkd_core.plugins.record import PluginRecord
from mmkd_core.plugins.registry import Registry, RegistryEntry, find_registry, load_registry

__all__ = [
    "Lock",
    "LockedTeacher",
    "PluginHost",
    "PluginRecord",
    "Registry",
    "RegistryEntry",
    "TeacherInfo",
    "TeacherRow",
    "find_registry",
    "info",
    "listing",
    "load_registry",
    "locked_spec",
    "read_lock",
    "require_locked",
    "write_lock",
]
