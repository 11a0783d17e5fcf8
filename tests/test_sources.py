"Sources give what they hold, or say in which file, line, column or page they are broken; secrets stay where they are."

import contextlib
import gzip
import io
import json
import shutil
import sqlite3
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import polars as pl
import pytest
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

from mlops_kit.dataops.sources import land_part, source_marks, variables
from mlops_kit.project import ROOT_VARIABLE, SettingsError, StepError
from mlops_kit.steps import read_tables
from mlops_kit.workloads import flights_sources
from mlops_kit.workloads.flights_sources import make_sources, serve_sources, sources_of_flights, write_sources

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    "A project's root that holds nothing else."
    monkeypatch.setenv(ROOT_VARIABLE, str(tmp_path))
    monkeypatch.delenv("MLOPS_KIT_HOME", raising=False)
    return tmp_path


def load(source, part=None, name="flights"):
    "Look, and land the one part, or the one that is named."
    marks = source_marks({"sources": {name: source}})[name]
    part = part or next(iter(marks))
    return land_part(name, source, part, marks[part])


def fault(source, *says, name="flights"):
    "Land a source that must refuse, and see that the error has all its parts."
    with pytest.raises(StepError) as caught:
        load(source, name=name)
    error = caught.value
    assert f"source `{name}`" in error.where and error.remedy, str(error)
    for text in says:
        assert text in str(error), str(error)
    return error


# Files


HEADER = "carrier,delay,note\n"


def csv_source(root, content, file="flights.csv", **keys):
    (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    return {"files": file, "columns": ["carrier", "delay"], **keys}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", ["is empty: not even a header", "flights.csv"]),
        ("\n\n", ["is empty"]),
        (HEADER.replace(",", ";") + "UA;2;x\n", ["one column: carrier;delay;note", "line 1", "separator = ;"]),
        (HEADER.replace(",", "\t") + "UA\t2\tx\n", ["separator = tab"]),
        ("carrier,dlay,note\nUA,2,x\n", ["column `delay` is missing", "Did you mean `dlay`?", "flights.csv"]),
        ("carrier,delay,delay\nUA,2,3\n", ["`delay` stands twice", "line 1"]),
        (HEADER + "UA,2,x\nAA,3\n", ["line 3 has 2 fields, the header 3", "flights.csv, line 3"]),
        (HEADER + "UA,2,x,9\n", ["line 2 has 4 fields, the header 3"]),
        (HEADER + 'UA,2,"two\nlines"\nAA,3\n', ["line 4 has 2 fields"]),
        (HEADER + 'UA,2,"open\nAA,3,x\nB6,4,y\n', ["quote in line 2 never closes"]),
        (HEADER + 'UA,2,x\nAA,3,"last', ["quote in line 3 never closes"]),
        (HEADER.encode() + b"UA,2,caf\xc3\xa9\nAA,3,caf\xe9\n", ["(0xe9) is not utf-8", "line 3, byte 39", "cp1252"]),
        ((HEADER + "UA,2,x\n").encode("utf-16"), ["0xff) is not utf-8", "encoding = utf-16"]),
    ],
)
def test_broken_csv_is_named_with_its_line_and_a_remedy(root, content, says):
    fault(csv_source(root, content), *says)


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (HEADER, []),
        (HEADER.strip(), []),
        (HEADER + "UA,2,x", [("UA", "2", "x")]),
        ("\ufeff" + HEADER + "UA,2,x\n", [("UA", "2", "x")]),
        (HEADER.replace("\n", "\r\n") + "UA,2,x\r\n\r\nAA,3,y\r\n", [("UA", "2", "x"), ("AA", "3", "y")]),
        (
            HEADER + 'UA,"1,234",31/12/2013\nAA,007,2013-12-31\n',
            [("UA", "1,234", "31/12/2013"), ("AA", "007", "2013-12-31")],
        ),
        (HEADER + 'UA,,"say ""no"""\nAA,5" pipe, 2 \n', [("UA", None, 'say "no"'), ("AA", '5" pipe', " 2 ")]),
        (HEADER + 'UA,N/A,"two\nlines"\n', [("UA", "N/A", "two\nlines")]),
        ("note,delay,extra,carrier\nx,2,9,UA\n", [("UA", "2", "x")]),
    ],
)
def test_what_only_the_contract_can_judge_lands_as_it_came(root, content, rows):
    landed = load(csv_source(root, content))
    assert landed.rows.select("carrier", "delay", "note").rows() == rows
    assert set(landed.rows.dtypes) == {pl.String} and landed.load["rows"] == len(rows)


