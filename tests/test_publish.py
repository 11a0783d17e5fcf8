"What is published is equal to its source for every reader, whole at every moment, and written only where it differs."

import json
import multiprocessing
import os
import random
import resource
import shutil
import subprocess
import time
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pytest
from conftest import Project
from deltalake import write_deltalake
from polars.testing import assert_frame_equal

from mlops_kit.dataops.lake import LakeConflict, lake_table, open_table, read_lake, table_state
from mlops_kit.dataops.lakework import clean_table, verify_table
from mlops_kit.dataops.publish import publish_table
from mlops_kit.project import ROOT_VARIABLE, StepError, StoreError
from mlops_kit.tables import digest_rows, read_table, write_table

REPOSITORY = Path(__file__).parent.parent
GOLD = REPOSITORY / "samples/gold"
KEY = ["departure", "carrier", "flight"]
MONTHS = [f"month=2013-{month:02}" for month in range(6, 12)]
PRELOAD = [
    "deltalake",
    "duckdb",
    "mlops_kit.dataops.publish",
    "pandas",
    "polars.testing",
    "psutil",
    "pyarrow",
    "pytest",
]
PROCESSES = multiprocessing.get_context("forkserver")  # A child begins in milliseconds, with all that is imported here
PROCESSES.set_forkserver_preload(PRELOAD)


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.setenv(ROOT_VARIABLE, str(REPOSITORY))


@pytest.fixture
def at(tmp_path):
    "A table of a lake that is not there yet."
    return lake_table(str(tmp_path / "lake"), "flights/gold")


def store(place, rows, key=KEY, partition="month"):
    "Store rows as a table of the pipeline."
    return write_table(place, rows, key, partition)


def corrected(month, add=1):
    "Gold with other seats in one month."
    right = pl.when(month=month).then(pl.col("seats") + add).otherwise("seats")
    return read_table(GOLD).with_columns(seats=right)


def files(at):
    "Every file of a table, with its bytes and time."
    found = [file for file in Path(at.uri.removeprefix("file://")).rglob("*") if file.is_file()]
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in found}


def part_files(at, month):
    "Data files of one month that the newest version needs."
    return [file for file in open_table(at).file_uris() if f"month={month}" in file]


# Equal for every reader


def test_polars_duckdb_and_pandas_read_what_was_published(at):
    publish_table(GOLD, at)
    gold, published = read_table(GOLD), open_table(at).file_uris()
    assert_frame_equal(read_lake(at), gold)
    duck = duckdb.sql(f"from read_parquet({published}, hive_partitioning=true, hive_types_autocast=false)").pl()
    assert_frame_equal(duck.select(gold.columns).sort(KEY), gold)
    months = [(Path(file).parent.name.removeprefix("month="), file) for file in published]
    panda = pd.concat([pd.read_parquet(file, partitioning=None).assign(month=month) for month, file in months])
    panda = panda.sort_values(KEY, ignore_index=True)[gold.columns]
    pd.testing.assert_frame_equal(panda, pl.DataFrame(gold).to_pandas(), check_dtype=False)


def test_types_that_delta_does_not_know_keep_their_values(tmp_path, at):
    rows = read_table(GOLD).with_columns(
        pl.col("carrier").cast(pl.Categorical),
        pl.col("origin").cast(pl.Enum(["EWR", "JFK", "LGA"])),
        pl.col("weekday").cast(pl.UInt8) + 200,
        pl.col("distance").cast(pl.UInt64),
        pl.col("departure").dt.replace_time_zone("America/New_York").cast(pl.Datetime("ns", "America/New_York")),
        nothing=pl.lit(None, pl.Float32),
    )
    publish_table(store(tmp_path / "gold", rows), at)
    found = read_lake(at)
    assert found["weekday"].equals(rows["weekday"].cast(pl.Int16)) and found["weekday"].min() > 200
    assert found["departure"].equals(rows["departure"].dt.convert_time_zone("UTC").cast(pl.Datetime("us", "UTC")))
    assert found["carrier"].equals(rows["carrier"].cast(pl.String)) and found.schema["nothing"] == pl.Float32
    assert verify_table(at) == {} and publish_table(tmp_path / "gold", at)["written"] == []


