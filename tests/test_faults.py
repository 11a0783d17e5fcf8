"""What goes wrong: each fault has a named error with its place and remedy, or the run goes on; nothing half stays."""

import contextlib
import ctypes
import json
import os
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from conftest import DOUBLE, MAKE, SIDE, TOY, Done, Project, lacking

from mlops_kit.store import Memo


def refuse(project: Project, *words: str, rc: int = 2) -> tuple[str, str, str]:
    "Run, and expect that it is refused before a step starts."
    done = project.call("run", "train", *words)
    assert done.rc == rc, done.err
    assert "running" not in done.err and not project.processes()
    return done.fault()


# The notebook, settings and graph are wrong: nothing runs


def side(old: str, new: str) -> dict[str, str]:
    assert SIDE.count(old) == 1
    return {"side": SIDE.replace(old, new)}


PARAMETERS = '%% parameters\nnote: str = "hello"  # What is written\naside: Output = "scratch/side"  # The note\n'
RUN = "%% md\n## Run\n%%\npath(aside).write_text(note)\n"
CIRCLE = {
    "make": MAKE.replace("rows: int = 3", 'sum_of: Input = "samples/sum"').replace("(rows)))", "(3)))"),
}


@pytest.mark.parametrize(
    "notebooks, what, where, remedy",
    [
        (
            side("write_text(note)", "write_text(note"),
            "syntax error: '(' was never closed",
            "side.ipynb, cell 6",
            "Mend",
        ),
        (side(PARAMETERS, ""), "no cell tagged `parameters`", "side.ipynb", "Tag the cell"),
        (side(PARAMETERS, PARAMETERS * 2), "two cells are tagged `parameters`", "cells 4 and 5", "Keep one."),
        (side('= "hello"', '= "hel" + "lo"'), "the default of `note` is computed", "cell 4, line 1", "name: type ="),
        (side(RUN, "%%\n1 + 1\n"), "no code under `## Run`", "side.ipynb", "Add the section `## Run`"),
        (side("note: str", "note: string"), "unknown type `string`", "cell 4, line 1", "Did you mean `str`?"),
        (side("aside: Output", "numbers: Output"), "`numbers` is an output of both", ".ipynb", "Rename one"),
        (
            {"double": DOUBLE.replace("numbers", "nombers")},
            "nothing makes the input `nombers` of step `prep.double`",
            "double.ipynb",
            "Did you mean `numbers`?",
        ),
        (CIRCLE, "the steps form a cycle: ", "inputs and outputs", "Rename the input or the output"),
        (
            {"side": "%% md\n# Broken\n%%\n#| default_exp prep.make\n" + PARAMETERS + RUN},
            "two notebooks",
            "make",
            "Give",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_broken_notebook_is_refused(tmp_path, notebooks, what, where, remedy):
    project = Project(tmp_path / "toy").create(TOY | notebooks)
    for part, expected in zip(refuse(project), (what, where, remedy), strict=True):
        assert expected in part
    assert not (project.home / "ledger.jsonl").exists()


def test_a_file_that_is_no_notebook_is_refused(toy):
    (toy.root / "nbs" / "side.ipynb").write_text('{"cells": [')
    what, where, remedy = refuse(toy)
    assert "not a notebook" in what and where.endswith("side.ipynb") and remedy == "Restore it from git."


@pytest.mark.parametrize(
    "section, line, what, where, remedy",
    [
        ("DEFAULT", "jbs = 3", "there is no setting or parameter `jbs`", "settings.ini [DEFAULT] jbs", "`jobs`"),
        (
            "DEFAULT",
            "jobs = many",
            "`many` is no value for `jobs`",
            "settings.ini [DEFAULT] jobs",
            "Write a value of that type: Steps",
        ),
        ("dev", "double.factr = 3", "no parameter `factr`", "settings.ini [dev] double.factr", "`factor`"),
        ("step.duble", "timeout = 3", "there is no step `duble`", "settings.ini [step.duble]", "`double`"),
        ("step.double", "timeout = soon", "`soon` is no value", "settings.ini [step.double] timeout", "Seconds"),
    ],
)
def test_wrong_settings_are_refused(ran, section, line, what, where, remedy):
    ran.configure(**{section.replace(".", "__"): "tracking_uri =\n" * (section == "DEFAULT") + line})
    for part, expected in zip(refuse(ran), (what, where, remedy), strict=True):
        assert expected in part


def test_an_input_that_is_not_there_is_refused_before_anything_runs(toy):
    toy.configure(pipeline__train='steps = ["double", "side"]\ndouble.numbers = data/absent.json')
    what, where, remedy = refuse(toy)
    assert what == "the input `numbers` of step `prep.double` is not there"
    assert where.endswith("data/absent.json") and remedy == "Mend `numbers` in settings.ini [pipeline.train]."


def test_notebooks_that_cannot_be_exported_are_named(toy):
    (toy.root / "toy").write_text("a file where the package should be")
    what, where, remedy = refuse(toy)
    assert "the notebooks cannot be exported" in what and where.endswith("nbs") and "nbdev-export" in remedy


# A step goes wrong while it runs. All of them in one run: they must not disturb each other


def bad(name: str, *cells: str, parameters: str = "", output: str = "made") -> str:
    "A step that has an output and does something bad."
    return "\n".join(
        [
            f"%% md\n# {name}\n> Do something bad.\n%%\n#| default_exp bad.{name}",
            "%%\nimport os, signal, subprocess, sys, time\nfrom mlops_kit.steps import Input, Output, Probe",
            "from mlops_kit.steps import gate, log, path",
            f'%% parameters\n{output}_{name}: Output = "scratch/{name}"  # Something\n{parameters}',
            "%% md\n## Run",
            *(f"%%\n{cell}" for cell in cells),
        ]
    )


SPIN = "import re; re.match(r'(a+)+$', 'a' * 64 + 'b')"  # For ever, and without giving up the interpreter's lock
CHILD = "subprocess.Popen(['sleep', '777'])"
BAD = {
    "silent": bad("silent", "print('nothing to write')"),
    "hollow": bad("hollow", "path(made_hollow).write_text('')"),
    "linking": bad("linking", "path(made_linking).symlink_to(path('settings.ini'))"),
    "greedy": bad(
        "greedy",
        "os.chmod(numbers, 0o644); path(numbers).write_text('[9]'); path(made_greedy).write_text('9')",
        parameters='numbers: Input = "samples/numbers"  # Numbers',
    ),
    "killed": bad(
        "killed",
        "log(seen=41); gate('seen', 41, at_least=1); print('last words'); path(made_killed).write_text('half')",
        "os.kill(os.getpid(), signal.SIGKILL)",
    ),
    "late": bad("late", f"{CHILD}; log(began=1); path(made_late).write_text('half')\n{SPIN}"),
    "quits": bad("quits", "path(made_quits).write_text('half')", "sys.exit(0)", "pass"),
    "loud": bad(
        "loud", "for _ in range(200): print('x' * 100_000)\nprint('the end')", "path(made_loud).write_text('whole')"
    ),
    "unsure": bad("unsure", "pass", parameters='now: Probe = "toy.broken:tide"  # Fails'),
    "broken": "%% md\n# Broken\n%%\n#| default_exp broken\n%%\n#| export\ndef tide(parameters):\n    return 1 / 0\n",
    "orphaned": bad("orphaned", f"{CHILD}; os.kill(os.getppid(), signal.SIGKILL)\n{SPIN}"),
}
STEPS = [name for name in BAD if name != "broken"]
EXPECTED = {  # {step: (type, what, where, remedy)}
    "silent": ("StepError", "did not write its output `made_silent`", "bad.silent", "Write to the path"),
    "hollow": ("StepError", "wrote an empty output `made_hollow`", "bad.hollow", "at least one file"),
    "linking": ("StepError", "wrote a link into its output", "bad.linking", "Copy the content"),
    "greedy": ("StepError", "input `numbers` changed while step `bad.greedy` ran", "greedy.ipynb", "read only"),
    "killed": ("KernelDied", "the step's process was killed", "killed.ipynb, cell 7", "memory"),
    "late": ("Timeout", "ran longer than 4 s", "late.ipynb, cell 6", "[step.bad.late]"),
    "quits": ("SystemExit", "called sys.exit(0)", "quits.ipynb, cell 7", "remove the call"),
    "unsure": ("StepError", "ZeroDivisionError", "probe `toy.broken:tide`", "Mend what it asks"),
    "orphaned": ("WorkerDied", "the step's worker was killed", "bad.orphaned", "workers.log"),
}
BAD_SETTINGS = f"""
[DEFAULT]
tracking_uri =
jobs = 2

[step.late]
timeout = 4

[pipeline.train]
steps = {json.dumps(["make", "side", *STEPS])}
"""


def check_they_are_named(done: Done) -> None:
    for step, expected in EXPECTED.items():
        error = done.steps[step]["error"]
        assert done.states[step] == "failed"
        for part, text in zip(("type", "message", "where", "remedy"), expected, strict=True):
            assert text in error[part], (step, error)


def check_they_stop_nothing_else(project: Project, done: Done) -> None:
    assert done.rc == 1 and "Traceback" not in done.err
    assert {name for name, state in done.states.items() if state == "executed"} == {"make", "side", "loud"}
    assert {place.name for place in (project.home / "data").iterdir()} == {"numbers", "aside", "made_loud"}
    assert not project.leftovers()
    project.await_silence(1)


def check_what_they_logged_stays(project: Project, done: Done) -> None:
    killed = done.steps["killed"]
    assert killed["metrics"] == {"seen": 41.0} and killed["gates"][0]["passed"]
    assert project.call("logs", "last", "killed").out.endswith("last words\n")
    page = (project.home / done.json["run"] / "bad.killed" / "notebook.html").read_text()
    assert "KernelDied" in page and done.steps["late"]["metrics"] == {"began": 1.0}


def check_long_prints_are_cut(project: Project, done: Done) -> None:
    folder = project.home / done.json["run"] / "bad.loud"
    assert (folder / "notebook.ipynb").stat().st_size < 200_000 and (folder / "notebook.html").stat().st_size < 2e6
    assert 4e6 < (folder / "log.txt").stat().st_size < 6e6
    assert "left out" in (folder / "notebook.ipynb").read_text() and "left out" in (folder / "log.txt").read_text()
    assert project.data("made_loud").read_text() == "whole"


def check_mending_them(project: Project) -> None:
    for name in ("greedy", "quits"):
        project.write(name, BAD[name].replace("; path(numbers).write_text('[9]')", "").replace("sys.exit(0)", "pass"))
    project.settings(BAD_SETTINGS.replace(json.dumps(STEPS)[1:-1], '"greedy", "quits", "loud"'))
    done = project.run()
    executed = {name for name, state in done.states.items() if state == "executed"}
    assert done.rc == 0 and executed == {"make", "greedy", "quits"}, done.err
    assert done.steps["make"]["reason"] == "stored file numbers was changed"
    assert json.loads(project.data("numbers").read_text()) == [1, 2, 3]
    assert project.data("made_quits").read_text() == "half" and project.call("cache", "verify").rc == 0


def test_steps_that_go_wrong(tmp_path):
    project = Project(tmp_path / "toy").create(BAD | {"make": MAKE, "side": SIDE}, BAD_SETTINGS)
    done = project.run()
    check_they_are_named(done)
    check_they_stop_nothing_else(project, done)
    check_what_they_logged_stays(project, done)
    check_long_prints_are_cut(project, done)
    check_mending_them(project)


# The disk


@pytest.fixture
def small_disk(toy):
    "A project whose `home` is a disk of six megabytes."
    place = toy.root / "runs"
    place.mkdir()
    mounted = (
        os.getuid() == 0 and not subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "none", place]).returncode
    )
    if not mounted:
        lacking("the full disk is not tested: only root can mount a tmpfs")
    yield toy
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk(small_disk):
    toy = small_disk
    toy.write("side", SIDE.replace("write_text(note)", "write_text(note * 4_000_000)"))
    done = toy.run("--jobs", "1")
    assert done.rc == 4 and done.states == dict.fromkeys(("make", "double", "total"), "executed") | {"side": "failed"}
    what, where, remedy = done.fault()
    assert (
        "No space left on device" in what
        and where.startswith("fit.side: side.ipynb, cell 6")
        and "Free space" in remedy
    )
    assert toy.events()[-1]["status"] == "failed" and not toy.leftovers()

    filler = toy.root / "runs" / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(512))
    done = toy.run("--force")
    assert done.rc == 4 and "error" in done.json
    what, where, remedy = done.fault()
    assert "No space left on device" in what and str(toy.root / "runs") in where and "Free space" in remedy
    toy.await_silence()

    filler.unlink()
    toy.write("side", SIDE)
    done = toy.run()
    assert done.states == dict.fromkeys(("make", "double", "total"), "cached") | {"side": "executed"}
    assert toy.call("cache", "verify").rc == 0


