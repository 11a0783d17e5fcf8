"""JupyterLab: a real server, its kernel, `%run_step`, copies of steps as a run saw them, and merges of notebooks."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import httpx
import nbformat
import pytest
from conftest import COMMAND, Project
from jupyter_server.services.contents.filemanager import FileContentsManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

REPOSITORY = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


def contents(folder: Path) -> dict[str, bytes]:  # {file: its bytes}
    "Everything that lies in a folder."
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def execute(file: Path, project: Project, monkeypatch) -> nbformat.NotebookNode:
    "Run a notebook top to bottom, as JupyterLab does: in its own folder, and without a word from the runner."
    for name in [name for name in os.environ if name not in project.environment()]:
        monkeypatch.delenv(name)
    notebook = nbformat.read(file, 4)
    NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(file.parent)}}).execute()
    return notebook


# Copies of steps


def test_a_copy_runs_to_the_same_result_and_changes_nothing(ran, monkeypatch):
    before = contents(ran.root / "nbs") | contents(ran.home)
    ran.edit("double", "factor: int = 2", "factor: int = 7")  # The copy holds the code that ran
    edited = contents(ran.root / "nbs")
    copy = Path(ran.call("open", "last", "double", "--print").out.strip())
    assert "this is the code that ran" in copy.read_text() and "factor: int = 2" in copy.read_text()
    for _ in range(2):  # As often as one likes
        execute(copy, ran, monkeypatch)
    assert json.loads((copy.with_suffix("") / "out/doubled/all.json").read_text()) == [2, 4, 6]
    assert contents(ran.root / "nbs") == edited and contents(ran.home).items() <= before.items()
    copy.write_text("tried something")
    assert ran.call("open", "last", "prep.double", "--no-browser").out.strip() == str(copy)
    assert copy.read_text() == "tried something"


def test_a_copy_of_a_failed_step_opens_at_the_cell_and_fails_again(ran, monkeypatch):
    assert ran.run("-p", "total.bar=100").rc == 3
    before = contents(ran.root / "nbs")
    done = ran.call("open", "last", "total", "--print")
    notebook = nbformat.read(done.out.strip(), 4)
    nbformat.validate(notebook)
    place = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## It failed here"))
    assert "total is 12; the bar is at least 100" in notebook.cells[place].source
    assert 'gate("total"' in notebook.cells[place + 1].source
    assert notebook.cells[1].metadata["jp-MarkdownHeadingCollapsed"]  # What comes before is folded away
    assert {cell.cell_type for cell in notebook.cells[2:place]} == {"code"}  # A text would not be folded
    reused = Path(ran.call("open", "last", "double", "--print").out.strip())
    assert "reused from an earlier run" in reused.read_text() and "products = " in reused.read_text()
    with pytest.raises(CellExecutionError, match="total is 12; the bar is at least 100"):
        execute(Path(done.out.strip()), ran, monkeypatch)
    assert contents(ran.root / "nbs") == before


def test_a_copy_of_tables_and_secrets_reads_the_run_s_own_version(tables, monkeypatch):
    first = tables.runs()[0]
    copy = Path(tables.call("open", first, "gold", "--print").out.strip())
    monkeypatch.setenv("TOY_SALT", "pl4nted-s3cret")
    monkeypatch.setenv("RAW", str(tables.raw))
    execute(copy, tables, monkeypatch)
    manifest = json.loads((copy.with_suffix("") / "out/gold/_table.json").read_text())
    old = tables.call("tables", "show", "gold", "--run", first, "--json").json
    assert {n: p["digest"] for n, p in manifest["partitions"].items()} == {
        n: p["digest"] for n, p in old["partitions"].items()
    }
    stored = contents(tables.home / "store")
    copy = Path(tables.call("open", "last", "ingest", "--print").out.strip())  # It makes pieces, elsewhere
    execute(copy, tables, monkeypatch)
    assert contents(tables.home / "store") == stored
    assert "pl4nted" not in "".join(file.read_text() for file in copy.parent.rglob("*.ipynb"))


def test_what_cannot_be_opened_is_named(ran):
    what, _, remedy = ran.call("open", "last", "totl", "--print").fault()
    assert "`totl` is not part of run" in what and remedy == "Did you mean `total`?"
    name = ran.runs()[0]
    what, _, remedy = ran.call("open", name[:-1] + "x", "total", "--print").fault()
    assert "there is no run" in what and f"Did you mean `{name}`?" in remedy
    ran.edit("make", "def count(rows):", "def count(rows):\n    raise OSError('planted')")
    assert ran.run().rc == 1
    assert "did not start in run" in ran.call("open", "last", "double", "--print").fault()[0]
    assert "planted" in Path(ran.call("open", "last", "make", "--print").out.strip()).read_text()


# Explore


def test_any_table_of_any_run_and_environment_is_read_in_two_lines(tables):
    code = """
