"""Features that are looked up are the features that were trained with; whoever keeps the state keeps it alike."""

import json
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import polars as pl
import pytest
from endpoint_fixture import kill_all, new_endpoint, until, write_bundle

from mlops_kit.dataops.online import OnlineStore
from mlops_kit.dataops.state import FileState, MemoryState, StateStore
from mlops_kit.dataops.totals import list_logs
from mlops_kit.deployment.endpoint.client import ask
from mlops_kit.deployment.endpoint.lifecycle import await_ready, endpoint_status, start_endpoint, stop_endpoint
from mlops_kit.deployment.endpoint.state import add_deployment, set_traffic
from mlops_kit.deployment.inference.lookup import FeatureStore, KeyLookup, Lookup, feed, lookup_file, lookup_place, take
from mlops_kit.deployment.inference.rows import Refused
from mlops_kit.steps import read_tables
from mlops_kit.workloads.flights_features import build_features, build_schedule, key, views
from mlops_kit.workloads.flights_online import online


@pytest.fixture(params=["memory", "file"])
def kept(request, tmp_path):
    """Every implementation of a state, empty."""
    logs = list_logs(views)
    return logs, MemoryState(logs) if request.param == "memory" else FileState(logs, tmp_path / "state.sqlite")


def test_a_state_keeps_what_the_protocol_promises(kept):
    """Random writes at any place of a log: what is read is what a plain list would say."""
    logs, state = kept
    assert isinstance(state, StateStore)
    chance, plain = random.Random(2), {}
    for _ in range(300):
        log, entity = chance.randrange(len(logs)), (chance.choice("abc"),)
        entries = sorted({chance.randrange(1000): None for _ in range(chance.randint(1, 4))})
        wide = len(logs[log].measures)
        tail = [(at, tuple(chance.randrange(99) for _ in range(wide))) for at in entries]
        with state.change():
            state.write(log, entity, tail)
        known = plain.setdefault((log, entity), {})
        if isinstance(state, MemoryState):  # A write replaces the log from its first entry on
            known = plain[log, entity] = {at: one for at, one in known.items() if at < tail[0][0]}
        known.update(tail)
        cuts = [chance.randrange(1001) for _ in range(3)]
        expected = [max(((at, one) for at, one in known.items() if at < cut), default=(0, None))[1] for cut in cuts]
        assert state.read([(log, entity, cuts)]) == [expected]
    assert state.digest("departures", "x") is None
    with state.change():
        state.remember("departures", {"x": "ab"})
        state.keep("rows", {"1": "one", "2": "two"})
        state.keep("rows", {"2": "other"})
        state.keep("more", {"1": "uno"})
    assert state.digest("departures", "x") == "ab"
    assert [state.find("rows", key) for key in "123"] == ["one", "other", None]
    with state.change():
        state.forget("rows")
    assert state.find("rows", "1") is None and state.find("more", "1") == "uno"
    with state.change():
        state.forget()
    assert state.find("more", "1") is None and state.digest("departures", "x") is None
    assert state.read([(log, entity, [1001])]) == [[None]]


def test_a_change_that_fails_leaves_no_trace_in_a_file(tmp_path):
    logs = list_logs(views)
    state = FileState(logs, tmp_path / "state.sqlite")
    with pytest.raises(ZeroDivisionError), state.change():
        state.write(0, ("a",), [(1, (1,) * len(logs[0].measures))])
        1 / 0
    assert state.read([(0, ("a",), [5])]) == [[None]]


def test_a_change_within_a_change_is_part_of_it(kept):
    logs, state = kept
    one = [(1, (1,) * len(logs[0].measures))]
    with state.change():
        with state.change():
            state.write(0, ("a",), one)
        assert state.read([(0, ("a",), [5])]) == [[one[0][1]]]  # Whoever writes reads its own
        if isinstance(state, FileState):
            assert FileState(logs, state.file).read([(0, ("a",), [5])]) == [[None]]  # And nobody else does, yet
            hurry = FileState(logs, state.file)
            hurry.run("pragma busy_timeout = 0")
            with pytest.raises(Exception, match="locked"), hurry.change():
                pass
    assert state.read([(0, ("a",), [5])]) == [[one[0][1]]]


def look_up(store: FeatureStore, rows: pl.DataFrame) -> pl.DataFrame:
    asked = rows.with_columns(pl.col("departure").dt.to_string("iso:strict")).select(online.keys).to_dicts()
    expected = rows.select(online.features)
    return pl.DataFrame([Lookup(store).features(row) for row in asked], schema=expected.schema)


