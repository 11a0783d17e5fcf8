"""The index of runs: what it lists, where it leads, and what a click on a heading does, in a real browser."""

import html
import json
import re
from urllib.parse import unquote

import pytest
from example_run import passed_run
from test_report import _open, assert_accessible, assert_fits, axe, render  # noqa: F401

from mlops_kit.run_index import add_to_index, write_index

RUNS = [
    ("20260101-000000-aaaaaa", "passed", "2026-01-01T00:00:00+00:00", 71.0),
    ("20260102-000000-bbbbbb", "failed", "2026-01-02T00:00:00+00:00", 9.5),
    ("20260103-000000-cccccc", "passed", "2026-01-03T00:00:00+00:00", 100.25),
]


def example_index(top):
    """An index of three runs in two environments."""
    write_index(top)
    for n, (name, status, started, seconds) in enumerate(RUNS):
        facts = {"run": name, "status": status, "started": started, "seconds": seconds, "pipeline": "train"}
        file = add_to_index(passed_run() | facts | {"notes": []}, top / ("prod" if n == 2 else "dev"))
    return file


def listed(page):
    """The runs of an index in the order of its rows."""
    return re.findall(r'data-run="[^/]+/([^"]+)"', page)


def addresses(page):
    """Where the links of a page lead, but for those within it."""
    found = [html.unescape(to) for to in re.findall(r'<(?:a|link)\b[^>]*?href="([^"]*)"', page)]
    return [to for to in found if not to.startswith(("#", "data:"))]


def test_a_run_adds_its_line(ran):
    """The index stands beside the environments after every run, the newest run first."""
    ran.run()
    page = (ran.root / "runs/index.html").read_text()
    assert listed(page) == sorted(ran.runs(), reverse=True) and len(listed(page)) == 2
    assert "The newest run passed" in page and "Nothing changed, so nothing ran" in page and "Reused" in page


def test_a_failed_run_says_what_stopped_it(ran):
    """The verdict and the number that decided stand in its line."""
    done = ran.run("-p", "total.bar=99")
    row = re.search(r'<tr [^>]*data-status="failed".*', (ran.root / "runs/index.html").read_text())
    assert done.rc == 3 and row
    assert "misses its bar" in row[0] and 'class="bad"' in row[0]


def test_a_killed_run_is_listed_as_killed(ran):
    """A run that never ended is closed by the next one, and the index, made anew, names it so."""
    ledger = ran.root / "runs/dev/ledger.jsonl"
    first = next(line for line in ledger.read_text().splitlines() if json.loads(line)["event"] == "run")
    ledger.write_text(ledger.read_text() + json.dumps(json.loads(first) | {"run": "20260101-000000-dead00"}) + "\n")
    (ran.root / "runs/index.html").unlink()
    assert ran.run().rc == 0
    page = (ran.root / "runs/index.html").read_text()
    row = re.search(r'<tr [^>]*data-run="dev/20260101-000000-dead00".*', page)
    assert row and 'data-status="killed"' in row[0] and "Killed" in row[0] and "The newest run" in page


def test_a_note_shows_in_its_line(ran):
    """Why a run was made stands where runs are listed."""
    assert ran.call("note", "last", "More <trees>").rc == 0
    page = (ran.root / "runs/index.html").read_text()
    assert "Note: More &lt;trees&gt;" in page and len(listed(page)) == 1


def test_all_links_lead_to_files(ran):
    """Every page of every run leads to files that exist, and to nothing outside."""
    ran.edit("double", "factor: int = 2", "factor: int = 3")
    ran.run()
    ran.run()
    ran.call("report")
    pages = [*(ran.root / "runs").rglob("*.html")]
    told = {page: addresses(page.read_text()) for page in pages if "store" not in page.parts}
    broken = [
        (str(page), to) for page, found in told.items() for to in found if not (page.parent / unquote(to)).exists()
    ]
    assert broken == [] and len(told) > 8
    last = ran.root / "runs/dev" / ran.runs()[-2]
    assert {"comparison.html", "lineage.html", "../../index.html"} <= set(told[last / "report.html"])
    assert {"report.html", "../../index.html"} <= set(told[last / "lineage.html"]) & set(told[last / "comparison.html"])
    assert "../report.html" in told[last / "prep.double" / "notebook.html"]
    assert f"dev/{last.name}/report.html" in told[ran.root / "runs/index.html"]


