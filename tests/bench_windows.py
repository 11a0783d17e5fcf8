"""Speed and memory of windows against hand-written Polars: python tests/bench_windows.py [copies of the year, 30].

Ten million departures (the flights of 2013, their dates shifted by years), two entities, three spans, a count and two
sums each. Every variant runs in a process of its own and reads the same file first, which is not timed. CPU time is
given beside wall time, because other work on the machine spoils the second. With the word `online` in place of the
number: the time of one online row.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import polars as pl
from ratio import in_turn, middle, say

from mlops_kit.dataops.online import OnlineStore
from mlops_kit.dataops.windows import Aggregation, FeatureView, historical_features
from mlops_kit.workloads.flights_contracts import UTC_HOUR
from mlops_kit.workloads.flights_sources import read_source

ENTITIES, HOURS, SUMS = ("origin", "carrier"), (2, 6, 24), ("flights", "delay", "late")
TIME, MEMORY = 1.5, 2.5  # Most times what the hand-written version needs


def prepare(file: Path, copies: int) -> None:
    """Write flights that left, `copies` years of them: each is an event, and a row three hours before its schedule."""
    flights = read_source("flights").filter(pl.col("dep_delay").is_not_null())
    schedule = pl.col("time_hour").str.to_datetime(UTC_HOUR) + pl.duration(minutes="minute")
    year = flights.select(
        *ENTITIES,
        "dest",
        as_of=schedule - timedelta(hours=3),
        known=schedule + pl.duration(minutes="dep_delay"),
        delay="dep_delay",
        late=pl.col("dep_delay") > 15,
    )
    shifted = [year.with_columns(pl.col("as_of", "known") + timedelta(days=365 * n)) for n in range(copies)]
    pl.concat(shifted).with_row_index("row_id").cast({"row_id": pl.Int64}).write_parquet(file)


def read_totals(rows: pl.DataFrame, totals: pl.LazyFrame, entity: str, hours: int) -> pl.DataFrame:
    """Look up the totals so many hours before each row's prediction time."""
    asked = (
        rows.lazy().select("row_id", entity, cut=pl.col("as_of") - timedelta(hours=hours, microseconds=1)).sort("cut")
    )
    found = asked.join_asof(totals, left_on="cut", right_on="known", by=entity, check_sortedness=False)
    return found.sort("row_id").select(pl.col(SUMS).fill_null(0)).collect()


