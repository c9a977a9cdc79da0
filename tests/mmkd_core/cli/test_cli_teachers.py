from __future__ import annotations

import json

import pytest

from mmkd_core.plugins.consent import Offer


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["phantom", "ultrasound"], ["phantom-sono"]),
        (["PHANTOM", "fundus"], ["phantom-eye"]),
        (["fundus photographs"], ["flair", "keep-fit", "phantom-eye", "ret-clip"]),
        (["phantom", "fundus", "ultrasound"], []),
    ],
)
def test_search_looks_at_name_summary_and_domains(mmkd, words, found):
    done = mmkd("teachers", "search", *words, "--json")
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    assert list(facts["teachers"]) == found
    assert facts["next"] == (f"mmkd teachers add {found[0]}" if found else "mmkd teachers list")


def test_search_without_a_hit_says_so(mmkd):
    said = mmkd("teachers", "search", "spectroscopy").stdout
    assert said == (
        "teacher  in use  summary  domains  licence\n"
        "no teacher of the registry has spectroscopy in its name, summary or domains\n"
        "next: mmkd teachers list\n"
    )


def test_info_says_the_terms_before_anything_is_installed(mmkd):
    lines = {" ".join(line.split()) for line in mmkd("teachers", "info", "conch").stdout.splitlines()}
    assert lines >= {
        "licence weights CC-BY-NC-ND-4.0, no commercial use, no derivatives",
        "gated an account that accepted the terms is needed",
        "terms https://huggingface.co/MahmoodLab/CONCH",
        "package mmkd-conch (not installed; path source)",
        "status community, maintained by mmkd",
    }
    free = {" ".join(line.split()) for line in mmkd("teachers", "info", "quilt-net").stdout.splitlines()}
    assert "licence weights MIT" in free
    assert not any("gated" in line for line in free)
    unstated = {" ".join(line.split()) for line in mmkd("teachers", "info", "plip").stdout.splitlines()}
    assert "licence weights LicenseRef-unknown, not stated" in unstated


@pytest.mark.parametrize("option", ["--weights", "--python"])
def test_a_path_that_is_not_there_stops_add_before_anything_is_installed(mmkd, workspace, option):
    done = mmkd("teachers", "add", "quilt-net", "--yes", option, "nowhere", "-w", workspace)
    assert done.exit_code == 2
    assert "'nowhere' does not exist" in " ".join(done.stderr.split())
    assert done.stdout == ""


def test_sync_of_an_empty_lock(mmkd, workspace):
    done = mmkd("teachers", "sync", "-w", workspace)
    assert (done.exit_code, done.stdout) == (0, "nothing is missing\nnext: mmkd data phantom -w ws\n")


def test_sync_says_what_it_would_install(mmkd, workspace):
    teacher = {
        "name": "far", "package": "mmkd-far", "version": "1.2", "source": "index", "fingerprint": "0" * 32,
        "plugin_api": 1, "weights": [], "license": {"code": "MIT", "weights": "MIT", "commercial_use": True},
    }  # fmt: skip
    lock = workspace / "mmkd.lock"
    lock.write_text(json.dumps({"schema_version": 1, "teachers": {"far": teacher}}))
    before = lock.read_bytes()
    done = mmkd("teachers", "sync", "--dry-run", "-w", workspace)
    assert done.stdout == "package mmkd-far 1.2 from index, for far\nnext: mmkd teachers sync -w ws\n"
    assert lock.read_bytes() == before


def test_a_bundled_teacher_of_another_version_names_the_version(mmkd, workspace):
    assert mmkd("teachers", "add", "phantom-sono", "-w", workspace).exit_code == 0
    lock = workspace / "mmkd.lock"
    lock.write_text(lock.read_text().replace('"version": "0.1.0"', '"version": "0.0.9"'))
    done = mmkd("teachers", "sync", "-w", workspace)
    assert done.exit_code == 2
    assert "mmkd: teacher phantom-sono comes with mmkd 0.0.9 as the lock has it, and not with this one" in done.stderr
    assert "Install mmkd==0.0.9, or run `mmkd teachers add phantom-sono -w ws` to use this one" in done.stderr


def test_what_comes_with_mmkd_is_not_packed(mmkd, workspace):
    assert mmkd("teachers", "add", "phantom-sono", "-w", workspace).exit_code == 0
    done = mmkd("teachers", "pack", "phantom-sono", "-w", workspace)
    assert done.stderr == "mmkd: teacher phantom-sono comes with mmkd itself, so there is nothing to pack.\n"


OFFER = Offer("x", (("package", "mmkd-x"), ("licence", "MIT")), ("installs mmkd-x",))


@pytest.mark.parametrize(
    ("yes", "terminal", "typed", "answer"),
    [(True, False, "", True), (False, False, "", None), (False, True, "y", True), (False, True, "n", False)],
)
def test_an_offer_is_shown_and_asked_where_somebody_can_answer(monkeypatch, capsys, yes, terminal, typed, answer):
    from mmkd_core.cli import teachers
    from mmkd_core.cli.output import Output

    monkeypatch.setattr(teachers, "on_terminal", lambda stream: terminal)
    monkeypatch.setattr(teachers.typer, "confirm", lambda *_, **__: typed == "y")
    assert teachers.asking(Output(json=False), yes)(OFFER) is answer
    shown = capsys.readouterr().out.splitlines()
    assert shown == ["package: mmkd-x", "licence: MIT", *([] if yes else ["this installs mmkd-x"])]
    assert teachers.asking(Output(json=False), False)(Offer("x", (), ())) is True
