"Leaks that were planted are found, in real tables; clean tables, with strong features too, raise no alarm."

from datetime import date, datetime

import numpy as np
import polars as pl
import pytest

from mlops_kit.dataops.alone import ask, measure, measure_together, number_values, predict_alone
from mlops_kit.dataops.leaks import count_leaks, find_copies, find_leaks
from mlops_kit.project import GateFailed, StepError
from mlops_kit.steps import gate
from mlops_kit.tables import to_polars
from mlops_kit.workloads import flights, flights_features

FEATURES = list(flights.meanings)
PLAIN = [entry["name"] for entry in flights_features.others]  # Schedule, plane and weather: no windows
TOO_LATE = ["dep_time", "dep_delay", "arr_time", "arr_delay", "air_time"]


def halves(table, seed=0):
    "Divide rows at random: three quarters, one quarter."
    mixed = table.sample(fraction=1, shuffle=True, seed=seed)
    cut = len(mixed) * 3 // 4
    return mixed[:cut], mixed[cut:]


def found(table, label, features, **more):
    train, test = halves(table)
    return find_leaks(train, test, label, features, **more)


@pytest.fixture(scope="module")
def full(silver_year):
    "All flights of the year with their features, and with what is known too late: (train, test)."
    gold = to_polars(flights.build_features(silver_year))
    flown = silver_year["flights"].with_columns(departure=pl.datetime("year", "month", "day", "hour", "minute"))
    gold = gold.join(flown.select(*flights.key, *TOO_LATE), on=flights.key).sort(flights.key)
    day = pl.col("departure").cast(pl.Date)
    test = gold.filter(day.is_between(date(2013, 9, 1), date(2013, 10, 31)))
    return gold.filter(day < date(2013, 9, 1)), test


def test_the_features_of_all_flights_have_no_leak(full):
    assert len(full[0]) == 217_727
    assert not len(find_leaks(*full, "late", FEATURES, flights.key, flights.time))


@pytest.mark.parametrize(
    ("late", "kind"),
    [
        ("dep_delay", "too good alone"),
        ("arr_delay", "encodes the label"),
        ("dep_time", "carries the model"),
    ],
)
def test_a_column_known_too_late_is_found_among_all_flights(full, late, kind):
    features = PLAIN if late == "dep_time" else FEATURES  # Beside all windows it carries too little to stand out
    leaks = find_leaks(*full, "late", [*features, late], flights.key, flights.time)
    assert leaks.select("feature", "kind").rows() == [(late, kind)]
    with pytest.raises(GateFailed, match="is 1; the bar is exactly 0"):
        gate("leaks", count_leaks(leaks), equals=0, note=leaks["reason"][0])


def test_columns_known_too_late_do_not_hide_each_other(full):
    leaks = find_leaks(*full, "late", [*PLAIN, *TOO_LATE[:4]], flights.key, flights.time)
    assert {"dep_delay", "arr_delay"} <= set(leaks["feature"])
    leaks = find_leaks(*full, "late", [*PLAIN, "dep_time", "arr_time"], flights.key, flights.time)
    assert set(leaks["feature"]) == {"dep_time", "arr_time"}


def test_the_departure_delay_alone_beats_all_features_by_far(full):
    "On months 9 and 10, fitted on 1 to 8: 0.90 alone, 0.91 with the features, 0.7 for the features without it."
    train, test = full
    asked = ask(pl.concat([train.sample(15_000, seed=0), test.sample(5_000, seed=0)]), "late")
    asked = asked._replace(part=np.repeat([-1, 0], [15_000, 5_000]))
    alone = measure(asked, predict_alone(asked, number_values(asked.rows["dep_delay"])))
    together, honest = (measure_together(asked, columns) for columns in ([*FEATURES, "dep_delay"], FEATURES))
    assert abs(alone - 0.90) < 0.015 and abs(together - 0.91) < 0.015 and honest < 0.75


def test_an_amount_is_asked_like_a_class(full):
    leaks = find_leaks(*full, "arr_delay", [*FEATURES, "dep_delay"], flights.key, flights.time)
    assert leaks.select("feature", "kind").rows() == [("dep_delay", "too good alone")]


def test_one_flight_on_both_sides_is_found_among_all(full):
    train, test = full
    columns = [*FEATURES, "late"]
    assert not find_copies(train, test, columns)
    copies = find_copies(pl.concat([train, test.sample(1, seed=1)]), test, columns)
    assert [copy.score for copy in copies] == [1]


def bundled(name):
    "A table of scikit-learn: (rows, label, features)."
    import sklearn.datasets

    data = getattr(sklearn.datasets, f"load_{name}")(as_frame=True)
    label = "label"
    rows = pl.from_pandas(data.data).with_columns(
        pl.Series(label, np.asarray(data.target).T.reshape(-1, len(data.data))[0])
    )
    rows = rows.with_columns(pl.col(label).cast(pl.Int64)) if name not in ("diabetes", "linnerud") else rows
    return rows, label, rows.drop(label).columns


