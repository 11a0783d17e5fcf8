"A project gets later improvements by a merge: what people changed stays, what nobody touched becomes new."

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from test_project_new import customers, git, make, write

from mlops_kit.cli import app
from mlops_kit.project import KitError
from mlops_kit.start import templates
from mlops_kit.start.new import TEMPLATE
from mlops_kit.start.update import Update, update_project

NOTEBOOK = "nbs/workloads/churn.ipynb"
LATER = {  # What a later kit's templates say: {file: (before, after)}
    "Makefile": ("$(BIN)/mlops-kit run train\n", "$(BIN)/mlops-kit run train --wait\n"),
    "settings.ini": ("jobs = 2", "jobs = 3"),
    "nbs/workloads/[[ name ]].ipynb.jinja": ("is yours to change", "is yours, and only yours, to change"),
    "tests/test_[[ name ]].py.jinja": ('"Rows as they landed."', '"Rows, as they landed."'),
}


@pytest.fixture(autouse=True)
def light(monkeypatch):
    "The wheel is not built anew for every test: what a project gets of it is tested with `new`."
    monkeypatch.setattr(templates, "find_kit", lambda: ("mlops-kit==9.9.9", None))


@pytest.fixture(scope="module")
def old(tmp_path_factory) -> Path:
    "A project as the templates of today make it."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(templates, "find_kit", lambda: ("mlops-kit==9.9.9", None))
        folder = tmp_path_factory.mktemp("old")
        root = make(folder / "made", write(folder / "customers.csv", customers(60)))
    git(root, "config", "user.name", "Ada")
    git(root, "config", "user.email", "ada@example.org")
    return root


@pytest.fixture
def project(old, tmp_path) -> Path:
    "A project of its own."
    return shutil.copytree(old, tmp_path / "churn", symlinks=True)


@pytest.fixture
def later(tmp_path, monkeypatch) -> Path:
    "Templates of a later kit."
    folder = shutil.copytree(templates.template_folder(), tmp_path / "templates")
    for name, (before, after) in LATER.items():
        replace(folder / name, before, after)
    monkeypatch.setattr(templates, "template_folder", lambda: folder)
    return folder


