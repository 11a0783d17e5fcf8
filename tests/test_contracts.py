"""Contracts: rows are set aside exactly where pandera refuses them, nothing is lost, and no page tells too much."""

import datetime
import json
import random
import re
import subprocess
import sys
import warnings

import pandera.polars as pa
import polars as pl
import pytest
from test_report import assert_fits

from mlops_kit.dataops.cleaning_report import cleaning_page
from mlops_kit.dataops.contract_changes import compare_contracts
from mlops_kit.dataops.contract_check import check_text, committed_contract
from mlops_kit.dataops.contracts import check_load, holds, judge, list_rules
from mlops_kit.dataops.conversion import fill_missing, read_columns
from mlops_kit.dataops.infer import infer_contract
from mlops_kit.dataops.quarantine import clean, clean_tables, landed_rows, replay
from mlops_kit.project import StepError
from mlops_kit.tables import read_tables
from mlops_kit.workloads.flights_contracts import contracts
from mlops_kit.workloads.flights_sources import TABLES, read_source


def refused_by_pandera(rows, schema):
    """Positions of the rows that pandera's own validation reports."""
    try:
        with warnings.catch_warnings(action="ignore", category=pa.errors.SchemaWarning):
            schema.validate(rows, lazy=True)
    except pa.errors.SchemaErrors as found:
        return set(found.failure_cases["index"].drop_nulls().to_list())
    return set()


def refused(cleaned):
    """Positions of the rows in quarantine."""
    return set((~cleaned.passed).arg_true().to_list())


@pytest.fixture(scope="module")
def landed():
    """All real tables, as they land."""
    return {name: read_source(name) for name in TABLES}


def planted(rows, column, value, places):
    """The same rows with `value` in `column` at `places`."""
    hit = pl.int_range(pl.len()).is_in(places)
    return rows.with_columns(
        pl.when(hit).then(pl.lit(value, dtype=rows.schema[column])).otherwise(column).alias(column)
    )


# The same rows as pandera


def test_real_flights_agree_with_pandera(landed):
    """336,776 flights and all other tables: the same rows are refused, and each part is whole."""
    for name, schema in contracts().items():
        cleaned = clean(landed[name], schema, name)
        typed = read_columns(landed[name], schema).rows
        assert refused(cleaned) == refused_by_pandera(typed, schema), name
        assert len(cleaned.good) + len(cleaned.broken) == len(landed[name])
    assert sum(len(table.broken) for table in clean_tables(landed, contracts()).values()) == 2


FAULTS = {
    "origin is a New York airport": ("origin", "ZZZ"),
    "destination has three letters": ("dest", "ORDD"),
    "distance is 50 to 6,000 miles": ("distance", 6_001),
    "hour and minute are the scheduled time": ("hour", 3),
    "arrival is at most 2 h early and a day late": ("arr_delay", -121),
    "carrier is present": ("carrier", None),
}


def test_planted_faults_of_every_rule(landed):
    """Each planted fault is set aside with the rule that it breaks, the value and the load, and pandera agrees."""
    schema, rows, wanted = contracts()["flights"], landed["flights"].head(20_000), {}
    for place, (rule, (column, value)) in enumerate(FAULTS.items(), 100):
        rows, wanted[rule] = planted(rows, column, value, [place]), place
    twins = rows.slice(500, 3).with_columns(pl.col("air_time") + 1)
    rows = pl.concat([rows, twins])
    cleaned = clean(rows, schema, "flights", "july")
    typed = read_columns(rows, schema).rows
    assert (
        refused(cleaned)
        == refused_by_pandera(typed, schema)
        == {*wanted.values(), 500, 501, 502, *range(20_000, 20_003)}
    )
    assert cleaned.facts["rules"] == dict.fromkeys(wanted, 1) | {"one row for each time_hour, carrier, flight": 6}
    told = cleaned.broken.filter(pl.col("rules") == "distance is 50 to 6,000 miles").row(0, named=True)
    assert told["values"] == "distance=6001" and told["load"] == "july"


KINDS = {
    "n": pa.Column(int, [pa.Check.ge(0), pa.Check.lt(9), pa.Check.notin([5])], nullable=True),
    "x": pa.Column(float, pa.Check.in_range(0, 1, include_max=False, ignore_na=False), nullable=True),
    "word": pa.Column(str, [pa.Check.str_matches("[a-c]"), pa.Check.str_length(1, 2)]),
    "flag": pa.Column(bool, pa.Check.eq(True, raise_warning=True), nullable=True),
    "at": pa.Column(pl.Datetime("us"), pa.Check.ge(datetime.datetime(2013, 1, 2))),
    "id": pa.Column(int, pa.Check(lambda v: v % 7 != 0, element_wise=True), unique=True, nullable=True),
}


