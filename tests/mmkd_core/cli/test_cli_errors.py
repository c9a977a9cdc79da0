from __future__ import annotations

import errno
import fcntl
import importlib
import json
import os
import subprocess
import sys

import pytest
import typer

GENERATE = (
    importlib.import_module("mmkd_core.data.phantom.generate"),
    "generate",
)  # its package has a function of that name


def failing(error):
    def fail(*arguments, **options):
        raise error

    return fail


@pytest.mark.parametrize(
    "command",
    [
        "audit forgetting",
        "audit trust",
        "data check",
        "data import x.csv",
        "data phantom",
        "distill",
        "distill --incremental",
        "eval retrieval current",
        "eval zero-shot current",
        "export open-clip out",
        "extract",
        "pretrain",
        "releases list",
        "releases rollback 0001",
        "releases show 0001",
        "report",
        "store compact",
        "store doctor",
        "store export out",
        "store gc",
        "store import out",
        "store info",
        "store merge out",
        "store repair",
        "store seal",
        "store verify",
        "teachers add good",
        "teachers pack good",
        "teachers remove good",
        "teachers sync",
    ],
)
def test_outside_of_a_workspace(command, mmkd, tmp_path):
    done = mmkd(*command.split())
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr == f"mmkd: this folder is no workspace: it has no mmkd.yaml ({tmp_path}). Run `mmkd init`\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["data phantom", "extract", "pretrain", "distill", "audit forgetting", "report"])
def test_a_workspace_in_use(command, mmkd, workspace):
    with (workspace / ".mmkd" / "in-use").open("a+") as held:
        held.write(f"{os.getppid()}\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        done = mmkd(*command.split(), "-w", workspace)
    assert done.exit_code == 2
    assert f"the workspace is in use by process {os.getppid()} " in done.stderr
    assert "Wait until it has finished" in done.stderr


def test_another_workspace_is_not_overwritten(mmkd, workspace):
    before = (workspace / "mmkd.yaml").read_bytes()
    done = mmkd("init", workspace, "--seed", 4)
    assert done.exit_code == 2
    assert "mmkd: the folder is a workspace with other settings" in done.stderr
    assert (workspace / "mmkd.yaml").read_bytes() == before


def test_the_section_of_audits_has_moved(mmkd, workspace):
    with (workspace / "mmkd.yaml").open("a") as file:
        file.write("audit: {margin: 0.1}\n")
    done = mmkd("report", "-w", workspace)
    assert done.exit_code == 2
    assert "setting audit: margins, confidence, resamples and seed of audits are in gate.yaml now" in done.stderr


def test_a_chain_is_against_all(mmkd, workspace):
    done = mmkd("audit", "forgetting", "--chain", "--against", "0001", "-w", workspace)
    assert done.exit_code == 2
    assert "leave out --against" in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("releases rollback 0001 --because x", "add --force"),
        ("audit forgetting --because x", "add --force"),
        ("audit forgetting --self-test --force", "leave out --force"),
    ],
)
def test_a_reason_is_given_for_something(command, words, mmkd, workspace):
    done = mmkd(*command.split(), "-w", workspace)
    assert done.exit_code == 2
    assert words in " ".join(done.stderr.replace("│", " ").split())


def test_a_store_that_is_not_there(mmkd, workspace):
    done = mmkd("store", "info", "-w", workspace, "--json")
    assert done.exit_code == 2
    assert done.stdout == ""
    assert done.stderr == "mmkd: no features were extracted yet (ws/.mmkd/features). Run `mmkd extract -w ws`\n"


def test_something_else_in_the_place_of_the_store(mmkd, workspace):
    (workspace / ".mmkd" / "features").mkdir()
    (workspace / ".mmkd" / "features" / "notes.txt").write_text("mine")
    done = mmkd("store", "verify", "-w", workspace)
    assert done.exit_code == 2
    assert done.stderr.startswith("mmkd: ")
    assert "ws/.mmkd/features" in done.stderr


def test_debug_shows_the_traceback(mmkd, monkeypatch):
    assert "Traceback" not in mmkd("data", "check").stderr
    asked = mmkd("data", "check", "--debug")
    assert "Traceback" in asked.stderr
    assert asked.stderr.splitlines()[-1].startswith("mmkd: this folder is no workspace")
    assert asked.exit_code == 2
    monkeypatch.setenv("MMKD_DEBUG", "1")
    assert "Traceback" in mmkd("data", "check").stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk(number, mmkd, workspace, monkeypatch):
    monkeypatch.setattr(*GENERATE, failing(OSError(number, "No space left on device", "a.png")))
    done = mmkd("data", "phantom", "-w", workspace)
    assert done.exit_code == 2
    assert "mmkd: the disk is full; what was finished is kept" in done.stderr
    assert "Make room and run the same command again" in done.stderr


def test_a_full_disk_outside_of_the_workspace(mmkd, workspace, monkeypatch):
    monkeypatch.setattr("mmkd_core.data.check.check", failing(OSError(errno.ENOSPC, "No space", "/tmp/x")))
    monkeypatch.setattr("mmkd_core.integrate.workspace.Workspace.corpus", lambda self, **_: None)
    done = mmkd("data", "check", "-w", workspace)
    assert done.exit_code == 2
    want = "mmkd: the disk is full; what was finished is kept (/tmp/x). Make room and run the same command again\n"
    assert done.stderr == want


