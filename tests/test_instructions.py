"""What people are told to type: all of it exists, and the README and the tutorial are followed in a fresh clone.

A text says what it wants in plain Markdown:

    ```bash   commands, typed one after another; `cd` counts for those that follow
    ```diff   an edit in an editor: `--- file`, then lines that go (-) and lines that come in their place (+)
    ```text   what the last command prints: numbers may differ, `...` stands for anything. Where it shows an
              error, the command must fail; where it shows none, it must not.

Inline code that begins with `make`, `mlops-kit` or `.venv/bin/` is not run, but must exist.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import OURS

ROOT = Path(__file__).parents[1]
README, TUTORIAL = ROOT / "README.md", ROOT / "nbs/tutorial/first_hour.ipynb"
GUIDES = sorted(file for folder in ("howto", "explanation") for file in (ROOT / "nbs" / folder).glob("*.ipynb"))
ADDRESS = "https://github.com/mlops-kit/mlops-kit"  # What people clone; here it is this repository

LEFT_OUT = {("make", "test"), ("make", "test-slow"), ("make", "bench"), ("make", "lock")}  # Tests, benchmarks, locks
SERVERS = {("make", "lab"), ("make", "docs-serve"), ("mlflow", "ui")}  # Started, probed and stopped

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INLINE = re.compile(r"`((?:make|mlops-kit|\.venv/bin/\S+) [^`\n]+)`")
LOOPBACK = re.compile(r"http://(?:127\.0\.0\.1|localhost):\d+[^\s'\")]*")


def read_words(file: Path) -> str:
    """Markdown of a text, or of a notebook's cells."""
    if file.suffix != ".ipynb":
        return file.read_text()
    cells = json.loads(file.read_text())["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")