@pytest.mark.parametrize("seed", range(8))
def test_random_tables_agree_with_pandera(seed):
    """Missing values, NaN, warnings, checks of one value at a time and of rows: pandera refuses the same rows."""
    chance = random.Random(seed)
    pick = chance.choices
    size = chance.choice([1, 2, 30, 400])
    rows = pl.DataFrame(
        {
            "n": pick([*range(-1, 11), None], k=size),
            "x": pick([0.0, 0.5, 1.0, None, float("nan"), 1e9], k=size),
            "word": pick(["a", "bb", "ccc", "d", "", None], [9, 9, 1, 1, 1, 1], k=size),
            "flag": pick([True, False, None], k=size),
            "at": pick([datetime.datetime(2013, 1, 1), datetime.datetime(2013, 1, 3), None], [1, 9, 1], k=size),
            "id": pick([*range(3 * size), None], k=size),
        },
        {name: column.dtype.type for name, column in KINDS.items()},
    )
    rules = [holds(pl.col("n") < pl.col("id"), "n is below id"), holds(pl.col("x") < 2, "x", ignore_na=False)]
    schema = pa.DataFrameSchema(KINDS, rules, unique=["n", "word", "flag"])
    distinct = rows.with_columns(pl.col("x").fill_nan(None)).unique(maintain_order=True)
    cleaned = clean(distinct, schema)
    assert refused(cleaned) == refused_by_pandera(distinct, schema)
    assert sum(cleaned.facts["warnings"].values()) == (cleaned.good["flag"] == False).sum()  # noqa: E712
    assert refused_by_pandera(cleaned.good, schema) == set()


def test_not_a_number_is_missing():
    """As pandera has it, where the rows are asked as they are and where they were read before."""
    schema = pa.DataFrameSchema({"x": pa.Column(float)})
    rows = pl.DataFrame({"x": [1.0, float("nan"), None]})
    assert judge(rows, schema, list_rules(schema)).kept["x is present"].to_list() == [True, False, False]
    assert refused(clean(rows, schema)) == refused_by_pandera(rows, schema) == {1, 2}


def test_order_of_rows_and_columns_decides_nothing(landed):
    """Shuffled rows, reordered columns: the same good rows, the same quarantine."""
    schema, rows = contracts()["flights"], planted(landed["flights"].head(5_000), "distance", 1, [7, 8, 4_000])
    rows = pl.concat([rows, rows.slice(10, 5), rows.slice(30, 2).with_columns(pl.col("air_time") + 1)])
    straight, turned = (
        clean(rows, schema),
        clean(rows.select(reversed(rows.columns)).sample(fraction=1, shuffle=True, seed=1), schema),
    )
    order = ["time_hour", "carrier", "flight"]
    assert (
        turned.good.sort(order).equals(straight.good.sort(order)) and turned.facts["rules"] == straight.facts["rules"]
    )
    keys = [*order, "air_time", "rules", "values"]
    assert turned.broken.select(keys).sort(keys).equals(straight.broken.select(keys).sort(keys))


def test_every_planted_duplicate_is_found(landed):
    """Equal rows: all but the first. Rows that share a key and differ: all of them, also next to equal ones."""
    schema, rows = contracts()["flights"], landed["flights"].head(50_000)
    equal, other = rows.gather_every(1_000).head(20), rows.gather_every(777).slice(3, 10)
    table = pl.concat([rows, equal, equal, other.with_columns(pl.col("air_time").fill_null(0) + 1)])
    facts = clean(table, schema).facts
    assert facts["repeated"] == 40 and facts["rules"]["one row for each time_hour, carrier, flight"] == 20
    assert facts["kept"] == 50_000 - 10


# Bad input


def test_a_field_of_a_million_characters():
    """It is kept whole in quarantine, and short beside the rule."""
    schema = pa.DataFrameSchema({"id": pa.Column(int), "note": pa.Column(str, pa.Check.str_length(max_value=99))})
    rows = pl.DataFrame({"id": ["1", "2"], "note": ["short", "x" * 1_000_000]})
    broken = clean(rows, schema).broken
    assert len(broken["note"][0]) == 1_000_000 and len(broken["values"][0]) < 200


