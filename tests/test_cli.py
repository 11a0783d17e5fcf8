"""The command line explains itself: examples that exist, words that a shell completes, errors in three parts, JSON."""

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import typer
from conftest import COMMAND, lacking

from mlops_kit.cli import app, main
from mlops_kit.cli_app import PANELS

ESCAPE = "\x1b["
ROOT = typer.main.get_command(app)


@pytest.fixture(scope="module")
def project(tmp_path_factory, finished):
    """A project with one run, for these tests alone."""
    return finished.copy(tmp_path_factory.mktemp("cli") / "toy")


def walk(command=ROOT, words=("mlops-kit",)):
    """Every command with the words that call it."""
    for name, found in getattr(command, "commands", {}).items():
        if hasattr(found, "commands"):
            yield from walk(found, (*words, name))
        else:
            yield " ".join((*words, name)), found


def parse(words):
    """Read a command line as Typer does, without running it: down to the command that it names."""
    context = ROOT.make_context("mlops-kit", words)
    while hasattr(context.command, "commands"):
        name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return context


COMMANDS = dict(walk())


@pytest.mark.parametrize("words", COMMANDS)
def test_help_shows_examples_that_exist(words):
    """One to three examples, each of this command, each with words that Typer knows."""
    command = COMMANDS[words]
    lines = [line.strip() for line in command.help.splitlines()]
    examples = [line for line in lines if line.startswith("mlops-kit ")]
    assert 1 <= len(examples) <= 3 and lines[0].endswith((".", ":"))
    for example in examples:
        assert example.startswith(words.removesuffix(" list")), example
        assert parse(shlex.split(example.partition(" > ")[0])[1:]).command.name == command.name


@pytest.mark.parametrize("example", ["mlops-kit run train --dri-run", "mlops-kit rnu", "mlops-kit status --last many"])
def test_an_example_that_is_wrong_is_noticed(example):
    """The check of examples fails for a command, an option or a value that does not exist."""
    with pytest.raises(Exception, match=r"(?i)no such|valid integer"):
        parse(shlex.split(example)[1:])


def test_every_command_stands_in_a_panel():
    """The main help groups all commands."""
    assert {getattr(found, "rich_help_panel", None) for found in ROOT.commands.values()} <= {*PANELS}


@pytest.fixture
def answer(project, monkeypatch, capsys):
    """Type a command line in the project, and read its exit code, output and errors: as quick as a call."""
    monkeypatch.chdir(project.root)
    before = dict(os.environ)  # A run tells its kernels where it is by variables

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["mlops-kit", *words])
        with pytest.raises(SystemExit) as left:
            main()
        return SimpleNamespace(rc=left.value.code or 0, **dict(zip(("out", "err"), capsys.readouterr(), strict=True)))

    yield call
    os.environ.clear()
    os.environ.update(before)


# Completion: what a shell asks, and what it gets


