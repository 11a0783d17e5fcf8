"""Lineage: from a table to its raw files and back, and the same told to OpenLineage."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest
from openlineage.client import facet_v2
from openlineage.client.event_v2 import Run

SECRET = "pl4nted-s3cret"


def nodes(project, *words: str, **kind: str) -> list[dict]:
    "Nodes of a walk, of one kind."
    found = project.call("lineage", *words, "--json").json["nodes"]
    return [node for node in found if not kind or node["kind"] == kind["kind"]]


def test_gold_ends_at_raw_files_whose_hashes_match(landed):
    files = nodes(landed, "gold", "--back", kind="file")
    found = {hashlib.sha256(file.read_bytes()).hexdigest() for file in landed.raw.iterdir()}
    assert {file["sha256"] for file in files} == found and {file["state"] for file in files} == {"matches"}
    steps = [node["step"] for node in nodes(landed, "gold", "--back", kind="step")]
    assert steps == ["prep.gold", "prep.silver", "dataops.ingest"]
    for step in nodes(landed, "gold", kind="step"):
        assert step["run"] == landed.runs()[1] and step["code"] and step["key"] and "parameters" in step
    text = landed.call("lineage", "gold").out
    assert "source flights" in text and "three files: all match" in text
    assert text.strip().endswith("comes from three raw files: each is as it was landed")


def test_an_older_version_ends_at_what_was_landed_then(landed):
    old = landed.call("tables", "gold", "--json").json["tables"][1]
    files = {file["part"]: file["state"] for file in nodes(landed, f"gold@{old['version']}", "--back", kind="file")}
    assert files == {"2013-01": "matches", "2013-02": "changed since"}  # February was corrected later
    by_run = nodes(landed, f"gold@{landed.runs()[0]}", "--back")
    assert by_run == nodes(landed, f"gold@{old['version']}", "--back")


def test_a_raw_file_leads_to_everything_that_holds_it(landed):
    file = landed.raw / "flights-2013-03.csv"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    held = {node["name"] for node in nodes(landed, file.name, kind="data")}
    assert held == {"bronze", "silver", "gold"}
    assert nodes(landed, digest[:16]) == nodes(landed, file.name)
    old, new = (node for node in nodes(landed, "flights-2013-01.csv", kind="data") if node["name"] == "gold")
    assert {old["rows"], new["rows"]} == {5, 6}  # January is in both versions


def test_a_changed_and_a_missing_file_are_told(tables):
    file = tables.raw / "flights-2013-01.csv"
    file.write_text(file.read_text().replace("EWR,4", "EWR,5"))
    assert "1 changed since" in tables.call("lineage", "gold").out
    (tables.raw / "flights-2013-03.csv").unlink()
    told = tables.call("lineage", "gold").out
    assert "1 changed since, 1 not here, 1 matches" in told and "Two of three raw files" in told
    assert "Did you mean `gold`?" in tables.call("lineage", "glod").fault()[2]


def test_lineage_outlives_the_rows(tables):
    old = tables.call("tables", "gold", "--json").json["tables"][1]
    before = nodes(tables, f"gold@{old['version']}", "--back")
    assert "removed 0" not in tables.call("cache", "prune", "--keep", "1").out
    after = nodes(tables, f"gold@{old['version']}", "--back")
    assert [node["id"] for node in after] == [node["id"] for node in before]
    assert {node["stored"] for node in after if node["kind"] == "data"} == {False}
    assert [node["sha256"] for node in after if node["kind"] == "file"] == [
        node["sha256"] for node in before if node["kind"] == "file"
    ]


def test_the_pictures_stand_alone(landed, tmp_path):
    svg, page = tmp_path / "gold.svg", tmp_path / "gold.html"
    done = landed.call("lineage", "gold", "--svg", str(svg), "--html", str(page))
    assert done.rc == 0 and done.out.splitlines() == [str(svg), str(page)]
    drawn, text = svg.read_text(), page.read_text()
    assert "three files: all match" in drawn and "prefers-color-scheme" in drawn
    assert not re.search(r"(src|href)=[\"']?http", drawn + text) and text.count("<script") == 1
    assert "comes from three raw files: each is as it was landed" in text and text.count("Matches") == 3


# OpenLineage


def events(project) -> list[dict]:
    "What was told so far."
    return [json.loads(line) for line in (project.home / "openlineage.jsonl").read_text().splitlines()]


FACETS = {
    "schema": facet_v2.schema_dataset.SchemaDatasetFacet,
    "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet,
    "columnLineage": facet_v2.column_lineage_dataset.ColumnLineageDatasetFacet,
    "dataQualityMetrics": facet_v2.data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet,
    "outputStatistics": facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet,
    "parent": facet_v2.parent_run.ParentRunFacet,
    "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet,
    "nominalTime": facet_v2.nominal_time_run.NominalTimeRunFacet,
    "executionParameters": facet_v2.execution_parameters_run.ExecutionParametersRunFacet,
    "errorMessage": facet_v2.error_message_run.ErrorMessageRunFacet,
    "jobType": facet_v2.job_type_job.JobTypeJobFacet,
    "documentation": facet_v2.documentation_job.DocumentationJobFacet,
}


def check_facet(name: str, facet: dict) -> None:
    "Hold a facet against the client's own class: each field that it demands is there, and none that it does not know."
    kind = FACETS[name]
    own = {key: value for key, value in facet.items() if not key.startswith("_")}
    assert facet["_schemaURL"] == kind._get_schema() and facet["_producer"]
    kind(**own)


def test_events_are_whole(landed):
    told = events(landed)
    pairs: dict[str, list[str]] = {}
    for event in told:
        pairs.setdefault(event["run"]["runId"], []).append(event["eventType"])
        Run(event["run"]["runId"])
        assert {"eventTime", "producer", "schemaURL", "job", "run"} <= event.keys()
        facets = {**event["run"]["facets"], **event["job"]["facets"]}
        for dataset in (*event["inputs"], *event["outputs"]):
            assert dataset["namespace"] and dataset["name"]
            facets |= dataset["facets"] | dataset.get("inputFacets", {}) | dataset.get("outputFacets", {})
        for name, facet in facets.items():
            check_facet(name, facet)
    assert all(states == ["START", "COMPLETE"] for states in pairs.values()) and len(pairs) == 8  # Two runs, six steps
    assert [event["job"]["name"] for event in told][:3] == ["train", "train.dataops.ingest", "train.dataops.ingest"]
    parents = {event["run"]["facets"]["parent"]["run"]["runId"] for event in told if event["job"]["name"] != "train"}
    assert parents == {event["run"]["runId"] for event in told if event["job"]["name"] == "train"}
    assert SECRET not in json.dumps(told) and str(landed.root) not in json.dumps(told)


def test_columns_are_followed_from_the_raw_file_to_the_feature(landed):
    made = {
        dataset["name"]: dataset
        for event in events(landed)
        if event["eventType"] == "COMPLETE"
        for dataset in event["outputs"]
    }

    def sources(table: str, column: str) -> list[str]:
        fields = made[table]["facets"]["columnLineage"]["fields"]
        return [f"{field['name']}.{field['field']}" for field in fields[column]["inputFields"]]

    assert sources("bronze/flights", "delay") == ["{RAW}/flights-{part}.csv.delay"]
    assert sources("silver/flights", "delay") == ["bronze/flights.delay"]
    assert sources("gold", "share") == ["silver/flights.delay", "silver/flights.flight"]  # As the workload declares
    assert "flight" not in made["gold"]["facets"]["columnLineage"]["fields"]  # Nothing is guessed
    assert made["gold"]["outputFacets"]["outputStatistics"]["rowCount"] == 6
    assert {made[name]["namespace"] for name in made} == {"toy.dev"}


def test_what_ran_is_told_once_and_a_failure_is_told_as_one(tables):
    before = events(tables)
    tables.run()
    assert events(tables) == before  # Nothing ran
    done = tables.run("-p", "gold.late_after=-1")
    assert done.states["gold"] == "failed"
    new = events(tables)[len(before) :]
    assert [(event["eventType"], event["job"]["name"]) for event in new] == [
        ("START", "train"),
        ("START", "train.prep.gold"),
        ("FAIL", "train.prep.gold"),
        ("FAIL", "train"),
    ]
    message = new[2]["run"]["facets"]["errorMessage"]["message"]
    assert "no flight is late by -1.0" in message and SECRET not in json.dumps(new)
    (failed,) = [node for node in nodes(tables, "silver", "--forward", kind="step") if node["status"] == "failed"]
    assert failed["step"] == "prep.gold" and failed["run"] == tables.runs()[-1]  # It used silver all the same


@pytest.mark.slow
def test_an_unchanged_run_does_not_import_openlineage(tables):
    (tables.root / "openlineage").mkdir()
    (tables.root / "openlineage" / "__init__.py").write_text("raise SystemExit('imported')")
    done = tables.run(PYTHONPATH=str(tables.root))
    assert done.rc == 0 and set(done.states.values()) == {"cached"}, done.err
    done = tables.run("-p", "gold.late_after=3", PYTHONPATH=str(tables.root))
    assert done.rc != 0 and "imported" in done.err  # So it would have been seen


@pytest.mark.slow
def test_a_kill_while_telling_leaves_a_file_that_the_next_run_completes(tables):
    file, book = tables.home / "openlineage.jsonl", tables.home / "ledger.jsonl"
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:-3]) + lines[-3][:40])  # Killed in the middle of a line
    kept = [line for line in book.read_text().splitlines(keepends=True) if '"event": "emitted"' not in line]
    first = next(line for line in book.read_text().splitlines(keepends=True) if '"event": "emitted"' in line)
    book.write_text("".join([*kept, first]))
    tables.run("-p", "gold.late_after=2")
    assert file.read_bytes().startswith(whole)
    assert len(events(tables)) == len(lines) + 4


class Backend(BaseHTTPRequestHandler):
    "Hear events, and refuse the first ones."

    heard: ClassVar[list[tuple[dict, str]]] = []
    refuse = 0

    def do_POST(self):
        "Take one."
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Backend.refuse -= 1
        if Backend.refuse < 0:
            Backend.heard.append((content, self.headers.get("Authorization", "")))
        self.send_response(201 if Backend.refuse < 0 else 400)
        self.end_headers()

    def log_message(self, *words):
        "Say nothing."


@pytest.fixture
def backend():
    "A backend of OpenLineage on this machine."
    server = HTTPServer(("127.0.0.1", 0), Backend)
    Backend.heard, Backend.refuse = [], 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_configured_backend_hears_it_and_one_that_refuses_does_not_fail_the_run(tables, backend):
    before, Backend.refuse = events(tables), 1
    there = {"OPENLINEAGE_URL": backend, "OPENLINEAGE_API_KEY": "k3y-to-the-backend"}
    done = tables.run("-p", "gold.late_after=3", **there)
    assert done.json["status"] == "passed" and done.states["gold"] == "executed" and done.rc == 4
    what, where, remedy = done.fault()
    assert "the lineage backend cannot be used" in what and where == backend and "the next run sends it" in remedy
    assert tables.run("-p", "gold.late_after=4", **there).rc == 0
    told = [event for event, key in Backend.heard if key == "Bearer k3y-to-the-backend"]
    assert len(told) == 8 and {event["eventType"] for event in told} == {"START", "COMPLETE"}  # Both runs
    assert events(tables) == before and SECRET not in json.dumps(told)
    assert "k3y-to-the-backend" not in (tables.home / "ledger.jsonl").read_text()
