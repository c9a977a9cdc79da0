from __future__ import annotations

import subprocess
import sys

import pytest

import mmkd_core.contract
import mmkd_core.plugins

HEAVY = ("torch", "open_clip", "transformers", "timm", "pyarrow", "huggingface_hub", "numpy")


@pytest.mark.parametrize("module", ["mmkd_core.contract", "mmkd_core.plugins", "mmkd_core.plugins.loaders"])
def test_importing_is_light(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("package", [mmkd_core.contract, mmkd_core.plugins])
def test_all_is_sorted_and_exists(package):
    names = package.__all__
    # ruff's order: constants, then classes, then functions
    assert names == sorted(names, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    assert all(hasattr(package, name) for name in names)