def test_a_field_of_a_million_characters_lands_whole(root):
    text = "é" * 1_000_000
    assert load(csv_source(root, f'carrier,delay\nUA,"{text}"\n')).rows["delay"].item() == text
    fault(csv_source(root, f'carrier,delay\nUA,"{text}\n'), "quote in line 2 never closes")


def test_words_for_missing_and_another_encoding_are_settings(root):
    source = csv_source(root, "carrier,delay\nZoë,NA\n".encode("cp1252"), encoding="cp1252", null_values=["NA"])
    assert load(source).rows.rows() == [("Zoë", None)]


def test_a_missing_file_is_answered_with_what_lies_there(root):
    (root / "data").mkdir()
    (root / "data/flights_2013.csv").write_text(HEADER)
    fault({"files": "data/flights-{part}.csv"}, "no file is there", "data/flights-{part}.csv", "flights_2013.csv")
    fault({"files": "dta/flights-{part}.csv"}, "There is no folder dta")


def test_every_way_to_pack_a_table_gives_the_same_rows(root):
    import bz2
    import lzma
    import zipfile

    table = pl.DataFrame({"carrier": ["UA", "AA"], "delay": ["2", "3"]})
    text = table.write_csv().encode()
    (root / "a.csv.gz").write_bytes(gzip.compress(text))
    (root / "a.csv.bz2").write_bytes(bz2.compress(text))
    (root / "a.csv.xz").write_bytes(lzma.compress(text))
    with zipfile.ZipFile(root / "a.csv.zip", "w") as archive:
        archive.writestr("a.csv", text)
    (root / "a.jsonl").write_text(table.write_ndjson())
    (root / "a.json").write_text(table.write_json())
    table.write_parquet(root / "a.parquet")
    for file in sorted(root.glob("a.*")):
        assert load({"files": file.name}).rows.equals(table), file.name
    assert load({"files": "zip://a.csv::" + str(root / "a.csv.zip")}).rows.equals(table)
    with zipfile.ZipFile(root / "a.csv.zip", "a") as archive:
        archive.writestr("b.csv", text)
    fault({"files": "a.csv.zip"}, "the archive holds 2 files", "zip://a.csv::a.csv.zip")


def test_half_a_compressed_file_is_never_a_short_table(root):
    whole = gzip.compress("".join([HEADER, *(f"UA,{n},{n * 7919 % 1013}\n" for n in range(60))]).encode())
    for cut in range(0, len(whole), 7):
        fault(csv_source(root, whole[:cut], "flights.csv.gz"), "flights.csv.gz")


def test_half_a_json_line_and_mixed_types(root):
    (root / "e.jsonl").write_text('{"delay": 2}\n{"delay": "late"}\n{"delay": true}\n')
    assert load({"files": "e.jsonl"}).rows["delay"].dtype == pl.String
    (root / "e.jsonl").write_text('{"delay": 2}\n\n{"delay"')
    fault({"files": "e.jsonl"}, "no JSON, or half of it", "e.jsonl, line 3")
    (root / "e.jsonl").write_text("")
    assert load({"files": "e.jsonl", "columns": ["delay"]}).rows.columns == ["delay"]


def test_a_corrupt_parquet_page_is_named_by_column_and_row_group(root):
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.table({"carrier": [f"C{n}" for n in range(4000)], "delay": [n * 0.37 for n in range(4000)]})
    buffer = io.BytesIO()
    parquet.write_table(
        table, buffer, row_group_size=1000, write_page_checksum=True, compression="none", use_dictionary=False
    )
    content = bytearray(buffer.getvalue())
    chunk = parquet.ParquetFile(io.BytesIO(bytes(content))).metadata.row_group(2).column(1)
    content[chunk.data_page_offset + chunk.total_compressed_size - 100] ^= 0x10
    (root / "f.parquet").write_bytes(content)
    fault({"files": "f.parquet"}, "cannot be read as Parquet", "column `delay`, row group 3")
    (root / "f.parquet").write_bytes(content[:-200])
    fault({"files": "f.parquet"}, "cannot be read as Parquet", "f.parquet")


def months(root, **texts):
    for part, text in texts.items():
        (root / f"flights-2013-{part[1:]}.csv").write_text(f"carrier,delay\n{text}")
    return {"files": "flights-{part}.csv"}


