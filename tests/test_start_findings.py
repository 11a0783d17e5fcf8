"What is found about a new table: planted leaks, groups, times and orders, on real tables in files, and the screen."

import json
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from rich.console import Console
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

from mlops_kit.dataops.leaks import count_leaks, find_leaks
from mlops_kit.project import SettingsError
from mlops_kit.start.findings import Findings, announce, find, findings_dict
from mlops_kit.start.reading import read_data
from mlops_kit.start.splitting import ALIKE
from mlops_kit.training.split import split_rows

draw = np.random.default_rng(0)
CELLS = pl.from_pandas(load_breast_cancer(as_frame=True).frame).rename({"target": "benign"})
CELLS = CELLS.select(*CELLS.columns[:8], "benign")
SUGAR = pl.from_pandas(load_diabetes(as_frame=True).frame).rename({"target": "progress"})


def look(rows: pl.DataFrame, folder, target: str, **words) -> Findings:
    "Write a table as CSV, as a person has it, and find out about it."
    rows.write_csv(folder / "table.csv")
    return find(read_data([str(folder / "table.csv")]), target, **words)


def screen(found: Findings) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(announce(found, "churn"))
    return captured.get()


def test_the_label_in_disguise_is_left_out_and_a_noisy_copy_asked_about(tmp_path):
    benign, few = pl.col("benign"), pl.Series(draw.random(len(CELLS)) < 0.06)
    found = look(
        CELLS.with_columns(
            code=pl.when(benign == 1).then(pl.lit("B7")).otherwise(pl.lit("M2")),
            operated=pl.when(benign == 0).then("mean area"),
            opinion=pl.when(few).then(1 - benign).otherwise(benign),
            bill=pl.when((benign == 0) & (pl.int_range(pl.len()) % 5 > 1))
            .then(0.0)
            .otherwise(pl.Series(draw.uniform(1, 9, len(CELLS)))),
        ),
        tmp_path,
        "benign",
    )
    assert {"code", "operated"} == {*found.left_out} and all(why.startswith("leak") for why in found.left_out.values())
    assert {"opinion", "bill"} <= found.asked.keys() and "opinion" in found.features
    assert "is 0.0" in found.asked["bill"] and "always" in found.asked["bill"]


def test_another_unit_and_the_parts_of_a_sum_are_left_out(tmp_path):
    noise = [pl.Series(draw.normal(0, 30, len(SUGAR))) for _ in range(2)]
    parts = SUGAR.with_columns(first=noise[0] + 50, second=noise[1] + 20)
    parts = parts.with_columns(third=pl.col("progress") - pl.col("first") - pl.col("second"))
    parts = parts.with_columns(pounds=pl.col("progress") * 2.2, density=pl.col("progress") / (pl.col("s1") + 2))
    found = look(parts, tmp_path, "progress")
    assert {"pounds", "first", "second", "third"} <= found.left_out.keys()
    assert not {*SUGAR.columns} & {*found.left_out} or "s1" in found.left_out  # Of density, s1 is the other part
    assert "put back what is known before" in found.left_out["third"]


@pytest.mark.parametrize("load", [load_breast_cancer, load_diabetes, load_iris, load_wine])
def test_honest_columns_of_real_tables_stay_and_the_pipeline_does_not_stop(load, tmp_path):
    rows = pl.from_pandas(load(as_frame=True).frame)
    found = look(rows, tmp_path, "target")
    assert not found.left_out and len(found.features) == rows.width - 1 and len(found.strongest) == 3
    parts = split_rows(rows.with_row_index("row"), "target", found.task.task)
    train, test = (parts.filter(part=part) for part in ("train", "test"))
    assert count_leaks(find_leaks(train, test, "target", found.features, ["row"], allowed=found.asked)) == 0


def test_a_label_drawn_for_each_group_shows_no_skill_once_groups_are_kept_together(tmp_path):
    person = np.repeat(np.arange(200), 8)
    rows = pl.DataFrame({"person_id": person, "label": draw.integers(0, 2, 200)[person]})
    for name in "abcd":  # What is the same in all rows of a person
        rows = rows.with_columns(pl.Series(name, draw.normal(size=200)[person] + draw.normal(0, 0.01, len(person))))
    found = look(rows, tmp_path, "label")
    assert (found.split.kind, found.group) == ("group", "person_id") and "person_id" not in found.features
    assert found.split.skills["random"] > 0.5 and found.split.skills["grouped"] < 0.05
    assert "group = (nothing" in screen(found)
    alone = look(rows.with_columns(label=pl.Series(draw.integers(0, 2, len(rows)))), tmp_path, "label")
    assert alone.split.kind == "random" and "person_id" in alone.split.others