@pytest.mark.parametrize("count", [0, 1])
def test_a_table_of_one_row_or_none(count, landed):
    """Nothing breaks, and an empty load says so."""
    cleaned = clean(landed["flights"].head(count), contracts()["flights"])
    assert len(cleaned.good) == count and cleaned.broken.is_empty() and cleaned.share == 0
    assert cleaned.load["found"].to_list() == (["0 rows"] if count == 0 else [])
    assert len(cleaning_page({"flights": cleaned.facts})) > 1_000


def test_type_drift(landed):
    """The same flights as text, as CSV gives them, or with whole numbers as fractions, are the same good rows."""
    schema, rows = contracts()["flights"], landed["flights"].head(3_000)
    good = clean(rows, schema).good
    text, fractions = rows.cast(pl.String), rows.cast({pl.Int64: pl.Float64})
    assert clean(text, schema).good.equals(good) and clean(fractions, schema).good.equals(good)
    assert clean(fractions.cast(pl.String), schema).good.equals(good)
    for wrong in ("1,400", "1400.5", "far", "1e3"):
        assert refused(clean(planted(text, "distance", wrong, [3]), schema)) == {3}
    assert refused(clean(planted(fractions, "distance", 1400.5, [3]), schema)) == {3}


def test_unreadable_is_not_missing():
    """A value that cannot be read breaks that rule, is not called missing, and is never filled."""
    schema = pa.DataFrameSchema({"n": pa.Column(int, metadata={"missing": 0}), "m": pa.Column(int)})
    cleaned = clean(pl.DataFrame({"n": ["1", None, "one"], "m": ["1", "2", "two"]}), schema)
    assert cleaned.good["n"].to_list() == [1, 0] and read_columns(cleaned.good, schema).missing == {}
    assert fill_missing(read_columns(pl.DataFrame({"n": ["one", "3.5", None], "m": [1, 1, 1]}), schema), schema)[
        "n"
    ].to_list() == [None, None, 0]
    assert cleaned.broken["rules"].to_list() == ["n can be read; m can be read"]
    assert cleaned.facts["missing"] == [
        {"column": "n", "missing": 1, "unreadable": 1, "treatment": "filled with 0"},
        {"column": "m", "missing": 0, "unreadable": 1, "treatment": "set aside"},
    ]


def test_a_landed_column_may_be_called_rules():
    """What quarantine writes beside rows takes nobody's place, and goes away again."""
    schema = pa.DataFrameSchema({"load": pa.Column(int), "values": pa.Column(str)})
    rows = pl.DataFrame({"load": ["1", "heavy"], "values": ["a", "b"]})
    broken = clean(rows, schema, load="july").broken
    assert broken.columns == ["landed_load", "landed_values", "rules", "values", "load"]
    assert landed_rows(broken).equals(rows.tail(1))


def test_columns_of_lists_and_structs():
    """Nested values of JSON are kept, compared, and read where a struct is wanted as text."""
    schema = pa.DataFrameSchema(
        {"id": pa.Column(int), "who": pa.Column(str), "tags": pa.Column(int, nullable=True)}, unique=["id"]
    )
    rows = pl.DataFrame({"id": [1, 1, 2], "who": [{"a": 1}] * 3, "tags": [[1], [1], None]})
    cleaned = clean(rows, schema)
    assert cleaned.good["who"].to_list() == ['{"a":1}'] and cleaned.facts["repeated"] == 1
    assert cleaned.facts["rules"]["tags can be read"] == 2


def test_a_check_that_is_wrong_names_itself():
    """A rule that does not fit its column stops the run with its name."""
    schema = pa.DataFrameSchema({"n": pa.Column(int, pa.Check.str_matches("a", description="n looks like a"))})
    with pytest.raises(StepError, match="the rule `n looks like a` cannot be asked"):
        clean(pl.DataFrame({"n": [1]}), schema)