@pytest.fixture(scope="module")
def sample() -> tuple[dict, pl.DataFrame]:
    """Silver of the sample, and its gold with the keys of a request and the time of prediction."""
    silver = read_tables("samples/silver")
    gold = build_features(silver).join(build_schedule(silver).select(*online.keys, "as_of"), on=key)
    return silver, gold.sort("as_of", *key)


Make = Callable[[], tuple[FeatureStore, KeyLookup]]


@pytest.fixture(params=["memory", "file"])
def opened(request, tmp_path) -> Make:
    """Every way to look up by keys: what takes events, and what answers. A managed feature store is one more."""

    def make() -> tuple[FeatureStore, KeyLookup]:
        file = None if request.param == "memory" else tmp_path / f"{time.monotonic_ns()}.sqlite"
        store = FeatureStore(online, file)
        lookup = Lookup(store if file is None else FeatureStore(online, file))  # Another process opens the file
        assert isinstance(lookup, KeyLookup)
        return store, lookup

    return make


def stream(silver: dict, begin: datetime) -> list[tuple[datetime, str, pl.DataFrame]]:
    """What becomes known from a moment on, one event after the other."""
    events = {name: frame.filter(pl.col("known") >= begin) for name, frame in online.events(silver).items()}
    each = [(row["known"][0], name, row) for name, frame in events.items() for row in frame.iter_slices(1)]
    return sorted(each, key=lambda event: event[0])


def test_no_feature_is_skewed_while_events_come_one_by_one(opened, sample):
    """Each flight is asked about when it is predicted: what comes later is not in the store yet."""
    silver, gold = sample
    begin = datetime(2013, 11, 10)
    flights = gold.filter(pl.col("as_of") >= begin)
    store, lookup = opened()
    feed(store, silver, begin)
    waiting, seen = stream(silver, begin), 0
    for row in flights.head(100).iter_slices(1):
        as_of = row["as_of"][0]
        while waiting and waiting[0][0] < as_of:
            known, name, event = waiting.pop(0)
            take(store, {name: event}, known)
            seen += 1
        take(store, {}, as_of)
        found = lookup.features(row.with_columns(pl.col("departure").dt.to_string("iso:strict")).to_dicts()[0])
        assert pl.DataFrame([found], schema=row.select(online.features).schema).equals(row.select(online.features))
    assert seen > 300 and len(flights) > 100


def test_skew_is_noticed(opened, sample):
    """Planes that leave and come later than they did, and a column that is built otherwise."""
    silver, gold = sample
    until = gold["as_of"][-1]
    last = gold.filter(pl.col("as_of") > until - timedelta(days=2))

    def skewed(change: Callable[[pl.DataFrame], pl.DataFrame]) -> list[str]:
        store, lookup = opened()
        feed(store, {**silver, "flights": change(silver["flights"])}, until)
        found = look_up(store, last)
        assert lookup.check() == ""
        return [name for name in online.features if not found[name].equals(last[name])]

    def an_hour_later(flights: pl.DataFrame) -> pl.DataFrame:
        return flights.with_columns(pl.col("dep_delay") + 60, pl.col("arr_delay") + 60)

    assert skewed(lambda flights: flights) == []
    assert "dep_delay_count_24h_overall" in skewed(an_hour_later)
    assert "late_share_30d_by_dest" in skewed(lambda flights: flights.with_columns(pl.col("arr_delay") + 20))
    assert skewed(lambda flights: flights.with_columns(pl.col("distance") + 1)) == ["distance"]


def test_an_event_that_comes_late_is_missed_until_it_comes(opened, sample):
    silver, gold = sample
    row = gold.filter(pl.col("late_share_30d_by_tailnum") > 0)[-1]
    as_of, tailnum = row["as_of"][0], build_schedule(silver).join(row, on=online.keys, how="semi")["tailnum"][0]
    known = {name: frame.filter(pl.col("known") < as_of) for name, frame in online.events(silver).items()}
    plane = known["arrivals"].filter(pl.col("tailnum") == tailnum).sort("known").tail(1)
    store, _ = opened()
    take(store, {**known, "arrivals": known["arrivals"].join(plane, on="known", how="anti")}, as_of)
    store.put("rows", online.keys, build_schedule(silver).join(row, on=online.keys, how="semi").to_dicts())
    assert not look_up(store, row).equals(row.select(online.features))
    take(store, {"arrivals": known["arrivals"].join(plane, on="known", how="semi")}, as_of)
    assert look_up(store, row).equals(row.select(online.features))


