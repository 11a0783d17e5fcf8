"""Speed of features that are looked up by keys: python tests/bench_online.py [flights, 2000].

The flights of 2013 up to the first of October are fed into a SQLite store; then flights of its last week are looked up,
one at a time, as a worker does it: schedule, plane, weather and 73 windows. A second time, events are added all the
while by another process, as in production.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import polars as pl
from ratio import say

from mlops_kit.dataops.quarantine import clean_tables
from mlops_kit.deployment.inference.lookup import FeatureStore, Lookup, feed
from mlops_kit.workloads.flights_contracts import contracts
from mlops_kit.workloads.flights_features import build_schedule
from mlops_kit.workloads.flights_online import online
from mlops_kit.workloads.flights_sources import TABLES, read_source

UNTIL, MOST_MS, MOST_SECONDS = datetime(2013, 10, 1), 2.0, 30.0
STREAM = """
import sys
from datetime import datetime, timedelta
from pathlib import Path
import polars as pl
from mlops_kit.deployment.inference.lookup import FeatureStore, take
from mlops_kit.workloads.flights_online import online
store, until, number = FeatureStore(online, Path(sys.argv[1])), datetime(2013, 10, 1), 0
print("ready", flush=True)
while True:
    until, number = until + timedelta(seconds=1), number + 1
    told = dict(time_hour=[until], carrier=["UA"], flight=[number], origin=["EWR"], dest=["IAH"], tailnum=["x"])
    take(store, {"departures": pl.DataFrame(told | dict(known=[until], dep_delay=[3], cancelled=[False]))}, until)
"""


def ask(lookup: Lookup, keys: list[dict]) -> list[float]:
    """Look up each, and say how many milliseconds it took."""
    took = []
    for one in keys:
        began = time.perf_counter()
        lookup.features(one)
        took.append(1000 * (time.perf_counter() - began))
    return sorted(took)


def report(flights: int = 2000) -> None:
    silver = {
        name: table.good
        for name, table in clean_tables({name: read_source(name) for name in TABLES}, contracts()).items()
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "flights.sqlite"
        began = time.perf_counter()
        told = feed(FeatureStore(online, file), silver, UNTIL)
        fed = time.perf_counter() - began
        week = pl.col("as_of").is_between(UNTIL - timedelta(days=7), UNTIL, closed="left")
        some = build_schedule(silver).filter(week).sample(flights, seed=1)
        keys = some.select(pl.col(online.keys)).with_columns(pl.col("departure").dt.to_string("iso:strict")).to_dicts()
        quiet = ask(Lookup(FeatureStore(online, file)), keys)
        stream = subprocess.Popen([sys.executable, "-c", STREAM, file], stdout=subprocess.PIPE)
        try:
            assert stream.stdout and stream.stdout.readline() == b"ready\n"
            busy = ask(Lookup(FeatureStore(online, file)), keys)
            assert stream.poll() is None
        finally:
            stream.kill()
            stream.wait()
    for name, took in (("ms to look up a flight, p50", quiet), ("the same, while events come", busy)):
        say(name, statistics.median(took), MOST_MS, f"p99 {took[int(0.99 * len(took))]:.2f} ms, {flights} flights")
    say("seconds to fill the store", fed, MOST_SECONDS, f"{told['events']:,} events, {told['rows']:,} flights")


if __name__ == "__main__":
    report(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
