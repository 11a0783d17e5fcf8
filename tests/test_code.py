"""The code part of the cache key: which edits must change it, and which must not.

Every case is a tiny project that is run before and after one edit. An edit that changes the result must change the key;
that is proven by running both. An edit that must not change the key is shown to leave the result as it was.
"""

import importlib
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent

import pytest

from mlops_kit.code import Code, changed_units, read_code, unforeseen

# A project: {file of the package `ours`, or label of a cell: source}. An edit: (file or cell, old text, new text).
Project = dict[str, str]
Edit = tuple[str, str, str]

A_F = "from ours.a import f"
KIT = """
    import importlib
    def load_workload(name):
        return importlib.import_module(f"ours.{name}")
    """
FLIGHTS = "contracts = [1]\nfeatures = [1]\n"
KIT_AND_FLIGHTS = {"kit.py": KIT, "flights.py": FLIGHTS}
RESOLVED = {"load_workload": "ours.flights"}


def project(
    files: Project,  # Files of the package
    imports: str = A_F,  # The import cell
    run: str = "result = f()",  # The run cell
    **cells: str,  # More cells: exported="..."
) -> Project:
    return {"imports": imports, **cells, "run cell 1": run, **files}


def files_of(project):
    return {name: dedent(source) for name, source in project.items() if "." in name}


def cells_of(project):
    cells = [(name, dedent(source)) for name, source in project.items() if "." not in name]
    return sorted(cells, key=lambda cell: cell[0].startswith("run"))


def write(folder: Path, project: Project) -> Path:
    for name, source in files_of(project).items():
        place = folder / "ours" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(source)
    return folder / "ours"


def read(folder: Path, project: Project, resolved=RESOLVED) -> Code:
    return read_code(cells_of(project), {"ours": write(folder, project)}, "training.train", resolved)


def apply(project: Project, edit: Edit) -> Project:
    name, old, new = edit
    source = dedent(project.get(name, ""))
    assert old in source, f"the edit finds nothing in {name}"
    return {**project, name: source.replace(old, new) if old else source + dedent(new)}


def execute(folder: Path, project: Project, monkeypatch):
    "Run the cells in a fresh namespace, with the package imported anew; give `result` and the modules loaded."
    write(folder, project)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in [name for name in sys.modules if name.split(".")[0] == "ours"]:
        monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    space = {"__name__": "__main__", "name": "flights"}
    for label, source in cells_of(project):
        exec(compile(source, label, "exec"), space)
    loaded = [name for name in sys.modules if name.split(".")[0] == "ours"]
    for name in loaded:
        del sys.modules[name]
    return space["result"], loaded


