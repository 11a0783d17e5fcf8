"""Bad days of an endpoint, under a steady load of real flights: the champion serves on, and the cause is told.

Every request of the load should be answered; one that is not fails the test. The bundles are bad by real means and
signed as any other. Every deployment has one worker, and what is to be limited has the limits that settings give.
"""

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path

import aiohttp
import pytest
from bad_models import deadly, endless, idle_trees
from endpoint_fixture import kill, pids, until
from released import (
    QUICK,
    Versions,
    endpoint,
    not_finite,
    real_rows,
    running,
    serving,
    shifted,
    slightly_other,
    truncated,
)

from mlops_kit.deployment.endpoint.client import ask
from mlops_kit.deployment.endpoint.keys import read_keys
from mlops_kit.deployment.endpoint.lifecycle import endpoint_status, read_evidence
from mlops_kit.deployment.endpoint.state import LIMITS, change_endpoint, read_endpoint
from mlops_kit.deployment.releases.release_page import release_page
from mlops_kit.deployment.releases.release_record import open_record
from mlops_kit.deployment.releases.replay import as_requests
from mlops_kit.deployment.releases.rollout import release, roll_back

RATE, LEAST = 125.0, 250  # Requests a second; requests of one day, at least
LATE = 0.1  # Seconds that are caught up with

pytestmark = pytest.mark.slow  # A minute and a half in all


class Flights(threading.Thread):
    """Clients that ask for real flights at a steady rate, however long the answers take."""

    def __init__(self, place: Path, together: int = 1, key: str = ""):
        super().__init__(daemon=True)
        self.url = "http://{host}:{port}/score".format(**read_endpoint(place))
        key = key or read_keys(place)["primary"]
        self.headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        self.bodies, self.enough = [*as_requests(real_rows(), together)], threading.Event()
        self.answers: list[tuple[int, str, bytes]] = []  # Status, 0 for a broken connection; version; body

    def run(self) -> None:
        asyncio.run(self.send())

    async def send(self) -> None:
        due, tasks = time.monotonic(), []
        line, most = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(headers=self.headers, connector=line, timeout=most) as session:
            for body in cycle(self.bodies):
                if self.enough.is_set():
                    break
                tasks.append(asyncio.create_task(self.ask(session, body)))
                due += 1 / RATE
                due = max(due, time.monotonic() - LATE)  # A client that was held up itself sends no burst
                await asyncio.sleep(due - time.monotonic())
            await asyncio.gather(*tasks)

    async def ask(self, session: aiohttp.ClientSession, body: bytes) -> None:
        try:
            async with session.post(self.url, data=body) as answer:
                self.answers.append((answer.status, answer.headers.get("x-model-version", ""), await answer.read()))
        except (aiohttp.ClientError, TimeoutError) as error:
            self.answers.append((0, "", repr(error).encode()))

    @property
    def lost(self) -> Counter:
        """What came instead of a score."""
        return Counter((status, body[:200]) for status, _, body in self.answers if status != 200)

    @property
    def versions(self) -> set[str]:
        return {version for status, version, _ in self.answers if status == 200}


@contextmanager
def flights(place: Path, **how) -> Iterator[Flights]:
    """Ask for flights before, while and after the block does something."""
    clients = Flights(place, **how)
    clients.start()
    try:
        assert until(lambda: len(clients.answers) > 20)
        yield clients
        assert until(lambda: len(clients.answers) >= LEAST)
    finally:
        clients.enough.set()
        clients.join(60)


@contextmanager
def limited(place: Path, **limits) -> Iterator[None]:
    """Let an endpoint have the limits that settings give, or others, while the block runs."""

    def change(found: dict) -> dict:
        with change_endpoint(place) as state:
            before, state["limits"] = state["limits"], found
        time.sleep(0.3)  # The front follows
        return before

    before = change(LIMITS | limits)
    try:
        yield
    finally:
        change(before)


@pytest.fixture(scope="module")
def versions(tmp_path_factory) -> Versions:
    return Versions(tmp_path_factory.mktemp("versions"))


@pytest.fixture(scope="module")
def serves(versions, tmp_path_factory) -> Iterator[Path]:
    """An endpoint that serves version 7."""
    with endpoint(tmp_path_factory.mktemp("home"), versions.trusted) as place:
        assert released(place, versions, versions.make("7"))["state"] == "promoted"
        yield place


