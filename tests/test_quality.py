"The quality history: what is planted is found, the real year is quiet, and nothing personal is kept."

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from test_stages import execute

from mlops_kit.dataops.loads import judge_loads
from mlops_kit.dataops.profiles import PROFILE_KEY, profile_load, profile_parts
from mlops_kit.dataops.quality import judge_quality, quality_page, verdict
from mlops_kit.notebooks import find_steps
from mlops_kit.project import ROOT_VARIABLE, GateFailed, StepError
from mlops_kit.steps import RECORDS_VARIABLE, read_table, write_table

REPOSITORY = Path(__file__).parent.parent
RATE = 1 / 30  # Stated share of loads that may be flagged although nothing is wrong
KEYS = {"flights": ["time_hour", "carrier", "flight"], "weather": ["time_hour", "origin"]}
FORMATS = {"month": "%Y-%m", "day": "%Y-%m-%d"}


@pytest.fixture(scope="module")
def year(silver_year):
    "The real year as it leaves the cleaning step: {table: rows}."
    return silver_year


def local(form):
    "The load of each row: its month or day in New York."
    time = pl.col("time_hour").dt.replace_time_zone("UTC").dt.convert_time_zone("America/New_York")
    return time.dt.strftime(FORMATS[form])


def profiles(year, table, form):
    return profile_parts(year[table], table, local(form), key=KEYS[table], time="time_hour")


@pytest.fixture(scope="module")
def history(year):
    "Profiles of the real year: {(table, month or day): history}."
    return {(table, form): profiles(year, table, form) for table in KEYS for form in FORMATS}


def load_of(year, table, part):
    form = "month" if len(part) == 7 else "day"
    return year[table].filter(local(form) == part)


def planted(year, history, table, part, change, past=150):
    "Judge the load `part` after `change`, by the loads before it; give its row of verdict."
    form = "month" if len(part) == 7 else "day"
    before = history[table, form].filter(pl.col("part") < part)
    kept = before["part"].unique().sort()[-past:].to_list()
    rows = profile_load(change(load_of(year, table, part)), table, part, key=KEYS[table], time="time_hour")
    _, loads = judge_loads(pl.concat([before.filter(pl.col("part").is_in(kept)), rows]))
    return loads.row(-1, named=True)


def again(year, table, part, before):
    "The rows of an earlier load under the times of this one."
    step = pl.lit(part).str.to_date() - pl.lit(before).str.to_date()
    return lambda rows: load_of(year, table, before).with_columns(
        pl.col("time_hour") + step, *(pl.lit(rows[name][0]).alias(name) for name in ("month", "day") if name in rows)
    )


def stuck(column):
    return lambda rows: rows.with_columns(pl.col(column).drop_nulls().first().alias(column))


def times(factor, *columns):
    return lambda rows: rows.with_columns(pl.col(*columns) * factor)


def celsius(rows):
    return rows.with_columns((pl.col("temp") - 32) / 1.8)


def half(rows):
    return rows.filter(pl.int_range(pl.len()).shuffle(seed=0) % 2 == 0)


def doubled(rows):
    return pl.concat([rows, rows])


KINDS = [
    ("flights", half, "rows 0."),
    ("flights", doubled, "repeated rows 50 %"),
    ("flights", stuck("carrier"), "carrier: "),
    ("flights", stuck("distance"), "distance: "),
    ("flights", times(1.609344, "distance"), "distance: "),
    ("flights", times(1 / 60, "dep_delay", "arr_delay"), "_delay: "),
    ("weather", half, "rows 0."),
    ("weather", doubled, "repeated rows 50 %"),
    ("weather", stuck("pressure"), "pressure: "),
    ("weather", celsius, "temp: "),
]


@pytest.mark.parametrize(("table", "change", "words"), KINDS)
def test_each_planted_month_is_found_and_named(year, history, table, change, words):
    for part in ("2013-05", "2013-11"):
        verdict = planted(year, history, table, part, change)
        assert verdict["flagged"] and words in verdict["reason"], (part, verdict)
        assert not planted(year, history, table, part, lambda rows: rows)["flagged"]


