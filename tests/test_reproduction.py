"""A model is made again from what is stored alone, and what differs is named."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Project

ROOT = Path(__file__).parents[1]


def again(project, *words, name="last"):
    """Make the sum of the toy project again."""
    return project.call("reproduce", name, "--output", "sum_of", "--json", *words)


def steps(done):
    """Steps that were done again, by short name."""
    return {step["step"].rpartition(".")[2]: step for step in done.json["steps"]}


def key(project, step):
    """The key of a step in the last run."""
    return [event for event in project.events() if event.get("step", "").endswith(step) and event.get("key")][-1]["key"]


def stored(project, step, file):
    """A file of a stored result, made writable."""
    place = project.home / "store" / key(project, step) / file
    place.chmod(0o644)
    return place


def test_made_again_after_the_working_tree_changed(ran):
    """The stored code runs, whatever became of the notebooks, and every file is the same."""
    ran.edit("tools", "return number * factor", "return number * factor + 1")
    ran.edit("total", "found = sum(", "found = 1000 + sum(")
    assert ran.call("run", "train", "--until", "make").rc == 0  # The edits are exported now
    done = again(ran, name=ran.runs()[0])
    assert done.rc == 0 and done.json["identical"] and [*steps(done)] == ["total"]
    file = steps(done)["total"]["files"][0]
    assert file["file"] == "sum_of" and file["made"] == file["recorded"] and len(file["made"]) == 64
    assert not [*(ran.home / "reproduced").glob("*")]


def test_all_the_way_from_the_data(ran):
    """Every step before it is done again, and what is in between compared as well."""
    ran.edit("tools", "return number * factor", "return number * factor + 1")
    done = again(ran, "--from-data")
    assert done.rc == 0 and [*steps(done)] == ["make", "double", "total"]
    assert all(not file["difference"] for step in steps(done).values() for file in step["files"])
    text = ran.call("reproduce", "last", "--output", "sum_of", "--from-data").out
    assert text.startswith("sum_of of run ") and "is identical, bit for bit" in text and "doubled/all.json" in text


def test_stored_code_that_was_changed_is_named(ran):
    """A flipped statement is not what the key says, and its effect is shown in the file."""
    file = stored(ran, "double", "code.json")
    file.write_text(file.read_text().replace("return number * factor", "return number * factor + 1"))
    done = again(ran, "--from-data")
    double = steps(done)["double"]
    assert done.rc == 1 and not done.json["identical"]
    assert double["notes"] == ["the stored code of function toy.tools.times is not what the key says"]
    assert double["files"][0]["difference"] == "field [0]: 2 -> 3"
    assert not any(file["difference"] for file in steps(done)["total"]["files"])  # It had its recorded input


def test_a_stored_result_that_was_changed_is_named(ran):
    """Bytes that are not those of the manifest are told apart from a step that made something else."""
    stored(ran, "total", "sum_of").write_text("13")
    done = again(ran)
    assert done.rc == 0  # It is what the manifest says that is made again
    manifest = stored(ran, "total", "manifest.json")
    said = json.loads(manifest.read_text())
    said["files"]["sum_of"][2] = "0" * 64
    manifest.write_text(json.dumps(said))
    done = again(ran)
    assert done.rc == 1 and "the stored file was changed" in steps(done)["total"]["files"][0]["difference"]
    assert "line 1: 13 -> 12" in steps(done)["total"]["files"][0]["difference"]


def test_a_manifest_that_was_changed_is_named(ran):
    """A parameter that was edited in the record no longer makes the key."""
    manifest = stored(ran, "double", "manifest.json")
    manifest.write_text(manifest.read_text().replace('"factor": 2', '"factor": 3'))
    done = again(ran, "--from-data")
    assert done.rc == 1 and "its parts do not make this key" in steps(done)["double"]["notes"][0]


def test_a_step_that_draws_at_random_differs(ran):
    """What cannot be made again is shown with the line that differs."""
    ran.edit("total", "path(sum_of).write_text(str(found))", "import os\npath(sum_of).write_text(os.urandom(8).hex())")
    assert ran.run().rc == 0
    done = ran.call("reproduce", "last", "--output", "sum_of")
    assert done.rc == 1 and "sum_of of run" in done.out and "differs" in done.out and "x sum_of: line 1: " in done.out
    assert [*(ran.home / "reproduced").glob("*/fit.total/log.txt")]  # Kept, to be looked at


def test_pruned_data_and_lost_code(ran):
    """A version that is gone is named; what can be made again is, and lost code cannot."""
    shutil.rmtree(ran.home / "store" / key(ran, "double") / "doubled")
    done = again(ran)
    assert done.rc == 1 and "of `doubled` was pruned" in steps(done)["total"]["notes"][0]
    done = again(ran, "--from-data")
    assert done.rc == 0 and done.json["identical"]
    shutil.rmtree(ran.home / "store" / key(ran, "total"))
    what, _, remedy = ran.call("reproduce", "last", "--output", "sum_of").fault()
    assert "is no longer stored" in what and remedy


def test_a_pruned_model_is_made_again(ran):
    """Pruning removes bytes and keeps code and digests: what is made again is proved by them."""
    assert ran.run("-p", "double.factor=3", "--until", "total").rc == 0
    assert "removed 0" not in ran.call("cache", "prune", "--keep", "1", "--days", "0").out
    assert not (ran.home / "store" / steps(again(ran, name=ran.runs()[0]))["total"]["key"]).exists()
    done = again(ran, "--from-data", name=ran.runs()[0])
    assert done.rc == 0 and done.json["identical"], done.out


def test_wrong_names_are_told(ran):
    """A run, an output or a model that is not there."""
    assert again(ran, name="last~9").rc == 4
    what, _, remedy = ran.call("reproduce", "last").fault()
    assert what == "the run made no `model`" and "sum_of" in remedy


@pytest.mark.slow
def test_the_recorded_lock_is_installed(toy):
    """Where the lock changed, an environment of the old one is built from Git; where Git has none, that is said."""
    lock = toy.root / "environments/default/requirements.txt"
    lock.parent.mkdir(parents=True)
    lock.write_text("# one\n")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "environments"], ["commit", "-qm", "lock"]):
        subprocess.run([*git, *words], cwd=toy.root, check=True)
    assert toy.run().rc == 0
    lock.write_text("# two\n")
    done = again(toy, "--keep")
    assert done.rc == 0 and done.json["runtime"] == []
    assert (Path(done.json["folder"]) / "venv/bin/python").exists()
    shutil.rmtree(toy.root / ".git")
    done = again(toy)
    assert done.rc == 0 and "no commit holds the old one" in done.json["runtime"][0]


@pytest.mark.slow
def test_a_registered_model_is_made_again(tmp_path):
    """A model of the wine project is found by its registered name and made again, after its workload was edited."""
    project = Project(tmp_path / "wine")
    shutil.copytree(
        ROOT / "tests/projects/wine",
        project.root,
        ignore=shutil.ignore_patterns("runs", "mlflow.db", "mlruns", "scratch"),
    )
    done = project.run()
    assert done.rc == 0, done.err
    file = project.root / "nbs/workloads/wine.ipynb"
    file.write_text(file.read_text().replace("label = ", "other = "))
    for name in ("wine", "wine@challenger", "wine/1"):
        done = project.call("reproduce", name, "--json")
        assert done.rc == 0 and done.json["identical"], done.out + done.err
    assert {file["file"].partition("/")[0] for file in done.json["steps"][-1]["files"]} == {"model"}
    what, _, remedy = project.call("reproduce", "beer").fault()
    assert "no registered model `beer`" in what and "wine" in remedy