def test_checks_about_the_table_are_rules_of_the_load():
    """A check that answers once is asked of the load, with its severity."""
    steady = pa.Check(lambda data: data.lazyframe.select(pl.col("n").mean() < 5), name="the mean is below 5")
    soft = pa.Check(lambda data: False, name="never", raise_warning=True)
    schema = pa.DataFrameSchema(
        {"n": pa.Column(int)}, [steady, soft], metadata={"rows": [1, 2], "severity": {"rows": "warning"}}
    )
    load = check_load(pl.DataFrame({"n": [4, 5, 9]}), schema, "july")
    assert load.select("rule", "severity").rows() == [
        ("a load has 1 to 2 rows", "warning"),
        ("the mean is below 5", "error"),
        ("never", "warning"),
    ]
    assert clean(pl.DataFrame({"n": [4, 5, 9]}), schema).load["rule"].to_list() == load["rule"].to_list()


# Quarantine and replay


def test_nothing_is_lost_and_repairs_bring_rows_back(landed):
    """Repaired rows pass with all rules asked again; what is not repaired stays, with its load."""
    schema, rows = contracts()["flights"], landed["flights"].head(1_000)
    rows = planted(rows, "distance", 1, [5, 6])
    whole = clean(landed["flights"].head(1_000), schema)
    first = clean(rows, schema, "flights", "may")
    wrong = first.broken.row(0, named=True)
    mended = pl.DataFrame(
        {"flight": [str(wrong["flight"])], "time_hour": [wrong["time_hour"]], "set": ["distance"], "to": ["1416"]}
    )
    again = replay(first.broken, schema, mended, "flights", known=first.good)
    assert len(again.good) == 1 and again.broken["load"].to_list() == ["may"]
    assert again.history["rules"].to_list() == ["distance is 50 to 6,000 miles"] and again.history["repaired"].all()
    assert len(first.good) + len(again.good) + len(again.broken) == len(rows) == len(whole.good)
    same = clean(rows, schema, "flights", repairs=mended)
    assert same.facts["repaired_by_rule"] == {"distance is 50 to 6,000 miles": 1} and same.facts["repaired"] == 1
    assert same.good["distance"][5] == 1_416


def test_a_repair_cannot_smuggle(landed):
    """A function that drops rows, a value that is no number, and a repair that means every row are refused."""
    schema, rows = contracts()["flights"], landed["flights"].head(9)
    repairs = {
        "number of rows": lambda rows: rows.head(3),
        "sets `distance` to what is no": pl.DataFrame({"origin": ["EWR"], "set": ["distance"], "to": ["far"]}),
        "of no row that it is meant": pl.DataFrame({"set": ["distance"], "to": ["7"]}),
    }
    for words, repair in repairs.items():
        with pytest.raises(StepError, match=words):
            clean(rows, schema, repairs=repair)


def test_a_repeated_row_never_comes_back():
    """Not even where nobody says which rows are good already."""
    schema = pa.DataFrameSchema({"n": pa.Column(int)}, unique=["n"])
    broken = clean(pl.DataFrame({"n": [1, 1, 1]}), schema).broken
    assert len(broken) == 2 and replay(broken, schema).good.is_empty() and len(replay(broken, schema).broken) == 2


# Inference


@pytest.mark.parametrize("name", TABLES)
def test_inferred_contract_accepts_its_table(name):
    """As typed and as text from CSV, for every table; the types are those that were there."""
    table = read_tables("samples/bronze")[name]
    for rows in (table, table.cast(pl.String).fill_null("NA")):
        space: dict = {}
        exec(infer_contract(rows, name), space)
        cleaned = clean(rows, space[name])
        assert cleaned.broken.is_empty() and len(cleaned.good) == len(table)
        numbers = {column for column, kind in table.schema.items() if kind.is_numeric()}
        found = {column for column, kind in cleaned.good.schema.items() if kind.is_numeric()}
        assert numbers - {c for c in numbers if table[c].null_count() == len(table)} <= found


def test_inferred_contract_writes_down_no_person():
    """Values of a column that sounds like a person are in no committed text."""
    rows = pl.DataFrame({"email": ["ann@home.org", "bo@home.org"] * 20, "n": range(40)})
    text = infer_contract(rows, "people")
    assert "home.org" not in text and '"personal": True' in text


# Changes


def git(folder, *words):
    """Run Git in a folder."""
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True)


CONTRACTS = """
import pandera.polars as pa
def contracts():
    return {"trips": pa.DataFrameSchema({"miles": pa.Column(int, pa.Check.le(%s))})}
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of its own in Git, with one workload."""
    folder = tmp_path / "toy/workloads"
    folder.mkdir(parents=True)
    (tmp_path / "settings.ini").write_text("[DEFAULT]\n")
    (tmp_path / "pyproject.toml").write_text('[tool.nbdev]\nlib_path = "toy"\n')
    for place in (folder.parent, folder):
        (place / "__init__.py").write_text("")
    monkeypatch.setenv("MLOPS_KIT_ROOT", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "first")
    yield folder / "trips.py"
    for name in [name for name in sys.modules if name.split(".")[0] == "toy"]:
        del sys.modules[name]