from mlops_kit.explore import table, tables
first, second = sys.argv[1:]
old, new = table("gold", run=first), table("gold", run="last")
assert len(old) == 5 and len(new) == 6 and len(table("silver/flights", run=second)) == 6
assert table("gold").equals(new) and table(f"gold@{first}").equals(old) and table("gold", run="last~1").equals(old)
listed = tables()
version = listed.filter(name="gold")["version"].to_list()
assert len(version) == 2 and table("gold", version=version[1]).equals(old)
for wrong in (lambda: table("gold", env="prod"), lambda: table("silver"), lambda: table("gold", run="2000")):
    try:
        wrong()
        print("no error")
    except Exception as error:
        print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}", *tables.runs()],
        cwd=tables.root,
        env=tables.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "no run made `gold`" in done.stdout and "`silver` is no table" in done.stdout
    assert "silver/flights" in done.stdout and "there is no run `2000`" in done.stdout and "no error" not in done.stdout


# The server


class Server:
    "JupyterLab of a project, on this machine only, with a token of its own."

    def __init__(self, project: Project, home: Path):
        token, self.project = uuid.uuid4().hex, project
        places = {"HOME": str(home), "JUPYTER_RUNTIME_DIR": str(home / "runtime"), "IPYTHONDIR": str(home / "ipython")}
        self.environment = project.environment(**places)
        words = [
            "lab",
            "--no-browser",
            "--ip=127.0.0.1",
            "--port=0",
            "--allow-root",
            f"--IdentityProvider.token={token}",
        ]
        self.log = open(home / "log", "w")  # noqa: SIM115  # Open as long as the server runs
        told = {"cwd": project.root, "env": self.environment, "stdout": self.log, "stderr": self.log}
        self.process = subprocess.Popen([COMMAND, *words], **told)
        project.await_text(home / "log", "Use Control-C to stop")
        file = next((home / "runtime").glob("jpserver-*.json"))
        project.await_text(file, "}")
        said = json.loads(file.read_text())
        self.url, self.token = said["url"], token
        self.client = httpx.Client(base_url=self.url, headers={"Authorization": f"token {token}"}, timeout=30)

    def ask(self, method: str, place: str, **words) -> dict:
        "Ask the server's REST API."
        answer = self.client.request(method, place, **words)
        answer.raise_for_status()
        return answer.json() if answer.content else {}

    def open(self, file: str) -> "Kernel":
        "Open a notebook with a kernel, as a person does by a double click."
        session = {"path": file, "type": "notebook", "name": file, "kernel": {"name": "python3"}}
        return Kernel(self, self.ask("POST", "api/sessions", json=session))

    def stop(self) -> None:
        "Stop it, with its kernels."
        self.ask("POST", "api/shutdown")
        self.process.wait(30)
        self.log.close()


