"""What `mlops-kit compile` writes, read back by Azure's own loaders and compared with the graph."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mlops_kit.azure.components import compile_pipeline
from mlops_kit.graph import build_graph
from mlops_kit.notebooks import find_steps
from mlops_kit.project import SettingsError
from mlops_kit.settings import bind_pipeline, read_settings

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
TYPES = {"int": "integer", "float": "number", "bool": "boolean"}


@pytest.fixture(scope="module")
def graph():
    return build_graph(bind_pipeline(read_settings(ROOT), find_steps(ROOT), "train", "dev"))


@pytest.fixture
def compiled(graph, tmp_path):
    compile_pipeline(graph, tmp_path / "out")
    return tmp_path / "out"


def differences(graph, folder: Path) -> list[str]:
    """Load everything with azure-ai-ml, and name what differs from the graph."""
    from azure.ai.ml import load_component, load_job

    found = []
    for step in graph.order:
        loaded = load_component(folder / "components" / step.name / "component.yml")
        found += [f"{step.name}: {fault}" for fault in loaded._validate().error_messages]
        wanted = {p.name for p in step.params.values() if p.word != "output"}
        if set(loaded.inputs) != wanted or set(loaded.outputs) != {*step.named("output"), "run"}:
            found.append(f"{step.name}: names of inputs or outputs")
        for name in wanted:
            param, given = step.params[name], loaded.inputs[name]
            kind = "uri_folder" if param.word == "input" else TYPES.get(param.annotation.partition(" |")[0], "string")
            if given.type != kind or bool(given.optional) != ("None" in param.annotation):
                found.append(f"{step.name}.{name}: type")
            if kind in TYPES.values() and given.default != param.default:
                found.append(f"{step.name}.{name}: default {given.default}")
    job = load_job(folder / "pipeline.yml")
    found += job._validate().error_messages.values()
    edges = set()
    for consumer, node in job.jobs.items():
        for name, source in node._build_inputs().items():
            match = re.fullmatch(r"\$\{\{parent\.jobs\.(\w+)\.outputs\.(\w+)\}\}", str(getattr(source, "path", source)))
            if match:
                edges.add((match[1], consumer, name))
            elif graph_value(graph, consumer, name) != str(source):
                found.append(f"{consumer}.{name}: value {source}")
    if edges != {(a.replace(".", "_"), b.replace(".", "_"), name) for a, b, name in graph.edges}:
        found.append(f"edges: {sorted(edges)}")
    return found


def graph_value(graph, job: str, name: str) -> str:
    step = next(step for step in graph.order if step.name.replace(".", "_") == job)
    value = graph.pipeline.values[step.name][name].value
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value)


def test_azure_loads_what_was_compiled_and_finds_the_same_graph(graph, compiled):
    assert differences(graph, compiled) == []


@pytest.mark.parametrize(
    "file, old, new, fault",
    [
        (
            "pipeline.yml",
            "parent.jobs.dataops_clean.outputs.silver",
            "parent.jobs.dataops_ingest.outputs.silver",
            "edges",
        ),
        ("pipeline.yml", "trees: 400", "trees: 40", "training_train.trees: value 40"),
        ("components/training.train/component.yml", "type: number", "type: string", "type"),
        ("components/training.train/component.yml", "default: 40", "default: 41", "training.train.trees: default"),
    ],
)
def test_a_planted_difference_is_found(graph, compiled, file, old, new, fault):
    text = (compiled / file).read_text()
    assert old in text
    (compiled / file).write_text(text.replace(old, new))
    try:
        found = differences(graph, compiled)
    except Exception as error:  # Azure's loader may refuse the file altogether
        found = [f"{fault}: {error}"] if fault == "edges" else []
    assert any(fault in line for line in found), found


def test_compiling_twice_gives_equal_bytes(graph, compiled, tmp_path):
    compile_pipeline(graph, tmp_path / "again")
    for file in sorted(compiled.rglob("*")):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "again" / file.relative_to(compiled)).read_bytes()


PARAMETERS = """
count: int = 1
share: float = 0.5
on: bool = True
text: str = "plain"
names: list[str] = []
bars: dict = {}
until: str | None = None
since: str | None = None
bronze: Input = "samples/x"
silver: Output = "scratch/x"
"""
SEEN = """
import json, pathlib
seen = dict(count=count, share=share, on=on, text=text, names=names, bars=bars, until=until, since=since, bronze=bronze)
pathlib.Path(silver).mkdir(exist_ok=True)
(pathlib.Path(silver) / "seen.json").write_text(json.dumps(seen))
"""


def notebook(folder: Path) -> None:
    def code(source: str, *tags: str) -> dict:
        return {
            "cell_type": "code",
            "id": f"c{len(cells)}",
            "metadata": {"tags": list(tags)},
            "source": source,
            "outputs": [],
        }

    cells: list[dict] = []
    cells.append(code("#| default_exp room.show"))
    cells.append(code("from mlops_kit.steps import Input, Output"))
    cells.append(code(PARAMETERS.strip(), "parameters"))
    cells.append({"cell_type": "markdown", "id": "m", "metadata": {}, "source": "## Run"})
    cells.append(code(SEEN))
    (folder / "nbs").mkdir()
    (folder / "nbs" / "show.ipynb").write_text(
        json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
    )


def test_the_command_of_a_component_hands_over_every_value(tmp_path):
    """Papermill runs it in a shell, with the inputs put in as the service does."""
    notebook(tmp_path)
    given = {
        "count": "0",
        "share": "1e-3",
        "on": "false",
        "text": 'a "b" $HOME `c` é 007',
        "names": '["it\'s", "x y"]',
        "bars": '{"auc_at_least": 0.5}',
        "since": "2013-01",
    }
    lines = "".join(f"show.{name} = {value}\n" for name, value in given.items())
    (tmp_path / "settings.ini").write_text(f'[pipeline.p]\nsteps = ["show"]\nshow.bronze = data\n{lines}')
    steps = {name: step for name, step in find_steps(tmp_path).items() if name == "room.show"}
    bound = bind_pipeline(read_settings(tmp_path), steps, "p", "dev")
    compile_pipeline(build_graph(bound), tmp_path / "out")
    component = tmp_path / "out/components/room.show"
    text = yaml.safe_load((component / "component.yml").read_text())["command"]
    job = yaml.safe_load((tmp_path / "out/pipeline.yml").read_text())["jobs"]["room_show"]["inputs"]
    job["bronze"] = str(tmp_path / "data folder")
    (tmp_path / "run").mkdir()
    # An optional group goes when its input is not given; the rest is textual replacement
    text = re.sub(r"\$\[\[(.*?inputs\.(\w+).*?)\]\]", lambda m: m[1] if m[2] in job else "", text)
    for name, value in job.items():
        text = text.replace(f"${{{{inputs.{name}}}}}", str(value))
    for name in ("silver", "run"):
        text = text.replace(f"${{{{outputs.{name}}}}}", str(tmp_path / name))
    command = text.replace("papermill", shlex.quote(str(BIN / "papermill")), 1)
    done = subprocess.run(command, shell=True, cwd=component / "code", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen = json.loads((tmp_path / "silver/seen.json").read_text())
    assert seen == {
        "count": 0,
        "share": 0.001,
        "on": False,
        "text": 'a "b" $HOME `c` é 007',
        "names": ["it's", "x y"],
        "bars": {"auc_at_least": 0.5},
        "until": None,
        "since": "2013-01",
        "bronze": str(tmp_path / "data folder"),
    }
    assert (tmp_path / "run/show.ipynb").exists()


def test_none_that_azure_cannot_say_is_refused(tmp_path):
    (tmp_path / "nbs").mkdir()
    cells = [
        {"cell_type": "code", "metadata": {}, "source": "#| default_exp room.show"},
        {"cell_type": "code", "metadata": {"tags": ["parameters"]}, "source": "until: str | None = 'later'"},
        {"cell_type": "markdown", "metadata": {}, "source": "## Run"},
        {"cell_type": "code", "metadata": {}, "source": "print(until)"},
    ]
    (tmp_path / "nbs" / "show.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "settings.ini").write_text('[pipeline.p]\nsteps = ["show"]\nshow.until = none\n')
    bound = bind_pipeline(read_settings(tmp_path), find_steps(tmp_path), "p", "dev")
    with pytest.raises(SettingsError, match="`until` is none"):
        compile_pipeline(build_graph(bound), tmp_path / "out")
    assert not (tmp_path / "out").exists()
