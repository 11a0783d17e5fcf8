"""The model card: complete from evidence, the same in both forms, plain about what is missing, readable by all."""

import html
import json
import re
import subprocess
import sys

import polars as pl
import pytest
from sklearn.datasets import load_diabetes, load_wine
from test_report import _poison, _Tags, assert_accessible, assert_fits, axe  # noqa: F401

from mlops_kit.look import tokens
from mlops_kit.project import StepError
from mlops_kit.steps import load_workload
from mlops_kit.training.bars import judge_bars
from mlops_kit.training.card import card_facts, card_markdown, card_page, renew_card, write_card
from mlops_kit.training.fairness import fairness_table
from mlops_kit.training.intervals import calibration_noise, make_blocks, measure_models
from mlops_kit.training.metrics import confusion, measure_classes
from mlops_kit.training.models import fit_model, part_rows, predict
from mlops_kit.training.slices import slice_table, worst_slice
from mlops_kit.training.tasks import number_labels

ADA = {"by": "Ada Example", "why": "Better in every month", "at": "2026-11-26T09:00:00+00:00"}
RUN = "20261125-170306-e557f7"


def evaluate(task, label, train, test, features, columns, blocks):
    """A model and its evaluation, in the form of the step `evaluate`."""
    models = {name: fit_model(name, train, features, label, task) for name in ("linear", "constant")}
    judged = models["linear"]
    scores = {name: predict(model, test) for name, model in models.items()}
    truth, how = number_labels(test[label], task, judged.classes), {"blocks": blocks, "draws": 60}
    first = [task, truth, scores["linear"]]
    found = measure_models(task, truth, {"model": scores["linear"], "constant": scores["constant"]}, **how)
    found |= {"task": task, "label": label, "classes": list(map(str, judged.classes)), "rows": len(test)}
    found |= {"slices": slice_table(*first, test, columns, least_events=10, **how), "champion": None}
    found |= {"worst_slice": worst_slice(*first, test, features, **how), "blocks": len(set(blocks)), "draws": 60}
    classes = {"classes": judged.classes} if task == "multiclass" else {}
    found |= {"fairness": fairness_table(*first, test, columns, least_events=10, **classes, **how)}
    if judged.classes:
        found |= {"confusion": confusion(*first[1:]), "per_class": measure_classes(*first[1:], judged.classes)}
        found |= {"calibration_noise": calibration_noise(*first, **how)}
    found["gates"] = judge_bars(found, {"log_loss_at_most" if judged.classes else "rmse_at_most": 100})
    return judged, json.loads(json.dumps(found))


def evidence(gates):
    """What a run says of the steps before the registration."""
    gold = {"digest": "0d4c0c853f6787475877e84db325c777", "kind": "table", "bytes": 38_626_808, "rows": 327_346}
    model = {"digest": "afb95cbcaa1868406064aa1c7fe94cb1", "kind": "folder", "bytes": 2_486_088}
    cost = {"made_seconds": 45.742, "cpu_seconds": 18.128, "peak_bytes": 891_498_496}
    read = {"gold": {"digest": gold["digest"], "from": "dataops.features", "key": "f3d72229e0f7c253"}}
    held = [{"at_least": None, "at_most": None, "equals": None} | gate | {gate["side"]: gate["bar"]} for gate in gates]
    steps = {
        "dataops.features": {"key": "f3d72229e0f7c253", "outputs": {"gold": gold}, "inputs": {}, "gates": []},
        "training.train": {"key": "3f9b37bc8dc39399", **cost, "outputs": {"model": model}, "inputs": read, "gates": []},
        "training.evaluate": {"key": "9d1c37bc8dc39390", **cost, "outputs": {}, "inputs": {}, "gates": held},
    }
    steps = {name: {"made_by": RUN, "metrics": {}} | step for name, step in steps.items()}
    git = {"commit": "a14d485", "dirty": False}
    run = {"run": RUN, "env": "dev", "git": git, "lock": "28d9c376c725aa89", "python": "3.11.7"}
    return run | {"started": "2026-11-25T17:03:06+00:00", "steps": steps}


def behaviour(passed=True):
    """Two checks."""
    check = {"kind": "direction", "name": "visib", "value": 0.02, "bar": "at most 0.1", "margin": 0.08, "note": ""}
    return {"checks": [check | {"passed": True}, check | {"kind": "noise", "passed": passed}]}


