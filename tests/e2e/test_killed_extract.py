"""`mmkd extract` as a process of its own: killed at random moments, started twice at once, with a clock gone wrong."""

from __future__ import annotations

import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from benchmarks.faults import Arrays, Place, kill_extract

pytestmark = pytest.mark.slow

CLOCK = '''"""Python imports this when it starts: the clock of the process shows another year, and runs backwards."""
import os, time
_now, _start = float(os.environ.get("MMKD_FAULTS_CLOCK", "0")), time.monotonic()
if _now:
    time.time = lambda: _now - (time.monotonic() - _start)
    time.time_ns = lambda: int(1e9 * time.time())
'''


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Place, Arrays]:
    """A workspace with nothing extracted, and what an undisturbed run extracts."""
    place = Place.make(tmp_path_factory.mktemp("faults"))
    (place.site / "sitecustomize.py").write_text(CLOCK)
    calm = place.copy("undisturbed")
    calm.run("extract")
    return place, calm.features()[0]


def check(place: Place, expected: Arrays) -> None:
    assert "nothing was missing" in place.run("extract")
    assert "sound" in place.run("store", "verify")
    found, _ = place.features()
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], features) for key, features in expected.items())


def test_killed_at_random_moments_nothing_is_lost(tmp_path: Path) -> None:
    """``python benchmarks/run.py extract-kills`` does it 200 times."""
    done = kill_extract(tmp_path, 20)
    assert done.kills == 20
    assert done.midway >= 5


@pytest.mark.parametrize("turn", range(2))
def test_of_two_extractors_started_at_once_one_works(prepared: tuple[Place, Arrays], turn: int) -> None:
    place, expected = prepared[0].copy(f"twice-{turn}"), prepared[1]
    both = [place.start("extract", MMKD_FAULTS_REST="0.2") for _ in range(2)]
    told = {process.pid: process.communicate() for process in both}
    codes = {process.returncode: process.pid for process in both}
    assert sorted(codes) == [0, 2]
    assert told[codes[2]] == (
        "",
        f"mmkd: the workspace is in use by process {codes[0]} ({place.root}). "
        "Wait until it has finished, or stop it; nothing was changed\n",
    )
    assert re.search(r"pair-left +1,?536 +1,?536", told[codes[0]][0])
    check(place, expected)


def test_a_clock_that_goes_back_between_and_within_runs_does_not_matter(prepared: tuple[Place, Arrays]) -> None:
    place, expected = prepared[0].copy("clock"), prepared[1]
    years = {year: str((year - 1970) * 365.25 * 86400) for year in (1980, 2035, 2090)}
    for year in (2090, 1980, 2035):
        process = place.start("extract", MMKD_FAULTS_CLOCK=years[year], MMKD_FAULTS_REST="0.1")
        while place.begun(process) and sum(map(len, place.rows().values())) < 100 * (year == 2090):
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert 0 < sum(map(len, place.rows().values())) < sum(map(len, expected.values()))
    for year, path in zip((2090, 1980) * 10_000, place.root.rglob("*"), strict=False):
        os.utime(path, (float(years[year]), float(years[year])))
    place.run("extract")
    check(place, expected)


def test_a_store_that_came_with_another_clock_is_the_same(prepared: tuple[Place, Arrays]) -> None:
    """The files of the store are dated before what they were made from."""
    place, expected = prepared[0].copy("moved"), prepared[1]
    shutil.copytree(prepared[0].root.with_name("undisturbed") / ".mmkd" / "features", place.store)
    for path in place.store.iterdir():
        os.utime(path, (1.0, 1.0))
    check(place, expected)
