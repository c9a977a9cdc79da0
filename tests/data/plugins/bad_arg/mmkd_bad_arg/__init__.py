"""A hook with an argument that no hook specification knows."""

from mmkd_core.contract import hookimpl


@hookimpl
def mmkd_teachers(colour):
    return []