@pytest.fixture(scope="session")
def flights():
    """Facts of a model of real flights, all there is to know."""
    about = load_workload("flights")
    train, test = (part_rows("samples/gold", "samples/splits", about.key, part) for part in ("train", "test"))
    features = ["origin", "carrier", "minute_of_day", "visib"]
    blocks = make_blocks(test, about.time)
    model, found = evaluate("binary", "late", train, test, features, ["origin", "weekday"], blocks)
    choices = {"compared": {"sentence": "Chosen: linear."}, "costs": {"false_alarm": 1.0, "missed": 4.0}}
    proof = evidence(found["gates"])
    return card_facts("flights", model, about.card, about.meanings, found, behaviour(), proof, choices)


def facts_of(name):
    """Facts of a model of a public table: three classes, or a number."""
    data = (load_wine if name == "wine" else load_diabetes)(as_frame=True)
    rows = pl.from_pandas(data.frame).sample(fraction=1, shuffle=True, seed=0)
    rows = rows.with_columns(group=(pl.col(rows.columns[0]) > rows[rows.columns[0]].median()).cast(pl.String))
    half, features = len(rows) // 2, list(rows.columns[:-2])
    train, test = rows.head(half), rows.tail(len(rows) - half)
    task = "multiclass" if name == "wine" else "regression"
    model, found = evaluate(task, "target", train, test, features, ["group"], make_blocks(test, None))
    return card_facts(name, model, {}, {}, found)


@pytest.fixture(scope="session")
def cards(flights):
    """Facts by name: everything known, three classes, a number, nothing known."""
    model = fit_model("constant", pl.DataFrame({"a": [1, 2, 3, 4], "b": [0, 1, 0, 1]}), ["a"], "b", "binary")
    bare = card_facts("bare", model, {}, {}, {})
    return {"flights": flights, "wine": facts_of("wine"), "diabetes": facts_of("diabetes"), "bare": bare}


NAMES = ["flights", "wine", "diabetes", "bare"]


def words(page):
    """The text of a page."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page.split("</style>")[1])).split())


@pytest.mark.parametrize("form", [card_markdown, card_page])
def test_everything_is_said(flights, form):
    """Both forms hold people's words, versions, keys, environment, costs, gates and the meaning of every feature."""
    text = form(flights, [ADA], ["challenger"])
    text = words(text) if form is card_page else text.replace("\\", "")
    about = load_workload("flights")
    for said in (*about.card.values(), *(about.meanings[of["feature"]] for of in flights["reads"])):
        assert " ".join(said.split()) in text
    assert {"Purpose", "Not for", "Limits", "Ethics"} <= set(about.card)
    for said in ("0d4c0c853f6787475877e84db325c777", "3f9b37bc8dc39399", "a14d485", "28d9c376c725aa89", "3.11.7", RUN):
        assert said in text
    for said in ("45.7 s", "18.1 s", "891.5 MB", "Ada Example", "Better in every month", "Chosen: linear.", "327,346"):
        assert said in text
    for gate in flights["gates"]:
        assert gate["name"][:1].upper() + gate["name"][1:] in text


def test_metrics_stand_beside_others_with_intervals(flights):
    """Every metric of the model is there with its interval, its baseline, and their difference."""
    text, found = card_markdown(flights), flights["evaluation"]
    row = next(line for line in text.splitlines() if line.startswith("| ROC AUC |"))
    for model in ("model", "constant"):
        assert f"{found['models'][model]['auc']['value']:.3g}" in row
    assert f"[{found['models']['model']['auc']['low']:.3g}" in row
    assert f"| ROC AUC | {found['over']['constant']['auc']['value']:.3g} [" in text
    worst = next(of for of in found["slices"] if of["judged"])
    assert f"Worst for {worst['slice']}" in text and found["worst_slice"]["rule"].replace("<", "&lt;") in text


def test_what_is_missing_is_said(cards):
    """A card of which nothing is known says so, section by section."""
    for text in (card_markdown(cards["bare"]), words(card_page(cards["bare"]))):
        for said in (
            "Nobody has measured this model",
            "No columns were named to cut by",
            "No groups were named to compare",
            "Nobody has measured its calibration",
            "Its behaviour was not checked",
            "Nobody has written down its limits.",
            "Nobody has written ethical notes",
            "Nobody has written down what it is for.",
            "No gate was held",
            "Nobody recorded which data it was trained on",
            "Nobody recorded the commit.",
            "Nobody recorded what training has cost",
            "Nobody recorded how it was chosen.",
            "Not approved yet",
        ):
            assert said in text