class Kernel:
    "A kernel that the server started, over its websocket."

    def __init__(self, server: Server, session: dict):
        from websocket import create_connection

        self.server, self.session, self.id = server, session, session["kernel"]["id"]
        place = f"{server.url}api/kernels/{self.id}/channels?token={server.token}".replace("http:", "ws:")
        self.socket = create_connection(place, timeout=120)

    def run(self, code: str) -> list[dict]:  # Messages with outputs
        "Run a cell."
        head = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "test", "username": ""}
        content = {"code": code, "silent": False, "store_history": True, "allow_stdin": False}
        message = {"header": head | {"version": "5.3"}, "parent_header": {}, "metadata": {}, "content": content}
        self.socket.send(json.dumps(message | {"channel": "shell"}))
        outputs = []
        while True:
            said = json.loads(self.socket.recv())
            if said["parent_header"].get("msg_id") != head["msg_id"]:
                continue
            if said["msg_type"] in ("stream", "display_data", "execute_result", "error"):
                outputs.append({"type": said["msg_type"], **said["content"]})
            if said["msg_type"] == "status" and said["content"]["execution_state"] == "idle":
                return outputs

    def text(self, code: str) -> str:
        "What a cell prints; it must not fail."
        outputs = self.run(code)
        assert not [output for output in outputs if output["type"] == "error"], outputs
        return "".join(output.get("text", "") for output in outputs)


@pytest.fixture(scope="module")
def server(tmp_path_factory, finished):
    "JupyterLab on a toy project that ran once, and that holds a step of the kit with its samples."
    place = tmp_path_factory.mktemp("lab")
    (place / "home").mkdir()
    project = finished.copy(place / "toy")
    shutil.copytree(REPOSITORY / "samples", project.root / "samples")
    shutil.copy(REPOSITORY / "nbs/training/split.ipynb", project.root / "nbs")
    shutil.copy(REPOSITORY / "nbs/explore.ipynb", project.root / "nbs")
    pyproject = project.root / "pyproject.toml"
    pyproject.write_text(pyproject.read_text() + "jupyter_hooks = true\n")
    running = Server(project, place / "home")
    yield running
    running.stop()
    project.await_silence(20)


@pytest.mark.slow
def test_the_server_has_the_kernel_a_start_page_and_asks_for_its_token(server):
    assert httpx.get(f"{server.url}api/contents").status_code == 403
    kernels = server.ask("GET", "api/kernelspecs")
    assert kernels["default"] == "python3" and "python3" in kernels["kernelspecs"]
    names = {file["name"] for file in server.ask("GET", "api/contents")["content"]}
    assert {"nbs", "runs", "samples", "settings.ini"} <= names
    page = server.ask("GET", "api/contents/start.md")["content"]
    assert "The last run of `train` **passed**" in page and page.index("[make](nbs/make.ipynb)") < page.index(
        "[total]("
    )
    for target in ("report.html", "nbs/explore.ipynb", "settings.ini"):
        link = next(part.split(")")[0] for part in page.split("](") if part.split(")")[0].endswith(target))
        assert (server.project.root / link).exists()
    home = Path(server.environment["HOME"])
    assert not [*home.glob(".jupyter/*config*"), *home.glob(".gitconfig")]  # Nothing is installed there
    opened = server.client.get("", follow_redirects=True)
    assert opened.url.path == "/lab/tree/start.md"


@pytest.mark.slow
def test_a_notebook_is_clean_when_it_is_saved(server):
    notebook = server.ask("GET", "api/contents/nbs/make.ipynb")["content"]
    code = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    code["execution_count"], code["metadata"]["trusted"] = 7, True
    before = (server.project.root / "nbs/make.ipynb").read_text()
    server.ask("PUT", "api/contents/nbs/make.ipynb", json={"type": "notebook", "content": notebook})
    after = json.loads((server.project.root / "nbs/make.ipynb").read_text())
    assert [cell["source"] for cell in after["cells"]] == [cell["source"] for cell in json.loads(before)["cells"]]
    assert all(cell.get("execution_count") is None and "trusted" not in cell["metadata"] for cell in after["cells"])
    assert any(cell["metadata"].get("tags") == ["parameters"] for cell in after["cells"])


