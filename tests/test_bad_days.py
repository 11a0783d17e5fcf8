"""Bad days of an endpoint, under a steady load of real flights: the champion serves on, and the cause is told.

Every request of the load should be answered; one that is not fails the test. The bundles are bad by real means and
signed as any other. What an endpoint is told to be is what settings give a new one: one worker, the default limits.
"""

import asyncio
import json
import os
import re
import signal
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

from mlops_kit.deployment.client import ask
from mlops_kit.deployment.collected import read_collected
from mlops_kit.deployment.endpoint import endpoint_status, read_evidence
from mlops_kit.deployment.keys import read_keys
from mlops_kit.deployment.release_page import release_page
from mlops_kit.deployment.release_record import open_record
from mlops_kit.deployment.replay import as_requests
from mlops_kit.deployment.rollout import release, roll_back
from mlops_kit.deployment.state import LIMITS, add_deployment, change_endpoint, read_endpoint

RATE, LEAST = 125.0, 250  # Requests a second; requests of one day, at least


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
        began, tasks = time.monotonic(), []
        line, most = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=60)
        async with aiohttp.ClientSession(headers=self.headers, connector=line, timeout=most) as session:
            for body in cycle(self.bodies):
                if self.enough.is_set():
                    break
                tasks.append(asyncio.create_task(self.ask(session, body)))
                await asyncio.sleep(began + len(tasks) / RATE - time.monotonic())
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


@pytest.fixture(scope="module")
def versions(tmp_path_factory) -> Versions:
    return Versions(tmp_path_factory.mktemp("versions"))


@pytest.fixture(scope="module")
def serves(versions, tmp_path_factory) -> Iterator[Path]:
    """An endpoint that serves version 7, with the limits that settings give."""
    with endpoint(tmp_path_factory.mktemp("home"), versions.trusted) as place:
        with change_endpoint(place) as state:
            state["limits"] = LIMITS
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


@pytest.mark.slow
def test_a_model_that_never_comes_to_an_end(place, versions):
    record = stopped(place, versions, endless, rules={"shadow": 0, "least_requests": 2000, "canary": [5, 100]})
    assert record["stage"] == "canary 5%" and "failed" in record["reason"]


def test_a_slow_model(place, versions):
    slow = {"shadow": 0, "latency_ms_at_most": 250.0, "latency_ratio_at_most": 2.0}
    record = stopped(place, versions, idle_trees, rules=slow, together=20)
    assert record["stage"] == "canary 30%" and "latency" in record["reason"]


def test_a_model_that_answers_with_no_number(place, versions):
    record = stopped(place, versions, not_finite, rules={"shadow": 0, "least_requests": 2000})
    assert record["stage"] == "canary 30%" and "no number" in record["reason"]


def test_predictions_shifted_by_a_fifth(place, versions):
    record = stopped(place, versions, shifted, rules={"shadow": 0, "least_requests": 400})
    assert record["stage"] == "canary 30%" and "scores" in record["reason"]
