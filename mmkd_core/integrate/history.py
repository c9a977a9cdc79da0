"""How releases came into use, and what was done to them by force: a line each in ``releases/LOG.jsonl``, oldest first.

Releases are immutable, so what happens to one after it was made stands beside all of them. A line is written before
``CURRENT`` moves: a kill in between leaves a line too many, never a move without one.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from mmkd_core.files import replacing
from mmkd_core.integrate.workspace import Workspace

LOG = "LOG.jsonl"


@dataclass(frozen=True)
class Way:
    """What befell a release.

    Attributes:
        words: for people.
        earned: whether a release that came into use this way may come back without ``--force``.
        forced: whether a person asked for it with ``--force``.
    """

    words: str
    earned: bool = False
    forced: bool = False


WAYS: dict[str, Way] = {
    "first": Way("put into use as the first release, compared with nothing", earned=True),
    "passed": Way("put into use on PASS", earned=True),
    "passed another gate": Way("put into use by force: PASS under another gate than its own", forced=True),
    "judged by another gate": Way("audited by force under another gate than its own", forced=True),
    "forced": Way("put into use by force, without a passed audit", forced=True),
    "back": Way("put into use again"),
    "withdrawal": Way("put into use for what a withdrawn teacher had taught", earned=True),
    "study": Way("put into use by a study, whatever it lost"),
}


@dataclass(frozen=True)
class Entry:
    """One line."""

    release: str
    way: str
    """A key of ``WAYS``."""
    before: str | None
    """What was in use."""
    by: str
    at: str
    because: str | None = None
    gate: Mapping[str, Any] = field(default_factory=dict)
    """By setting of the gate that differs from the release's own: ``was`` and ``is``."""

    @property
    def sentence(self) -> str:
        """The line for people."""
        way = WAYS[self.way]
        why = f" ({self.because or 'no reason was given'})" if way.forced or self.because else ""
        return f"{way.words}, {self.at} by {self.by}{why}"


def entries(workspace: Workspace, release: str | None = None) -> list[Entry]:
    """All lines, or those of one release; what is no line of this log is passed over."""
    try:
        lines = (workspace.releases / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue
        if entry.way in WAYS and release in (None, entry.release):
            found.append(entry)
    return found


def note(
    workspace: Workspace,
    release: str,
    way: str,
    before: str | None,
    because: str | None = None,
    gate: Mapping[str, Any] | None = None,
) -> Entry:
    """Add a line of now and of the user of this process."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    entry = Entry(release, way, before, _user(), at, because, dict(gate or {}))
    path = workspace.releases / LOG
    before_it = path.read_bytes() if path.exists() else b""
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as file:
        file.write(before_it + (json.dumps(asdict(entry), sort_keys=True) + "\n").encode())
    return entry


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without names of users
        return f"user {os.getuid()}"
