"No personal value and no key is found in anything that was written; what should be refused is refused."

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from mlops_kit.dataops.personal import find_personal, passes_luhn
from mlops_kit.dataops.privacy import (
    hide_personal,
    protect,
    pseudonymise,
    read_key,
)
from mlops_kit.project import StepError
from mlops_kit.steps import RECORDS_VARIABLE, SECRETS_VARIABLE, log
from mlops_kit.tables import read_tables, write_tables
from mlops_kit.workloads.flights_sources import TABLES as ALL
from mlops_kit.workloads.flights_sources import read_source

KEY, OTHER = "0f1e2d3c4b5a69788796a5b4c3d2e1f0" * 2, "00112233445566778899aabbccddeeff" * 2
NAMES = ["Ada Lovelace", "Zoë Müller", "O'Neill, Shaun", "李小龙"]
MAILS = ["ada@example.org", "zoe@example.org", "shaun@example.net", "li@example.com"]


def people():
    return pl.DataFrame(
        {
            "person": [900_101, 900_102, 900_103, 900_104],
            "full_name": NAMES,
            "email": [*MAILS[:3], None],
            "born": [date(1815, 12, 10), date(1990, 1, 1), None, date(1940, 11, 27)],
            "miles": [12, 300, 7, 90],
        }
    )


def trips():
    return pl.DataFrame({"passenger": ["900102", "900101", "900101", None], "fare": [80.0, 120.0, 40.0, 9.0]})


TABLES = {"people": people(), "trips": trips()}
MARKED = {"people": ["person", "full_name", "email", "born"], "trips": ["passenger"]}


def test_joins_survive_across_types_and_what_is_missing_stays_missing():
    safe = protect(TABLES, MARKED, KEY, "dev")
    before = TABLES["trips"].join(
        people().with_columns(pl.col("person").cast(pl.String)), left_on="passenger", right_on="person"
    )
    after = safe["trips"].join(safe["people"], left_on="passenger", right_on="person")
    assert after.sort("fare")["miles"].to_list() == before.sort("fare")["miles"].to_list() == [12, 300, 12]
    for name, columns in MARKED.items():
        for column in columns:
            raw, hidden = TABLES[name][column], safe[name][column]
            assert hidden.dtype == pl.String and hidden.is_null().equals(raw.is_null().alias(column))
            assert hidden.n_unique() == raw.n_unique() and not set(hidden.drop_nulls()) & set(raw.cast(pl.String))
    assert safe["people"]["miles"].equals(people()["miles"]) and safe["trips"]["fare"].equals(trips()["fare"])


def test_the_same_person_has_one_pseudonym_however_the_number_is_written():
    forms = [pl.Series([7, 8]), pl.Series([7.0, 8.0]), pl.Series(["7", "8"]), pl.Series([7, 8], dtype=pl.UInt8)]
    assert len({tuple(pseudonymise(form.alias("x").to_frame(), ["x"], KEY)["x"]) for form in forms}) == 1


def test_frames_of_pandas_are_read_and_categories_are_text():
    frame = pl.DataFrame({"x": ["a", "b"]})
    wanted = pseudonymise(frame, ["x"], KEY)
    assert pseudonymise(frame.to_pandas(), ["x"], KEY).equals(wanted)
    assert pseudonymise(frame.with_columns(pl.col("x").cast(pl.Categorical)), ["x"], KEY).equals(wanted)


def test_key_salt_and_domain_each_change_every_pseudonym():
    first = pseudonymise(people(), ["full_name"], KEY)["full_name"]
    others = [
        pseudonymise(people(), ["full_name"], OTHER),
        pseudonymise(people(), ["full_name"], KEY, salt_version=2),
        pseudonymise(people(), ["full_name"], KEY, domains={"full_name": "name"}),
    ]
    assert all(not set(first) & set(other["full_name"]) for other in others)
    assert pseudonymise(people(), ["full_name"], KEY)["full_name"].equals(first)


