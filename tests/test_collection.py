"""Collection on bad days: killed processes, full disks, removed folders; a request is kept whole, or counted."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from endpoint_fixture import GOLDEN, PACKAGE, ROWS, kill_all, new_endpoint, score, write_bundle

from mlops_kit.deployment.endpoint.lifecycle import await_ready, start_endpoint, stop_endpoint
from mlops_kit.deployment.endpoint.state import add_deployment, set_traffic
from mlops_kit.deployment.inference.collected import list_collected, read_collected
from mlops_kit.deployment.inference.collector import INPUTS, OUTPUTS, Collector
from mlops_kit.deployment.inference.collector_disk import read_counters, remove_oldest

NAMES = ["carrier", "distance", "temp"]
SCORES = np.array([[0.25, 0.75]])
# The keys of a line of custom logging, as the page documents them: https://learn.microsoft.com/azure/machine-learning/how-to-collect-production-data
DOCUMENTED = {
    "specversion": "1.0",
    "id": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "source": r".*/onlineEndpoints/trains/deployments/blue",
    "type": r"azureml\.inference\.model_(inputs|outputs)",
    "datacontenttype": "application/json",
    "time": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z",
    "data": None,
    "correlationid": r".+",
    "xrequestid": r".+",
    "modelversion": r".+",
    "collectdatatype": r"pandas\.core\.frame\.DataFrame",
    "agent": r".+",
    "contentrange": r"bytes 0-\d+/\d+",
}
BUSY = """
import sys, time
from pathlib import Path
import numpy as np
from mlops_kit.deployment.inference.collector import Collector
place, who, rate, number = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
collector = Collector(place / "collected", place.name, "blue", "7")
for count in range(number):
    collector.collect(f"{who}-{count}-{time.time()}", ["carrier", "distance", "temp"],
                      [["UA", count, None]], ["no", "yes"], np.array([[0.25, 0.75]]))
    print(count, flush=True)
    time.sleep(1 / rate)
collector.close()
"""
FULL = """
import os, sys, time
from pathlib import Path
import numpy as np
from mlops_kit.deployment.inference.collector import Collector
place, filler = Path(sys.argv[1]), Path(sys.argv[2])
collector = Collector(place / "collected", place.name, "blue", "7")
def send(first, last):
    for count in range(first, last):
        collector.collect(f"r-{count}", ["carrier", "distance", "temp"], [["UA" * 20, count, None]], ["no", "yes"],
                          np.array([[0.25, 0.75]]))
        if count % 50 == 49:
            collector._write()