@pytest.mark.parametrize("kind", ["text", "date", "whole", "truth"])
def test_partitions_of_every_kind_are_replaced_and_removed(tmp_path, at, kind):
    values = {
        "text": ["it's", "a=b %é", "EWR"],
        "date": [pl.Series(["2013-05-01"]).str.to_date()[0], pl.Series(["2013-06-01"]).str.to_date()[0], None],
        "whole": [-1, 2, 30],
        "truth": [True, False, None],
    }[kind]
    rows = pl.DataFrame({"Part": [value for value in values if value is not None]}).with_row_index("id")
    publish_table(store(tmp_path / "a", rows, ["id"], "Part"), at)
    changed = rows.with_columns(id=pl.col("id") + 10).head(1)
    told = publish_table(store(tmp_path / "b", changed, ["id"], "Part"), at)
    assert (told["version"], len(told["written"]), len(told["removed"])) == (1, 1, len(rows) - 1)
    assert read_lake(at).equals(changed.cast({"id": pl.Int64})) and len(read_lake(at, 0)) == len(rows)


# Only what differs


def test_nothing_new_makes_no_version_and_touches_no_file(tmp_path, at):
    publish_table(GOLD, at)
    before = files(at)
    shuffled = read_table(GOLD).sample(fraction=1, shuffle=True, seed=1)
    for place in (GOLD, store(tmp_path / "shuffled", shuffled), store(tmp_path / "wide", shuffled[:, ::-1])):
        told = publish_table(place, at)
        assert (told["version"], told["written"], told["removed"]) == (0, [], [])
    assert files(at) == before


def test_a_table_without_a_key_is_compared_by_its_values(tmp_path, at):
    rows = read_table(GOLD)
    publish_table(store(tmp_path / "a", rows, None), at)
    assert publish_table(store(tmp_path / "b", rows.reverse(), None), at)["version"] == 0
    assert publish_table(store(tmp_path / "c", rows.head(-1), None), at)["written"] == ["month=2013-11"]


def test_a_corrected_month_replaces_its_files_and_no_other(tmp_path, at):
    publish_table(GOLD, at)
    before = files(at)
    told = publish_table(store(tmp_path / "gold", corrected("2013-09")), at)
    assert (told["version"], told["written"], told["unchanged"]) == (1, ["month=2013-09"], 5)
    new = {file for file in files(at).keys() - before.keys() if file.endswith(".parquet")}
    assert new == {*part_files(at, "2013-09")} and before.items() <= files(at).items()
    assert_frame_equal(read_lake(at, 0), read_table(GOLD))
    assert_frame_equal(read_lake(at), corrected("2013-09"))


def test_a_month_that_vanished_is_removed_and_comes_back(tmp_path, at):
    publish_table(GOLD, at)
    told = publish_table(store(tmp_path / "gold", read_table(GOLD).filter(pl.col("month") != "2013-06")), at)
    assert (told["version"], told["written"], told["removed"]) == (1, [], ["month=2013-06"])
    assert publish_table(GOLD, at)["written"] == ["month=2013-06"]
    assert_frame_equal(read_lake(at), read_table(GOLD))


def test_one_file_is_opened_where_one_month_differs(tmp_path, at):
    publish_table(GOLD, at)
    place = store(tmp_path / "gold", corrected("2013-09"))
    for part in place.glob("month=*/*"):
        if "2013-09" not in str(part):
            part.write_bytes(b"whoever reads this fails")
    part = place / "month=2013-06/part-0.parquet"  # The first one says which columns there are: its last bytes count
    part.write_bytes(bytes(9000) + (GOLD / "month=2013-06/part-0.parquet").read_bytes()[9000:])
    assert publish_table(place, at)["written"] == ["month=2013-09"]