def by_asof(rows: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Look up running totals at both ends of each window."""
    values = (pl.len().cast(pl.Int64).alias("flights"), pl.col("delay").sum(), pl.col("late").cast(pl.Int64).sum())
    for entity in ENTITIES:
        totals = events.group_by(entity, "known").agg(*values).sort("known")
        totals = totals.with_columns(pl.col(SUMS).cum_sum().over(entity)).lazy()
        end = read_totals(rows, totals, entity, 0)
        for hours in HOURS:
            begin = read_totals(rows, totals, entity, hours)
            rows = rows.with_columns((end[name] - begin[name]).alias(f"{name}_{hours}_{entity}") for name in SUMS)
    return rows


def by_rolling(rows: pl.DataFrame, events: pl.DataFrame) -> pl.DataFrame:
    """Let Polars roll over rows and events together."""
    nothing = [pl.lit(0, dtype=pl.Int64).alias(name) for name in SUMS]
    nobody, one = pl.lit(-1, dtype=pl.Int64).alias("row_id"), pl.lit(1, dtype=pl.Int64).alias("flights")
    for entity in ENTITIES:
        known = events.lazy().select(nobody, entity, one, "delay", pl.col("late").cast(pl.Int64), at="known")
        asked = rows.lazy().select("row_id", entity, *nothing, at="as_of").select(known.collect_schema().names())
        rolled = [
            pl.col(name).rolling_sum_by("at", f"{hours}h", closed="left").over(entity).alias(f"{name}_{hours}_{entity}")
            for hours in HOURS
            for name in SUMS
        ]
        made = pl.concat([known, asked]).sort("at").with_columns(rolled).filter(pl.col("row_id") >= 0).sort("row_id")
        rows = rows.hstack(made.drop("row_id", entity, "at", *SUMS).collect())
    return rows


def by_views(rows: pl.DataFrame, events: pl.DataFrame, blocks: timedelta | None) -> pl.DataFrame:
    """Declare it."""
    spans = tuple(timedelta(hours=hours) for hours in HOURS)
    wanted = tuple(Aggregation(*what, spans) for what in ((None, "count"), ("delay", "mean"), ("late", "share")))
    views = [FeatureView(name, "flights", (name,), "known", ("row_id",), wanted) for name in ENTITIES]
    return historical_features(rows, {"flights": events}, views, blocks=blocks)


VARIANTS = {
    "polars by hand, as-of on running totals": by_asof,
    "polars by hand, rolling_sum_by": by_rolling,
    "views, in one block": lambda rows, events: by_views(rows, events, timedelta(days=36_500)),
    "views, blocks of a year": lambda rows, events: by_views(rows, events, None),
}
*HANDS, _, OURS = VARIANTS  # What is compared; the views in one block are shown beside


def measure(file: Path, variant: str) -> None:
    """Run one variant, and print what it cost and a sum of all windows that must be the same for each."""
    table = pl.read_parquet(file)
    rows, events = (
        table.select("row_id", *ENTITIES, "as_of"),
        table.select("row_id", *ENTITIES, "known", "delay", "late"),
    )
    del table
    wall, cpu = time.perf_counter(), time.process_time()
    made = VARIANTS[variant](rows, events)
    cost = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    counts = sum(made[name].sum() for name in made.columns if "count" in name or name.startswith("flights_"))
    print(json.dumps(cost | {"gb": peak, "rows": len(made), "counts": counts}))


def online() -> None:
    """Serve 2,000 rows of January, 15 windows each, from memory and from a file, and take late events in."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "flights.parquet"
        prepare(file, 1)
        events = pl.read_parquet(file).filter(pl.col("known").dt.month() == 1)
        rows = events.sample(2_000, seed=1).to_dicts()
        known = events.drop("as_of").sort("known").to_dicts()
        mean = (Aggregation("delay", "mean", tuple(timedelta(hours=hours) for hours in HOURS)),)
        entities = [("origin",), ("carrier",), ("dest",), ("origin", "carrier"), ()]
        views = [FeatureView(f"by {entity}", "flights", entity, "known", ("row_id",), mean) for entity in entities]
        for name, store in (("memory", OnlineStore(views)), ("SQLite", OnlineStore(views, Path(folder) / "online.db"))):
            cost = {"ingest": clock(lambda s=store: s.ingest({"flights": known[:-1_000]})) / len(known[:-1_000])}
            cost["one late by 500 events"] = (
                clock(lambda s=store: [s.ingest({"flights": [e]}) for e in late(known)]) / 20
            )
            cost["row"] = (
                min(clock(lambda s=store: [s.features(row, row["as_of"]) for row in rows]) for _ in range(3)) / 2_000
            )
            print(name, ", ".join(f"{what} {seconds * 1e6:.0f} us" for what, seconds in cost.items()), flush=True)


def late(known: list[dict]) -> list[dict]:
    """Twenty events that differ from one 500 events before the newest in nothing but their id."""
    return [known[-1_500] | {"row_id": -number - 1} for number in range(20)]


def clock(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def compare(copies: int = 30, rounds: int = 3, variants: tuple[str, ...] = tuple(VARIANTS)) -> dict[str, list[dict]]:
    """Run variants in turn: {variant: what each of its runs cost}. All count the same."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "flights.parquet"
        prepare(file, copies)
        found = in_turn({name: [__file__, "--one", str(file), name] for name in variants}, rounds)
    counted = {(run["rows"], run["counts"]) for runs in found.values() for run in runs}
    assert len(counted) == 1, "the variants do not count the same"
    return found


def report(copies: int = 30, rounds: int = 3, variants: tuple[str, ...] = (*HANDS, OURS)) -> None:
    """Hold the views against the better version by hand; wall time, the processor's, and memory each."""
    found = compare(copies, rounds, variants)
    cost = {name: {what: middle(runs, what) for what in ("wall", "cpu", "gb")} for name, runs in found.items()}
    rows = f"{found[OURS][0]['rows']:,} rows"
    for what, unit, bound in (("wall", "s", TIME), ("cpu", "s", TIME), ("gb", "GB", MEMORY)):
        best = min(HANDS, key=lambda name: cost[name][what])
        details = ", ".join(f"{cost[name][what]:.1f} {unit} {name}" for name in cost)
        say(f"windows / {best}: {what}", cost[OURS][what] / cost[best][what], bound, f"{rows}; {details}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(Path(sys.argv[2]), sys.argv[3])
    elif sys.argv[1:2] == ["online"]:
        online()
    else:
        report(int(sys.argv[1]) if sys.argv[1:] else 30, variants=tuple(VARIANTS))
