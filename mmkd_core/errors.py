"""Every error that a user can cause or meet, and the sentence that they read.

    MmkdError
    ├── DataError         images, captions, manifests
    ├── PluginError       teachers: unknown, broken, incompatible, clashing, weights that fail their hash
    │   └── BatchError    one batch that an isolated teacher could not answer; the teacher may go on
    ├── TrustError        a trust rule that cannot be applied
    ├── TrainingError     diverged losses, a checkpoint that does not fit
    ├── ReleaseError      an unknown or damaged release
    └── WorkspaceError    no workspace, wrong version, in use, disk full

A message has three parts: what failed, where, and the next command. The command line prints them and exits with 2;
``--debug`` shows the traceback. ``feature_store`` has its own ``StoreError``: it does not know this package.
"""

from __future__ import annotations


class MmkdError(Exception):
    """What failed, where it failed, and what to do next.

    Args:
        what: one sentence, without a full stop at the end.
        where: file, row, teacher or domain; empty if ``what`` says it.
        next: the command or the change that mends it.
    """

    def __init__(self, what: str, *, where: str = "", next: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.next = what, where, next

    def __str__(self) -> str:
        text = f"{self.what} ({self.where})" if self.where else self.what
        return f"{text}. {self.next}" if self.next else f"{text}."


class DataError(MmkdError):
    """An image, a caption or a manifest that cannot be used."""


class PluginError(MmkdError):
    """A teacher that is unknown, broken, incompatible or not what it claims to be."""


class BatchError(PluginError):
    """One batch that a teacher could not answer, although it was asked twice. The next one may succeed."""


class TrustError(MmkdError):
    """A trust rule that cannot be applied to this corpus."""


class TrainingError(MmkdError):
    """A training run that diverged or cannot go on from its checkpoint."""


class ReleaseError(MmkdError):
    """A release that does not exist or is damaged."""


class WorkspaceError(MmkdError):
    """A folder that is no workspace, is of another version, or is in use."""