# Schemas


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seats": pl.col("seats") + 0.5}, "column `seats` was Int64 and would become Float64"),
        ({"seats": pl.col("seats").cast(pl.String)}, "column `seats` was Int64 and would become String"),
        ({"temp": pl.col("temp").round().cast(pl.Int64, strict=False)}, "column `temp` was Float64"),
        ({"departure": pl.col("departure").dt.replace_time_zone("UTC")}, "column `departure` was Datetime"),
        ({"weekday": pl.col("weekday").cast(pl.Float64)}, "column `weekday` was Int64 and would become Float64"),
        ({"wind": pl.lit(1)}, "columns ['wind'] are not in the lake"),
        ({"Seats": pl.lit(1)}, "differs from another by case"),
        ({"air time": pl.lit(1)}, "has a sign in its name"),
        ({"taxi": pl.lit(None)}, "column `taxi` is Null"),
        ({"clock": pl.col("departure").dt.time()}, "column `clock` is Time"),
        ({"span": pl.duration(hours=1)}, "column `span` is Duration"),
        ({"seats": None}, "column `seats` (Int64) would be gone"),
        ({"departure": pl.col("departure").cast(pl.Datetime("ns")) + pl.duration(nanoseconds=7)}, "cannot hold"),
        ({"distance": pl.lit(2**63, pl.UInt64)}, "cannot hold"),
    ],
)
def test_a_schema_that_would_harm_is_refused_before_a_byte_is_written(tmp_path, at, change, said):
    publish_table(GOLD, at)
    before, rows = files(at), read_table(GOLD)
    gone = [name for name, new in change.items() if new is None]
    rows = rows.drop(gone).with_columns(**{name: new for name, new in change.items() if new is not None})
    with pytest.raises(StepError) as refused:
        publish_table(store(tmp_path / "gold", rows), at)
    assert said in refused.value.what and refused.value.remedy and files(at) == before


def test_what_is_allowed_goes_through_and_old_versions_keep_their_schema(tmp_path, at):
    publish_table(GOLD, at)
    wider = read_table(GOLD).with_columns(wind=pl.lit(1.5))
    assert publish_table(store(tmp_path / "wider", wider), at, allow_new_columns=True)["version"] == 1
    floats = wider.drop("temp").with_columns(pl.col("seats") + 0.5)
    assert publish_table(store(tmp_path / "floats", floats), at, allow_breaking=True)["version"] == 2
    assert "wind" not in read_lake(at, 0).columns and read_lake(at, 1).schema["seats"] == pl.Int64
    assert_frame_equal(read_lake(at), floats, check_column_order=False)
    flat = store(tmp_path / "flat", floats, partition=None)
    with pytest.raises(StepError, match="was partitioned by month"):
        publish_table(flat, at)
    assert publish_table(flat, at, allow_breaking=True)["written"] == ["all"] and verify_table(at) == {}


# Damage


def test_a_damaged_page_of_the_source_is_named_and_goes_no_further(tmp_path, at):
    publish_table(GOLD, at)
    place, before = store(tmp_path / "gold", corrected("2013-09")), files(at)
    part = place / "month=2013-09/part-0.parquet"
    content, dice = part.read_bytes(), random.Random(3)
    for _ in range(10):
        byte = dice.randrange(4, 9000)
        part.write_bytes(content[:byte] + bytes([content[byte] ^ 255]) + content[byte + 1 :])
        try:
            told = publish_table(place, at)
        except StoreError as error:
            assert "partition `month=2013-09`" in error.what and error.where == str(part)
            assert files(at) == before
        else:
            assert told["written"] == ["month=2013-09"] and read_lake(at).equals(corrected("2013-09"))
            break
    else:
        part.write_bytes(content)
        assert publish_table(place, at)["written"] == ["month=2013-09"]


