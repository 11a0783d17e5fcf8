"""Versions of tables: listed, compared, read again by parameter, and kept as long as a run in retention used them."""

import json

import pytest


def versions(project, name: str) -> list[dict]:
    "Versions of a table, the newest first."
    return project.call("tables", name, "--json").json["tables"]


def test_every_version_is_listed_with_rows_freshness_and_runs(landed):
    new, old = versions(landed, "gold")
    first, second = landed.runs()[:2]
    assert (old["rows"], new["rows"], old["partitions"], new["partitions"]) == (5, 6, 2, 3)
    assert [maker["run"] for maker in old["made"]] == [first] and [maker["run"] for maker in new["made"]] == [second]
    assert new["newest"] == {"column": "at", "value": "2013-03-01 00:00:00"} and new["stored"]
    silver = versions(landed, "silver/flights")
    assert [use["step"] for use in silver[0]["used"]] == ["prep.gold"] and len(versions(landed, "silver/airports")) == 1
    bronze = versions(landed, "bronze/flights")[0]
    assert bronze["fresh"] >= bronze["first"][:10] and bronze["used"][0]["step"] == "prep.silver"
    text = landed.call("tables").out
    assert "gold" in text.splitlines() and f"{new['version']}  stored" in text and second in text


def test_a_difference_is_told_by_partition_and_column_and_equal_partitions_are_not_read(tables):
    new, old = versions(tables, "gold")
    for version in (new, old):  # January is equal: nobody may need its rows
        file = tables.home / version["place"] / "month=2013-01/part-0.parquet"
        content = file.stat()
        file.chmod(0o644)
        file.write_bytes(b"x" * content.st_size)
    told = tables.call("tables", "show", "gold", "--diff", old["version"], "--json").json
    assert told["partitions"]["equal"] == 1 and told["partitions"]["added"] == {"month=2013-03": 1}
    february = told["partitions"]["changed"]["month=2013-02"]
    assert february == {"added": 1, "removed": 1, "changed": 1, "columns": {"delay": 1, "late": 1, "share": 1}}
    assert told["columns"] == {"added": [], "removed": [], "changed": {}}
    text = tables.call("tables", "show", "gold", "--run", tables.runs()[1], "--diff", tables.runs()[0]).out
    assert "two rows added, one row removed, one row changed; one equal partition not read" in text
    assert "column delay: 1 values changed" in text


def test_a_version_is_shown_with_its_schema_and_partitions(landed):
    shown = landed.call("tables", "show", "silver/flights", "--json").json
    assert shown["schema"]["delay"] == "Float64" and shown["key"] == ["flight"]
    assert {name: part["rows"] for name, part in shown["partitions"].items()}["month=2013-02"] == 3
    assert "silver/airports" in landed.call("tables", "show", "silver").out


def test_a_name_that_nobody_made_is_answered_with_the_nearest(landed):
    assert "Did you mean `gold`?" in landed.call("tables", "show", "glod").fault()[2]
    what, _, remedy = landed.call("tables", "show", "gold@0badc0de").fault()
    assert "has no version `0badc0de`" in what and versions(landed, "gold")[0]["version"] in remedy
    assert landed.call("tables", "nothing").rc == 2


def test_a_step_reads_an_older_version_by_parameter(tables):
    new, old = versions(tables, "gold")
    silver = versions(tables, "silver")[1]
    done = tables.run("-p", f"gold.silver=silver@{silver['version']}")
    assert done.states["gold"] == "cached" and done.steps["gold"]["key"] == old["key"]  # The rows of before
    done = tables.run("-p", f"gold.silver=silver@{tables.runs()[0]}", "-p", "gold.late_after=1")
    assert done.states["gold"] == "executed" and versions(tables, "gold")[0]["rows"] == old["rows"] != new["rows"]
    event = [event for event in tables.events() if event["event"] == "step" and event["step"] == "prep.gold"][-1]
    assert event["inputs"]["silver"]["key"] == silver["key"]
    graph = tables.call("lineage", "gold", "--back", "--json").json
    assert f"silver@{silver['version']}" in {node["id"] for node in graph["nodes"]}


def test_a_version_that_is_not_there_stops_the_run_before_it_begins(tables):
    before = tables.runs()
    done = tables.call("run", "train", "-p", "gold.silver=silver@0badc0de")
    what, where, remedy = done.fault()
    assert done.rc == 2 and "no version `0badc0de`" in what and where == "-p" and "Known are" in remedy
    done = tables.call("run", "train", "-p", "gold.silver=sliver@0badc0de")
    assert done.rc == 2 and "Did you mean `silver`?" in done.fault()[2] and tables.runs() == before


def test_settings_can_name_a_version(tables):
    silver = versions(tables, "silver")[1]
    text = (tables.root / "settings.ini").read_text()
    text = text.replace("[source", f"gold.silver = silver@{silver['version']}\n[source")
    tables.settings(text)
    assert f"reads  silver (silver@{silver['version']})" in tables.call("graph", "train").out


def test_pruning_keeps_what_a_retained_run_used(tables):
    silver = versions(tables, "silver")
    tables.run("-p", f"gold.silver=silver@{silver[1]['version']}")  # A young run that uses the old rows
    assert "removed 3 results" in tables.call("cache", "prune", "--keep", "1").out  # Two of bronze, and the new gold
    assert [version["stored"] for version in versions(tables, "silver")] == [True, True]
    assert tables.run("-p", f"gold.silver=silver@{silver[1]['version']}").states["gold"] == "cached"
    tables.run("--until", "silver")
    tables.call("cache", "prune", "--keep", "1")
    kept = {version["version"]: version["stored"] for version in versions(tables, "silver")}
    assert kept == {silver[0]["version"]: True, silver[1]["version"]: False}
    assert [version["stored"] for version in versions(tables, "gold")] == [True, False]  # `data/gold` is the old one
    done = tables.call("run", "train", "-p", f"gold.silver=silver@{silver[1]['version']}")
    assert done.rc == 2 and "were pruned" in done.fault()[0] and tables.runs()[0] in done.fault()[2]


@pytest.mark.slow
def test_settings_say_how_long_results_stay(tables):
    text = (tables.root / "settings.ini").read_text()
    assert "removed 0 results" in tables.call("cache", "prune").out  # 50 runs by default
    tables.settings(text.replace("tracking_uri =", "tracking_uri =\nkeep_runs = 1\nkeep_days = 30"))
    assert "removed 0 results" in tables.call("cache", "prune").out
    tables.settings(text.replace("tracking_uri =", "tracking_uri =\nkeep_runs = 1"))
    assert "removed 0" not in tables.call("cache", "prune").out
    tables.land("2013-04", "8,2013-04-01,EWR,3")
    tables.run("--until", "ingest")
    made = [
        json.loads(line) for file in tables.home.glob("*/*/records.jsonl") for line in file.read_text().splitlines()
    ]
    assert ["2013-04"] in [[*record["made"]] for record in made if record["record"] == "pieces"]  # Older pieces stayed
