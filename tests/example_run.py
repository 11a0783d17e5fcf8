"""Example records of runs: made-up numbers that look like real ones, for the tests of the report."""

import copy
from pathlib import Path

import matplotlib.pyplot as plt

from mlops_kit.comparison import compare_runs
from mlops_kit.look import figure_svg, style, tokens

STEPS = {  # name: (start, seconds, reads, makes, rows)
    "dataops.ingest": (0.4, 12.1, [], "bronze", 327346),
    "dataops.clean": (12.6, 8.3, ["dataops.ingest"], "silver", 326142),
    "dataops.profile": (21.0, 4.2, ["dataops.clean"], "profile", None),
    "dataops.features": (21.0, 21.4, ["dataops.clean"], "gold", 318620),
    "training.split": (42.6, 1.9, ["dataops.features"], "splits", 318620),
    "training.train": (44.6, 13.4, ["dataops.features", "training.split"], "model", None),
    "training.evaluate": (58.2, 11.2, ["dataops.features", "training.split", "training.train"], "evaluation", 54900),
    "training.register": (69.5, 1.6, ["training.train", "training.evaluate"], "version", None),
}


def gate(name, value, note="", remedy="", **bar):
    """One gate as the ledger keeps it."""
    ((kind, limit),) = bar.items()
    passed = (
        value is not None and {"at_least": value >= limit, "at_most": value <= limit, "equals": value == limit}[kind]
    )
    bars = {"at_least": None, "at_most": None, "equals": None} | bar
    return {"name": name, "value": value, "passed": passed, "note": note, "remedy": remedy, **bars}


def curve():
    """A small figure with every part that a figure of a step has."""
    with plt.rc_context(style()):
        fig, ax = plt.subplots()
        x = [i / 20 for i in range(21)]
        ax.plot(x, [v**0.45 for v in x])
        ax.plot(x, [v**0.6 for v in x])
        ax.fill_between(x, [v**0.5 for v in x], [v**0.4 for v in x], alpha=0.15, linewidth=0)
        ax.text(0.02, 0.74, "Candidate 0.701", weight="bold", color=tokens["light"]["c1"])
        ax.text(0.5, 0.52, "Logistic 0.655", weight="bold", color=tokens["light"]["c2"])
        ax.set(
            title="Catches more late flights at every false-alarm rate",
            xlabel="On-time flights flagged",
            ylabel="Late flights caught",
        )
        fig.set_label("ROC AUC is 0.701 for the candidate and 0.655 for the logistic baseline.")
        plt.close(fig)
        return {"title": "roc", "svg": figure_svg(fig, "roc")}


def make_step(name, start, seconds, reads, makes, rows):
    """One executed step."""
    content = {"kind": "table", "rows": rows, "partitions": 10} if rows else {"kind": "file", "bytes": 1_234_567}
    return {
        "step": name,
        "status": "executed",
        "reason": f"function mlops_kit.{name}.fit changed",
        "started": start,
        "seconds": seconds,
        "cpu_seconds": seconds * 1.7,
        "peak_bytes": int(3e8 + seconds * 1e7),
        "key": "9e02b7d1" * 8,
        "page": f"{name}/notebook.html",
        "run": "20261123-215533-a1b2c3",
        "parameters": {
            "workload": {"value": "flights", "origin": "settings.ini [pipeline.train]"},
            "seed": {"value": 7, "origin": "notebook"},
        },
        "inputs": {STEPS[other][3]: {"digest": "5b1d77" * 10, "from": other} for other in reads},
        "outputs": {makes: {"digest": "5b1d77" * 10, **content}},
        "metrics": {},
        "facts": {},
        "gates": [],
        "tables": [],
        "figures": [],
        "error": None,
    }


def passed_run():
    """A run in which everything was computed and every gate passed."""
    steps = {name: make_step(name, *rest) for name, rest in STEPS.items()}
    steps["dataops.ingest"]["gates"] = [gate("Empty sources", 0, equals=0)]
    steps["dataops.clean"]["gates"] = [gate("Rows set aside", 0.0037, "Contract of silver", at_most=0.02)]
    steps["dataops.clean"]["metrics"] = {"rows": 327346, "broken_share": 0.0037}
    steps["dataops.features"]["gates"] = [gate("Best single feature, ROC AUC", 0.61, "Leak check", at_most=0.8)]
    steps["training.train"]["parameters"]["trials"] = {"value": 20, "origin": "command line"}
    steps["training.train"]["metrics"] = {"trees": 611.0, "seconds_a_tree": 0.021871}
    steps["training.evaluate"].update(
        metrics={"auc": 0.701349, "log_loss": 0.3995, "brier": 0.1213},
        facts={"test rows": "Sep and Oct 2013"},
        gates=[
            gate("ROC AUC", 0.701349, "All test rows", at_least=0.67),
            gate("ROC AUC over logistic", 0.0463, "Same rows", at_least=0.0),
            gate("Calibration error", 0.0096, "10 bins of equal count", at_most=0.01),
        ],
        tables=[
            {
                "title": "scores",
                "columns": ["model", "auc", "log_loss", "rows"],
                "note": "Months 9 and 10.",
                "rows": [
                    ["LightGBM", 0.701349, 0.3995, 54900],
                    ["logistic", 0.6551, 0.4219, 54900],
                    ["majority", 0.5, 0.4512, 54900],
                ],
            }
        ],
        figures=[curve(), curve()],
    )
    edges = [[other, name, STEPS[other][3]] for name in STEPS for other in STEPS[name][2]]
    return {
        "run": "20261123-215533-a1b2c3",
        "pipeline": "train",
        "workload": "flights",
        "env": "dev",
        "status": "passed",
        "started": "2026-11-23T21:55:33+00:00",
        "seconds": 71.2,
        "jobs": 2,
        "command": "mlops-kit run train",
        "git": {"commit": "abc1234def", "dirty": True},
        "lock": "1be7f2",
        "python": "3.11.7",
        "kit": "0.1.0",
        "settings": "c55e81",
        "edges": edges,
        "steps": list(steps.values()),
    }