def test_the_same_month_twice_changes_nothing_and_a_correction_changes_its_own_part(root):
    source = months(root, m01="UA,1\n", m02="UA,2\n")
    first, landed = source_marks({"sources": {"flights": source}}), load(source, "2013-01")
    months(root, m01="UA,1\n")
    assert source_marks({"sources": {"flights": source}}) == first
    again = load(source, "2013-01")
    assert again.load == landed.load and again.rows.equals(landed.rows)
    months(root, m01="UA,9\n", m03="UA,3\n")
    now = source_marks({"sources": {"flights": source}})["flights"]
    assert {part for part, mark in now.items() if first["flights"].get(part) != mark} == {"2013-01", "2013-03"}
    with pytest.raises(StepError, match="changed while it was read"):
        land_part("flights", source, "2013-01", first["flights"]["2013-01"])
    (root / "flights-2013-02.csv").unlink()
    with pytest.raises(StepError, match="changed while it was read"):
        land_part("flights", source, "2013-02", first["flights"]["2013-02"])


def test_a_month_that_lies_there_twice_is_refused(root):
    months(root, m01="UA,1\n")
    shutil.copy(root / "flights-2013-01.csv", root / "flights-2013-01.csv.bak")
    error = fault({"files": "flights-{part}.csv*", "format": "csv"}, "part `2013-01` arrived twice")
    assert "flights-2013-01.csv.bak" in str(error)


def test_a_copied_folder_has_the_same_marks_and_records_no_place(root, monkeypatch):
    seen = []
    for folder in ("here", "over [there]"):
        (root / folder).mkdir()
        months(root / folder, m01="UA,1\n", m02="UA,2\n")
        monkeypatch.setenv("DEMO_PLACE", str(root / folder))
        source = {"files": "{DEMO_PLACE}/flights-{part}.csv"}
        seen.append([source_marks({"sources": {"flights": source}}), load(source, "2013-02").load])
    assert seen[0] == seen[1] and str(root) not in json.dumps(seen)


def test_later_months_are_left_out_and_lists_stay(root):
    source = months(root, m01="UA,1\n", m02="UA,2\n", m03="UA,3\n")
    (root / "airlines.csv").write_text("carrier\nUA\n")
    sources = {"flights": source, "airlines": {"files": "airlines.csv"}}
    marks = source_marks({"sources": sources, "until": "2013-02"})
    assert [list(parts) for parts in marks.values()] == [["all"], ["2013-01", "2013-02"]]


def test_files_without_parts_are_one_table(root):
    months(root, m01="UA,1\n")
    (root / "flights-2013-02.csv").write_text("delay,carrier,gate\n2,AA,B1\n")
    landed = load({"files": "flights-*.csv", "columns": ["carrier"]})
    assert landed.rows.rows() == [("UA", "1", None), ("AA", "2", "B1")] and len(landed.load["files"]) == 2


def test_an_unchanged_file_is_not_read_again(root, monkeypatch):
    import mlops_kit.store

    source, real = months(root, m01="UA,1\n"), time.time
    monkeypatch.setenv("MLOPS_KIT_HOME", str(root / "home"))
    monkeypatch.setattr(mlops_kit.store.time, "time", lambda: real() + 60)  # The file is old enough to be trusted
    marks = source_marks({"sources": {"flights": source}})
    monkeypatch.setattr(mlops_kit.store, "hash_file", lambda file: "it was read")
    assert source_marks({"sources": {"flights": source}}) == marks
    months(root, m01="UA,10\n")
    assert source_marks({"sources": {"flights": source}})["flights"] == {"2013-01": "it was read"}


def test_files_elsewhere_are_read_by_fsspec(root):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe("/lake/flights-2013-01.csv", b"carrier,delay\nUA,1\n")
    source = {"files": "memory://lake/flights-{part}.csv"}
    assert load(source, "2013-01").rows.rows() == [("UA", "1")]
    memory.rm("/lake", recursive=True)
    fault(source, "no file is there", "memory://lake/flights-{part}.csv")
    fault({"files": "nosuch://lake/a.csv"}, "nosuch")


# SQL


QUERY = {"query": "select * from weather", "time": "observed", "watermark": "updated"}


@pytest.fixture
def database(root, monkeypatch):
    "Two months of weather, three hours each."
    monkeypatch.setenv("WEATHER_DB", "sqlite:///weather.db")
    base = sqlite3.connect(root / "weather.db", isolation_level=None)
    base.execute("create table weather (origin text, observed text, temp real, updated text)")
    rows = [
        ("EWR", f"2013-{m:02}-05 {h:02}:00", 30.5 + h, f"2013-{m:02}-05 {h:02}:10") for m in (1, 2) for h in (1, 2, 3)
    ]
    base.executemany("insert into weather values (?, ?, ?, ?)", rows)
    yield base
    base.close()


