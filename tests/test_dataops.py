"Whole journeys of the data half by its command line: months that come late, twice, corrected, damaged or unfinished."

import gzip
import json
import os
import random
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from conftest import PYPROJECT, Done, Project

from mlops_kit.dataops.features import parts_of_gold
from mlops_kit.dataops.lake import lake_table, read_lake, table_state
from mlops_kit.dataops.quarantine import NOTES
from mlops_kit.tables import read_manifest, read_table
from mlops_kit.workloads import flights
from mlops_kit.workloads.flights_sources import TABLES, read_source, serve_sources, write_sources

MONTHS = ["2013-06", "2013-07", "2013-08", "2013-09"]
TABLES_OF_ONE_PART = {"airlines", "airports", "planes"}
SETTINGS = """
[DEFAULT]
tracking_uri =
jobs = 2
publish.lake = lake

[prod]

[pipeline.train]
workload = flights
steps = ["ingest", "clean", "quality", "features", "publish"]

[source.flights.flights]
production = true
files = data/flights-{part}.csv.gz
null_values = ["NA"]
time = time_hour

[source.flights.weather]
production = true
sql = sqlite:///data/airports.db
query = select * from weather
time = observed
watermark = updated

[source.flights.planes]
production = true
files = data/planes.csv

[source.flights.airlines]
production = true
files = data/airlines.csv

[source.flights.airports]
production = true
files = data/airports.csv
"""
PLANES_BY_HTTP = SETTINGS.replace("files = data/planes.csv", "http = {FLEET_API}/planes\nrows = rows\nnext = next")


@pytest.fixture(scope="module")
def tables() -> dict[str, pl.DataFrame]:
    "Four months of three routes: 1,084 flights with their real tail numbers, and what goes with them."
    rows = flights.sample({name: read_source(name) for name in TABLES})
    inside = pl.col("month").is_between(6, 9)
    return rows | {name: rows[name].filter(inside) for name in ("flights", "weather")}


@pytest.fixture(scope="module")
def sources(tmp_path_factory, tables) -> Project:
    "A project with its sources that never ran."
    project = Project(tmp_path_factory.mktemp("sources") / "toy").create({}, SETTINGS)
    write_sources(project.root / "data", tables)
    for name in TABLES_OF_ONE_PART:
        tables[name].write_csv(project.root / f"data/{name}.csv")
    return project


def copy_of(project: Project, root: Path) -> Project:
    shutil.copytree(project.root, root, symlinks=True)
    return Project(root)


@pytest.fixture(scope="module")
def early(tmp_path_factory, sources) -> tuple[Project, Done]:
    "A project that ran before September came: its fourth month is not asked for."
    project = copy_of(sources, tmp_path_factory.mktemp("early") / "toy")
    done = project.run("-p", "ingest.until=2013-08")
    assert done.rc == 0, done.err
    return project, done


@pytest.fixture(scope="module")
def whole(tmp_path_factory, early) -> tuple[Project, Done]:
    "The same project after September came."
    project = copy_of(early[0], tmp_path_factory.mktemp("whole") / "toy")
    done = project.run()
    assert done.rc == 0, done.err
    return project, done


@pytest.fixture
def project(tmp_path, whole) -> Project:
    "A project of its own that holds all four months."
    return copy_of(whole[0], tmp_path / "toy")


def made(project: Project, done: Done) -> dict[str, list[str]]:
    "The parts that a run made anew: {map: parts}; without maps that made none."
    found = {}
    for file in (project.home / done.json["run"]).glob("*/records.jsonl"):
        for record in map(json.loads, file.read_text().splitlines()):
            if record["record"] == "pieces" and record["made"]:
                found[record["map"]] = sorted(record["made"])
    return found


def parts(project: Project, name: str) -> dict[str, str]:
    "Digests of the partitions of a table, such as bronze/flights."
    manifest = read_manifest(project.data(name).resolve())
    return {part.partition("=")[2] or part: said["digest"] for part, said in manifest["partitions"].items()}


