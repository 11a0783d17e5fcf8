"""What a run does: each test drives the command line of a tiny project, as a user does."""

import json
import os
import sqlite3
from pathlib import Path

import pytest
from conftest import SETTINGS, TOTAL, TOY, Project

ALL = {"make", "double", "total", "side"}


def states(**changed: str) -> dict[str, str]:
    "Every step of the toy is cached, but for these."
    return dict.fromkeys(ALL, "cached") | changed


# What runs, and what does not


def test_second_run_executes_nothing(ran):
    done = ran.run()
    assert done.rc == 0 and done.states == states()
    assert set(done.json) == {"run", "status", "seconds", "report", "steps"} and done.json["status"] == "passed"
    wanted = {"name", "status", "seconds", "cpu_seconds", "peak_bytes", "key", "reason", "gates", "metrics", "error"}
    assert all(set(step) == wanted for step in done.json["steps"])
    assert done.steps["total"]["metrics"] == {"total": 12.0} and done.steps["total"]["gates"][0]["passed"]
    assert Path(done.json["report"]).stat().st_size > 1000
    assert [path.name for path in Path(done.json["report"]).parent.iterdir()] == ["report.html"]
    assert not ran.leftovers() and not ran.processes()


def test_edges_follow_names_not_the_order_of_the_list(finished):
    assert [event["step"] for event in finished.events() if event["event"] == "step"][-1] == "fit.total"
    assert "reads  doubled (from prep.double)" in finished.call("graph", "train").out


def test_edits_of_prose_examples_and_comments_rerun_nothing(ran):
    ran.edit("make", "> Make numbers.", "> Make many numbers, one after the other.")
    ran.edit("make", "assert count(2) == [1, 2]", "assert count(1) == [1]")
    ran.edit("make", "# How many numbers", "# Count of numbers")
    ran.edit("tools", '"Multiply."', '"Multiply two numbers."')
    ran.edit("tools", "return number * factor", "# A reason\n    return number * factor")
    ran.edit("tools", "return 1", "return 2")  # `double` imports this function and does not use it
    done = ran.run()
    assert done.states == states(), done.err


def test_an_edited_function_is_exported_named_and_reruns_what_uses_it(ran):
    ran.edit("tools", "return number * factor", "return factor * number")
    planned = ran.run("--dry-run")
    assert planned.states == states(double="would run", total="waits")
    assert "times" in planned.steps["double"]["reason"]
    done = ran.run()
    assert done.states == states(double="executed"), "its output is the same, so what follows stays cached"
    assert done.steps["double"]["reason"] == planned.steps["double"]["reason"]

    ran.edit("tools", "return factor * number", "return factor * number + 1")
    done = ran.run()
    assert done.states == states(double="executed", total="executed")
    assert done.steps["total"]["reason"] == "input doubled changed"
    assert json.loads((ran.data("doubled") / "all.json").read_text()) == [3, 5, 7]


def test_an_old_result_is_found_again(ran):
    ran.edit("tools", "number * factor", "number + factor")
    assert ran.run("--until", "double").states["double"] == "executed"
    ran.edit("tools", "number + factor", "number * factor")
    assert ran.run().states == states()
    assert json.loads((ran.data("doubled") / "all.json").read_text()) == [2, 4, 6]


def test_a_missing_or_foreign_module_is_exported_again(ran):
    (ran.root / "toy" / "tools.py").unlink()
    (ran.root / "toy" / "prep" / "make.py").write_text("raise SystemExit('edited by hand')")
    assert ran.run().states == states()
    assert "def times" in (ran.root / "toy" / "tools.py").read_text()
    assert "SystemExit" not in (ran.root / "toy" / "prep" / "make.py").read_text()


