"""Just enough of version ranges to say "surely satisfied": final releases compared by their numbers.

Does not: replace PEP 440. Whatever is not plain numbers (pre-releases, markers, wildcards) is answered with None, and
then the installer decides.
"""

from __future__ import annotations

import importlib.metadata
import operator
import re
from collections.abc import Callable

_RELEASE = re.compile(r"^\d+(\.\d+)*$")
_CLAUSE = re.compile(r"^(>=|<=|==|!=|~=|>|<)\s*(\d+(?:\.\d+)*)$")
_REQUIREMENT = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?\s*\(?([^;()]*)\)?\s*(?:;\s*(.*))?$")
_COMPARE: dict[str, Callable[[tuple[int, ...], tuple[int, ...]], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


def satisfies(version: str, ranges: str) -> bool | None:
    """Whether ``version`` lies in ``ranges`` (e.g. ``>=0.1,<1``); None if numbers alone cannot tell."""
    base = version.partition("+")[0]  # a local part, as in 2.13.0+cpu, does not change the order
    if not ranges.strip():
        return True
    if not _RELEASE.match(base):
        return None
    answers = [_holds(base, clause.strip()) for clause in ranges.split(",")]
    return None if None in answers else all(answers)


def installed(requirement: str) -> bool | None:
    """Whether a requirement (``Requires-Dist``) is met in this environment; None if that cannot be told.

    A requirement of an extra counts as met: extras are not asked for.
    """
    match = _REQUIREMENT.match(requirement.strip())
    if match is None:
        return None
    name, extras, ranges, marker = match.groups()
    if marker:
        return True if re.fullmatch(r"""extra\s*==\s*(['"])[\w.-]+\1""", marker.strip()) else None
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return None if extras else satisfies(version, ranges)


def _holds(version: str, clause: str) -> bool | None:
    match = _CLAUSE.match(clause)
    if match is None:
        return None
    sign, bound = match.groups()
    if sign == "~=":
        prefix = _numbers(bound)[:-1]
        return (
            bool(prefix) and _compare(">=", version, bound) and _numbers(version, len(prefix))[: len(prefix)] == prefix
        )
    return _compare(sign, version, bound)


def _compare(sign: str, version: str, bound: str) -> bool:
    length = max(version.count("."), bound.count(".")) + 1
    return _COMPARE[sign](_numbers(version, length), _numbers(bound, length))


def _numbers(version: str, length: int = 0) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in version.split("."))
    return numbers + (0,) * (length - len(numbers))