def test_report_writes_the_index_or_one_report(ran):
    """Without a run the index, with one its report; on standard error what else to type."""
    done = ran.call("report")
    assert done.out.strip().endswith("runs/index.html") and "mlops-kit report last --open" in done.err
    assert ran.call("report", "last").out.strip().endswith(f"{ran.runs()[-1]}/report.html")


def test_report_opens_a_browser(ran, tmp_path):
    """`--open` hands the page to the browser of whoever types."""
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    for command in ("xdg-open", "open"):
        (tmp_path / command).symlink_to(browser)
    path = f"{tmp_path}:{ran.environment()['PATH']}"
    assert ran.call("report", "--open", PATH=path).rc == 0
    ran.await_text(tmp_path / "opened", "index.html")


def test_without_a_run_it_says_what_to_type(toy):
    """A new project has an index as well."""
    done = toy.call("report")
    assert done.rc == 0 and "mlops-kit run train" in done.err
    assert "No run yet" in (toy.root / "runs/index.html").read_text()


def test_runs_of_all_environments(tmp_path):
    """The newest stands first, whatever its environment; a run that is written again keeps one line."""
    page = example_index(tmp_path).read_text()
    assert listed(page) == [name for name, *_ in reversed(RUNS)]
    assert "environment dev" in page and "environment prod" in page and "in two environments" in page


CLICK = """<script>
const order = () => [...document.querySelectorAll("tbody tr")].map(row => row.dataset.run.split("/")[1]), found = {};
for (const button of document.querySelectorAll("thead button")) {
  const name = button.textContent; found[name] = [];
  for (const _ of [1, 2]) { button.click(); found[name].push([button.parentElement.ariaSort, order()]); }
}
const out = document.createElement("pre"); out.id = "found"; out.textContent = JSON.stringify(found);
document.body.append(out);
</script></body>"""


def test_a_click_sorts(tmp_path):
    """Each heading sorts up, then down: times as times, words as words."""
    text = example_index(tmp_path).read_text()
    file = tmp_path / "click.html"
    file.write_text(re.sub(r"<meta http-equiv=[^>]*>", "", text).replace("</body>", CLICK))
    found = json.loads(html.unescape(re.search(r'<pre id="found">(.*?)</pre>', _open(tmp_path, file), re.S)[1]))
    a, b, c = (name for name, *_ in RUNS)
    assert found["Time"] == [["ascending", [b, a, c]], ["descending", [c, a, b]]]
    assert found["Run"] == [["ascending", [a, b, c]], ["descending", [c, b, a]]]
    assert found["Environment"][1][1][0] == c and found["Result"][0][1][0] == b
    assert set(found) == {"Run", "Result", "Pipeline", "Environment", "Time", "Verdict", "Deciding numbers"}


@pytest.mark.parametrize("name", ["passed", "comparison"])
def test_the_policy_lets_the_kits_own_script_run(name, tmp_path):
    """Tables sort under the page's own policy, and a script that somebody slipped in does not run."""
    file = tmp_path / "page.html"
    file.write_text(render(name).replace("</main>", '<script>document.title = "taken"</script></main>'))
    dom = _open(tmp_path, file)
    assert re.search(r"<th[^>]*><button>", dom) and "<title>taken" not in dom


def test_it_fits_a_phone(tmp_path):
    """No window is too narrow."""
    assert_fits(example_index(tmp_path).read_text(), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
@pytest.mark.parametrize("width", [500, 1280])
def test_accessible(width, scheme, axe, tmp_path):  # noqa: F811
    """An audit by axe-core finds nothing."""
    assert_accessible(example_index(tmp_path).read_text(), axe, width, scheme, tmp_path)
