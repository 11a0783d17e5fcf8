"""The run report: true headings, safe text, one look, and a page that stands alone on every screen."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import example_run as example
import nbformat
import pytest
from conftest import fetch_npm, lacking

from mlops_kit.comparison_page import comparison_page
from mlops_kit.look import figure_svg, notebook_page, tokens
from mlops_kit.report import MAX_FIGURES, render_run

RUNS = {
    "passed": example.passed_run,
    "failed": example.failed_run,
    "crashed": example.crashed_run,
    "reused": example.reused_run,
    "interrupted": example.interrupted_run,
}
PAGES = [*RUNS, "comparison"]


def render(name):
    """The page of an example run, compared with the run before it; or that of two runs compared."""
    if name == "comparison":
        return comparison_page(example.comparison())
    return render_run(RUNS[name](), example.earlier(example.passed_run()))


def texts(page, tag):
    """What stands in every element `tag` of a page."""
    found = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", page, re.S)
    return [html.unescape(re.sub(r"<[^>]+>", "", text)).replace("\xa0", " ").strip() for text in found]


def executed(outputs):
    """An executed notebook with one code cell."""
    cell = nbformat.v4.new_code_cell("1 / 0", outputs=outputs, execution_count=1)
    text = nbformat.v4.new_markdown_cell("# Clean\n> Turn tables into tables.\n\n| a | b |\n|--|--|\n| 1 | 2 |")
    return nbformat.v4.new_notebook(cells=[text, cell])


@pytest.fixture
def notebook(tmp_path):
    """A page of an executed notebook with wide code, a table, a warning and an error."""
    table = "<table border='1' class='dataframe'><tr>" + "<th>a_long_column</th>" * 30 + "</tr></table>"
    outputs = [
        nbformat.v4.new_output("execute_result", {"text/html": table}, execution_count=1),
        nbformat.v4.new_output("stream", name="stderr", text="w" * 400),
        nbformat.v4.new_output(
            "error", ename="ZeroDivisionError", evalue="<b>", traceback=["\x1b[31mZeroDivisionError\x1b[0m: <b>"]
        ),
    ]
    nbformat.write(executed(outputs), tmp_path / "clean.ipynb")
    return notebook_page(tmp_path / "clean.ipynb", "dataops.clean")


@pytest.mark.parametrize(
    ("name", "pill", "title"),
    [
        ("passed", "Passed", "All six gates passed"),
        (
            "failed",
            "Stopped at evaluate",
            "ROC AUC of the worst carrier misses its bar by 0.088, so register did not run",
        ),
        ("crashed", "Stopped at clean", "Clean stopped with KeyError, so six steps did not run"),
        ("reused", "Passed", "Nothing changed, so nothing ran"),
        ("interrupted", "Interrupted", "Interrupted after five of eight steps"),
    ],
)
def test_verdict(name, pill, title):
    """Each way to end has its own verdict."""
    page = render(name)
    assert texts(page, "h1") == [title]
    assert pill in texts(page, "span")


@pytest.mark.parametrize(
    ("name", "titles"),
    [
        (
            "passed",
            [
                "Calibration error passed with the least room, 0.0004",
                "All eight steps finished",
                "Features took 30 % of 1 min 11 s",
                "One of seven metrics moved since the last run",
            ],
        ),
        ("failed", ["One of seven gates failed, by 0.088", "The pipeline stopped at evaluate; register never ran"]),
        (
            "crashed",
            [
                "The one gate passed",
                "The pipeline stopped at clean; six steps never ran",
                "Two steps ran in 1 min 11 s",
            ],
        ),
        ("reused", ["All eight steps were reused", "No step ran"]),
        ("interrupted", ["Five of eight steps finished; three steps never ran"]),
    ],
)
def test_headings_state_the_finding(name, titles):
    """Headings are computed from the run."""
    found = texts(render(name), "h2")
    assert [title for title in titles if title not in found] == []


def test_several_gates_failed():
    """More than one failed gate is counted, and the worst is told first."""
    run = example.failed_run()
    run["steps"][6]["gates"].append(example.gate("Brier score", None, at_most=0.2))
    page = render_run(run)
    assert texts(page, "h1") == ["Two of eight gates failed, so register did not run"]
    assert "Brier score has no value; the bar is ≤ 0.2." in texts(page, "p")[0]


@pytest.mark.parametrize("value", [None, float("nan")])
def test_gate_without_value_has_failed(value):
    """A metric that is missing reads as a failed gate."""
    run = example.passed_run() | {"status": "failed"}
    run["steps"][6]["gates"] = [example.gate("ROC AUC", value, at_least=0.67)]
    run["steps"][6]["status"] = "failed"
    page = render_run(run)
    assert texts(page, "h1") == ["ROC AUC has no value"]
    assert "no value" in texts(page, "td") and "Failed" in texts(page, "td")


def test_least_room_comes_first():
    """Gates stand in the order of their room, failed ones before all others."""
    rows = texts(render("failed").split('<h2 id="gates"')[1].split("</table>")[0], "th")
    assert [rows.index(rows[7]), rows[7][:28], rows[8][:17]] == [7, "ROC AUC of the worst carrier", "Calibration error"]


def test_next_command():
    """The page says what to type."""
    assert "mlops-kit run train" in texts(render("failed"), "code")
    assert "mlops-kit run train --dry-run" in texts(render("passed"), "code")


def test_only_what_differs_is_compared():
    """Parameters that differ from the last run are listed, and no others."""
    page = render("passed")
    listed = page.split("<summary>Parameters that differ")[1].split("</details>")[0]
    assert "trials" in listed and "seed" not in listed
    assert "Parameters that differ" not in render_run(example.passed_run())


def test_nodes_open_notebooks():
    """Every step that ran leads to its executed notebook, in the graph and in the table."""
    page = render("failed")
    assert page.count('href="training.evaluate/notebook.html"') >= 4
    assert 'href="training.register/notebook.html"' not in page


@pytest.mark.parametrize(
    "run",
    [
        {},
        {"status": "failed", "error": "no disk"},
        {"status": "passed", "steps": [{"step": "a"}]},
        {
            "status": "failed",
            "steps": [{"step": "a.b", "status": "failed", "error": {"type": None, "message": None}, "seconds": None}],
        },
        {
            "status": "failed",
            "steps": [{"step": "a.b", "status": "failed"}, {"step": "c.b"}],
            "edges": [["x.y", "a.b", "z"]],
        },
        {"status": "interrupted", "steps": [{"step": "a", "metrics": {"auc": None}, "gates": None, "page": None}]},
    ],
)
def test_pieces_may_be_missing(run):
    """A crash leaves half a record; its report is still a page."""
    assert "</html>" in render_run(run, {"run": "before"}) and "</html>" in render_run(run)


def _poison(value, text):
    """Put `text` into every string of a record but those that steer the page."""
    if isinstance(value, dict):
        return {
            key if key not in ("seed", "auc", "text") else text: v
            if key in ("svg", "status", "started", "step", "page")
            else _poison(v, text)
            for key, v in value.items()
        }
    if isinstance(value, list):
        return [_poison(v, text) for v in value]
    return text if isinstance(value, str) else value


def test_everything_is_escaped():
    """A record may hold any text: none of it becomes a tag."""
    attack = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    run = example.failed_run()
    run = _poison(run, attack) | {"edges": run["edges"]}
    page = render_run(run, _poison(example.earlier(example.passed_run()), attack))
    tags = _Tags(page)
    assert [dict(attributes) for tag, attributes in tags.seen if tag == "script"] == [{}]
    assert "img" not in {tag for tag, _ in tags.seen}
    assert not any(name.startswith("on") for _, attributes in tags.seen for name, _ in attributes)
    assert page.count("&lt;script&gt;alert(1)") > 20


class _Tags(HTMLParser):
    """Every tag of a page with its attributes."""

    def __init__(self, page):
        super().__init__()
        self.seen = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        """Keep a tag."""
        self.seen.append((tag, attrs))


@pytest.mark.parametrize("name", PAGES)
def test_page_stands_alone(name):
    """No address outside, a size that can be mailed, ids that are unique."""
    page = render(name)
    tags = _Tags(page).seen
    addresses = [value for _, attributes in tags for key, value in attributes if key in ("src", "href", "xlink:href")]
    ids = [value for _, attributes in tags for key, value in attributes if key == "id"]
    assert [address for address in addresses if re.match(r"(https?:)?//", address)] == []
    assert "url(http" not in page and "@import" not in page
    assert len(page.encode()) <= 300_000
    assert len(ids) == len(set(ids))


def test_notebook_page_stands_alone(notebook):
    """An executed notebook is as complete as a report, with its error first."""
    assert not re.search(r'(src|href)="(https?:)?//', notebook) and "<script" not in notebook
    assert (
        "Stopped by ZeroDivisionError" in notebook and 'href="#error"' in notebook and notebook.count('id="error"') == 1
    )


@pytest.mark.parametrize("name", PAGES)
def test_drawings_have_words(name):
    """A drawing has a title, or is hidden from those who cannot see it."""
    for drawing in re.findall(
        r"<svg\b[^>]*>(?:\s*<title)?", re.sub(r"<svg x=.*?</svg>|<svg y=.*?</svg>", "", render(name))
    ):
        assert "<title" in drawing or 'aria-hidden="true"' in drawing or "aria-label=" in drawing


@pytest.mark.parametrize("name", PAGES)
def test_colours_are_tokens(name, notebook):
    """No colour is written outside the two lists of tokens."""
    known = {colour for scheme in tokens.values() for colour in scheme.values()}
    for page in (render(name), notebook):
        style = page.split("<style>")[1].split("</style>")[0]
        assert set(re.findall(r"#[0-9a-fA-F]{3,8}\b", style)) <= known
        used = re.findall(r'(?:fill|stroke|color|background)[=:]\s*"?([^";\s]+)', page.split("</style>")[1])
        assert {c for c in used if not c.startswith("var(")} <= {"none", "currentColor", "inherit"}


def test_many_figures_do_not_fill_the_page():
    """Beyond the limit a figure is named, and its notebook linked."""
    run = example.passed_run()
    small = run["steps"][6]["figures"][0]
    large = {"title": "huge", "svg": f'<svg viewBox="0 0 900 9"><path d="{"M0 0" * MAX_FIGURES}"/></svg>'}
    run["steps"][6]["figures"] = [large, small]
    page = render_run(run)
    assert len(page) < 300_000 and "Too large for this page" in page and "<b>huge</b>" in page
    assert page.count('<path d="M0 0M0 0') == 0 and page.count('role="img"') == 1


def test_long_error_keeps_its_end():
    """A traceback of megabytes, in a terminal's colours, shows its end in plain text."""
    run = example.crashed_run()
    run["steps"][1]["error"]["traceback"] = "x" * 2_000_000 + "\x1b[31mKeyError\x1b[0m: the end"
    page = render_run(run)
    assert len(page) < 300_000 and "KeyError: the end" in page and "\x1b" not in page


