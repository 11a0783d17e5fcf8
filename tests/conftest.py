"""A tiny project to run: four steps without heavy imports, and the command line as a user types it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import psutil
import pytest

COMMAND = str(Path(sys.executable).parent / "mlops-kit")
OURS = re.compile(
    r"^(MLOPS_KIT|MLFLOW|OPENLINEAGE)_|^(PYTHONDONTWRITEBYTECODE|GITHUB_STEP_SUMMARY)$"
)  # A test must not see the settings of whoever runs it

PYPROJECT = """
[project]
name = "toy"
version = "0.0.1"

[tool.nbdev]
lib_path = "toy"
allowed_cell_metadata_keys = ["tags"]
update_pyproject = false
put_version_in_init = false
"""

# Runs are not written to MLflow: importing it costs more than all four steps. The tests of MLflow say so themselves.
SETTINGS = """
[DEFAULT]
tracking_uri =
jobs = 2

[pipeline.train]
steps = ["total", "double", "make", "side"]
"""

TOOLS = """
%% md
# Tools
> Calculate.
%%
#| default_exp tools
%%
#| export
def times(number, factor):
    "Multiply."
    return number * factor
%%
#| export
def unused():
    return 1
"""

MAKE = """
%% md
# Make
> Make numbers.
%%
#| default_exp prep.make
%%
import json
from mlops_kit.steps import Output, path
%% parameters
rows: int = 3  # How many numbers
numbers: Output = "scratch/numbers"  # Numbers from 1
%%
#| export
def count(rows):
    return list(range(1, rows + 1))
