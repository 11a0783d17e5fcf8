"""A run that is killed or interrupted costs time and nothing else: no orphan, no lock, no half result, the same end."""

import os
import random
import signal
import subprocess
import time

import pytest
from conftest import SETTINGS, TOY, Project
from test_faults import CHILD, SPIN, bad

STEPS = {"make", "double", "total", "side"}


@pytest.fixture
def expected(finished) -> dict[str, str]:
    "What an undisturbed run ends with."
    return finished.digests()


def finish(running: subprocess.Popen) -> tuple[int, str, str]:
    "Wait for a run that was started."
    out, err = running.communicate(timeout=60)
    return running.returncode, out, err


def kill_until_done(project: Project, moments: list[float], expected: dict[str, str]) -> int:
    "Kill a run at each of these moments, shares of a whole run, and look around each time; count the killed ones."
    began, killed = time.monotonic(), 0
    assert project.run("--force").rc == 0
    whole = time.monotonic() - began
    for moment in moments:
        for place in ("store", "data") if killed % 4 == 3 else ():  # Now and then, begin anew
            subprocess.run(["rm", "-rf", project.home / place], check=True)
        running = project.start("--force")
        time.sleep(moment * whole)
        running.send_signal(signal.SIGKILL)
        killed += finish(running)[0] == -signal.SIGKILL
        project.await_silence()
        for name in (project.home / "data").glob("*"):
            assert name.exists(), f"{name} points to nothing"
        assert project.call("cache", "verify").rc == 0
    done = project.run()
    assert done.rc == 0 and set(done.states) == STEPS, done.err
    assert project.digests() == expected and not project.leftovers()
    assert set(project.run().states.values()) == {"cached"}
    known = [run["status"] for run in project.call("status", "--last", "99", "--json").json["runs"]]
    assert set(known[:-2]) <= {"killed", "passed"} and known[-2:] == ["passed", "passed"]
    return killed


def test_three_kills(toy, expected):
    assert kill_until_done(toy, [0.1, 0.4, 0.7], expected) >= 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2])
def test_many_kills(toy, expected, seed):
    dice = random.Random(seed)
    assert toy.run().rc == 0
    assert kill_until_done(toy, [dice.uniform(0.02, 0.95) for _ in range(15)], expected) >= 10


@pytest.mark.slow
def test_a_kill_while_mlflow_makes_its_tables(toy):
    toy.configure(DEFAULT="jobs = 2")
    running, draft = toy.start("--until", "make"), toy.root / "mlflow.db.new"
    while not draft.exists() or draft.stat().st_size < 30_000:
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    finish(running)
    assert draft.exists() and not (toy.root / "mlflow.db").exists()
    assert toy.run("--until", "make", "--force").rc == 0
    assert (toy.root / "mlflow.db").exists() and not list(toy.root.glob("mlflow.db.new*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kills_while_mlflow_is_written(toy):
    toy.configure(DEFAULT="jobs = 2")
    dice = random.Random(3)
    for _ in range(5):
        running = toy.start("--force", "--until", "make")
        while "+ prep.make" not in running.stderr.readline():
            assert running.poll() is None
        time.sleep(dice.uniform(0.5, 5))
        running.send_signal(signal.SIGKILL)
        finish(running)
        toy.await_silence()
    assert toy.run("--force").rc == 0
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{toy.root}/mlflow.db")
    runs = client.search_runs([found.experiment_id for found in client.search_experiments()], max_results=1000)
    parents = [run.data.tags["mlops_kit.run"] for run in runs if "mlops_kit.run" in run.data.tags]
    ran = [run["run"] for run in toy.call("status", "--json").json["runs"] if run["steps"]]
    assert sorted(parents) == sorted(ran) and all(run.info.status != "RUNNING" for run in runs)


def interrupt(running: subprocess.Popen) -> None:
    "Type Ctrl-C: a terminal sends it to the whole group."
    os.killpg(running.pid, signal.SIGINT)


STUBBORN = bad("stubborn", f"{CHILD}; log(began=1)\n{SPIN}")


@pytest.fixture
def stubborn(tmp_path) -> Project:
    "A project with a step that never ends, holds the interpreter's lock and has a child."
    project = Project(tmp_path / "toy").create(TOY | {"stubborn": STUBBORN})
    project.settings(SETTINGS.replace('"side"]', '"side", "stubborn"]').replace("jobs = 2", "jobs = 3"))
    return project


def begin(project: Project) -> subprocess.Popen:
    "Start a run, and wait until its stubborn step is in the middle, and all others are done."
    running = project.start()
    seen = ""
    while "+ fit.total" not in seen:
        line = running.stderr.readline()
        assert line, seen
        seen += line
    (records,) = project.home.glob("*/bad.stubborn")
    project.await_text(records / "records.jsonl", "began")
    assert any("sleep 777" in process for process in project.processes())
    return running


def test_ctrl_c_kill_and_two_runs_at_once(stubborn):
    running = begin(stubborn)

    # A second run refuses, and names the first
    second = stubborn.call("run", "train")
    assert second.rc == 4
    what, where, remedy = second.fault()
    assert what == f"another run holds this environment (process {running.pid})"
    assert where == str(stubborn.home) and "--wait" in remedy
    assert stubborn.call("status").rc == 0 and stubborn.call("run", "train", "--dry-run").rc == 0

    # Ctrl-C: what is done stays, the rest is written down
    waiting = stubborn.start("--wait", "--until", "total")
    time.sleep(1)
    assert waiting.poll() is None
    interrupt(running)
    started = time.monotonic()
    rc, _, err = finish(running)
    assert rc == 130 and "Traceback" not in err and time.monotonic() - started < 10, err
    assert "interrupted" in err and "- bad.stubborn" in err

    # The one that waited goes on, and needs to run nothing
    rc, _, err = finish(waiting)
    assert rc == 0 and "3 cached" in err, err
    runs = stubborn.call("status", "--json").json["runs"]
    assert [run["status"] for run in runs] == ["interrupted", "passed"]
    states = {step["step"]: step["status"] for step in runs[0]["steps"]}
    assert states["bad.stubborn"] == "skipped" and states["fit.total"] == "executed"
    assert "interrupted" in (stubborn.home / runs[0]["run"] / "report.html").read_text()
    stubborn.await_silence()

    # Kill -9, while the kernel holds the interpreter's lock
    running = begin_again(stubborn)
    running.send_signal(signal.SIGKILL)
    finish(running)
    stubborn.await_silence()

    # Ctrl-C twice ends at once
    running = begin_again(stubborn)
    interrupt(running)
    time.sleep(0.05)
    interrupt(running)
    started = time.monotonic()
    assert finish(running)[0] == 130 and time.monotonic() - started < 2
    stubborn.await_silence()
    assert stubborn.call("run", "train", "--until", "total").rc == 0


def begin_again(project: Project) -> subprocess.Popen:
    "Start a run whose other steps are cached, and wait until the stubborn step is in the middle."
    known = set(project.home.glob("*/bad.stubborn"))
    running = project.start()
    end = time.monotonic() + 30
    while not (fresh := set(project.home.glob("*/bad.stubborn")) - known):
        assert time.monotonic() < end
        time.sleep(0.05)
    project.await_text(fresh.pop() / "records.jsonl", "began")
    return running


def test_a_path_with_blanks_braces_and_other_letters(tmp_path, expected):
    project = Project(tmp_path / "mein {schönes} projekt 試験 100%" / "to y").create(TOY)  # With MLflow: test_runner
    assert project.run().rc == 0
    assert project.digests() == expected
    assert set(project.run().states.values()) == {"cached"}
