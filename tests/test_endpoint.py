"""An endpoint of real processes: what it answers, what it refuses, and what it survives."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import numpy as np
import pytest
from conftest import lacking
from endpoint_fixture import (
    GOLDEN,
    ROWS,
    kill,
    kill_all,
    load,
    mark_of,
    new_endpoint,
    pids,
    processes_of,
    score,
    shift_leaves,
    until,
    write_bundle,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlops_kit.deployment.endpoint.client import ask
from mlops_kit.deployment.endpoint.keys import read_keys, rotate_key
from mlops_kit.deployment.endpoint.lifecycle import (
    await_ready,
    endpoint_status,
    read_evidence,
    start_endpoint,
    stop_endpoint,
)
from mlops_kit.deployment.endpoint.nginx import write_nginx
from mlops_kit.deployment.endpoint.state import (
    EndpointError,
    add_deployment,
    change_endpoint,
    is_kept,
    read_endpoint,
    remove_deployment,
    set_mirror,
    set_traffic,
)
from mlops_kit.deployment.releases.probing import SAME
from mlops_kit.project import write_file


def raise_leaves(model: Path) -> None:
    shift_leaves(model, lambda _, value: value + 1.0)
    (model / "golden.json").unlink()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """An endpoint with blue, which serves, and green, whose scores are higher."""
    folder = tmp_path_factory.mktemp("home")
    place = new_endpoint(folder)
    add_deployment(place, "blue", write_bundle(folder, "7"))
    add_deployment(place, "green", write_bundle(folder, "8", raise_leaves))
    set_traffic(place, {"blue": 100})
    try:
        start_endpoint(place)
        await_ready(place, "blue")
        await_ready(place, "green")
        yield place
    finally:
        kill_all(place)


@pytest.fixture(autouse=True)
def as_before(request):
    """Leave the shared endpoint as every test finds it."""
    yield
    if "place" in request.fixturenames:
        shared = request.getfixturevalue("place")
        with change_endpoint(shared) as state:
            state["limits"] = {"body_bytes": 1 << 20, "timeout": 5.0, "concurrency": 64}
            state["traffic"], state["mirror_traffic"] = {"blue": 100}, {}
        start_endpoint(shared)
        await_ready(shared, "blue")


def connect(place: Path, state: bytes = b"") -> socket.socket:
    state = json.loads(state or (place / "endpoint.json").read_bytes())
    return socket.create_connection((state["host"], state["port"]), timeout=20)


def head(place: Path, length: str = "content-length: 100") -> bytes:
    key = read_keys(place)["primary"]
    return (
        f"POST /score HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n"
        f"content-type: application/json\r\n{length}\r\n\r\n"
    ).encode()


def test_scores_are_those_that_were_registered(place):
    reply = score(place, ROWS)
    found = [[*row.values()] for row in reply.content["predictions"]]
    assert np.allclose(found, GOLDEN["expected"], rtol=0, atol=SAME)
    assert reply.headers["azureml-model-deployment"] == "blue" and reply.headers["x-model-version"] == "7"
    assert len(reply.headers["x-request-id"]) == 32
    raised = score(place, ROWS, deployment="green")
    assert raised.headers["azureml-model-deployment"] == "green"
    assert raised.content["predictions"] != reply.content["predictions"]


@pytest.mark.parametrize(
    ("body", "words", "status"),
    [
        (b"[{", {}, 400),
        ([{"carrier": "UA"}], {}, 422),
        ([], {}, 422),
        (b"[" * 100_000, {}, 400),
        (b"x" * ((1 << 20) + 1), {}, 413),
        (ROWS[:1], {"route": "/nowhere"}, 404),
        (None, {}, 405),
        (ROWS[:1], {"deployment": "red"}, 404),
        (ROWS[:1], {"key": "admin"}, 401),
        (ROWS[:1], {"key": "none"}, 401),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_leaks(place, body, words, status):
    before = read_evidence(place)["deployments"]["blue"]["errors"]
    reply = ask(place, body=body, **words)
    assert reply.status == status and isinstance(reply.content["error"], str)
    assert "Traceback" not in json.dumps(reply.content) and str(place) not in json.dumps(reply.content)
    assert (
        read_evidence(place)["deployments"]["blue"]["errors"] == before
    )  # A client's mistake is no error of the model


def test_every_reply_has_an_id_and_a_line_in_the_log(place):
    with connect(place) as line:
        line.sendall(b"GET /nowhere HTTP/1.1\r\nhost: x\r\nx-ms-client-request-id: order-17\r\n\r\n")
        assert b"x-request-id: order-17" in line.recv(4096)
    with connect(place) as line:
        line.sendall(b"GET /nowhere HTTP/1.1\r\nhost: x\r\nx-request-id: " + b"x" * 200 + b"\r\n\r\n")
        assert b" 431 " in line.recv(4096)
    log = place / "logs" / "front.log"
    assert until(lambda: log.exists() and '"id":"order-17"' in log.read_text())
    line = next(line for line in log.read_text().splitlines() if "order-17" in line)
    assert json.loads(line)["status"] == 404


def test_metrics_health_and_description(place):
    assert ask(place, "/health/live").status == 200 and ask(place, "/health/ready").status == 200
    assert ask(place, "/metrics", key="none").status == 401
    score(place)
    assert 'inference_workers_ready{deployment="blue",endpoint="flights"} 1.0' in ask(place, "/metrics").content
    assert ask(place, "/swagger.json").content["paths"]["/score"]["post"]["operationId"] == "score"


def test_half_a_body_ends_and_held_connections_starve_nobody(place):
    with change_endpoint(place) as state:
        state["limits"]["timeout"] = 1.0
    time.sleep(0.5)  # Until the front has followed
    held = [connect(place) for _ in range(200)]
    for number, line in enumerate(held):
        line.sendall(head(place) + b"[{" if number % 2 else b"POST /sc")
    try:
        assert score(place).status == 200
        said = b"".join(iter(lambda: held[1].recv(4096), b""))  # Until it is closed
        assert b" 408 " in said and b"not there after 1 s" in said
    finally:
        for line in held:
            line.close()
    assert score(place).status == 200


def test_a_body_in_pieces_is_held_to_the_limit(place):
    with connect(place) as line:
        line.sendall(head(place, "transfer-encoding: chunked"))
        piece = b"x" * 65536
        for _ in range(17):
            line.sendall(b"10000\r\n" + piece + b"\r\n")
        assert b" 413 " in line.recv(4096)


def test_too_many_at_a_time_are_told_to_come_again(place):
    with change_endpoint(place) as state:
        state["limits"]["concurrency"] = 1
    (worker,) = pids(place, "blue")
    time.sleep(0.5)  # Until the front has followed
    with connect(place) as line:
        os.kill(worker, signal.SIGSTOP)
        try:
            body = json.dumps(ROWS[:1]).encode()
            line.sendall(head(place, f"content-length: {len(body)}") + body)
            replies = []
            assert until(lambda: replies.append(score(place)) or replies[-1].status == 429, 10)
        finally:
            os.kill(worker, signal.SIGCONT)
        assert replies[-1].headers["retry-after"] == "1" and b" 200 " in line.recv(65536)


def test_no_answer_in_time(place):
    with change_endpoint(place) as state:
        state["limits"]["timeout"] = 0.5
    time.sleep(0.5)  # Until the front has followed
    (worker,) = pids(place, "blue")
    os.kill(worker, signal.SIGSTOP)
    try:
        assert score(place).status == 504
        set_traffic(place, {"blue": 50, "green": 50})
        assert until(lambda: score(place).headers.get("azureml-model-deployment") == "green")
        assert {score(place).status for _ in range(20)} == {200}  # Green answers for blue, until blue is left out
        assert "status 504" in read_evidence(place)["deployments"]["blue"]["ejected"]
    finally:
        os.kill(worker, signal.SIGCONT)
    set_traffic(place, {"blue": 100})
    assert until(lambda: score(place).status == 200 and not read_evidence(place)["deployments"]["blue"]["ejected"])


def test_a_key_is_changed_without_a_restart(place):
    epoch, old = read_evidence(place)["epoch"], read_keys(place)["secondary"]
    rotate_key(place, "secondary")
    assert until(lambda: score(place, key="secondary").status == 200)
    assert score(place).status == 200 and read_keys(place)["secondary"] != old
    with connect(place) as line:
        line.sendall(head(place).replace(read_keys(place)["primary"].encode(), old.encode()))
        assert b" 401 " in line.recv(4096)
    assert read_evidence(place)["epoch"] == epoch


def test_mirrored_requests_are_compared(place):
    before = read_evidence(place)["deployments"]["green"]["requests"]
    set_mirror(place, {"green": 100})
    assert until(lambda: "green" in read_evidence(place)["shadow"])
    for row in ROWS[:20]:
        assert score(place, [row]).headers["azureml-model-deployment"] == "blue"
    assert until(lambda: read_evidence(place)["shadow"]["green"]["pairs"] >= 20)
    shadow = read_evidence(place)["shadow"]["green"]
    assert shadow["errors"] == 0 and 0 < shadow["difference_sum"] / shadow["pairs"] <= shadow["difference_max"] < 1
    assert read_evidence(place)["deployments"]["green"]["requests"] == before


def test_blue_to_green_and_back_loses_nothing(place):
    with load(place, rate=150) as client:
        for share in (25, 100, 0):
            time.sleep(0.5)
            set_traffic(place, {"blue": 100 - share, "green": share})
        time.sleep(0.5)
    assert {*client.codes} == {200} and {name for _, name in client.answers} == {"blue", "green"}


def test_a_removed_deployment_finishes_what_it_began(place, tmp_path):
    add_deployment(place, "red", write_bundle(tmp_path, "9"), workers=2)
    await_ready(place, "red")
    assert until(lambda: len(pids(place, "red")) == 2)
    workers = pids(place, "red")
    with load(place, rate=150) as client:
        set_traffic(place, {"red": 100})
        assert until(lambda: (200, "red") in client.answers)
        set_traffic(place, {"blue": 100})
        remove_deployment(place, "red")
        assert until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))
    assert {*client.codes} == {200}


def test_killed_workers_are_replaced_and_no_request_is_lost(place):
    restarts = endpoint_status(place)["deployments"]["blue"]["restarts"]
    with load(place) as client:
        for _ in range(3):
            (worker,) = pids(place, "blue")
            kill(worker)
            assert until(lambda worker=worker: pids(place, "blue") not in ([], [worker]))
    assert {*client.codes} == {200}
    told = endpoint_status(place)["deployments"]["blue"]
    assert told["restarts"] == restarts + 3 and told["last_words"] == "ended by SIGKILL"


def test_a_killed_front_comes_back_at_the_same_port(place):
    epoch, front = read_evidence(place)["epoch"], mark_of(place, "front")
    kill(front)
    assert score(place).status == 200  # It waited in the queue, which the supervisor holds
    assert read_evidence(place)["epoch"] != epoch


def test_a_killed_supervisor_is_succeeded_and_nobody_notices(place):
    supervisor, front = mark_of(place, "supervisor"), mark_of(place, "front")
    workers = pids(place, "blue")
    with load(place, rate=60) as client:
        kill(supervisor)
        assert until(lambda: mark_of(place, "supervisor") not in (0, supervisor), 40)
        assert until(lambda: pids(place, "blue") not in ([], workers), 40)  # Of its own, ready before the old ones left
        assert until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in workers))
        kill(pids(place, "blue")[0])
        assert until(lambda: endpoint_status(place)["deployments"]["blue"]["ready"])
    assert {*client.codes} == {200} and mark_of(place, "front") == front
    kill(front)
    assert score(place).status == 200  # The front handed its socket to the new supervisor


def test_all_killed_at_once_are_started_again_as_they_were(place):
    port = read_endpoint(place)["port"]
    kill_all(place)
    assert until(lambda: endpoint_status(place)["state"] == "killed")  # A lock ends a moment after its holder
    start_endpoint(place)
    await_ready(place, "blue")
    assert read_endpoint(place)["port"] == port and score(place).status == 200
    found = [mark_of(place, role) for role in ("supervisor", "front")]
    start_endpoint(place)
    assert [mark_of(place, role) for role in ("supervisor", "front")] == found  # One that runs goes on


def test_a_bundle_that_does_not_start_is_out_and_says_why(place, tmp_path):
    changed = write_bundle(tmp_path, "10")
    with open(changed / "bundle" / "model" / "model.txt", "ab") as file:
        file.write(b"\n")
    crashes = write_bundle(tmp_path, "11", lambda model: (model / "model.txt").write_text("no trees"))
    for name, bundle, cause in (("changed", changed, "model.txt was changed"), ("crashes", crashes, "exit code 1")):
        add_deployment(place, name, bundle)
        with pytest.raises(EndpointError, match=cause):
            await_ready(place, name)
        set_traffic(place, {"blue": 50, name: 50})
        assert {score(place).headers["azureml-model-deployment"] for _ in range(20)} == {"blue"}
        set_traffic(place, {"blue": 100})
        remove_deployment(place, name)


def test_a_new_bundle_is_not_ready_because_the_one_before_still_serves(place, tmp_path):
    add_deployment(place, "red", write_bundle(tmp_path, "9"))
    await_ready(place, "red")
    add_deployment(place, "red", write_bundle(tmp_path, "11", lambda model: (model / "model.txt").write_text("none")))
    with pytest.raises(EndpointError, match="exit code 1"):
        await_ready(place, "red")
    add_deployment(place, "red", write_bundle(tmp_path, "10"))
    await_ready(place, "red")
    assert score(place, deployment="red").headers["x-model-version"] == "10"
    remove_deployment(place, "red")


def test_a_state_that_cannot_be_read_changes_nothing(place):
    whole = (place / "endpoint.json").read_bytes()
    write_file(place / "endpoint.json", whole[:50])
    try:
        time.sleep(0.3)
        with connect(place, whole) as line:
            line.sendall(head(place, "content-length: 2") + b"[]")
            assert b" 422 " in line.recv(4096)
        log = (place / "logs" / "supervisor.log").read_text()
        assert 1 <= log.count("the state cannot be read") <= 2  # It may be seen empty, and half
    finally:
        write_file(place / "endpoint.json", whole)
    assert until(lambda: score(place).status == 200)


def test_predictions_that_are_no_numbers_are_never_sent(place, tmp_path):
    def without_numbers(model: Path) -> None:
        shift_leaves(model, lambda number, value: value if number else "nan")
        (model / "golden.json").unlink()

    add_deployment(place, "ill", write_bundle(tmp_path, "12", without_numbers))
    await_ready(place, "ill")  # Its example lies in another leaf
    statuses = {json.dumps(row): score(place, [row], deployment="ill").status for row in ROWS}
    assert {*statuses.values()} == {200, 500}
    ill = [row for row in ROWS if statuses[json.dumps(row)] == 500]
    set_traffic(place, {"blue": 50, "ill": 50})
    assert {score(place, [row]).status for row in ill * 20} == {200}
    assert read_evidence(place)["deployments"]["ill"]["scores"]["not_finite"] >= 5
    set_traffic(place, {"blue": 100})
    remove_deployment(place, "ill")


def test_stop_finishes_and_leaves_nobody(place):
    with load(place) as client:
        stop_endpoint(place)
    assert {*client.codes} <= {200, 0} and client.codes[200]  # Nobody got an error; later ones met a closed door
    assert not processes_of(place) and endpoint_status(place)["state"] == "stopped"


def test_what_keeps_an_endpoint_from_starting_is_said(tmp_path):
    place = new_endpoint(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with change_endpoint(place) as state:
            state["port"] = taken.getsockname()[1]
        with pytest.raises(EndpointError, match=r"cannot listen: Address already in use.*Set `port` in \[deploy\]"):
            start_endpoint(place)
    assert not processes_of(place)


def test_nothing_outlives_a_folder_that_was_removed(tmp_path):
    place = new_endpoint(tmp_path)
    start_endpoint(place)
    try:
        (place / "endpoint.json").unlink()
        assert until(lambda: not processes_of(place))
    finally:
        kill_all(place)


@pytest.mark.slow
def test_nginx_routes_as_the_front_does(place, tmp_path):
    if not shutil.which("nginx"):
        lacking("nginx is not installed (apt-get install nginx-light): its configuration was not tried")
    set_traffic(place, {"blue": 50, "green": 50})
    (port,) = free_ports(1)
    config, _ = write_nginx(place, tmp_path / "nginx", port)
    main = tmp_path / "nginx.conf"
    user = "user root;\n" if os.geteuid() == 0 else ""
    main.write_text(
        f"{user}daemon off;\npid {tmp_path}/pid;\nerror_log {tmp_path}/error.log;\nevents {{}}\n"
        f"http {{\n  access_log off;\n  client_body_temp_path {tmp_path}/body;\n  proxy_temp_path {tmp_path}/proxy;\n"
        f"  fastcgi_temp_path {tmp_path}/f;\n  uwsgi_temp_path {tmp_path}/u;\n  scgi_temp_path {tmp_path}/s;\n"
        f"  include {config};\n}}\n"
    )
    command = ["nginx", "-c", str(main), "-e", f"{tmp_path}/error.log"]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    server = subprocess.Popen(command)
    try:
        url, key = f"http://127.0.0.1:{port}/score", read_keys(place)["secondary"]
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        with httpx.Client(headers=headers) as client:
            assert until(lambda: open_at(port))
            replies = [client.post(url, json=ROWS[:1]) for _ in range(60)]
            assert {reply.status_code for reply in replies} == {200}
            assert {reply.headers["azureml-model-deployment"] for reply in replies} == {"blue", "green"}
            blue = client.post(url, json=ROWS, headers={"azureml-model-deployment": "blue", "x-request-id": "order-17"})
            found = [[*row.values()] for row in blue.json()["predictions"]]
            assert np.allclose(found, GOLDEN["expected"], rtol=0, atol=SAME)
            assert blue.headers["x-request-id"] == "order-17" and blue.headers["x-model-version"] == "7"
            assert client.post(url, json=ROWS[:1], headers={"Authorization": "Bearer x"}).status_code == 401
            assert client.post(url, content=b"x" * ((1 << 20) + 1)).status_code == 413
            assert client.post(url, content=b"[{").status_code == 400
            assert client.get(url.replace("score", "nowhere")).status_code == 404
    finally:
        server.terminate()
        server.wait(10)


def free_ports(number: int) -> list[int]:
    socks = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [sock.getsockname()[1] for sock in socks]
    for sock in socks:
        sock.close()
    return ports


def open_at(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Receiver(BaseHTTPRequestHandler):
    """Takes spans in, as a collector of OpenTelemetry does."""

    spans: ClassVar[list] = []

    def do_POST(self):
        sent = ExportTraceServiceRequest()
        sent.ParseFromString(self.rfile.read(int(self.headers["content-length"])))
        for resource in sent.resource_spans:
            (service,) = [
                word.value.string_value for word in resource.resource.attributes if word.key == "service.name"
            ]
            self.spans.extend((service, span) for scope in resource.scope_spans for span in scope.spans)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.slow
def test_one_trace_shows_client_front_and_worker(tmp_path, monkeypatch):
    receiver = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=receiver.serve_forever, daemon=True).start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{receiver.server_port}")
    place = new_endpoint(tmp_path)
    add_deployment(place, "blue", write_bundle(tmp_path, "7"))
    set_traffic(place, {"blue": 100})
    try:
        start_endpoint(place)
        await_ready(place, "blue")
        trace = os.urandom(16)
        headers = {"Authorization": f"Bearer {read_keys(place)['primary']}"}
        headers["traceparent"] = f"00-{trace.hex()}-b7ad6b7169203331-01"
        url = "http://{host}:{port}/score".format(**read_endpoint(place))
        assert httpx.post(url, json=ROWS[:1], headers=headers).status_code == 200
        assert until(lambda: sum(span.trace_id == trace for _, span in Receiver.spans) == 2)
        spans = {service: span for service, span in Receiver.spans if span.trace_id == trace}
        assert spans["flights-blue"].parent_span_id == spans["flights-front"].span_id
        assert spans["flights-front"].parent_span_id.hex() == "b7ad6b7169203331"
    finally:
        kill_all(place)
        receiver.shutdown()


def out(place: Path, name: str) -> str:
    """Say why a deployment is out."""
    return endpoint_status(place)["deployments"][name]["ejected"]


@pytest.mark.slow
def test_a_probe_takes_a_deployment_out_and_lets_it_in_again(tmp_path):
    place = new_endpoint(tmp_path, probe_seconds=0.5)
    add_deployment(place, "blue", write_bundle(tmp_path, "7"))
    add_deployment(place, "green", write_bundle(tmp_path, "8"))
    set_traffic(place, {"blue": 50, "green": 50})
    try:
        start_endpoint(place)
        for name in ("blue", "green"):
            await_ready(place, name)
        (worker,) = pids(place, "green")
        os.kill(worker, signal.SIGSTOP)  # It lives, and is of no use; nobody asks it but the probe
        assert until(lambda: "probe failed" in out(place, "green"), 30)
        assert {score(place).headers["azureml-model-deployment"] for _ in range(20)} == {"blue"}
        os.kill(worker, signal.SIGCONT)
        assert until(lambda: not out(place, "green"), 30)
        assert until(lambda: score(place).headers["azureml-model-deployment"] == "green")
        model = place / read_endpoint(place)["deployments"]["green"]["bundle"] / "bundle/model/model.txt"
        model.rename(model.with_suffix(".gone"))  # It serves, and could not be started again
        assert until(lambda: "model.txt of its bundle was damaged" in out(place, "green"), 30)
        assert until(lambda: {score(place).headers["azureml-model-deployment"] for _ in range(20)} == {"blue"})
        model.with_suffix(".gone").rename(model)
        assert until(lambda: not out(place, "green"), 30)
    finally:
        kill_all(place)


@pytest.mark.slow
def test_a_hung_worker_is_replaced(tmp_path):
    place = new_endpoint(tmp_path)
    add_deployment(place, "blue", write_bundle(tmp_path, "7"))
    set_traffic(place, {"blue": 100})
    try:
        start_endpoint(place)
        await_ready(place, "blue")
        (worker,) = pids(place, "blue")
        os.kill(worker, signal.SIGSTOP)
        assert until(lambda: "no sign of life" in endpoint_status(place)["deployments"]["blue"]["last_words"], 60)
        assert until(lambda: score(place).status == 200)
    finally:
        kill_all(place)


@pytest.mark.slow
def test_workers_do_not_outlive_everybody_else(tmp_path):
    place = new_endpoint(tmp_path)
    add_deployment(place, "blue", write_bundle(tmp_path, "7"))
    try:
        start_endpoint(place)
        await_ready(place, "blue")
        front, supervisor = mark_of(place, "front"), mark_of(place, "supervisor")
        os.kill(front, signal.SIGSTOP)  # So that it starts no successor
        kill(supervisor)
        kill(front)
        assert processes_of(place)
        assert until(lambda: not processes_of(place), 60)
    finally:
        kill_all(place)


@pytest.mark.slow
def test_random_kills_under_load_lose_no_request(place):
    chance = random.Random(0)
    with change_endpoint(place) as state:
        state["limits"] |= {"timeout": 20.0, "concurrency": 1000}  # A supervisor needs seconds to start
    time.sleep(0.2)
    with load(place, rate=60) as client:
        for _ in range(15):
            targets = [*pids(place, "blue"), *pids(place, "green"), mark_of(place, "supervisor")]
            kill(chance.choice([pid for pid in targets if pid]))
            time.sleep(chance.uniform(0.1, 2.0))
            assert until(lambda: is_kept(place) and pids(place, "blue"), 40)
            assert score(place).status == 200  # After those that waited: one whose second worker dies, too, is given up
    assert {*client.codes} == {200}