def test_breaking_change_against_the_committed_contract(project):
    """Wider than committed is breaking and exits 1 until it is accepted; committed, nothing has changed."""
    project.write_text(CONTRACTS % "100")
    assert committed_contract("trips") == {} and check_text("trips")[1] == 0
    git(project.parent, "add", ".")
    git(project.parent, "commit", "-qm", "contract")
    assert check_text("trips") == ("No contract changed.", 0)
    project.write_text(CONTRACTS % "20000")
    for name in [name for name in sys.modules if name.startswith("toy.workloads.")]:
        del sys.modules[name]
    text, code = check_text("trips")
    assert code == 1 and "BREAKING  trips.miles: most value (100 -> 20,000)" in text
    assert check_text("trips", accept=True)[1] == 0
    git(project.parent, "add", ".")
    git(project.parent, "commit", "-qm", "wider")
    assert check_text("trips")[1] == 0 and check_text("trips", rev="HEAD~1")[1] == 1


def test_changes_name_no_person():
    """A set of people that grows is breaking, and its values are not printed."""
    old, new = (
        {"t": edit(BASE, "kind", checks=[pa.Check.isin(who)], metadata={"personal": True})["t"]}
        for who in (["ann"], ["ann", "bo"])
    )
    changes = compare_contracts(old, new)
    assert changes["breaking"].to_list() == [True] and "bo" not in changes["to"][0]


def test_committed_contract_that_cannot_be_loaded(project):
    """It names the revision, the file and what is wrong."""
    project.write_text("import no_such_module")
    git(project.parent, "add", ".")
    git(project.parent, "commit", "-qm", "broken")
    with pytest.raises(StepError, match=r"no_such_module[\s\S]*HEAD:toy/workloads/trips.py"):
        committed_contract("trips")
    project.write_text("x = 1")
    git(project.parent, "commit", "-qam", "empty")
    with pytest.raises(StepError, match="defines no `contracts`"):
        committed_contract("trips")


def edit(schema, column, **words):
    """The same contracts with one column changed."""
    return {"t": schema.update_column(column, **words)}


BASE = pa.DataFrameSchema(
    {
        "id": pa.Column(int, description="Number"),
        "x": pa.Column(float, pa.Check.in_range(0, 10), metadata={"unit": "m"}, description="Length"),
        "kind": pa.Column(str, pa.Check.isin(["a", "b"]), nullable=True),
    },
    unique=["id"],
    metadata={"owner": "Ann", "freshness_hours": 24},
)
BREAKING = {
    "removed": {"t": BASE.remove_columns(["kind"])},
    "renamed": {"t": BASE.rename_columns({"x": "length"})},
    "type": edit(BASE, "id", dtype=str),
    "missing": edit(BASE, "x", nullable=True),
    "wider range": edit(BASE, "x", checks=[pa.Check.in_range(0, 11)]),
    "range gone": edit(BASE, "x", checks=[]),
    "only a warning": edit(BASE, "x", checks=[pa.Check.in_range(0, 10, raise_warning=True)]),
    "wider set": edit(BASE, "kind", checks=[pa.Check.isin(["a", "b", "c"])]),
    "unit": edit(BASE, "x", metadata={"unit": "ft"}),
    "meaning": edit(BASE, "x", description="Width"),
    "personal": edit(BASE, "x", metadata={"unit": "m", "personal": True}),
    "optional": edit(BASE, "x", required=False),
    "key": {"t": pa.DataFrameSchema(BASE.columns, unique=["id", "kind"], metadata=BASE.metadata)},
    "table": {},
    "stale": {"t": pa.DataFrameSchema(BASE.columns, unique=["id"], metadata={"owner": "Ann", "freshness_hours": 48})},
}
HARMLESS = {
    "added": {"t": BASE.add_columns({"new": pa.Column(int)})},
    "narrower range": edit(BASE, "x", checks=[pa.Check.in_range(1, 10)]),
    "same range, other words": edit(BASE, "x", checks=[pa.Check.ge(0), pa.Check.le(10, description="short")]),
    "narrower set": edit(BASE, "kind", checks=[pa.Check.isin(["a"])]),
    "not missing": edit(BASE, "kind", nullable=False),
    "owner": {"t": pa.DataFrameSchema(BASE.columns, unique=["id"], metadata={"owner": "Bo", "freshness_hours": 24})},
    "new rule": {
        "t": pa.DataFrameSchema(BASE.columns, holds(pl.col("x") > 0, "x"), unique=["id"], metadata=BASE.metadata)
    },
}


