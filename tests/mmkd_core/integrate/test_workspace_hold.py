"""Who holds a workspace is told, whatever the moment."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading

import pytest

from mmkd_core.errors import WorkspaceError
from mmkd_core.integrate.workspace import Config, Workspace, holder_of


def gone() -> int:
    """A number that was a process."""
    child = subprocess.Popen(["true"])
    child.wait()
    return child.pid


@pytest.mark.parametrize("before", [None, "gone"])
def test_who_has_just_taken_it_is_named(tmp_path, before):
    workspace = Workspace(tmp_path, Config())
    workspace.state.mkdir()
    told = []

    def ask():
        with pytest.raises(WorkspaceError) as error, workspace.writing():
            pass
        told.append(str(error.value))

    with (workspace.state / "in-use").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # taken, and nothing written yet
        held.write("" if before is None else str(gone()))
        held.flush()
        asking = threading.Thread(target=ask)
        asking.start()
        asking.join(0.2)
        assert told == []
        held.truncate(0)
        held.seek(0)
        held.write(f"{os.getpid()}\n")
        held.flush()
        asking.join(10)
    assert f"the workspace is in use by process {os.getpid()} " in told[0]


def test_a_holder_that_cannot_be_seen_is_named_as_it_wrote(tmp_path):
    number = gone()
    (tmp_path / "in-use").write_text(f"{number}\n")  # as from another machine
    with (tmp_path / "in-use").open() as held:
        assert holder_of(held, patience=0) == str(number)
    (tmp_path / "in-use").write_text("")
    with (tmp_path / "in-use").open() as held:
        assert holder_of(held, patience=0) == "unknown"
