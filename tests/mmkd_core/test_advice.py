"""Advice that can be typed where mmkd was installed from its folder: no index has it under its name."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from mmkd_core import advice

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
OFFLINE = "pip install --no-index --find-links wheels mmkd"
"""Of the page on machines without a network, after `pip wheel .` has made a wheel of it."""


def test_it_names_the_libraries_themselves():
    assert advice.install("dicom") == "Run `pip install 'pydicom>=3'`"
    assert advice.install("ray").startswith("Run `pip install 'ray[data]>=")
    assert re.fullmatch(r"Run `pip install 'onnx>=\S+' 'onnxruntime>=\S+' 'onnxscript>=\S+'`", advice.install("onnx"))


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"dev"}))
def test_an_extra_is_what_its_requirements_are(extra):
    assert sorted(advice.libraries(extra)) == sorted(str(Requirement(one)) for one in EXTRAS[extra])


def test_from_a_checkout_that_was_never_installed(monkeypatch):
    def absent(name):
        raise advice.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(advice.metadata, "requires", absent)
    assert advice.install("dicom") == "Run `pip install -e '.[dicom]'` in the folder of mmkd"


def test_nothing_tells_anybody_to_install_mmkd_from_an_index():
    """Code, documentation and examples: after pip comes a folder, or a library that an index has."""
    asked = re.compile(r"pip install(?: +-(?:U|-\S+))* +['\"]?mmkd\\?(?:\[| |`|'|\"|$)", re.MULTILINE)
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("there is no repository")
    found = []
    for name in listed.stdout.decode().split("\0"):
        if Path(name).suffix in {".py", ".md", ".toml", ".yml", ".yaml", ".j2", ".tmpl"} and name != "CHANGELOG.md":
            text = (ROOT / name).read_text(encoding="utf-8").replace(OFFLINE, "")
            found += [f"{name}: {match[0]}" for match in asked.finditer(text)]
    assert found == []
