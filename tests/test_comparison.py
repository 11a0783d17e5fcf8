"""What runs cost, how two of them differ, and the notes that people leave on them."""

import json

import pytest
from conftest import TOY, Project

WORK = """
import subprocess, sys
held = b"x" * 120_000_000
busy = "import time; end = time.process_time() + 0.4\\nwhile time.process_time() < end: pass"
subprocess.run([sys.executable, "-c", busy], check=True)
"""


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A project that ran twice: the second run has other code, another parameter, and a step that was killed."""
    project = Project(tmp_path_factory.mktemp("pair") / "toy").create(TOY)
    project.edit("total", 'print("adding up")', f'print("adding up")\n{WORK}')
    assert project.run().rc == 0
    project.edit("tools", "return number * factor", "result = number * factor\n    return result")
    project.edit("total", "held = b", "import os, signal\nheld = b")
    project.edit("total", "log(total=found)", "os.kill(os.getpid(), signal.SIGKILL)")
    assert project.run("-p", "double.factor=3").rc == 1
    return project


def costs(project, run):
    """What the steps of a run cost, by short name."""
    steps = [event for event in project.events() if event["event"] == "step" and event["run"] == run]
    return {step["step"].rpartition(".")[2]: step for step in steps}


def test_every_step_tells_its_cost(pair):
    """Seconds, CPU seconds and peak memory of a step count its children, and are known of a killed one."""
    first, second = (costs(pair, run) for run in pair.runs())
    assert 0.4 <= first["total"]["cpu_seconds"] < 30 and first["make"]["cpu_seconds"] < first["total"]["cpu_seconds"]
    assert 120e6 < first["total"]["peak_bytes"] < 1e9 and 0 < first["make"]["peak_bytes"] < 120e6
    killed = second["total"]
    assert killed["status"] == "failed" and killed["cpu_seconds"] >= 0.4 and killed["peak_bytes"] > 120e6


def test_a_reused_step_knows_what_it_cost(pair):
    """The store keeps the cost of a result, and the ledger tells it again when the result is reused."""
    first, second = (costs(pair, run)["make"] for run in pair.runs())
    words = ("made_seconds", "cpu_seconds", "peak_bytes")
    stored = json.loads((pair.home / "store" / first["key"] / "manifest.json").read_text())
    assert second["status"] == "cached" and second["seconds"] < first["made_seconds"]
    assert [second[word] for word in words] == [first[word] for word in words] == [stored[word] for word in words]


def test_report_shows_cost(pair):
    """The table of steps has CPU time and peak memory."""
    page = (pair.home / pair.runs()[0] / "report.html").read_text()
    assert ">CPU</th>" in page and ">Memory</th>" in page and " MB</td>" in page


def test_compare_tells_every_difference(pair):
    """Parameters, data, code of the failed step too, metrics, gates and cost."""
    done = pair.call("compare", "last~1", "last", "--json")
    found = done.json
    assert found["parameters"] == [{"step": "prep.double", "name": "factor", "old": 2, "new": 3}]
    assert {(row["step"], row["kind"], row["name"]) for row in found["data"]} == {
        ("prep.double", "outputs", "doubled"),
        ("fit.total", "inputs", "doubled"),
        ("fit.total", "outputs", "sum_of"),
    }
    code = {row["unit"]: row for row in found["code"]}
    assert "-    return number * factor" in code["function toy.tools.times"]["diff"]
    assert "+os.kill(os.getpid(), signal.SIGKILL)" in code["run cell 2 of fit.total"]["diff"]
    metric = found["metrics"][0]
    assert (metric["name"], metric["old"]["value"], metric["new"]["value"]) == ("total", 12, None)
    cost = {row["step"]: row for row in found["cost"]}
    assert cost["fit.total"]["old"]["cpu_seconds"] >= 0.4 <= cost["fit.total"]["new"]["cpu_seconds"]
    assert not found["warnings"]


def test_compare_for_people(pair, tmp_path):
    """The text names what differs; the page says first what went wrong."""
    text = pair.call("compare").out
    assert "double.factor: 2 -> 3" in text and "total: executed -> failed (KernelDied:" in text
    assert "total (total): passed -> not checked" in text
    done = pair.call("compare", pair.runs()[0], pair.runs()[1], "--html", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert done.rc == 0 and "<h1>Total failed in the new run</h1>" in page and "result = number * factor" in page


def test_equal_runs(ran, tmp_path):
    """Two runs of the same differ in nothing."""
    assert ran.run().rc == 0
    found = ran.call("compare", "--json").json
    assert [found[kind] for kind in ("parameters", "data", "code", "warnings")] == [[], [], [], []]
    ran.call("compare", "--html", "page.html")
    assert "<h1>Nothing differs</h1>" in (ran.root / "page.html").read_text()


def test_compare_reads_intervals_and_different_pipelines(ran):
    """Intervals of evaluation.json stand beside the metric; steps of another pipeline are matched by name."""
    place = ran.data("sum_of").resolve()
    models = {"models": {"model": {"total": {"value": 12, "low": 11, "high": 13}}}}
    place.parent.chmod(0o755)
    place.unlink()
    place.mkdir()
    (place / "evaluation.json").write_text(json.dumps(models))
    ran.configure(pipeline__other='steps = ["make"]')
    ran.edit("make", "range(1, rows + 1)", "range(rows)")
    assert ran.call("run", "other").rc == 0
    found = ran.call("compare", "--json").json
    assert "different pipelines, train and other" in found["warnings"][0]
    assert any(text.startswith("Only run") and "double" in text for text in found["warnings"])
    total = next(row for row in found["metrics"] if row["name"] == "total")
    assert (total["old"]["low"], total["old"]["high"], total["new"]["value"]) == (11, 13, None)


def test_compare_says_what_was_pruned(pair, tmp_path):
    """Pruning removes results; code and digests are still compared, and the rest is named."""
    project = pair.copy(tmp_path / "toy")
    assert project.run("--until", "double").rc == 0
    project.call("cache", "prune", "--keep", "1", "--days", "0")
    found = project.call("compare", project.runs()[0], "last", "--json").json
    assert any("results of double" in text and "were pruned" in text for text in found["warnings"])
    assert "function toy.tools.times" in {row["unit"] for row in found["code"]}


def test_unknown_runs_are_named(ran):
    """A run that is not there is an error with a remedy."""
    what, _, remedy = ran.call("compare", "last~7").fault()
    assert "there is no run `last~7`" in what and "mlops-kit status" in remedy
    assert ran.call("compare", "2099", "last").rc == 4


def test_notes(ran):
    """A note is shown by status, report and comparison, and nothing is lost by a second one."""
    name = ran.runs()[-1]
    assert ran.call("note", name[:15], "Is <b>three</b> enough?").rc == 0
    assert ran.call("note", "last", "It is.").rc == 0
    assert "note: Is <b>three</b> enough?\n    note: It is." in ran.call("status").out
    page = (ran.home / name / "report.html").read_text()
    assert "Is &lt;b&gt;three&lt;/b&gt; enough?" in page and "It is." in page
    assert [note["text"] for note in ran.call("compare", "last", "last", "--json").json["old"]["notes"]][1] == "It is."
    assert ran.call("note", "last", " ").rc == 2


@pytest.mark.slow
def test_mlflow_has_cost_and_note(toy):
    """A tracked run has CPU seconds and peak memory of each step, and its notes as the description."""
    from mlflow import MlflowClient

    toy.settings(
        (toy.root / "settings.ini").read_text().replace("tracking_uri =", "tracking_uri = sqlite:///mlflow.db")
    )
    assert toy.run().rc == 0
    assert toy.call("note", "last", "A first try.").rc == 0
    client = MlflowClient(f"sqlite:///{toy.root}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    steps = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert len(steps) == 4 and all({"cpu_seconds", "peak_bytes"} <= run.data.metrics.keys() for run in steps)
    (parent,) = [run for run in runs if run not in steps]
    assert parent.data.tags["mlflow.note.content"] == "A first try."
    (toy.root / "mlflow.db").write_bytes(b"not a database" * 100)
    done = toy.call("note", "last", "Kept all the same.")
    assert done.rc == 4 and "Kept all the same." in toy.call("status").out