# name: (project, edit, reason)
MUST_CHANGE: dict[str, tuple[Project, Edit, str]] = {
    # The notebook's own cells
    "run cell": (project({}, "", "result = 1"), ("run cell 1", "1", "2"), "run cell 1 of training.train changed"),
    "exported function": (
        project({}, "", exported="def f():\n    return 1"),
        ("exported", "1", "2"),
        "function training.train.f changed",
    ),
    "exported effect": (
        project({}, "", "result = RULES", exported="RULES = []\nRULES.append(1)"),
        ("exported", "append(1)", "append(2)"),
        "import-time code of training.train changed",
    ),
    "decorated in the notebook": (
        project(
            {"a.py": "RULES = []\ndef rule(f):\n    RULES.append(f())\n    return f"},
            "from ours.a import RULES, rule",
            "result = RULES",
            exported="@rule\ndef late():\n    return 1",
        ),
        ("exported", "return 1", "return 2"),
        "function training.train.late changed",
    ),
    "which module a name comes from": (
        project({"a.py": "def f():\n    return 1", "b.py": "def f():\n    return 2"}),
        ("imports", "ours.a", "ours.b"),
        "function ours.b.f is new",
    ),
    "two imports swapped": (
        project({"a.py": "f = 1\ng = 2"}, "from ours.a import f, g", "result = f - g"),
        ("imports", "f, g", "f as g, g as f"),
        "import training.train.f changed",
    ),
    "another package under one name": (
        project({}, "import json as m", "result = m.__name__"),
        ("imports", "json", "ast"),
        "import training.train.m changed",
    ),
    # Reached by name
    "function": (
        project({"a.py": "def f():\n    return 1"}),
        ("a.py", "1", "2"),
        "function ours.a.f changed",
    ),
    "helper of a helper": (
        project(
            {
                "a.py": "from ours.b import g\ndef f():\n    return g()",
                "b.py": "from ours.c import h\ndef g():\n    return h()",
                "c.py": "def h():\n    return 1",
            }
        ),
        ("c.py", "1", "2"),
        "function ours.c.h changed",
    ),
    "constant": (project({"a.py": "N = 1\ndef f():\n    return N"}), ("a.py", "1", "2"), "constant ours.a.N changed"),
    "annotated constant": (
        project({"a.py": "N: int = 1\ndef f():\n    return N"}),
        ("a.py", "1", "2"),
        "constant ours.a.N changed",
    ),
    "one of a tuple of constants": (
        project({"a.py": "M, N = 0, 1\ndef f():\n    return N"}),
        ("a.py", "1", "2"),
        "constant ours.a.M, N changed",
    ),
    "starred assignment": (
        project({"a.py": "M, *N = 0, 1\ndef f():\n    return N"}),
        ("a.py", "1", "2"),
        "constant ours.a.M, N changed",
    ),
    "augmented assignment": (
        project({"a.py": "N = 1\nN += 1\ndef f():\n    return N"}),
        ("a.py", "+= 1", "+= 2"),
        "constant ours.a.N changed",
    ),
    "augmented list of another module": (
        project(
            {
                "a.py": "from ours.b import N\nimport ours.c\ndef f():\n    return N",
                "b.py": "N = [1]",
                "c.py": "from ours.b import N\nN += [1]",
            }
        ),
        ("c.py", "[1]", "[2]"),
        "constant ours.c.N changed",
    ),
    "redefinition": (
        project({"a.py": "def f():\n    return 1\ndef f():\n    return 2"}),
        ("a.py", "return 2", "return 3"),
        "function ours.a.f changed",
    ),
    "redefinition added": (
        project({"a.py": "def f():\n    return 1\n"}),
        ("a.py", "", "def f():\n    return 2\n"),
        "function ours.a.f changed",
    ),
    "redefinition by an import": (
        project({"a.py": "def f():\n    return 1\n", "b.py": "def f():\n    return 2"}),
        ("a.py", "", "from ours.b import f\n"),
        "import ours.a.f is new",
    ),
    "deleted name": (
        project(
            {
                "a.py": "N = 1\nM = 2\ndef f():\n    return globals_of().get('N', M)\ndef globals_of():\n    return globals()\n"
            }
        ),
        ("a.py", "", "del N\n"),
        "ours.a.N is new",
    ),
    "conditional definition": (
        project({"a.py": "if 1 > 0:\n    N = 1\nelse:\n    N = 2\ndef f():\n    return N"}),
        ("a.py", "1 > 0", "1 < 0"),
        "statement ours.a.N changed",
    ),
    "condition that reads a constant": (
        project({"a.py": "FAST = True\nif FAST:\n    N = 1\nelse:\n    N = 2\ndef f():\n    return N"}),
        ("a.py", "True", "False"),
        "constant ours.a.FAST changed",
    ),
    "import that may fail": (
        project(
            {
                "a.py": "try:\n    from ours.fast import f\nexcept ImportError:\n    from ours.slow import f",
                "fast.py": "def f():\n    return 1",
                "slow.py": "def f():\n    return 2",
            }
        ),
        ("fast.py", "1", "2"),
        "function ours.fast.f changed",
    ),
    "import that failed": (
        project(
            {
                "a.py": "try:\n    import ours.fast as m\nexcept ImportError:\n    import ours.slow as m\ndef f():\n    return m.f()",
                "slow.py": "def f():\n    return 2",
            }
        ),
        ("fast.py", "", "def f():\n    return 1"),
        "function ours.fast.f is new",
    ),
    "default argument": (
        project({"a.py": "N = 1\ndef f(n=N):\n    return n"}),
        ("a.py", "N = 1", "N = 2"),
        "constant ours.a.N changed",
    ),
    "decorator": (
        project(
            {
                "a.py": "from ours.b import twice\n@twice\ndef f():\n    return 1",
                "b.py": "def twice(f):\n    return lambda: 2 * f()",
            }
        ),
        ("b.py", "2 *", "3 *"),
        "function ours.b.twice changed",
    ),
    "standard decorator": (
        project(
            {
                "a.py": "import functools\n@functools.cache\ndef g():\n    return []\ndef f():\n    g().append(1)\n    return g()"
            }
        ),
        ("a.py", "@functools.cache\n", ""),
        "function ours.a.g changed",
    ),
    "lambda": (
        project({"a.py": "def g():\n    return 1\nf = lambda: g()"}),
        ("a.py", "return 1", "return 2"),
        "function ours.a.g changed",
    ),
    "partial": (
        project({"a.py": "from functools import partial\ndef g(x):\n    return x\nf = partial(g, 1)"}),
        ("a.py", "return x", "return -x"),
        "function ours.a.g changed",
    ),
    "nested function": (
        project({"a.py": "def g():\n    return 1\ndef f():\n    def inner():\n        return g()\n    return inner()"}),
        ("a.py", "return 1", "return 2"),
        "function ours.a.g changed",
    ),
    "comprehension": (
        project({"a.py": "def g(x):\n    return x\ndef f():\n    return [g(x) for x in [1, 2] if x > MIN]\nMIN = 1"}),
        ("a.py", "MIN = 1", "MIN = 0"),
        "constant ours.a.MIN changed",
    ),
    "comprehension that hides a name": (
        project({"a.py": "N = 1\ndef f():\n    return [N for N in [0]] + [N]"}),
        ("a.py", "N = 1", "N = 2"),
        "constant ours.a.N changed",
    ),
    "walrus": (
        project({"a.py": "if (N := 1) > 0:\n    pass\ndef f():\n    return N"}),
        ("a.py", "N := 1", "N := 2"),
        "statement ours.a.N changed",
    ),
    "global statement": (
        project({"a.py": "N = 0\ndef setup():\n    global N\n    N = 1\ndef f():\n    setup()\n    return N"}),
        ("a.py", "N = 1", "N = 2"),
        "function ours.a.setup changed",
    ),
    "shadowed in one function, used in another": (
        project({"a.py": "def g():\n    return 1\ndef h(g):\n    return g\ndef f():\n    return h(g())"}),
        ("a.py", "return 1", "return 2"),
        "function ours.a.g changed",
    ),
    "builtin that is bound anew": (
        project({"a.py": "def f():\n    return len([1])\n"}),
        ("a.py", "", "def len(x):\n    return 7\n"),
        "function ours.a.len is new",
    ),
    "loop at import": (
        project({"a.py": "N = []\nfor i in range(2):\n    N.append(i)\ndef f():\n    return N"}),
        ("a.py", "range(2)", "range(3)"),
        "ours.a.i changed",
    ),
    "with at import": (
        project(
            {
                "a.py": "import contextlib\nN = []\nwith contextlib.suppress(ValueError):\n    N.append(1)\ndef f():\n    return N"
            }
        ),
        ("a.py", "append(1)", "append(2)"),
        "import-time code of ours.a changed",
    ),
    # Classes
    "class attribute": (
        project({"a.py": "class A:\n    n = 1"}, "from ours.a import A", "result = A.n"),
        ("a.py", "1", "2"),
        "class ours.a.A changed",
    ),
    "chain of inheritance": (
        project(
            {
                "a.py": "from ours.b import B\nclass A(B):\n    pass\ndef f():\n    return A().m()",
                "b.py": "class C:\n    def m(self):\n        return 1\nclass B(C):\n    pass",
            }
        ),
        ("b.py", "return 1", "return 2"),
        "class ours.b.C changed",
    ),
    "__init_subclass__": (
        project(
            {
                "a.py": "ALL = []\nclass Base:\n    def __init_subclass__(cls):\n        ALL.append(cls.n)\ndef f():\n    return ALL",
                "b.py": "from ours.a import Base\nclass B(Base):\n    n = 1",
            },
            "from ours.a import f\nimport ours.b",
        ),
        ("b.py", "n = 1", "n = 2"),
        "class ours.b.B changed",
    ),
    "__init_subclass__ in one module": (
        project(
            {
                "a.py": """
                    ALL = []
                    class Base:
                        def __init_subclass__(cls):
                            ALL.append(cls.n)
                    class Between(Base):
                        n = 0
                    class B(Between):
                        n = 1
                    def f():
                        return ALL
                    """
            }
        ),
        ("a.py", "n = 1", "n = 2"),
        "class ours.a.B changed",
    ),
    "metaclass": (
        project(
            {
                "a.py": """
                    ALL = []
                    class Meta(type):
                        def __new__(cls, name, bases, space):
                            ALL.append(space["n"])
                            return super().__new__(cls, name, bases, space)
                    class A(metaclass=Meta):
                        n = 1
                    def f():
                        return ALL
                    """
            }
        ),
        ("a.py", "n = 1", "n = 2"),
        "class ours.a.A changed",
    ),
    "__subclasses__": (
        project(
            {
                "a.py": "class A:\n    pass\nclass B(A):\n    n = 1\ndef f():\n    return [c.n for c in A.__subclasses__()]"
            }
        ),
        ("a.py", "n = 1", "n = 2"),
        "class ours.a.B changed",
    ),
    "__set_name__": (
        project(
            {
                "a.py": "ALL = []\nclass D:\n    def __set_name__(self, owner, name):\n        ALL.append(name)\nclass A:\n    x = D()\ndef f():\n    return ALL"
            }
        ),
        ("a.py", "x = D()", "y = D()"),
        "class ours.a.A changed",
    ),
    "class body with an effect": (
        project({"a.py": "ALL = []\nclass A:\n    ALL.append(1)\ndef f():\n    return ALL"}),
        ("a.py", "append(1)", "append(2)"),
        "class ours.a.A changed",
    ),
    "class attribute that hides a global": (
        project({"a.py": "n = 1\nclass A:\n    n = n\ndef f():\n    return A.n"}),
        ("a.py", "n = 1", "n = 2"),
        "constant ours.a.n changed",
    ),
    # Effects at import
    "registry by decorator": (
        project(
            {
                "a.py": "RULES = {}\ndef rule(f):\n    RULES[f.__name__] = f\n    return f\n"
                "def f():\n    return [g() for g in RULES.values()]",
                "b.py": "from ours.a import rule\n@rule\ndef late():\n    return 1",
            },
            "from ours.a import f\nimport ours.b",
        ),
        ("b.py", "return 1", "return 2"),
        "function ours.b.late changed",
    ),
    "registry by dictionary": (
        project({"a.py": "def late():\n    return 1\nRULES = {'late': late}\ndef f():\n    return RULES['late']()"}),
        ("a.py", "return 1", "return 2"),
        "function ours.a.late changed",
    ),
    "registry by assignment": (
        project(
            {
                "a.py": "def late():\n    return 1\nRULES = {}\nRULES['late'] = late\ndef f():\n    return RULES['late']()"
            }
        ),
        ("a.py", "return 1", "return 2"),
        "function ours.a.late changed",
    ),
    "registry by default argument": (
        project({"a.py": "ALL = []\ndef g(x=ALL.append(1)):\n    pass\ndef f():\n    return ALL"}),
        ("a.py", "append(1)", "append(2)"),
        "function ours.a.g changed",
    ),
    "registry by annotation": (
        project({"a.py": "ALL = []\ndef g(x: ALL.append(1)):\n    pass\ndef f():\n    return ALL"}),
        ("a.py", "append(1)", "append(2)"),
        "function ours.a.g changed",
    ),
    "registry by singledispatch": (
        project(
            {
                "a.py": "from functools import singledispatch\n@singledispatch\ndef g(x):\n    return 0\ndef f():\n    return g(1)",
                "b.py": "from ours.a import g\n@g.register\ndef _(x: int):\n    return 1",
            },
            "from ours.a import f\nimport ours.b",
        ),
        ("b.py", "return 1", "return 2"),
        "function ours.b._ changed",
    ),
    "wiring by an operator": (
        project(
            {
                "a.py": """
                    class Task:
                        def __init__(self, name):
                            self.name, self.after = name, []
                        def __rshift__(self, other):
                            self.after.append(other.name)
                            return other
                    one, two = Task("one"), Task("two")
                    def f():
                        return one.after
                    """,
                "b.py": "from ours.a import one, two\nend = one >> two",
            },
            "from ours.a import f\nimport ours.b",
        ),
        ("b.py", "one >> two", "two >> one"),
        "constant ours.b.end changed",
    ),
    "call whose result nobody uses": (
        project({"a.py": "ALL = []\ndef add(x):\n    ALL.append(x)\n_ = add(1)\ndef f():\n    return ALL"}),
        ("a.py", "add(1)", "add(2)"),
        "constant ours.a._ changed",
    ),
    "lambda called at import": (
        project({"a.py": "ALL = []\n_ = (lambda: ALL.append(1))()\ndef f():\n    return ALL"}),
        ("a.py", "append(1)", "append(2)"),
        "constant ours.a._ changed",
    ),
    "map at import": (
        project(
            {"a.py": "ALL = []\ndef add(x):\n    ALL.append(x + 1)\n_ = list(map(add, [1]))\ndef f():\n    return ALL"}
        ),
        ("a.py", "x + 1", "x + 2"),
        "function ours.a.add changed",
    ),
    "partial called at import": (
        project(
            {
                "a.py": "from functools import partial\nALL = []\ndef add(x):\n    ALL.append(x)\n_ = partial(add, 1)()\ndef f():\n    return ALL"
            }
        ),
        ("a.py", "add, 1", "add, 2"),
        "constant ours.a._ changed",
    ),
    "monkeypatch of a third module": (
        project(
            {"a.py": "def f():\n    return 1", "b.py": "import ours.a\nours.a.f = lambda: 2"},
            "import ours.a\nimport ours.b",
            "result = ours.a.f()",
        ),
        ("b.py", "2", "3"),
        "import-time code of ours.b changed",
    ),
    "monkeypatch by an unused import": (
        project(
            {"a.py": "def f():\n    return g()\ndef g():\n    return 1", "b.py": "from ours import a\na.g = lambda: 2"}
        ),
        ("imports", "", "\nimport ours.b"),
        "import-time code of ours.b is new",
    ),
    "monkeypatch by setattr": (
        project(
            {"a.py": "def f():\n    return 1", "b.py": "import ours.a\nsetattr(ours.a, 'f', lambda: 2)"},
            "import ours.b\nfrom ours.a import f",
        ),
        ("b.py", "2", "3"),
        "import-time code of ours.b changed",
    ),
    "monkeypatch in the package's __init__": (
        project({"a.py": "N = 1\ndef f():\n    return N", "__init__.py": "import ours.a\nours.a.N = 2"}),
        ("__init__.py", "N = 2", "N = 3"),
        "import-time code of ours changed",
    ),
    "monkeypatch of a builtin": (
        project({"a.py": "import builtins\nbuiltins.answer = 1\ndef f():\n    return answer"}),
        ("a.py", "answer = 1", "answer = 2"),
        "import-time code of ours.a changed",
    ),
    "monkeypatch of a library": (
        project(
            {
                "a.py": "import json, ours.b\ndef f():\n    return json.dumps(1)",
                "b.py": "import json\njson.dumps = lambda x: 'one'",
            }
        ),
        ("b.py", "'one'", "'two'"),
        "import-time code of ours.b changed",
    ),
    "helper of a monkeypatch": (
        project(
            {
                "a.py": "def f():\n    return 1",
                "b.py": "import ours.a\nfrom ours.c import g\nours.a.f = g",
                "c.py": "def g():\n    return 2",
            },
            "import ours.b\nfrom ours.a import f",
        ),
        ("c.py", "2", "3"),
        "function ours.c.g changed",
    ),
    "monkeypatch by a function that is called": (
        project(
            {"a.py": "N = 1\ndef f():\n    return N", "b.py": "import ours.a\ndef patch():\n    ours.a.N = 2"},
            "from ours.a import f\nfrom ours.b import patch",
            "patch()\nresult = f()",
        ),
        ("b.py", "N = 2", "N = 3"),
        "function ours.b.patch changed",
    ),
    "import added to a package's __init__": (
        project({"a.py": "N = 1\ndef f():\n    return N", "b.py": "import ours.a\nours.a.N = 2", "__init__.py": ""}),
        ("__init__.py", "", "import ours.b"),
        "import-time code of ours.b is new",
    ),
    # Order
    "order of two effects": (
        project({"a.py": "N = []\nN.append(1)\nN.append(2)\ndef f():\n    return N"}),
        ("a.py", "N.append(1)\nN.append(2)", "N.append(2)\nN.append(1)"),
        "import-time code of ours.a changed",
    ),
    "order of an effect and a constant": (
        project({"a.py": "N = []\nN.append(1)\nM = tuple(N)\ndef f():\n    return M"}),
        ("a.py", "N.append(1)\nM = tuple(N)", "M = tuple(N)\nN.append(1)"),
        "order of statements in ours.a changed",
    ),
    "order of a redefinition and its reader": (
        project({"a.py": "N = 1\nN = 2\nM = N\ndef f():\n    return M"}),
        ("a.py", "N = 2\nM = N", "M = N\nN = 2"),
        "order of statements in ours.a changed",
    ),
    "order of a definition and an import": (
        project({"a.py": "from ours.b import f\ndef f():\n    return 1", "b.py": "def f():\n    return 2"}),
        ("a.py", "from ours.b import f\ndef f():\n    return 1", "def f():\n    return 1\nfrom ours.b import f"),
        "order of statements in ours.a changed",
    ),
    "order of two imports that patch": (
        project(
            {
                "a.py": "N = 0\ndef f():\n    return N",
                "b.py": "import ours.a\nours.a.N = 1",
                "c.py": "import ours.a\nours.a.N = 2",
            },
            "from ours.a import f\nimport ours.b\nimport ours.c",
        ),
        ("imports", "import ours.b\nimport ours.c", "import ours.c\nimport ours.b"),
        "order of imports changed",
    ),
    "order of an effect and an import": (
        project(
            {"a.py": "N = 0\ndef f():\n    return N", "b.py": "import ours.a\nours.a.N += 1"},
            "import ours.a\nfrom ours.a import f\nours.a.N = 5\nimport ours.b",
        ),
        ("imports", "ours.a.N = 5\nimport ours.b", "import ours.b\nours.a.N = 5"),
        "order of imports changed",
    ),
    "order of definitions that globals() lists": (
        project(
            {
                "a.py": "def a_1():\n    pass\ndef a_2():\n    pass\ndef f():\n    return [n for n in globals() if n[:2] == 'a_']"
            }
        ),
        ("a.py", "def a_1():\n    pass\ndef a_2():\n    pass\n", "def a_2():\n    pass\ndef a_1():\n    pass\n"),
        "order of statements in ours.a changed",
    ),
    # Looked up by a string
    "getattr of a constant": (
        project({"a.py": "def g():\n    return 1"}, "import ours.a", "result = getattr(ours.a, 'g')()"),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "getattr of a variable": (
        project({"a.py": "def g():\n    return 1"}, "import ours.a", "which = 'g'\nresult = getattr(ours.a, which)()"),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "getattr of a variable, in a function": (
        project(
            {"a.py": "def g():\n    return 1", "b.py": "def call(module, name):\n    return getattr(module, name)()"},
            "from ours import a\nfrom ours.b import call",
            "result = call(a, chr(103))",
        ),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "getattr of a package": (
        project(
            {"deep/__init__.py": "", "deep/a.py": "def g():\n    return 1"},
            "import ours.deep.a\nfrom ours import deep",
            "which = 'a'\nresult = getattr(deep, which).g()",
        ),
        ("deep/a.py", "1", "2"),
        "function ours.deep.a.g changed",
    ),
    "attrgetter": (
        project(
            {"a.py": "def g():\n    return 1"}, "import operator, ours.a", "result = operator.attrgetter('a.g')(ours)()"
        ),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "module in a variable": (
        project({"a.py": "def g():\n    return 1"}, "import ours.a as m", "x = m\nresult = x.g()"),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "string that is a name": (
        project(
            {"a.py": "def g():\n    return 1\ndef f():\n    return look('g')\ndef look(n):\n    return globals()[n]()"}
        ),
        ("a.py", "return 1", "return 2"),
        "function ours.a.g changed",
    ),
    "globals()": (
        project({"a.py": "def g():\n    return 1\ndef f():\n    return globals()[chr(103)]()"}),
        ("a.py", "return 1", "return 2"),
        "function ours.a.g changed",
    ),
    "globals under an alias": (
        project({"a.py": "look = globals\ndef g():\n    return 1\ndef f():\n    return look()[chr(103)]()"}),
        ("a.py", "return 1", "return 2"),
        "function ours.a.g changed",
    ),
    "globals() of the notebook": (
        project({}, "", "result = globals()[chr(103)]()", exported="def g():\n    return 1"),
        ("exported", "1", "2"),
        "function training.train.g changed",
    ),
    "globals() reaches an imported module": (
        project(
            {
                "a.py": "import ours.b as b\ndef f():\n    return globals()[chr(98)].g()",
                "b.py": "def g():\n    return 1",
            }
        ),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "names made by globals()": (
        project({"a.py": "for name in ['f']:\n    globals()[name] = lambda: make()\ndef make():\n    return 1"}),
        ("a.py", "return 1", "return 2"),
        "function ours.a.make changed",
    ),
    "vars of a module": (
        project({"a.py": "def g():\n    return 1"}, "import ours.a", "result = vars(ours.a)[chr(103)]()"),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "__dict__ of a module": (
        project({"a.py": "def g():\n    return 1"}, "import ours.a", "result = ours.a.__dict__[chr(103)]()"),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "__globals__ of a function": (
        project({"a.py": "def g():\n    return 1\ndef f():\n    pass"}, run="result = f.__globals__[chr(103)]()"),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "eval": (
        project({"a.py": "def g():\n    return 1\ndef f():\n    return eval(chr(103) + '()')"}),
        ("a.py", "return 1", "return 2"),
        "function ours.a.g changed",
    ),
    "exec under an alias": (
        project(
            {
                "a.py": "run = exec\ndef g():\n    return 1\ndef f():\n    space = {}\n    run('import ours.b', space)\n    return space['ours'].b.g()",
                "b.py": "def g():\n    return 1",
            }
        ),
        ("b.py", "return 1", "return 2"),
        "function ours.b.g changed",
    ),
    "sys.modules": (
        project(
            {
                "a.py": "def g():\n    return 1",
                "b.py": "import sys, ours.a\ndef f():\n    return sys.modules['ours.' + 'a'].g()",
            },
            "from ours.b import f",
        ),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "sys.modules under an alias": (
        project(
            {
                "a.py": "def g():\n    return 1",
                "b.py": "from sys import modules as m\nimport ours.a\ndef f():\n    return m['ours.' + 'a'].g()",
            },
            "from ours.b import f",
        ),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "frame of the caller": (
        project(
            {"a.py": "import sys\ndef f():\n    return sys._getframe(1).f_globals['g']()"},
            exported="def g():\n    return 1",
        ),
        ("exported", "1", "2"),
        "function training.train.g changed",
    ),
    "name in a query": (
        project(
            {"a.py": "import re, sys\ndef query(text, space):\n    return space[re.findall('@(.)', text)[0]]()"},
            "from ours.a import query",
            "result = f()",
            exported="def g():\n    return 1\ndef f():\n    return query('x > @g', space)\nfrom sys import _getframe\nspace = {'g': g}",
        ),
        ("exported", "return 1", "return 2"),
        "function training.train.g changed",
    ),
    "string annotation": (
        project(
            {
                "a.py": "import typing\nclass B:\n    n = 1\nclass A:\n    x: 'list[B]'\ndef f():\n    return typing.get_type_hints(A)['x'].__args__[0].n"
            }
        ),
        ("a.py", "n = 1", "n = 2"),
        "class ours.a.B changed",
    ),
    "docstring that is read": (
        project({"a.py": "def g():\n    'Old.'\ndef f():\n    return g.__doc__"}),
        ("a.py", "Old", "New"),
        "function ours.a.g changed",
    ),
    "docstring that a decorator reads": (
        project(
            {
                "a.py": "from ours.b import tool\n@tool\ndef f():\n    'Old.'",
                "b.py": "def tool(f):\n    return lambda: doc(f)\ndef doc(f):\n    return getattr(f, '__' + 'doc__')",
            }
        ),
        ("a.py", "Old", "New"),
        "function ours.a.f changed",
    ),
    "source that is read": (
        project({"a.py": "import inspect\ndef f():\n    # old\n    return len(inspect.getsource(f))"}),
        ("a.py", "old", "newer"),
        "function ours.a.f changed",
    ),
    # Imported by a string
    "import_module": (
        project(
            {
                "a.py": "import importlib\ndef f():\n    return importlib.import_module('ours.' + 'b').g()",
                "b.py": "def g():\n    return 1",
            }
        ),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "import_module under an alias": (
        project(
            {
                "a.py": "from importlib import import_module as load\ndef f():\n    return load('ours.' + 'b').g()",
                "b.py": "def g():\n    return 1",
            }
        ),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "import_module by getattr": (
        project(
            {
                "a.py": "import importlib\ndef f():\n    return getattr(importlib, 'import' + '_module')('ours.b').g()",
                "b.py": "def g():\n    return 1",
            }
        ),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "__import__": (
        project({"a.py": "def f():\n    return __import__('ours.' + 'b').b.g()", "b.py": "def g():\n    return 1"}),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "module named in a string": (
        project(
            {"a.py": "import pydoc\ndef f():\n    return pydoc.locate('ours.b').g()", "b.py": "def g():\n    return 1"}
        ),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "function named in a string": (
        project(
            {
                "a.py": "import pkgutil\ndef f():\n    return pkgutil.resolve_name('ours.b:g')()",
                "b.py": "def g():\n    return 1",
            }
        ),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "a new plugin": (
        project(
            {
                "a.py": "import importlib, pkgutil, ours\ndef f():\n    return sorted(m.name for m in pkgutil.iter_modules(ours.__path__))",
                "__init__.py": "",
            }
        ),
        ("plugin.py", "", "N = 1"),
        "constant ours.plugin.N is new",
    ),
    "pickle": (
        project(
            {
                "a.py": "import pickle\nDATA = b'cours.b\\ng\\n.'\ndef f():\n    return pickle.loads(DATA)()",
                "b.py": "def g():\n    return 1",
            }
        ),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "pickle under an alias": (
        project(
            {
                "a.py": "from pickle import loads as read\nDATA = b'cours.b\\ng\\n.'\ndef f():\n    return read(DATA)()",
                "b.py": "def g():\n    return 1",
            }
        ),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "joblib under an alias": (
        project(
            {
                "a.py": "import io\nimport joblib as j\nDATA = b'cours.b\\ng\\n.'\ndef f():\n    return j.load(io.BytesIO(DATA))()",
                "b.py": "def g():\n    return 1",
            }
        ),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    # Modules
    "module attribute": (
        project({"a.py": "def g():\n    return 1"}, "import ours.a as m", "result = m.g()"),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "relative import": (
        project(
            {
                "deep/__init__.py": "",
                "deep/a.py": "from ..b import g\ndef f():\n    return g()",
                "b.py": "def g():\n    return 1",
            },
            "from ours.deep.a import f",
        ),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "relative import of a module": (
        project(
            {
                "deep/__init__.py": "",
                "deep/a.py": "from . import b\ndef f():\n    return b.g()",
                "deep/b.py": "def g():\n    return 1",
            },
            "from ours.deep.a import f",
        ),
        ("deep/b.py", "1", "2"),
        "function ours.deep.b.g changed",
    ),
    "relative import in an __init__": (
        project(
            {"deep/__init__.py": "from .b import g", "deep/b.py": "def g():\n    return 1"},
            "from ours.deep import g as f",
        ),
        ("deep/b.py", "1", "2"),
        "function ours.deep.b.g changed",
    ),
    "re-export through __init__": (
        project({"__init__.py": "from ours.a import g as f", "a.py": "def g():\n    return 1"}, "from ours import f"),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "re-export that moves": (
        project(
            {"__init__.py": "from ours.a import f", "a.py": "def f():\n    return 1", "b.py": "def f():\n    return 2"},
            "from ours import f",
        ),
        ("__init__.py", "ours.a", "ours.b"),
        "function ours.b.f is new",
    ),
    "folder without __init__": (
        project({"deep/a.py": "def f():\n    return 1"}, "from ours.deep.a import f"),
        ("deep/a.py", "1", "2"),
        "function ours.deep.a.f changed",
    ),
    "star import": (
        project({"a.py": "def f():\n    return 1"}, "from ours.a import *"),
        ("a.py", "1", "2"),
        "function ours.a.f changed",
    ),
    "star import that hides a name": (
        project(
            {"a.py": "def f():\n    return 1", "b.py": "def g():\n    pass\n"},
            "from ours.a import f\nfrom ours.b import *",
        ),
        ("b.py", "", "def f():\n    return 2"),
        "function ours.b.f is new",
    ),
    "star import of a star import": (
        project({"a.py": "from ours.b import *", "b.py": "def f():\n    return 1"}, "from ours.a import *"),
        ("b.py", "1", "2"),
        "function ours.b.f changed",
    ),
    "attribute through a star import": (
        project(
            {"a.py": "from ours.b import *", "b.py": "def g():\n    return 1"}, "import ours.a", "result = ours.a.g()"
        ),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "module __getattr__": (
        project(
            {
                "a.py": "def __getattr__(name):\n    if name != 'f': raise AttributeError\n    return g\ndef g():\n    return 1"
            }
        ),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "module __getattr__ of the package": (
        project(
            {
                "__init__.py": "def __getattr__(name):\n    if name != 'f': raise AttributeError\n    from ours.a import g\n    return g",
                "a.py": "def g():\n    return 1",
            },
            "from ours import f",
        ),
        ("a.py", "1", "2"),
        "function ours.a.g changed",
    ),
    "import in a function": (
        project({"a.py": "def f():\n    from ours.b import g as h\n    return h()", "b.py": "def g():\n    return 1"}),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "module imported in a function": (
        project({"a.py": "def f():\n    import ours.b as m\n    return m.g()", "b.py": "def g():\n    return 1"}),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "effect of an import in a function": (
        project({"a.py": "N = 1\ndef f():\n    import ours.b\n    return N", "b.py": "import ours.a\nours.a.N = 2"}),
        ("b.py", "2", "3"),
        "import-time code of ours.b changed",
    ),
    "import made global": (
        project(
            {
                "a.py": "def setup():\n    global m\n    import ours.b as m\ndef f():\n    setup()\n    return m.g()",
                "b.py": "def g():\n    return 1",
            }
        ),
        ("b.py", "1", "2"),
        "function ours.b.g changed",
    ),
    "cyclic imports": (
        project(
            {
                "a.py": "import ours.b\ndef f():\n    return ours.b.g()\nN = 1",
                "b.py": "import ours.a\ndef g():\n    return ours.a.N",
            }
        ),
        ("a.py", "N = 1", "N = 2"),
        "constant ours.a.N changed",
    ),
    "module replaced by a package": (
        project({"a.py": "def f():\n    return 1"}),
        ("a/__init__.py", "", "def f():\n    return 2"),
        "function ours.a.f changed",
    ),
    "function that hides its module": (
        project(
            {"deep/__init__.py": "from ours.deep.clean import clean", "deep/clean.py": "def clean():\n    return 1"},
            "from ours.deep import clean as f",
        ),
        ("deep/clean.py", "1", "2"),
        "function ours.deep.clean.clean changed",
    ),
    "file beside a module": (
        project(
            {
                "a.py": "from pathlib import Path\ndef f():\n    return Path(__file__).with_name('data.csv').read_text()",
                "data.csv": "1",
            }
        ),
        ("data.csv", "1", "2"),
        "files of ours changed",
    ),
    "file through a constant": (
        project(
            {
                "a.py": "from pathlib import Path\nHERE = Path(__file__).parent\ndef f():\n    return (HERE / 'data.csv').read_text()",
                "data.csv": "1",
            }
        ),
        ("data.csv", "1", "2"),
        "files of ours changed",
    ),
    "resource of a package": (
        project(
            {
                "a.py": "from importlib.resources import files as find\ndef f():\n    return (find('ours') / 'data.csv').read_text()",
                "data.csv": "1",
                "__init__.py": "",
            }
        ),
        ("data.csv", "1", "2"),
        "files of ours changed",
    ),
    # Resolver
    "part of a workload": (
        project(KIT_AND_FLIGHTS, "from ours.kit import load_workload", "result = load_workload(name).contracts"),
        ("flights.py", "contracts = [1]", "contracts = [2]"),
        "constant ours.flights.contracts changed",
    ),
    "part of a workload, by getattr": (
        project(
            KIT_AND_FLIGHTS, "from ours.kit import load_workload", "result = getattr(load_workload(name), 'contracts')"
        ),
        ("flights.py", "contracts = [1]", "contracts = [2]"),
        "constant ours.flights.contracts changed",
    ),
    "effect of a workload": (
        project(
            {**KIT_AND_FLIGHTS, "flights.py": FLIGHTS + "contracts.append(3)"},
            "from ours.kit import load_workload",
            "result = load_workload(name).contracts",
        ),
        ("flights.py", "append(3)", "append(4)"),
        "import-time code of ours.flights changed",
    ),
    "workload in a variable": (
        project(KIT_AND_FLIGHTS, "from ours.kit import load_workload", "w = load_workload(name)\nresult = w.features"),
        ("flights.py", "features = [1]", "features = [2]"),
        "constant ours.flights.features changed",
    ),
    "workload in a variable of another cell": (
        project(
            {**KIT_AND_FLIGHTS, "run cell 2": "result = w.features"},
            "from ours.kit import load_workload",
            "w = load_workload(name)",
        ),
        ("flights.py", "features = [1]", "features = [2]"),
        "constant ours.flights.features changed",
    ),
    "workload in a variable that a function reads": (
        project(
            KIT_AND_FLIGHTS,
            "from ours.kit import load_workload",
            "w = load_workload(name)\nresult = f()",
            exported="def f():\n    return w.features",
        ),
        ("flights.py", "features = [1]", "features = [2]"),
        "constant ours.flights.features changed",
    ),
    "workload in a global variable": (
        project(
            KIT_AND_FLIGHTS,
            "from ours.kit import load_workload",
            "setup()\nresult = f()",
            exported="def setup():\n    global w\n    w = load_workload(name)\ndef f():\n    return w.features",
        ),
        ("flights.py", "features = [1]", "features = [2]"),
        "constant ours.flights.features changed",
    ),
    "workload passed on": (
        project(
            KIT_AND_FLIGHTS,
            "from ours.kit import load_workload",
            "w = load_workload(name)\nresult = f(w)",
            exported="def f(x):\n    return x.features",
        ),
        ("flights.py", "features = [1]", "features = [2]"),
        "constant ours.flights.features changed",
    ),
    "workload returned": (
        project(
            KIT_AND_FLIGHTS,
            "from ours.kit import load_workload",
            "result = f().features",
            exported="def f():\n    return load_workload(name)",
        ),
        ("flights.py", "features = [1]", "features = [2]"),
        "constant ours.flights.features changed",
    ),
    "workload in two variables": (
        project(
            KIT_AND_FLIGHTS, "from ours.kit import load_workload", "v = w = load_workload(name)\nresult = v.features"
        ),
        ("flights.py", "features = [1]", "features = [2]"),
        "constant ours.flights.features changed",
    ),
    "workload by walrus": (
        project(
            KIT_AND_FLIGHTS,
            "from ours.kit import load_workload",
            "result = (w := load_workload(name)).contracts + w.features",
        ),
        ("flights.py", "features = [1]", "features = [2]"),
        "constant ours.flights.features changed",
    ),
    "resolver under an alias": (
        project(KIT_AND_FLIGHTS, "from ours.kit import load_workload as lw", "result = lw(name).features"),
        ("flights.py", "features = [1]", "features = [2]"),
        "constant ours.flights.features changed",
    ),
    "resolver of a module": (
        project(KIT_AND_FLIGHTS, "import ours.kit as k", "result = k.load_workload(name).features"),
        ("flights.py", "features = [1]", "features = [2]"),
        "constant ours.flights.features changed",
    ),
    "resolver as a value": (
        project(
            KIT_AND_FLIGHTS,
            "from ours.kit import load_workload",
            "result = [w.features for w in map(load_workload, [name])]",
        ),
        ("flights.py", "features = [1]", "features = [2]"),
        "constant ours.flights.features changed",
    ),
    "resolver in the package": (
        project(
            {
                **KIT_AND_FLIGHTS,
                "a.py": "from ours.kit import load_workload\ndef f():\n    w = load_workload('flights')\n    return w.features",
            }
        ),
        ("flights.py", "features = [1]", "features = [2]"),
        "constant ours.flights.features changed",
    ),
    "resolver itself": (
        project(
            {**KIT_AND_FLIGHTS, "other.py": "contracts = [2]"},
            "from ours.kit import load_workload",
            "result = load_workload(name).contracts",
        ),
        ("kit.py", 'f"ours.{name}"', 'f"ours.other"'),
        "function ours.kit.load_workload changed",
    ),
}

TWO = "def f():\n    return 1\ndef g():\n    return 1\n"
MUST_STAY: dict[str, tuple[Project, Edit]] = {
    "comment": (project({"a.py": TWO}), ("a.py", "return 1", "return 1  # why")),
    "docstring": (project({"a.py": "def f():\n    'Old.'\n    return 1"}), ("a.py", "Old", "New")),
    "docstring of a class": (
        project({"a.py": "class A:\n    'Old.'\n    n = 1\ndef f():\n    return A.n"}),
        ("a.py", "Old", "New"),
    ),
    "docstring of a module": (project({"a.py": "'Old.'\n" + TWO}), ("a.py", "Old", "New")),
    "docstring below an attribute": (
        project({"a.py": "class A:\n    n = 1\n    'Old.'\ndef f():\n    return A.n"}),
        ("a.py", "Old", "New"),
    ),
    "layout": (project({"a.py": TWO}), ("a.py", "def f():\n    return 1", "\n\ndef f( ):\n\treturn (1)\n")),
    "quotes": (project({"a.py": "def f():\n    return 'a'"}), ("a.py", "'a'", '"a"')),
    "comment in a run cell": (project({"a.py": TWO}), ("run cell 1", "f()", "f()  # why")),
    "directive of a cell": (
        project({}, exported="def f():\n    return 1", imports=""),
        ("exported", "def", "#| export\ndef"),
    ),
    "unused function edited": (project({"a.py": TWO}), ("a.py", "g():\n    return 1", "g():\n    return 2")),
    "unused function added": (project({"a.py": TWO}), ("a.py", "", "def h():\n    return f() + UNUSED\nUNUSED = 1\n")),
    "unused function of the notebook": (
        project({}, "", exported=TWO),
        ("exported", "g():\n    return 1", "g():\n    return 2"),
    ),
    "unused constant": (project({"a.py": TWO + "N = 1"}), ("a.py", "N = 1", "N = 2")),
    "unused class": (project({"a.py": TWO + "class A(Exception):\n    n = 1"}), ("a.py", "n = 1", "n = 2")),
    "unused subclass of a plain class": (
        project({"a.py": TWO + "class A(Exception):\n    pass\nclass B(A):\n    n = 1"}),
        ("a.py", "n = 1", "n = 2"),
    ),
    "unused dataclass": (
        project(
            {
                "a.py": TWO
                + "from dataclasses import dataclass, field\n@dataclass(frozen=True)\nclass A:\n    n: list = field(default_factory=list)"
            }
        ),
        ("a.py", "n: list", "m: list"),
    ),
    "unused model": (
        project(
            {"a.py": TWO + "from pydantic import BaseModel, Field\nclass A(BaseModel):\n    n: int = Field(gt=0)\n"}
        ),
        ("a.py", "gt=0", "gt=1"),
    ),
    "unused cached function": (
        project({"a.py": TWO + "import functools\n@functools.lru_cache(maxsize=None)\ndef h():\n    return 1"}),
        ("a.py", "h():\n    return 1", "h():\n    return 2"),
    ),
    "unused pattern": (project({"a.py": TWO + "import re\nP = re.compile('a')"}), ("a.py", "'a'", "'b'")),
    "unused path": (project({"a.py": TWO + "from pathlib import Path\nP = Path('a') / 'b'"}), ("a.py", "'b'", "'c'")),
    "unused expression": (
        project({"a.py": TWO + "import narwhals as nw\nP = (nw.col('a') > 0).any()"}),
        ("a.py", "> 0", "> 1"),
    ),
    "unused alias of a type": (
        project({"a.py": TWO + "from typing import Annotated\nP = Annotated[str, 'input'] | None"}),
        ("a.py", "'input'", "'output'"),
    ),
    "unused conditional constant": (
        project({"a.py": TWO + "import sys\nif sys.platform == 'linux':\n    N = 1"}),
        ("a.py", "N = 1", "N = 2"),
    ),
    "unused import of ours added": (
        project({"a.py": TWO, "b.py": "def g():\n    return 1"}),
        ("imports", "", "\nfrom ours.b import g"),
    ),
    "unused import of ours edited": (
        project({"a.py": "from ours.b import g\n" + TWO, "b.py": "def g():\n    return 1"}),
        ("b.py", "1", "2"),
    ),
    "unused import of the standard library": (project({"a.py": TWO}), ("a.py", "", "import json\n")),
    "import for an unused function": (
        project({"a.py": TWO}),
        ("a.py", "", "import narwhals as nw\ndef h():\n    return nw.col('a')\n"),
    ),
    "import in an unused function": (
        project({"a.py": TWO + "def h():\n    import ours.b\n", "b.py": "N = [1]\nN.append(1)"}),
        ("b.py", "append(1)", "append(2)"),
    ),
    "import for a type checker": (
        project(
            {
                "a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ours.b import B\ndef f(x: 'B' = 1):\n    return x",
                "b.py": "B = [1]\nB.append(1)",
            }
        ),
        ("b.py", "append(1)", "append(2)"),
    ),
    "import that may fail, unused": (
        project(
            {
                "a.py": "try:\n    import ours.b as m\nexcept ImportError:\n    m = None\n" + TWO,
                "b.py": "def g():\n    return 1",
            }
        ),
        ("b.py", "1", "2"),
    ),
    "sorted imports": (
        project(
            {"a.py": TWO, "b.py": "def h():\n    return 1"},
            "from ours.b import h\nfrom ours.a import f",
            "result = f() + h()",
        ),
        ("imports", "from ours.b import h\nfrom ours.a import f", "from ours.a import f\nfrom ours.b import h"),
    ),
    "relative import written out": (
        project(
            {"a.py": "from .b import g\ndef f():\n    return g()", "b.py": "def g():\n    return 1", "__init__.py": ""}
        ),
        ("a.py", "from .b", "from ours.b"),
    ),
    "functions in another order": (
        project({"a.py": TWO}, "from ours.a import f, g", "result = f() + g()"),
        (
            "a.py",
            "def f():\n    return 1\ndef g():\n    return 1\n",
            "def g():\n    return 1\ndef f():\n    return 1\n",
        ),
    ),
    "other attribute of a module": (
        project({"a.py": TWO}, "import ours.a as m", "result = m.f()"),
        ("a.py", "g():\n    return 1", "g():\n    return 2"),
    ),
    "other attribute by getattr": (
        project({"a.py": TWO}, "import ours.a as m", "result = getattr(m, 'f')()"),
        ("a.py", "g():\n    return 1", "g():\n    return 2"),
    ),
    "parameter with the name of a function": (
        project({"a.py": "def g():\n    return 1\ndef f(g=1):\n    return g"}),
        ("a.py", "g():\n    return 1", "g():\n    return 2"),
    ),
    "local variable with the name of an import": (
        project(
            {
                "a.py": "from ours.b import g\ndef f():\n    g = 1\n    return [g for g in [g]]\ndef h():\n    return g",
                "b.py": "def g():\n    return 1",
            }
        ),
        ("b.py", "1", "2"),
    ),
    "keyword with the name of a function": (
        project({"a.py": "def g():\n    return 1\ndef f():\n    return dict(g=1)"}),
        ("a.py", "g():\n    return 1", "g():\n    return 2"),
    ),
    "message with the name of a function": (
        project({"a.py": "def g():\n    return 1\ndef f():\n    return 'there is no g here'"}),
        ("a.py", "g():\n    return 1", "g():\n    return 2"),
    ),
    "attribute called eval": (
        project(
            {"a.py": TWO + "class A:\n    def eval(self):\n        return 1\ndef h():\n    return 1"},
            "from ours.a import A",
            "result = A().eval()",
        ),
        ("a.py", "h():\n    return 1", "h():\n    return 2"),
    ),
    "unused module": (project({"a.py": TWO, "b.py": "N = []\nN.append(1)"}), ("b.py", "append(1)", "append(2)")),
    "unused data file": (project({"a.py": TWO, "data.csv": "1"}), ("data.csv", "1", "2")),
    "data file of an unused function": (
        project({"a.py": TWO + "def h():\n    return open(__file__)", "data.csv": "1"}),
        ("data.csv", "1", "2"),
    ),
    "dynamic code in an unused function": (
        project(
            {
                "a.py": TWO
                + "def h():\n    import importlib, pickle\n    return globals(), importlib.import_module('x'), pickle.loads(b'')"
            }
        ),
        ("a.py", "g():\n    return 1", "g():\n    return 2"),
    ),
    "other part of a workload": (
        project(KIT_AND_FLIGHTS, "from ours.kit import load_workload", "result = load_workload(name).contracts"),
        ("flights.py", "features = [1]", "features = [2]"),
    ),
    "other part of a workload in a variable": (
        project(
            KIT_AND_FLIGHTS,
            "from ours.kit import load_workload",
            "w = load_workload(name)\nresult = w.contracts, w.contracts",
        ),
        ("flights.py", "features = [1]", "features = [2]"),
    ),
    "other part of a workload in a local variable": (
        project(
            {
                **KIT_AND_FLIGHTS,
                "a.py": "from ours.kit import load_workload\ndef f():\n    w = load_workload('flights')\n    return w.contracts",
            }
        ),
        ("flights.py", "features = [1]", "features = [2]"),
    ),
    "other function beside a resolver": (
        project(
            {**KIT_AND_FLIGHTS, "kit.py": dedent(KIT) + "def g():\n    return 1"},
            "from ours.kit import load_workload",
            "result = load_workload(name).contracts",
        ),
        ("kit.py", "return 1", "return 2"),
    ),
}


@pytest.mark.parametrize("name", MUST_CHANGE)
def test_an_edit_that_changes_the_result_changes_the_key(name, tmp_path, monkeypatch):
    before, edit, reason = MUST_CHANGE[name]
    after = apply(before, edit)
    old, new = read(tmp_path / "before", before), read(tmp_path / "after", after)
    assert old.units != new.units, "a stale result would be used"
    assert reason in " | ".join(changed_units(old.units, new.units))
    was, loaded = execute(tmp_path / "before", before, monkeypatch)
    now, _ = execute(tmp_path / "after", after, monkeypatch)
    assert was != now, "the case proves nothing"
    assert unforeseen(old, loaded) == []


@pytest.mark.parametrize("name", MUST_STAY)
def test_an_edit_that_changes_nothing_keeps_the_key(name, tmp_path, monkeypatch):
    before, edit = MUST_STAY[name]
    after = apply(before, edit)
    old, new = read(tmp_path / "before", before), read(tmp_path / "after", after)
    assert changed_units(old.units, new.units) == []
    was, loaded = execute(tmp_path / "before", before, monkeypatch)
    now, _ = execute(tmp_path / "after", after, monkeypatch)
    assert was == now, "the case proves nothing"
    assert unforeseen(old, loaded) == []