def ask(toy, shell, line):
    """What a shell offers after `line`, a finger on Tab."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split(" ")) - 1), "_TYPER_COMPLETE_ARGS": line}
    env = {"_MLOPS_KIT_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args", **words}
    done = subprocess.run(
        [COMMAND], cwd=toy.root, env=toy.environment(**env), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stderr == ""
    return {re.sub(r"[\t:].*", "", word).strip("\"'() ") for word in done.stdout.splitlines()}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_values_are_completed(project, shell):
    """Each shell gets pipelines, steps, runs and environments as words."""
    assert ask(project, shell, "mlops-kit run tr") >= {"train"} or shell == "zsh"
    offered = ask(project, shell, "mlops-kit logs last ")
    assert any("prep.make" in word for word in offered)


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("mlops-kit st", "status"),
        ("mlops-kit run ", "train"),
        ("mlops-kit run --from do", "double"),
        ("mlops-kit report la", "last"),
        ("mlops-kit status --env p", "prod"),
        ("mlops-kit cache ", "prune"),
        ("mlops-kit run --dr", "--dry-run"),
    ],
)
def test_words_of_bash(project, line, word):
    """Commands, options and values alike."""
    assert word in ask(project, "bash", line)


def test_a_run_is_completed_by_its_beginning(project):
    """Runs are offered as the ledger names them."""
    (run,) = {place.name for place in (project.root / "runs/dev").glob("2*")}
    assert ask(project, "bash", f"mlops-kit report {run[:6]}") == {run}


def test_completion_is_never_an_error(project, tmp_path):
    """Outside a project, or in a broken one, nothing is offered and nothing is said."""
    (tmp_path / "settings.ini").write_text("this is no setting\n[")
    for line in ("mlops-kit run ", "mlops-kit logs ", "mlops-kit tables show "):
        assert ask(type(project)(tmp_path), "bash", line) <= {""}


@pytest.mark.parametrize(("shell", "file"), [("bash", ".bashrc"), ("zsh", ".zshrc"), ("fish", ".config/fish")])
def test_completion_is_installed(toy, tmp_path, shell, file):
    """`--install-completion` writes what the shell reads when it starts."""
    env = toy.environment(HOME=str(tmp_path), _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    command = [COMMAND, "--install-completion", shell]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / file).exists()
    assert any("mlops" in found.name for found in tmp_path.rglob("*") if found.is_file()) or shell == "bash"


# Errors


@pytest.mark.parametrize(
    ("words", "code", "where", "remedy"),
    [
        ("statsu", 2, "mlops-kit", "Did you mean 'status'?"),
        ("run --jbos 2", 2, "mlops-kit run", "--jobs"),
        ("status --last many", 2, "mlops-kit status", "--help"),
        ("logs", 2, "mlops-kit logs", "--help"),
        ("steps dubble", 2, "command line", "Did you mean `double`?"),
        ("report nowhere", 4, "ledger", "mlops-kit status"),
        ("tables nothing", 2, "command line", ""),
    ],
)
def test_an_error_has_three_parts(answer, words, code, where, remedy):
    """Errors of the kit and of Typer read alike, and --json gives them as one object."""
    done = answer(*words.split())
    assert done.rc == code and done.out == ""
    what, place, *do = done.err.splitlines()
    assert what.startswith("error: ") and place.split(maxsplit=1) == ["where", where] and remedy in "".join(do)
    said = answer(*words.split(), "--json")
    error = json.loads(said.out)["error"]
    assert said.rc == code and error["what"] == what.removeprefix("error: ") and error["where"] == where


BROKEN = """
import mlops_kit.ledger
mlops_kit.ledger.read_runs = lambda *_: 1 / 0
from mlops_kit.cli import main
main()
"""


def bug(toy, *words, **env):
    """A command whose code is broken."""
    command = [sys.executable, "-c", BROKEN, *words]
    return subprocess.run(command, cwd=toy.root, env=toy.environment(**env), capture_output=True, text=True, timeout=60)


def test_a_bug_leaves_a_file(project):
    """No traceback fills the screen; it lies in a file, without secrets, and the error says how to report it."""
    done = bug(project, "status", MY_TOKEN="a-secret-value")
    assert done.returncode == 5 and "Traceback" not in done.stderr and "ZeroDivisionError" in done.stderr
    file = re.search(r"where\s+(\S+)", done.stderr)[1]
    with open(file) as kept:
        text = kept.read()
    assert ("Traceback" in text and "1 / 0" in text) or "ZeroDivisionError" in text
    assert "/issues" in done.stderr and str(project.root) in file


@pytest.mark.parametrize(("words", "env"), [(["status", "--debug"], {}), (["status"], {"MLOPS_DEBUG": "1"})])
def test_debug_shows_the_traceback(project, words, env):
    """Who mends the kit sees the traceback at once."""
    done = bug(project, *words, **env)
    assert done.returncode == 5 and "Traceback (most recent call last)" in done.stderr


# Colours


def terminal(toy, *words, **env):
    """What a command writes where a person watches."""
    ours, theirs = pty.openpty()
    command = [COMMAND, *words]
    done = subprocess.Popen(
        command, cwd=toy.root, env=toy.environment(TERM="xterm", **env), stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    text = b""
    try:
        while more := os.read(ours, 65536):
            text += more
    except OSError:  # The other end is closed
        pass
    os.close(ours)
    done.wait(60)
    return text.decode()


def test_a_terminal_shows_colours(project):
    """An error is red for a person."""
    assert f"{ESCAPE}31m" in terminal(project, "steps", "dubble")
    assert ESCAPE in terminal(project, "--help")


@pytest.mark.parametrize("words", [("steps", "dubble"), ("run", "--dry-run")])
def test_no_color_is_respected(project, words):
    """https://no-color.org: no colour, whoever watches."""
    assert ESCAPE not in terminal(project, *words, NO_COLOR="1")


def test_a_file_gets_no_colours_unless_forced(project):
    """A pipe is plain; FORCE_COLOR keeps the colours, as for the log of CI."""
    plain, forced = project.call("steps"), project.call("steps", FORCE_COLOR="1")
    assert ESCAPE not in plain.out + plain.err and ESCAPE in forced.out
    assert ESCAPE in project.call("steps", "dubble", FORCE_COLOR="1").err


# JSON


@pytest.mark.parametrize(
    "words",
    [
        "run",
        "run --dry-run",
        "status",
        "steps",
        "settings",
        "graph",
        "report",
        "report last",
        "logs last total",
        "note last why",
        "compare last last",
        "tables",
        "tables list",
        "lineage numbers",
        "cache size",
        "cache verify",
        "cache prune",
        "contract infer samples/planes.csv",
    ],
)
def test_json_is_one_object(answer, project, words):
    """Standard output is one JSON object and nothing else."""
    if words.startswith("contract"):
        (project.root / "samples").mkdir(exist_ok=True)
        (project.root / "samples/planes.csv").write_text("tail,seats\nN1,2\nN2,4\n")
    done = answer(*words.split(), "--json")
    assert done.rc == 0, done.err
    assert isinstance(json.loads(done.out), dict)


def test_every_command_that_prints_a_result_has_json():
    """No command was forgotten; JupyterLab alone has no result."""
    lacks = {words for words, found in COMMANDS.items() if "--json" not in {o for p in found.params for o in p.opts}}
    assert lacks == {"mlops-kit lab"}


def test_nothing_heavy_is_imported_for_help():
    """The help answers before pandas, MLflow or matplotlib are read."""
    code = "import sys, mlops_kit.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"pandas", "polars", "mlflow", "matplotlib", "pydantic", "jinja2", "sklearn"} & set(loaded) == set()


def test_shells_read_the_completion(toy, tmp_path):
    """bash itself takes the script that is installed."""
    if not shutil.which("bash"):
        lacking("no bash on this machine")
    env = toy.environment(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1")
    script = subprocess.run([COMMAND, "--show-completion", "bash"], env=env, capture_output=True, text=True, check=True)
    (tmp_path / "words.sh").write_text(script.stdout + "\ncomplete -p mlops-kit\n")
    done = subprocess.run(["bash", "--norc", str(tmp_path / "words.sh")], capture_output=True, text=True, env=env)
    assert done.returncode == 0 and "mlops-kit" in done.stdout
