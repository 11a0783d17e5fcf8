"""Pandera's own validation against ours with quarantine: `python tests/bench_contracts.py [millions of rows]`.

Both hold the same rows against the same eight rules (three sets, two ranges, a pattern, a value that may not be
missing, a key of four columns), in turn and each in a process of its own, so that its peak of memory is its own.
Ten pairs of rows share a key.
"""

import json
import resource
import sys
import time
import warnings
from typing import Any

import pandera.polars as pa
import polars as pl
from ratio import in_turn, middle, say

from mlops_kit.dataops.quarantine import clean
from mlops_kit.workloads.flights_sources import read_source

KEY = ["time_hour", "carrier", "flight", "origin"]
ORIGINS, MOST_FLIGHTS = ["EWR", "JFK", "LGA"], 10_000
MOST = 2  # Times what pandera alone takes


def rows_of(count: int) -> pl.DataFrame:
    """Flights again and again, with numbers shifted so that keys stay unique, and ten that came twice and differ."""
    flights = read_source("flights")
    times = range(-(-count // len(flights)))
    table = pl.concat([flights.with_columns(pl.col("flight") + MOST_FLIGHTS * n) for n in times]).head(count - 10)
    return pl.concat([table, table.gather_every(1_000).head(10).with_columns(pl.col("minute") + 1)]).rechunk()


def contract(flights: pl.DataFrame) -> pa.DataFrameSchema:
    sets = {
        "origin": pa.Check.isin(ORIGINS),
        "carrier": pa.Check.isin(sorted(flights["carrier"].unique())),
        "dest": pa.Check.isin(sorted(flights["dest"].unique())),
        "distance": pa.Check.in_range(50, 6_000),
        "arr_delay": pa.Check.in_range(-60, 600),
        "tailnum": pa.Check.str_matches(r"^[A-Z0-9]{5,6}$"),
    }
    kinds = flights.schema
    columns: dict[str, Any] = {c: pa.Column(kinds[c], sets.get(c), nullable=c != "dep_time") for c in flights.columns}
    return pa.DataFrameSchema(columns, unique=KEY)


def pandera_alone(flights: pl.DataFrame, schema: pa.DataFrameSchema) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        schema.validate(flights, lazy=True)
    except pa.errors.SchemaErrors as found:
        seconds = time.perf_counter() - start
        cases = found.failure_cases
        twice = cases.filter(pl.col("check") == "multiple_fields_uniqueness").height
        return {"seconds": seconds, "duplicates": twice, "refused": cases["index"].n_unique()}
    raise AssertionError("pandera refused nothing")


def ours(flights: pl.DataFrame, schema: pa.DataFrameSchema) -> dict[str, Any]:
    start = time.perf_counter()
    cleaned = clean(flights, schema, "flights", "bench")
    seconds = time.perf_counter() - start
    twice = cleaned.facts["rules"][f"one row for each {', '.join(KEY)}"]
    found = {"seconds": seconds, "duplicates": twice, "refused": len(cleaned.broken), "kept": len(cleaned.good)}
    return found | {"operations": {name: round(took, 2) for name, took in cleaned.seconds.items()}}


def child(who: str, count: int) -> None:
    flights = rows_of(count)
    schema = contract(flights)
    before, cpu = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    found = {"pandera": pandera_alone, "ours": ours}[who](flights, schema)
    found["cpu"] = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(found | {"rows": len(flights), "peak_gb": round(peak / 1e6, 2), "table_gb": round(before / 1e6, 2)})
    )


def report(millions: float = 10, rounds: int = 3) -> None:
    """Hold ours against pandera's, which sets nothing aside."""
    found = in_turn({who: [__file__, who, str(int(millions * 1e6))] for who in ("pandera", "ours")}, rounds)
    assert all(run["duplicates"] == 20 for run in found["ours"]), "a planted duplicate was not found"
    assert len({run["refused"] for runs in found.values() for run in runs}) == 1, "they refuse different rows"
    for what in ("seconds", "cpu"):
        ours, theirs = (middle(found[who], what) for who in ("ours", "pandera"))
        peaks = " against ".join(f"{middle(found[who], 'peak_gb'):.1f}" for who in ("ours", "pandera"))
        details = f"{found['ours'][0]['rows']:,} rows; {ours:.1f} s against {theirs:.1f} s, {peaks} GB"
        say(f"contract and quarantine / pandera's validation: {what}", ours / theirs, MOST, details)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1:2] and sys.argv[1] in ("pandera", "ours"):
        child(sys.argv[1], int(sys.argv[2]))
    else:
        report(float(sys.argv[1]) if sys.argv[1:] else 10.0)
