"""The documentation: it builds in strict mode without a network, and no page of it asks another server for anything."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environ = {
        **os.environ,
        "NO_MKDOCS_2_WARNING": "1",
        "http_proxy": "http://127.0.0.1:9",
        "https_proxy": "http://127.0.0.1:9",
    }
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        text = page.read_text(encoding="utf-8")
        asked = re.findall(r'<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)="(https?:[^"]+)"', text)
        assert not [address for address in asked if "canonical" not in address], page


def test_every_command_and_every_setting_is_in_the_reference(site: Path) -> None:
    from mmkd_core.integrate.workspace import Config

    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    for name in ("mmkd quickstart", "mmkd teachers add", "mmkd eval set", "mmkd audit forgetting", "mmkd store seal"):
        assert name in commands
    settings = (site / "reference" / "settings.html").read_text(encoding="utf-8")
    for key, field in Config.model_fields.items():
        assert (field.alias or key) in settings


def test_the_plugin_api_is_generated_from_its_docstrings(site: Path) -> None:
    api = (site / "reference" / "plugin-api.html").read_text(encoding="utf-8")
    for name in ("TeacherSpec", "WeightSource", "mmkd_load_teacher", "logit_scale"):
        assert name in api
