"Windows, their proof and the online store, on the flights of a year: every engine, every order, the same bits."

import math
import random
import threading
import time
from datetime import datetime, timedelta

import duckdb
import narwhals as nw
import polars as pl
import pytest

from mlops_kit.dataops.online import OnlineStore
from mlops_kit.dataops.proof import prove_point_in_time
from mlops_kit.dataops.windows import Aggregation, FeatureView, feature_blocks, historical_features
from mlops_kit.project import StepError
from mlops_kit.workloads import flights_features

pytestmark = pytest.mark.filterwarnings("error")  # A grouping that pandas does row by row is only a warning

KEYS = ["origin", "carrier", "tailnum"]
HOURS = (timedelta(hours=2), timedelta(hours=24))
WEEK = (timedelta(days=7),)
DELAY = (Aggregation("dep_delay", "mean", HOURS), Aggregation("dep_delay", "count", HOURS))
GONE = (*DELAY, Aggregation("cancelled", "share", HOURS[1:]), Aggregation(None, "count", HOURS[:1]))
LAST = (Aggregation("dep_delay", "last", WEEK), Aggregation("dep_delay", "last_age", WEEK))


def view(entity, aggregations, event_id=("time_hour", "carrier", "flight")):
    return FeatureView(f"by {entity}", "departures", entity, "known", event_id, aggregations)


VIEWS = [view(("origin",), GONE), view(("origin", "carrier"), DELAY), view((), DELAY), view(("tailnum",), LAST)]


@pytest.fixture(scope="module")
def silver(silver_year):
    "Silver of the whole year, without a run."
    return {name: silver_year[name] for name in ("flights", "weather", "planes")}


@pytest.fixture(scope="module")
def year(silver):
    "Departures, and a row three hours before the schedule of each, cancelled ones too."
    departures = flights_features.build_events(silver)["departures"].sort("time_hour", "carrier", "flight")
    minute = silver["flights"].sort("time_hour", "carrier", "flight")["minute"]
    as_of = departures["time_hour"] + pl.select(pl.duration(minutes=minute)).to_series() - timedelta(hours=3)
    rows = departures.select(*KEYS, as_of=as_of).with_row_index("row_id").cast({"row_id": pl.Int64})
    return rows, departures.drop("dest")


@pytest.fixture(scope="module")
def made(year):
    rows, departures = year
    return historical_features(rows, {"departures": departures}, VIEWS).sort("row_id")


def features(table):
    return [name for name in table.columns if "_by_" in name or name.endswith("overall")]


def same(one, other):
    "Equal to the last bit, whatever whole and missing numbers are called."
    one = nw.from_native(one).lazy().collect("polars").to_native().sort("row_id")
    return one.select(features(other)).equals(other.select(features(other)))


def test_every_engine_makes_the_same_bits_of_a_whole_year(year, made):
    rows, departures = year
    assert len(made) == 336_775 and made["dep_delay_mean_2h_by_origin_carrier"].null_count() > 1_000
    lazy = historical_features(rows.lazy(), {"departures": departures.lazy()}, VIEWS)
    assert isinstance(lazy, pl.LazyFrame) and same(lazy, made)
    views, con = [VIEWS[0], VIEWS[3]], duckdb.connect()
    tables = [con.from_arrow(frame.to_arrow()) for frame in (rows, departures)]
    relation = historical_features(tables[0], {"departures": tables[1]}, views)
    assert isinstance(relation, duckdb.DuckDBPyRelation)
    part = made.select("row_id", *(n for n in features(made) if n.endswith(("by_origin", "by_tailnum"))))
    assert same(relation, part)


def test_pandas_makes_the_same_bits(year, made):
    rows, departures = year
    spring = rows.filter(pl.col("as_of").dt.month().is_in([3, 4]))  # The clocks change within
    before = departures.filter(pl.col("known") < spring["as_of"].max())
    by_pandas = historical_features(spring.to_pandas(), {"departures": before.to_pandas()}, VIEWS)
    assert len(by_pandas) > 50_000
    assert same(by_pandas, made.join(spring.select("row_id"), on="row_id", how="semi"))


