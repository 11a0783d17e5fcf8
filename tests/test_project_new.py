"A project of one's own: what `mlops-kit new` makes of a table, and what it refuses to make."

import csv
import io
import json
import os
import random
import shutil
import subprocess
import sys
import zipfile
from datetime import date, timedelta
from pathlib import Path

import nbformat
import polars as pl
import pytest
from typer.testing import CliRunner

from mlops_kit.cli import app
from mlops_kit.notebooks import find_steps
from mlops_kit.project import KitError, own_package
from mlops_kit.settings import bind_pipeline, read_settings
from mlops_kit.start import templates
from mlops_kit.start.findings import find
from mlops_kit.start.new import TEMPLATE, new_project
from mlops_kit.start.reading import read_data
from mlops_kit.start.words import project_words

REPOSITORY = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
ODD = ['a "quoted" word', "größe.cm", "two  blanks", "class", "line\nbreak", "it's {this}", "[[ x ]]"]


def customers(rows: int = 200) -> list[dict]:
    "Customers with an identifier, a date, a personal column, odd names, and labels of which some are missing."
    draw, made = random.Random(0), []
    for number in range(rows):
        one = {"customer": f"C{number:05}", "full name": f"Person {number}", "city": draw.choice(["Rome", "Bonn"])}
        one["joined"] = str(date(2024, 1, 1) + timedelta(draw.randrange(700)))
        one |= {name: f"{draw.gauss(0, 1):.3f}" for name in ODD}
        late = float(one[ODD[0]]) + draw.gauss(0, 1) > 0
        one |= {"least": number % 37, "most": number % 37 + number % 5}  # In order: the contract has a line for it
        one["churned"] = "" if number % 20 == 7 else ("gone" if late else "stays")
        made.append(one)
    return made


def write(place: Path, rows: list[dict]) -> Path:
    with open(place, "w", newline="", encoding="utf-8") as stream:
        lines = csv.DictWriter(stream, rows[0])
        lines.writeheader()
        lines.writerows(rows)
    return place


def make(folder: Path, file: Path, name: str = "churn", target: str = "churned", parts: str = "all", **said) -> Path:
    folder.mkdir(exist_ok=True)
    return new_project(name, find(read_data([str(file)]), target, **said), parts, folder)


def git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="session")
def table(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("data") / "customers.csv", customers())


@pytest.fixture(scope="session")
def project(tmp_path_factory, table) -> Path:
    "A project that never ran; nobody changes it."
    return make(tmp_path_factory.mktemp("made") / "here", table)


# What is made


def test_the_project_is_a_clean_repository_whose_main_starts_from_the_template(project):
    assert not git(project, "status", "--porcelain") and git(project, "branch", "--show-current").strip() == "main"
    assert git(project, "merge-base", "main", TEMPLATE) == git(project, "rev-parse", TEMPLATE)
    files = git(project, "ls-files").splitlines()
    assert not [name for name in files if name.startswith(("data/", "runs/"))]
    assert (project / "data/customers.csv").is_file() and "samples/customers.parquet" in files
    assert [place.name for place in project.parent.iterdir()] == ["churn"], "nothing else is left beside it"


def test_the_same_words_give_the_same_files(project, tmp_path):
    words = json.loads((project / templates.MARK).read_text())["words"]
    for name in templates.render(words, tmp_path):
        assert name.read_bytes() == (project / name.relative_to(tmp_path)).read_bytes(), name


def test_no_person_is_in_what_is_committed(project):
    sample = pl.read_parquet(project / "samples/customers.parquet")
    assert not sample["full name"].str.contains("Person").any() and sample["full name"].n_unique() == len(sample)
    for name in git(project, "ls-files").splitlines():
        assert b"Person 1" not in (project / name).read_bytes(), name


def test_settings_notebooks_and_package_are_what_the_kit_reads(project):
    pipeline = bind_pipeline(read_settings(project), find_steps(project), "train", "dev")
    assert pipeline.workload == own_package(project) == "churn"
    values = pipeline.values["dataops.ingest"]["sources"].value["customers"]
    assert values["files"] == "data/customers.csv" and values["personal"] == ["full name"]
    for file in (project / "nbs").rglob("*.ipynb"):
        nbformat.validate(nbformat.read(file, 4))
    assert (project / "churn/workloads/churn.py").is_file()