def test_rows_that_came_in_twice_stay_on_one_side(tmp_path):
    found = look(pl.concat([SUGAR, SUGAR.head(150)]).sample(fraction=1, shuffle=True, seed=0), tmp_path, "progress")
    assert found.group == ALIKE and found.split.skills["random"] > found.split.skills["grouped"]


def test_a_year_is_the_time_and_a_year_of_birth_is_not(tmp_path):
    rows = SUGAR.with_columns(
        year=pl.Series(np.sort(draw.integers(2015, 2023, len(SUGAR)))),
        birth_year=pl.Series(draw.integers(1940, 1990, len(SUGAR))),
    )
    found = look(rows, tmp_path, "progress")
    assert (found.split.kind, found.time) == ("time", "year") and {"random", "last 20%"} == {*found.split.skills}
    assert "birth_year" in found.features and "fact about a row" in found.split.others["birth_year"]
    assert look(rows.drop("year"), tmp_path, "progress").split.kind == "random"


def test_the_order_of_the_rows_never_splits_and_its_number_is_no_feature(tmp_path):
    rows = CELLS.sort("benign").with_row_index("case_id", offset=1000)
    found = look(rows, tmp_path, "benign")
    assert found.split.kind == "random" and found.left_out["case_id"] == "identifier" and found.key == ["case_id"]


def test_a_time_or_a_group_that_a_person_names_is_taken_or_refused(tmp_path):
    days = [date(2024, 1, 1) + timedelta(days=n) for n in range(len(SUGAR))]
    rows = SUGAR.with_columns(seen=pl.Series(days), clinic=pl.Series(draw.integers(0, 40, len(SUGAR))))
    assert look(rows, tmp_path, "progress", group="clinic").split.kind == "group"
    both = look(rows, tmp_path, "progress", time="seen")
    assert (both.time, both.group) == ("seen", "")
    odd = pl.int_range(pl.len()) % 2 == 1
    broken = rows.with_columns(seen=pl.when(odd).then(pl.lit("soon")).otherwise("seen"))
    for words, says in [
        ({"time": "seem"}, "Did you mean `seen`?"),
        ({"time": "seen"}, "221 of 442 rows have no time"),
        ({"time": "seen"}, "row 2"),
        ({"group": "clinics"}, "Did you mean `clinic`?"),
        ({"group": "progress"}, "is the label"),
    ]:
        with pytest.raises(SettingsError) as caught:
            look(broken, tmp_path, "progress", **words)
        assert says in str(caught.value)
    some = rows.with_columns(seen=pl.when(pl.int_range(pl.len()) == 6).then(pl.lit("soon")).otherwise("seen"))
    assert "1 rows without it are left out" in look(some, tmp_path, "progress", time="seen").split.reason


def test_the_screen_says_every_decision_with_the_line_that_changes_it(tmp_path):
    rows = CELLS.with_columns(
        pl.lit("x").alias("[bold]strange"),
        pl.Series("a\nb", [f"N{n}" for n in range(len(CELLS))]),
        report=pl.col("benign") * 2 - 1,
        benign=pl.when(pl.int_range(pl.len()) > 4).then("benign"),
    )
    found = look(rows, tmp_path, "benign")
    text = screen(found)
    for said in ["5 rows without a label", "[bold]strange", "a b", "identifier", "one value only", "prediction time"]:
        assert said in " ".join(text.split()), said
    for line in ["[workload.churn] task =", "group =", "key =", "nbs/workloads/churn.ipynb"]:
        assert line in text, line
    assert max(map(len, text.splitlines())) <= 100 and len(text.splitlines()) <= 40
    assert json.loads(json.dumps(findings_dict(found)))["left_out"]["report"].startswith("leak")


def test_a_table_of_many_columns_is_still_one_screen(tmp_path):
    wide = pl.DataFrame({f"column {n}": draw.normal(size=200) for n in range(90)})
    wide = wide.with_columns(pl.lit(n).alias(f"constant {n}") for n in range(90))
    found = look(wide.with_columns(y=pl.col("column 3") > 0), tmp_path, "y")
    assert len(found.left_out) > 80 and len(screen(found).splitlines()) <= 40 and "more" in screen(found)


@pytest.mark.slow
def test_two_thousand_columns_are_looked_at(tmp_path):
    wide = pl.DataFrame({f"c{n}": draw.normal(size=3000) for n in range(1998)})
    wide = wide.with_columns(y=pl.col("c7") + pl.col("c8"))
    found = look(wide, tmp_path, "y")
    assert {"c7", "c8"} <= {*found.left_out} and len(screen(found).splitlines()) <= 40