def test_what_can_be_asked_about_has_all_its_events(opened, sample):
    """Whatever is fed, in whatever order: an entity is answered as gold has it, or not at all."""
    silver, gold = sample
    store, lookup = opened()
    asked = gold.filter(pl.col("as_of").is_between(datetime(2013, 9, 1), datetime(2013, 11, 25))).gather_every(9)
    for moment in (datetime(2013, 11, 20), datetime(2013, 9, 20), datetime(2013, 11, 25)):
        feed(store, silver, moment)
        answered = 0
        for row in asked.iter_slices(1):
            try:
                found = look_up(store, row)
            except Refused as error:
                assert error.status == 422
                continue
            assert found.equals(row.select(online.features)), (moment, row["as_of"])
            answered += 1
        assert 5 <= answered <= 20  # A week of them
    assert lookup.check() == ""


def test_a_source_that_was_corrected_fills_the_store_anew(opened, sample):
    silver, gold = sample
    store, _ = opened()
    assert not feed(store, silver)["anew"]
    corrected = {**silver, "flights": silver["flights"].with_columns(pl.col("dep_delay") + 1)}
    assert feed(store, corrected)["anew"] and not feed(store, corrected)["anew"]
    fresh = build_features(corrected).join(gold.select(*online.keys, "as_of"), on=key).sort("as_of").tail(20)
    assert look_up(store, fresh).equals(fresh.select(online.features))


FEEDER = """
import sys
from datetime import datetime, timedelta
from pathlib import Path
from mlops_kit.deployment.inference.lookup import FeatureStore, feed
from mlops_kit.steps import read_tables
from mlops_kit.workloads.flights_online import online
silver, until = read_tables("samples/silver"), datetime(2013, 10, 1)
print("ready", flush=True)
while True:
    until += timedelta(days=1)
    feed(FeatureStore(online, Path(sys.argv[1])), silver, until)
    print(until.isoformat(), flush=True)
"""


def test_a_feeder_that_is_killed_again_and_again_leaves_only_whole_feeds(sample, tmp_path):
    """A reader asks all the while; it is answered as gold has it, or refused, and waits for nobody."""
    silver, gold = sample
    file, chance, answered = tmp_path / "flights.sqlite", random.Random(3), 0
    feed(FeatureStore(online, file), silver, datetime(2013, 9, 30))
    reader = FeatureStore(online, file)
    asked = gold.filter(pl.col("as_of").is_between(datetime(2013, 9, 25), datetime(2013, 11, 10)))
    for _ in range(3):
        feeder = subprocess.Popen([sys.executable, "-c", FEEDER, file], stdout=subprocess.PIPE, text=True)
        try:
            assert feeder.stdout and feeder.stdout.readline() == "ready\n"
            end = time.monotonic() + 0.5 + chance.random()
            while time.monotonic() < end:
                row = asked.sample(1, seed=chance.randrange(10**6))
                try:
                    assert look_up(reader, row).equals(row.select(online.features))
                    answered += 1
                except Refused:
                    continue
        finally:
            feeder.kill()
            feeder.wait()
        until = FeatureStore(online, file).horizon
        assert until and until == datetime.combine(until, datetime.min.time())
        ready = gold.filter(pl.col("as_of").is_between(until - timedelta(days=7), until))
        assert look_up(reader, ready).equals(ready.select(online.features))
    assert until > datetime(2013, 10, 1) and answered > 20


def test_a_request_by_keys_is_answered_as_the_features_are(sample, tmp_path):
    from mlops_kit.deployment.bundles.bundle import build_bundle
    from mlops_kit.deployment.endpoint.worker import Worker
    from mlops_kit.deployment.inference.scoring import load_scorer
    from mlops_kit.project import path

    silver, gold = sample
    store = FeatureStore(online, tmp_path / "flights.sqlite")
    feed(store, silver)
    build_bundle(path("samples/package"), tmp_path / "bundle", "flights", "1")
    scorer = load_scorer(tmp_path / "bundle", unseen="missing")
    last = gold.filter(pl.col("as_of") > store.horizon - timedelta(days=7)).tail(20)
    keys = last.select(online.keys).with_columns(pl.col("departure").dt.to_string("iso:strict")).to_dicts()
    rows = last.select(scorer.schema.names).to_dicts()
    worker = Worker(scorer, lookup=Lookup(store))
    by_features, by_keys = (worker.answer(json.dumps(body).encode(), "x")[:2] for body in (rows, keys))
    assert by_keys == by_features and by_keys[0] == 200 and len(last) == 20
    status, body, _ = worker.answer(json.dumps([keys[0], keys[1] | {"flight": 1}]).encode(), "x")
    told = json.loads(body)["errors"]
    assert status == 422 and [(one["row"], one["rule"]) for one in told] == [(1, "key")]