TABLES = ["iris", "wine", "breast_cancer", "diabetes", "linnerud", pytest.param("digits", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", TABLES)
def test_real_tables_raise_no_alarm(name):
    rows, label, features = bundled(name)
    assert found(rows, label, features).rows() == []


@pytest.mark.parametrize(
    "name", ["iris", "diabetes", *(pytest.param(name, marks=pytest.mark.slow) for name in TABLES[1:3])]
)
def test_labels_in_disguise_are_found_in_real_tables(name):
    rows, label, features = bundled(name)
    disguises = {"copy": pl.col(label), "text": pl.format("level {}", label), "unit": (pl.col(label) / 7).exp()}
    disguises.pop("unit" if name != "diabetes" else "text")
    for column, made in disguises.items():
        leaks = found(rows.with_columns(made.alias(column)), label, [*features, column])
        assert leaks.select("feature", "kind").rows() == [(column, "encodes the label")]


@pytest.mark.parametrize("name", ["iris", "wine"])
def test_a_copy_with_faults_is_found_beside_strong_features(name):
    rows, label, features = bundled(name)
    wrong = pl.int_range(pl.len()) % 50 == 7
    rows = rows.with_columns(grade=pl.when(wrong).then((pl.col(label) + 1) % 3).otherwise(label))
    assert "grade" in found(rows, label, [*features, "grade"])["feature"]


def made(strength, rows=4000, seed=0):
    "A table whose features are honest, and each as strong as asked."
    draw = np.random.default_rng(seed)
    columns = {f"x{number}": draw.normal(size=rows) for number in range(8)}
    signal = sum(columns[f"x{number}"] for number in range(4)) * strength
    return pl.DataFrame(columns).with_columns(label=pl.Series(draw.random(rows) < 1 / (1 + np.exp(-signal))))


@pytest.mark.parametrize("strength", [0, 0.5, 2, 10])
def test_strong_honest_features_raise_no_alarm(strength):
    table = made(strength)
    assert not len(found(table, "label", table.columns[:-1]))


def test_what_is_missing_can_give_the_label_away():
    table = made(0.5).with_columns(discharge=pl.when("label").then(pl.col("x5")))
    leaks = found(table, "label", [name for name in table.columns if name != "label"])
    assert leaks["feature"].to_list() == ["discharge"]


def test_numbers_given_after_sorting_by_the_label_are_found_as_number_and_as_text():
    table = made(0.5).sort("label").with_row_index("ticket").with_columns(code=pl.format("U{}-x", "ticket"))
    features = [f"x{number}" for number in range(8)]
    leaks = found(table, "label", [*features, "ticket", "code"])
    assert leaks.select("feature", "kind").rows() == [(name, "orders the label") for name in ("ticket", "code")]


def test_an_order_in_a_key_that_no_model_reads_is_told_and_stops_nothing():
    table = made(0.5).sort("label").with_row_index("ticket")
    leaks = found(table, "label", [f"x{number}" for number in range(8)], key=["ticket"])
    assert leaks["kind"].to_list() == ["orders the label"] and count_leaks(leaks) == 0


def test_a_number_that_grows_with_time_is_no_more_suspicious_than_time():
    table = made(0.5).with_row_index("ticket")
    when = pl.datetime_range(datetime(2024, 1, 1), datetime(2024, 1, 1), eager=True)[0]
    table = table.with_columns(when=pl.lit(when) + pl.duration(hours=pl.col("ticket")))
    rising = pl.Series(np.random.default_rng(1).random(len(table)) < np.linspace(0, 1, len(table)) ** 3)
    table = table.with_columns(label=rising)
    features = [*(f"x{number}" for number in range(8)), "ticket"]
    assert found(table, "label", features)["feature"].to_list() == ["ticket"]
    assert not len(found(table, "label", features, time="when"))


def test_equal_rows_of_coarse_columns_are_chance_and_of_fine_columns_are_copies():
    coarse = made(0.5).select((pl.exclude("label") > 0).name.keep(), "label")
    features = coarse.columns[:-1]
    train, test = halves(coarse)
    assert train.join(test, on=coarse.columns, how="semi").height and not len(
        find_leaks(train, test, "label", features)
    )
    train, test = halves(made(0.5))
    leaks = find_leaks(pl.concat([train, test.head(3)]), test, "label", features)
    assert leaks.select("feature", "kind", "score").rows() == [("rows", "copied rows", 3)]
    train, test = halves(pl.concat([made(0.5)] * 2))
    assert find_leaks(train, test, "label", features)["feature"].to_list() == ["rows"]
    assert not count_leaks(find_leaks(train, test, "label", features, allowed={"rows": "weighted twice"}))


def test_a_key_on_both_sides_is_found():
    train, test = halves(made(0.5).with_row_index("guest").with_columns(pl.col("guest") // 40))
    leaks = find_leaks(train, test, "label", [f"x{number}" for number in range(8)], key=["guest"])
    assert leaks.select("feature", "kind", "stops").rows() == [("guest", "shared keys", True)]


def test_frames_of_pandas_are_read():
    train, test = (part.to_pandas() for part in halves(made(0.5).with_columns(copy=pl.col("label"))))
    assert find_leaks(train, test, "label", ["x0", "x1", "copy"])["feature"].to_list() == ["copy"]


def test_a_mistyped_exception_is_refused():
    table = made(0.5)
    with pytest.raises(StepError, match="`x9` is allowed but is no feature"):
        found(table, "label", ["x0"], allowed={"x9": "known before"})