WEATHER = {"sql": "{WEATHER_DB}", **QUERY}


def test_a_month_of_a_database_is_counted_and_loaded_alone(database):
    marks = source_marks({"sources": {"weather": WEATHER}})["weather"]
    assert marks == {"2013-01": [3, "2013-01-05 03:10"], "2013-02": [3, "2013-02-05 03:10"]}
    landed = load(WEATHER, "2013-02", "weather")
    assert landed.rows["temp"].to_list() == [31.5, 32.5, 33.5]
    assert landed.load["watermark"] == "2013-02-05 03:10" and landed.load["location"] == "{WEATHER_DB}"


@pytest.mark.parametrize(
    "change",
    [
        "update weather set temp = 0, updated = '2013-04-01' where observed = '2013-01-05 02:00'",
        "delete from weather where observed = '2013-01-05 02:00'",
        "insert into weather values ('JFK', '2013-01-31 23:00', 20, '2013-02-02')",
    ],
)
def test_corrected_late_and_lost_rows_change_their_month_alone(database, change):
    before = source_marks({"sources": {"weather": WEATHER}})["weather"]
    database.execute(change)
    after = source_marks({"sources": {"weather": WEATHER}})["weather"]
    assert after["2013-01"] != before["2013-01"] and after["2013-02"] == before["2013-02"]
    with pytest.raises(StepError, match="part `2013-01` changed while it was read"):
        land_part("weather", WEATHER, "2013-01", before["2013-01"])


def test_a_table_without_time_is_marked_by_its_rows(database):
    source = {"sql": "{WEATHER_DB}", "query": "select origin, temp from weather;"}
    before = source_marks({"sources": {"weather": source}})["weather"]
    assert len(load(source, "all", "weather").rows) == 6
    database.execute("update weather set temp = 99 where observed = '2013-01-05 02:00'")
    assert source_marks({"sources": {"weather": source}})["weather"] != before


def test_a_locked_database_is_named(database):
    database.execute("begin exclusive")
    fault(
        WEATHER | {"timeout": 0.05}, "the database is locked", "{WEATHER_DB}", "Let the writer finish", name="weather"
    )


def test_a_database_that_changes_its_schema_is_named(database):
    fault(WEATHER | {"columns": ["temps"]}, "column `temps` is missing", "Did you mean", name="weather")
    database.execute("alter table weather rename column observed to seen")
    fault(WEATHER, "no such column: landed.observed", "The schema changed", name="weather")
    database.execute("drop table weather")
    fault(WEATHER, "no such table: weather", name="weather")


def test_a_damaged_database_file_is_named(root, database):
    database.close()
    (root / "weather.db").write_bytes(b"no database at all" * 100)
    fault(WEATHER, "the database file is damaged", "{WEATHER_DB}", name="weather")


def test_rows_of_a_database_come_in_one_order(database):
    first = load(WEATHER, "2013-01", "weather").rows
    database.execute("create table w2 as select * from weather order by temp desc")
    database.execute("drop table weather")
    database.execute("alter table w2 rename to weather")
    assert load(WEATHER, "2013-01", "weather").rows.equals(first)


def test_a_row_without_a_time_is_not_lost_in_silence(database):
    database.execute("update weather set observed = null where temp > 33")
    fault(WEATHER, "2 rows have no `observed`", "column `observed`", name="weather")


def test_a_missing_database_is_not_made(root, database, monkeypatch):
    monkeypatch.setenv("WEATHER_DB", "sqlite:///wether.db")
    fault(WEATHER, "no such database file", name="weather")
    assert not (root / "wether.db").exists()


def test_a_query_cannot_write(database):
    source = {"sql": "{WEATHER_DB}", "query": "select * from weather; drop table weather"}
    fault(source, name="weather")
    assert database.execute("select count(*) from weather").fetchone() == (6,)


def test_types_that_drift_in_a_database_land_as_text(database):
    database.execute("update weather set temp = 'warm' where observed = '2013-01-05 03:00'")
    assert load(WEATHER, "2013-01", "weather").rows["temp"].to_list() == ["31.5", "32.5", "warm"]