def differ(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {part for part in before.keys() | after.keys() if before.get(part) != after.get(part)}


def layers(project: Project) -> dict[str, dict[str, str]]:
    "Digests of all partitions of bronze, silver and gold."
    names = [f"{layer}/{table}" for layer in ("bronze", "silver") for table in TABLES]
    return {name: parts(project, name) for name in [*names, "gold"]}


def lake_version(project: Project) -> int:
    return table_state(lake_table(str(project.root / "lake"), "flights/gold")).newest


def lake_rows(project: Project) -> pl.DataFrame:
    return read_lake(lake_table(str(project.root / "lake"), "flights/gold"))


def publication(project: Project) -> dict:
    (told,) = json.loads((project.data("publication") / "publication.json").read_text())
    return told


def month_file(project: Project, month: str) -> Path:
    return project.root / f"data/flights-{month}.csv.gz"


def rewrite(project: Project, month: str, change: Callable[[str], str]) -> None:
    "Change the text of a month's file."
    file = month_file(project, month)
    file.write_bytes(gzip.compress(change(gzip.decompress(file.read_bytes()).decode()).encode(), mtime=0))


def change_cell(text: str, line: int, column: str, value: str | Callable[[str], str]) -> str:
    "Write another value into one cell of a CSV text; line 1 is the first row."
    lines = [row.split(",") for row in text.splitlines()]
    place = lines[0].index(column)
    lines[line][place] = value(lines[line][place]) if callable(value) else value
    return "\n".join(map(",".join, lines)) + "\n"


class Intact:
    "What a project's readers see, to compare with what they see later."

    def __init__(self, project: Project):
        self.project, self.seen = project, self.look()

    def look(self) -> tuple:
        tables = {n: read_table(self.project.data(n).resolve()) for n in ("silver/flights", "silver/planes", "gold")}
        return {name: rows.hash_rows().to_list() for name, rows in tables.items()}, lake_version(self.project)

    def check(self) -> None:
        "Demand the last good tables, byte for byte, and a lake that can be read."
        assert self.look() == self.seen
        assert len(lake_rows(self.project)) == len(self.seen[0]["gold"]) > 1000


# Again


def test_the_same_months_again_change_nothing(project):
    before, version = layers(project), lake_version(project)
    done = project.run()
    assert set(done.states.values()) == {"cached"} and len(done.states) == 5
    for file in (project.root / "data").iterdir():
        os.utime(file, ns=(1, 1))
    done = project.run()
    assert set(done.states.values()) == {"cached"}, done.err
    assert (layers(project), lake_version(project)) == (before, version)


# Late


def test_a_month_that_comes_late_is_made_alone(early, whole):
    project, done = whole
    dated = {f"{layer} of {table}" for layer in ("bronze", "silver") for table in ("flights", "weather")}
    assert made(project, done) == dict.fromkeys(dated, ["2013-09"]) | {"gold": ["2013-09"]}
    told = publication(project)
    assert (told["written"], told["removed"], told["unchanged"]) == (["month=2013-09"], [], 3)
    assert lake_version(early[0]) < told["version"]
    assert lake_rows(project).equals(read_table(project.data("gold").resolve()))


def test_until_gives_the_state_at_the_end_of_a_month(early, whole):
    project, done = early
    dated = {"bronze/flights", "bronze/weather", "silver/flights", "silver/weather", "gold"}
    assert {name: [*found] for name, found in layers(project).items()} == {
        name: MONTHS[:3] if name in dated else ["all"] for name in layers(project)
    }
    assert set(lake_rows(project)["month"]) == set(MONTHS[:3])
    later = layers(whole[0])
    assert all(differ(found, later[name]) == ({"2013-09"} & {*later[name]}) for name, found in layers(project).items())


# Corrected


def test_a_corrected_month_replaces_its_own_rows_and_can_be_undone(project):
    before, version, rows = layers(project), lake_version(project), lake_rows(project)
    original = month_file(project, "2013-07").read_bytes()
    rewrite(project, "2013-07", lambda text: change_cell(text, 200, "arr_delay", "77"))
    done = project.run()
    assert done.rc == 0, done.err
    maps = {"bronze of flights": ["2013-07"], "silver of flights": ["2013-07"], "gold": ["2013-07", "2013-08"]}
    assert made(project, done) == maps  # The windows of 30 days do not reach from September into July
    after = layers(project)
    changed = {name: found for name in before if (found := differ(before[name], after[name]))}
    assert changed == {"bronze/flights": {"2013-07"}, "silver/flights": {"2013-07"}, "gold": {"2013-07", "2013-08"}}
    assert publication(project)["written"] == ["month=2013-07", "month=2013-08"]
    assert lake_version(project) > version and not lake_rows(project).equals(rows)

    month_file(project, "2013-07").write_bytes(original)
    assert project.run().rc == 0
    assert layers(project) == before and lake_rows(project).equals(rows)