%%
assert count(2) == [1, 2]
%% md
## Run
%%
path(numbers).write_text(json.dumps(count(rows)))
"""

DOUBLE = """
%% md
# Double
> Multiply the numbers.
%%
#| default_exp prep.double
%%
import json
from mlops_kit.steps import Input, Output, path
from toy.tools import times, unused
%% parameters
numbers: Input = "samples/numbers"  # Numbers
factor: int = 2  # What each is multiplied by
doubled: Output = "scratch/doubled"  # Products
%% md
## Run
%%
products = [times(number, factor) for number in json.loads(path(numbers).read_text())]
path(doubled).mkdir()
(path(doubled) / "all.json").write_text(json.dumps(products))
"""

TOTAL = """
%% md
# Total
> Add the products, and check the sum.
%%
#| default_exp fit.total
%%
import json
from mlops_kit.steps import Input, Output, gate, log, path
%% parameters
doubled: Input = "samples/doubled"  # Products
bar: float = 1.0  # Least sum
sum_of: Output = "scratch/sum"  # Their sum
%% md
## Run
%%
found = sum(json.loads((path(doubled) / "all.json").read_text()))
path(sum_of).write_text(str(found))
%%
print("adding up")
log(total=found)
gate("total", found, at_least=bar, remedy="Make more numbers.")
"""

SIDE = """
%% md
# Side
> Depend on nothing.
%%
#| default_exp fit.side
%%
from mlops_kit.steps import Output, path
%% parameters
note: str = "hello"  # What is written
aside: Output = "scratch/side"  # The note
%% md
## Run
%%
path(aside).write_text(note)
"""

TOY = {"tools": TOOLS, "make": MAKE, "double": DOUBLE, "total": TOTAL, "side": SIDE}


def notebook(
    text: str,  # Cells, each behind a line `%%`, `%% md` or `%% parameters`
) -> dict:  # As JSON
    "Write a notebook as text."
    parts = re.split(r"^%%[ ]?(\w*)\n", text.strip() + "\n", flags=re.M)[1:]
    cells: list[dict] = []
    for number, (kind, source) in enumerate(zip(parts[::2], parts[1::2], strict=True)):
        cell = {"id": f"cell{number}", "metadata": {}, "source": source.rstrip("\n").splitlines(keepends=True)}
        if kind == "md":
            cells.append({"cell_type": "markdown", **cell})
        else:
            cell["metadata"] = {"tags": [kind]} if kind else {}
            cells.append({"cell_type": "code", "execution_count": None, "outputs": [], **cell})
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def lacking(what: str) -> None:
    "Skip loudly where a program is missing; in CI that is a failure."
    assert not os.environ.get("CI"), f"CI must not lack it: {what}"
    pytest.skip(what.upper())


def fetch_npm(package: str, folder: Path, without: str) -> Path:
    "Fetch a package of npm for this session, or say what is left undone without it."
    if not shutil.which("npm"):
        lacking(f"no npm on this machine: {without}")
    try:
        subprocess.run(["npm", "pack", package], cwd=folder, capture_output=True, timeout=90, check=True)
    except subprocess.SubprocessError:
        lacking(f"npm cannot fetch {package}: {without}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


@dataclass
class Done:
    "What a command answered."

    rc: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        "The one object that `--json` prints."
        return json.loads(self.out)

    @property
    def steps(self) -> dict[str, dict]:  # {short name: step}
        "Steps of a run or a plan."
        return {(step.get("name") or step["step"]).rpartition(".")[2]: step for step in self.json["steps"]}

    @property
    def states(self) -> dict[str, str]:  # {short name: executed, cached, ...}
        "What became of each step."
        return {name: step["status"] for name, step in self.steps.items()}

    def fault(self) -> tuple[str, str, str]:  # what, where, remedy
        "The three parts of the error, as a person reads them; none may be missing."
        found = re.search(r"^error: (.+?)\n  where  (.+?)\n  do     (.+)", self.err, re.S | re.M)
        assert found, self.err
        assert "Traceback" not in self.err
        return found[1], found[2], found[3].strip()


class Project:
    "A project in a folder, driven by its command line."

    def __init__(self, root: Path):
        self.root, self.home = root, root / "runs" / "dev"

    def create(self, notebooks: dict[str, str], settings: str = SETTINGS) -> "Project":
        "Write the project's files."
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "pyproject.toml").write_text(PYPROJECT)
        self.settings(settings)
        for name, text in notebooks.items():
            self.write(name, text)
        return self

    def copy(self, root: Path) -> Self:
        "Copy the project with all that is stored."
        shutil.copytree(self.root, root, symlinks=True)
        return type(self)(root)

    def settings(self, text: str) -> None:
        "Replace settings.ini."
        (self.root / "settings.ini").write_text(text)

    def configure(self, **sections: str) -> None:
        "Add a section to settings.ini, or replace it; `__` in its name stands for a dot."
        text = SETTINGS
        for name, lines in sections.items():
            head = f"[{name.replace('__', '.')}]"
            text = re.sub(rf"^{re.escape(head)}\n(?:(?!\[).*\n)*", "", text, flags=re.M) + f"\n{head}\n{lines}\n"
        self.settings(text)

    def write(self, name: str, text: str) -> None:
        "Write a notebook."
        (self.root / "nbs").mkdir(exist_ok=True)
        (self.root / "nbs" / f"{name}.ipynb").write_text(json.dumps(notebook(text), sort_keys=True, indent=1))

    def edit(self, name: str, old: str, new: str) -> None:
        "Replace a text in one cell of a notebook."
        file = self.root / "nbs" / f"{name}.ipynb"
        content = json.loads(file.read_text())
        cells = [cell for cell in content["cells"] if old in "".join(cell["source"])]
        assert len(cells) == 1, f"{old!r} stands in {len(cells)} cells of {name}"
        cells[0]["source"] = "".join(cells[0]["source"]).replace(old, new).splitlines(keepends=True)
        file.write_text(json.dumps(content, sort_keys=True, indent=1))

    def command(self, *words: str) -> list[str]:
        "What is typed."
        return [COMMAND, *words]

    def environment(self, **more: str) -> dict[str, str]:
        "The environment of a user who has none of our variables."
        plain = {name: value for name, value in os.environ.items() if not OURS.match(name)}
        return plain | {"OPENLINEAGE_DISABLED": "true"} | more  # Its import would cost as much as a step

    def call(self, *words: str, timeout: float = 120, preexec_fn=None, **environment: str) -> Done:
        "Type a command in the project."
        done = subprocess.run(
            self.command(*words),
            cwd=self.root,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=timeout,
            preexec_fn=preexec_fn,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def run(self, *words: str, **environment: str) -> Done:
        "Run the pipeline `train`; its answer is JSON."
        return self.call("run", "train", "--json", *words, **environment)

    def start(self, *words: str, **environment: str) -> subprocess.Popen:
        "Start a run, and return at once; it is the leader of a process group, as in a terminal."
        return subprocess.Popen(
            self.command("run", "train", "--json", *words),
            cwd=self.root,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def await_text(self, file: Path, text: str = "", seconds: float = 60) -> None:
        "Wait until a file holds a text."
        end = time.monotonic() + seconds
        while not (file.exists() and text in file.read_text()):
            assert time.monotonic() < end, f"{file} did not come"
            time.sleep(0.02)

    def events(self) -> list[dict]:
        "Lines of the ledger."
        return [json.loads(line) for line in (self.home / "ledger.jsonl").read_text().splitlines()]

    def runs(self) -> list[str]:
        "Names of the runs in the ledger."
        return [event["run"] for event in self.events() if event["event"] == "run"]

    def data(self, name: str) -> Path:
        "The newest output of a name."
        return self.home / "data" / name

    def digests(self) -> dict[str, str]:
        "The content of the newest output of every name, by the store's own word for it."
        manifests = {place.name: place.resolve().parent / "manifest.json" for place in (self.home / "data").iterdir()}
        return {name: json.loads(file.read_text())["outputs"][name]["digest"] for name, file in manifests.items()}

    def leftovers(self) -> list[str]:
        "Drafts that a run left behind."
        return [place.name for place in (self.home / "tmp").glob("*")]

    def processes(self) -> list[str]:
        "Processes that mention the project: in their command, their folder or their environment."
        found = []
        for process in psutil.process_iter():
            if process.pid == os.getpid():
                continue
            try:
                told = [*process.cmdline(), process.cwd(), *process.environ().values()]
                if process.status() != psutil.STATUS_ZOMBIE and any(str(self.root) in word for word in told):
                    found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
            except psutil.Error:
                continue
        return found

    def await_silence(self, seconds: float = 5) -> None:
        "Wait until no process of the project is left."
        end = time.monotonic() + seconds
        while self.processes():
            assert time.monotonic() < end, self.processes()
            time.sleep(0.1)


@pytest.fixture
def toy(tmp_path) -> Project:
    "A project that never ran."
    return Project(tmp_path / "toy").create(TOY)


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> Project:
    "A project that ran once; copy it by `ran`."
    project = Project(tmp_path_factory.mktemp("finished") / "toy").create(TOY)
    done = project.run()
    assert done.rc == 0, done.err
    return project


@pytest.fixture
def ran(tmp_path, finished) -> Project:
    "A project of its own whose pipeline ran once: a folder can be copied with all that is stored."
    return finished.copy(tmp_path / "toy")


TINY = """
%% md
# Tiny
> Say what the flights of a tiny project are.
%%
#| default_exp workloads.tiny
%%
#| export
personal, not_personal = {}, {}
feature_sources = {"late": ["flights.delay"], "share": ["flights.delay", "flights.flight"]}
"""

SILVER = """
%% md
# Silver
> Give the flights their types.
%%
#| default_exp prep.silver
%%
#| export
import polars as pl
from mlops_kit.steps import Input, Output, path, read_table, write_tables
%% parameters
bronze: Input = "samples/bronze"  # Landed flights
silver: Output = "scratch/silver"  # Flights by the month, and the airports
%%
#| export
def typed(rows):
    return rows.select(
        pl.col("flight").cast(pl.Int64), pl.col("at").str.to_datetime("%Y-%m-%d"), "origin",
        pl.col("delay").cast(pl.Float64), month=pl.col("at").str.head(7))