class Down(SQLiteDialect_pysqlite):
    "A server that does not answer, and tells everything in its message."

    supports_statement_cache = True

    def create_connect_args(self, url):
        return [], {"password": url.password}

    def connect(self, *_, password=""):
        raise self.dbapi.OperationalError(f"connection to server at db failed: Connection refused; password={password}")


def test_a_server_that_is_down_is_named_and_keeps_its_password(monkeypatch, capfd):
    registry.register("downdb", __name__, "Down")
    monkeypatch.setenv("DB_PASSWORD", "tr0ub4dor&3@x")
    source = {"sql": "downdb://reader:{DB_PASSWORD}@db/sales", **QUERY}
    said = str(fault(source, "Connection refused", "Check that the server is up", "{DB_PASSWORD}"))
    monkeypatch.setenv("WHOLE", "downdb://reader:tr0ub4dor&3x@db/sales")
    said += str(fault({"sql": "{WHOLE}", **QUERY}, "Connection refused", "{WHOLE}"))
    monkeypatch.setenv("WHOLE", "nonsense tr0ub4dor")
    said += str(fault({"sql": "{WHOLE}", **QUERY}, "no address"))
    monkeypatch.setenv("WHOLE", "nosuchdb://reader:tr0ub4dor@db/sales")
    said += str(fault({"sql": "{WHOLE}", **QUERY}))
    assert "tr0ub4dor" not in said + "".join(capfd.readouterr())


# HTTP


@contextlib.contextmanager
def service(answer):
    "Serve answer(path, tries, headers) -> (status, headers, body); gives its address and the questions."
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.command, self.path, dict(self.headers)))
            tries = sum(command == self.command and path == self.path for command, path, _ in asked)
            status, headers, body = answer(self.path, tries, self.headers)
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(b"" if self.command == "HEAD" else body)

        do_HEAD = do_GET

        def log_message(self, *_):
            "Stay silent."

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


JSON = {"Content-Type": "application/json"}
ROWS = [{"tailnum": "N1", "seats": 55}, {"tailnum": "N2", "seats": None}]


def planes(address, **keys):
    return {"http": f"{address}/planes", "backoff": 0.001, "retries": 2, **keys}


def body(value):
    return 200, JSON, json.dumps(value).encode()


def test_a_service_that_fails_twice_answers_at_the_third_try():
    def answer(path, tries, headers):
        return body(ROWS) if tries >= 3 else (503 if tries == 1 else 429, {"Retry-After": "0"}, b"")

    with service(answer) as (address, asked):
        rows = land_part(
            "planes", planes(address), "all", source_marks({"sources": {"planes": planes(address)}})["planes"]["all"]
        )
    assert rows.rows.rows(named=True) == ROWS
    assert [command for command, _, _ in asked].count("GET") == 4  # Three for the mark, one for the rows


@pytest.mark.parametrize("date", [False, True])
def test_the_service_says_when_to_come_back(date, monkeypatch):
    import tenacity.nap

    slept = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", slept.append)
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True) if date else "40"

    def answer(path, tries, headers):
        return body(ROWS) if tries > 2 else (503, {"Retry-After": later if tries == 1 else "86400"}, b"")

    with service(answer) as (address, _):
        load(planes(address), name="planes")
    assert 35 < slept[0] <= 40 and slept[1] == 60  # A day is cut to a minute


@pytest.mark.parametrize(
    ("status", "gets", "says"),
    [
        (500, 3, ["answered 500", "asked 3 times", "run again"]),
        (404, 1, ["answered 404", "Mend the address"]),
        (401, 1, ["answered 401", "wants a token"]),
        (400, 1, ["answered 400", "refuses the question"]),
    ],
)
def test_what_passes_is_asked_again_and_what_does_not_is_not(status, gets, says):
    with service(lambda *_: (status, {}, b"")) as (address, asked):
        fault(planes(address), *says, name="planes")
    assert [command for command, _, _ in asked].count("GET") == gets