def test_rendering_leaves_the_record_alone():
    """The same record gives the same page twice."""
    run = example.failed_run()
    before = json.dumps(run)
    assert render_run(run) == render_run(run) and json.dumps(run) == before


def _light(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(
        w * (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4)
        for w, p in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
    )


@pytest.mark.parametrize("scheme", tokens)
def test_contrast(scheme):
    """Text reaches 4.5 on all that it stands on, lines that carry meaning 3 (WCAG 2.2, 1.4.3 and 1.4.11)."""
    colours = tokens[scheme]
    words = ("ink", "ink2", "link", "c1", "c2", "c3", "c4", "good", "bad", "warn", "idle")
    pairs = [(name, "bg", 4.5) for name in words] + [("c0", "bg", 4.49), ("rule", "bg", 3), ("ink2", "surface", 4.5)]
    pairs += [(name, f"{name}-bg", 4.5) for name in ("good", "bad", "warn", "idle")]
    pairs += [(name, tint, 4.5) for name in ("ink", "ink2", "link") for tint in ("bad-bg", "warn-bg")]
    for front, back, least in pairs:
        high, low = sorted((_light(colours[front]), _light(colours[back])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= least, (front, back)


def test_figure_without_title_or_style():
    """Any figure becomes a drawing with a name, whose black follows the page."""
    import matplotlib.pyplot as plt

    fig, ax = plt.subplots()
    ax.plot([1, 2], [3, 4], color="black")
    ax.text(1, 3, "(#a1b2c3) 0.123456 <i>")
    svg = figure_svg(fig, "my figure/1")
    plt.close(fig)
    assert '<title id="my-figure-1-t">my figure/1</title>' in svg
    assert "#000000" not in svg and "var(--ink)" in svg
    assert "(#a1b2c3) 0.123456 &lt;i&gt;" in svg


# A browser, where there is one


def _browser():
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return found or lacking("no Chromium on this machine: the layout is not measured")


def _open(folder, file, *flags):
    """The page's text once a browser has run it."""
    quiet = [
        "--no-first-run",
        "--disable-quic",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    command = [_browser(), "--headless", "--no-sandbox", "--disable-gpu", *quiet, f"--user-data-dir={folder}/profile"]
    command += ["--virtual-time-budget=8000", "--window-size=1400,1200", *flags, "--dump-dom", file.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


MEASURE = """<!doctype html><title>measure</title><pre id="out"></pre><script>
const page = PAGE, widths = [320, 390, 768, 1280], found = {};
for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width:${width}px;height:900px;border:0`;
  frame.onload = () => {
    const root = frame.contentDocument.documentElement;
    found[width] = [root.scrollWidth, root.clientWidth];
    document.getElementById("out").textContent = JSON.stringify(found);
  };
  frame.srcdoc = page; document.body.append(frame);
}</script>"""


def assert_fits(text, folder):
    """No page scrolls sideways in a window from a phone to a desk."""
    file = folder / "measure.html"
    file.write_text(MEASURE.replace("PAGE", json.dumps(text).replace("</", "<\\/")))
    found = json.loads(re.search(r'<pre id="out">(.*?)</pre>', _open(folder, file), re.S)[1])
    assert set(found) == {"320", "390", "768", "1280"}
    assert {width: sizes for width, sizes in found.items() if sizes[0] > sizes[1]} == {}


@pytest.mark.parametrize("name", [*PAGES, "long", "notebook"])
def test_no_sideways_scroll(name, notebook, tmp_path):
    """A page is as wide as its window, from a phone to a desk."""
    long = example.failed_run()
    long["steps"][1]["step"] = "dataops.a_step_with_quite_a_long_name_indeed"
    long["steps"][6]["error"]["message"] = "x" * 300
    long["steps"][6]["gates"][0]["name"] = "an_unbroken_name_of_a_gate_that_somebody_thought_was_short_enough"
    pages = {"long": lambda: render_run(long), "notebook": lambda: notebook}
    text = pages[name]() if name in pages else render(name)
    assert_fits(text, tmp_path)


AUDIT = """<script>AXE</script><script>
axe.run(document, {resultTypes: ["violations"]}).then(result => {
  const found = result.violations.map(v => [v.id, v.nodes.map(n => n.target.join(" ") + ": " + n.failureSummary)]);
  const out = document.createElement("pre");
  out.id = "axe"; out.textContent = JSON.stringify(found); document.body.append(out);
});</script></body>"""


def assert_accessible(text, axe, width, scheme, folder):
    """axe-core finds nothing wrong."""
    text = re.sub(r"<meta http-equiv=[^>]*>", "", text)
    file = folder / "page.html"
    file.write_text(text.replace("</body>", AUDIT.replace("AXE", axe.replace("</", "<\\/"))))
    dom = _open(folder, file, f"--blink-settings=preferredColorScheme={scheme}", f"--window-size={width},1400")
    assert json.loads(html.unescape(re.search(r'<pre id="axe">(.*?)</pre>', dom, re.S)[1])) == []


@pytest.fixture(scope="session")
def axe(tmp_path_factory):
    """The source of axe-core, fetched for this session."""
    folder = tmp_path_factory.mktemp("axe")
    package = fetch_npm("axe-core@4", folder, "the pages are not audited")
    return (package / "axe.min.js").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
@pytest.mark.parametrize("width", [500, 1280])
@pytest.mark.parametrize("name", ["failed", "passed", "notebook", "comparison"])
def test_accessible(name, width, scheme, axe, notebook, tmp_path):
    """An audit by axe-core finds nothing."""
    text = notebook if name == "notebook" else render(name)
    assert_accessible(text, axe, width, scheme, tmp_path)


def test_a_comparison_of_much_code_stays_small():
    """Beyond the limit statements are counted, and the command that prints them is named."""
    found = example.comparison()
    found["code"] = [found["code"][0] | {"unit": f"function a.f{n}", "diff": ["+" + "x" * 999] * 20} for n in range(20)]
    page = comparison_page(found)
    assert len(page) < 300_000 and "18 statements more in" in html.unescape(re.sub("<[^>]+>", "", page))