def test_notebooks_stay_as_nbdev_cleans_and_exports_them(project, tmp_path):
    copy = shutil.copytree(project, tmp_path / "churn")
    for command in ("nbdev-clean", "nbdev-export"):
        subprocess.run([BIN / command], cwd=copy, check=True, capture_output=True)
    assert not git(copy, "status", "--porcelain")


def test_the_code_has_the_style_of_its_own_settings(project):
    ruff = BIN / "ruff"
    done = subprocess.run([ruff, "check", "nbs", "tests"], cwd=project, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_readme_says_what_was_found(project):
    text = (project / "README.md").read_text()
    for said in ("`churned`", "200 rows", "10 rows without a label", "`customer`", "identifier", f"`{ODD[0]}`"):
        assert said in text, said
    for target in [line.partition("](")[2].partition(")")[0] for line in text.split("[") if "](" in line]:
        assert target.startswith("http") or (project / target).exists(), target
    assert "\\`" not in text, "names in a sentence are set as code"


def test_what_looks_like_a_leak_is_a_commented_line_with_its_reason(tmp_path):
    rows = [row | {"closed": "1" if row["churned"] == "gone" else "0"} for row in customers()]
    root = make(tmp_path, write(tmp_path / "customers.csv", rows))
    text = (root / "churn/workloads/churn.py").read_text()
    line = next(line for line in text.splitlines() if '"closed": "' in line)
    assert line.strip().startswith("# ") and "left out: leak" in line
    assert "`closed`" in (root / "README.md").read_text()


def test_time_and_group_split_and_the_files_say_so(tmp_path):
    days = [str(date(2024, 1, 1) + timedelta(number)) for number in range(200)]
    rows = [row | {"joined": days[n], "visits": f"V{n // 5}"} for n, row in enumerate(customers())]
    root = make(tmp_path, write(tmp_path / "customers.csv", rows), time="joined", group="visits")
    text = (root / "churn/workloads/churn.py").read_text()
    assert 'time: str | None = "joined"' in text and '"visits"' in text.partition("key = ")[2].partition("\n")[0]
    assert "group = visits" in (root / "settings.ini").read_text()


@pytest.mark.parametrize(("parts", "has"), [("project", False), ("all", True)])
def test_parts_choose_the_files(project, tmp_path, parts, has):
    words = json.loads((project / templates.MARK).read_text())["words"]
    names = {file.relative_to(tmp_path).parts[0] for file in templates.render(words, tmp_path, parts)}
    assert bool(names & set(templates.CI)) == has and "settings.ini" in names


# The wheel


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    "The kit as a wheel in an environment of its own, beside the libraries of this one; far from the checkout."
    folder = tmp_path_factory.mktemp("installed")
    name, wheel = templates.build_wheel(REPOSITORY)
    (folder / name).write_bytes(wheel)
    uv = [BIN / "uv"] if (BIN / "uv").exists() else [sys.executable, "-m", "uv"]
    subprocess.run([*uv, "venv", "--quiet", "--python", sys.executable, folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    command = [*uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", python, folder / name]
    subprocess.run(command, check=True)
    libraries = next((folder / "venv/lib").glob("python*")) / "site-packages"
    (libraries / "shared.pth").write_text(f"{next(p for p in sys.path if p.endswith('site-packages'))}\n")
    return folder / "venv/bin/mlops-kit"


def type_in(folder: Path, *words: str | Path, **more: str) -> subprocess.CompletedProcess:
    "Type a command in a folder, with none of our variables."
    ours = ("MLOPS", "PYTHON", "MLFLOW", "CI")
    plain = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    plain |= {"JUPYTER_PATH": str(BIN.parent / "share/jupyter")}
    return subprocess.run([*words], cwd=folder, env=plain | more, capture_output=True, text=True)


def test_the_wheel_carries_steps_locks_and_templates():
    with zipfile.ZipFile(io.BytesIO(templates.build_wheel(REPOSITORY)[1])) as wheel:
        inside = {name.removeprefix("mlops_kit/") for name in wheel.namelist()}
    steps = {str(step.notebook.relative_to(REPOSITORY)) for step in find_steps(REPOSITORY).values()}
    made_of = templates.template_folder()
    files = {f"templates/project/{file.relative_to(made_of)}" for file in made_of.rglob("*") if file.is_file()}
    locks = {f"environments/{name}/requirements.txt" for name in ("default", "dev")}
    assert steps | files | locks <= inside, sorted((steps | files | locks) - inside)


@pytest.mark.slow
def test_an_installed_kit_makes_a_project_that_runs_without_the_checkout(installed, table, tmp_path):
    done = type_in(tmp_path, installed, "new", "churn", "--data", table, "--target", "churned", "--json")
    assert done.returncode == 0, done.stderr
    said, root = json.loads(done.stdout), tmp_path / "churn"
    assert said["project"] == str(root) and said["findings"]["task"]["task"] == "binary"
    assert (root / "environments/kit.txt").read_text().startswith("environments/wheels/mlops_kit-")
    assert next((root / "environments/wheels").iterdir()).read_bytes() == templates.build_wheel(REPOSITORY)[1]
    planned = json.loads(type_in(root, installed, "run", "train", "--dry-run", "--json").stdout)
    assert len(planned["steps"]) == 11
    steps = json.loads(type_in(root, installed, "steps", "--json").stdout)
    assert str(REPOSITORY) not in json.dumps(steps)
    ran = type_in(root, installed, "run", "train", "--until", "ingest", "--json")
    assert ran.returncode == 0 and json.loads(ran.stdout)["steps"][0]["status"] == "executed", ran.stderr
    shown = type_in(root, installed, "docs")
    assert shown.returncode == 0 and (root / "site/workloads/churn.html").is_file(), shown.stderr


# What is refused


def refused(folder: Path, *words: str, path: str | None = None) -> KitError:
    "The error of `mlops-kit new`, after which nothing is left in the folder."
    before = {*folder.iterdir()} if folder.is_dir() else set()
    done = CliRunner(env={"PATH": path} if path is not None else None).invoke(
        app, ["new", *words, "--into", str(folder)]
    )
    assert isinstance(done.exception, KitError), done.exception
    assert done.exception.what and done.exception.remedy, "an error says what to do"
    assert not folder.is_dir() or {*folder.iterdir()} == before, "nothing is left half-made"
    return done.exception


def text_of(rows: list[dict]) -> str:
    return "\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n"


FORTY = [{"a": n * 7 % 13, "b": n % 3, "y": n % 2} for n in range(40)]
BAD = {
    "an empty file": ("", (), ""),
    "only a header": ("a,b,y\n", (), ""),
    "5 rows": (text_of(FORTY[:5]), (), "5"),
    "two columns of one name": (text_of(FORTY).replace("a,b,y", "a,a,y", 1), (), "`a`"),
    "a target that is not there": (text_of(FORTY).replace("a,b,y", "a,b,yy", 1), (), "Did you mean `yy`"),
    "a constant target": (text_of([row | {"y": 1} for row in FORTY]), (), "one value"),
    "a row a class": (text_of([row | {"y": f"name {n}"} for n, row in enumerate(FORTY)]), (), "40"),
    "text as a number": (text_of([row | {"y": "ny"[row["y"]]} for row in FORTY]), ("--task", "regression"), "regr"),
    "an unknown task": (text_of(FORTY), ("--task", "regresion"), "Did you mean `regression`"),
    "a time that is no time": (text_of([row | {"t": f"day {row['a']}"} for row in FORTY]), ("--time", "t"), "day 0"),
    "a time that is not there": (text_of(FORTY), ("--time", "c"), "`c`"),
    "a group that is not there": (text_of(FORTY), ("--group", "c"), "`c`"),
    "5,000 columns": (text_of([{f"c{m}": n for m in range(5000)} | {"y": n % 2} for n in range(40)]), (), "5,001"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_table_is_refused_by_name(tmp_path, case):
    text, words, said = BAD[case]
    (tmp_path / "table.csv").write_text(text)
    (tmp_path / "out").mkdir()
    error = refused(tmp_path / "out", "churn", "--data", str(tmp_path / "table.csv"), "--target", "y", *words)
    assert said in str(error), error


@pytest.mark.parametrize(("name", "said"), {"class": "class_project", "json": "json_project", "a b": "a_b"}.items())
def test_a_name_that_is_no_package_gets_a_better_one(tmp_path, name, said):
    assert f"`{said}`" in refused(tmp_path, name, "--data", "x.csv", "--target", "y").remedy


def test_a_place_where_nothing_can_be_made_is_refused_before_the_data_are_read(tmp_path, table):
    words = ("churn", "--data", str(table), "--target", "churned")
    (tmp_path / "churn").mkdir()
    assert "exists already" in str(refused(tmp_path, *words))
    assert "no such folder" in str(refused(tmp_path / "nowhere", *words))
    assert "git is missing" in str(refused(tmp_path, "other", *words[1:], path=str(tmp_path)))
    assert "nothing can be made here" in str(refused(Path("/sys"), *words)), "also where we are root"
    assert "Did you mean `customers.csv`" in str(refused(tmp_path, "other", "--data", f"{table}x", "--target", "y"))


def test_a_failure_in_the_middle_leaves_nothing(tmp_path, table, monkeypatch):
    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr("mlops_kit.start.new.export_changed", broken)
    with pytest.raises(OSError, match="disk full"):
        make(tmp_path, table)
    assert not list(tmp_path.iterdir())


# The whole


@pytest.mark.slow
def test_a_project_with_odd_names_goes_to_its_report_and_passes_its_tests(table, tmp_path):
    root = make(tmp_path, table)
    here = {"PYTHONPATH": str(REPOSITORY)}
    for target in ("run", "test", "docs"):
        done = type_in(root, "make", target, f"VENV={BIN.parent}", **here)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert list((root / "runs/dev").glob("*/report.html")) and not git(root, "status", "--porcelain")
    assert "What was found in the data" in (root / "site/index.html").read_text()
    model = json.loads(type_in(root, BIN / "mlops-kit", "models", "--json", **here).stdout)["models"]
    assert [one["model"] for one in model] == ["churn"], model


@pytest.mark.slow
def test_a_copied_step_is_run_in_place_of_the_kits(table, tmp_path):
    root, here = make(tmp_path, table), {"PYTHONPATH": str(REPOSITORY)}
    kit = BIN / "mlops-kit"
    assert type_in(root, kit, "run", "train", "--until", "clean", **here).returncode == 0
    assert type_in(root, kit, "eject", "dataops/clean", **here).returncode == 0
    copy = root / "nbs/dataops/clean.ipynb"
    copy.write_text(copy.read_text().replace("log(rows=", 'log(mine=1)\\n",\n    "log(rows='))
    done = json.loads(type_in(root, kit, "run", "train", "--until", "clean", "--json", **here).stdout)
    assert done["steps"][1]["status"] == "executed" and done["steps"][1]["metrics"]["mine"] == 1
    assert (root / "churn/dataops/clean.py").is_file()
    assert type_in(root, BIN / "nbdev-test", **here).returncode == 0


@pytest.mark.slow
def test_a_large_table_is_sampled_and_said_so(tmp_path):
    file = tmp_path / "large.csv"
    block = pl.DataFrame({f"c{n}": [f"{(r * (n + 3)) % 997 / 7:.6f}" for r in range(20_000)] for n in range(20)})
    block = block.with_columns(y=pl.Series([str(r % 3 % 2) for r in range(20_000)]))
    with open(file, "wb") as stream:
        while stream.tell() < 200e6:
            block.write_csv(stream, include_header=stream.tell() == 0)
    # Not ru_maxrss: it holds the memory of the process that forked this one
    peak = "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0], file=sys.stderr)"
    run = f"import atexit, sys; atexit.register(lambda: {peak}); from mlops_kit.cli import main; main()"
    words = ("new", "large", "--data", str(file), "--target", "y")
    done = type_in(tmp_path, sys.executable, "-c", run, *words, PYTHONPATH=str(REPOSITORY), POLARS_MAX_THREADS="2")
    assert done.returncode == 0, done.stderr
    kilobytes = int(done.stderr.strip().splitlines()[-1])
    assert kilobytes < 550_000, "to read all of it as columns of text takes more, before anything is done with it"
    assert "50,000 of" in done.stderr and (tmp_path / "large/settings.ini").is_file()


def test_a_word_that_the_template_lacks_is_named(project, tmp_path):
    words = json.loads((project / templates.MARK).read_text())["words"]
    assert set(words) == set(project_words("churn", find(read_data([str(project / "data/customers.csv")]), "churned")))
    with pytest.raises(KitError, match="contract"):
        templates.render({name: words[name] for name in words if name != "contract"}, tmp_path)