def test_a_window_is_what_a_person_would_count(year, made):
    departures = year[1].filter(pl.col("known").is_not_null())
    exact = 0
    for row in made.sample(150, seed=4).to_dicts():
        past = departures.filter(pl.col("known") < row["as_of"])
        exact += departures.filter(pl.col("known") == row["as_of"], pl.col("origin") == row["origin"]).height
        for hours in HOURS:
            inside = past.filter(pl.col("known") >= row["as_of"] - hours, pl.col("origin") == row["origin"])
            delays, span = inside["dep_delay"].drop_nulls(), f"{hours // timedelta(hours=1)}h"
            assert row[f"dep_delay_count_{span}_by_origin"] == len(delays)
            assert row[f"dep_delay_mean_{span}_by_origin"] == (delays.sum() / len(delays) if len(delays) else None)
        assert row["cancelled_share_24h_by_origin"] == inside["cancelled"].mean()
        week = past.filter(pl.col("known") >= row["as_of"] - WEEK[0], pl.col("dep_delay").is_not_null())
        plane = week.filter(pl.col("tailnum").eq_missing(pl.lit(row["tailnum"])) & pl.col("tailnum").is_not_null())
        last = plane.sort("known", "dep_delay").tail(1).to_dicts()
        assert row["dep_delay_last_7d_by_tailnum"] == (last[0]["dep_delay"] if last else None)
        age = (row["as_of"] - last[0]["known"]) / timedelta(minutes=1) if last else None
        assert row["dep_delay_last_age_7d_by_tailnum"] == age
    assert exact > 10, "no event fell on the very minute of a prediction: strictness was not tried"


def test_blocks_of_time_change_nothing(year, made):
    rows, departures = year
    spring = rows.filter(pl.col("as_of").dt.month().is_in([3, 4]))
    blocks = list(feature_blocks(spring, {"departures": departures}, VIEWS, blocks=timedelta(days=9)))
    assert len(blocks) == 7 and max(map(len, blocks)) < len(spring) / 5
    assert same(pl.concat(blocks), made.join(spring.select("row_id"), on="row_id", how="semi"))


def brute(aggregation, window, events, entity, row):
    "Features by hand, in plain Python."
    value, scale = aggregation.column, aggregation.scale
    match = [e for e in events if e["known"] and all(e[k] is not None and e[k] == row[k] for k in entity)]
    inside = [e for e in match if row["as_of"] - window <= e["known"] < row["as_of"]]
    if value is None:
        return len(inside)
    there = [
        (e["known"], math.floor(e[value] * scale + 0.5))
        for e in inside
        if e[value] is not None and e[value] == e[value]
    ]
    if aggregation.function == "count":
        return len(there)
    if not there:
        return None
    if aggregation.function in ("mean", "share"):
        return sum(number for _, number in there) / (len(there) * scale)
    return (
        max(there)[1] / scale
        if aggregation.function == "last"
        else (row["as_of"] - max(there)[0]) / timedelta(minutes=1)
    )


def invent(seed):
    "Few events with many ties, times to the microsecond, fractions, and everything missing now and then."
    chance = random.Random(seed)
    start, spans = datetime(2020, 2, 29, 23, 59), (timedelta(seconds=1.5), timedelta(minutes=2))

    def moment():
        return start + timedelta(microseconds=chance.randrange(0, 240) * 1_000_000 + chance.choice([0, 0, 1, 999_999]))

    def key():
        return {"a": chance.choice(["x", "y", None]), "b": chance.choice([1, 2, None])}

    events = [
        {
            "id": n,
            **key(),
            "known": chance.choice([moment(), moment(), None]),
            "v": chance.choice([-0.125, 0.5, 7.75, None]),
        }
        for n in range(60)
    ]
    seen = [event["known"] for event in events if event["known"]]
    rows = [{"row_id": f"r{n}", **key(), "as_of": chance.choice([moment(), chance.choice(seen)])} for n in range(40)]
    wanted = tuple(Aggregation("v", function, spans, scale=100) for function in ("mean", "count", "last", "last_age"))
    entities = [("a",), ("a", "b"), ()]
    return events, rows, [view(entity, (*wanted, Aggregation(None, "count", spans)), ("id",)) for entity in entities]