def test_findings_follow_the_evidence(flights):
    """A gate that failed, a difference within noise, a check that failed and changed code are said first."""
    facts = json.loads(json.dumps(flights))
    facts["gates"][-1]["passed"] = False
    facts["behaviour"][0]["failed"] = 1
    facts["run"]["git"]["dirty"] = True
    facts["evaluation"]["over"]["constant"]["auc"] |= {"value": 0.004, "low": -0.01, "high": 0.02}
    text = card_markdown(facts)
    assert text.splitlines()[2].startswith("**ROC AUC") and "within noise" in text.splitlines()[2]
    assert "Not better beyond noise than the constant baseline" in text and "Behaviour: one check of 2 failed" in text
    assert "One gate of 2 failed" in text and "changes that were not committed" in text
    assert '<span class="st bad pill">' in card_page(facts) and '<span class="st bad pill">' not in card_page(flights)


def test_champion(flights):
    """The champion is named; one that could not be scored is said to be so, with the reason."""
    facts = json.loads(json.dumps(flights))
    assert "There was none to compare with." in card_markdown(facts)
    facts["evaluation"]["champion"] = {"version": "3", "comparable": False, "why": "no column `seats`"}
    facts["evaluation"]["over"]["champion"] = {}
    assert "Version 3 could not be compared: no column 'seats'." in card_markdown(facts).replace("\\`", "'")
    assert "Over champion" not in card_markdown(facts)


def test_approval_makes_the_card_anew(flights, tmp_path):
    """Only what was decided changes; the same facts give the same bytes."""
    first = [file.read_bytes() for file in write_card(tmp_path, flights)]
    assert [file.read_bytes() for file in renew_card(tmp_path)] == first
    second = [file.read_bytes() for file in renew_card(tmp_path, [ADA], ["champion"])]
    assert second[0] == first[0] and b"Ada Example" in second[1] and b"Champion" in second[2]
    with pytest.raises(StepError, match="no card to renew"):
        renew_card(tmp_path / "nowhere")


@pytest.mark.parametrize("name", NAMES)
def test_page_stands_alone(cards, name):
    """No address outside, no script, ids that are unique, a size that can be mailed, colours of the look alone."""
    page = card_page(cards[name], [ADA], ["challenger"])
    tags = _Tags(page).seen
    ids = [value for _, attributes in tags for key, value in attributes if key == "id"]
    addresses = [value for _, attributes in tags for key, value in attributes if key in ("src", "href")]
    assert len(ids) == len(set(ids)) and not [each for each in addresses if re.match(r"(https?:)?//", each)]
    assert len(page.encode()) <= 300_000 and page.count("<script") == 1
    known = {colour for scheme in tokens.values() for colour in scheme.values()}
    assert set(re.findall(r"#[0-9a-fA-F]{3,8}\b", page.split("<style>")[1].split("</style>")[0])) <= known
    for drawing in re.findall(r"<svg\b[^>]*>", page.split("</style>")[1]):
        assert 'aria-hidden="true"' in drawing


def test_every_markdown_table_is_whole(cards):
    """Each row of a table has as many cells as its head, whatever a text holds."""
    facts = _poison(cards["flights"], "a|b `c` *d* \n <script>") | {"model": cards["flights"]["model"]}
    for text in (card_markdown(cards["wine"]), card_markdown(facts)):
        assert "<script" not in text
        for block in re.findall(r"(?:^\|.*\n)+", text, re.M):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1


def test_everything_is_escaped(cards):
    """Facts may hold any text: none of it becomes a tag."""
    attack = "</title><script>alert(1)</script><img src=x onerror=alert(1)>\"'"
    facts = _poison(cards["flights"], attack) | {"model": cards["flights"]["model"]}
    page = card_page(facts, [dict.fromkeys(ADA, attack)], [attack])
    tags = [tag for tag, _ in _Tags(page).seen]
    assert "img" not in tags and tags.count("script") == 1 and page.count("&lt;script&gt;") > 20


def test_renewing_loads_nothing_heavy():
    """A registry that renews a card does not pay for MLflow, LightGBM or matplotlib."""
    code = (
        "import sys, mlops_kit.training.card; "
        "sys.exit(any(name in sys.modules for name in ('mlflow', 'lightgbm', 'matplotlib', 'sklearn')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_sideways_scroll(cards, name, tmp_path):
    """A card is as wide as its window, from a phone to a desk."""
    assert_fits(card_page(cards[name], [ADA], ["challenger"]), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", [0, 1], ids=["dark", "light"])
@pytest.mark.parametrize("width", [500, 1280])
@pytest.mark.parametrize("name", ["flights", "bare"])
def test_accessible(cards, name, width, scheme, axe, tmp_path):  # noqa: F811
    """An audit by axe-core finds nothing."""
    assert_accessible(card_page(cards[name], [ADA], ["challenger"]), axe, width, scheme, tmp_path)