def test_no_answer_half_an_answer_and_a_login_page():
    half = b'[{"tailnum": "N1", "seats": 5'
    answers = {
        "/half": (200, JSON, half),
        "/cut": (200, JSON | {"Content-Length": "500"}, half),
        "/login": (200, {"Content-Type": "text/html; charset=utf-8"}, b"Please sign in"),
        "/sneaky": (200, JSON, b"\n<!DOCTYPE html><html>Sign in"),
        "/object": (200, JSON, b'{"data": [], "count": 0}'),
        "/list": (200, JSON, b"[1, 2]"),
        "/odd": (200, {"Content-Type": "application/octet-stream"}, b"??"),
    }

    def answer(path, tries, headers):
        if path == "/slow":
            time.sleep(0.3)
        return answers.get(path, (200, JSON, b"[]"))

    with service(answer) as (address, _):

        def refuses(place, *says):
            fault({"http": f"{address}/{place}", "retries": 1, "backoff": 0.001, "timeout": 0.15}, *says, name="planes")

        refuses("slow", "gave no answer within 0.15 s (asked 2 times)", "page 1")
        refuses("half", "no JSON, or half of it", "line 1, character 30")
        refuses("cut", "broke off in the middle of its answer")
        refuses("login", "answered HTML, not rows: Please sign in", "such as a login")
        refuses("sneaky", "answered HTML, not rows")
        refuses("object", "found dict with the keys data, count", "Set `rows`")
        refuses("list", "expected a list of objects")
        refuses("odd", "the name says no format")
    fault({"http": f"{address}/gone", "retries": 0}, "cannot be asked", "up and reachable", name="planes")


def test_the_mark_is_the_etag_else_the_date_of_change_else_the_bytes():
    for headers, mark in [
        ({"ETag": '"7"', "Last-Modified": "x"}, '"7"'),
        ({"Last-Modified": "then"}, "then"),
        ({}, None),
    ]:

        def answer(path, tries, _, headers=headers):
            return 200, JSON | headers, json.dumps(ROWS).encode()

        with service(answer) as (address, asked):
            found = source_marks({"sources": {"planes": planes(address)}})["planes"]["all"]
            assert found == mark if mark else len(found) == 64
            assert [command for command, _, _ in asked] == (["HEAD"] if mark else ["HEAD", "GET"])
            assert len(land_part("planes", planes(address), "all", found).rows) == 2
            with pytest.raises(StepError, match="changed while it was read"):
                land_part("planes", planes(address), "all", '"6"')


def test_pages_follow_by_a_key_or_by_a_link_and_never_in_a_circle():
    def answer(path, tries, headers):
        number = int(path.partition("page=")[2] or 0)
        if path.startswith("/link"):
            link = {"Link": f'</link?page={number + 1}>; rel="next"'} if number < 2 else {}
            return 200, {"Content-Type": "text/csv"} | link, f"tailnum\nN{number}\n".encode()
        following = "/planes?page=0" if path.startswith("/planes?page=2") else f"/planes?page={number + 1}"
        return body({"data": [{"tailnum": f"N{number}"}], "more": following})

    with service(answer) as (address, _):
        assert load({"http": f"{address}/link"}).rows["tailnum"].to_list() == ["N0", "N1", "N2"]
        fault(planes(address, rows="data", next="more"), "lead back to one that was read", name="planes")
        assert len(load(planes(address, rows="data"), name="planes").rows) == 1


def test_a_change_between_two_pages_is_seen():
    def answer(path, tries, headers):
        state = 1 if path == "/planes" and tries == 1 else 2
        following = "/planes?page=2" if path == "/planes" else None
        return 200, JSON | {"ETag": f'"{state}"'}, json.dumps({"rows": ROWS, "next": following}).encode()

    with service(answer) as (address, _):
        fault(planes(address, rows="rows", next="next"), "changed while it was read", "Run again", name="planes")


def test_a_service_names_its_parts_with_marks_or_without():
    content = {"2013-01": [{"x": 1}], "2013-02": [{"x": 2}], "2013-03": [{"x": 3}]}

    def answer(path, tries, headers):
        if path == "/marked":
            return body({part: rows[0]["x"] for part, rows in content.items()})
        return body(list(content) if path == "/plain" else content[path.strip("/")])

    with service(answer) as (address, _):
        for listed in ("plain", "marked"):
            source = {"http": f"{address}/{{part}}", "parts": f"{address}/{listed}"}
            marks = source_marks({"sources": {"x": source}, "until": "2013-02"})["x"]
            assert list(marks) == ["2013-01", "2013-02"]
            assert land_part("x", source, "2013-02", marks["2013-02"]).rows.rows() == [(2,)]
            content["2013-01"] = [{"x": len(listed) * 100}]
            now = source_marks({"sources": {"x": source}, "until": "2013-02"})["x"]
            assert now["2013-01"] != marks["2013-01"] and now["2013-02"] == marks["2013-02"]
        content["../escape"] = [{"x": 1}]
        fault(source, "`../escape` cannot name a part", name="x")