@pytest.mark.parametrize("seed", range(6))
def test_odd_data_give_the_same_everywhere(seed, tmp_path):
    events, rows, views = invent(seed)
    schema = {"a": pl.String, "b": pl.Int64, "known": pl.Datetime("us"), "v": pl.Float64}
    frames = [pl.DataFrame(rows, {"row_id": pl.String, "a": pl.String, "b": pl.Int64, "as_of": pl.Datetime("us")})]
    frames += [pl.DataFrame(events, {"id": pl.Int64} | schema)]
    by_polars = historical_features(frames[0], {"departures": frames[1]}, views).sort("row_id")
    for row in by_polars.to_dicts():
        for v in views:
            by = f"by_{'_'.join(v.entity)}" if v.entity else "overall"
            for part in v.aggregations:
                for window, span in zip(part.time_windows, ("1.5s", "2min"), strict=True):
                    name = f"{part.column or 'departures'}_{part.function}_{span}_{by}"
                    assert row[name] == brute(part, window, events, v.entity, row), name
    con = duckdb.connect()
    relations = [con.from_arrow(frame.to_arrow()) for frame in frames]
    assert same(historical_features(relations[0], {"departures": relations[1]}, views), by_polars)
    assert same(historical_features(frames[0].to_pandas(), {"departures": frames[1].to_pandas()}, views), by_polars)
    for store in (OnlineStore(views), OnlineStore(views, tmp_path / "s.db")):
        order = random.Random(seed).sample(events, len(events))
        for event in order:
            store.ingest({"departures": [event]})
        for row in by_polars.to_dicts():
            served = store.features(row, row["as_of"])
            assert served == {name: row[name] for name in served}


def test_the_proof_passes_windows_and_finds_every_planted_leak(year):
    rows, departures = year
    week = [timedelta(days=1), timedelta(days=4)]
    start = datetime(2013, 3, 8)  # The clocks change on the 10th
    departures = departures.filter(pl.col("known").is_between(start, start + week[1]))
    rows = rows.filter(pl.col("as_of").is_between(start + week[0], start + week[1])).select("row_id", "as_of", *KEYS)

    def build(sources, rows):
        return historical_features(rows, sources, VIEWS[:2]).drop("as_of", *KEYS)

    def closed(sources, rows):  # `<=` for `<`
        return build(sources, rows.with_columns(pl.col("as_of") + timedelta(microseconds=1)))

    def local(sources, rows):  # The clock of New York for UTC, on the events only
        shifted = sources["departures"].with_columns(pl.col("known") - timedelta(hours=4))
        return build({"departures": shifted}, rows)

    def daily(sources, rows):  # The rate of the day includes the day
        rate = (
            sources["departures"].group_by("origin", day=pl.col("known").dt.date()).agg(rate=pl.col("dep_delay").mean())
        )
        days = rows.with_columns(day=pl.col("as_of").dt.date())
        return days.join(rate, on=["origin", "day"], how="left").select("row_id", "rate")

    def prove(build):
        known, keep = {"departures": "known"}, ["time_hour", "carrier", "flight"]
        return prove_point_in_time(build, {"departures": departures}, rows, known, keep, sample=6, seed=2)

    assert prove(build).is_empty()
    assert {len(prove(leak)) > 0 for leak in (closed, local, daily)} == {True}
    assert set(prove(closed)["moment"]) <= set(rows["as_of"])