def obey_permissions() -> None:
    "Give up root's right to write anywhere, not its own files: Python may lie in a folder of root."
    for right in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        assert ctypes.CDLL(None).prctl(24, right, 0, 0, 0) == 0  # PR_CAPBSET_DROP: gone with the next exec


def test_a_folder_that_cannot_be_written(ran):
    as_user = obey_permissions if os.getuid() == 0 else None
    subprocess.run(["chmod", "-R", "a-w", ran.root], check=True)
    try:
        for words in (["run", "train"], ["run", "train", "--force"], ["cache", "prune"]):
            done = ran.call(*words, preexec_fn=as_user)
            assert done.rc == 4, done.err
            what, where, remedy = done.fault()
            assert what == "cannot write: Permission denied" and str(ran.root) in where and "the right" in remedy
        assert ran.call("status", preexec_fn=as_user).rc == 0 and ran.call("settings", preexec_fn=as_user).rc == 0
    finally:
        subprocess.run(["chmod", "-R", "u+w", ran.root], check=True)
    assert set(ran.run().states.values()) == {"cached"}


# What is stored was damaged


def flip(file: Path, keep_times: bool = False) -> None:
    "Change one byte."
    stat, content = file.stat(), bytearray(file.read_bytes())
    content[0] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)
    if keep_times:
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_a_flipped_byte_is_never_reused(ran, finished):
    flip(ran.data("numbers").resolve())
    planned = ran.run("--dry-run")
    assert planned.steps["make"]["reason"] == "stored file numbers was changed"
    done = ran.run()
    assert done.states == dict.fromkeys(("double", "total", "side"), "cached") | {"make": "executed"}
    assert ran.digests() == finished.digests() and ran.call("cache", "verify").rc == 0