def test_a_folder_that_may_not_be_written(mmkd, monkeypatch):
    monkeypatch.setattr(
        "mmkd_core.integrate.workspace.Workspace.create", failing(PermissionError(13, "Permission denied", "/root/x"))
    )
    done = mmkd("init", "/root/x")
    assert done.exit_code == 2
    assert done.stderr == "mmkd: permission denied (/root/x). Check the rights of the file and its folder\n"


def test_control_c(mmkd, workspace, monkeypatch):
    monkeypatch.setattr(*GENERATE, failing(KeyboardInterrupt()))
    done = mmkd("data", "phantom", "-w", workspace)
    assert done.exit_code == 130
    assert done.stderr == f"\nstopped; go on with `mmkd data phantom -w {workspace}`\n"


FAULTS = [
    (RuntimeError("a bug\n  of two lines"), "RuntimeError: a bug of two lines"),
    (AssertionError(), "AssertionError"),
    (KeyError("part"), "KeyError: 'part'"),
    (SystemExit(1), "SystemExit: 1"),
]


@pytest.mark.parametrize(("error", "told"), FAULTS)
def test_a_fault_of_mmkd_is_one_sentence_and_no_verdict(error, told, mmkd, workspace, monkeypatch):
    monkeypatch.setattr(*GENERATE, failing(error))
    done = mmkd("data", "phantom", "-w", workspace)
    assert (done.exit_code, done.stdout) == (70, "")
    assert done.stderr == f"mmkd has a fault: {told}. Run it again with --debug and report what it prints\n"
    asked = mmkd("data", "phantom", "-w", workspace, "--debug")
    assert (asked.exit_code, "Traceback" in asked.stderr) == (70, True)


@pytest.mark.parametrize(("error", "code"), [(EOFError(), 2), (KeyboardInterrupt(), 130)])
def test_a_question_that_nobody_answers(error, code, mmkd, workspace, monkeypatch):
    def ask(*arguments, **options):
        try:
            raise error
        except (EOFError, KeyboardInterrupt):
            raise typer.Abort from None

    monkeypatch.setattr(*GENERATE, ask)
    done = mmkd("data", "phantom", "-w", workspace)
    assert done.exit_code == code
    assert ("--yes" in done.stderr) == (code == 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("teachers", "ad", "x"), "No such command 'ad'"),
        (("init", "--trust", "95"), "'95' is not one of"),
        (("data", "phantom", "--train", "-1"), "invalid value for '--train'"),
        (("export", "onnx"), "Missing argument 'DIR'"),
        (("export", "open-clip", "x", "--release", "0001", "--student", "s"), "give --release or --student, not both"),
    ],
)
def test_usage_errors(arguments, words, mmkd):
    done = mmkd(*arguments)
    assert done.exit_code == 2
    assert words.lower() in done.stderr.lower()


def test_export_refuses_what_cannot_become_a_teacher(mmkd):
    nameless = mmkd("export", "teacher", "x", "My Radio", "--student", "s", "--domains", "xray")
    assert "mmkd: 'My Radio' cannot be the name of a teacher. Use small letters" in nameless.stderr
    nowhere = mmkd("export", "teacher", "x", "my-radio", "--student", "s")
    assert "mmkd: it is not known where the teacher is good. Name its domains: --domains xray,ct" in nowhere.stderr
    foreign = mmkd("export", "teacher", "src/mmkd_phantom", "radio", "--student", "s", "--domains", "xray", "--into")
    assert "teacher radio does not belong into package mmkd_phantom" in foreign.stderr
    assert "Call it phantom-..., after its plugin" in foreign.stderr
    assert {nameless.exit_code, nowhere.exit_code, foreign.exit_code} == {2}


def test_quickstart_makes_nothing_for_data_that_is_not_there(mmkd, tmp_path):
    done = mmkd("quickstart", "qs", "--data", "nowhere")
    assert done.exit_code == 2
    assert done.stderr == "mmkd: no such file or folder (nowhere). Give a manifest or a folder to --data\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code"), [("teachers list", 0), ("--help", 0), ("--version", 0), ("data check", 2), ("data chek", 2)]
)
def test_a_reader_that_went_away_changes_nothing(arguments, code):
    program = [sys.executable, "-m", "mmkd_core", *arguments.split()]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        _, errors = process.communicate()
    assert process.returncode == code
    assert "BrokenPipe" not in errors
    assert "Traceback" not in errors


def test_an_error_leaves_stdout_empty_for_programs(mmkd, workspace):
    done = mmkd("releases", "show", "0007", "-w", workspace, "--json")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "there is no release '0007'" in done.stderr
    assert json.loads(mmkd("releases", "list", "-w", workspace, "--json").stdout)["releases"] == []


def test_of_processes_that_train_together_one_speaks(mmkd, workspace, monkeypatch):
    from mmkd_core.errors import TrainingError
    from mmkd_core.student.parallel import PeerError

    told = {}
    for error in (TrainingError("it diverged"), PeerError("another process has ended"), KeyboardInterrupt("stopped")):
        for rank in ("0", "1"):
            with monkeypatch.context() as patch:
                patch.setattr(*GENERATE, failing(error))
                patch.setenv("RANK", rank)
                told[type(error).__name__, rank] = mmkd("data", "phantom", "-w", workspace).stderr
    assert told["TrainingError", "0"] == "mmkd: it diverged.\n"
    assert told["TrainingError", "1"] == "mmkd (process 1): it diverged.\n"  # it may have happened to this one alone
    assert told["PeerError", "0"] == "mmkd: another process has ended.\n"
    assert told["KeyboardInterrupt", "0"].startswith("\nstopped; go on with `")
    assert told["PeerError", "1"] == told["KeyboardInterrupt", "1"] == ""