%% md
## Run
%%
flights = typed(read_table(path(bronze) / "flights"))
airports = flights.select("origin").unique()
write_tables(silver, {"flights": flights, "airports": airports}, {"flights": ["flight"], "airports": ["origin"]},
             {"flights": "month"});
"""

GOLD = """
%% md
# Gold
> Say which flights were late.
%%
#| default_exp prep.gold
%%
#| export
import os
import polars as pl
from mlops_kit.project import StepError
from mlops_kit.steps import Input, Output, Secret, log, path, read_table, write_table
%% parameters
silver: Input = "samples/silver"  # Typed flights
late_after: float = 15.0  # Minutes
salt: Secret = "TOY_SALT"  # A secret that nothing may tell
gold: Output = "scratch/gold"  # One row a flight
%% md
## Run
%%
rows = read_table(path(silver) / "flights")
if late_after < 0:
    raise StepError(f"no flight is late by {late_after}: {os.environ[salt]}", salt, "Give minutes.")
write_table(gold, rows.with_columns(late=pl.col("delay") > late_after, share=pl.col("delay") / pl.col("flight")),
            key=["flight"], partition="month")
log(rows=len(rows))
"""

TABLES = {"tiny": TINY, "silver": SILVER, "gold": GOLD}
TABLE_SETTINGS = """
[DEFAULT]
tracking_uri =