def test_events_of_flights_are_known_when_the_clocks_say_so(silver):
    events = flights_features.build_events(silver)
    key = list(flights_features.FLIGHT)
    clock = pl.col("known").dt.replace_time_zone("UTC").dt.convert_time_zone("America/New_York")
    clock = clock.dt.hour().cast(pl.Int64) * 100 + clock.dt.minute()
    left = events["departures"].filter(~pl.col("cancelled")).join(silver["flights"], on=key)
    assert len(left) == 328_521 and left.select((clock == pl.col("dep_time") % 2400).all()).item()
    came = events["arrivals"].join(events["departures"].select(*key, left="known"), on=key)
    came = came.join(silver["flights"].select(*key, "air_time", "arr_time"), on=key)
    taxi = came.select((pl.col("known") - pl.col("left")).dt.total_minutes() - pl.col("air_time")).to_series()
    assert taxi.min() >= 0 and taxi.median() < 35 and taxi.quantile(0.999) < 150
    # Eastern time: the arrival's clock is New York's
    boston = came.filter(pl.col("dest").is_in(["BOS", "ATL", "MIA", "CLT"]))
    assert len(boston) > 50_000 and boston.select((clock == pl.col("arr_time") % 2400).all()).item()


def test_weather_is_the_newest_record_known_strictly_before(silver):
    january = silver["flights"].filter(pl.col("month") == 1)
    tables = {**silver, "flights": january}
    events, rows = flights_features.build_events(tables), flights_features.build_rows(tables)
    made = flights_features.add_known(rows, events).sort("as_of").select("as_of", "origin", "temp", "pressure")
    records = events["weather"].sort("known").select("origin", "known", t="temp", p="pressure")
    seen = made.join_asof(
        records, left_on="as_of", right_on="known", by="origin", allow_exact_matches=False, check_sortedness=False
    )
    fresh = seen["known"] >= seen["as_of"] - timedelta(hours=1)  # Else the hour has no record, and is missing
    assert fresh.mean() > 0.99 and (seen["as_of"].dt.minute() == 0).sum() > 1_000
    assert (
        seen.filter(fresh)
        .select((pl.col("temp").eq_missing(pl.col("t")) & pl.col("pressure").eq_missing(pl.col("p"))).all())
        .item()
    )
    assert seen.filter(~fresh)["temp"].null_count() == (~fresh).sum()


def test_features_of_flights_look_at_nothing_later(silver):
    until = datetime(2013, 2, 20)
    tables = {**silver, "flights": silver["flights"].filter(pl.col("time_hour") < until)}
    events = flights_features.build_events(tables)
    late = flights_features.build_rows(tables).filter(pl.col("as_of") > until - timedelta(days=3))

    def build(sources, rows):
        return flights_features.add_known(rows, sources).drop("as_of", "late")

    moved = prove_point_in_time(build, events, late, dict.fromkeys(events, "known"), flights_features.FLIGHT, sample=3)
    assert moved.is_empty() and len(late) > 1_000


