"""The bundle's score.py runs under Azure's own inference server, and answers as the model did."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from conftest import lacking

from mlops_kit.deployment.bundles.bundle import build_bundle
from mlops_kit.deployment.releases.probing import SAME

ROOT = Path(__file__).parents[1]
SERVER = ROOT / ".venv/peers/bin/azmlinfsrv"  # Needs an older pydantic, so it has an environment of its own

pytestmark = pytest.mark.slow


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A bundle where Azure mounts it, two folders deep, under azmlinfsrv on loopback: its address and the bundle."""
    if not SERVER.exists():
        lacking("Azure's inference server is not installed (make setup-peers): score.py was not tried under it")
    folder = tmp_path_factory.mktemp("azure")
    bundle = folder / "flights/7/bundle"
    bundle.parent.mkdir(parents=True)
    build_bundle(ROOT / "samples/package", bundle, "flights", "7")
    port = free_port()
    command = [SERVER, "--entry_script", bundle / "score.py", "--port", str(port)]
    plain = {name: value for name, value in os.environ.items() if not name.startswith("MLOPS_KIT")}
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env=plain | {"AZUREML_MODEL_DIR": str(folder / "flights")}, stdout=log, stderr=log
        )
    try:
        yield f"http://127.0.0.1:{port}", bundle, process, folder / "log"
    finally:
        process.terminate()
        process.wait(20)


def ask(served, body: bytes) -> tuple[int, dict]:
    address, _, process, log = served
    for _ in range(120):
        request = urllib.request.Request(f"{address}/score", body, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)
        except OSError:
            assert process.poll() is None, log.read_text()[-2000:]
            time.sleep(0.25)
    raise AssertionError(log.read_text()[-2000:])


def test_golden_rows_are_answered_with_the_same_numbers(served):
    golden = json.loads((served[1] / "model/golden.json").read_text())
    status, told = ask(served, json.dumps({"input_data": golden["rows"]}).encode())
    assert status == 200
    found = [[*row.values()] for row in told["predictions"]]
    assert np.allclose(found, golden["expected"], rtol=0, atol=SAME)


def test_a_refusal_has_its_status_and_names_the_column(served):
    golden = json.loads((served[1] / "model/golden.json").read_text())
    status, told = ask(served, json.dumps([golden["rows"][0] | {"distance": 1.5}]).encode())
    assert (status, told["errors"][0]["column"], told["errors"][0]["rule"]) == (422, "distance", "whole")
    assert ask(served, b"{")[0] == 400
