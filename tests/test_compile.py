"""What `compile` writes for Azure ML: read by Azure ML's own loaders, compared with the graph, and run in a shell."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TOY, Project

from mlops_kit.azure.components import compile_pipeline
from mlops_kit.graph import Graph, build_graph
from mlops_kit.notebooks import find_steps
from mlops_kit.project import KitError, own_package
from mlops_kit.settings import bind_pipeline, read_settings

ROOT = Path(__file__).parents[1]

SEED = """
%% md
# Seed
> Start.
%%
#| default_exp prep.seed
%%
from mlops_kit.steps import Output, path
%% parameters
source: Output = "scratch/source"  # A word
%% md
## Run
%%
path(source).write_text("here")
"""

# A step with every type of parameter. What is empty, zero or false is what services and requests like to lose.
EVERY = """
%% md
# Every
> Say "yes": repeat what was given.
%%
#| default_exp fit.every
%%
import json
from datetime import date
from typing import Literal
from mlops_kit.steps import Effect, Input, Output, Probe, Secret, path
%% parameters
source: Input = "samples/source"  # A word: "x"
whole: int = 0  # Whole number
share: float = 0.0
tiny: float = 1e-07
off: bool = False
on: bool = True
empty: str = ""
padded: str = "007"
text: str = "null"
engine: Literal["trees", "it's"] = "trees"
day: date = "2013-08-31"
names: list[str] = []
bars: dict = {"least": 1e-07, "by": {"a": [None, True]}}
mixed: int | str = 3
limit: int | None = 5
until: date | None = None
note: str | None = "a note"
maybe: bool | None = None
salt: Secret = "TEST_SALT"
state: Probe = "state"
after: Effect = "after"
result: Output = "scratch/result"  # What was given
%%
assert "an example"
%% md
## Run
%%
words = "whole share tiny off on empty padded text engine day names bars mixed limit until note maybe salt state after"
given = {name: globals()[name] for name in words.split()}
path(result).write_text(json.dumps({"source": path(source).read_text(), **given}))
"""

USE = """
%% md
# Use
> Read both.
%%
#| default_exp fit.use
%%
from mlops_kit.steps import Input, Output, path
%% parameters
source: Input = "samples/source"
result: Input = "samples/result"
used: Output = "scratch/used"
%% md
## Run
%%
path(used).write_text(path(source).read_text() + path(result).read_text())
"""

HARD = {
    "whole": "-12",
    "share": "1e22",
    "tiny": "2.5e-09",
    "off": "true",
    "on": "false",
    "empty": " \t'\"' ",
    "padded": "-1e3",
    "text": 'it\'s "50 €" of $HOME `id` \\ ${{inputs.whole}} $[[x]] 😀\nnext: {#1}\x85\x7f!',
    "engine": "it's",
    "names": json.dumps(["", "it's", "a, b", '"q"', "$x", "ü", "null", "[[]]"]),
    "bars": json.dumps({"it's: {": [1e-12, 0.1, [], {}], "ü": {"$": None, "b": False}}),
    "mixed": "007",
    "limit": "none",  # Other than its default, None must arrive all the same
    "until": "2013-09-01",
    "note": "'' and $[[ ]]",
    "maybe": "false",
}

PLAIN = '[DEFAULT]\ntracking_uri =\n[pipeline.all]\nabout = All "of it"\nsteps = ["use", "every", "seed"]\n'


def project(folder: Path, settings: str = PLAIN) -> Path:
    "Write the project of these three steps."
    Project(folder).create({"seed": SEED, "every": EVERY, "use": USE}, settings)
    return folder


def graph_of(root: Path, name: str, given: dict[str, str] | None = None, stored: bool = False) -> Graph:
    "Build a graph without exporting notebooks."
    pipeline = bind_pipeline(read_settings(root), find_steps(root), name, "dev", given)
    return build_graph(pipeline, lambda name: stored)


@pytest.fixture(scope="module")
def every(tmp_path_factory) -> tuple[Graph, Path]:
    "The three steps with hard values, compiled."
    root = project(tmp_path_factory.mktemp("every") / "mine")
    graph = graph_of(root, "all", {f"every.{name}": value for name, value in HARD.items()})
    compile_pipeline(graph, root / "out", read_settings(root))
    return graph, root / "out"


# Comparison with the graph, in the words of Azure ML's own objects

TYPES = {"int": "integer", "float": "number", "bool": "boolean", "Input": "uri_folder"}


def value_of(found, annotation: str):
    "Read a value as the step would."
    is_text = re.match(r"(str|date|Literal|Secret|Probe|Effect)\b", annotation)
    plain = not isinstance(found, str) or (is_text and not found.startswith('"'))
    return None if found == "" else found if plain else yaml.safe_load(found)  # Requests lose an empty text


def component_faults(step, file: Path) -> list[str]:
    "List what a component says other than its step."
    from azure.ai.ml import load_component

    found = load_component(file)
    faults = list(found._validate().error_messages.values())
    faults += [] if found.display_name == step.name and found.description == step.blurb else ["its name"]
    faults += [] if set(found.outputs) == {*step.named("output"), "run"} else ["its outputs"]
    faults += [] if found.is_deterministic is (not step.named("probe", "effect")) else ["whether it may be reused"]
    expected = [param for param in step.params.values() if param.word != "output"]
    faults += [] if list(found.inputs) == [param.name for param in expected] else ["the names of its inputs"]
    for param, port in ((param, found.inputs[param.name]) for param in expected if param.name in found.inputs):
        kind, optional = re.subn(r" \| None$", "", param.annotation)
        default = None if optional or param.word == "input" else param.default
        faults += [] if port.type == TYPES.get(kind, "string") else [f"type of {param.name}: {port.type}"]
        faults += [] if bool(port.optional) is bool(optional) else [f"optionality of {param.name}"]
        same = value_of(port.default, param.annotation) == default
        faults += [] if same else [f"default of {param.name}: {port.default!r}"]
        faults += [] if (port.description or "") == param.meaning else [f"meaning of {param.name}"]
    return faults


def pipeline_faults(graph: Graph, file: Path) -> list[str]:
    "List what a pipeline says other than its graph: steps, edges, values."
    from azure.ai.ml import load_job

    job = load_job(file)
    faults = list(job._validate().error_messages.values())
    names = {name: node.component.display_name for name, node in job.jobs.items()}
    edges, values = [], {}
    for job_name, node in job.jobs.items():
        for name, value in node._build_inputs().items():
            bound = re.fullmatch(r"\$\{\{parent\.jobs\.(\w+)\.outputs\.(\w+)\}\}", str(getattr(value, "path", value)))
            if bound:
                edges.append((names[bound[1]], names[job_name], f"{name} of {bound[2]}"))
            else:
                values[names[job_name], name] = value
    inferred = [(a, b, f"{name} of {name}") for a, b, name in graph.edges]
    faults += [] if sorted(edges) == inferred else [f"edges: {edges}"]
    faults += [] if sorted(names.values()) == sorted(step.name for step in graph.order) else ["steps"]
    expected = {
        (step.name, param.name): (param, graph.pipeline.values[step.name][param.name].value)
        for step in graph.order
        for param in step.params.values()
        if param.word not in ("input", "output")
    }
    for place, (param, value) in expected.items():
        same = value_of(values.get(place), param.annotation) == value
        faults += [] if same else [f"value of {place}: {values.get(place)!r}"]
    return faults


def faults_of(graph: Graph, folder: Path) -> list[str]:
    "List every difference between what was compiled and the graph."
    faults = pipeline_faults(graph, folder / "pipeline.yml")
    for step in graph.order:
        faults += component_faults(step, folder / "components" / step.name / "component.yml")
    return faults


def test_the_main_pipeline_is_what_its_graph_says(tmp_path):
    graph = graph_of(ROOT, "train")
    files = compile_pipeline(graph, tmp_path / "out", read_settings(ROOT))
    assert len(graph.edges) >= 6 and len(files) == 1 + 3 * len(graph.order)
    assert faults_of(graph, tmp_path / "out") == []


def test_every_type_and_every_hard_value_is_what_the_graph_says(every):
    graph, folder = every
    assert len(graph.edges) == 3 and faults_of(graph, folder) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "fault"),
    [
        ("pipeline.yml", "source: ${{parent.jobs.prep_seed.outputs.source}}", "source: elsewhere", "edges"),
        ("pipeline.yml", "jobs.fit_every.outputs.result", "jobs.prep_seed.outputs.source", "edges"),
        ("pipeline.yml", "      share: 1.0e+22\n", "", "value of ('fit.every', 'share')"),
        ("pipeline.yml", "until: '2013-09-01'", "until: '2013-09-02'", "value of ('fit.every', 'until')"),
        ("pipeline.yml", "whole: -12", "wholly: -12", "value of ('fit.every', 'whole')"),
        ("components/fit.every/component.yml", "type: number", "type: integer", "type of share"),
        ("components/fit.every/component.yml", "    optional: true\n", "", "optionality of limit"),
        ("components/fit.every/component.yml", "default: 0\n", "default: 1\n", "default of whole"),
        ("components/fit.every/component.yml", "default: '\"\"'", "default: ''", "default of empty"),
        ("components/fit.every/component.yml", "is_deterministic: false", "is_deterministic: true", "reused"),
        ("components/fit.every/component.yml", "inputs.whole}}", "inputs.hole}}", "inputs.hole"),
        ("components/fit.every/component.yml", "code: ./code", "code: ./cod", "cod"),
    ],
)
def test_a_planted_fault_is_found(every, tmp_path, file, old, new, fault):
    graph, folder = every
    shutil.copytree(folder, tmp_path / "out")
    text = (folder / file).read_text()
    assert old in text
    (tmp_path / "out" / file).write_text(text.replace(old, new, 1))
    try:
        found = str(faults_of(graph, tmp_path / "out"))
    except Exception as refused:  # Azure ML's loader raises what it cannot read at all
        found = str(refused)
    assert fault in found


def test_a_request_carries_every_value_that_is_not_none(every):
    from azure.ai.ml import load_job

    graph, folder = every
    node = load_job(folder / "pipeline.yml")._to_rest_object().as_dict()["properties"]["jobs"]["fit_every"]
    sent = {name: entry["value"] for name, entry in node["inputs"].items()}
    given = {name: value.value for name, value in graph.pipeline.values["fit.every"].items() if name != "result"}
    assert set(sent) == {name for name, value in given.items() if value is not None} and "limit" not in sent
    assert sent["on"] == "False" and "" not in sent.values()
    literals = [value for name, value in sent.items() if name != "source"]
    assert not any(sign in value for value in literals for sign in "$'\n"), (
        "nothing to expand, to end a quote or a line"
    )


# Commands in a shell, as the service would fill them in


def fill(command: str, inputs: dict, outputs: dict) -> str:
    "Fill in a command: optional parts go where their input is missing, values stand as they are."

    def part(found: re.Match) -> str:
        return found[1] if set(re.findall(r"inputs\.(\w+)", found[1])) <= inputs.keys() else ""

    command = re.sub(r"\$\[\[(.*?)\]\]", part, command)
    return re.sub(r"\$\{\{(\w+)\.(\w+)\}\}", lambda m: str({"inputs": inputs, "outputs": outputs}[m[1]][m[2]]), command)


def execute(file: Path, inputs: dict, place: Path, package: Path | None = None) -> dict[str, Path]:
    "Run a component's command on a copy of its code; its outputs are folders that are there before."
    from azure.ai.ml import load_component

    found = load_component(file)
    outputs = {name: place / "out puts" / name for name in found.outputs}
    for folder in outputs.values():
        folder.mkdir(parents=True)
    shutil.copytree(file.parent / "code", place / "code")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLOPS_KIT_", "MLFLOW_"))}
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(package or "")}
    done = subprocess.run(
        ["bash", "-c", fill(found.command, inputs, outputs)],
        cwd=place / "code",
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return outputs


@pytest.fixture
def source(tmp_path) -> Path:
    "An output of the step before, as a job finds it."
    (tmp_path / "it is" / "source").mkdir(parents=True)
    (tmp_path / "it is" / "source" / "source").write_text("here")
    return tmp_path / "it is" / "source"


def test_a_command_passes_hard_values_unharmed(every, tmp_path, source):
    from azure.ai.ml import load_job

    graph, folder = every
    inputs = load_job(folder / "pipeline.yml").jobs["fit_every"]._build_inputs() | {"source": source}
    outputs = execute(folder / "components" / "fit.every" / "component.yml", inputs, tmp_path)
    given = {name: value.value for name, value in graph.pipeline.values["fit.every"].items()}
    expected = {name: value for name, value in given.items() if name not in ("source", "result")} | {"source": "here"}
    found = json.loads((outputs["result"] / "result").read_text())
    assert found == expected and found["limit"] is None and found["mixed"] == "007"
    assert {name: type(value) for name, value in found.items()} == {n: type(v) for n, v in expected.items()}
    executed = json.loads((outputs["run"] / "every.ipynb").read_text())
    sources = ["".join(cell["source"]) for cell in executed["cells"]]
    assert executed["metadata"]["kernelspec"]["name"] == "python3" and not any("an example" in s for s in sources)


def test_a_component_alone_runs_on_its_defaults(every, tmp_path, source):
    graph, folder = every
    file = folder / "components" / "fit.every" / "component.yml"
    ports = yaml.safe_load(file.read_text())["inputs"]
    inputs = {name: port["default"] for name, port in ports.items() if "default" in port} | {"source": source}
    found = json.loads((execute(file, inputs, tmp_path)["result"] / "result").read_text())
    defaults = {p.name: p.default for p in graph.order[1].params.values() if p.word not in ("input", "output")}
    assert found == defaults | {"source": "here", "limit": None, "note": None}, "left out means None"


@pytest.mark.slow
def test_a_compiled_pipeline_gives_what_the_runner_gives(ran, tmp_path):
    from azure.ai.ml import load_job

    ran.configure(pipeline__chain='steps = ["total", "double", "make"]')
    done = ran.call("compile", "chain", "--to", "azureml", "--out", "compiled")
    assert done.rc == 0 and done.out.splitlines()[0] == "compiled/pipeline.yml", done.err
    job = load_job(ran.root / "compiled" / "pipeline.yml")
    made: dict[str, Path] = {}
    for name, node in job.jobs.items():  # In an order that works
        inputs = {}
        for key, value in node._build_inputs().items():
            text = str(getattr(value, "path", value))
            inputs[key] = made.get(text, value)
        file = ran.root / "compiled" / "components" / node.component.display_name / "component.yml"
        outputs = execute(file, inputs, tmp_path / name, ran.root)
        made |= {f"${{{{parent.jobs.{name}.outputs.{key}}}}}": place for key, place in outputs.items()}
        assert own_package(file.parent / "code") == "toy", "by this a step finds the workloads of its project"
    for key in ("numbers", "doubled", "sum_of"):
        place = next(place for text, place in made.items() if text.endswith(f".{key}}}}}")) / key
        assert contents(place) == contents(ran.data(key))


def contents(place: Path) -> dict[str, bytes]:
    "Read a file, or all files of a folder."
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    return {str(file.relative_to(place)): file.read_bytes() for file in files}


# Inputs from outside, and what settings say


def test_inputs_from_the_store_and_from_paths_become_inputs_of_the_pipeline(tmp_path, monkeypatch):
    from azure.ai.ml import load_component, load_job

    lines = '[pipeline.some]\nsteps = ["every", "use"]\nevery.source = data/one.txt\n[step.use]\ncompute = big\n'
    root = project(tmp_path / "mine", lines + "timeout = 90\n[dev]\nuse.source = azureml:source:3\n")
    (root / "data").mkdir()
    (root / "data" / "one.txt").write_text("here")
    graph = graph_of(root, "some")
    compile_pipeline(graph, root / "out", read_settings(root))
    job = load_job(root / "out" / "pipeline.yml")
    assert job._validate().error_messages == {}
    found = {name: job._to_dict()["inputs"][name] for name in job.inputs}
    assert found["fit_use_source"] == {"type": "uri_folder", "path": "azureml:source:3"}
    assert found["fit_every_source"]["type"] == "uri_file"
    assert "path: ../data/one.txt" in (root / "out" / "pipeline.yml").read_text(), "no path of this machine"
    one = load_component(root / "out" / "components" / "fit.every" / "component.yml")
    assert one.inputs["source"].type == "uri_file" and "-r source '${{inputs.source}}' " in one.command
    use = job.jobs["fit_use"]
    assert use.compute == "big" and use.limits.timeout == 90 and job.settings.default_compute == "serverless"
    monkeypatch.chdir(root)
    compile_pipeline(graph_of(root, "some"), Path("out"))
    assert (root / "out" / "pipeline.yml").exists(), "settings of the current project, and a relative folder"


def test_an_input_from_the_store_is_a_data_asset(tmp_path):
    from azure.ai.ml import load_job

    root = project(tmp_path / "mine", '[pipeline.last]\nsteps = ["use"]\n')
    compile_pipeline(graph_of(root, "last", stored=True), tmp_path / "out", read_settings(root))
    job = load_job(tmp_path / "out" / "pipeline.yml")
    assert job._validate().error_messages == {}
    expected = {name: {"type": "uri_folder", "path": f"azureml:{name}@latest"} for name in ("source", "result")}
    assert job._to_dict()["inputs"] == expected


def test_a_secret_stays_where_it_is(tmp_path, monkeypatch):
    monkeypatch.setenv("TEST_SALT", "the-value-of-the-secret")
    root = project(tmp_path / "mine")
    for file in compile_pipeline(graph_of(root, "all"), tmp_path / "out", read_settings(root)):
        assert "the-value-of-the-secret" not in file.read_text()


# Whole or not at all


def test_compiling_again_gives_equal_bytes_and_leaves_nothing_old(tmp_path):
    root = project(tmp_path / "mine", PLAIN + '[pipeline.two]\nsteps = ["seed", "every"]\n')
    settings, out = read_settings(root), tmp_path / "deep" / "out"
    files = compile_pipeline(graph_of(root, "all"), out, settings)
    assert sorted(files) == sorted(file for file in out.rglob("*") if file.is_file())
    before = {file: file.read_bytes() for file in files}
    assert compile_pipeline(graph_of(root, "all"), out, settings) == files
    assert {file: file.read_bytes() for file in files} == before
    assert compile_pipeline(graph_of(root, "two"), out, settings) and not (out / "components" / "fit.use").exists()
    assert list(out.parent.iterdir()) == [out], "no draft is left"


@pytest.mark.parametrize("name", ["notes.txt", "pipeline.yml", "components/fit.use/code/data.csv", ""])
def test_a_folder_with_foreign_files_is_left_alone(tmp_path, name):
    root = project(tmp_path / "mine")
    mine = tmp_path / "out" / name if name else tmp_path / "out"
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(KitError, match="was not written by compile"):
        compile_pipeline(graph_of(root, "all"), tmp_path / "out", read_settings(root))
    assert mine.read_text() == "mine" and sorted(place.name for place in tmp_path.iterdir()) == ["mine", "out"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("whole: int = 0", "Share: int = 0", "`share` is there twice"),
        ("whole: int = 0", "größe: int = 0", "`größe` is not allowed"),
        ("whole: int = 0", "Run: int = 0", "`run` is there twice"),
        ("default_exp fit.every", "default_exp fit.Use", "the step's name `fit_use` is there twice"),
    ],
)
def test_a_name_that_azure_does_not_take_is_refused(tmp_path, old, new, fault):
    steps = '"fit.use", "fit.Use"' if "Use" in new else '"use", "every"'
    root = project(tmp_path / "mine", PLAIN.replace('"use", "every"', steps))
    Project(root).edit("every", old, new)
    with pytest.raises(KitError, match=fault):
        compile_pipeline(graph_of(root, "all"), tmp_path / "out", read_settings(root))
    assert not (tmp_path / "out").exists()


def test_compiling_needs_nothing_of_azure(tmp_path):
    root = Project(tmp_path / "toy").create(TOY)
    code = "import sys; from mlops_kit.cli import app; app(['compile', 'train'], standalone_mode=False); "
    code += "assert not [name for name in sys.modules if name.partition('.')[0] == 'azure']"
    done = subprocess.run([sys.executable, "-c", code], cwd=root.root, env=root.environment(), capture_output=True)
    assert done.returncode == 0 and b"compiled/pipeline.yml" in done.stdout, done.stderr
