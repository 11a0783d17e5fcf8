"""The documentation site: whole, without the network, and right on every screen."""

import base64
import json
import re
import shutil
from pathlib import Path

import pytest
from browser import chromium, serve
from conftest import Project, lacking
from test_report import axe  # noqa: F401

from mlops_kit.docs import broken_links, build
from mlops_kit.notebooks import find_steps
from mlops_kit.project import KitError

ROOT = Path(__file__).parents[1]
WIDTHS = (320, 390, 768, 1280)
SAMPLE = ["index.html", "look.html", "dataops/clean.html", "training/evaluate.html", "reference/index.html"]
SAMPLE += ["reference/commands.html", "reference/settings.html"]

CONFIG = """
[project]
name = "toy"
version = "0.0.1"

[project.urls]
Repository = "https://example.org/toy/toy"
Documentation = "https://docs.example.org/toy/"

[tool.nbdev]
lib_path = "toy"
allowed_cell_metadata_keys = ["tags"]
skip_procs = "exec_show_docs"
doc_procs = ["mlops_kit.docs_signatures:SourceDocs"]
"""

HOME = r"""
%% md
# Toy
> Show what a page can hold.
%% md
Inline $e^{i\pi} = -1$, and on its own:

$$\hat{p} = \frac{1}{1 + e^{-x}}$$

See [your own data](howto/00_data.ipynb#a-file) and [the settings](settings.ini).

::: {.callout-note}
## Once
Type it once.
:::
%% md
A red dot.
%%
draw("a red dot")
%%
#| eval: false
import time

raise SystemExit("the build runs no cell")
"""

HOWTO = """
%% md
# Your own data
> Bring a table.
%% md
## A file
Back [home](../index.ipynb).
"""

TOOLS = """
%% md
# Tools
> Calculate.
%%
#| default_exp tools
%%
#| export
raise SystemExit("the build runs no cell")
def times(number, factor):
    "Multiply."
"""

MODULE = """
def times(
    number: float,  # What is multiplied
    factor: float = 2.0,  # By how much
) -> float:  # The product
    "Multiply two numbers."
    return number * factor
"""
DOT = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="