@pytest.fixture(scope="module")
def january(year):
    "Two weeks, and the batch features of 2,000 of its rows."
    rows, departures = (frame.with_columns() for frame in year)
    until = datetime(2013, 1, 15)
    departures = departures.filter(pl.col("known") < until)
    rows = rows.filter(pl.col("as_of") < until).sample(2_000, seed=5)
    batch = historical_features(rows, {"departures": departures}, VIEWS).sort("row_id")
    return departures, batch


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_online_is_batch_whatever_the_order_of_arrival(january, kept, tmp_path):
    departures, batch = january
    store = OnlineStore(VIEWS, tmp_path / "online.db" if kept == "file" else None)
    shuffled = departures.sample(fraction=1, shuffle=True, seed=6)
    for begin in range(0, len(shuffled), 2_000):  # Each batch holds events of both weeks
        store.ingest({"departures": shuffled[max(0, begin - 100) : begin + 2_000]})  # And a hundred once more
    if kept == "file":
        store = OnlineStore(VIEWS, tmp_path / "online.db")  # Another process opens it
    served = [store.features(row, row["as_of"]) for row in batch.to_dicts()]
    made = pl.DataFrame(served, schema={name: batch.schema[name] for name in features(batch)})
    assert made.equals(batch.select(features(batch))) and made["dep_delay_last_7d_by_tailnum"].count() > 500


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_events_that_are_refused_leave_no_trace(kept, tmp_path):
    store = OnlineStore([view(("origin",), DELAY, ("id",))], tmp_path / "s.db" if kept == "file" else None)
    start = datetime(2013, 1, 1)
    good = [{"id": n, "origin": "JFK", "known": start + timedelta(minutes=n), "dep_delay": n} for n in range(5)]
    for wrong in (
        {"dep_delay": 0.5},
        {"dep_delay": 2**60},
        {"dep_delay": "7"},
        {"known": start.astimezone()},
        {"known": "2013-01-01"},
    ):
        with pytest.raises(StepError):
            store.ingest({"departures": [*good, {**good[0], "id": 9} | wrong]})
    row, as_of = {"origin": "JFK"}, start + timedelta(hours=1)
    assert store.features(row, as_of)["dep_delay_count_2h_by_origin"] == 0
    assert store.ingest({"departures": good}) == 5 and store.ingest({"departures": good}) == 0
    assert store.features(row, as_of)["dep_delay_mean_2h_by_origin"] == 2
    with pytest.raises(StepError, match="known with other values"):
        store.ingest({"departures": [good[0] | {"dep_delay": 7}]})


@pytest.mark.parametrize("kept", ["memory", "file"])
def test_a_reader_sees_whole_batches_while_another_writes(kept, tmp_path):
    views = [view((key,), DELAY[1:], ("id",)) for key in ("a", "b", "c")]
    writer = OnlineStore(views, tmp_path / "s.db" if kept == "file" else None)
    reader = OnlineStore(views, tmp_path / "s.db") if kept == "file" else writer
    start, seen, broken, done = datetime(2013, 1, 1), set(), [], threading.Event()

    def read():
        while not done.is_set():
            found = set(reader.features({"a": 1, "b": 1, "c": 1}, start + timedelta(hours=1)).values())
            seen.update(found)
            broken.extend([found] if len(found) != 2 else [])  # One count of 2 hours, one of 24, for each key the same

    def write():
        for n in range(60):
            at = start + timedelta(minutes=n % 7)
            batch = [{"id": 5 * n + k, "a": 1, "b": 1, "c": 1, "known": at, "dep_delay": 1} for k in range(5)]
            batch += [{"id": -n - 1, "a": 1, "b": 1, "c": 1, "known": start - timedelta(hours=2), "dep_delay": 1}]
            writer.ingest({"departures": batch})
            time.sleep(0.005)

    readers = [threading.Thread(target=read) for _ in range(2)]
    writer.ingest(
        {"departures": [{"id": 10_000, "a": 1, "b": 1, "c": 1, "known": start - timedelta(hours=3), "dep_delay": 1}]}
    )
    for thread in readers:
        thread.start()
    write()
    done.set()
    for thread in readers:
        thread.join()
    assert not broken and max(seen) == 361 and len(seen) > 10


@pytest.mark.slow
def test_gold_of_the_year_is_the_same_on_every_engine(silver):
    gold = flights_features.build_features(silver).sort(flights_features.key)
    assert len(gold) == 327_346
    con = duckdb.connect()
    for convert in (pl.DataFrame.to_pandas, lambda table: con.from_arrow(table.to_arrow())):
        other = flights_features.build_features(
            {name: convert(silver[name]) for name in ("flights", "weather", "planes")}
        )
        other = nw.from_native(other).lazy().collect("polars").to_native().cast(gold.schema)
        assert other.sort(flights_features.key).equals(gold)
