"""The page of an evaluation: true headings, safe text, one look, and a page that stands alone on every screen."""

import html
import json
import re

import example_evaluation as example
import pytest
from test_report import _Tags, assert_accessible, assert_fits, axe, texts

from mlops_kit.look import figure_svg, tokens
from mlops_kit.training.evaluation_page import evaluation_page

assert axe  # A fixture
PAGES = [*example.EXAMPLES]
render = example.render


@pytest.fixture(params=PAGES)
def text(request):
    """The page of an example of each task."""
    return render(request.param)


def test_verdict_follows_the_bars():
    """The first screen says ready or not ready, and what decided."""
    found = example.flights()[0]
    missed = [gate for gate in found["gates"] if not gate["passed"]]
    assert missed and "Not ready" in texts(render("flights"), "span")
    one = [dict(found["gates"][0], name="ROC AUC", value=0.61, bar=0.7, side="at_least", passed=False)]
    assert texts(evaluation_page(found | {"gates": one}), "h1") == ["ROC AUC misses its bar by 0.09"]
    passed = [gate for gate in found["gates"] if gate["passed"]]
    page = evaluation_page(found | {"gates": passed})
    assert "Ready" in texts(page, "span") and "Failed" not in texts(page.split('id="slices"')[0], "td")


def test_no_bar_is_not_ready():
    """Without bars nothing is called ready."""
    page = evaluation_page(example.flights()[0] | {"gates": []})
    assert "Not judged" in texts(page, "span") and "Ready" not in texts(page, "span")


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.01, 0.03, "Better than version 13"), (-0.03, -0.01, "worse than version 13"), (-0.01, 0.01, "no better than")],
)
def test_champion_is_compared_with_its_interval(low, high, said):
    """Better means that the whole interval of the difference says so."""
    found = example.flights()[0]
    gates = [gate for gate in found["gates"] if gate["passed"]]
    over = found["over"] | {"champion": {"log_loss": {"value": 0, "low": low, "high": high}}}
    assert said in texts(evaluation_page(found | {"gates": gates, "over": over}), "h1")[0]


def test_what_is_missing_is_said():
    """No champion, one that cannot be scored, no slices, no groups: each has its sentence."""
    none, other = render("digits"), render("diabetes")
    assert "No champion yet: this is the first model." in texts(none, "p")
    assert "could not be compared: it reads the feature" in html.unescape(other)
    bare = {"task": "regression", "rows": 3, "models": {"model": {}}, "over": {}, "gates": []}
    titles = texts(evaluation_page(bare), "h2")
    assert {"No slices were named", "No groups were compared", "Nothing to compare it with"} <= set(titles)


def test_slices_stand_worst_first():
    """The worst slice is on top, and those that are too small are named."""
    found = example.flights()[0]
    page = evaluation_page(found | {"slices": found["slices"][::-1]})
    section = page.split('id="slices"')[1].split("</section>")[0]
    values = [float(v) for v in re.findall(r'data-label="ROC AUC">([\d.]+)<', section)]
    assert values == sorted(values) and len(values) > 5
    small = [of["slice"] for of in found["slices"] if not of["judged"]]
    assert small and html.escape(small[0]) in section.split("Not judged")[1]


def test_slice_fails_only_as_a_whole():
    """An interval across the bar is unclear."""
    found = example.flights()[0]
    bar = next(gate["bar"] for gate in found["gates"] if gate["metric"] == "slice_auc")
    judged = [of["metrics"]["auc"] for of in found["slices"] if of["judged"]]
    wanted = sum(ends["high"] < bar for ends in judged), sum(ends["low"] < bar <= ends["high"] for ends in judged)
    section = render("flights").split('id="slices"')[1].split("</section>")[0]
    assert (texts(section, "td").count("Failed"), texts(section, "td").count("Unclear")) == wanted and wanted[1]


def test_everything_is_escaped():
    """A slice or a feature may have any name: none becomes a tag."""
    attack = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    found = json.loads(json.dumps(example.flights()[0], default=str).replace("origin = ", "</title><script>x = "))
    page = evaluation_page(found | {"champion": {"version": attack}, "classes": [attack, attack]}, [attack])
    tags = [tag for tag, _ in _Tags(page).seen]
    assert "img" not in tags and tags.count("script") == 1 and page.count("&lt;script&gt;") > 3


def test_figures_are_small_and_named(text):
    """A figure weighs little and says what it shows."""
    for name in PAGES:
        for key, figure in example.EXAMPLES[name]()[1].items():
            assert len(figure_svg(figure, key)) < 20_000 and figure.axes[0].get_title() and figure.get_label()
    assert text.count('role="img"') == text.count("<desc ")


def test_many_slices_do_not_fill_the_page():
    """A page of hundreds of slices and groups can still be mailed."""
    found, figures, *_ = example.flights()
    group = found["fairness"][0]["groups"][0]
    many = {"slices": found["slices"] * 20, "fairness": [found["fairness"][0] | {"groups": [group] * 30}] * 10}
    assert len(evaluation_page(found | many, figures=figures).encode()) <= 300_000


def test_page_stands_alone(text):
    """No address outside, a size that can be mailed, ids that are unique."""
    tags = _Tags(text).seen
    addresses = [value for _, attributes in tags for key, value in attributes if key in ("src", "href", "xlink:href")]
    ids = [value for _, attributes in tags for key, value in attributes if key == "id"]
    assert [address for address in addresses if re.match(r"(https?:)?//", address)] == []
    assert text.count("<script") == 1 and len(text.encode()) <= 300_000 and len(ids) == len(set(ids))


def test_drawings_have_words_and_token_colours(text):
    """A drawing has a title or is hidden, and its colours follow the page."""
    for drawing in re.findall(r"<svg\b[^>]*>(?:\s*<title)?", re.sub(r"<svg x=.*?</svg>", "", text)):
        assert "<title" in drawing or 'aria-hidden="true"' in drawing
    known = {colour for scheme in tokens.values() for colour in scheme.values()}
    assert set(re.findall(r"#[0-9a-fA-F]{6}\b", text.split("<style>")[1].split("</style>")[0])) <= known
    used = re.findall(r'(?:fill|stroke|color|background)[=:]\s*"?([^";\s]+)', text.split("</style>")[1])
    assert {c for c in used if not c.startswith("var(")} <= {"none", "currentColor", "inherit"}


def test_no_sideways_scroll(text, tmp_path):
    """A page is as wide as its window, from a phone to a desk."""
    assert_fits(text, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
@pytest.mark.parametrize("width", [500, 1280])
def test_accessible(text, width, scheme, axe, tmp_path):
    """An audit by axe-core finds nothing."""
    assert_accessible(text, axe, width, scheme, tmp_path)