@pytest.fixture
def toy(tmp_path):
    """A project with a page of each kind."""
    root = tmp_path / "toy"
    project = Project(root).create({"index": HOME, "00_tools": TOOLS})
    (root / "nbs" / "howto").mkdir()
    project.write("howto/00_data", HOWTO)
    (root / "pyproject.toml").write_text(CONFIG)
    (root / "toy").mkdir()
    (root / "toy" / "tools.py").write_text(MODULE)
    shutil.copytree(ROOT / "docs", root / "docs")
    home = json.loads((root / "nbs" / "index.ipynb").read_text())
    cell = next(cell for cell in home["cells"] if "draw(" in "".join(cell["source"]))
    cell["outputs"] = [{"output_type": "display_data", "data": {"image/png": DOT}, "metadata": {}}]
    (root / "nbs" / "index.ipynb").write_text(json.dumps(home))
    return project


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless browser."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        lacking("no Chromium on this machine: the site is not looked at")
    with chromium(program, tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """This project's own site, built; all its links were checked."""
    return build(ROOT, tmp_path_factory.mktemp("docs") / "site")


def text_of(page):
    """What a reader sees of a page."""
    return re.sub(r"<[^>]+>", "", re.sub(r"<(style|script).*?</\1>", "", page, flags=re.S))


def test_a_page_of_each_kind(toy, browser, tmp_path):
    """Signatures, figures, boxes, mathematics and links arrive; no cell is run, nothing is fetched from elsewhere."""
    site = build(toy.root, tmp_path / "site")
    home, tools = (site / "index.html").read_text(), (site / "tools.html").read_text()
    assert "factor: float = 2.0,  # By how much" in text_of(tools) and "Multiply two numbers." in tools
    assert 'href="https://example.org/toy/toy/blob/main/toy/tools.py#L2"' in tools and 'id="times"' in tools
    assert (site / "index_files/1.png").read_bytes() == base64.b64decode(DOT) and 'alt="A red dot."' in home
    assert (
        'href="howto/data.html#a-file"' in home and 'href="https://example.org/toy/toy/blob/main/settings.ini"' in home
    )
    assert [title for title in ("Home", "How-to guides", "Reference") if title not in text_of(home)] == []
    assert re.search(r'class="admonition note">\s*<p class="admonition-title">Once<', home)
    with serve(site) as url:
        browser.open(f"{url}/index.html")
        assert browser.wait("document.querySelectorAll('.arithmatex .katex-html').length == 2")
        assert browser.run("document.querySelector('div.arithmatex .katex-html').innerText.includes('p')")
        fonts = browser.run("document.fonts.ready.then(all => [...all].filter(f => f.status == 'loaded').length)")
        assert fonts > 0 and browser.errors == []
        assert browser.elsewhere() == []


@pytest.mark.parametrize(
    ("link", "said"),
    [
        ("howto/00_date.ipynb", "Did you mean `howto/00_data.ipynb`?"),
        ("howto/00_data.ipynb#a-fila", "anchor does not exist"),
        ("nbs/images/none.png", "leads nowhere"),
    ],
)
def test_a_broken_link_fails_the_build(toy, tmp_path, link, said):
    """A page or heading that is not there stops the build, and the message says where the link stands."""
    toy.edit("index", "howto/00_data.ipynb#a-file", link)
    with pytest.raises(KitError, match=re.escape(said)) as caught:
        build(toy.root, tmp_path / "site")
    assert "index." in str(caught.value) and caught.value.remedy


def test_an_edit_that_was_not_exported_is_named(toy, tmp_path):
    """A symbol that the module lacks is an error with its remedy, not an empty page."""
    toy.edit("00_tools", "def times(", "def divide(")
    with pytest.raises(Exception, match=r"tools has no `divide`"):
        build(toy.root, tmp_path / "site")


def test_only_what_changed_is_written(toy, tmp_path):
    """An unchanged page keeps its file; one of a notebook that went is gone."""
    build(toy.root, tmp_path / "site")
    pages = toy.root / "build" / "docs" / "pages"
    before = {name: (pages / name).stat().st_mtime_ns for name in ("tools.md", "howto/data.md")}
    toy.edit("howto/00_data", "Back", "Again")
    (toy.root / "nbs" / "00_tools.ipynb").unlink()
    site = build(toy.root, tmp_path / "site")
    assert not (pages / "tools.md").exists() and not (site / "tools.html").exists()
    assert (pages / "howto/data.md").stat().st_mtime_ns > before["howto/data.md"]
    assert "Again" in text_of((site / "howto/data.html").read_text())


def test_every_notebook_and_step_has_its_page(site):
    """Every notebook is a page; that of a step shows each parameter with its meaning, as does the page of settings."""
    notebooks = [file for file in (ROOT / "nbs").rglob("*.ipynb") if not re.search(r"/[._]", file.as_posix())]
    assert len(list(site.rglob("*.html"))) >= len(notebooks)
    settings = (site / "reference/settings.html").read_text()
    for step in find_steps(ROOT).values():
        page = (site / step.notebook.relative_to(ROOT / "nbs")).with_suffix(".html").read_text()
        for param in step.params.values():
            assert f"<code>{param.name}</code>" in page, (step.name, param.name)
            assert param.word == "output" or f"<code>{param.name}</code>" in settings, (step.name, param.name)


def test_every_command_is_described(site):
    """The page of commands holds every command with its example."""
    import typer

    from mlops_kit.cli import app

    page = text_of((site / "reference/commands.html").read_text())
    for name, command in typer.main.get_command(app).commands.items():
        for inner in getattr(command, "commands", None) or [""]:
            assert len(re.findall(rf"mlops-kit {name} {inner}".strip(), page)) >= 2, (name, inner)


def test_nothing_is_loaded_from_elsewhere(site):
    """No page or style names an address to load from."""
    assert broken_links(site, "/mlops-kit/") == []
    for file in site.rglob("*.css"):
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", file.read_text()) == [], file.name


def test_search_finds_a_symbol(site, browser):
    """Typing the name of a function leads to its heading."""
    with serve(site) as url:
        browser.open(f"{url}/index.html")
        browser.run("document.querySelector('.md-search__button').click()")
        inside = "[...document.querySelectorAll('div')].map(part => part.shadowRoot).find(Boolean)"
        assert browser.wait(f"!!{inside}?.querySelector('input')")
        browser.run(f"{inside}.querySelector('input').focus()")
        browser.call("Input.insertText", text="figure_svg")
        assert browser.wait(f"{inside}.querySelector('a[href]')?.href.endsWith('#figure_svg')")
        browser.run(f"{inside}.querySelector('a[href]').click()")
        assert browser.wait("location.pathname.endsWith('look.html') && !!document.getElementById('figure_svg')")
        assert browser.elsewhere() == []


def assert_fits(browser, url, pages, widths):
    """No page is wider than its window."""
    wide = []
    for page in pages:
        browser.open(f"{url}/{page}")
        for width in widths:
            browser.call(
                "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=True
            )
            sizes = browser.run("[document.documentElement.scrollWidth, innerWidth]")
            wide += [(page, width, sizes)] if sizes[0] > width else []
    assert wide == []


def test_no_sideways_scroll(site, browser):
    """Pages of each kind are as wide as their window, from a phone to a desk."""
    with serve(site) as url:
        assert_fits(browser, url, SAMPLE, WIDTHS)


@pytest.mark.slow
def test_no_page_scrolls_sideways_or_calls_home(site, browser):
    """So is every page, and opening it asks nobody but its own server."""
    with serve(site) as url:
        pages = [file.relative_to(site).as_posix() for file in site.rglob("*.html") if file.name != "404.html"]
        assert_fits(browser, url, pages, (390,))
        assert browser.elsewhere() == [] and browser.errors == []


AUDIT = """axe.run("article", {resultTypes: ["violations"]}).then(result => result.violations.map(
    found => [found.id, found.nodes.slice(0, 3).map(node => node.target.join(" ") + node.failureSummary)]))"""


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(site, browser, axe, scheme):  # noqa: F811
    """An audit by axe-core finds nothing in what we write."""
    with serve(site) as url:
        for page in SAMPLE:
            browser.open(f"{url}/{page}", scheme=scheme)
            browser.run(f"{axe}; 0")
            assert browser.run(AUDIT) == [], page