def test_a_module_of_unchanged_size_and_time_is_not_taken_for_unchanged(ran):
    module = ran.root / "toy" / "tools.py"
    before = module.stat()
    assert list((module.parent / "__pycache__").glob("tools.*")), "Python keeps a compiled copy with size and time"
    ran.edit("tools", "number * factor", "number + factor")
    ran.run("--dry-run")
    os.utime(module, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert module.stat().st_size == before.st_size and ran.run().states["double"] == "executed"
    assert json.loads((ran.data("doubled") / "all.json").read_text()) == [3, 4, 5]


# Parameters


def test_precedence_of_parameters(ran):
    def factor(*words: str) -> str:
        return ran.run("--dry-run", "--until", "double", *words).steps["double"]["reason"]

    layers: dict[str, str] = {}
    for value, section, lines in [
        (3, "DEFAULT", "tracking_uri =\nfactor = 3"),
        (4, "pipeline__train", 'steps = ["total", "double", "make", "side"]\ndouble.factor = 4'),
        (5, "dev", "double.factor = 5"),
    ]:
        layers[section] = lines
        ran.configure(**layers)
        assert factor() == f"parameter factor changed: 2 -> {value}"
    assert factor("-p", "double.factor=6") == "parameter factor changed: 2 -> 6"
    told = json.loads(ran.call("settings", "--json").out)["train: prep.double"]["factor"]
    assert told == {"value": 5, "origin": "settings.ini [dev]"}


def test_a_parameter_reaches_its_step(ran):
    done = ran.run("-p", "double.factor=5", "--until", "double")
    assert done.states == {"make": "cached", "double": "executed"}
    assert json.loads((ran.data("doubled") / "all.json").read_text()) == [5, 10, 15]


@pytest.mark.parametrize(
    "words, what, where, remedy",
    [
        (
            "run train -p double.factor=oops",
            "`oops` is no value for `factor`, which takes int",
            "-p",
            "Write a value of that type: What",
        ),
        ("run train -p double.factr=3", "step `prep.double` has no parameter `factr`", "-p", "Did you mean `factor`?"),
        ("run train -p factor", "`factor` sets nothing", "-p", "Write -p step.parameter=value"),
        ("run tran", "there is no pipeline `tran`", "settings.ini", "Did you mean `train`?"),
        ("run train --env prd", "there is no environment `prd`", "settings.ini", "Did you mean `prod`?"),
        ("run train --from duble", "there is no step `duble`", "--from", "Did you mean `double`?"),
        ("run train --from total --until make", "no step lies between", "--from and --until", "Swap the two"),
        ("run train -p numbers=x", "is an output of `prep.make`", "-p", "Remove the line."),
    ],
)
def test_a_wrong_word_explains_itself_and_nothing_runs(finished, words, what, where, remedy):
    before = finished.events()
    done = finished.call(*words.split())
    assert done.rc == 2
    for part, expected in zip(done.fault(), (what, where, remedy), strict=True):
        assert expected in part
    assert finished.events() == before
    as_json = finished.call(*words.split(), "--json")
    assert as_json.rc == 2 and what in as_json.json["error"]["what"] and remedy in as_json.json["error"]["remedy"]


# Parts of a pipeline, and several of them


def test_from_until_and_force(ran):
    assert set(ran.run("--dry-run", "--from", "double").states) == {"double", "total"}
    assert set(ran.run("--dry-run", "--from", "double", "--until", "double").states) == {"double"}
    done = ran.run("--force", "--until", "make")
    assert done.states == {"make": "executed"} and done.steps["make"]["reason"] == "forced"
    assert ran.run().states == states()


def test_inputs_from_another_pipeline_and_from_a_path(ran):
    ran.configure(pipeline__again='steps = ["total"]', pipeline__mine='steps = ["double"]\ndouble.numbers = mine.json')
    assert ran.call("run", "again", "--json").states == {"total": "cached"}
    (ran.root / "mine.json").write_text("[7]")
    assert ran.call("run", "mine", "--json").states == {"double": "executed"}
    assert json.loads((ran.data("doubled") / "all.json").read_text()) == [14]
    again = ran.call("run", "again", "--json", "--dry-run")
    assert again.steps["total"]["reason"] == "input doubled changed", "the newest of its name is what counts"
    (ran.root / "mine.json").write_text("[8]")
    assert ran.call("run", "mine", "--dry-run", "--json").steps["double"]["reason"] == "input numbers changed"


def test_environments_share_nothing(ran):
    before = ran.digests()
    done = ran.run("--env", "test", "-p", "make.rows=5", "--until", "make")
    assert done.states == {"make": "executed"} and done.steps["make"]["reason"] == "never ran in this environment"
    assert json.loads((ran.root / "runs" / "test" / "data" / "numbers").read_text()) == [1, 2, 3, 4, 5]
    assert ran.digests() == before and ran.run().states == states()
    refused = ran.call("run", "train", "--env", "test", "--from", "total")
    assert refused.rc == 2 and "nothing makes the input `doubled`" in refused.fault()[0]


MEET = """
%% md
# NAME
> Wait for the other.
%%
#| default_exp fit.NAME
%%
import time
from mlops_kit.steps import Output, path
%% parameters
NAME: Output = "scratch/NAME"  # Proof
%% md
## Run
%%
path("here-NAME").write_text("")
end = time.time() + 30
while not path("here-OTHER").exists():
    assert time.time() < end, "the other did not run meanwhile"
    time.sleep(0.05)
path(NAME).write_text("met")
"""


def test_steps_that_do_not_wait_for_each_other_run_at_the_same_time(tmp_path):
    settings = SETTINGS + '\n[pipeline.meet]\nsteps = ["left", "right"]\n'
    left, right = (
        MEET.replace("NAME", name).replace("OTHER", other) for name, other in (("left", "right"), ("right", "left"))
    )
    project = Project(tmp_path / "toy").create({"left": left, "right": right, "tools": TOY["tools"]}, "")
    project.settings(settings.replace('steps = ["total", "double", "make", "side"]', 'steps = ["left"]'))
    done = project.call("run", "meet", "--json")
    assert done.rc == 0 and done.states == {"left": "executed", "right": "executed"}, done.err


# Gates, resume


AFTER = (
    TOTAL.replace("fit.total", "fit.after")
    .replace("doubled", "sum_of")
    .replace('sum_of: Output = "scratch/sum"', 'last: Output = "scratch/last"')
    .partition("%% md\n## Run")[0]
    + "%% md\n## Run\n%%\npath(last).write_text(path(sum_of).read_text())\n"
)


def test_a_failed_gate_stops_what_depends_on_it_and_nothing_else(tmp_path):
    project = Project(tmp_path / "toy").create(TOY | {"after": AFTER})
    project.configure(pipeline__train='steps = ["total", "double", "make", "side", "after"]\ntotal.bar = 100')
    done = project.run()
    assert done.rc == 3 and done.json["status"] == "failed"
    assert done.states == dict.fromkeys(ALL, "executed") | {"total": "failed", "after": "skipped"}
    assert done.steps["after"]["reason"] == "waits for fit.total"
    what, where, remedy = done.fault()
    assert what == "total is 12; the bar is at least 100" and remedy == "Make more numbers."
    assert where == "fit.total: total.ipynb, cell 7, line 3"

    total = done.steps["total"]
    assert total["error"]["type"] == "GateFailed" and total["metrics"] == {"total": 12.0}
    assert [gate["passed"] for gate in total["gates"]] == [False]
    folder = project.home / done.json["run"] / "fit.total"
    assert {file.name for file in folder.iterdir()} == {
        "code.json",
        "log.txt",
        "notebook.html",
        "notebook.ipynb",
        "records.jsonl",
    }
    assert "adding up" in project.call("logs", "last", "total").out
    assert "Make more numbers." in Path(done.json["report"]).read_text()
    assert {place.name for place in (project.home / "data").iterdir()} == {"numbers", "doubled", "aside"}
    assert len(list((project.home / "store").iterdir())) == 3 and not project.leftovers()

    project.configure(pipeline__train='steps = ["total", "double", "make", "side", "after"]\ntotal.bar = 10')
    done = project.run()
    assert done.rc == 0 and done.states == states(total="executed", after="executed")


# Outside state


OUTSIDE = """
%% md
# Outside
> Ask files that no step makes.
%%
#| default_exp outside
%%
#| export
from mlops_kit.project import path, read_json
%%
#| export
def tide(parameters):
    return read_json(path("tide.json"))
%%
#| export
def released(parameters):
    return read_json(path("released.json"))
"""

WATCH = """
%% md
# Watch
> Depend on something outside.
%%
#| default_exp fit.watch
%%
from mlops_kit.steps import Output, Probe, path, probe
%% parameters
now: Probe = "toy.outside:tide"  # What the tide is
seen: Output = "scratch/seen"  # What it was
%% md
## Run
%%
path(seen).write_text(str(probe(now)))
"""

RELEASE = """
%% md
# Release
> Change something outside, once.
%%
#| default_exp fit.hand_over
%%
from mlops_kit.steps import Effect, Input, Output, path
%% parameters
seen: Input = "samples/seen"  # What is released
version: Effect = "toy.outside:released"  # What is released now
proof: Output = "scratch/proof"  # What was released
%% md
## Run
%%
content = path(seen).read_text()
path("released.json").write_text(content)
path(proof).write_text(content)
with open(path("releases.txt"), "a") as file:
    file.write("x")
"""


def test_probes_and_effects(tmp_path):
    project = Project(tmp_path / "toy").create({"outside": OUTSIDE, "watch": WATCH, "hand_over": RELEASE})
    project.settings(SETTINGS.replace('["total", "double", "make", "side"]', '["watch", "hand_over"]'))
    (project.root / "tide.json").write_text("1")
    assert project.run().states == {"watch": "executed", "hand_over": "executed"}
    assert project.run().states == {"watch": "cached", "hand_over": "cached"}, "its own effect is not news"

    (project.root / "released.json").write_text("99")  # Somebody else released something
    done = project.run()
    assert done.states == {"watch": "cached", "hand_over": "executed"}
    assert done.steps["hand_over"]["reason"] == "probe version has a new answer"
    assert project.run().states == {"watch": "cached", "hand_over": "cached"}

    (project.root / "tide.json").write_text("2")
    assert project.run("--dry-run").steps["watch"]["reason"] == "probe now has a new answer"
    assert project.run().states == {"watch": "executed", "hand_over": "executed"}
    assert project.data("proof").read_text() == "2" and (project.root / "releases.txt").read_text() == "xxx"
    (project.root / "tide.json").write_text("1")
    assert project.run().states["watch"] == "cached", "the same answer has the same result"


def test_code_that_is_edited_while_it_runs_is_not_reused(tmp_path):
    edits = "%%\npath('toy/tools.py').write_text(path('toy/tools.py').read_text().replace('number *', '2 * number *'))"
    project = Project(tmp_path / "toy").create(TOY | {"double": TOY["double"] + edits})
    assert project.run("--until", "double").rc == 0
    planned = project.run("--dry-run", "--until", "double")
    assert planned.steps["double"]["reason"] == "its code was edited while it ran"


# Secrets, and MLflow


TELL = """
%% md
# Tell
> Try to give a secret away.
%%
#| default_exp fit.tell
%%
import os
import sys
from mlops_kit.steps import Output, Secret, log, path
%% parameters
salt: Secret = "TOY_SALT"  # Salt
told: Output = "scratch/told"  # Nothing secret
%% md
## Run
%%
value = os.environ[salt]
print("the value is", value, [value])
print(value[:9], end="", flush=True)
print(value[9:], value, file=sys.stderr)
log(value=value, nested={"value": value})
path(told).write_text(salt)
%%
value
"""

FAIL = (
    TELL.replace("fit.tell", "fit.fail").replace("told", "never")
    + "%%\nraise ValueError(f'cannot log in with {value}')\n"
)
DIE = (  # Its worker can tidy up nothing
    TELL.replace("fit.tell", "fit.die").replace("told", "gone").partition("\nprint(value[:9]")[0]
    + "\nlog(value=value)\n%%\nos.kill(os.getppid(), 9)\n"
)
SALT = 's3cr"t\\salt-ß-\t0815'


def test_a_secret_is_needed_and_recorded_nowhere(tmp_path):
    project = Project(tmp_path / "mein {schönes} projekt 100%").create(
        {"tell": TELL, "fail": FAIL, "die": DIE, "tools": TOY["tools"]}
    )
    project.settings('[DEFAULT]\njobs = 2\n[pipeline.train]\nsteps = ["tell", "fail", "die"]\n')
    refused = project.run()
    assert refused.rc == 2 and refused.fault()[0] == "the environment variable TOY_SALT is not set"
    assert "fit." in refused.fault()[1] and "export TOY_SALT=" in refused.fault()[2]
    assert not (project.home / "ledger.jsonl").exists()

    done = project.run(TOY_SALT=SALT)
    assert done.states == {"tell": "executed", "fail": "failed", "die": "failed"}
    assert "cannot log in with [secret TOY_SALT]" in done.steps["fail"]["error"]["message"]
    assert "the value is [secret TOY_SALT]" in project.call("logs", "last", "tell").out
    forms = {SALT, repr(SALT)[1:-1], json.dumps(SALT)[1:-1], json.dumps(SALT, ensure_ascii=False)[1:-1], "salt-ß-"}
    forms |= {form.replace('"', "&quot;") for form in forms} | {form.replace('"', "&#34;") for form in forms}
    files = [file for file in project.root.rglob("*") if file.is_file()]
    assert any(file.name == "mlflow.db" for file in files) and any("mlruns" in file.parts for file in files)
    for text in [done.out, done.err]:
        assert not any(form in text for form in forms)
    for file in files:
        content = file.read_bytes()
        assert not any(form.encode() in content for form in forms), file

    with sqlite3.connect(project.root / "mlflow.db") as database:
        names = dict(database.execute("select name, status from runs where lifecycle_stage = 'active'").fetchall())
    assert names == {
        f"train {done.json['run']}": "FAILED",
        "fit.tell": "FINISHED",
        "fit.fail": "FAILED",
        "fit.die": "FAILED",
    }


# Every other command


@pytest.mark.parametrize(
    "words, expected",
    [
        ("settings", "[DEFAULT]"),
        ("settings --env prod", "tracking_uri"),
        ("steps", "prep.make  Make numbers."),
        ("steps double", "What each is multiplied by"),
        ("graph train", "reads  numbers (from prep.make)"),
        ("graph --mermaid", "prep_make -->|numbers| prep_double"),
        ("status", "4 executed"),
        ("report", "runs/index.html"),
        ("report last", "report.html"),
        ("logs last total", "adding up"),
        ("cache size", "fit.total"),
        ("cache verify", "every stored byte is as it was written"),
    ],
)
def test_a_command_answers(finished, words, expected):
    done = finished.call(*words.split())
    assert done.rc == 0 and expected in done.out, done.err


def test_logs_of_a_cached_step_are_those_of_the_run_that_made_it(ran):
    assert ran.run().rc == 0
    assert "adding up" in ran.call("logs", "last", "total").out
    unknown = ran.call("logs", "last", "totl")
    assert unknown.rc == 4 and "Did you mean `total`?" in unknown.fault()[2]
    assert ran.call("status", "--last", "1").out.count("\n") == 1


def test_doctor_names_what_is_missing(finished):
    done = finished.call("doctor", "--json")
    checks = {check["name"]: check for check in done.json["checks"]}
    assert done.rc == 1 and not checks["lock"]["ok"] and checks["lock"]["remedy"]
    assert checks["settings"]["ok"] and checks["right to write"]["ok"]


def test_prune_keeps_what_the_last_runs_and_the_newest_links_use(ran):
    ran.run("-p", "make.rows=4", "--until", "make")
    assert len(list((ran.home / "store").iterdir())) == 5
    assert "removed 0 results" in ran.call("cache", "prune", "--keep", "2").out
    assert "removed 1 results" in ran.call("cache", "prune", "--keep", "1").out
    assert ran.run().states == states(make="executed")
