"""Versions to release in tests: good ones, and ones that are bad by real means, built and signed as any other."""

import contextlib
import json
import os
import re
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import polars as pl
import psutil

from mlops_kit.deployment.bundles.bundle import build_bundle
from mlops_kit.deployment.bundles.signing import private_key, public_key, sign_bundle
from mlops_kit.deployment.endpoint.keys import make_keys
from mlops_kit.deployment.endpoint.lifecycle import start_endpoint, stop_endpoint
from mlops_kit.deployment.endpoint.state import LIMITS, endpoint_place, make_endpoint, read_endpoint, read_live
from mlops_kit.deployment.inference.forms import read_rows
from mlops_kit.deployment.inference.scoring import load_scorer
from mlops_kit.deployment.releases.replay import ANSWER, replay
from mlops_kit.project import path, read_json
from mlops_kit.settings import PLAIN
from mlops_kit.steps import read_table
from mlops_kit.training.models import load_model

RULES = {name: param.default for name, param in PLAIN["deploy"].items()}
RATE = 400.0  # Requests a second
QUICK = RULES | {"canary": [30, 100], "shadow": 40, "least_requests": 20, "errors_at_most": 0.05, "wait": 60.0}
QUICK |= {"latency_ms_at_most": 5000.0, "latency_ratio_at_most": 100.0}  # How busy this machine is decides nothing


def edit(file: Path, change: Callable[[dict], None]) -> None:
    """Change a JSON file."""
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def move_scores(package: Path, logits: float) -> None:
    """Let every score be higher or lower."""
    edit(package / "model.json", lambda model: model["calibration"]["curves"][0].update(b=logits - 0.288285253))


def slightly_other(package: Path) -> None:
    """Be a version as good as the champion, with scores that differ in the third digit."""
    move_scores(package, 0.02)


def shifted(package: Path) -> None:
    """Score 0.2 and more too high."""
    move_scores(package, 1.5)


def reversed_scores(package: Path) -> None:
    """Call late what is on time, and the other way round."""
    edit(package / "model.json", lambda model: model["calibration"]["curves"][0].update(a=-1.2, b=0.29))


