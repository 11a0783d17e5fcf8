"The code part of the cache key: what an edit must change, and what it must not."

import importlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import pytest

from mlops_kit.code import changed_units, read_code, unforeseen

RUN = "result = f()"


@dataclass
class Edit:
    "A tiny project, one edit, and what has to come of it."

    name: str
    before: dict[str, str]  # Files of the package `ours`, and cells by their label
    after: dict[str, str]  # Those that the edit changes, adds, or removes (None)
    names: str | None  # Unit that changes; None: the key stays
    proven: bool = True  # Whether `result` shows it: it differs where the key must, and is the same where it must not
    resolved: dict[str, str] = field(default_factory=dict)


def edit(name, before, after, names, **more):
    return Edit(name, before, after, names, **more)


def cells_of(files):
    cells = [(name, dedent(source)) for name, source in files.items() if not name.endswith((".py", ".csv"))]
    return sorted(cells, key=lambda cell: cell[0].startswith("run"))


def write(folder, files):
    for name, source in files.items():
        if name.endswith((".py", ".csv")):
            place = folder / "ours" / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(dedent(source))
    return folder / "ours"


def execute(folder, files, monkeypatch):
    "Run the cells in a fresh namespace, with the package imported anew."
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in [name for name in sys.modules if name.split(".")[0] == "ours"]:
        del sys.modules[name]
    importlib.invalidate_caches()
    space = {"__name__": "__main__"}
    for _, source in cells_of(files):
        exec(source, space)
    return space["result"]


def read(folder, files, resolved=None):
    return read_code(cells_of(files), {"ours": write(folder, files)}, "training.train", resolved)


KIT = """
    import importlib
    def load_workload(name):
        return importlib.import_module(f"ours.{name}")
    """
FLIGHTS = "contracts = [1]\nfeatures = [1]\ndef label():\n    return features\n"
OTHER = FLIGHTS.replace("features = [1]", "features = [2]")
USES = "def f():\n    return helper()\n"

MUST_CHANGE = [
    # What is reached by name
    edit("function", {"run": "from ours.a import f\n" + RUN, "a.py": "def f():\n    return 1"}, {"a.py": "def f():\n    return 2"}, "function ours.a.f changed"),
]
