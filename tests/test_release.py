"""A release on a real endpoint: what is good comes to serve, what is bad does not, and no client notices either."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from released import (
    QUICK,
    RATE,
    Clients,
    Versions,
    another_column,
    endpoint,
    many_rows,
    not_finite,
    other_answers,
    real_rows,
    reversed_scores,
    running,
    serving,
    shifted,
    slightly_other,
    slow,
    truncated,
)

from mlops_kit.deployment.endpoint.client import ask
from mlops_kit.deployment.endpoint.state import read_endpoint, read_live
from mlops_kit.deployment.releases.release_page import release_page
from mlops_kit.deployment.releases.release_record import open_record, read_records
from mlops_kit.deployment.releases.replay import replay
from mlops_kit.deployment.releases.rollout import release, roll_back
from mlops_kit.project import KitError


@pytest.fixture(scope="module")
def versions(tmp_path_factory) -> Versions:
    return Versions(tmp_path_factory.mktemp("versions"))


@pytest.fixture(scope="module")
def serves(versions, tmp_path_factory) -> Path:
    """An endpoint that serves version 7."""
    with endpoint(tmp_path_factory.mktemp("home"), versions.trusted) as place:
        clients = Clients(place)
        record = release(place, versions.make("7"), QUICK, "Ada", "the first one", versions.trusted, traffic=clients)
        assert record["state"] == "promoted", record["reason"]
        yield place


@pytest.fixture
def place(serves, versions) -> Path:
    """The endpoint with version 7, whatever another test did."""
    if open_record(serves):
        roll_back(serves, "Ada", "the next test")
    if serving(serves) != {"7": 100}:
        roll_back(serves, "Ada", "the next test")
    assert serving(serves) == {"7": 100}
    return serves


def quietly(place: Path, bundle: Path, versions: Versions, traffic: Callable | None = None, **more) -> dict:
    """Release without a word."""
    rules = QUICK | more.pop("rules", {})
    return release(place, bundle, rules, "Ada", trusted=versions.trusted, traffic=traffic, tell=lambda _: None, **more)


def stages(record: dict) -> dict[str, str]:
    return {stage["stage"]: stage["verdict"] for stage in record["stages"]}


def test_the_first_version_has_nobody_to_be_compared_with(serves):
    first = read_records(serves)[0]
    assert [*stages(first)] == ["verify", "start", "try", "canary 100%", "promote"] and first["champion"] == ""
    assert "nobody" not in release_page(first) and "Version 7 serves all requests" in release_page(first)


def test_a_good_version_comes_to_serve_and_goes_again_unnoticed(place, versions):
    clients, told = Clients(place), []
    note = lambda **said: told.append((said, serving(place)))  # noqa: E731
    record = quietly(place, versions.make("8", slightly_other), versions, clients, note=note)
    assert record["state"] == "promoted", record["reason"]
    assert {*stages(record).values()} == {"pass"} and all(stage["ended"] for stage in record["stages"])
    assert [*stages(record)][3:] == ["shadow", "canary 30%", "canary 100%", "promote"]
    assert serving(place) == {"8": 100} and clients.lost == [] and len(clients.answers) > 100
    assert {*clients.answers["deployment"]} == {"blue", "green"}
    assert running(place) == {"7", "8"}, "the one before stays warm"
    begun = {said["stage"]: shares for said, shares in told if said.get("verdict") == "began"}
    assert begun["canary 30%"] == {"7": 100} and begun["canary 100%"] == {"8": 30, "7": 70}, "told before it is done"
    assert (
        told[0][0]["by"] == "Ada"
        and told[-1][0]["state"] == "promoted"
        and all(said["id"] and said["version"] == "8" for said, _ in told)
    )
    back = roll_back(place, "Ada", "a test")
    assert serving(place) == {"7": 100} and back["version"] == "7"
    time.sleep(0.3)  # The front follows within a tenth of a second
    assert ask(place, body=real_rows().head(1).to_dicts()).headers["x-model-version"] == "7"
    with pytest.raises(KitError, match="version 7 serves since the rollback"):
        roll_back(place, "Ada", "typed twice")
    assert serving(place) == {"7": 100}


BAD = {
    "another column": ("verify", "columns", another_column, "refused"),
    "half a model": ("start", "start", truncated, "rolled back"),
    "other answers": ("try", "golden rows", other_answers, "rolled back"),
    "shifted by 0.2": ("shadow", "shift in the shadow", shifted, "rolled back"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_version_is_stopped_by_the_gate_made_for_it(name, place, versions):
    stage, gate, change, state = BAD[name]
    clients = Clients(place)
    bundle = versions.make(change.__name__, change, golden=change is shifted)
    rules = {"agreement_at_least": 0.0} if gate.startswith("shift") else {"shift_at_most": 1.0}
    record = quietly(place, bundle, versions, clients, rules=rules)
    assert (record["state"], record["stage"]) == (state, stage), record["reason"]
    failed = [told["gate"] for told in record["stages"][-1]["gates"] if told["verdict"] == "fail"]
    assert gate in failed and gate in record["reason"]
    assert serving(place) == {"7": 100} and clients.lost == []
    shown = release_page(record)
    assert "version 7 serves" in shown and record["reason"][1:60] in shown


def test_a_slow_model_is_stopped_before_a_client_waits_for_it(place, versions):
    clients, bundle = Clients(place), versions.make("slow", slow, golden=True)
    record = quietly(place, bundle, versions, clients, rules={"latency_ms_at_most": 1.0})
    assert (record["state"], record["stage"]) == ("rolled back", "try") and "latency of one row" in record["reason"]
    assert serving(place) == {"7": 100} and clients.lost == []


def test_a_bundle_with_one_byte_changed_is_refused_by_the_name_of_the_file(place, versions):
    bundle = versions.make("9", slightly_other)
    file = bundle / "bundle/model/model.txt"
    whole = file.read_bytes()
    try:
        file.write_bytes(whole.replace(b"3", b"4", 1))
        record = quietly(place, bundle, versions)
    finally:
        file.write_bytes(whole)
    assert (record["state"], record["stage"]) == ("refused", "verify") and "model/model.txt" in record["reason"]


def test_a_bundle_signed_by_another_key_is_refused(place, versions, tmp_path):
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric import ec

    other = ec.generate_private_key(ec.SECP256R1())
    pem = other.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "other.pub").write_bytes(pem)
    bundle = versions.make("8", slightly_other)
    record = release(place, bundle, QUICK, "Ada", trusted=tmp_path / "other.pub", tell=lambda _: None)
    assert (record["state"], record["stage"]) == ("refused", "verify") and serving(place) == {"7": 100}


def test_predictions_that_are_no_numbers_are_found_before_a_client_gets_one(place, versions):
    clients = Clients(place)
    record = quietly(place, versions.make("nan", not_finite), versions, clients, rules={"shadow": 200})
    assert (record["state"], record["stage"]) == ("rolled back", "shadow"), record["reason"]
    assert serving(place) == {"7": 100} and clients.lost == [] and clients.answers["score"].is_finite().all()


def test_without_requests_a_release_is_held_and_goes_on_when_they_come(place, versions):
    bundle, rules = versions.make("8", slightly_other), {"wait": 0.4, "shadow": 0}
    held = quietly(place, bundle, versions, rules=rules)
    assert (held["state"], held["stage"]) == ("held", "canary 30%") and serving(place) == {"7": 70, "8": 30}
    assert held["stages"][-1]["gates"][0]["missing"] == 20 and "20 more requests" in held["reason"]
    again = quietly(place, bundle, versions, rules=rules, break_glass="nobody asks at night")
    assert (again["id"], again["state"]) == (held["id"], "held"), "still nobody has come"
    done = quietly(place, bundle, versions, Clients(place), rules={"shadow": 0})
    assert "nobody asks at night" in release_page(done) and "nan" not in json.dumps(held["stages"])
    assert (done["id"], done["state"]) == (held["id"], "promoted") and serving(place) == {"8": 100}


def test_a_held_release_is_rolled_back_by_hand(place, versions):
    held = quietly(place, versions.make("8", slightly_other), versions, rules={"wait": 0.2})
    assert (held["state"], held["stage"]) == ("held", "shadow")
    back = roll_back(place, "Grace", "lunch")
    assert (back["id"], back["state"]) == (held["id"], "rolled back") and "Grace" in back["reason"]
    assert serving(place) == {"7": 100} and open_record(place) is None


@pytest.mark.slow
def test_another_version_takes_the_place_of_a_held_one(place, versions):
    held = quietly(place, versions.make("8", slightly_other), versions, rules={"wait": 0.2})
    done = quietly(place, versions.make("10", slightly_other), versions, Clients(place))
    found = {record["id"]: record for record in read_records(place)}
    assert found[held["id"]]["state"] == "rolled back" and "10" in found[held["id"]]["reason"]
    assert done["state"] == "promoted" and serving(place) == {"10": 100}


def test_of_two_releases_the_second_refuses_or_waits(place, versions):
    bundle, found = versions.make("8", slightly_other), []
    first = threading.Thread(target=lambda: found.append(quietly(place, bundle, versions, rules={"wait": 2.0})))
    first.start()
    while not open_record(place):
        time.sleep(0.01)
    with pytest.raises(KitError) as refused:
        quietly(place, bundle, versions)
    assert "release of flights 8 (process" in refused.value.what
    second = quietly(place, bundle, versions, rules={"wait": 0.1}, wait_for_others=30.0)
    first.join()
    assert second["id"] == found[0]["id"] and second["state"] == "held"


def test_blue_green_is_the_case_of_one_step(place, versions):
    clients = Clients(place)
    rules = {"canary": [100], "shadow": 0}
    record = quietly(place, versions.make("8", slightly_other), versions, clients, rules=rules, break_glass="a fire")
    assert [*stages(record)] == ["verify", "start", "try", "canary 100%", "promote"] and record["state"] == "promoted"
    assert clients.lost == [] and "a fire" in release_page(record)


@pytest.mark.parametrize("file", ["bundle/model/model.txt", "bundle.sig"])
def test_what_serves_and_was_damaged_is_made_anew_by_its_own_release(file, place, versions):
    state = read_endpoint(place)
    copy = place / state["deployments"][next(iter(state["traffic"]))]["bundle"] / file
    whole = copy.read_bytes()
    copy.write_bytes(whole[:-1])
    record = quietly(place, versions.make("7"), versions)
    assert record["reason"] == "version 7 serves already" and copy.read_bytes() == whole


KILLED = Path(__file__).parent / "killed_release.py"


def kill(place: Path, bundle: Path, versions: Versions, moment: int) -> bool:  # Whether it was killed
    """Release, and be killed at a moment."""
    words = [place, bundle, versions.trusted, moment]
    done = subprocess.run([sys.executable, KILLED, *map(str, words)], capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    assert ask(place, body=ROW).status == 200, f"nobody serves after a kill at moment {moment}"
    return done.returncode != 0


ROW = real_rows().head(1).to_dicts()


def go_on(place: Path, versions: Versions, bundle: Path, moment: int) -> None:
    """See that the next release ends what a killed one began."""
    clients = Clients(place)
    record = quietly(place, bundle, versions, clients)
    assert record["state"] == "promoted" and serving(place) == {"8": 100}, (moment, record["reason"])
    assert clients.lost == [] and open_record(place) is None, moment
    roll_back(place, "Ada", "the next kill")


def go_back(place: Path, moment: int) -> None:
    """See that a rollback ends what a killed release began."""
    begun = open_record(place)
    if begun or serving(place) != {"7": 100}:  # Else it was killed before it had begun
        roll_back(place, "Ada", "it was killed")
    assert serving(place) == {"7": 100} and open_record(place) is None, moment


def test_a_killed_release_is_gone_on_with(place, versions):
    bundle, moment = versions.make("8", slightly_other), 14
    assert kill(place, bundle, versions, moment)
    go_on(place, versions, bundle, moment)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_any_moment_the_next_command_goes_on(place, versions):
    """Every third step here; the two tests below begin one and two steps later."""
    bundle, moment = versions.make("8", slightly_other), 0
    while kill(place, bundle, versions, moment):
        go_on(place, versions, bundle, moment)
        moment += 3
    assert moment > 15


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_at_any_moment_a_rollback_ends_it(place, versions):
    bundle, moment = versions.make("8", slightly_other), 1
    while kill(place, bundle, versions, moment):
        go_back(place, moment)
        moment += 3
    assert moment > 15


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_while_it_rolls_back_a_bad_version_never_comes_to_serve(place, versions):
    bundle, moment = versions.make("shifted", shifted), 2
    while kill(place, bundle, versions, moment):
        record = quietly(place, bundle, versions, Clients(place))
        assert record["state"] == "rolled back" and serving(place) == {"7": 100}, (moment, record["reason"])
        moment += 3
    assert moment > 10


def held_in(place: Path, versions: Versions, stage: str, act: Callable[[], None]) -> dict:
    """Release while something happens in a stage that waits for requests; they come after it."""
    clients, bundle, found = Clients(place), versions.make("8", slightly_other), []

    def late(enough: threading.Event) -> None:
        while (open_record(place) or {}).get("stage") != stage:
            time.sleep(0.01)
        act()
        clients(enough)

    found.append(quietly(place, bundle, versions, late, rules={} if stage == "shadow" else {"shadow": 0}))
    assert clients.lost == []
    return found[0]


@pytest.mark.slow
def test_a_front_that_is_killed_is_no_fault_of_the_new_version(place, versions):
    front = read_live(place)["front"]["pid"]
    record = held_in(place, versions, "shadow", lambda: os.kill(front, signal.SIGKILL))
    assert record["state"] == "promoted" and serving(place) == {"8": 100}, record["reason"]
    assert read_live(place)["front"]["pid"] != front


def test_a_new_version_whose_worker_dies_is_rolled_back(place, versions):
    def kill_worker() -> None:
        (worker,) = read_live(place)["deployments"][open_record(place)["new"]]["workers"]
        os.kill(worker["pid"], signal.SIGKILL)

    record = held_in(place, versions, "canary 30%", kill_worker)
    assert record["state"] == "rolled back" and serving(place) == {"7": 100}, record["reason"]
    assert "died" in record["reason"]


def with_labels(place: Path) -> Callable[[threading.Event], None]:
    """Clients that say soon after what really happened."""
    rows = many_rows(real_rows("late"), 30_000)

    def send(enough: threading.Event) -> None:
        for part in rows.iter_slices(200):
            if enough.is_set():
                return
            answers = replay(place, part.drop("late"), RATE, enough=enough)
            known = answers.select("request_id", label=part["late"][: len(answers)]).drop_nulls()
            ask(place, "/feedback", known.to_dicts())

    return send


def test_labels_that_come_during_a_release_stop_a_version_that_is_wrong(place, versions):
    rules = {"agreement_at_least": 0.0, "shift_at_most": 1.0, "least_requests": 2000}
    record = quietly(place, versions.make("wrong", reversed_scores), versions, with_labels(place), rules=rules)
    assert (record["state"], record["stage"]) == ("rolled back", "canary 30%"), record["reason"]
    assert "quality failed" in record["reason"] and "labels" in record["reason"] and serving(place) == {"7": 100}


@pytest.mark.slow
def test_a_killed_rollback_is_ended_and_not_turned_round(place, versions):
    assert quietly(place, versions.make("8", slightly_other), versions, Clients(place))["state"] == "promoted"
    words = [sys.executable, KILLED, place, "-", versions.trusted, "1"]
    done = subprocess.run(words, timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL and open_record(place)["kind"] == "rollback"
    told = []
    record = roll_back(place, "Grace", "again", restore=told.append)
    assert (record["by"], told, serving(place)) == ("Ada", ["7"], {"7": 100}) and open_record(place) is None
    good = versions.make("8", slightly_other)
    assert quietly(place, good, versions, Clients(place))["state"] == "promoted"
    assert subprocess.run(words, timeout=60, check=False).returncode == -signal.SIGKILL
    record = quietly(place, good, versions, Clients(place), restore=told.append)  # Ends the rollback first
    assert told == ["7", "7"] and record["champion_version"] == "7" and serving(place) == {"8": 100}
