"""What somebody brings: any file, any column names, and everything that is wrong with it.

Whatever `read_data` reads, `ingest` must read the same from the settings that it wrote.
"""

import bz2
import gzip
import json
import keyword
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from mlops_kit.dataops.infer import infer_contract
from mlops_kit.dataops.quarantine import clean
from mlops_kit.dataops.sources import land_part, source_marks
from mlops_kit.project import KitError
from mlops_kit.start.reading import MOST_READ, read_data
from mlops_kit.start.roles import find_roles
from mlops_kit.start.task import find_task_of

ROWS = 40
PEOPLE = pl.DataFrame(
    {
        "id": [f"{number:03}" for number in range(ROWS)],
        "name": ["Zoë", "José", "Łukasz, junior", 'the "great"'] * 10,
        "paid": [f"{number * 1.5:.2f}" for number in range(ROWS)],
        "left": ["yes", "no", "no", "no"] * 10,
    }
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project that holds nothing but settings; the person stands in another folder."""
    root, brought = tmp_path / "project", tmp_path / "brought"
    (root / "data").mkdir(parents=True)
    brought.mkdir()
    (root / "settings.ini").write_text("[DEFAULT]\n")
    monkeypatch.chdir(brought)
    return root


def land(found, root, monkeypatch):
    """Copy the files and land the table, as the project's first run will."""
    monkeypatch.setenv("MLOPS_KIT_ROOT", str(root))
    for file in found.files:
        shutil.copy(file, root / "data" / file.name)
    marks = source_marks({"sources": {found.table: found.source}})[found.table]
    landed = [land_part(found.table, found.source, part, mark).rows for part, mark in marks.items()]
    monkeypatch.delenv("MLOPS_KIT_ROOT")
    return pl.concat(landed, how="diagonal_relaxed")


def text_of(rows, separator=","):
    """Write rows as CSV."""
    return rows.write_csv(separator=separator)


# Every form of a file


def write_zip(file, text):
    """Write a ZIP archive of one file."""
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("people.csv", text)


FORMS = {
    "people.csv": lambda file: file.write_text(text_of(PEOPLE)),
    "marked.csv": lambda file: file.write_bytes(b"\xef\xbb\xbf" + text_of(PEOPLE).encode()),
    "semicolons.csv": lambda file: file.write_text(text_of(PEOPLE, ";")),
    "tabs.tsv": lambda file: file.write_text(text_of(PEOPLE, "\t")),
    "bars.txt": lambda file: file.write_text(text_of(PEOPLE, "|")),
    "windows.csv": lambda file: file.write_bytes(
        text_of(PEOPLE).replace("Ł", "L").replace("\n", "\r\n").encode("cp1252")
    ),
    "wide.csv": lambda file: file.write_bytes(text_of(PEOPLE).encode("utf-16")),
    "no suffix": lambda file: file.write_text(text_of(PEOPLE)),
    "people.dat": lambda file: file.write_text(text_of(PEOPLE, ";")),
    "people.csv.gz": lambda file: file.write_bytes(gzip.compress(text_of(PEOPLE).encode())),
    "people.csv.bz2": lambda file: file.write_bytes(bz2.compress(text_of(PEOPLE).encode())),
    "people.csv.zip": lambda file: write_zip(file, text_of(PEOPLE)),
    "people.parquet": lambda file: PEOPLE.write_parquet(file),
    "people.jsonl": lambda file: PEOPLE.write_ndjson(file),
    "lines.json": lambda file: PEOPLE.write_ndjson(file),
    "people.json": lambda file: PEOPLE.write_json(file),
    "people.xlsx": lambda file: PEOPLE.write_excel(file),
    "data [2024] {1} #2 100%.csv": lambda file: file.write_text(text_of(PEOPLE)),
    "Größe; und 'mehr'.CSV": lambda file: file.write_text(text_of(PEOPLE)),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_file_is_read_and_landed_alike(name, project, monkeypatch):
    """The rows are those that were written, and the project lands the same ones from its settings."""
    if name.endswith("xlsx"):
        pytest.importorskip("xlsxwriter")
        pytest.importorskip("fastexcel")
    FORMS[name](Path(name))
    found = read_data([name])
    wanted = PEOPLE.with_columns(pl.col("name").str.replace("Ł", "L")) if name == "windows.csv" else PEOPLE
    assert found.rows.equals(wanted) and found.total == ROWS
    assert found.table.isidentifier() and not keyword.iskeyword(found.table)
    assert land(found, project, monkeypatch).equals(found.rows)


NAMES = [
    "a b",
    'say "hi"',
    "it's",
    "a.b",
    "two\nlines",
    "größe",
    "class",
    "100%",
    "a;b",
    "{x}",
    "",
    " led",
    "=1+1",
    "日本",
]


def test_any_column_names_work_up_to_the_contract(project, monkeypatch):
    """Spaces, quotes, dots, line ends, foreign letters, keywords, no name at all, and a mark before the first."""
    rows = pl.DataFrame({name: [str(row * place) for row in range(ROWS)] for place, name in enumerate(NAMES, 1)})
    Path("odd.csv").write_text("\ufeff" + text_of(rows), encoding="utf-8")
    found = read_data(["odd.csv"])
    assert [name for name in found.rows.columns if not name.startswith("column_")] == [name for name in NAMES if name]
    landed = land(found, project, monkeypatch)
    assert landed.equals(found.rows)
    space: dict = {}
    exec(infer_contract(landed, found.table), space)
    cleaned = clean(landed, space[found.table])
    assert cleaned.broken.is_empty() and cleaned.good.columns == found.rows.columns
    assert list(find_roles(found.rows)) == found.rows.columns


def test_decimal_commas_and_words_for_nothing_become_numbers(project, monkeypatch):
    """As a German survey comes: semicolons, commas, points between thousands, and words among the numbers."""
    lines = [f"{n};{n},5;1.{n:03},25;{'k.A.' if n % 9 == 5 else n};{'?' if n % 5 else 'rot'}" for n in range(ROWS * 5)]
    Path("umfrage.csv").write_text("\n".join(["nr;gewicht;preis;alter;farbe", *lines]))
    found = read_data(["umfrage.csv"])
    assert found.source["null_values"] == ["?", "k.A."]
    roles = find_roles(land(found, project, monkeypatch))
    assert [roles[name].kind for name in ("gewicht", "preis", "alter")] == ["float", "float", "int"]
    assert roles["preis"].values[7] == 1007.25 and roles["alter"].values.null_count() == 22
    space: dict = {}
    exec(infer_contract(found.rows, "umfrage"), space)
    assert clean(found.rows, space["umfrage"]).broken.is_empty()


# Several files


def test_files_of_months_become_parts(project, monkeypatch):
    """And next month's file is found by itself."""
    for month in (1, 2):
        Path(f"sales-2024-{month:02}.csv").write_text(text_of(PEOPLE))
    Path("sales-2024-02.csv").write_text(text_of(PEOPLE.head(30)))
    found = read_data(["sales-*.csv"])
    assert found.source["files"] == "data/sales-{part}.csv" and found.table == "sales" and found.total == 70
    Path("sales-2024-03.csv").write_text(text_of(PEOPLE.head(5)))
    shutil.copy("sales-2024-03.csv", project / "data")
    assert len(land(found, project, monkeypatch)) == 75


def test_files_of_any_names_are_one_table(project, monkeypatch):
    """Names with nothing in common make one part."""
    Path("north sea.csv").write_text(text_of(PEOPLE))
    Path("alps.csv").write_text(text_of(PEOPLE.head(10)))
    found = read_data(["north sea.csv", "alps.csv"])
    assert found.source["files"] == "data/*.csv" and len(land(found, project, monkeypatch)) == 50


# Databases


@pytest.fixture
def shop(project):
    """A database with tables of plain and of odd names."""
    with closing(sqlite3.connect("shop.db")) as database, database:
        for table in ("customers", "odd name", "order"):
            database.execute(f'create table "{table}" (id integer, "signed up" text, paid real)')
            values = [[number, "2024-01-01 10:00", number / 2] for number in range(ROWS)]
            database.executemany(f'insert into "{table}" values (?, ?, ?)', values)
    return project


@pytest.mark.parametrize("table", ["customers", "odd name", "order"])
def test_a_table_of_a_database_comes_along(table, shop, monkeypatch):
    """The file is copied, and the settings say where to."""
    found = read_data([f"sqlite:///shop.db::{table}"])
    assert found.source["sql"] == "sqlite:///data/shop.db" and found.files == [Path("shop.db")]
    assert land(found, shop, monkeypatch).equals(found.rows)


def test_a_query_is_kept_as_it_was(shop, monkeypatch):
    """Over several lines, with a colon and a semicolon."""
    query = "select id, paid from customers\nwhere \"signed up\" < '2024-01-01 11:00' and id >= 5;"
    found = read_data(["sqlite:///shop.db"], query)
    assert found.total == 35 and found.table == "customers"
    assert land(found, shop, monkeypatch).equals(found.rows)


@pytest.mark.parametrize("password", ["s3cret!pass", "p@ss:w/rd#1"])
def test_a_password_is_in_no_message_and_no_settings(password, project):
    """A server that is not there says so without it."""
    pytest.importorskip("sqlalchemy")
    typed = f"mysql+nodriver://reader:{password}@127.0.0.1:1/shop::customers"
    with pytest.raises(KitError) as caught:
        read_data([typed])
    assert password not in str(caught.value) and password not in repr(caught.value.__cause__)
    assert "DATABASE_PASSWORD" in str(caught.value) and "DATABASE_PASSWORD" not in os.environ


# What is wrong


def written(name, text):
    """Write a file and name it."""
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return name


BROKEN = {
    "missing": (lambda: ["peple.csv"], "Did you mean `people.csv`"),
    "no folder": (lambda: ["nowhere/people.csv"], "There is no folder nowhere"),
    "a folder": (lambda: ["."], "this is a folder"),
    "no match": (lambda: ["*.parquet"], "there is no file"),
    "empty": (lambda: [written("e.csv", "")], "the file is empty"),
    "blank": (lambda: [written("e.csv", "\n\n  \n")], "the file is empty"),
    "only a header": (lambda: [written("e.csv", "a,b,c\n")], "a header and no row"),
    "five rows": (lambda: [written("e.csv", "a,b\n" + "1,2\n" * 5)], "there are 5 rows; 30 is the least"),
    "one name twice": (lambda: [written("e.csv", "a,b,a\n" + "1,2,3\n" * 50)], "`a` stands twice"),
    "one column": (lambda: [written("e.csv", "a\n" + "1\n" * 50)], "one column only"),
    "values for names": (lambda: [written("e.csv", "5.1,3.5,setosa\n" * 50)], "values, not names"),
    "5,000 columns": (
        lambda: [written("e.csv", "\n".join([",".join(map(str, range(5_000)))] + [",".join("1" * 5_000)] * 40))],
        "5,000 columns; 2,000 is the most",
    ),
    "a short row": (lambda: [written("e.csv", "a,b\n" + "1,2\n" * 50 + "3\n")], "line 52 has 1 fields"),
    "an open quote": (lambda: [written("e.csv", 'a,b\n1,2\n1,"2\n' + "1,2\n" * 50)], "quote in line 3"),
    "two encodings": (
        lambda: [written("e.csv", b"a,b\n" + "é,2\n".encode() * 50 + "é,3\n".encode("cp1252"))],
        "line 52",
    ),
    "half an archive": (lambda: [written("e.csv.gz", gzip.compress(os.urandom(5_000))[:-2_000])], "e.csv.gz"),
    "a pickle": (lambda: [written("e.pkl", b"\x80\x04\x95\x00\x00\x00")], "no table that can be read"),
    "a picture": (lambda: [written("e.png", b"\x89PNG\r\n\x1a\n\x00\x00\x00")], "no table that can be read"),
    "no Parquet": (lambda: [written("e.parquet", b"PAR1 and half")], "cannot be read as Parquet"),
    "JSON of one object": (lambda: [written("e.json", json.dumps({"rows": [1]}, indent=1))], "with the keys rows"),
    "half of JSON": (lambda: [written("e.json", '[{"a": 1}, {"a"')], "no JSON, or half of it"),
    "two tables": (
        lambda: [written("e.csv", "a,b\n" + "1,2\n" * 50), written("f.csv", "c,d\n" + "1,2\n" * 50)],
        "different tables",
    ),
    "two forms": (
        lambda: [written("e.csv", "a,b\n1,2\n"), written("f.csv", "a;b\n1;2\n")],
        "differ in their separator",
    ),
    "two formats": (lambda: [written("e.csv", "a,b\n1,2\n"), written("f.json", "[]")], "of several formats"),
    "no table": (lambda: ["sqlite:///shop.db::custmers"], "Did you mean `customers`"),
    "no table named": (lambda: ["sqlite:///shop.db"], "the address names no table"),
    "no database": (lambda: ["sqlite:///shpo.db::customers"], "Did you mean `shop.db`"),
    "no driver": (lambda: ["nobase://host/shop::customers"], "nobase"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_said_with_its_remedy(name, shop):
    """What, where and what to do; and nothing of Python's own."""
    written("people.csv", text_of(PEOPLE))
    make, says = BROKEN[name]
    with pytest.raises(KitError) as caught:
        read_data(make())
    assert says in str(caught.value) and caught.value.where and caught.value.remedy


@pytest.mark.parametrize("query", ["select * from custmers", "selct 1", "select nothing from customers"])
def test_a_wrong_query_is_said(query, shop):
    """With the database's own words."""
    with pytest.raises(KitError) as caught:
        read_data(["sqlite:///shop.db"], query)
    assert caught.value.remedy and query[:20] in str(caught.value)


def test_an_excel_file_that_is_none_is_said(project):
    """A file cut in half, and a sheet that is not there."""
    pytest.importorskip("fastexcel")
    pytest.importorskip("xlsxwriter")
    PEOPLE.write_excel("people.xlsx", "guests")
    with pytest.raises(KitError, match="Did you mean `guests`"):
        read_data(["people.xlsx::gests"])
    assert read_data(["people.xlsx::guests"]).source["sheet"] == "guests"
    written("half.xlsx", Path("people.xlsx").read_bytes()[:2_000])
    with pytest.raises(KitError, match="cannot be read as Excel"):
        read_data(["half.xlsx"])


# Targets


def test_what_cannot_be_a_target_is_said():
    """Each with what to do."""
    columns = find_roles(PEOPLE.with_columns(same=pl.lit("x"), none=pl.lit(None, pl.String), many=pl.col("id") + "x"))
    for target, said, says in [
        ("lef", "", "Did you mean `left`"),
        ("same", "", "one value only: 'x'"),
        ("none", "", "empty in every row"),
        ("many", "", "40 different values in 40 rows"),
        ("left", "regression", "a regression needs numbers"),
        ("name", "binary", "this one has 4"),
    ]:
        with pytest.raises(KitError, match=says) as caught:
            find_task_of(columns, target, said)
        assert caught.value.remedy and caught.value.where


# Size


LIMITED = """
import resource, sys
limit = 3 * 2**29  # 1.5 GiB of addresses: the libraries alone take half of it
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from mlops_kit.start.reading import read_data
found = read_data([sys.argv[1]])
print(len(found.rows), found.total, found.said[0])
"""


@pytest.mark.slow
def test_a_file_larger_than_memory_is_sampled_and_said(tmp_path):
    """200 MB under a limit at which reading it whole fails."""
    file = tmp_path / "large.csv"
    piece = pl.DataFrame({"n": range(100_000)}).with_columns(
        name="customer number " + pl.col("n").cast(pl.String), paid=pl.col("n") / 7
    )
    text = piece.write_csv(include_header=False).encode()
    with open(file, "wb") as stream:
        stream.write(b"n,name,paid\n")
        pieces = 1 + 200_000_000 // len(text)
        for _ in range(pieces):
            stream.write(text)
    given = os.environ | {"ARROW_DEFAULT_MEMORY_POOL": "system", "POLARS_MAX_THREADS": "2"}
    told = subprocess.run([sys.executable, "-c", LIMITED, str(file)], env=given, capture_output=True, text=True)
    rows = f"{MOST_READ:,} of {pieces * 100_000:,} rows were looked at"
    assert told.returncode == 0 and rows in told.stdout, told.stderr[-2_000:]
    assert file.stat().st_size > 200_000_000 and resource.RLIM_INFINITY


def test_rows_are_drawn_from_everywhere(tmp_path):
    """A file that is sorted by its label shows both."""
    rows = pl.DataFrame({"n": range(120_000)}).with_columns(late=pl.col("n") >= 60_000)
    rows.write_parquet(tmp_path / "sorted.parquet")
    found = read_data([str(tmp_path / "sorted.parquet")])
    assert len(found.rows) == MOST_READ and found.total == 120_000 and found.rows["n"].is_sorted()
    assert 0.48 < found.rows["late"].mean() < 0.52
    assert found.rows.equals(read_data([str(tmp_path / "sorted.parquet")]).rows)