def test_a_flipped_byte_with_its_old_time_is_found_by_verify(ran, finished):
    flip(ran.data("numbers").resolve(), keep_times=True)
    refused = ran.call("cache", "verify")
    assert refused.rc == 4
    what, where, remedy = refused.fault()
    assert "stored file numbers was changed" in what and where.endswith("store") and "made anew" in remedy
    ran.configure(pipeline__again='steps = ["double"]')
    stored = ran.call("run", "again")
    assert stored.rc == 2 and "the stored input `numbers` of step `prep.double` is damaged" in stored.fault()[0]
    assert ran.run().states["make"] == "executed"
    assert ran.digests() == finished.digests() and ran.call("cache", "verify", "--json").json == {"faults": {}}


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda place: (place / "all.json").unlink(), "stored file doubled/all.json is gone"),
        (lambda place: (place / "more.json").write_text("1"), "foreign file doubled/more.json"),
        (lambda place: (place.parent / "manifest.json").write_text('{"sch'), "its last result is no longer stored"),
        (lambda place: shutil.rmtree(place.parent), "its last result is no longer stored"),
    ],
)
def test_a_damaged_result_is_not_reused(ran, damage, reason):
    damage(ran.data("doubled").resolve())
    planned = ran.run("--dry-run")
    assert planned.states["double"] == "would run" and reason in planned.steps["double"]["reason"]