def list_commands(block: str) -> list[str]:
    """One command a line; a backslash at its end goes on."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.lstrip().startswith("#")]


def words_of(command: str) -> list[str]:
    """Words of a command without its comment, and without the folder of its program."""
    program, *rest = shlex.split(command, comments=True)
    return [program.removeprefix(".venv/bin/"), *rest]


def list_edits(block: str) -> Iterator[tuple[str, str, str]]:
    """File, old text and new text of every edit; an empty line stands between two edits of a file."""
    assert block.startswith("--- "), f"an edit begins with `--- file`:\n{block}"
    for part in re.split(r"^--- ", block, flags=re.M)[1:]:
        file, _, edits = part.partition("\n")
        for edit in edits.strip("\n").split("\n\n"):
            old, new = ("\n".join(line[1:] for line in edit.splitlines() if line[0] in kind) for kind in ("- ", "+ "))
            assert old, f"an edit names a line that is there:\n{block}"
            yield file.strip(), old, new


def replaced(file: Path, old: str, new: str) -> str:
    """Content of a file, or of a notebook, after an edit; the old text must stand in one place of it."""
    if file.suffix != ".ipynb":
        text = file.read_text()
        assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file}"
        return text.replace(old, new)
    content = json.loads(file.read_text())
    found = sum("".join(cell["source"]).count(old) for cell in content["cells"])
    assert found == 1, f"{old!r} stands {found} times in {file}"
    for cell in content["cells"]:
        cell["source"] = "".join(cell["source"]).replace(old, new).splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def as_pattern(line: str) -> str:
    """What a shown line of output matches: any number for a number, anything for `...`, any space for space."""
    words = re.sub(r"\d[\d.,]*\d|\d", "\0", line.strip()).split()
    text = r"\s+".join(re.escape(word) for word in words)
    return text.replace(re.escape("..."), ".*").replace(re.escape("\0"), r"[\d.,]+")


def is_shown(shown: str, printed: str) -> None:
    """The shown lines are printed, in this order."""
    lines = iter(re.sub(r"\x1b\[[0-9;]*m", "", printed).splitlines())
    for line in filter(str.strip, shown.splitlines()):
        assert any(re.search(as_pattern(line), other) for other in lines), f"not printed: {line}\n{printed[-4000:]}"


def check_exists(command: str, whole: bool = True) -> None:
    """A command names a program, a target, a command and options that there are; prose may leave arguments out."""
    program, *rest = words_of(command)
    if program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M)
        missing = [word for word in rest if "=" not in word and word not in targets]
        assert not missing, f"`{command}`: no target {missing}"
    elif program == "mlops-kit":
        check_parses(command, rest, whole)
    elif command.startswith(".venv/bin/"):
        assert (Path(sys.executable).parent / program).exists(), f"`{command}`: no program {program}"


def check_parses(command: str, words: list[str], whole: bool) -> None:
    """The command line takes these words; nothing is run."""
    from typer.main import get_command

    from mlops_kit.cli import app

    known = get_command(app)
    while hasattr(known, "commands") and words:
        assert words[0] in known.commands, f"`{command}`: no command {words[0]}"
        known, words = known.commands[words[0]], words[1:]
    try:
        known.make_context("mlops-kit", words or ["--help"] if hasattr(known, "commands") else words)
    except Exception as error:  # Of click, or of the copy of it that Typer carries
        kind = type(error).__name__
        assert kind == "Exit" or (kind == "MissingParameter" and not whole), f"`{command}`: {kind} {error}"


class Reader:
    """Somebody who types what a text says, from a folder on."""

    def __init__(self, folder: Path):
        self.place, self.folder, self.code, self.printed, self.typed = folder, folder, 0, "", ""
        self.environment = {
            name: value
            for name, value in os.environ.items()
            if not OURS.match(name) and name not in ("VIRTUAL_ENV", "PYTHONPATH", "CI")
        }
        self.environment |= {"BROWSER": "true", "NO_COLOR": "1", "OPENLINEAGE_DISABLED": "true"}

    def follow(self, text: str) -> None:
        """Do what a text says, in its order."""
        for kind, block in BLOCK.findall(text):
            if kind in ("", "text"):
                self.compare(block)
                continue
            self.settle()
            if kind == "bash":
                for command in list_commands(block):
                    self.type(command)
            elif kind == "diff":
                for file, old, new in list_edits(block):
                    (self.place / file).write_text(replaced(self.place / file, old, new))
        self.settle()

    def settle(self) -> None:
        """A command that failed must have been said to fail."""
        assert self.code == 0, f"`{self.typed}` in {self.place} ended with {self.code}:\n{self.printed[-6000:]}"

    def compare(self, shown: str) -> None:
        """What is shown was printed, and an error was one."""
        fails = any(line.startswith("error: ") for line in shown.splitlines())
        assert fails == (self.code != 0), f"`{self.typed}` ended with {self.code}:\n{self.printed[-6000:]}"
        is_shown(shown, self.printed)
        self.code = 0

    def type(self, command: str) -> None:
        """Type one command."""
        self.settle()
        words = tuple(words_of(command)[:2])
        if words in LEFT_OUT:
            return
        if words in SERVERS:
            with self.served(command):
                return
        where = self.folder / ".where"
        script = f"{command}\ncode=$?; pwd > {shlex.quote(str(where))}; exit $code"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.place,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        self.code, self.printed, self.typed = done.returncode, done.stdout, command
        self.place = Path(where.read_text().strip())

    @contextmanager
    def served(self, command: str, seconds: float = 120) -> Iterator[str]:
        """Start a server, wait until its address on this machine answers, and stop it."""
        log = self.folder / ".server"
        with log.open("w") as stream:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.place,
                env=self.environment | self.of_servers(),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield self.await_answer(process, log, time.monotonic() + seconds)
        finally:
            for stop in (signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(process.pid, stop)
                    process.wait(20)

    def of_servers(self) -> dict[str, str]:
        """Variables that let a server run as root and beside others."""
        settings = self.folder / ".jupyter"
        settings.mkdir(exist_ok=True)
        (settings / "jupyter_server_config.json").write_text('{"ServerApp": {"allow_root": true}}')
        return {"JUPYTER_CONFIG_DIR": str(settings), "PYTHONUNBUFFERED": "1", "MLFLOW_PORT": str(free_port())}

    @staticmethod
    def await_answer(process: subprocess.Popen, log: Path, end: float) -> str:
        """Ask the address that a server printed until it answers."""
        while time.monotonic() < end:
            assert process.poll() is None, f"the server ended:\n{log.read_text()[-4000:]}"
            for address in reversed(LOOPBACK.findall(log.read_text())):
                try:
                    with urllib.request.urlopen(address, timeout=10) as answer:
                        assert answer.status == 200
                        return address
                except OSError:
                    continue
            time.sleep(0.2)
        raise AssertionError(f"no address answered:\n{log.read_text()[-4000:]}")


def free_port() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


@pytest.mark.parametrize("file", [README, TUTORIAL, *GUIDES], ids=lambda file: file.stem)
def test_what_a_text_names_is_there(file):
    text = read_words(file)
    commands = [command for kind, block in BLOCK.findall(text) if kind == "bash" for command in list_commands(block)]
    for command in commands:
        check_exists(command)
    for command in INLINE.findall(BLOCK.sub("", text)):
        check_exists(command, whole=False)
    for kind, block in BLOCK.findall(text):
        for name, old, new in list_edits(block) if kind == "diff" else ():
            if (ROOT / name).exists() or file != TUTORIAL:  # The tutorial also edits a project that it makes
                replaced(ROOT / name, old, new)


@pytest.mark.parametrize(
    "command",
    ["make runn", "mlops-kit rnu train", "mlops-kit run train --dryrun", "mlops-kit cache sise", ".venv/bin/mlfow ui"],
)
def test_a_command_that_is_not_there_is_refused(command):
    with pytest.raises(AssertionError, match=re.escape(command)):
        check_exists(command)


def test_a_text_is_followed_to_the_letter(tmp_path):
    reader = Reader(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/settings.ini").write_text("jobs = 2\nhome = runs\n")
    reader.follow("```bash\ncd deep  # There it is\n```\n```diff\n--- settings.ini\n-jobs = 2\n+jobs = 4\n```")
    reader.follow("```bash\ncat settings.ini\nmake test\n```\n```text\njobs = 3\n... = runs\n```")
    reader.follow("```bash\necho error: gone && false\n```\n```text\nerror: gone\n```")
    assert (tmp_path / "deep/settings.ini").read_text() == "jobs = 4\nhome = runs\n" and reader.place.name == "deep"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("```bash\nmake no-such-target\n```", "`make no-such-target` in .* ended with 2"),
        ("```bash\necho one\n```\n```text\ntwo\n```", "not printed: two"),
        ("```bash\necho done\n```\n```text\nerror: no\n```", "`echo done` ended with 0"),
        ("```diff\n--- settings.ini\n-jobs = 3\n+jobs = 4\n```", "'jobs = 3' stands 0 times"),
    ],
    ids=["a command that fails", "an output that is old", "an error that did not come", "a line that is gone"],
)
def test_an_instruction_that_no_longer_works_is_refused(tmp_path, text, said):
    (tmp_path / "settings.ini").write_text("jobs = 2\n")
    with pytest.raises(AssertionError, match=said):
        Reader(tmp_path).follow(text)


def test_a_server_is_started_asked_and_stopped(tmp_path):
    command = f"{sys.executable} -m http.server --bind 127.0.0.1 {free_port()}"
    with Reader(tmp_path).served(command) as address:
        assert urllib.request.urlopen(address, timeout=5).status == 200
    with pytest.raises(OSError):
        urllib.request.urlopen(address, timeout=5)
    with pytest.raises(AssertionError, match="the server ended"), Reader(tmp_path).served("echo no"):
        pass


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_stranger_follows_the_tutorial_and_the_readme_in_a_fresh_clone(tmp_path):
    folder = tmp_path / "a folder é"  # Its name has a space and a letter beyond ASCII
    folder.mkdir()
    reader = Reader(folder)
    instead = {"COUNT": "1", "KEY_0": f"url.{ROOT}.insteadOf", "VALUE_0": ADDRESS}
    reader.environment |= {f"GIT_CONFIG_{name}": value for name, value in instead.items()}
    reader.follow(read_words(TUTORIAL))
    reader.place = folder / "mlops-kit"
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=reader.place, capture_output=True, text=True)
    assert not changed.stdout, "the tutorial takes back what it changed"
    reader.follow(read_words(README))