send(0, 1000)
told = collector.stats()
assert told["written"] and told["dropped"] and "No space left" in told["cause"], told
filler.unlink()
send(1000, 1200)
collector._write()
assert not collector.cause and collector.stats()["dropped"] == told["dropped"], collector.stats()
collector.close()
"""


def ask(collector: Collector, identity: str, rows: int = 1, names: list | None = NAMES) -> None:
    values = [["UA", number, None] for number in range(rows)]
    collector.collect(identity, names, values, ["no", "yes"], np.repeat(SCORES, rows, axis=0))


@pytest.fixture
def place(tmp_path) -> Path:
    "Folder of an endpoint."
    return tmp_path / "trains"


@pytest.fixture
def opened(place):
    "Open collectors; they are closed at the end."
    made = []

    def make(deployment: str = "blue", **how) -> Collector:
        made.append(Collector(place / "collected", "trains", deployment, "7", **how))
        return made[-1]

    yield make
    for collector in made:
        collector.close()


@pytest.fixture
def quick_switches():
    "Let threads take turns as often as Python can."
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def lines_of(place: Path) -> list[bytes]:
    return [line for file in place.rglob("*.jsonl") for line in file.read_bytes().splitlines()]


def test_lines_have_the_form_that_is_documented(place, opened):
    collector = opened()
    ask(collector, "3711655d-b04c-4aa2-a6c4-6a90cbfcb73f", rows=3)
    collector.close()
    for file in place.rglob("*.jsonl"):
        form = r"collected/trains/blue/model_(inputs|outputs)/\d{4}/\d\d/\d\d/\d\d/[0-9a-f-]{36}\.jsonl"
        assert re.fullmatch(form, file.relative_to(place).as_posix())
        line = json.loads(file.read_bytes())
        assert line.keys() == DOCUMENTED.keys()
        assert all(form is None or re.fullmatch(form, line[name]) for name, form in DOCUMENTED.items())
        length = len(json.dumps(line["data"], separators=(",", ":")))
        assert len(line["data"]) == 3 and line["contentrange"] == f"bytes 0-{length - 1}/{length}"


def test_any_value_and_any_id_is_one_valid_line(place, opened):
    collector = opened()
    odd = ["../../x", 'a"b\\c\n{"time":"now"}', "é漢\u2028", "x" * 5000]
    for identity in odd:
        values = [[float("nan"), float("inf"), "line\nbreak\r\u2028"]]
        collector.collect(identity, NAMES, values, ["no", "yes"], np.array([[np.nan, -np.inf]]))
    collector.close()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    said = [json.loads(line, parse_constant=refuse) for line in lines_of(place)]
    assert len(said) == 2 * len(odd) and {line["correlationid"] for line in said} == {*odd}
    table, told = read_collected(place)
    assert {*table["request_id"]} == {*odd} and not told["broken"] and table["prediction_yes"].null_count() == len(odd)


def test_no_masked_value_reaches_the_disk(place, opened):
    collector = opened(mask=["carrier"])
    collector.collect("r-1", NAMES, [["SECRET-1", 2, 3.5]], ["no", "yes"], SCORES)
    collector.collect("r-2", NAMES, [["SECRET-2", object(), 3.5]], ["no", "yes"], SCORES)  # What is no JSON is shown
    collector.collect("r-3", NAMES, [["SECRET-3", 2]], ["no", "yes"], SCORES)  # Cannot be written
    collector.close()
    assert collector.stats()["written"] == 2 and collector.stats()["dropped"] == 1
    assert b"SECRET" not in b"".join(file.read_bytes() for file in place.rglob("*") if file.is_file())
    assert "SECRET" not in str(collector.stats())
    assert "carrier" not in read_collected(place)[0].columns


def test_rows_without_names_keep_the_mask(place, opened):
    collector = opened(mask=["carrier"], names=NAMES)
    ask(collector, "r-1", names=None)
    collector.close()
    assert json.loads(next(line for line in lines_of(place) if b"model_inputs" in line))["data"] == [
        {"distance": 0, "temp": None}
    ]
    unsure = opened("green", mask=["carrier"])
    ask(unsure, "r-2", names=None)
    unsure.close()
    assert unsure.stats()["dropped"] == 1 and "no names" in unsure.cause


def test_two_deployments_keep_the_same_requests(place, opened):
    blue, green = opened("blue", share=0.3), opened("green", share=0.3)
    for number in range(1000):
        ask(blue, f"order-{number}")
        ask(green, f"order-{number}")
    blue.close()
    green.close()
    table, told = read_collected(place)
    kept = {name: {*table.filter(pl.col("deployment") == name)["request_id"]} for name in ("blue", "green")}
    assert kept["blue"] == kept["green"] and 240 < len(kept["blue"]) < 360
    assert told["accepted"] == 2000 == told["sampled_out"] + told["requests"]


def test_threads_lose_no_count(place, opened, quick_switches):
    collector = opened()
    threads = [
        threading.Thread(target=lambda who=who: [ask(collector, f"{who}-{number}") for number in range(500)])
        for who in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    collector.close()
    told = read_collected(place)[1]
    assert told["accepted"] == told["written"] + told["dropped"] == 4000 and told["requests"] == told["written"]


def test_more_than_can_be_written_is_dropped_and_counted(place, opened):
    collector = opened()
    collector.files.write = lambda contents: time.sleep(0.3) or 0  # A slow disk
    for number in range(60):
        ask(collector, f"r-{number}", rows=1000)
    told = collector.stats()
    assert told["dropped"] >= 20 and "faster" in told["cause"]
    collector.close()
    told = collector.stats()
    assert told["accepted"] == told["written"] + told["dropped"] == 60
    ask(collector, "late")
    assert collector.stats()["dropped"] == told["dropped"] + 1 and "closed" in collector.cause


def test_a_killed_process_loses_a_second_at_most_and_it_is_counted(place):
    sent = 0
    for who in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", BUSY, str(place), str(who), "300", "100000"], stdout=subprocess.PIPE, text=True
        )
        try:
            for line in process.stdout:
                if int(line) >= 250 + 60 * who:
                    break
        finally:
            died = time.time()
            process.send_signal(signal.SIGKILL)
            rest = process.communicate()[0]
        sent += int((rest.split() or [line])[-1]) + 1
        table, told = read_collected(place)
        mine = table.filter(pl.col("request_id").str.starts_with(f"{who}-"))["request_id"]
        assert died - max(float(name.rpartition("-")[2]) for name in mine) < 2  # Seconds
    assert told["waiting"] == told["dropped"] == 0 and told["lost"] + told["requests"] == told["accepted"]
    assert sent <= told["accepted"] <= sent + 4  # A process may die between counting a request and saying so
    assert told["lost"] > 0 and told["requests"] == len(table)


def test_what_was_written_before_it_was_counted_is_not_lost(place, opened):
    collector = opened()
    real = collector.counters.add
    collector.counters.add = lambda name, number=1: None if name == "written" else real(name, number)
    for number in range(5):
        ask(collector, f"r-{number}")
    collector.close()  # Its counters say now what those of a process say that died between the two
    assert read_counters(place / "collected" / "trains" / "blue")["lost"] == 5
    told = read_collected(place)[1]
    assert told["requests"] == told["accepted"] == 5 and told["lost"] == 0


def test_processes_of_one_deployment_never_mix(place):
    processes = [
        subprocess.Popen([sys.executable, "-c", BUSY, str(place), str(who), "2000", "300"], stdout=subprocess.DEVNULL)
        for who in range(3)
    ]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    table, told = read_collected(place)
    assert told["requests"] == told["accepted"] == 900 and table["request_id"].n_unique() == 900
    assert not told["lost"] and not told["waiting"] and not told["broken"]


def test_what_waits_in_a_living_process_is_not_lost(place, opened):
    collector = opened()
    collector.files.write = lambda contents: time.sleep(60) or 0
    ask(collector, "r-1")
    told = read_counters(place / "collected" / "trains" / "blue")
    assert told["waiting"] == 1 and told["lost"] == 0
    collector.files.write = lambda contents: 0


def test_a_full_disk_leaves_no_half_line_and_is_overcome(place, tmp_path):
    inside = f"mount -t tmpfs -o size=400k none {tmp_path} && head -c 200000 /dev/zero > {tmp_path}/filler"
    command = f"{inside} && {sys.executable} -c '{FULL}' {place} {tmp_path}/filler && cp -r {place} $KEPT"
    kept = tmp_path.parent / f"{tmp_path.name}-kept"
    if subprocess.run(["unshare", "-rm", "sh", "-c", inside], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    command = command.replace("'" + FULL + "'", '"$CODE"')
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command],
        env=os.environ | {"CODE": FULL, "KEPT": str(kept)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = kept
    shutil.move(found, place)
    table, told = read_collected(place)
    assert told["requests"] == told["written"] == len(table) and not told["broken"] and not told["unpaired"]
    assert told["accepted"] == 1200 == told["written"] + told["dropped"] and "r-1199" in table["request_id"]


def test_a_write_that_is_cut_short_is_taken_back(place, opened):
    collector, (soft, hard) = opened(), resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        for number in range(300):
            ask(collector, f"r-{number}")
            collector._write() if number % 30 == 29 else None
        told = collector.stats()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert told["dropped"] and "File too large" in told["cause"]
    ask(collector, "later")
    collector.close()
    table, found = read_collected(place)
    assert not found["broken"] and not found["unpaired"] and "later" in table["request_id"]
    assert found["requests"] == found["written"] == 301 - found["dropped"]


def test_a_folder_that_somebody_removes_comes_back(place, opened):
    collector = opened()
    ask(collector, "r-1")
    collector._write()
    shutil.rmtree(place / "collected" / "trains" / "blue" / INPUTS)
    ask(collector, "r-2")
    collector.close()
    assert read_collected(place)[0]["request_id"].to_list() == ["r-2"] and not collector.cause


def test_the_oldest_goes_and_is_counted(place, opened):
    blue, green, most = opened("blue", most_mib=1), opened("green", most_mib=1), 0
    for number in range(160):
        for collector in (blue, green):
            for count in range(10):
                ask(collector, f"{number}-{count}", rows=4)
            collector._write()
        most = max(most, sum(file.stat().st_size for file in place.rglob("*.jsonl")))
    blue.close()
    green.close()
    table, told = read_collected(place)
    assert 0.5 * 2**20 < most <= 2**20 and told["removed"] > 500 and not told["unpaired"]
    assert told["accepted"] == 3200 == told["requests"] + told["removed"] and not told["lost"]
    assert "159-9" in table["request_id"] and "0-0" not in table["request_id"]


def test_a_new_hour_is_a_new_folder(place, opened, monkeypatch):
    collector, real = opened(), time.gmtime
    for hours in range(3):
        monkeypatch.setattr(time, "gmtime", lambda hours=hours: real(1378000000 + 3600 * hours))
        ask(collector, f"r-{hours}")
        collector._write()
    collector.close()
    assert len(list(place.rglob("*.jsonl"))) == 6
    assert [*list_collected(place)] == ["2013-09-01"] and len(read_collected(place)[0]) == 3


@pytest.fixture
def filled(place) -> Path:
    "An endpoint that has collected 200 requests."
    collector = Collector(place / "collected", "trains", "blue", "7")
    for number in range(200):
        ask(collector, f"r-{number}", rows=2)
    collector.close()
    return place


def test_damage_is_passed_over_and_counted(filled):
    chance = random.Random(7)
    files = {file: file.read_bytes() for file in filled.rglob("*.jsonl")}
    for _ in range(60):
        for file, content in files.items():
            file.write_bytes(content)
        file, content = chance.choice([*files.items()])
        start, end = sorted(chance.choices(range(len(content)), k=2))
        damage = chance.choice(
            [content[:start], content[:start] + content[end:], content[:start] + b"\0" * 40 + content[start:]]
        )
        file.write_bytes(
            chance.choice([damage, damage + b'7\n"word"\n[]\n{}\n{"time":"x","data":[1],"correlationid":"y"}\n'])
        )
        table, told = read_collected(filled)
        assert len(table) == 2 * told["requests"] <= 400 and told["lost"] == 0
        assert table["request_id"].n_unique() == told["requests"]


def test_a_file_that_grows_is_read_as_far_as_it_was(filled):
    before = list_collected(filled)
    more = Collector(filled / "collected", "trains", "blue", "7")
    ask(more, "later")
    more.close()
    assert list_collected(filled) != before and remove_oldest(filled / "collected" / "trains", 10**9) == 0
    assert {name for files in before.values() for name, _ in files} < {
        name for files in list_collected(filled).values() for name, _ in files
    }


@pytest.mark.parametrize(
    "labels",
    [
        ['{"at": 1, "request_id": "r-3", "label": true}', '{"at": 2, "request_id": "r-4", "label": [false, true]}'],
        [
            '{"at": 9, "request_id": "r-3", "label": "late"}',
            '{"at": 2, "request_id": "r-4", "label": 7}',
            "7",
            '{"half',
        ],
    ],
)
def test_labels_of_any_kind_find_their_rows(filled, labels):
    (filled / "labels").mkdir()
    (filled / "labels" / "labels.jsonl").write_text("\n".join(labels))
    (filled / "labels" / "labels.jsonl.1").write_text('{"at": 0, "request_id": "r-3", "label": 0}\n')  # Rotated: older
    table = read_collected(filled)[0].sort("request_id", "row")
    found = {name: table.filter(pl.col("request_id") == name)["label"].to_list() for name in ("r-3", "r-4", "r-5")}
    first = [json.loads(line)["label"] for line in labels[:2]]
    plain = [*map(str, found["r-3"] + found["r-4"])]
    wanted = [first[0], first[0], *(first[1] if isinstance(first[1], list) else [first[1]] * 2)]
    assert [word.lower() for word in plain] == [str(label).lower() for label in wanted] and found["r-5"] == [None, None]


def test_an_id_that_comes_again_is_another_call(place, opened):
    blue, green = opened("blue"), opened("green")
    for rows in (1, 2, 3):
        ask(blue, "probe", rows)
        ask(green, "probe", rows)
        time.sleep(0.002)
    blue.close()
    green.close()
    table = read_collected(place)[0]
    assert len(table) == 12 and len(table.select("day", "deployment", "request_id", "call", "row").unique()) == 12
    assert table.group_by("deployment", "call").len().sort("call")["len"].to_list() == [1, 1, 2, 2, 3, 3]


def test_outputs_and_inputs_share_a_file_name(filled):
    names = [{file.name for file in filled.rglob(f"{side}/**/*.jsonl")} for side in (INPUTS, OUTPUTS)]
    assert names[0] == names[1] and len(names[0]) == 1


@pytest.mark.slow
def test_an_endpoint_keeps_what_it_answers_and_counts_what_was_killed(tmp_path):
    place = new_endpoint(tmp_path, collect={"share": 1.0, "most_mib": 8, "mask": ["carrier"]})
    add_deployment(place, "blue", write_bundle(tmp_path, "7"), workers=2)
    set_traffic(place, {"blue": 100})
    names = [column["name"] for column in json.loads((PACKAGE / "signature.json").read_text())["inputs"]]
    values = [[row[name] for name in names] for row in ROWS[:3]]
    forms = [ROWS[:3], {"dataframe_split": {"columns": names, "data": values}}, {"inputs": values}]
    wanted, answers = [expected[-1] for expected in GOLDEN["expected"][:3]], 0
    try:
        for _ in range(2):
            start_endpoint(place)
            await_ready(place, "blue")
            for number in range(60):
                answers += score(place, forms[number % 3]).status == 200
            time.sleep(1)
            for _ in range(30):
                answers += score(place, forms[0]).status == 200
            kill_all(place)
        start_endpoint(place)
        await_ready(place, "blue")
        answers += score(place, forms[0]).status == 200
        stop_endpoint(place)
    finally:
        kill_all(place)
    table, told = read_collected(place)
    assert answers == told["accepted"] == told["requests"] + told["lost"] == 181 and told["lost"] <= 60
    assert told["waiting"] == told["dropped"] == told["broken"] == told["unpaired"] == 0
    assert len(table) == 3 * told["requests"] and "carrier" not in table.columns
    found = table.sort("at", "request_id", "row")["prediction_True"].to_list()
    assert found == wanted * told["requests"] and table["distance"].dtype == pl.Int64