def test_a_truncated_ledger_line_costs_that_line_alone(ran):
    file = ran.home / "ledger.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert "killed" not in ran.call("status").out
    assert set(ran.run().states.values()) == {"cached"}
    runs = ran.call("status", "--json").json["runs"]
    assert [run["status"] for run in runs] == ["killed", "passed"] and len(runs[0]["steps"]) == 4


def test_a_ledger_of_a_later_kit_is_refused(ran):
    file = ran.home / "ledger.jsonl"
    file.write_text(file.read_text().replace('"schema": 1', '"schema": 99'))
    what, where, remedy = refuse(ran, rc=4)
    assert "schema 99" in what and where.endswith("ledger.jsonl") and "Update mlops-kit" in remedy


def test_a_corrupt_mlflow_store_costs_nothing_but_its_own_entry(ran):
    ran.configure(DEFAULT="jobs = 2")
    database = ran.root / "mlflow.db"
    database.write_bytes(b"this is no database" * 1000)
    started = time.monotonic()
    done = ran.run("-p", "side.note=one")
    assert time.monotonic() - started < 60, "MLflow by itself tries again for minutes"
    assert done.rc == 4 and done.states["side"] == "executed" and done.json["status"] == "passed"
    what, where, remedy = done.fault()
    assert "MLflow's store cannot be used: file is not a database" in what and where.endswith("mlflow.db")
    assert "Move a damaged mlflow.db away" in remedy and done.json["error"]["what"] == what
    database.unlink()
    again = ran.run("-p", "side.note=two")
    assert again.rc == 0
    assert tracked(database) == sorted(f"train {run}" for run in ran.runs()), "also what it missed before"

    # A kill while MLflow is written leaves half a run there: it is written anew, once
    with sqlite3.connect(database) as connection:
        connection.execute("update runs set status = 'RUNNING' where name = ?", [f"train {again.json['run']}"])
    ledger = ran.home / "ledger.jsonl"
    ledger.write_text("".join(f"{json.dumps(event)}\n" for event in ran.events()[:-1]))
    assert ran.run("-p", "side.note=three").rc == 0
    assert tracked(database) == sorted(f"train {run}" for run in ran.runs())