def test_a_token_is_sent_to_its_own_service_only_and_told_nowhere(monkeypatch, capfd):
    monkeypatch.setenv("API_TOKEN", "hunter2-hunter2")
    with service(lambda *_: body(ROWS)) as (other, seen):

        def answer(path, tries, headers):
            if headers.get("Authorization") != "Bearer hunter2-hunter2" or path == "/echo":
                return 401, {}, b""
            return body({"rows": ROWS, "next": f"{other}/planes?token=hunter2-hunter2"})

        with service(answer) as (address, _):
            monkeypatch.setenv("FLEET", address)
            source = planes("{FLEET}", rows="rows", next="next", secret="API_TOKEN")
            assert variables(source) == ["FLEET", "API_TOKEN"]
            landed = load(source, name="planes")
            said = str(
                fault(source | {"http": "{FLEET}/echo"}, "answered 401", "Check the token in API_TOKEN", name="planes")
            )
    assert len(landed.rows) == 4 and seen and not any("Authorization" in headers for _, _, headers in seen)
    said += str(fault(source | {"http": "{FLEET}/planes?key=hunter2-hunter2"}, name="planes")) + json.dumps(landed.load)
    assert "hunter2" not in said + "".join(capfd.readouterr()) and address not in said


def test_a_token_in_the_message_of_a_python_function_is_taken_out(root, monkeypatch):
    monkeypatch.setenv("API_TOKEN", 'hun"ter\\2')
    monkeypatch.syspath_prepend(str(root))
    (root / "demo_leak.py").write_text("import os\ndef read(part, source):\n    return {}[os.environ['API_TOKEN']]\n")
    error = fault({"call": "demo_leak:read", "secret": "API_TOKEN"}, "KeyError", "API_TOKEN", "demo_leak.py, line 3")
    assert "hun" not in str(error)


# Settings


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ({}, "found none of them"),
        ({"files": "a.csv", "http": "http://a"}, "`files` and `http`"),
        ({"files": "a.csv", "seperator": ";"}, "Did you mean `separator`?"),
        ({"files": "a.csv", "name": "x"}, "there is no key `name`"),
        ({"files": "a.csv", "retries": 2}, "does not read `retries`"),
        ({"files": "a.csv", "separator": ";;"}, "`separator` is ';;'"),
        ({"files": "a-{prt}.csv"}, "`{prt}` stands for nothing"),
        ({"sql": "sqlite:///a.db"}, "needs a query"),
        ({"sql": "postgresql://me:s3cret@db/x", "query": "select 1"}, "a password stands in the settings"),
        ({"http": "https://me:s3cret@host/x"}, "a password stands in the settings"),
        ({"files": "{NOT_SET_HERE}/a.csv"}, "`NOT_SET_HERE` is not set"),
        ({"http": "http://127.0.0.1:9/x", "secret": "NOT_SET_HERE"}, "`NOT_SET_HERE` is not set"),
    ],
)
def test_a_wrong_word_in_settings_is_named(source, says):
    with pytest.raises(SettingsError) as caught:
        source_marks({"sources": {"flights": source}})
    assert says in str(caught.value) and "source `flights`" in caught.value.where
    assert "s3cret" not in str(caught.value)


def test_a_python_function_is_a_source(root):
    (root / "demo_reader.py").write_text(
        "import pandas as pd\n"
        "VALUES = {'2013-01': 1, '2013-02': 2}\n"
        "def read(part, source):\n    return pd.DataFrame({'x': [VALUES[part]], 'columns': [len(source['columns'])]})\n"
        "def parts(source):\n    return list(VALUES)\n"
        "def marked(source):\n    return dict(VALUES)\n"
    )
    import sys

    for listed in ("parts", "marked"):
        source = {"call": "demo_reader:read", "parts": f"demo_reader:{listed}", "columns": ["x"]}
        marks = source_marks({"sources": {"x": source}})["x"]
        assert land_part("x", source, "2013-02", marks["2013-02"]).rows.rows() == [(2, 1)]
        with pytest.raises(StepError, match="changed while it was read"):
            land_part("x", source, "2013-02", marks["2013-01"])
    sys.modules["demo_reader"].VALUES.clear()
    with pytest.raises(StepError, match="KeyError") as caught:
        land_part("x", source, "2013-01", 1)
    assert "demo_reader.py, line 4" in caught.value.where
    sys.modules.pop("demo_reader")
    sys.path.remove(str(root))


# Flights