@pytest.mark.parametrize("name", BREAKING)
def test_breaking(name):
    """What readers relied on and is gone is breaking."""
    assert compare_contracts({"t": BASE}, BREAKING[name])["breaking"].any()


@pytest.mark.parametrize("name", HARMLESS)
def test_not_breaking(name):
    """What promises more is listed, and breaks nobody."""
    changes = compare_contracts({"t": BASE}, HARMLESS[name])
    assert not changes["breaking"].any() and changes.is_empty() == (name == "same range, other words")


# The page


@pytest.fixture(scope="module")
def nasty():
    """A cleaned table with personal values, and names that are markup."""
    rule = "<script>alert(1)</script> is below 9"
    columns = {
        "n": pa.Column(int, pa.Check.lt(9, description=rule)),
        "who": pa.Column(
            str,
            pa.Check.isin(["secret-ann"]),
            metadata={"personal": True, "repair": ["strip"], "missing": "secret-nobody"},
        ),
        "a_column_with_a_name_that_is_longer_than_a_telephone_is_wide": pa.Column(
            str, nullable=True, metadata={"repair": ["upper"]}
        ),
    }
    rows = pl.DataFrame(
        {"n": ["1", "9", "x"], "who": [" secret-ann", "secret-bo", None], [*columns][2]: ["<b>", "y" * 300, None]}
    )
    repairs = pl.DataFrame({"n": ["1"], "set": ["n"], "to": ["2"], "why": ["<i>mail</i>"]})
    return clean(rows, pa.DataFrameSchema(columns), "<u>", "<s>", repairs)


def test_page_tells_nothing_of_a_person(nasty):
    """No personal value is in the facts, beside a rule, or on the page; the evidence itself keeps its column."""
    page = cleaning_page({"t": nasty.facts}, {"t": nasty.seconds}, 0.5)
    assert "secret" not in page and "secret" not in json.dumps(nasty.facts)
    assert "secret" not in "".join(nasty.broken["values"]) and "secret-bo" in nasty.broken["who"].to_list()


def test_page_escapes_and_stands_alone(nasty):
    """What is data stays text, nothing is fetched, and no script runs but the page's own."""
    page = cleaning_page({"<u>": nasty.facts}, {"<u>": nasty.seconds}, 0.5, ["<em>"], {"<q>": "<q>"})
    assert page.count("<script>") == 1 and "&lt;script&gt;alert(1)" in page.lower()
    assert not re.search(r"<(i|u|s|q|em)>", page)
    assert not re.search(r'(src|href)="(https?:)?//', page) and "Failed" in page


def test_page_has_no_sideways_scroll(nasty, tmp_path):
    """From a phone to a desk."""
    text = cleaning_page({"t" * 60: nasty.facts, "flights": nasty.facts}, {"flights": nasty.seconds}, 0.5)
    assert_fits(text, tmp_path)


# Cost


def test_pandera_is_not_imported_until_a_contract_is_made():
    """A run in which nothing changed does not pay for it."""
    code = (
        "import sys, mlops_kit.dataops.quarantine, mlops_kit.dataops.cleaning_report, mlops_kit.dataops.infer, "
        "mlops_kit.dataops.contract_changes, mlops_kit.workloads.flights_contracts; "
        "sys.exit('pandera' in sys.modules or 'pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_rules_have_names_of_their_own():
    """Two rules that are said in the same words are counted apart."""
    same = pa.Check.gt(0, description="it is positive")
    schema = pa.DataFrameSchema({"a": pa.Column(int, same), "b": pa.Column(int, same)})
    names = [rule.name for rule in list_rules(schema)]
    assert len(names) == len(set(names)) and {"it is positive", "it is positive (b)"} <= set(names)
    assert clean(pl.DataFrame({"a": [1, 0], "b": [0, 0]}), schema).facts["rules"] == {
        "it is positive (b)": 2,
        "it is positive": 1,
    }