def tracked(database: Path) -> list[str]:
    "Runs of pipelines that MLflow shows."
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select name from runs where lifecycle_stage = 'active'")
        return sorted(name for (name,) in rows if name.startswith("train "))


# The clock


def test_times_of_files_decide_nothing(ran):
    for file in (*ran.root.glob("nbs/*.ipynb"), *ran.root.glob("toy/**/*.py"), ran.root / "settings.ini"):
        for moment in (1, time.time() + 10**8):
            os.utime(file, (moment, moment))
    assert set(ran.run().states.values()) == {"cached"}
    ran.edit("tools", "number * factor", "number + factor")
    os.utime(ran.root / "nbs" / "tools.ipynb", (1, 1))  # Written after the clock was set back
    assert ran.run("--dry-run").states["double"] == "would run"


def test_an_input_that_changed_under_its_old_time_is_seen(ran):
    ran.configure(pipeline__train='steps = ["double"]\ndouble.numbers = mine.json')
    mine = ran.root / "mine.json"
    mine.write_text("[7]")
    os.utime(mine, (10**9, 10**9))
    assert ran.run().states == {"double": "executed"}
    time.sleep(2.1)  # From now on its digest is remembered
    assert ran.run().states == {"double": "cached"}
    mine.write_text("[8]")
    os.utime(mine, (10**9, 10**9))
    assert ran.run("--dry-run").steps["double"]["reason"] == "input numbers changed"


@pytest.mark.parametrize("shift", [-(10**8), 0, 10**8])
def test_a_digest_is_remembered_only_when_the_file_had_time_to_rest(tmp_path, monkeypatch, shift):
    file, memo = tmp_path / "file", Memo(tmp_path / "memo.json")
    file.write_text("1")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + shift)
    first = memo.digest(file)
    assert bool(memo.known) == (shift > 0)
    file.write_text("2")
    assert memo.digest(file) != first
