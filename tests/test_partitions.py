"""A table that grows costs what is new: through the command line, with kills, edits and damage in between."""

import json
import signal

import pytest
from conftest import TOOLS, Project

MONTHS = """
%% md
# Months
> Make a table by the month.
%%
#| default_exp prep.months
%%
#| export
import time
from pathlib import Path
import polars as pl
from mlops_kit.partitions import map_partitions
from mlops_kit.steps import Output, path, write_table
from mlops_kit.tables import join_partitions
%% parameters
landed: dict = {"2013-01": 1, "2013-02": 2}  # What landed, by month
factor: int = 2  # What is made of it
pause: float = 0.0  # Seconds a month takes
table: Output = "scratch/months"  # One row a month
%%
#| export
def months(landed, factor, pause):
    def build(part, folder):
        time.sleep(pause)
        write_table(folder / "rows", pl.DataFrame({"month": [part], "value": [landed[part] * factor]}), key=["month"])
    made = map_partitions("months", landed, build, apart=["landed", "pause"])
    return {part: folder / "rows" for part, folder in made.items()}
%% md
## Run
%%
join_partitions(table, months(landed, factor, pause));
"""

SETTINGS = '[DEFAULT]\ntracking_uri =\n[pipeline.train]\nsteps = ["months"]\n'


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Project:
    "A project that made two months."
    project = Project(tmp_path_factory.mktemp("months") / "toy").create({"months": MONTHS}, SETTINGS)
    assert project.run().rc == 0
    return project


@pytest.fixture
def project(tmp_path, made) -> Project:
    "A project of its own that made two months."
    return made.copy(tmp_path / "toy")


def run(project: Project, *words: str, **landed: int) -> tuple[list[str], list[int]]:
    "Run with what landed; the months that were made, and the values of the table."
    months = {name.replace("_", "-").removeprefix("m"): value for name, value in landed.items()}
    done = project.run(*words, *(["-p", f"landed={json.dumps(months)}"] if months else []))
    assert done.rc == 0, done.err
    records = project.home / done.json["run"] / "prep.months" / "records.jsonl"
    lines = [json.loads(line) for line in records.read_text().splitlines()] if records.exists() else []
    made = [part for line in lines if line["record"] == "pieces" for part in line["made"]]
    return made, values(project)


def values(project: Project) -> list[int]:
    "Read the table as any reader does."
    import polars as pl

    return pl.read_parquet(f"{project.data('table')}/*/*.parquet", hive_partitioning=False)["value"].to_list()


def test_a_new_month_costs_a_month_and_a_corrected_one_itself(project):
    assert run(project, m2013_01=1, m2013_02=2, m2013_03=3) == (["2013-03"], [2, 4, 6])
    assert run(project, m2013_01=1, m2013_02=20, m2013_03=3) == (["2013-02"], [2, 40, 6])
    assert run(project, m2013_01=1, m2013_02=2) == ([], [2, 4])  # Two months were seen before: cached as a whole


def test_other_code_another_parameter_or_force_make_every_month(project):
    assert run(project, "-p", "factor=3") == (["2013-01", "2013-02"], [3, 6])
    project.edit("months", "landed[part] * factor", "landed[part] * factor + 1")
    assert run(project) == (["2013-01", "2013-02"], [3, 5])
    assert run(project, "--force") == (["2013-01", "2013-02"], [3, 5])


def test_a_kill_keeps_the_months_that_were_made(project):
    running = project.start("-p", 'landed={"2013-05": 5, "2013-06": 6, "2013-07": 7}', "-p", "pause=1")
    objects = project.home / "store"
    before = len(list(objects.iterdir()))
    log = next_run(project) / "prep.months" / "log.txt"
    while len(list(objects.iterdir())) < before + 1:
        assert running.poll() is None, log.read_text() if log.exists() else ""
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    project.await_silence()
    made, found = run(project, m2013_05=5, m2013_06=6, m2013_07=7)
    assert found == [10, 12, 14] and "2013-05" not in made and "2013-07" in made


def next_run(project: Project):
    "The folder of the run that began last."
    return project.home / project.runs()[-1]


def test_a_damaged_month_is_found_and_made_anew(project):
    run(project, "--force")  # So that the copied table and its months are one file again
    part = next(file for file in (project.home / "store").rglob("rows/all/*.parquet") if file.stat().st_nlink > 1)
    part.chmod(0o644)
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    assert project.call("cache", "verify").rc == 4
    made, found = run(project)
    assert len(made) == 1 and found == [2, 4]
    assert project.call("cache", "verify").rc == 0


def test_code_that_is_edited_while_it_runs_leaves_no_month_behind(project):
    project.write("tools", TOOLS)
    project.edit("months", "import polars as pl", "import polars as pl\nfrom toy.tools import times")
    project.edit("months", "landed[part] * factor", "times(landed[part], factor)")
    project.edit("months", "factor: int", "edits: str = ''  # What the code becomes meanwhile\nfactor: int")
    project.edit("months", '"pause"]', '"pause", "edits"]')
    project.edit(
        "months", "join_partitions(table,", "if edits: path('toy/tools.py').write_text(edits)\njoin_partitions(table,"
    )
    assert run(project, m2013_05=5) == (["2013-05"], [10])
    code = (project.root / "toy/tools.py").read_text()
    assert run(project, "-p", f"edits={code}#", m2013_05=5, m2013_06=6) == (["2013-06"], [10, 12])
    (project.root / "toy/tools.py").write_text(code)
    assert run(project, m2013_05=5, m2013_06=6, m2013_07=7) == (["2013-06", "2013-07"], [10, 12, 14])
