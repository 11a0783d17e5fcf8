"""Speed of the whole endpoint against other servers: python tests/bench_serving.py [rounds, 3].

The same model, the sample's, and the same rows: one as a record, and a hundred without repeating names, in the form
that a server has for it. Every server has one worker process; ours has its
front, the schema at the door and the collector beside it. Servers are started one after the other, left running, and
asked in turns, so that what else happens on the machine meets all of them; medians over the rounds are compared. The
client is one small process with bare sockets for all. Memory is that of a server's processes, shared pages divided.
"""

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from ratio import say

from mlops_kit.deployment.bundles.bundle import build_bundle
from mlops_kit.deployment.endpoint.keys import make_keys, read_keys
from mlops_kit.deployment.endpoint.lifecycle import await_ready, start_endpoint, stop_endpoint
from mlops_kit.deployment.endpoint.state import add_deployment, make_endpoint, read_endpoint, read_live, set_traffic

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv/peers/bin"
CASES = {"one row": (1, 1), "one row, 8 clients": (1, 8), "100 rows": (100, 1)}  # Rows of a request, connections
SECONDS = 2.0


@dataclass
class Server:
    """A server that runs, and how it is asked."""

    address: str
    route: str
    bodies: dict[int, Path]  # {rows: file}
    pids: list[int]
    started: float  # s
    headers: list[str] = field(default_factory=list)

    def ask(self, rows: int, connections: int) -> dict[str, float]:
        command = [sys.executable, ROOT / "tests/load_client.py", self.address, self.route, self.bodies[rows]]
        done = subprocess.run([*command, str(connections), str(SECONDS), *self.headers], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return json.loads(done.stdout)

    def mebibytes(self) -> float:
        processes = [
            p for pid in self.pids for p in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
        ]
        used = {process.pid: process.memory_full_info() for process in processes if process.is_running()}
        return sum(getattr(info, "pss", info.rss) for info in used.values()) / 2**20


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def write_bodies(folder: Path, golden: dict) -> dict[str, dict[int, Path]]:
    """The same rows in the forms that the servers read."""
    rows = (golden["rows"] * 2)[:100]
    described = json.loads((ROOT / "samples/package/signature.json").read_text())["inputs"]
    kinds = {"long": "INT64", "double": "FP64", "string": "BYTES"}
    found: dict[str, dict[int, Path]] = {"records": {}, "v2": {}}
    for number in (1, 100):
        inputs = []
        for column in described:
            values = [row[column["name"]] for row in rows[:number]]
            kind = kinds[column["type"]]
            about = {"parameters": {"content_type": "str"}} if kind == "BYTES" else {}
            inputs.append({"name": column["name"], "shape": [number, 1], "datatype": kind, "data": values, **about})
        names = [column["name"] for column in described]
        split = {"columns": names, "data": [[row[name] for name in names] for row in rows[:number]]}
        texts = {
            "records": {"dataframe_records": rows[:1]} if number == 1 else {"dataframe_split": split},
            "v2": {"parameters": {"content_type": "pd"}, "inputs": inputs},
        }
        for name, text in texts.items():
            found[name][number] = folder / f"{name}-{number}.json"
            found[name][number].write_text(json.dumps(text))
    return found


def await_answer(process: subprocess.Popen, url: str, body: Path, log: Path) -> None:
    end = time.monotonic() + 120
    while True:
        request = urllib.request.Request(url, body.read_bytes(), {"content-type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=10).read()
            return
        except urllib.error.HTTPError as error:
            last = error.read()[:500]
        except OSError as error:
            last = str(error)
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{last}\n{log.read_text()[-1500:]}")
        time.sleep(0.02)


@contextlib.contextmanager
def other(
    folder: Path, name: str, command: list, port: int, route: str, bodies: dict[int, Path], **more: str
) -> Iterator:
    log, plain = folder / f"{name}.log", {k: v for k, v in os.environ.items() if not k.startswith("MLOPS_KIT")}
    began = time.monotonic()
    with open(log, "w") as out:
        process = subprocess.Popen(
            [*map(str, command)],
            cwd=folder,
            stdout=out,
            stderr=out,
            env={**plain, "OMP_NUM_THREADS": "1", **more},
            start_new_session=True,
        )
    try:
        await_answer(process, f"http://127.0.0.1:{port}{route}", bodies[1], log)
        yield Server(f"127.0.0.1:{port}", route, bodies, [process.pid], time.monotonic() - began)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


@contextlib.contextmanager
def ours(folder: Path, bundle: Path, bodies: dict[int, Path]) -> Iterator:
    place = folder / "home/endpoints/flights"
    make_endpoint(place, workload="")
    make_keys(place)
    add_deployment(place, "blue", bundle)
    set_traffic(place, {"blue": 100})
    began = time.monotonic()
    start_endpoint(place)
    await_ready(place, "blue")
    started, state, live = time.monotonic() - began, read_endpoint(place), read_live(place)
    try:
        key = f"Authorization: Bearer {read_keys(place)['primary']}"
        pids = [live["supervisor"]["pid"]]
        yield (
            Server(f"127.0.0.1:{state['port']}", "/score", bodies, pids, started, [key]),
            Server(str(place / live["deployments"]["blue"]["socket"]), "/score", bodies, pids, started),
        )
    finally:
        stop_endpoint(place)


def write_mlserver(folder: Path, package: Path, port: int) -> None:
    model = {"name": "flights", "implementation": "bench_mlserver.Flights", "parameters": {"uri": str(package)}}
    (folder / "model-settings.json").write_text(json.dumps(model))
    ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    shutil.copy(ROOT / "tests/bench_mlserver.py", folder)


def servers(folder: Path, stack: contextlib.ExitStack) -> dict[str, Server]:
    """Start all servers; a peer that is not installed or does not serve is left out, and said."""
    golden = json.loads((ROOT / "samples/package/golden.json").read_text())
    bodies, bundle, package = write_bodies(folder, golden), folder / "bundle", ROOT / "samples/package"
    build_bundle(package, bundle, "flights", "1")
    found: dict[str, Server] = {}
    found["endpoint"], found["our worker alone"] = stack.enter_context(ours(folder, bundle, bodies["records"]))
    port = free_port()
    mlflow = [
        Path(sys.executable).parent / "mlflow",
        "models",
        "serve",
        "-m",
        package,
        "-p",
        port,
        "--env-manager",
        "local",
        "--workers",
        1,
    ]
    found["mlflow models serve"] = stack.enter_context(
        other(folder, "mlflow", mlflow, port, "/invocations", bodies["records"])
    )
    port = free_port()
    azure = [PEERS / "azmlinfsrv", "--entry_script", bundle / "score.py", "--port", port]
    mlserver = folder / "mlserver"
    mlserver.mkdir()
    starts = {
        "azmlinfsrv": lambda: other(
            folder, "azure", azure, port, "/score", bodies["records"], AZUREML_MODEL_DIR=str(folder)
        )
    }
    v2 = free_port()
    write_mlserver(mlserver, package, v2)
    route = "/v2/models/flights/infer"
    starts["MLServer"] = lambda: other(
        mlserver, "mlserver", [PEERS / "mlserver", "start", "."], v2, route, bodies["v2"]
    )
    for name, start in starts.items():
        try:
            found[name] = stack.enter_context(start())
        except (OSError, RuntimeError) as error:
            print(f"     {name} was not measured: {str(error)[-300:]}", flush=True)
    return found


def measure(found: dict[str, Server], rounds: int) -> dict[tuple[str, str], dict[str, float]]:
    """Ask all servers in turn, there and back by rounds, and take medians."""
    told: dict[tuple[str, str], list] = {}
    for number in range(rounds):
        for name in [*found][:: -1 if number % 2 else 1]:
            for case, (rows, connections) in CASES.items():
                told.setdefault((name, case), []).append(found[name].ask(rows, connections))
    return {key: {word: statistics.median(one[word] for one in runs) for word in runs[0]} for key, runs in told.items()}


def report(rounds: int = 3) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        found = servers(Path(folder), stack)
        told = measure(found, rounds)
        print(f"     {'server':<22}{'case':<20}{'p50 ms':>8}{'p99 ms':>8}{'a second':>10}{'start s':>9}{'MiB':>7}")
        for (name, case), one in told.items():
            extra = f"{found[name].started:>9.1f}{found[name].mebibytes():>7.0f}" if case == "one row" else ""
            print(
                f"     {name:<22}{case:<20}{one['p50']:>8.2f}{one['p99']:>8.2f}{one['rate']:>10.0f}{extra}", flush=True
            )
    compare(told, [name for name in found if name not in ("endpoint", "our worker alone")])


def compare(told: dict[tuple[str, str], dict[str, float]], peers: list[str]) -> None:
    def of(name: str, case: str, word: str) -> float:
        return told[name, case][word]

    single, many = "one row", "one row, 8 clients"
    mine, theirs = of("endpoint", single, "p50"), of("mlflow models serve", single, "p50")
    say("p50 of a row, endpoint / mlflow models serve", mine / theirs, 0.25, f"{mine:.2f} and {theirs:.2f} ms")
    mine, theirs = of("endpoint", many, "rate"), of("mlflow models serve", many, "rate")
    say("requests a second, mlflow models serve / endpoint", theirs / mine, 1 / 15, f"{theirs:.0f} and {mine:.0f}")
    for peer in peers:
        for case, word in ((single, "p50"), (many, "rate"), ("100 rows", "p50")):
            pair = of("endpoint", case, word), of(peer, case, word)
            ratio = pair[0] / pair[1] if word == "p50" else pair[1] / pair[0]
            say(f"{case}, {word}: endpoint against {peer}", ratio, 1.0, f"{pair[0]:.2f} and {pair[1]:.2f}")
    added = of("endpoint", single, "p50") - of("our worker alone", single, "p50")
    say("ms that the front adds at p50", added, 0.8, "the endpoint less its worker alone")


if __name__ == "__main__":
    report(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