def test_a_hundred_thousand_values_keep_apart():
    codes = pseudonymise(pl.DataFrame({"x": range(100_000)}), ["x"], KEY)["x"]
    assert codes.n_unique() == 100_000 and codes.str.len_chars().unique().to_list() == [27]


def test_a_second_pass_changes_nothing_and_a_mixture_is_refused():
    once = pseudonymise(people(), ["email"], KEY)
    assert pseudonymise(once, ["email"], KEY).equals(once)
    with pytest.raises(StepError, match="another version"):
        pseudonymise(once, ["email"], KEY, salt_version=2)
    with pytest.raises(StepError, match="among plain values"):
        pseudonymise(pl.concat([once, people().cast({"born": once.schema["born"]})]), ["email"], KEY)


@pytest.mark.parametrize("weak", ["", "abc", "secret" * 12, "ab" * 32, KEY[:62], None])
def test_a_weak_key_is_refused_and_not_repeated(weak):
    with pytest.raises(StepError) as refused:
        pseudonymise(people(), ["email"], weak)
    assert "key" in refused.value.what and (not weak or weak not in str(refused.value))


def traces(folder, words):
    "Name every file below a folder that holds one of the words, in its bytes or in the values of its table."
    found = []
    for file in (file for file in Path(folder).rglob("*") if file.is_file()):
        raw = file.read_bytes()
        text = raw.decode(errors="replace")
        if file.suffix == ".parquet":
            text += "\n".join(str(value) for row in pl.read_parquet(file).rows() for value in row)
        found += [(file.name, word) for word in words if word in text or word.encode() in raw]
    return found


def test_no_value_and_no_key_is_found_in_anything_that_was_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SALT", KEY)
    monkeypatch.setenv(SECRETS_VARIABLE, "SALT")
    monkeypatch.setenv(RECORDS_VARIABLE, str(tmp_path / "records.jsonl"))
    safe = protect(TABLES, MARKED, read_key("SALT", "prod"), "dev")
    write_tables(tmp_path / "bronze", safe)
    log(people=safe["people"], shown=hide_personal(people(), MARKED["people"]), rows=len(safe["people"]))
    log(found=find_personal(people(), name="people"), key_was=KEY)
    with pytest.raises(StepError) as refused:
        protect(TABLES, {}, KEY, "dev")
    (tmp_path / "error.txt").write_text(f"{refused.value!r} {refused.value}")
    words = [*NAMES, *MAILS, "900101", "900104", "1815-12-10", "1940-11-27", KEY]
    (tmp_path / "shown.txt").write_text(capsys.readouterr().out.replace(KEY, ""))  # The screen is the runner's to scrub
    assert traces(tmp_path, words) == []
    write_tables(tmp_path / "raw", TABLES)  # And the search finds what is there
    assert {word for _, word in traces(tmp_path, words)} >= {*NAMES, *MAILS[:3], "900101", "1815-12-10"}


def test_what_is_shown_hides_values_and_keeps_what_is_missing():
    shown = hide_personal(people(), ["email", "born", "phone"])
    assert shown["email"].to_list() == ["hidden"] * 3 + [None] and set(shown["born"].drop_nulls()) == {"hidden"}
    assert shown["miles"].equals(people()["miles"])


def test_production_data_without_a_key_are_refused_below_production():
    for environment in ("dev", "test"):
        with pytest.raises(
            StepError, match=f"`{environment}` may not read column `person` of production's table `people`"
        ):
            protect(TABLES, MARKED, None, environment)
    assert protect(TABLES, MARKED, None, "prod")["people"].equals(people())
    assert protect(TABLES, MARKED, None, "dev", data_of="dev")["people"].equals(people())
    assert protect({"trips": trips()}, {}, None, "dev")["trips"].equals(trips())


def test_a_personal_column_that_nobody_marked_is_refused_below_production():
    for column in ("full_name", "email"):
        marked = {**MARKED, "people": [name for name in MARKED["people"] if name != column]}
        with pytest.raises(StepError, match=f"column `{column}` of table `people` looks personal") as refused:
            protect(TABLES, marked, KEY, "test")
        assert not any(value in str(refused.value) for value in NAMES + MAILS)
        assert "Mark it" in refused.value.remedy
        protect(TABLES, marked, KEY, "test", not_personal={"people": [column]})
        protect(TABLES, marked, KEY, "prod")


