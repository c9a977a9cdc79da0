"""Checks of what was seen beside the answers while all other checks ran."""

from __future__ import annotations

from mmkd_core.plugins.conformance.subject import FailedError, Subject
from mmkd_core.plugins.observe import first_line


def stdout_stays_clean(subject: Subject) -> None:
    """Nothing is written to stdout."""
    if subject.seen.printed.strip():
        raise FailedError(f"it writes to stdout: {first_line(subject.seen.printed)}")


def the_process_stays_as_it_was(subject: Subject) -> None:
    """Default dtype, threads, grad mode, random numbers and working directory are left alone."""
    if subject.seen.changed:
        raise FailedError("; ".join(subject.seen.changed))


def no_network_is_needed(subject: Subject) -> None:
    """It loads and answers without a network."""
    if subject.seen.network:
        raise FailedError(f"it reaches for {', '.join(subject.seen.network[:3])}")


def nothing_is_written(subject: Subject) -> None:
    """It writes nowhere but into the cache and the folder for temporary files."""
    if subject.seen.writes:
        raise FailedError(f"it writes {', '.join(subject.seen.writes[:3])}")
