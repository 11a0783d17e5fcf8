"Whole journeys of the data half by its command line: months that come late, twice, corrected, damaged or unfinished."

import gzip
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest
from conftest import Done, Project

from mlops_kit.dataops.features import parts_of_gold
from mlops_kit.dataops.lake import lake_table, read_lake, table_state
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
personal = ["tailnum"]
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
personal = ["tailnum"]
files = data/planes.csv

[source.flights.airlines]
production = true
files = data/airlines.csv

[source.flights.airports]
production = true
files = data/airports.csv
"""
PLANES_BY_HTTP = SETTINGS.replace(
    "files = data/planes.csv", "http = {FLEET_API}/planes\nrows = rows\nnext = next\nretries = 1\nbackoff = 0.1"
)


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


@pytest.fixture(scope="module")
def early(tmp_path_factory, sources) -> tuple[Project, Done]:
    "A project that ran before September came: its fourth month is not asked for."
    project = sources.copy(tmp_path_factory.mktemp("early") / "toy")
    done = project.run("-p", "ingest.until=2013-08")
    assert done.rc == 0, done.err
    return project, done


@pytest.fixture(scope="module")
def whole(tmp_path_factory, early) -> tuple[Project, Done]:
    "The same project after September came."
    project = early[0].copy(tmp_path_factory.mktemp("whole") / "toy")
    done = project.run()
    assert done.rc == 0, done.err
    return project, done


@pytest.fixture
def project(tmp_path, whole) -> Project:
    "A project of its own that holds all four months."
    return whole[0].copy(tmp_path / "toy")


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
        self.project = project
        self.seen = self.look()

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
    assert made(project, done) == {name: ["2013-09"] for name in {*dated, "gold"}}
    told = publication(project)
    assert (told["written"], told["removed"], told["unchanged"]) == (["month=2013-09"], [], 3)
    assert lake_version(early[0]) < told["version"]
    assert lake_rows(project).equals(read_table(project.data("gold").resolve()))


def test_until_gives_the_state_at_the_end_of_a_month(early, whole):
    project, _ = early
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
    original = month_file(project, "2013-06").read_bytes()
    rewrite(project, "2013-06", lambda text: change_cell(text, 250, "arr_delay", "77"))
    done = project.run()
    assert done.rc == 0, done.err
    assert made(project, done) == {
        "bronze of flights": ["2013-06"],
        "silver of flights": ["2013-06"],
        "gold": ["2013-06", "2013-07", "2013-08"],  # A flight of 30 June may land a day late: not before September
    }
    after = layers(project)
    changed = {name: found for name in before if (found := differ(before[name], after[name]))}
    assert changed == {"bronze/flights": {"2013-06"}, "silver/flights": {"2013-06"}, "gold": {"2013-06", "2013-07"}}
    assert publication(project)["written"] == ["month=2013-06", "month=2013-07"]
    assert lake_version(project) > version and not lake_rows(project).equals(rows)

    month_file(project, "2013-06").write_bytes(original)
    assert project.run().rc == 0
    assert layers(project) == before and lake_rows(project).equals(rows)


# Damaged: every case names source, file or column and a remedy, and the last good tables stay


def set_cells(text: str, first: int, rows: int, column: str, value: str | Callable[[str], str]) -> str:
    for line in range(first, first + rows):
        text = change_cell(text, line, column, value)
    return text


def other_date(stamp: str) -> str:
    "2013-09-11T12:00:00Z as 11/09/2013 12:00."
    return f"{stamp[8:10]}/{stamp[5:7]}/{stamp[:4]} {stamp[11:16]}"


def spoil(rows: int) -> Callable[[str], str]:
    "Break so many rows in each of five ways."

    def change(text: str) -> str:
        text = set_cells(text, 10, rows, "distance", "far")
        text = set_cells(text, 40, rows, "distance", '"1,183"')
        text = set_cells(text, 70, rows, "time_hour", other_date)
        lines = text.splitlines()
        equal = lines[100 : 100 + rows]
        alike = [
            change_cell(f"{lines[0]}\n{line}\n", 1, "air_time", "99").splitlines()[1] for line in lines[130:][:rows]
        ]
        return "\n".join([*lines, *equal, *alike]) + "\n"

    return change


def test_a_damaged_file_is_named_and_the_last_tables_stay(project):
    seen, file = Intact(project), month_file(project, "2013-09")
    original, name = file.read_bytes(), "source `flights`, data/flights-2013-09.csv.gz"
    cases: list[tuple[Callable[[str], str] | bytes, int, str, str, str]] = [
        (original[: len(original) // 2], 1, "cannot be unpacked as gzip", name, "sent again"),
        (b"", 1, "the file is empty: not even a header", name, "sent again"),
        (lambda text: text.replace(",", ";"), 1, "the header is one column", name, "separator = ;"),
        (
            lambda text: text.partition("\n")[0] + "\n",
            3,
            "loads without a row is 1",
            "flights 2013-09",
            "Ask the source",
        ),
    ]
    for damage, rc, *words in cases:
        file.write_bytes(damage if isinstance(damage, bytes) else original)
        if callable(damage):
            rewrite(project, "2013-09", damage)
        done = project.run()
        assert done.rc == rc and done.states["ingest"] == "failed", done.err
        for said, word in zip(done.fault(), words, strict=True):
            assert word in said, (word, done.err)
        seen.check()
    file.write_bytes(original)
    assert set(project.run().states.values()) == {"cached"}


def test_a_renamed_column_is_named_before_it_becomes_silver(project):
    seen = Intact(project)
    rewrite(project, "2013-09", lambda text: text.replace("arr_delay", "arrival_delay", 1))
    done = project.run()
    what, where, remedy = done.fault()
    assert (done.rc, done.states["clean"]) == (1, "failed")
    assert "part 2013-09" in where and "`flights`" in what and "`arr_delay`" in what and "`arrival_delay`" in remedy
    seen.check()


def test_a_few_broken_rows_lie_in_quarantine_with_their_reasons(project):
    rewrite(project, "2013-08", spoil(1))
    done = project.run("--until", "clean")
    assert done.rc == 0, done.err
    aside = read_table(project.data("quarantine/flights").resolve())
    found = {(rules, values): day for rules, values, day in aside.select("rules", "values", "day").rows()}
    assert set(aside["load"]) == {"2013-08"} and len(aside) == 6
    assert {rules for rules, _ in found} == {
        "distance can be read",
        "time_hour can be read",
        "repeats an equal row",
        "one row for each time_hour, carrier, flight",
    }
    assert {("distance can be read", "distance=far"), ("distance can be read", "distance=1,183")} <= set(found)
    assert "1,183" in set(aside["distance"]), "rows lie there as they landed"
    assert len(read_table(project.data("silver/flights").resolve())) == 1084 - 3 - 1


def test_too_many_broken_rows_stop_the_run_and_the_last_tables_stay(project):
    seen = Intact(project)
    rewrite(project, "2013-09", spoil(10))
    done = project.run()
    what, where, remedy = done.fault()
    assert (done.rc, done.states["clean"]) == (3, "failed")
    assert what.startswith("share of rows set aside in the worst table is 0.0")
    assert where.startswith("dataops.clean: flights (") and "quarantine" in remedy
    aside = read_table(project.home / done.json["run"] / "dataops.clean/quarantine/flights", ["part=2013-09"])
    assert len(aside) >= 10 and not aside["rules"].str.contains("^$").any()
    seen.check()


# Killed


def kill_at(project: Project, moments: list[float]) -> int:
    "Kill a run that begins anew at each of these seconds; count the killed ones."
    killed = 0
    for moment in moments:
        running = project.start()
        time.sleep(moment)
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=60)
        killed += running.returncode == -signal.SIGKILL
        project.await_silence()
        assert project.call("cache", "verify").rc == 0
    return killed


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_killed_run_is_continued_and_ends_with_the_same_tables(tmp_path, sources, whole):
    project, dice = sources.copy(tmp_path / "toy"), random.Random(7)
    keys = project.root / "runs/keys"
    shutil.copytree(whole[0].root / "runs/keys", keys)  # One key, so that pseudonyms are the same
    assert kill_at(project, [dice.uniform(0.5, 3), dice.uniform(2, 5), dice.uniform(3, 6)]) == 3
    done = project.run()
    assert done.rc == 0, done.err
    assert layers(project) == layers(whole[0]) and not project.leftovers()
    assert lake_rows(project).equals(lake_rows(whole[0]))
    assert set(project.run().states.values()) == {"cached"}


# Gold by the month


def by_month(silver: dict[str, pl.DataFrame], months: list[str]) -> dict[str, dict[str, pl.DataFrame]]:
    "Divide silver into parts as its sources do: flights and weather by local month."
    local = (
        pl.col("time_hour").dt.replace_time_zone("UTC").dt.convert_time_zone("America/New_York").dt.to_string("%Y-%m")
    )
    dated = {name: {month: silver[name].filter(local == month) for month in months} for name in ("flights", "weather")}
    return {name: dated.get(name, {"all": rows}) for name, rows in silver.items()}


def demand_equal_gold(silver: dict[str, pl.DataFrame], months: list[str]) -> None:
    "Build gold month by month, and at once, and compare all bits."
    parts = by_month(silver, months)
    together = {name: pl.concat(found.values()) for name, found in parts.items()}
    at_once = flights.build_features(together).with_columns(month=pl.col("departure").dt.to_string("%Y-%m"))
    made_of = parts_of_gold({name: dict.fromkeys(found, "") for name, found in parts.items()}, "flights", flights.reach)
    assert [*made_of] == months
    for month, of in made_of.items():
        rows = flights.build_features({name: pl.concat(parts[name][n] for n in names) for name, names in of.items()})
        own = rows.filter(pl.col("departure").dt.to_string("%Y-%m") == month).sort(flights.key)
        expected = at_once.filter(pl.col("month") == month).drop("month").sort(flights.key)
        moved = [name for name in own.columns if not own[name].equals(expected[name])]
        assert len(own) > 20_000 and not moved, (month, moved)


def test_gold_by_the_month_is_gold_as_a_whole(silver_year):
    demand_equal_gold(silver_year, MONTHS)


@pytest.mark.slow
def test_gold_of_the_year_by_the_month_is_gold_as_a_whole(silver_year):
    demand_equal_gold(silver_year, [f"2013-{month:02}" for month in range(1, 13)])


def test_a_flight_that_came_a_day_late_counts_in_the_month_after_the_next(silver_year):
    rows = silver_year["flights"].with_row_index("place")
    to_bqn = rows.filter(month=6, day=30, hour=23, minute=59, dest="BQN")["place"]
    late = pl.int_range(pl.len()).is_in(to_bqn.implode())
    minutes = {
        "dep_delay": 1420,
        "arr_delay": 1430,
    }  # Known on 2 July, and less than 30 days before flights of 1 August
    held = [pl.when(late).then(pl.lit(value)).otherwise(pl.col(name)).alias(name) for name, value in minutes.items()]
    assert len(to_bqn)
    demand_equal_gold(silver_year | {"flights": rows.drop("place").with_columns(held)}, MONTHS)


# Private


def traces(folder: Path, words: set[str], spared: Path) -> set[tuple[str, str]]:
    "Name the files below a folder that hold one of the words, in their bytes or in the values of their table."
    found = set()
    for file in (file for file in folder.rglob("*") if file.is_file() and file != spared):
        text = file.read_bytes().decode("latin1")
        if file.suffix == ".parquet":
            columns = pl.read_parquet(file, glob=False).select(pl.col(pl.String)).get_columns()
            text += "\n".join(value for column in columns for value in column.drop_nulls().unique())
        found |= {(file.name, word) for word in words if word in text}
    return found


def test_no_tail_number_and_no_key_lies_in_anything_that_ran(whole, tables):
    project, _ = whole
    secret = project.root / "runs/keys/MLOPS_SALT"
    tails = {tail for name in ("flights", "planes") for tail in tables[name]["tailnum"].drop_nulls()}
    words = {tail for tail in tails if len(tail) >= 5} | {secret.read_text().strip()}
    assert len(words) > 400
    assert traces(project.root / "runs", words, secret) | traces(project.root / "lake", words, secret) == set()
    assert traces(project.root / "data", words, secret), "the search finds what is there"
    found = read_table(project.data("silver/flights").resolve())["tailnum"].drop_nulls()
    assert found.str.starts_with("p1_").all() and len(found) > 1000
    joined = read_table(project.data("gold").resolve())["seats"]
    assert joined.is_not_null().mean() > 0.5, "pseudonyms still join"


def test_production_without_its_key_does_not_start(project):
    before = {file: file.stat().st_mtime_ns for file in project.home.rglob("*") if file.is_file()}
    done = project.run("--env", "prod", MLOPS_SALT="")
    what, _, remedy = done.fault()
    assert done.rc == 2 and "MLOPS_SALT" in what + remedy, done.err
    assert not list(project.root.glob("runs/prod/data/*"))
    assert before == {file: file.stat().st_mtime_ns for file in project.home.rglob("*") if file.is_file()}


def test_a_column_of_e_mail_addresses_that_nobody_marked_is_refused_without_its_values(project):
    seen, mail = Intact(project), "ada.lovelace@example.org"
    airlines = project.root / "data/airlines.csv"
    head, *rows = airlines.read_text().splitlines()
    airlines.write_text("\n".join([f"{head},contact", *(f"{row},{mail}" for row in rows)]) + "\n")
    done = project.run()
    what, where, _ = done.fault()
    assert done.rc == 1 and "column `contact` of table `airlines` looks personal" in what
    assert "environment dev, table airlines" in where
    assert not traces(project.root / "runs", {mail}, Path()) and mail not in done.out + done.err
    seen.check()


# By HTTP


def test_a_service_may_move_and_may_fail(project):
    project.settings(PLANES_BY_HTTP)
    folder = project.root / "data"
    with serve_sources(folder) as addresses:
        first = addresses["FLEET_API"]
        done = project.run(FLEET_API=first)
        assert done.rc == 0, done.err
        seen = Intact(project)
    with serve_sources(folder) as addresses:
        assert addresses["FLEET_API"] != first
        done = project.run(FLEET_API=addresses["FLEET_API"])
        assert set(done.states.values()) == {"cached"}, done.err
    done = project.run(FLEET_API=first)
    what, where, remedy = done.fault()
    assert done.rc == 1 and "source `planes`" in what + where and remedy, done.err
    assert first not in done.out + done.err
    seen.check()