@pytest.fixture
def place(serves) -> Iterator[Path]:
    """The champion serves before and after every day, and nobody else."""
    yield serves
    left = open_record(serves), serving(serves), ask(serves, body=real_rows().head(1).to_dicts())
    if left[:2] != (None, {"7": 100}):
        roll_back(serves, "Ada", "the next day")
    assert left[:2] == (None, {"7": 100}) and left[2].headers["x-model-version"] == "7"


def released(place: Path, versions: Versions, bundle: Path, **rules) -> dict:
    """Release without a word."""
    return release(place, bundle, QUICK | rules, "Ada", trusted=versions.trusted, tell=lambda _: None)


def stopped(
    place: Path, versions: Versions, change: Callable, golden: bool = True, rules=None, together: int = 1
) -> dict:
    """Release a bad version while flights are asked for; no client notices, and the report says why."""
    bundle = versions.make(change.__name__, change, golden)
    with flights(place, together=together) as clients:
        record = released(place, versions, bundle, **(rules or {}))
    assert record["state"] in ("rolled back", "refused"), record["reason"]
    assert not clients.lost and "7" in clients.versions, clients.lost
    assert serving(place) == {"7": 100} and b"NaN" not in b"".join(body for *_, body in clients.answers)
    page = release_page(record)
    assert "version 7 serves" in page and record["reason"][1:40] in page
    return record


def test_blue_to_green_and_back_fails_no_request(place, versions):
    bundle = versions.make("8", slightly_other)
    with flights(place) as clients:
        record = released(place, versions, bundle, canary=[100], shadow=0)
        assert record["state"] == "promoted" and serving(place) == {"8": 100}, record["reason"]
        assert until(lambda: "8" in clients.versions)
        roll_back(place, "Ada", "to be seen")
        time.sleep(0.3)  # The front follows
    assert not clients.lost and clients.versions == {"7", "8"} and clients.answers[-1][1] == "7"


def test_a_bundle_that_crashes_on_load(place, versions):
    record = stopped(place, versions, truncated, golden=False)
    assert record["stage"] == "start" and re.search("ended (by|with)", record["reason"])


def test_a_model_that_takes_its_process_down_with_some_flights(place, versions):
    record = stopped(place, versions, deadly, rules={"shadow": 2000})
    assert record["stage"] == "shadow" and "ended by SIGSEGV" in record["reason"]


def test_a_model_that_takes_its_process_down_with_clients_waiting(place, versions):
    record = stopped(place, versions, deadly, rules={"shadow": 0, "least_requests": 2000})
    assert record["stage"] == "canary 30%" and "ended by SIGSEGV" in record["reason"]


def test_a_model_that_never_comes_to_an_end(place, versions):
    with limited(place):
        record = stopped(place, versions, endless, rules={"shadow": 0, "least_requests": 2000})
    assert record["stage"] == "canary 30%" and "failed" in record["reason"]


def test_a_slow_model(place, versions):
    slow = {"shadow": 0, "latency_ms_at_most": 250.0, "latency_ratio_at_most": 2.0}
    record = stopped(place, versions, idle_trees, rules=slow, together=20)
    assert record["stage"] == "canary 30%"
    assert "slowdown failed" in record["reason"] or "latency failed" in record["reason"]  # Whichever bar it meets first


def test_a_model_that_answers_with_no_number(place, versions):
    record = stopped(place, versions, not_finite, rules={"shadow": 0, "least_requests": 2000})
    assert record["stage"] == "canary 30%" and "no number" in record["reason"]


def test_predictions_shifted_by_a_fifth(place, versions):
    record = stopped(place, versions, shifted, rules={"shadow": 0, "least_requests": 400})
    assert record["stage"] == "canary 30%" and "scores" in record["reason"]


@pytest.mark.parametrize("file", ["bundle/model/model.txt", "bundle/manifest.json", "bundle.sig"])
def test_a_bundle_with_one_byte_changed(file, place, versions):
    changed = versions.make("8", slightly_other) / file
    whole = changed.read_bytes()
    middle = len(whole) // 2
    with flights(place) as clients:
        try:
            changed.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
            record = released(place, versions, changed.parents[len(Path(file).parts) - 1])
        finally:
            changed.write_bytes(whole)
    assert (record["state"], record["stage"]) == ("refused", "verify") and not clients.lost and running(place) == {"7"}
    assert Path(file).name in record["reason"] and Path(file).name in release_page(record), record["reason"]


