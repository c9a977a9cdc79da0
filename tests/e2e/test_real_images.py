"""`mmkd quickstart --data`: specialists are trained, exported, installed and integrated like any other teacher."""

import csv
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.shared_data]


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """An environment that sees all packages of this one; what is installed into it stays out of this one."""
    folder = tmp_path / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    asked = [python, "-c", "import site; print(site.getsitepackages()[0])"]
    packages = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    roots = [path for path in sys.path if path.endswith("site-packages")]
    Path(packages, "outer.pth").write_text("".join(f"import site; site.addsitedir({root!r})\n" for root in roots))
    return python


def test_the_whole_way_on_a_part_of_the_real_images(environment: Path, shared_data: Path, tmp_path: Path) -> None:
    manifest = a_part_of(shared_data / "biomed" / "manifest.csv", tmp_path / "part.csv")
    workspace = tmp_path / "ws"
    command = [
        environment,
        "-m",
        "mmkd_core",
        "quickstart",
        workspace,
        "--data",
        manifest,
        "--smoke",
        "--trust",
        "none",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert set(summary["data"]["domains"]) == {"dermatology", "pathology", "xray"}
    assert len(summary["teachers"]) == 3
    assert set(summary["releases"]) == {"0001", "0002"}
    newcomer = summary["integration"]["teacher"]
    assert summary["teachers"][newcomer]["added"]
    assert set(summary["integration"]["gain"]) == {"dermatology"}, "the domain with most training images comes last"
    assert (workspace / "report.html").stat().st_size > 10_000
    again = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert json.loads(again.stdout)["releases"] == summary["releases"], "a second run computes nothing new"


def a_part_of(manifest: Path, out: Path) -> Path:
    """Every fourth group of three domains, with absolute paths."""
    with manifest.open() as file:
        rows = [row for row in csv.DictReader(file) if row["domain"] in ("dermatology", "pathology", "xray")]
    groups = set(sorted({row["group_id"] for row in rows})[::4])
    with out.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        for row in rows:
            if row["group_id"] in groups:
                writer.writerow({**row, "image": str(manifest.parent / row["image"])})
    return out
