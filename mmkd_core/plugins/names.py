"""Names that were nearly right, and package names in their one canonical spelling."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``"Did you mean a or b? "``, or nothing if no known name is near."""
    near = difflib.get_close_matches(name, sorted(set(known)), n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(near)}? " if near else ""


def canonical(package: str) -> str:
    """The spelling under which an index compares distribution names (PEP 503)."""
    return re.sub(r"[-_.]+", "-", package).lower()