def truncated(package: Path) -> None:
    """Lose half of the model."""
    text = (package / "model.txt").read_text()
    (package / "model.txt").write_text(text[: len(text) // 2])


def slow(package: Path) -> None:
    """Have twenty thousand trees."""
    head, *blocks = re.split(r"^Tree=\d+\n", (package / "model.txt").read_text(), flags=re.M)
    last, _, tail = blocks[-1].partition("end of trees")
    again = [block for _ in range(20_000 // len(blocks) + 1) for block in (*blocks[:-1], last)]
    trees = [f"Tree={number}\n{block}" for number, block in enumerate(again)]
    head = re.sub(r"^tree_sizes=.*$", "tree_sizes=" + " ".join(str(len(tree)) for tree in trees), head, flags=re.M)
    (package / "model.txt").write_text(f"{head}{''.join(trees)}end of trees{tail}")


def not_finite(package: Path) -> None:
    """Answer some rows with no number, and golden ones with the right one."""
    model, golden = load_model(package), read_json(package / "golden.json")["rows"]
    schema = load_scorer(package).schema
    tried, real = (schema.check(read_rows(rows)) for rows in (golden, real_rows().to_dicts()))
    for tree in range(model.trees.num_trees()):
        leaves = [model.trees.predict(rows, pred_leaf=True)[:, tree] for rows in (tried, real)]
        if free := {*leaves[1].tolist()} - {*leaves[0].tolist()}:
            leaf = max(free, key=lambda leaf: (leaves[1] == leaf).sum())
            break
    file = package / "model.txt"
    text = file.read_text()
    old = text.partition(f"Tree={tree}\n")[2].partition("leaf_value=")[2].split()[leaf]
    sizes = [*map(int, text.partition("tree_sizes=")[2].partition("\n")[0].split())]
    less = [size - (len(old) - len("nan")) * (number == tree) for number, size in enumerate(sizes)]
    text = text.replace(" ".join(map(str, sizes)), " ".join(map(str, less)), 1).replace(f" {old}", " nan", 1)
    file.write_text(text)


def another_column(package: Path) -> None:
    """Ask for a column that no client sends."""
    new = {"name": "gate", "type": "double", "required": True}
    edit(package / "signature.json", lambda signature: signature["inputs"].append(new))


def other_answers(package: Path) -> None:
    """Score golden rows otherwise than when it was registered."""
    for_one = lambda golden: golden["expected"][3].reverse()  # noqa: E731
    edit(package / "golden.json", for_one)


def real_rows(*more: str) -> pl.DataFrame:
    """Real flights with the columns that the sample's model reads, none of them unknown to it."""
    model = load_model("samples/package")
    known = [pl.col(name).is_in(values) | pl.col(name).is_null() for name, values in model.categories.items()]
    return read_table("samples/gold").filter(*known).select(*model.features, *more)


def many_rows(rows: pl.DataFrame, count: int) -> pl.DataFrame:
    """Repeat rows."""
    return rows[list(islice(cycle(range(len(rows))), count))]


class Clients:
    """Clients that ask for real flights until they are told to stop."""

    def __init__(self, place: Path):
        self.place, self.rows, self.answers = place, many_rows(real_rows(), 30_000), pl.DataFrame(schema=ANSWER)

    def __call__(self, enough: threading.Event) -> None:
        self.answers = replay(self.place, self.rows, RATE, enough=enough)

    @property
    def lost(self) -> list[int]:
        """Statuses of requests that should have been answered, and were not."""
        return self.answers.filter(pl.col("status") != 200)["status"].to_list()


class Versions:
    """Bundles by version, made when they are asked for."""

    def __init__(self, folder: Path):
        self.folder, self.key = folder, private_key(path("."), "dev")
        self.trusted = folder / "trusted.pub"
        self.trusted.write_bytes(public_key(self.key))

    def make(self, version: str, change: Callable[[Path], None] | None = None, golden: bool = True) -> Path:
        """Build and sign a version; its golden rows are scored anew, as when it is registered."""
        place, package = self.folder / version, self.folder / f"{version}-package"
        if place.exists():
            return place
        shutil.copytree(path("samples/package"), package)
        if change:
            change(package)
        if golden:
            scorer = load_scorer(package)
            rows = read_json(package / "golden.json")["rows"]
            found = scorer.score(scorer.schema.check(read_rows(rows))).tolist()
            assert np.isfinite(found).all()
            edit(package / "golden.json", lambda said: said.update(expected=found))
        build_bundle(package, place / "bundle", "flights", version)
        sign_bundle(place / "bundle", place / "bundle.sig", self.key)
        return place


def processes_of(place: Path) -> list[psutil.Process]:
    """Find the processes of an endpoint, by the folder that they work in."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.cwd() == str(place) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextlib.contextmanager
def endpoint(home: Path, trusted: Path, **facts) -> Iterator[Path]:  # Its folder
    """Let an endpoint run that serves nothing yet; no process of it is left behind."""
    place = endpoint_place(home, "flights")
    make_endpoint(place, trusted=str(trusted), limits=LIMITS | {"concurrency": 256}, **facts)
    make_keys(place)
    try:
        start_endpoint(place)
        yield place
    finally:
        with contextlib.suppress(Exception):
            stop_endpoint(place)
        left = processes_of(place)
        for process in left:
            with contextlib.suppress(psutil.Error):
                os.kill(process.pid, signal.SIGKILL)
        assert not left, f"left behind by endpoint stop: {left}"


def serving(place: Path) -> dict[str, float]:  # {version: percent}
    """Say which version gets which share."""
    state = read_endpoint(place)
    return {state["deployments"][name]["version"]: share for name, share in state["traffic"].items()}


def running(place: Path) -> set[str]:  # Versions
    """Say which versions have workers."""
    known = read_endpoint(place)["deployments"]
    live = read_live(place)["deployments"]
    return {known[name]["version"] for name, told in live.items() if name in known and told["ready"]}