def replace(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert text.count(before) == 1, (file, before)
    file.write_text(text.replace(before, after))


def edit(root: Path, name: str, before: str, after: str) -> None:
    "Change a file of the project as a person would, and commit it."
    replace(root / name, before, after)
    git(root, "commit", "--quiet", "--all", "--message", f"Edit {name}")


def test_without_a_later_template_nothing_happens(project):
    before = git(project, "log", "--all", "--format=%H")
    done = update_project(project)
    assert not done.changed and not done.conflicts and git(project, "log", "--all", "--format=%H") == before
    assert not git(project, "status", "--porcelain")


def test_what_nobody_touched_becomes_new(project, later):
    done = update_project(project)
    assert sorted(done.changed) == ["Makefile", NOTEBOOK, "settings.ini", "tests/test_churn.py"]
    assert "run train --wait" in (project / "Makefile").read_text()
    assert "only yours" in (project / NOTEBOOK).read_text() and "only yours" in git(project, "show", f"HEAD:{NOTEBOOK}")
    assert not git(project, "status", "--porcelain") and len(git(project, "log", "-1", "--format=%P").split()) == 2
    assert not update_project(project).changed, "once is enough"
    assert len(git(project, "worktree", "list").splitlines()) == 1


def test_what_a_person_changed_stays(project, later):
    edit(project, "settings.ini", "cost_missed = 1", "cost_missed = 7")
    edit(project, NOTEBOOK, "To be said.", "Ada")
    (project / "mine.txt").write_text("a file of mine")
    git(project, "rm", "--quiet", "nbs/explore.ipynb")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--message", "Mine")
    done = update_project(project)
    assert not done.conflicts
    settings, notebook = (project / "settings.ini").read_text(), (project / NOTEBOOK).read_text()
    assert "cost_missed = 7" in settings and "jobs = 3" in settings
    assert "only yours" in notebook and '\\"Owner\\": \\"Ada\\"' in notebook
    assert (project / "mine.txt").exists() and not (project / "nbs/explore.ipynb").exists()
    assert '"Owner": "Ada"' in (project / "churn/workloads/churn.py").read_text(), "the package is exported anew"


def test_a_conflict_in_a_text_names_the_file_and_loses_nothing(project, later):
    edit(project, "settings.ini", "jobs = 2", "jobs = 8")
    done = update_project(project)
    assert done.conflicts == ["settings.ini"]
    text = (project / "settings.ini").read_text()
    assert "<<<<<<<" in text and "jobs = 8" in text and "jobs = 3" in text
    assert "run train --wait" in (project / "Makefile").read_text(), "the rest is merged"
    with pytest.raises(KitError, match=r"a merge is not finished; in conflict: settings\.ini"):
        update_project(project)
    git(project, "checkout", "--theirs", "settings.ini")
    git(project, "add", "--all")
    git(project, "commit", "--quiet", "--no-edit")
    assert not update_project(project).changed


def test_going_back_from_a_conflict_is_one_command(project, later):
    edit(project, "settings.ini", "jobs = 2", "jobs = 8")
    head = git(project, "rev-parse", "HEAD")
    update_project(project)
    git(project, "merge", "--abort")
    assert git(project, "rev-parse", "HEAD") == head and not git(project, "status", "--porcelain")
    assert update_project(project).conflicts == ["settings.ini"], "and it can be tried again"


def test_a_conflict_in_a_cell_gives_a_notebook_that_opens(project, later):
    edit(project, NOTEBOOK, "is yours to change", "is Ada's to change")
    assert update_project(project).conflicts == [NOTEBOOK]
    notebook = nbformat.read(project / NOTEBOOK, 4)
    nbformat.validate(notebook)
    sources = [cell.source for cell in notebook.cells]
    assert any("is Ada's to change" in source for source in sources)
    assert any("only yours" in source for source in sources)
    assert sum("<<<<<<<" in source for source in sources) == sum(">>>>>>>" in source for source in sources) == 1


def test_a_dirty_tree_is_refused_and_stays_as_it_is(project, later):
    (project / "settings.ini").write_text("[DEFAULT]\njobs = 9\n")
    (project / "new.txt").write_text("not committed")
    before = git(project, "log", "--all", "--format=%H"), git(project, "status", "--porcelain")
    with pytest.raises(KitError, match="not committed: ") as told:
        update_project(project)
    assert "git stash" in told.value.remedy
    assert (git(project, "log", "--all", "--format=%H"), git(project, "status", "--porcelain")) == before


def test_a_clone_is_updated_as_well(project, later, tmp_path):
    git(tmp_path, "clone", "--quiet", str(project), "clone")
    assert "Makefile" in update_project(tmp_path / "clone").changed


def test_a_project_that_new_did_not_make_is_refused(tmp_path):
    with pytest.raises(KitError, match="no project here"):
        update_project(tmp_path)
    git(tmp_path, "init", "--quiet")
    with pytest.raises(KitError, match="no template to merge with"):
        update_project(tmp_path)


def test_a_file_that_the_template_drops_goes_and_one_that_was_edited_is_asked_about(project, later):
    edit(project, ".gitignore", "data/\n", "data/\nmine/\n")
    (later / ".gitignore").unlink()
    (later / "nbs/explore.ipynb.jinja").unlink()
    done = update_project(project)
    assert done.conflicts == [".gitignore"] and not (project / "nbs/explore.ipynb").exists()
    assert "mine/" in (project / ".gitignore").read_text()


# Killed anywhere

DRIVER = """
import sys
from pathlib import Path
from mlops_kit.start import templates
from mlops_kit.start.update import update_project
templates.template_folder = lambda: Path(sys.argv[2])
templates.find_kit = lambda: ("mlops-kit==9.9.9", None)
update_project(Path(sys.argv[1]))
"""
# Counts its calls, and kills who called it before or after the one that is wanted; `reset` and `merge` are the git that
# dies as well, half-way: they write some of their files only.
GIT = """#!/bin/sh
n=$(($(cat "$COUNT" 2>/dev/null || echo 0) + 1)); echo $n > "$COUNT"
[ $n = "$AT" ] && [ "$WHEN" = before ] && kill -9 $PPID && exit 1
"$REAL" "$@"; rc=$?
[ $n = "$AT" ] && [ "$WHEN" = after ] && kill -9 $PPID
exit $rc
"""


def killed(project: Path, later: Path, at: int, when: str) -> bool:
    "Update in a process that is killed at a call of git; say whether it came so far."
    shim = project.parent / "bin" / "git"
    shim.parent.mkdir(exist_ok=True)
    shim.write_text(GIT)
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    count = project.parent / "count"
    count.unlink(missing_ok=True)
    given = {"PATH": f"{shim.parent}:{os.environ['PATH']}", "COUNT": str(count), "AT": str(at), "WHEN": when}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, project, later],
        env=os.environ | given | {"REAL": shutil.which("git") or ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode != 0


def is_updated(project: Path) -> bool:
    whole = not git(project, "status", "--porcelain") and "cost_missed = 7" in (project / "settings.ini").read_text()
    return (
        whole
        and "jobs = 3" in (project / "settings.ini").read_text()
        and "--wait" in (project / "Makefile").read_text()
    )


def check_kill(old: Path, folder: Path, later: Path, at: int, when: str) -> bool:
    project = shutil.copytree(old, folder / f"{when}-{at}" / "churn", symlinks=True)
    edit(project, "settings.ini", "cost_missed = 1", "cost_missed = 7")
    stopped = killed(project, later, at, when)
    update_project(project)
    assert is_updated(project), (at, when)
    assert git(project, "log", "--format=%s", "--first-parent").count("Update to") == 1
    return stopped


@pytest.mark.parametrize(("at", "when"), [(9, "after"), (20, "before")])
def test_an_update_that_was_killed_goes_on(old, later, tmp_path, at, when):
    assert check_kill(old, tmp_path, later, at, when), "it was killed"


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
def test_an_update_may_be_killed_at_any_call_of_git(old, later, tmp_path, when):
    at = 1
    while check_kill(old, tmp_path, later, at, when):
        at += 1
    assert at > 20, "there were that many calls"


def test_a_merge_that_wrote_some_of_its_files_is_finished(project, later):
    "As after a power cut: files and index are half-way, and git's lock is left."
    head = git(project, "rev-parse", "HEAD").strip()
    note = project / ".git/mlops-kit/update.json"
    note.parent.mkdir()
    note.write_text(json.dumps({"head": head, "pid": 2**22 + 1}))
    replace(project / "Makefile", *LATER["Makefile"])
    (project / ".git/index.lock").write_text("")
    done = update_project(project)
    assert "Makefile" in done.changed and not git(project, "status", "--porcelain")


def test_work_of_a_person_after_a_kill_is_not_taken_for_a_half_merge(project, later):
    note = project / ".git/mlops-kit/update.json"
    note.parent.mkdir()
    note.write_text(json.dumps({"head": git(project, "rev-parse", "HEAD").strip(), "pid": 2**22 + 1}))
    replace(project / "Makefile", *LATER["Makefile"])
    (project / "settings.ini").write_text("mine")
    with pytest.raises(KitError, match=r"not committed: settings\.ini"):
        update_project(project)
    assert (project / "settings.ini").read_text() == "mine"


# The command line


def test_the_command_says_what_changed_and_fails_where_somebody_must_decide(project, later, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.setenv("MLOPS_KIT_ROOT", str(project))
    edit(project, "settings.ini", "jobs = 2", "jobs = 8")
    done = CliRunner().invoke(app, ["update", "--json"])
    said = json.loads(done.stdout)
    assert done.exit_code == 1 and said["conflicts"] == ["settings.ini"] and set(said) == set(Update._fields)


def test_ci_is_added_to_a_project_that_has_none(old, tmp_path):
    words = json.loads((old / templates.MARK).read_text())["words"]
    root = tmp_path / "churn"
    root.mkdir()
    git(root, "init", "--quiet", "-b", TEMPLATE)
    templates.render(words, root, "project")
    git(root, "add", "--all")
    git(root, "-c", "user.name=A", "-c", "user.email=a@b.c", "commit", "--quiet", "--message", "Made")
    git(root, "checkout", "--quiet", "-b", "main")
    assert any(name.startswith(templates.CI) for name in update_project(root, "ci").changed)
    assert json.loads((root / templates.MARK).read_text())["parts"] == "all"