def test_flipped_bits_of_the_lake_are_found_by_digest_and_mended(at):
    publish_table(GOLD, at)
    (file,) = map(Path, part_files(at, "2013-07"))
    whole, dice, found, gold = file.read_bytes(), random.Random(5), 0, read_table(GOLD)
    for _ in range(20):
        bit = dice.randrange(32, 8 * 9000)
        file.write_bytes(whole[: bit // 8] + bytes([whole[bit // 8] ^ (1 << bit % 8)]) + whole[bit // 8 + 1 :])
        faults = verify_table(at)
        assert bool(faults) or read_lake(at).equals(gold)
        assert not faults or (list(faults) == ["month=2013-07"] and file.name in faults["month=2013-07"])
        found += bool(faults)
    assert found >= 5
    file.write_bytes(whole[:3000] + bytes(500) + whole[3500:])
    told = publish_table(GOLD, at, repair=True)
    assert told["written"] == ["month=2013-07"] and verify_table(at) == {}
    assert_frame_equal(read_lake(at), gold)


@pytest.mark.parametrize("torn", ["empty", "half", "a line less"])
def test_a_torn_log_is_named_before_publishing(tmp_path, at, torn):
    publish_table(GOLD, at)
    place = store(tmp_path / "gold", corrected("2013-09"))
    publish_table(place, at)
    log = at.folder / "_delta_log" / f"{1:020}.json"
    lines = log.read_bytes()
    log.write_bytes(
        {"empty": b"", "half": lines[: len(lines) // 2], "a line less": lines[: lines[:-1].rindex(b"\n")]}[torn]
    )
    with pytest.raises(StoreError) as named:
        publish_table(GOLD, at)
    assert "version 1 was cut short" in named.value.what and named.value.where == str(log)
    assert_frame_equal(read_lake(at, 0), read_table(GOLD))
    log.unlink()  # As the remedy says
    assert table_state(at).version == 0 and publish_table(place, at)["version"] == 1
    assert_frame_equal(read_lake(at), corrected("2013-09"))


def test_a_lost_file_is_named_and_repaired(tmp_path, at):
    publish_table(GOLD, at)
    (file,) = map(Path, part_files(at, "2013-08"))
    file.unlink()
    for act in (lambda: publish_table(GOLD, at), lambda: read_lake(at)):
        with pytest.raises(StoreError) as named:
            act()
        assert named.value.where == str(file) and "repair" in named.value.remedy
    assert publish_table(GOLD, at, repair=True)["written"] == ["month=2013-08"]
    assert_frame_equal(read_lake(at), read_table(GOLD))


def test_what_another_program_wrote_is_compared_by_its_rows(at):
    publish_table(GOLD, at)
    write_deltalake(at.uri, read_table(GOLD).filter(month="2013-07"), mode="append")
    assert table_state(at).digest is None
    told = publish_table(GOLD, at)
    assert (told["version"], told["written"]) == (2, ["month=2013-07"]) and table_state(at).digest
    open_table(at).optimize.z_order(["departure"])
    assert publish_table(GOLD, at)["written"] == [] and table_state(at).version == 2
    assert_frame_equal(read_lake(at), read_table(GOLD))


# A full disk


def publish_small(at, place, limit, answers):
    "Publish while no file may grow beyond `limit` bytes, and once more without that limit."
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        publish_table(place, at)
        answers.put("published")
    except StoreError as error:
        answers.put(error.what)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    answers.put(publish_table(place, at)["version"])


def start(function, *given):
    "Start a process."
    process = PROCESSES.Process(target=function, args=given, daemon=True)
    process.start()
    return process


def test_a_file_that_may_not_grow_leaves_the_last_version(tmp_path, at):
    publish_table(GOLD, at)
    answers = PROCESSES.Queue()
    child = start(publish_small, at, store(tmp_path / "gold", corrected("2013-09")), 6000, answers)
    assert answers.get(timeout=60) == "cannot write table `flights/gold`: the disk is full"
    assert answers.get(timeout=60) == 1
    child.join()
    assert_frame_equal(read_lake(at, 0), read_table(GOLD))
    assert_frame_equal(read_lake(at), corrected("2013-09"))


@pytest.fixture
def tiny(tmp_path):
    "A disk of 2 MiB."
    place = tmp_path / "tiny"
    place.mkdir()
    if (
        os.geteuid()
        or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place], check=False).returncode
    ):
        pytest.skip("only root can make a small disk; the test above limits the size of a file instead")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_leaves_the_last_version(tmp_path, tiny):
    at = lake_table(str(tiny / "lake"), "flights/gold")
    publish_table(GOLD, at)
    gold, place, full = read_table(GOLD), store(tmp_path / "gold", corrected("2013-09")), 0
    for left in (0, 4096, 16384, 32768, 65536):  # The data do not fit, or the log, or nothing fails
        room = os.statvfs(tiny).f_bavail * os.statvfs(tiny).f_frsize
        (tiny / "ballast").write_bytes(bytes(room - left))
        try:
            publish_table(place, at)
        except StoreError as error:
            full += "the disk is full" in error.what
            assert_frame_equal(read_lake(at), gold)
            assert verify_table(at) == {}
        (tiny / "ballast").unlink()
    assert full >= 3 and publish_table(place, at)["version"] == 1
    assert_frame_equal(read_lake(at), corrected("2013-09"))


# Writers that are killed


def publish_for_ever(at, places):
    "Publish one table after the other, again and again."
    while True:
        for place in places:
            publish_table(place, at, keep_versions=3, keep_days=0)


def kill_writers(at, places, moments):
    "Kill a writer at each of these moments, in seconds after its first commit, and look at the lake each time."
    states = {digest_rows(read_table(place)) for place in places}
    publish_table(places[0], at)
    seen = set()
    for moment in moments:
        before = table_state(at).version
        writer, end = start(publish_for_ever, at, [*places[1:], places[0]]), time.monotonic() + 60
        while table_state(at).version == before:
            assert time.monotonic() < end and writer.is_alive()
            time.sleep(0.002)
        time.sleep(moment)
        writer.kill()
        writer.join()
        assert verify_table(at) == {} and digest_rows(read_lake(at)) in states
        seen.add(digest_rows(read_lake(at)))
        assert publish_table(places[1], at)["digest"] == table_state(at).digest
        assert digest_rows(read_lake(at)) == digest_rows(read_table(places[1]))
    return seen


def pair(folder):
    "Two tables that differ in three months."
    rows = read_table(GOLD)
    other = rows.with_columns(seats=pl.when(pl.col("month") < "2013-09").then(1).otherwise("seats"))
    return [GOLD, store(folder / "gold", other)]


def test_writers_killed_at_random_moments(tmp_path, at):
    dice = random.Random(7)
    assert len(kill_writers(at, pair(tmp_path), [dice.uniform(0, 0.15) for _ in range(15)])) == 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_many_writers_killed(tmp_path, at, seed):
    dice = random.Random(seed)
    assert len(kill_writers(at, pair(tmp_path), [dice.uniform(0, 0.3) for _ in range(60)])) == 2


# Writers and readers at once


def publish_rounds(at, places, rounds, answers):
    "Publish so many times, and tell which digest each version got."
    told, lost = {}, 0
    for number in range(rounds):
        try:
            done = publish_table(places[number % len(places)], at)
            told |= {done["version"]: done["digest"]} if done["written"] else {}
        except LakeConflict:
            lost += 1
    answers.put((told, lost))


def read_until(at, stop, answers):
    "Read again and again, and tell which tables were seen."
    seen = []
    while not stop.is_set():
        seen.append(digest_rows(read_lake(at)))
    answers.put(seen)


@pytest.mark.parametrize("scheme", ["", "file://"])  # A lock on this machine; without one, as in an object store
def test_two_writers_lose_nothing_and_readers_see_whole_tables(tmp_path, scheme):
    at = lake_table(f"{scheme}{tmp_path / 'lake'}", "flights/gold")
    months = (("2013-06", 1), ("2013-08", 2), ("2013-08", 3), ("2013-11", 4))
    places = [store(tmp_path / f"gold-{add}", corrected(month, add)) for month, add in months]
    first = publish_table(GOLD, at)
    stop, answers, seen = PROCESSES.Event(), PROCESSES.Queue(), PROCESSES.Queue()
    reader = start(read_until, at, stop, seen)
    writers = [start(publish_rounds, at, places[half : half + 2], 10, answers) for half in (0, 2)]
    told = [answers.get(timeout=120) for _ in writers]
    stop.set()
    states = {digest_rows(read_table(place)) for place in (GOLD, *places)}
    reads = seen.get(timeout=60)
    assert {*reads} <= states and len(reads) >= 3
    for process in (*writers, reader):
        process.join()
    versions = {0: first["digest"]} | told[0][0] | told[1][0]
    assert len(versions) == 1 + len(told[0][0]) + len(told[1][0]) == table_state(at).newest + 1
    assert not scheme or len(versions) + told[0][1] + told[1][1] > 5
    assert scheme or told[0][1] + told[1][1] == 0
    for version, digest in versions.items():
        assert table_state(at, version).digest == digest
        assert digest_rows(read_lake(at, version)) in states and verify_table(at, version) == {}


# Cleaning


def test_kept_versions_stay_and_older_ones_go(tmp_path, at):
    places = [store(tmp_path / f"gold-{add}", corrected("2013-09", add)) for add in range(5)]
    for place in places:
        publish_table(place, at, keep_versions=2, keep_days=0)
    assert len(list(at.folder.glob("month=2013-09/*"))) == 2 and len(list(at.folder.glob("month=2013-06/*"))) == 1
    newest = table_state(at).version
    assert_frame_equal(read_lake(at), read_table(places[4]))
    before = next(version for version in range(newest - 1, 0, -1) if len({*read_lake(at, version)["seats"]}))
    assert_frame_equal(read_lake(at, before), read_table(places[3]))
    with pytest.raises(StoreError, match="lacks 1 of its files"):
        read_lake(at, 0)
    said = open_table(at).metadata().configuration
    assert said["delta.enableExpiredLogCleanup"] == "false" and said["delta.logRetentionDuration"] == "interval 0 days"


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_crowded_partitions_are_compacted_and_what_is_gone_is_not_deleted_twice(tmp_path, scheme):
    at = lake_table(f"{scheme}{tmp_path / 'lake'}", "flights/gold")
    publish_table(GOLD, at)
    october = read_table(GOLD).filter(month="2013-10")
    write_deltalake(at.uri, october.head(100), mode="overwrite", predicate="month = '2013-10'")
    for start in (100, 200):
        write_deltalake(at.uri, october.slice(start, 100 if start == 100 else None), mode="append")
    told = publish_table(store(tmp_path / "gold", corrected("2013-09")), at, files_a_partition=2)
    assert told["written"] == ["month=2013-09"] and len(part_files(at, "2013-10")) == 1
    assert_frame_equal(read_lake(at), corrected("2013-09"))
    if not scheme:
        assert clean_table(at, 1, 0)["deleted"] == 2
    newest = table_state(at).newest
    assert clean_table(at, 1, 1)["deleted"] == 0 and table_state(at).newest in (newest, newest + 1)
    assert clean_table(at, 1, 1)["deleted"] == 0 and table_state(at).newest in (newest, newest + 1)


# The step


@pytest.fixture
def shop(tmp_path):
    "A project that published gold once."
    project = Project(tmp_path / "shop").create(
        {},
        '[DEFAULT]\ntracking_uri =\n[pipeline.train]\nworkload = flights\nsteps = ["publish"]\n'
        "publish.gold = gold\npublish.lake = lake\n",
    )
    shutil.copytree(GOLD, project.root / "gold")
    first = project.run()
    assert first.states == {"publish": "executed"}, first.err
    return project


def test_a_month_replayed_executes_nothing_and_publishes_nothing(shop):
    told = json.loads((shop.data("publication") / "publication.json").read_text())
    assert told[0]["version"] == 0 and told[0]["written"] == MONTHS
    before = files(lake_table(str(shop.root / "lake"), "flights/gold"))
    assert shop.run().states == {"publish": "cached"}
    assert files(lake_table(str(shop.root / "lake"), "flights/gold")) == before


@pytest.mark.slow
def test_a_run_follows_its_input_and_the_lake(shop):
    at = lake_table(str(shop.root / "lake"), "flights/gold")
    shutil.rmtree(shop.root / "gold")
    store(shop.root / "gold", corrected("2013-09"))
    assert shop.run().states == {"publish": "executed"} and table_state(at).version == 1
    write_deltalake(at.uri, corrected("2013-09").head(3), mode="append")
    assert shop.run().states == {"publish": "executed"}
    assert_frame_equal(read_lake(at), corrected("2013-09"))
    assert shop.run().states == {"publish": "cached"} and table_state(at).version == 3
