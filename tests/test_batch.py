"""Batch scoring: killed and typed again, it ends as if nothing had happened; no row is lost or scored otherwise."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import COMMAND

from mlops_kit.deployment.bundles.bundle import build_bundle
from mlops_kit.deployment.inference import batch, batch_pieces
from mlops_kit.deployment.inference.batch import score_batch
from mlops_kit.deployment.inference.batch_rows import open_batch
from mlops_kit.deployment.inference.collected import read_collected
from mlops_kit.deployment.inference.scoring import load_scorer
from mlops_kit.project import SettingsError, StepError, StoreError, path
from mlops_kit.steps import read_table, write_table
from mlops_kit.training.models import load_model, predict

RUN = """
import json, sys, time
from pathlib import Path
from mlops_kit.deployment.inference import batch, batch_pieces
from mlops_kit.deployment.inference.batch_rows import open_batch
from mlops_kit.deployment.inference.scoring import start_lean
start_lean()
batch.PIECE, batch_pieces.REQUEST = 100, 25
real = batch.score_piece
def slowly(*args):
    real(*args)
    print("piece", flush=True)
    time.sleep(float(sys.argv[4]))
batch.score_piece = slowly
bundle, table, out = map(Path, sys.argv[1:4])
said = batch.score_batch(bundle, open_batch(table), out, set_aside=True, keep=["carrier"])
print(json.dumps(said))
"""


@pytest.fixture(scope="module")
def gold() -> pl.DataFrame:
    return read_table("samples/gold")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("bundles") / "bundle"
    build_bundle(path("samples/package"), place, "flights", "7")
    return place


@pytest.fixture
def small(monkeypatch) -> None:
    "Pieces of a hundred rows."
    monkeypatch.setattr(batch, "PIECE", 100)
    monkeypatch.setattr(batch_pieces, "REQUEST", 25)


def spoiled(rows: pl.DataFrame, faults: dict[int, dict]) -> pl.DataFrame:
    "Plant values, given as text, in rows."
    table = rows.cast({name: pl.String for fault in faults.values() for name in fault})
    for row, fault in faults.items():
        here = pl.int_range(pl.len()) == row
        table = table.with_columns(pl.when(here).then(pl.lit(v)).otherwise(n).alias(n) for n, v in fault.items())
    return table


def content(out: Path) -> dict[str, bytes]:
    "All files of a result but the one with the time in it; lines without their time."
    files = {file.relative_to(out).as_posix(): file.read_bytes() for file in out.rglob("*") if file.is_file()}
    lines = {"/".join(n.split("/")[:4]): b for n, b in files.items() if n.endswith(".jsonl")}
    plain = {name: [json.loads(line) | {"time": ""} for line in text.splitlines()] for name, text in lines.items()}
    return {n: b for n, b in files.items() if n != "score.json" and not n.endswith(".jsonl")} | plain


def start(*words: object) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", RUN, *map(str, words)], stdout=subprocess.PIPE, text=True)


def test_a_run_that_is_killed_again_and_again_ends_like_one_that_is_not(bundle, gold, tmp_path, small):
    spoiled(gold.head(1000), {205: {"distance": "far"}, 777: {"carrier": "XX"}}).write_csv(tmp_path / "rows.csv")
    table = open_batch(tmp_path / "rows.csv")
    whole = score_batch(bundle, table, tmp_path / "whole", set_aside=True, keep=["carrier"])
    killed = 0
    for _ in range(3):
        process = start(bundle, tmp_path / "rows.csv", tmp_path / "again", 0.05)
        for _ in range(2):
            process.stdout.readline()
        time.sleep(random.Random(killed).random() * 0.1)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        killed += process.returncode == -signal.SIGKILL
        assert not (tmp_path / "again" / "predictions").exists()
    assert killed == 3
    assert len([*(tmp_path / "again" / ".work" / "pieces").glob("[0-9]*")]) >= 6
    last = start(bundle, tmp_path / "rows.csv", tmp_path / "again", 0)
    lines = last.communicate()[0].splitlines()
    assert last.returncode == 0 and len(lines) <= 5  # Four pieces at most were left, and the answer
    assert content(tmp_path / "again") == content(tmp_path / "whole") and len(content(tmp_path / "whole")) > 10
    said = json.loads(lines[-1])
    assert {name: said[name] for name in said if name != "began"} == {n: whole[n] for n in whole if n != "began"}


def test_a_kill_between_any_two_steps_at_the_end_is_mended(bundle, gold, tmp_path, small, monkeypatch):
    gold.head(120).write_parquet(tmp_path / "rows.parquet")
    table = open_batch(tmp_path / "rows.parquet")
    score_batch(bundle, table, tmp_path / "whole")
    older = score_batch(bundle, table, tmp_path / "older", keep=["origin"])
    scorer = load_scorer(bundle)
    monkeypatch.setattr(batch, "load_scorer", lambda *_: scorer)
    names = ["os.rename", "shutil.rmtree", "write_file", "join_partitions"]
    real = {name: eval(f"batch.{name}") for name in names}
    for stop in range(1, 60):
        out, count = tmp_path / f"out{stop}", [0]
        shutil.copytree(tmp_path / "older", out)

        def dies(name, *args, count=count, stop=stop, **more):
            count[0] += 1
            if count[0] == stop:
                raise KeyboardInterrupt
            return real[name](*args, **more)

        with monkeypatch.context() as patch:
            for name in names:
                patch.setattr(
                    f"mlops_kit.deployment.inference.batch.{name}", lambda *a, name=name, **m: dies(name, *a, **m)
                )
            try:
                score_batch(bundle, table, out)
                ended = True
            except KeyboardInterrupt:
                ended = False
        if (out / "score.json").exists():  # What it says is true of what lies there
            of_before = json.loads((out / "score.json").read_bytes())["key"] == older["key"]
            assert ("origin" in read_table(out / "predictions").columns) == of_before
        score_batch(bundle, table, out)
        assert content(out) == content(tmp_path / "whole"), stop
        if ended:
            break
    assert ended and stop > 10


def test_every_form_gives_the_numbers_of_the_model(bundle, gold, tmp_path, small):
    rows = gold.head(330)
    rows.write_csv(tmp_path / "rows.csv")
    rows.write_csv(tmp_path / "rows.tsv", separator="\t", null_value="NA")
    rows.write_parquet(tmp_path / "rows.parquet", row_group_size=70)
    rows.write_ndjson(tmp_path / "rows.jsonl")
    part = pl.col("carrier").rank("dense") % 3
    write_table(tmp_path / "rows", rows.with_columns(number=pl.int_range(pl.len()), part=part), ["number"], "part")
    wanted = predict(load_model("samples/package"), rows)
    for name in ("rows.csv", "rows.tsv", "rows.parquet", "rows.jsonl", "rows"):
        table = open_batch(tmp_path / name, ["NA"])
        keep = ["number"] if name == "rows" else ["carrier"]
        said = score_batch(bundle, table, tmp_path / "out", keep=keep)
        found = read_table(tmp_path / "out" / "predictions")
        found = found.sort("number") if name == "rows" else found
        assert np.array_equal(found.select("prediction_False", "prediction_True").to_numpy(), wanted), name
        assert said["scored"] == 330 and {*found["version"]} == {"7"}


def test_planted_faults_are_found_and_nothing_else(bundle, gold, tmp_path, small):
    chance, rows = random.Random(3), gold.head(900)
    kinds = [
        *[("distance", "far", "type"), ("distance", "1.5", "whole"), ("distance", "inf", "finite")],
        *[("distance", None, "required"), ("carrier", "XX", "category"), ("carrier", None, "required")],
    ]
    planted = {row: chance.choice(kinds) for row in chance.sample(range(900), 70)}
    spoiled(rows, {row: {column: value} for row, (column, value, _) in planted.items()}).write_csv(
        tmp_path / "rows.csv"
    )
    table = open_batch(tmp_path / "rows.csv")
    said = score_batch(bundle, table, tmp_path / "out", set_aside=True)
    aside = read_table(tmp_path / "out" / "set_aside")
    found = {row: (column, rule) for row, column, rule in aside.select("row", "column", "rule").iter_rows()}
    assert found == {row: (column, rule) for row, (column, _, rule) in planted.items()} and len(aside) == 70
    good = read_table(tmp_path / "out" / "predictions")
    assert {*good["row"]} == {*range(900)} - {*planted} and said["rows"] == said["scored"] + said["set_aside"] == 900
    wanted = predict(load_model("samples/package"), rows)[good["row"].to_list()]
    assert np.array_equal(good["prediction_True"].to_numpy(), wanted[:, 1])
    with pytest.raises(StepError, match=f"row {min(planted)}, "):
        score_batch(bundle, table, tmp_path / "other")
    assert not (tmp_path / "other" / "predictions").exists()


def test_a_table_of_broken_rows_alone_has_no_predictions(bundle, gold, tmp_path):
    gold.head(30).with_columns(carrier=pl.lit("XX")).write_csv(tmp_path / "rows.csv")
    said = score_batch(bundle, open_batch(tmp_path / "rows.csv"), tmp_path / "out", set_aside=True)
    assert (said["scored"], said["set_aside"]) == (0, 30) and len(read_table(tmp_path / "out" / "predictions")) == 0
    lenient = score_batch(bundle, open_batch(tmp_path / "rows.csv"), tmp_path / "out", unseen="missing")
    assert (lenient["scored"], lenient["set_aside"]) == (30, 0)


def test_another_job_replaces_the_result_and_the_same_finds_it(bundle, gold, tmp_path, monkeypatch):
    gold.head(50).write_parquet(tmp_path / "rows.parquet")
    table, out = open_batch(tmp_path / "rows.parquet"), tmp_path / "out"
    first = score_batch(bundle, table, out)
    monkeypatch.setattr(batch, "load_scorer", lambda *_: pytest.fail("it was scored again"))
    assert score_batch(bundle, table, out) == first
    monkeypatch.undo()
    gold.head(60).write_parquet(tmp_path / "rows.parquet")
    assert score_batch(bundle, open_batch(tmp_path / "rows.parquet"), out)["rows"] == 60
    newer = tmp_path / "newer"
    build_bundle(path("samples/package"), newer, "flights", "8")
    assert score_batch(newer, open_batch(tmp_path / "rows.parquet"), out)["version"] == "8"
    assert {*read_table(out / "predictions")["version"]} == {"8"}


def test_another_job_does_not_go_on_with_the_pieces_of_one_that_was_killed(bundle, gold, tmp_path, small, monkeypatch):
    gold.head(200).write_parquet(tmp_path / "rows.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(batch, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            score_batch(bundle, open_batch(tmp_path / "rows.parquet"), tmp_path / "out")
    gold.tail(200).write_parquet(tmp_path / "rows.parquet")
    for out in ("out", "whole"):
        score_batch(bundle, open_batch(tmp_path / "rows.parquet"), tmp_path / out)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_is_not_ours_is_left_alone(bundle, gold, tmp_path):
    gold.head(50).write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.png").write_bytes(b"cat")
    with pytest.raises(StoreError, match="a folder with other files in it"):
        score_batch(bundle, open_batch(tmp_path / "rows.parquet"), tmp_path / "photos")
    assert [file.name for file in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_words_that_do_not_fit_are_said(bundle, gold, tmp_path):
    gold.head(50).drop("distance").write_csv(tmp_path / "rows.csv")
    gold.head(0).write_csv(tmp_path / "none.csv")
    gold.head(9).write_csv(tmp_path / "some.csv")
    for name, how, error, what in [
        ("rows.csv", {}, SettingsError, "lacks 1 columns of the model: `distance`"),
        ("none.csv", {}, StepError, "no row to score"),
        ("some.csv", {"keep": ["carier"]}, SettingsError, "no column `carier` to keep.*\n.*\n.*`carrier`"),
    ]:
        with pytest.raises(error, match=what):
            score_batch(bundle, open_batch(tmp_path / name), tmp_path / "out", **how)


def test_a_model_that_answers_no_number_is_refused(bundle, gold, tmp_path, monkeypatch):
    gold.head(50).write_parquet(tmp_path / "rows.parquet")
    real = batch.load_scorer

    def bad(*args):
        scorer = real(*args)
        monkeypatch.setattr(
            type(scorer), "score", lambda self, m: np.where(np.arange(len(m))[:, None] == 7, np.nan, 0.5)
        )
        return scorer

    monkeypatch.setattr(batch, "load_scorer", bad)
    with pytest.raises(StepError, match="no number, first row 7"):
        score_batch(bundle, open_batch(tmp_path / "rows.parquet"), tmp_path / "out")


def test_two_at_once_give_one_result(bundle, gold, tmp_path):
    gold.head(600).write_parquet(tmp_path / "rows.parquet")
    both = [start(bundle, tmp_path / "rows.parquet", tmp_path / "out", 0.05) for _ in range(2)]
    lines = [process.communicate(timeout=60)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert lines[0][-1] == lines[1][-1] and sum(len(told) - 1 for told in lines) == 6  # No piece twice


def test_rows_are_collected_by_share_mask_and_room(bundle, gold, tmp_path, small):
    gold.head(900).write_parquet(tmp_path / "rows.parquet")
    table = open_batch(tmp_path / "rows.parquet")
    score_batch(bundle, table, tmp_path / "out", share=0.5, mask=["carrier"])
    rows, _ = read_collected(tmp_path / "out")
    found = read_table(tmp_path / "out" / "predictions")
    assert 200 < len(rows) < 700 and {*rows["request_id"]} < {*found["request_id"]} and "carrier" not in rows.columns
    joined = rows.join(found.with_columns(row=pl.int_range(pl.len()).over("request_id")), on=["request_id", "row"])
    assert len(joined) == len(rows) and (joined["prediction_True"] == joined["prediction_True_right"]).all()
    said = score_batch(bundle, table, tmp_path / "out", most_mib=0.3)
    size = sum(file.stat().st_size for file in (tmp_path / "out" / "collected").rglob("*.jsonl"))
    assert 0 < said["collected"] < 900 == said["scored"] and size <= 0.3 * 2**20
    assert len(read_collected(tmp_path / "out")[0]) == said["collected"]
    score_batch(bundle, table, tmp_path / "out", share=0.0)
    assert not (tmp_path / "out" / "collected").exists()


def test_a_full_disk_is_said_and_the_run_goes_on(bundle, gold, tmp_path, small):
    gold.head(300).write_parquet(tmp_path / "rows.parquet")
    table, (soft, hard) = open_batch(tmp_path / "rows.parquet"), resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
        with pytest.raises(StoreError, match="cannot write"):
            score_batch(bundle, table, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert score_batch(bundle, table, tmp_path / "out")["scored"] == 300


PEAK = """
import resource, sys
from pathlib import Path
from mlops_kit.deployment.inference.batch import score_batch
from mlops_kit.deployment.inference.batch_rows import open_batch
score_batch(Path(sys.argv[1]), open_batch(Path(sys.argv[2])), Path(sys.argv[3]), share=0.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_table(bundle, gold, tmp_path):
    peaks = []
    for times in (60, 240):
        pl.concat([gold.head(1000)] * times).write_parquet(tmp_path / "rows.parquet", row_group_size=20_000)
        words = [sys.executable, "-c", PEAK, str(bundle), str(tmp_path / "rows.parquet"), str(tmp_path / "out")]
        peaks.append(int(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    assert peaks[1] < peaks[0] + 80, peaks  # MiB; all 240,000 rows as lists would be 500 more


SETTINGS = "[DEFAULT]\ntracking_uri = sqlite:///mlflow.db\n\n[deploy]\ncollect = 0.5\n"
REGISTER = (
    "from mlops_kit.tracking import register_package as r; from pathlib import Path; import sys; r(Path(sys.argv[1]))"
)


@pytest.mark.slow
def test_the_command_scores_a_registered_version(gold, tmp_path):
    root = tmp_path / "project"
    root.mkdir()
    (root / "settings.ini").write_text(SETTINGS)
    (root / "pyproject.toml").write_text('[tool.nbdev]\nlib_path = "toy"\n')
    shutil.copytree(path("samples/package"), tmp_path / "package")
    gold.head(40).write_csv(root / "rows.csv")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MLOPS_KIT")}
    env = clean | {"MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}", "MLOPS_KIT_ROOT": str(root)}
    subprocess.run([sys.executable, "-c", REGISTER, str(tmp_path / "package")], env=env, cwd=root, check=True)

    def score(*words: str) -> subprocess.CompletedProcess:
        typed = [COMMAND, "score", "flights", *words, "--out", "scored", "--json"]
        return subprocess.run(typed, cwd=root, env=clean, capture_output=True, text=True)

    done = score("rows.csv", "--version", "challenger", "--keep", "carrier")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["scored"] == 40 and said["version"] == "1" and len(read_table(root / "scored" / "predictions")) == 40
    (kept,) = (root / "runs" / "dev" / "bundles").glob("[0-9a-f]*")
    with open(kept / "bundle" / "model" / "model.txt", "a") as stream:
        stream.write(" ")
    assert json.loads(score("rows.csv", "--version", "1").stdout)["scored"] == 40  # The copy was made anew
    with open(next((root / "runs").glob("**/registry/**/model.txt")), "a") as stream:
        stream.write(" ")
    done = score("rows.csv", "--version", "1")
    assert done.returncode == 2 and "not the one that was registered" in done.stderr and "Traceback" not in done.stderr