def test_a_worker_killed_every_second(place):
    before = endpoint_status(place)["deployments"][champion(place)]["restarts"]
    with flights(place) as clients:
        for _ in range(4):
            (worker,) = pids(place, champion(place))
            kill(worker)
            time.sleep(1)
            assert until(lambda worker=worker: pids(place, champion(place)) not in ([], [worker]))
    told = endpoint_status(place)["deployments"][champion(place)]
    assert not clients.lost and told["restarts"] == before + 4, clients.lost
    assert told["last_words"] == "ended by SIGKILL" and told["ready"]


def champion(place: Path) -> str:
    return next(iter(read_endpoint(place)["traffic"]))


def connect(place: Path, sent: bytes) -> socket.socket:
    state, key = read_endpoint(place), read_keys(place)["primary"].encode()
    line = socket.create_connection((state["host"], state["port"]), timeout=20)
    line.sendall(sent.replace(b"KEY", key))
    return line


HALF = b"POST /score HTTP/1.1\r\nhost: x\r\nauthorization: Bearer KEY\r\ncontent-length: 90\r\n\r\n"
HALF += b'{"dataframe_records": ['


def logged(place: Path) -> list[dict]:
    """Read what the front wrote down about requests."""
    file = place / "logs/front.log"  # It comes with the first request
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def count_code(place: Path, code: str) -> int:
    return sum(line.get("code") == code for line in logged(place))


def test_clients_that_send_half_a_body_and_wait(place):
    before = count_code(place, "too_slow")
    with limited(place, timeout=2.0), flights(place) as clients:
        waiting = [connect(place, HALF) for _ in range(64)]  # As many as requests may be under way
        said = [b"".join(iter(lambda line=line: line.recv(4096), b"")) for line in waiting]  # Until it is closed
        for line in waiting:
            line.close()
    assert all(b" 408 " in words and b"not there after 2 s" in words for words in said) and not clients.lost
    assert until(lambda: count_code(place, "too_slow") == before + 64), "the log names the cause"


@pytest.mark.parametrize("sent", [b"", b"POST /sc", HALF])
def test_two_hundred_connections_that_are_held(sent, place):
    with flights(place) as clients:
        held = [connect(place, sent) for _ in range(200)]
        served = len(clients.answers)
        assert until(lambda: len(clients.answers) > served + 100)
        for line in held:
            line.close()
    assert not clients.lost, clients.lost


def test_a_wrong_key(place):
    before, answered = read_evidence(place), count_code(place, "wrong_key")
    with flights(place) as clients, flights(place, key="wrong") as strangers:
        pass
    assert not clients.lost and {status for status, *_ in strangers.answers} == {401}
    refused, after = len(strangers.answers), read_evidence(place)
    assert after["turned_away"]["unauthorised"] == before["turned_away"]["unauthorised"] + refused
    assert until(lambda: count_code(place, "wrong_key") == answered + refused), "the log names the cause"
    errors = [told["deployments"][champion(place)]["errors"] for told in (before, after)]
    assert errors[0] == errors[1], "a stranger's request is no error of the model"


def test_a_disk_that_is_full(tmp_path):
    home, script = tmp_path / "home", Path(__file__).parent / "full_disk.py"
    home.mkdir()
    (tmp_path / "versions").mkdir()
    own_disk = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=100m none "$0" && exec "$@"', str(home)]
    if subprocess.run([*own_disk, "true"], capture_output=True).returncode:
        pytest.skip("no file system can be mounted here, so that none can be filled")
    done = subprocess.run(
        [*own_disk, sys.executable, script, home, tmp_path / "versions"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert not seen["lost"] and seen["serving"] == {"7": 100} and seen["answers"] > LEAST, seen["lost"]
    assert "No space left on device" in seen["release"] and "Free space" in seen["release"]
    assert "the disk is full" in seen["status"] and "not collected" in seen["status"], seen["status"]
    assert "not_collected" in seen["log"] and "No space left on device" in seen["log"]
    told = seen["collected"]
    assert told["dropped"] and told["accepted"] == told["written"] + told["dropped"] + told["lost"]
    assert told["requests"] == told["written"] > 150 and not told["broken"], "it is collected again"