def test_a_mistyped_mark_is_refused():
    with pytest.raises(StepError, match="has no column `emial`"):
        protect(TABLES, {"people": ["emial"]}, KEY, "dev")
    with pytest.raises(StepError, match="no table `peple`"):
        protect(TABLES, {"peple": ["email"]}, KEY, "dev")


def test_the_key_for_development_is_one_whoever_asks_first(tmp_path):
    command = "import sys, pathlib; from mlops_kit.dataops import privacy as p; "
    command += "print(p.read_key('NO_SUCH_SALT', 'dev', pathlib.Path(sys.argv[1])))"

    def ask(_):
        done = subprocess.run(
            [sys.executable, "-c", command, str(tmp_path)], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    with ThreadPoolExecutor(3) as pool:
        keys = set(pool.map(ask, range(3)))
    with ThreadPoolExecutor(8) as pool:
        keys |= set(pool.map(lambda _: read_key("NO_SUCH_SALT", "dev", tmp_path), range(64)))
        fresh = set(pool.map(lambda _: read_key("NO_SUCH_SALT", "dev", tmp_path / "fresh"), range(64)))
    assert len(keys) == 1 and len(fresh) == 1 and keys != fresh
    file = tmp_path / "runs/keys/NO_SUCH_SALT"
    assert file.stat().st_mode & 0o077 == 0 and [other.name for other in file.parent.iterdir()] == [file.name]


def test_the_key_for_development_is_ignored_by_git():
    root = Path(__file__).parent.parent
    assert subprocess.run(["git", "check-ignore", "-q", "runs/keys/NO_SUCH_SALT"], cwd=root).returncode == 0


def test_production_demands_its_key_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("SALT", raising=False)
    with pytest.raises(StepError, match="`prod` has no key"):
        read_key("SALT", "prod", tmp_path)
    assert not (tmp_path / "runs/keys/SALT").exists()
    monkeypatch.setenv("SALT", KEY)
    assert read_key("SALT", "prod", tmp_path) == read_key("SALT", "dev", tmp_path) == KEY


def test_no_table_of_flights_looks_personal():
    landed = {name: read_source(name) for name in ALL}
    assert sum(len(table) for table in landed.values()) > 300_000
    assert [row for name, table in landed.items() for row in find_personal(table, name=name).rows()] == []
    for place in ("samples/silver", "samples/bronze"):
        assert not any(len(find_personal(table, name=name)) for name, table in read_tables(place).items())


def checked(stem, passes, alphabet="0123456789"):
    "Complete a number with the digits or letter that pass its check."
    for last in alphabet:
        if passes(stem + last):
            return stem + last
    return None


def kinds():
    "Columns of each kind, with neutral names: the values are made here, by rules written anew from their sources."
    weights = [1, 3, 7, 9, 1, 3, 7, 9, 1, 3]
    pesel = [f"{70 + n:02}0512{1000 + 37 * n:04}" for n in range(20)]
    pesel = [p + str(-sum(int(d) * w for d, w in zip(p, weights, strict=True)) % 10) for p in pesel]
    bsn = [str(10_000_000 + 7_919 * n) for n in range(60)]
    bsn = [(b, sum(int(d) * w for d, w in zip(b, range(9, 1, -1), strict=True)) % 11) for b in bsn]
    nir = [f"1{50 + n}0575{100 + n:03}{200 + n:03}" for n in range(20)]
    german = [f"DE{98 - int(f'370400440532{n:06}131400') % 97:02}370400440532{n:06}" for n in range(5)]
    return {
        "e-mail address": ["-", "see note", "write to ada@example.org please", "none"],
        "phone number": ["+44 20 7946 0958", "+1 (212) 555-0123", "+4930123456"],
        "phone number, national": [f"(212) 555-01{n:02}" for n in range(10)],
        "phone number, with zero": [f"020 7946 09{n:02}" for n in range(10)],
        "card number": [checked(f"4{n:014}", passes_luhn) for n in range(20)],
        "card number, apart": [
            f"{c[:4]}-{c[4:8]}-{c[8:12]}-{c[12:]}" for c in (checked(f"51{n:013}", passes_luhn) for n in range(9))
        ],
        "bank account": german,
        "IP address": [f"192.168.{n}.7" for n in range(20)],
        "IP address, new": [f"2001:db8::{n:x}" for n in range(20)],
        "US": [f"{100 + n}-45-{6000 + n}" for n in range(10)],
        "UK": [f"AB{100_000 + 7 * n}C" for n in range(10)],
        "ES": [f"{n:08}{'TRWAGMYFPDXBNJZSQVHLCKE'[n % 23]}" for n in range(1000, 1020)],
        "FR": [f"{n}{97 - int(n) % 97:02}" for n in nir],
        "NL": [f"{b}{check}" for b, check in bsn if check < 10],
        "PL": pesel,
        "DE": ["36574261809", "86095742719", "47036892816", "65929970489", "57549285017", "25768131411"],
        "IT": ["RCCMNL83S18D969H", "BNZVCN32S10E573Z"],
    }


@pytest.mark.parametrize("kind", list(kinds()))
def test_each_kind_of_personal_value_is_found_whatever_its_column_is_called(kind):
    values = kinds()[kind]
    assert len(set(values)) == len(values) and None not in values
    found = find_personal(pl.DataFrame({"field_7": [*values, None], "n": range(len(values) + 1)}))
    assert found["column"].to_list() == ["field_7"]
    assert kind.split(",")[0] in found["why"][0]


def test_numbers_are_looked_at_like_text():
    cards = pl.DataFrame({"ref": [int(card) for card in kinds()["card number"]]})
    assert find_personal(cards)["why"].to_list() == ["card number"]


def test_harmless_codes_raise_no_alarm():
    rows = range(3000)
    harmless = pl.DataFrame(
        {
            "flight": [n % 9000 for n in rows],
            "order": [4_000_000_000_000_000 + 977 * n for n in rows],
            "nine_digits": [100_000_000 + 7_919 * n for n in rows],
            "eleven_digits": [10_000_000_000 + 104_729 * n for n in rows],
            "when": [f"2013-{1 + n % 12:02}-{1 + n % 28:02} {n % 24:02}:00:00" for n in rows],
            "day": [f"2013-{1 + n % 12:02}-{1 + n % 28:02}" for n in rows],
            "clock": [f"{n % 24:02}:{n % 60:02}:{n % 60:02}" for n in rows],
            "version": [f"{n % 7}.{n % 11}.{n % 13}" for n in rows],
            "uuid": [f"{n:08x}-0000-4000-8000-{n:012x}" for n in rows],
            "site": [f"https://example.org/{n}" for n in rows],
            "tail": [f"N{100 + n}UA" for n in rows],
            "product": [f"{10_000_000 + n}{'ABCDEFGH'[n % 8]}" for n in rows],
            "name": [f"Airline {n}" for n in rows],
            "has_phone": [n % 2 == 0 for n in rows],
            "email_count": [n % 5 for n in rows],
            "latitude": [40.0 + n / 7 for n in rows],
        }
    )
    assert find_personal(harmless).rows() == []


def test_one_address_in_a_long_remark_is_enough():
    remarks = pl.DataFrame({"remark": [f"left gate {n} late" for n in range(50_000)]})
    assert not len(find_personal(remarks))
    one = remarks.with_columns(
        pl.when(pl.int_range(pl.len()) == 49_000)
        .then(pl.lit("ask ada@example.org"))
        .otherwise("remark")
        .alias("remark")
    )
    assert find_personal(one)["why"].to_list() == ["e-mail address"]


def test_a_report_of_findings_holds_no_value():
    found = find_personal(people(), name="people")
    assert set(found["column"]) == {"full_name", "email"}
    assert not any(value in json.dumps(found.to_dicts()) for value in NAMES + MAILS)
