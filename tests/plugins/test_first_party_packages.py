"""What every first-party plugin must be: a small package, a stanza in the registry that is true, an honest README."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mmkd_core.contract import PLUGIN_API
from mmkd_core.plugins import load_registry
from mmkd_core.plugins.packages import read_package

ROOT = Path(__file__).parents[2]
NAMES = sorted(path.name.removeprefix("mmkd-") for path in ROOT.glob("plugins/mmkd-*") if path.name != "mmkd-phantom")
OF_THE_PAPER = {
    "biomed-clip",
    "bmc-clip",
    "genmed-clip",
    "med-clip",
    "plip",
    "pmc-clip",
    "pubmed-clip",
    "quilt-net",
    "unimed-clip",
}
OWN_LOADER = {
    "bio-vil-t",
    "conch",
    "cxr-clip",
    "flair",
    "keep-fit",
    "med-clip",
    "med-siglip",
    "musk",
    "pmc-clip",
    "ret-clip",
}
DECLARATIVE = sorted(set(NAMES) - OWN_LOADER)
LONGER = {
    "biomed-clip": 42,
    "bmc-clip": 31,
    "genmed-clip": 38,
    "monet": 31,
    "plip": 31,
    "pubmed-clip": 32,
    "unimed-clip": 55,
}
"""Those with a text tower of their own, with a configuration that is not published, or pinned."""


def module_of(name: str) -> Path:
    return ROOT / "plugins" / f"mmkd-{name}" / "src" / f"mmkd_{name.replace('-', '_')}" / "__init__.py"


def test_the_teachers_of_the_paper_are_here():
    assert set(NAMES) >= OF_THE_PAPER


@pytest.mark.parametrize("name", NAMES)
def test_a_package_offers_one_teacher_of_its_name(name, plugin):
    folder = ROOT / "plugins" / f"mmkd-{name}"
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    module = plugin(name)
    assert project["entry-points"] == {f"mmkd.v{PLUGIN_API}": {name: module.__name__}}
    assert project["license"] == "Apache-2.0"
    assert read_package(folder).name == f"mmkd-{name}" == project["name"]
    assert [spec.name for spec in module.mmkd_teachers()] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_the_stanza_says_what_the_spec_says(name, plugin):
    spec, entry = plugin(name).SPEC, load_registry(ROOT / "registry.yaml").teachers[name]
    assert entry.package == f"mmkd-{name}"
    assert entry.source.kind == "path"
    assert Path(entry.source.path) == ROOT / "plugins" / f"mmkd-{name}"
    assert entry.summary == spec.summary
    assert entry.domains == spec.domains
    assert entry.license.model_dump() == spec.license.model_dump(include=set(type(entry.license).model_fields))
    assert entry.status == "community", "verified means that its golden values were reproduced on real weights"


@pytest.mark.parametrize("name", NAMES)
def test_a_readme_says_what_was_verified_and_how_to_do_it(name, plugin):
    spec, text = plugin(name).SPEC, (ROOT / "plugins" / f"mmkd-{name}" / "README.md").read_text()
    for heading in (
        "What it is good at",
        "Licence",
        "Weights",
        "What was verified against the real weights",
        "Citation",
    ):
        assert f"\n## {heading}\n" in text
    assert f"mmkd teachers check {name} --full" in text
    assert "Nothing yet" in text
    assert all(source.location in text for source in spec.weights)
    assert set(re.findall(r"accept-license", text)) == (set() if spec.license.commercial_use else {"accept-license"})
    assert spec.golden is None, "golden values come from real weights; then the README says who verified them"


@pytest.mark.parametrize("name", DECLARATIVE)
def test_a_declaration_is_short(name):
    source = module_of(name).read_text()
    tree = ast.parse(source)
    code = [line for line in source.splitlines()[tree.body[0].end_lineno :] if line.strip()]
    assert len(code) <= LONGER.get(name, 30)
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert functions == ["mmkd_teachers"]


@pytest.mark.parametrize("name", NAMES)
def test_what_git_knows_is_pinned(name, plugin):
    """A file of a public repository at a commit can be measured by whoever writes the spec."""
    for source in plugin(name).SPEC.weights:
        if source.kind == "url" and re.search(r"/[0-9a-f]{40}/", source.location):
            assert None not in source.files.values(), source.location


def test_they_come_with_the_wheel():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    taken = project["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    home = "mmkd_core/first_party"
    folders = {f"plugins/mmkd-{name}": f"{home}/plugins/mmkd-{name}" for name in NAMES}
    assert taken == {"registry.yaml": f"{home}/registry.yaml"} | folders


@pytest.mark.parametrize("name", NAMES)
def test_no_licence_is_assumed(name, plugin):
    license = plugin(name).SPEC.license
    if license.weights == "LicenseRef-unknown":
        assert (license.commercial_use, license.derivatives) == (None, None), "not found is not forbidden"
    if "NC" in license.weights:
        assert license.commercial_use is False


def test_declaring_all_of_them_loads_no_library():
    modules = ", ".join(module_of(name).parent.name for name in NAMES)
    code = f"import sys, {modules}; print(sorted({{'torch', 'PIL', 'transformers', 'numpy'}} & set(sys.modules)))"
    paths = [str(ROOT), *(str(module_of(name).parents[1]) for name in NAMES)]
    done = subprocess.run([sys.executable, "-c", f"import sys; sys.path[:0] = {paths}; {code}"], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.strip() == b"[]"


def test_the_table_of_teachers_is_complete_and_true(plugin):
    text = (ROOT / "docs" / "teachers.md").read_text()
    rows = dict(re.findall(r"^\| \[`([a-z-]+)`\]\(\.\./plugins/mmkd-\1/README\.md\) \|(.*)$", text, re.MULTILINE))
    assert set(rows) == set(NAMES)
    for name, row in rows.items():
        spec = plugin(name).SPEC
        assert f"| {spec.title} |" in f"|{row}"
        assert f"{spec.image.size} / {spec.text.context_length} / {spec.embed_dim}" in row
        assert ("not stated" if spec.license.weights == "LicenseRef-unknown" else spec.license.weights) in row
        assert ("--accept-license" in row) == (not spec.license.commercial_use)
    for absent in ("MAVL", "CT-CLIP", "MMKD-CLIP", "KEEP", "PathGen-CLIP", "EchoCLIP", "TITAN"):
        assert re.search(rf"^\| {absent}[^|]* \| \S+", text, re.MULTILINE)