@pytest.mark.parametrize(("table", "change", "words"), [kind for kind in KINDS if kind[1] is not celsius])
def test_each_planted_day_is_found(year, history, table, change, words):
    "Celsius is left out: a mild day in Celsius is a cold one in Fahrenheit, and one in five is not found."
    for part in ("2013-04-17", "2013-10-13"):
        verdict = planted(year, history, table, part, change, past=100)
        assert verdict["flagged"], (part, verdict)


@pytest.mark.parametrize("table", KEYS)
def test_an_old_load_under_a_new_date_is_found(year, history, table):
    change = again(year, table, "2013-10-16", "2013-10-15")
    verdict = planted(year, history, table, "2013-10-16", change, past=60)
    assert verdict["flagged"] and "came in an earlier load 100 %" in verdict["reason"]


@pytest.mark.parametrize("table", KEYS)
def test_the_real_year_keeps_the_stated_rate(history, table):
    _, months = judge_loads(history[table, "month"], RATE)
    _, days = judge_loads(history[table, "day"], RATE)
    assert months["score"].count() >= 8 and months["flagged"].sum() <= 1
    assert days["score"].count() >= 350 and days["flagged"].sum() <= RATE * days["score"].count()


def test_the_day_that_is_missing_at_the_end_of_the_year_is_seen(history):
    _, months = judge_loads(history["weather", "month"])
    (row,) = months.filter("flagged").iter_rows(named=True)
    assert row["part"] == "2013-12" and "age of the newest row 25 h" in row["reason"]


def test_the_blizzard_is_seen(history):
    _, days = judge_loads(history["flights", "day"])
    assert "2013-02-08" in days.filter("flagged")["part"].to_list()


def test_only_the_past_counts(history):
    whole = judge_loads(history["flights", "day"])[1]
    start = judge_loads(history["flights", "day"].filter(pl.col("part") < "2013-03-15"))[1]
    assert start.equals(whole.head(len(start)))


def daily(counts, change=lambda rows: rows, last=1):
    "Profiles of one load a day with that many rows; the last ones are changed."
    random, made = np.random.default_rng(0), []
    for place, count in enumerate(counts):
        rows = pl.DataFrame({"key": np.arange(count), "name": random.choice(["a", "b", "c"], count)})
        rows = change(rows) if place >= len(counts) - last else rows
        part = str(np.datetime64("2013-01-01") + place)
        made.append(profile_load(rows, "made", part, key=["key"] if "key" in rows else []))
    return pl.concat(made)


def test_a_constant_is_not_endlessly_sensitive():
    assert not judge_loads(daily([1000] * 30 + [1010]))[1]["flagged"].any()
    assert judge_loads(daily([1000] * 30 + [2000]))[1]["flagged"].to_list()[-1]


def test_a_new_level_is_accepted_after_few_alarms():
    flagged = judge_loads(daily([1000] * 30 + [2000] * 30))[1]["flagged"].fill_null(False)
    assert 1 <= flagged.sum() <= 5 and not flagged[-20:].any()


def test_a_load_after_a_flagged_one_is_not_blamed():
    flagged = judge_loads(daily([1000] * 30 + [300] + [1000] * 5))[1]["flagged"]
    assert flagged.to_list()[30:] == [True, False, False, False, False, False]


@pytest.mark.parametrize("change", [lambda rows: rows.drop("name"), lambda rows: rows.head(0)])
def test_a_lost_column_and_an_empty_load_are_found(change):
    assert judge_loads(daily([1000] * 30, change))[1]["flagged"].to_list()[-1]


def test_weekends_are_held_against_weekends():
    week = [1000, 1000, 1000, 1000, 1000, 300, 300]
    assert not judge_loads(daily(week * 8))[1]["flagged"].any()
    assert judge_loads(daily([*week * 8, 300]))[1]["flagged"].to_list()[-1]  # A Tuesday as small as a Sunday


def test_rejected_rows_and_a_slow_load_are_seen():
    made = [
        profile_load(pl.DataFrame({"x": range(900)}), "made", f"2013-{month:02}", rejected=9, size=4000, seconds=2.0)
        for month in range(1, 9)
    ]
    rows = pl.DataFrame({"x": range(500)})
    bad = profile_load(rows, "made", "2013-09", rejected=400, size=4000, seconds=200.0)
    facts, loads = judge_loads(pl.concat([*made, bad]))
    assert loads["flagged"].to_list()[-1]
    odd = facts.filter(pl.col("part") == "2013-09", pl.col("deviation").abs() > 5)["metric"].to_list()
    assert {"rejected", "seconds", "speed", "rows"} <= set(odd) and "bytes" not in odd