@pytest.fixture(scope="module")
def kernel(server):
    "A kernel behind a notebook of the project."
    return server.open("nbs/explore.ipynb")


@pytest.mark.slow
def test_the_kernel_is_this_environment_and_sees_the_project(server, kernel):
    assert kernel.text("import sys; print(sys.prefix)").strip() == sys.prefix
    assert kernel.text("import os, toy.tools; print(os.getcwd())").strip() == str(server.project.root / "nbs")


@pytest.mark.slow
def test_a_step_runs_from_a_cell_as_the_runner_runs_it(server, kernel):
    kernel.text("%load_ext mlops_kit.lab")
    outputs = kernel.run("%run_step total -p bar=2.5")
    assert [output["text"].split()[:3] for output in outputs if output["type"] == "stream"] == [
        [">", "fit.total", "running"]
    ]
    shown = next(output["data"] for output in outputs if output["type"] == "execute_result")
    assert "✓ Passed" in shown["text/html"] and "at least 2.5" in shown["text/html"]
    last = server.project.call("status", "--json").json["runs"][-1]
    assert [step["step"] for step in last["steps"]] == ["fit.total"] and last["status"] == "passed"
    assert last["steps"][0]["parameters"]["bar"] == {"value": 2.5, "origin": "-p"}
    assert (server.project.root / "nbs" / f"../runs/dev/{last['run']}/report.html").exists()
    assert f"../runs/dev/{last['run']}/report.html" in shown["text/html"]
    again = kernel.run("%run_step fit.total -p bar=2.5")
    assert "Reused: fit.total" in next(o["data"]["text/plain"] for o in again if o["type"] == "execute_result")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "what", "remedy"),
    [
        ("total -p bar=99", "GateFailed: total is 12; the bar is at least 99", "Make more numbers."),
        ("totl", "SettingsError: there is no step `totl`", "Did you mean `total`?"),
        ("total -p bat=1", "no parameter `bat`", "Did you mean `bar`?"),
        ("total --env prdo", "prdo", "prod"),
    ],
)
def test_what_fails_in_a_cell_is_told_in_three_parts(kernel, line, what, remedy):
    kernel.text("%reload_ext mlops_kit.lab")
    error = kernel.run(f"%run_step {line}")[-1]
    told = "\n".join(error["traceback"])
    assert error["type"] == "error" and what in told and remedy in told
    assert "  where  " in told and "  do     " in told and "Traceback" not in told and "lab.py" not in told


@pytest.mark.slow
def test_figures_of_a_session_have_the_look_of_the_kit(kernel):
    kernel.text("%reload_ext mlops_kit.lab")
    kernel.run("import matplotlib.pyplot as plt; plt.plot([1, 2])")  # Its backend may bring settings of its own
    code = "import matplotlib as mpl; from mlops_kit.look import style\nwanted = mpl.RcParams(style())\n"
    code += "print([name for name, value in wanted.items() if mpl.rcParams[name] != value])"
    assert kernel.text(code).strip() == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("file", ["nbs/split.ipynb", "nbs/explore.ipynb"])
def test_a_notebook_runs_top_to_bottom_in_jupyterlab_on_the_sample(server, file):
    kernel = server.open(file)
    cells = server.ask("GET", f"api/contents/{file}")["content"]["cells"]
    outputs = [output for cell in cells if cell["cell_type"] == "code" for output in kernel.run(cell["source"])]
    assert not [output for output in outputs if output["type"] == "error"], outputs[-1]
    assert [output for output in outputs if output["type"] == "execute_result"]
    server.ask("DELETE", f"api/sessions/{kernel.session['id']}")


@pytest.mark.slow
def test_a_copy_opens_in_the_server_that_runs_already(server):
    done = server.project.call(
        "open", server.project.runs()[0], "make", **server.environment | {"BROWSER": "/bin/echo"}
    )
    assert done.rc == 0, done.err
    url = next(word for word in done.out.split() if "token=" in word)
    assert url.startswith(f"{server.url}lab/tree/scratch/open/") and "prep.make.ipynb" in url
    assert httpx.get(url, follow_redirects=True).status_code == 200