def test_real_flights_come_from_three_kinds_of_source(root, monkeypatch):
    import zipfile

    folder = make_sources(root / "sources")
    monkeypatch.setattr(flights_sources, "write_sources", None)
    assert make_sources(root / "sources") == folder  # Nothing is written a second time
    with serve_sources(folder) as addresses:
        for name, value in addresses.items():
            monkeypatch.setenv(name, value)
        marks = source_marks({"sources": sources_of_flights})
        again = source_marks({"sources": sources_of_flights})
        planes = land_part("planes", sources_of_flights["planes"], "all", marks["planes"]["all"])
        hours = {
            part: land_part("weather", sources_of_flights["weather"], part, mark)
            for part, mark in marks["weather"].items()
        }
    assert marks == again and [len(parts) for parts in marks.values()] == [1, 1, 12, 1, 12]
    assert len(planes.rows) == 3322 and sum(len(landed.rows) for landed in hours.values()) == 26115
    assert all(set(landed.rows["month"]) == {int(part[5:])} for part, landed in hours.items())
    with zipfile.ZipFile(flights_sources._data() / "flights.csv.zip") as archive:
        original = archive.read("flights.csv").splitlines()
    written = [gzip.decompress(file.read_bytes()).splitlines() for file in folder.glob("flights-*.csv.gz")]
    assert {lines[0] for lines in written} == {original[0]} and len(written) == 12
    assert sorted(line for lines in written for line in lines[1:]) == sorted(original[1:])


@pytest.fixture(scope="module")
def tables():
    return read_tables(REPOSITORY / "samples/bronze")


@pytest.fixture
def served(root, tables, monkeypatch):
    "The sample's sources, made and served."
    folder = write_sources(root / "sources", tables)
    with serve_sources(folder) as addresses:
        for name, value in addresses.items():
            monkeypatch.setenv(name, value)
        yield folder


def test_a_correction_in_any_source_changes_exactly_its_own_mark(served):
    def look():
        return {
            (name, part): mark
            for name, parts in source_marks({"sources": sources_of_flights}).items()
            for part, mark in parts.items()
        }

    def changes(before):
        return {place for place, mark in look().items() if before.get(place) != mark}

    seen = look()
    assert not changes(seen)
    month = served / "flights-2013-07.csv.gz"
    month.write_bytes(gzip.compress(gzip.decompress(month.read_bytes()).replace(b",NA", b",0")))
    assert changes(seen) == {("flights", "2013-07")}
    with contextlib.closing(sqlite3.connect(served / "airports.db")) as base, base:
        base.execute(
            "update weather set temp = temp + 1, updated = '2014-01-01T00:00:00Z' where observed like '2013-08%'"
        )
    assert changes(seen) == {("flights", "2013-07"), ("weather", "2013-08")}
    rows = json.loads((served / "planes.json").read_text())
    (served / "planes.json").write_text(json.dumps(rows[:-1]))
    assert changes(seen) == {("flights", "2013-07"), ("weather", "2013-08"), ("planes", "all")}


def test_sources_that_were_cut_off_while_they_were_made_are_finished(root, tables, monkeypatch):
    whole = {file.name: file.read_bytes() for file in write_sources(root / "whole", tables).iterdir()}
    real, written = flights_sources.write_file, []

    def cut(file, content):
        if len(written) == limit:
            raise KeyboardInterrupt
        written.append(file)
        return real(file, content)

    for limit in range(len(whole)):
        written.clear()
        monkeypatch.setattr(flights_sources, "write_file", cut)
        with pytest.raises(KeyboardInterrupt):
            write_sources(root / f"cut-{limit}", tables)
        monkeypatch.setattr(
            flights_sources, "write_file", lambda file, content: written.append(file) or real(file, content)
        )
        folder = write_sources(root / f"cut-{limit}", tables)
        assert {file.name: file.read_bytes() for file in folder.iterdir()} == whole
        assert len(written) == len(whole)  # Each file once, before the cut or after it


def test_the_service_listens_to_this_machine_only_and_serves_its_tables_only(served, tables):
    import os
    import urllib.error
    import urllib.request

    address = os.environ["FLEET_API"]
    assert address.startswith("http://127.0.0.1:")
    for path in ("/airports.db", "/../airports", "/sources", "/", "/planes/../../x", "/planes?page=x"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(address + path)
        assert caught.value.code in (400, 404)
    landed = load(sources_of_flights["planes"], name="planes")
    assert landed.rows.sort("tailnum").equals(tables["planes"].sort("tailnum"))
