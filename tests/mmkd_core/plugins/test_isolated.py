from __future__ import annotations

import os
import time

import pytest

from mmkd_core.errors import PluginError
from mmkd_core.plugins.isolated import run_isolated

PROBES = """
import os, socket, sys, time, urllib.request
from mmkd_core.errors import DataError

def echo(x):
    print("noise on stdout")
    os.write(1, b"more noise")
    return {"got": x, "offline": os.environ.get("HF_HUB_OFFLINE"), "pid": os.getpid()}

def look_up(_): socket.getaddrinfo("localhost", 80)
def connect(_): socket.socket().connect(("127.0.0.1", 9))
def fetch(_): urllib.request.urlopen("http://127.0.0.1:9/")
def refuse(_): raise DataError("bad image", where="row 3", next="Look at it")
def fall(_): raise ValueError("broken")
def leave(_): sys.exit("gone")
def die(_): print("last words", file=sys.stderr, flush=True); os._exit(3)
def crash(_): os.kill(os.getpid(), 9)
def sleep(path):
    if os.fork() == 0:
        time.sleep(1.5); open(path, "w").close(); os._exit(0)
    time.sleep(3600)
"""


@pytest.fixture(autouse=True)
def _probes(tmp_path, monkeypatch):
    (tmp_path / "isolated_probes.py").write_text(PROBES)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_json_goes_in_and_out_whatever_is_printed():
    answer = run_isolated("isolated_probes:echo", {"a": [1, "é", None]})
    assert answer["got"] == {"a": [1, "é", None]}
    assert answer["offline"] == "1"
    assert answer["pid"] != os.getpid()


@pytest.mark.parametrize("way", ["look_up", "connect", "fetch"])
def test_the_network_is_blocked(way):
    with pytest.raises(PluginError, match="the network is blocked during this check"):
        run_isolated(f"isolated_probes:{way}", None)


def test_our_errors_keep_their_three_parts():
    with pytest.raises(PluginError) as caught:
        run_isolated("isolated_probes:refuse", None)
    assert (caught.value.what, caught.value.where, caught.value.next) == ("bad image", "row 3", "Look at it")


@pytest.mark.parametrize(
    ("way", "message"),
    [
        ("fall", "ValueError: broken"),
        ("leave", "SystemExit: gone"),
        ("die", "the check's interpreter died with exit status 3:\nlast words"),
        ("crash", "the check's interpreter died with signal 9"),
    ],
)
def test_every_end_is_an_error_with_a_reason(way, message):
    with pytest.raises(PluginError) as caught:
        run_isolated(f"isolated_probes:{way}", None)
    assert str(caught.value).startswith(message)


def test_a_hang_ends_with_all_that_it_started(tmp_path):
    started = time.monotonic()
    with pytest.raises(PluginError, match="the check took more than 1 s and was stopped"):
        run_isolated("isolated_probes:sleep", str(tmp_path / "survivor"), time_limit_s=1)
    assert time.monotonic() - started < 1800, "it was not waited for"
    time.sleep(1)
    assert not (tmp_path / "survivor").exists()