def test_an_endpoint_answers_by_keys_and_learns_what_is_fed_meanwhile(sample, tmp_path):
    silver, gold = sample
    begin, end = datetime(2013, 11, 20), datetime(2013, 11, 22)
    row = gold.filter(pl.col("as_of").is_between(end - timedelta(hours=20), end)).tail(1)
    place = new_endpoint(tmp_path, workload="flights", options={"unseen": "missing"}, probe_seconds=0.5)
    file = lookup_file(online, lookup_place(tmp_path, "flights"))
    store = FeatureStore(online, file)
    feed(store, silver, begin)
    add_deployment(place, "blue", write_bundle(tmp_path, "1"))
    set_traffic(place, {"blue": 100})
    asked = row.select(online.keys).with_columns(pl.col("departure").dt.to_string("iso:strict")).to_dicts()
    try:
        start_endpoint(place)
        await_ready(place, "blue", 60)
        told = ask(place, body=asked)
        assert told.status == 422 and told.content["errors"][0]["rule"] == "stale"
        feed(store, silver, end)
        by_keys, by_features = ask(place, body=asked), ask(place, body=row.select(online.features).to_dicts())
        assert by_keys.status == 200 and by_keys.content == by_features.content
        with sqlite3.connect(file) as broken:
            broken.execute("ALTER TABLE records RENAME TO lost")
        assert until(lambda: "online store" in endpoint_status(place)["deployments"]["blue"]["ejected"], 30)
    finally:
        stop_endpoint(place)
        kill_all(place)


@pytest.mark.slow
def test_no_feature_of_september_is_skewed_though_events_come_one_after_the_other(silver_year, tmp_path):
    """Twenty-seven thousand flights, each looked up at its prediction time: every feature equals gold, to the bit."""
    gold = build_features(silver_year).join(build_schedule(silver_year).select(*online.keys, "as_of"), on=key)
    september = gold.filter(pl.col("departure").dt.month() == 9).sort("as_of")
    store, days, seen = FeatureStore(online, tmp_path / "flights.sqlite"), timedelta(days=4), 0
    until = datetime(2013, 9, 1)
    feed(store, silver_year, until)
    for number in range(9):
        until = datetime(2013, 9, 1) + number * days
        feed(store, silver_year, until, since=until - 2 * days)
        ready = september.filter(pl.col("as_of").is_between(until - days, until, closed="left"))
        assert look_up(store, ready).equals(ready.select(online.features)), until
        seen += len(ready)
    assert seen == len(september) > 25_000


@pytest.mark.slow
def test_a_store_that_was_fed_late_is_refused_and_a_changed_feature_is_noticed(silver_year, tmp_path):
    gold = build_features(silver_year).join(build_schedule(silver_year).select(*online.keys), on=key)
    some = gold.filter(pl.col("departure").dt.date() == datetime(2013, 9, 20).date()).sort(online.keys).head(200)
    late = FeatureStore(online, tmp_path / "late.sqlite")
    feed(late, silver_year, datetime(2013, 9, 19))
    with pytest.raises(Refused, match="has not heard"):
        look_up(late, some.tail(1))
    skewed = FeatureStore(online, tmp_path / "skewed.sqlite")
    flights = silver_year["flights"].with_columns(pl.col("dep_delay") + 1)
    feed(skewed, {**silver_year, "flights": flights}, datetime(2013, 9, 21))
    assert not look_up(skewed, some).equals(some.select(online.features))


def test_a_feed_that_was_cut_off_is_gone_on_with(tmp_path):
    """Half of the events are there, the horizon is not: the next feed brings the rest, once."""
    silver = read_tables("samples/silver")
    whole, cut = (FeatureStore(online, tmp_path / f"{name}.sqlite") for name in ("whole", "cut"))
    told = feed(whole, silver)
    events = online.events(silver)
    OnlineStore(views, tmp_path / "cut.sqlite").ingest({"departures": events["departures"].head(100)})
    assert cut.horizon is None
    feed(cut, silver)
    assert cut.horizon == whole.horizon and feed(cut, silver)["events"] == 0 < told["events"]
    rows = build_schedule(silver).filter(pl.col("as_of") < whole.horizon).tail(50)
    asked = rows.with_columns(pl.col("departure").dt.to_string("iso:strict")).select(online.keys).to_dicts()
    assert [Lookup(cut).features(row) for row in asked] == [Lookup(whole).features(row) for row in asked]
