"""Features that are looked up are the features that were trained with; whoever keeps the state keeps it alike."""

import random
from datetime import datetime, timedelta

import polars as pl
import pytest

from mlops_kit.dataops.online import OnlineStore
from mlops_kit.dataops.state import FileState, MemoryState, StateStore
from mlops_kit.dataops.totals import list_logs
from mlops_kit.deployment.lookup import FeatureStore, Lookup, feed
from mlops_kit.deployment.schema import Refused
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
    assert state.digest("departures", "x") == "ab"


def test_a_change_that_fails_leaves_no_trace(kept):
    logs, state = kept
    if isinstance(state, MemoryState):
        pytest.skip("memory is lost with its process, and promises no less")
    with pytest.raises(ZeroDivisionError), state.change():
        state.write(0, ("a",), [(1, (1,) * len(logs[0].measures))])
        1 / 0
    assert state.read([(0, ("a",), [5])]) == [[None]]


def look_up(store: FeatureStore, rows: pl.DataFrame) -> pl.DataFrame:
    asked = rows.with_columns(pl.col("departure").dt.to_string("iso:strict")).select(online.keys).to_dicts()
    expected = rows.select(online.features)
    return pl.DataFrame([Lookup(store).features(row) for row in asked], schema=expected.schema)


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
    from mlops_kit.steps import read_tables

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