[pipeline.train]
workload = tiny
steps = ["ingest", "silver", "gold"]

[source.tiny.flights]
files = {RAW}/flights-{part}.csv
"""


class Landing(Project):
    "A project whose tables come from raw files beside it, and which tells of its runs."

    def environment(self, **more: str) -> dict[str, str]:
        "The environment of a user who has the variables that the project names."
        mine = {"RAW": str(self.raw), "TOY_SALT": "pl4nted-s3cret", "OPENLINEAGE_DISABLED": "false"}
        return super().environment(**(mine | more))

    @property
    def raw(self) -> Path:
        "Folder of the raw files."
        return self.root / "raw"

    def land(self, month: str, *rows: str) -> Path:
        "Put a raw file there."
        self.raw.mkdir(parents=True, exist_ok=True)
        file = self.raw / f"flights-{month}.csv"
        file.write_text("\n".join(["flight,at,origin,delay", *rows, ""]))
        return file


@pytest.fixture(scope="session")
def landed(tmp_path_factory) -> Landing:
    "A project that landed two months, then a corrected one and a new one; copy it by `tables`."
    project = Landing(tmp_path_factory.mktemp("landed") / "toy").create(TABLES, TABLE_SETTINGS)
    project.land("2013-01", "1,2013-01-05,EWR,4", "2,2013-01-09,JFK,")
    project.land("2013-02", "3,2013-02-02,LGA,20", "4,2013-02-03,EWR,1", "5,2013-02-04,JFK,2")
    assert project.run().rc == 0
    project.land("2013-02", "3,2013-02-02,LGA,9", "4,2013-02-03,EWR,1", "6,2013-02-04,JFK,2")
    project.land("2013-03", "7,2013-03-01,EWR,30")
    assert project.run().rc == 0
    return project


@pytest.fixture
def tables(tmp_path, landed) -> Landing:
    "A project of its own whose tables have two versions."
    return landed.copy(tmp_path / "toy")


@pytest.fixture(scope="session")
def silver_year():
    "Silver of the whole year of flights, without a run: {table: rows}."
    from mlops_kit.dataops.quarantine import clean_tables
    from mlops_kit.workloads.flights_contracts import contracts
    from mlops_kit.workloads.flights_sources import TABLES, read_source

    return {n: t.good for n, t in clean_tables({n: read_source(n) for n in TABLES}, contracts()).items()}
