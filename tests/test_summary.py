"""What a reviewer sees of a run: gates, and the change of every metric; with no run of the main branch, too."""

import os


def test_a_pull_request_shows_gates_and_the_change_of_every_metric(ran):
    (ran.root / "summary.json").write_text(ran.call("summary", "--json").out)
    ran.edit("total", "log(total=found)", "log(total=found, half=found / 2)")
    assert ran.run("-p", "double.factor=3", "-p", "total.bar=20").rc == 3
    main, now = ran.runs()
    told = ran.call("summary", "--against", "summary.json").out
    assert "## ❌ `train` failed" in told and main in told
    assert "| ❌ total | fit.total | 18 | at least 20 |" in told and "0 of 1 gates passed" in told
    assert "| fit.total | total | 18 | 12 | +6 |" in told and "| fit.total | half | 9 | – | new |" in told
    assert ran.call("summary", "--json").json["run"] == now
    assert "| fit.total | total | 12 | 12 | no change |" in ran.call("summary", main, "--against", "summary.json").out


def test_the_first_pull_request_has_nothing_to_be_compared_with(ran):
    done = ran.call("summary", "--against", "main-summary/summary.json")
    assert done.rc == 0 and "no run to compare with yet" in done.out and "| fit.total | total | 12 |\n" in done.out


def test_github_shows_it_below_the_job(ran, tmp_path):
    shown = tmp_path / "github.md"
    shown.write_text("before\n")
    done = ran.call("summary", GITHUB_STEP_SUMMARY=str(shown))
    assert shown.read_text().removeprefix("before\n").strip() == done.out.strip() != ""


def test_wrong_words_are_named(ran):
    (ran.root / "other.json").write_text("[]")
    what, where, remedy = ran.call("summary", "--against", "other.json").fault()
    assert "cannot be read" in what and "other.json" in where and "--json" in remedy
    assert "no run" in ran.call("summary", "--env", "test").fault()[0]


def test_a_run_needs_no_git(toy, tmp_path):
    """An image of the runtime has none."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for folder in os.environ["PATH"].split(os.pathsep)[::-1]:
        for file in os.scandir(folder) if os.path.isdir(folder) else ():
            if file.name != "git" and not (tools / file.name).is_symlink():
                (tools / file.name).symlink_to(file.path)
    done = toy.run(PATH=str(tools), OPENLINEAGE_DISABLED="false")
    assert done.rc == 0, done.err
