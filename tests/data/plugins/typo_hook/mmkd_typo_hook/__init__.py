"""A hook with a misspelt name, which pluggy accepts in silence."""

from mmkd_core.contract import hookimpl


@hookimpl
def mmkd_teacher():
    return []