def _stop(run, stopped, **changes):
    """End a run at one step: what follows did not run."""
    run["status"] = "failed"
    broken = [stopped]
    for step in run["steps"]:
        if step["step"] == stopped:
            step.update(status="failed", outputs={}, **changes)
        elif any(other in broken for other in STEPS[step["step"]][2]):
            broken.append(step["step"])
            step.update(
                status="skipped",
                started=None,
                seconds=None,
                page=None,
                reason="",
                outputs={},
                metrics={},
                gates=[],
                tables=[],
                figures=[],
                facts={},
                run=None,
            )
    return run


def failed_run():
    """A run that a gate stopped."""
    run = passed_run()
    evaluate = run["steps"][6]
    message = "ROC AUC of the worst carrier is 0.592; the bar is at least 0.68"
    remedy = "Look at the carrier's rows in the table of slices."
    gates = [
        *evaluate["gates"],
        gate("ROC AUC of the worst carrier", 0.592, "Envoy (MQ), 4,138 rows", remedy, at_least=0.68),
    ]
    error = {
        "type": "GateFailed",
        "message": message,
        "where": "training/evaluate.ipynb, cell 12, line 3",
        "remedy": remedy,
        "traceback": f"GateFailed: {message}\n  at Envoy (MQ), 4,138 rows\n  -> {remedy}",
    }
    return _stop(run, "training.evaluate", gates=gates, error=error)


def crashed_run():
    """A run in which a step broke."""
    trace = "\n".join(f'  File "/project/mlops_kit/dataops/clean.py", line {n}, in step_{n}' for n in range(30))
    error = {
        "type": "KeyError",
        "message": "'dep_time'",
        "where": "dataops/clean.ipynb, cell 9, line 4",
        "remedy": "",
        "traceback": f"Traceback (most recent call last):\n{trace}\nKeyError: 'dep_time'",
    }
    return _stop(passed_run(), "dataops.clean", gates=[], metrics={}, error=error)


def reused_run():
    """The same run again: nothing changed."""
    run = passed_run() | {"run": "20261123-220100-ffee00", "seconds": 0.9}
    for step in run["steps"]:
        step.update(status="cached", reason="", started=None, seconds=None)
    return run


def interrupted_run():
    """A run that somebody stopped with Ctrl-C."""
    run = _stop(passed_run(), "training.train")
    run["steps"][5].update(status="skipped", started=None, seconds=None, figures=[], metrics={})
    return run | {"status": "interrupted"}


def earlier(run):
    """The run before it: slower, a little worse, with other parameters."""
    run = copy.deepcopy(run)
    run.update(run="20261122-180000-0a0b0c", seconds=88.0)
    run["steps"][5]["parameters"]["trials"] = {"value": 0, "origin": "notebook"}
    run["steps"][6]["metrics"]["auc"] = 0.6934
    return run


def comparison():
    """Two runs compared, with every kind of difference: the new one is better, dearer, and stopped by a gate."""
    old, new = earlier(passed_run()), failed_run()
    old["notes"] = [{"at": "2026-11-22T19:00:00+00:00", "text": "Is it the carrier, or the hour?"}]
    new["steps"][5].update(cpu_seconds=61.0, outputs={"model": {"digest": "77c0de" * 10, "kind": "file", "bytes": 99}})
    for run in (old, new):
        for step in run["steps"]:
            step.update(key=None, made_by=run["run"], made_seconds=step["seconds"])
    found = compare_runs(old, new, Path("nowhere"))
    for row in found["metrics"]:
        if row["name"] == "auc":
            row["old"] |= {"low": 0.689, "high": 0.698}
            row["new"] |= {"low": 0.697, "high": 0.706}
            row["apart"] = False
    source = [
        "@cache",
        "def fit(rows):",
        "-    return grow(rows, 100)",
        "+    return grow(rows, 200, a_long_name=" + "1" * 90,
    ]
    units = (("function mlops_kit.training.train.fit", "changed"), ("run cell 2 of training.train", "new"))
    found["code"] = [{"unit": u, "change": c, "steps": ["training.train"], "diff": source} for u, c in units]
    worse = curve() | {"title": "lift"}
    found["figures"] = [
        {"step": "training.evaluate", "title": "roc", "old": curve(), "new": curve() | {"svg": curve()["svg"] + " "}},
        {"step": "training.evaluate", "title": "lift", "old": worse, "new": None},
    ]
    return found