# Merges


def git(root: Path, *words: str, path: str = os.environ["PATH"]) -> subprocess.CompletedProcess:
    "Type a git command as a user without a configuration of their own."
    plain = {"HOME": str(root.parent), "GIT_CONFIG_NOSYSTEM": "1", "PATH": path}
    who = {f"GIT_{role}_{what}": "a@b.c" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return subprocess.run(["git", *words], cwd=root, env=plain | who, capture_output=True, text=True, timeout=60)


@pytest.fixture
def repository(toy) -> Project:
    "A repository whose notebooks git merges, with the environment in `.venv`, and nothing else on the path."
    for name in (".gitattributes", ".gitconfig"):
        shutil.copy(REPOSITORY / name, toy.root)
    (toy.root / ".venv").mkdir()
    (toy.root / ".venv/bin").symlink_to(BIN)
    (toy.root / ".gitignore").write_text(".venv/\n")
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "Begin"]):
        assert git(toy.root, *words).returncode == 0
    done = toy.call("lab", "--hooks")
    assert done.rc == 0 and "cell by cell" in done.out
    return toy


def on_branch(project: Project, branch: str, start: str, **edits: tuple[str, str, str]) -> None:
    git(project.root, "checkout", "-q", "-b", branch, start)
    for name, old, new in edits.values():
        project.edit(name, old, new)
    assert git(project.root, "commit", "-qam", branch).returncode == 0


PLAIN_PATH = "/usr/local/bin:/usr/bin:/bin"


@pytest.mark.filterwarnings("ignore:.*id:Warning")  # Nbdev gives its markers none; JupyterLab does when it saves
def test_two_people_who_edit_one_cell_get_a_notebook_that_opens_with_both_versions(repository):
    on_branch(repository, "ada", "main", one=("make", "range(1, rows + 1)", "range(2, rows + 2)"))
    on_branch(repository, "bob", "main", one=("make", "range(1, rows + 1)", "range(rows)"))
    merged = git(repository.root, "merge", "ada", path=PLAIN_PATH)
    assert merged.returncode == 1 and "CONFLICT" in merged.stdout
    opened = FileContentsManager(root_dir=str(repository.root)).get("nbs/make.ipynb")  # As JupyterLab's server does
    assert "message" not in opened  # Which would say what is wrong
    text = "\n".join(cell["source"] for cell in opened["content"]["cells"])
    assert "range(2, rows + 2)" in text and "range(rows)" in text and "<<<<<<<" in text and ">>>>>>>" in text


def test_edits_of_two_cells_and_noise_merge_by_themselves(repository):
    on_branch(repository, "ada", "main", one=("make", "range(1, rows + 1)", "range(2, rows + 2)"))
    on_branch(repository, "bob", "main", one=("make", "rows: int = 3", "rows: int = 4"))
    merged = git(repository.root, "merge", "ada", path=PLAIN_PATH)
    assert merged.returncode == 0, merged.stdout + merged.stderr
    text = "\n".join(cell.source for cell in nbformat.read(repository.root / "nbs/make.ipynb", 4).cells)
    assert "range(2, rows + 2)" in text and "rows: int = 4" in text
    file = repository.root / "nbs/side.ipynb"
    noisy = json.loads(file.read_text())
    for count, cell in enumerate(noisy["cells"]):
        cell |= {"execution_count": count} if cell["cell_type"] == "code" else {}
    file.write_text(json.dumps(noisy, sort_keys=True, indent=1))
    repository.edit("side", "write_text(note)", "write_text(note.upper())")
    shown = git(repository.root, "diff", path=PLAIN_PATH).stdout
    assert "{+.upper(+}" in shown and '"source"' not in shown  # A person's edit, without JSON around it


def test_hooks_are_refused_where_no_repository_begins(toy):
    what, _, remedy = toy.call("lab", "--hooks").fault()
    assert "no git repository" in what and "git init" in remedy