def test_of_text_and_private_columns_only_counts_and_shares_are_kept(year):
    rows = load_of(year, "flights", "2013-07")
    kept = profile_load(rows, "flights", "2013-07", private=["air_time"], time="time_hour")
    for column in ("tailnum", "air_time"):
        found = dict(kept.filter(column=column).select("metric", "value").iter_rows())
        assert found.keys() == {"missing", "distinct", "top"} and found["top"] <= 1
    _, loads = judge_quality(kept, 0.98, RATE)
    assert not re.search(r"\bN\d{3}[A-Z0-9]{2}\b", quality_page(loads, 0.98, RATE) + kept.write_json())


def test_a_table_without_periods_is_recorded_and_judged_by_the_order_of_its_loads():
    rows = pl.DataFrame({"x": range(100)})
    one = profile_load(rows, "airlines", "all")
    assert judge_loads(one)[1]["flagged"].to_list() == [None]
    with pytest.raises(StepError, match="no loads"):
        judge_loads(one.head(0))


@pytest.fixture
def step(tmp_path, monkeypatch):
    "Run the step on a history: step(history, max_flagged=1)."
    monkeypatch.setenv(ROOT_VARIABLE, str(REPOSITORY))
    (found,) = (step for step in find_steps(REPOSITORY).values() if step.short == "quality")

    def run(history, **given):
        write_table(tmp_path / "profiles", history, key=PROFILE_KEY)
        execute(found, {"profiles": str(tmp_path / "profiles"), "load_quality": str(tmp_path / "out"), **given})
        return tmp_path / "out"

    return run


def broken_sample():
    "The sample with a last month of flights that came twice."
    rows = read_table(REPOSITORY / "samples/silver/flights").filter(month=11)
    kept = read_table(REPOSITORY / "samples/profiles").filter(
        (pl.col("table") != "flights") | (pl.col("part") != "2013-11")
    )
    twice = profile_load(pl.concat([rows, rows]), "flights", "2013-11", key=KEYS["flights"], time="time_hour")
    return pl.concat([kept, twice])


def test_the_step_stops_at_a_broken_load_and_leaves_the_evidence(step, tmp_path, monkeypatch):
    monkeypatch.setenv(RECORDS_VARIABLE, str(tmp_path / "records.jsonl"))
    with pytest.raises(GateFailed, match=r"good rows in the newest load of the worst table is 0\.5"):
        step(broken_sample())
    with pytest.raises(GateFailed, match="unlike its past is 1"):
        step(broken_sample(), good_at_least=0.4)
    loads = read_table(tmp_path / "out/loads")
    assert loads.filter("flagged").select("table", "part").rows() == [("flights", "2013-11")]
    assert "flights 2013-11" in (tmp_path / "data_quality.html").read_text()


def test_the_step_passes_what_its_bars_allow(step):
    step(broken_sample(), good_at_least=0.4, max_flagged=1)
    out = step(read_table(REPOSITORY / "samples/profiles"))
    facts = read_table(out / "history").filter(table="flights", part="2013-11", metric="rows")
    assert facts["expected"].item() > 0 and facts["deviation"].item() is not None


def test_the_page_answers_first_and_stands_alone(history):
    _, loads = judge_quality(pl.concat([history[table, "day"] for table in KEYS]), 0.98, RATE)
    text = quality_page(loads, 0.98, RATE, workload="flights", links={"Cleaning": "clean.html"})
    heading = re.search("<h1>(.*?)</h1>", text)[1]
    assert heading == verdict(loads)[1] and heading.startswith(("No: ", "Yes: "))
    assert 'href="clean.html"' in text and len(text) < 300_000
    assert not re.search(r'(?:src|href)="?http', text) and not re.search(r"#[0-9a-f]{6}", text.split("</style>")[1])
    worst = re.search(r'<h2 id="bad">.*?</table>', text, re.S)[0]
    assert worst.count('<tr role="row" class="bad">') == loads["flagged"].sum()
