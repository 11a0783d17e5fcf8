"""Small bundles, an endpoint of real processes on loopback, and clients that ask it all the time."""

import asyncio
import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import aiohttp
import psutil

from mlops_kit.deployment.endpoint.client import ask
from mlops_kit.deployment.endpoint.keys import make_keys, read_keys
from mlops_kit.deployment.endpoint.lifecycle import list_processes
from mlops_kit.deployment.endpoint.state import make_endpoint, process_mark, read_endpoint
from mlops_kit.project import hash_file

PACKAGE = Path(__file__).parents[1] / "samples" / "package"
GOLDEN = json.loads((PACKAGE / "golden.json").read_text())
ROWS = GOLDEN["rows"]


def write_bundle(folder: Path, version: str, change: Callable[[Path], None] = lambda model: None) -> Path:
    """Write a bundle of the sample model; `change` may edit its files before they are listed."""
    bundle = folder / version / "bundle"
    shutil.copytree(PACKAGE, bundle / "model")
    change(bundle / "model")
    files = {str(file.relative_to(bundle)): file for file in sorted(bundle.rglob("*")) if file.is_file()}
    listed = {name: {"sha256": hash_file(file), "bytes": file.stat().st_size} for name, file in files.items()}
    manifest = {"schema": 1, "name": "flights", "version": version, "threshold": None, "files": listed}
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    return bundle.parent


def shift_leaves(model: Path, change: Callable[[int, float], float | str]) -> None:
    """Edit the leaves of the first tree, in LightGBM's text, whose checksums of trees are their lengths."""
    text = (model / "model.txt").read_text()
    head, _, rest = text.partition("Tree=0\n")
    tree, _, after = rest.partition("\nTree=1\n")
    lines = tree.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("leaf_value="))
    values = lines[place].removeprefix("leaf_value=").split()
    lines[place] = "leaf_value=" + " ".join(str(change(n, float(value))) for n, value in enumerate(values))
    sizes = next(line for line in head.splitlines() if line.startswith("tree_sizes="))
    first = len("Tree=0\n" + "\n".join(lines) + "\n")
    fixed = "tree_sizes=" + " ".join([str(first), *sizes.removeprefix("tree_sizes=").split()[1:]])
    (model / "model.txt").write_text(head.replace(sizes, fixed) + "Tree=0\n" + "\n".join(lines) + "\nTree=1\n" + after)


def until(true: Callable[[], object], seconds: float = 20.0) -> bool:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def new_endpoint(folder: Path, **facts: object) -> Path:
    """Write the state of an endpoint that is quick to stop and keeps nothing."""
    place = folder / "endpoints" / "flights"
    limits = {"body_bytes": 1 << 20, "timeout": 5.0, "concurrency": 64}
    make_endpoint(place, **{"limits": limits, "collect": {"share": 0.0, "most_mib": 1, "mask": []}, **facts})
    make_keys(place)
    return place


def processes_of(place: Path) -> list[psutil.Process]:
    """Find every process of an endpoint, also one that no file tells of."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            words = process.cmdline()
            if str(place) in words and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def kill_all(place: Path) -> None:
    """Kill every process of an endpoint at once."""
    while left := processes_of(place):
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        time.sleep(0.05)


def pids(place: Path, name: str) -> list[int]:
    """Find the workers of a deployment."""
    live = json.loads((place / "live.json").read_bytes())
    return [worker["pid"] for worker in live["deployments"][name]["workers"] if worker["ready"]]


def mark_of(place: Path, role: str) -> int:
    """Find the supervisor or the front."""
    return json.loads((place / "live.json").read_bytes())[role].get("pid", 0)


def kill(pid: int) -> None:
    """Kill a process, and wait until it is gone."""
    with suppress(ProcessLookupError):  # It was about to leave
        os.kill(pid, signal.SIGKILL)
    until(lambda: not process_mark(pid)["started"])


class Load(threading.Thread):
    """A client that sends single rows at a steady rate, and keeps what it got."""

    def __init__(self, place: Path, rate: float):
        super().__init__(daemon=True)
        self.url = "http://{host}:{port}/score".format(**read_endpoint(place))
        self.key, self.rate, self.enough = read_keys(place)["primary"], rate, threading.Event()
        self.answers: list[tuple[int, str]] = []  # Status, or 0 for a broken connection, and the deployment

    def run(self) -> None:
        asyncio.run(self.send())

    async def send(self) -> None:
        headers = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
        began, tasks = time.monotonic(), []
        async with aiohttp.ClientSession(headers=headers, connector=aiohttp.TCPConnector(limit=0)) as session:
            while not self.enough.is_set():
                tasks.append(asyncio.create_task(self.one(session, ROWS[len(tasks) % len(ROWS)])))
                await asyncio.sleep(max(0.0, began + len(tasks) / self.rate - time.monotonic()))
            await asyncio.gather(*tasks)

    async def one(self, session: aiohttp.ClientSession, row: dict) -> None:
        try:
            async with session.post(self.url, data=json.dumps([row]).encode()) as answer:
                await answer.read()
                self.answers.append((answer.status, answer.headers.get("azureml-model-deployment", "")))
        except aiohttp.ClientError:
            self.answers.append((0, ""))

    @property
    def codes(self) -> Counter:
        return Counter(status for status, _ in self.answers)


@contextmanager
def load(place: Path, rate: float = 100.0):
    """Ask an endpoint while the block runs."""
    client = Load(place, rate)
    client.start()
    assert until(lambda: client.answers)
    try:
        yield client
    finally:
        client.enough.set()
        client.join(30)


def score(place: Path, rows: object = None, **words: object):
    """Ask for the first golden row, or for what is given."""
    return ask(place, body=ROWS[:1] if rows is None else rows, **words)


__all__ = ["GOLDEN", "PACKAGE", "ROWS", "kill", "kill_all", "list_processes", "load", "mark_of", "new_endpoint", "pids"]
__all__ += ["processes_of", "score", "shift_leaves", "until", "write_bundle"]
