"""The code part of the cache key: which edits must change it, and which must not.

Every case is a tiny project and one edit, written like a diff: `a| ` is a line of `ours/a.py` before and after, `a- `
one before, `a+ ` one after. `in` is the notebook's import cell (`from ours.a import f` where none is given),
`exported` an exported cell, `run` and `run2` are run cells (`result = f()`); `others` and `patches` are packages that
are not ours. Behind the arrow stands the reason that people see. Every case is run before and after its edit: one that
must change the key is shown to change `result`, one that must not is shown to leave it.
"""

import builtins
import importlib
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import mlops_kit
from mlops_kit.code import changed_units, read_code, unforeseen

CHANGES_THE_KEY = r"""
# run cell -> run cell 1 of training.train changed
run- result = 1
run+ result = 2

# exported function -> function training.train.f changed
exported- def f(): return 1
exported+ def f(): return 2

# exported effect -> import-time code of training.train changed
exported| RULES = []
exported- RULES.append(1)
exported+ RULES.append(2)
run| result = RULES

# decorated in the notebook -> function training.train.late changed
a| RULES = []
a| def rule(f):
a|     RULES.append(f())
a|     return f
in| from ours.a import RULES, rule
exported| @rule
exported- def late(): return 1
exported+ def late(): return 2
run| result = RULES

# which module a name comes from -> function ours.b.f is new
a| def f(): return 1
b| def f(): return 2
in- from ours.a import f
in+ from ours.b import f

# two imports swapped -> import training.train.f changed
a| f = 1
a| g = 2
in- from ours.a import f, g
in+ from ours.a import f as g, g as f
run| result = f - g

# another package under one name -> import training.train.m changed
in- import json as m
in+ import ast as m
run| result = m.__name__

# function -> function ours.a.f changed
a- def f(): return 1
a+ def f(): return 2

# helper of a helper -> function ours.c.h changed
a| from ours.b import g
a| def f(): return g()
b| from ours.c import h
b| def g(): return h()
c- def h(): return 1
c+ def h(): return 2

# constant -> constant ours.a.N changed
a- N = 1
a+ N = 2
a| def f(): return N

# annotated constant -> constant ours.a.N changed
a- N: int = 1
a+ N: int = 2
a| def f(): return N

# one of a tuple of constants -> constant ours.a.M, N changed
a- M, N = 0, 1
a+ M, N = 0, 2
a| def f(): return N

# starred assignment -> constant ours.a.M, N changed
a- M, *N = 0, 1
a+ M, *N = 0, 2
a| def f(): return N

# augmented assignment -> constant ours.a.N changed
a| N = 1
a- N += 1
a+ N += 2
a| def f(): return N

# augmented list of another module -> constant ours.c.N changed
a| from ours.b import N
a| import ours.c
a| def f(): return N
b| N = [1]
c| from ours.b import N
c- N += [1]
c+ N += [2]

# redefinition -> function ours.a.f changed
a| def f(): return 1
a- def f(): return 2
a+ def f(): return 3

# first of two bindings -> constant ours.a.N changed
a- N = [1]
a+ N = [2]
a| N = N + [0]
a| def f(): return N

# redefinition added -> function ours.a.f changed
a| def f(): return 1
a+ def f(): return 2

# redefinition by an import -> import ours.a.f is new
a| def f(): return 1
a+ from ours.b import f
b| def f(): return 2

# deleted name -> statement ours.a.N is new
a| N = 1
a| M = 2
a| def f(): return globals_of().get('N', M)
a| def globals_of(): return globals()
a+ del N

# conditional definition -> statement ours.a.N changed
a- if 1 > 0: N = 1
a+ if 1 < 0: N = 1
a| else: N = 2
a| def f(): return N

# condition that reads a constant -> constant ours.a.FAST changed
a- FAST = True
a+ FAST = False
a| if FAST: N = 1
a| else: N = 2
a| def f(): return N

# import that may fail -> function ours.fast.f changed
a| try: from ours.fast import f
a| except ImportError: from ours.slow import f
fast- def f(): return 1
fast+ def f(): return 2
slow| def f(): return 2

# import that failed -> function ours.fast.f is new
a| try: import ours.fast as m
a| except ImportError: import ours.slow as m
a| def f(): return m.f()
slow| def f(): return 2
fast+ def f(): return 1

# default argument -> constant ours.a.N changed
a- N = 1
a+ N = 2
a| def f(n=N): return n

# decorator -> function ours.b.twice changed
a| from ours.b import twice
a| @twice
a| def f(): return 1
b- def twice(f): return lambda: 2 * f()
b+ def twice(f): return lambda: 3 * f()

# standard decorator -> function ours.a.g changed
a| import functools
a- @functools.cache
a| def g(): return []
a| def f():
a|     g().append(1)
a|     return g()

# alias on a condition -> function ours.b.g changed
a| import ours.b as b, ours.c as c
a| FAST = True
a| f = b.g if FAST else c.g
b- def g(): return 1
b+ def g(): return 2
c| def g(): return 3

# lambda -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
a| f = lambda: g()

# partial -> function ours.a.g changed
a| from functools import partial
a- def g(x): return x
a+ def g(x): return -x
a| f = partial(g, 1)

# nested function -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
a| def f():
a|     def inner(): return g()
a|     return inner()

# comprehension -> constant ours.a.MIN changed
a| def g(x): return x
a| def f(): return [g(x) for x in [1, 2] if x > MIN]
a- MIN = 1
a+ MIN = 0

# comprehension that hides a name -> constant ours.a.N changed
a- N = 1
a+ N = 2
a| def f(): return [N for N in [0]] + [N]

# walrus -> statement ours.a.N changed
a- if (N := 1) > 0: pass
a+ if (N := 2) > 0: pass
a| def f(): return N

# walrus in a comprehension -> constant ours.a.SUM changed
a- SUM = [(last := n) for n in [1]]
a+ SUM = [(last := n) for n in [2]]
a| def f(): return last

# text with a value in it -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
a| def f(): return f"{g():>3}"

# pattern of a match -> constant ours.b.N changed
a| import ours.b as b
a| def f():
a|     match 1:
a|         case b.N: return True
b- N = 1
b+ N = 2

# variable that is made of itself -> function ours.a.g changed
a- def g(): return [1]
a+ def g(): return [2]
a| def f():
a|     rows = g()
a|     rows = rows.copy()
a|     rows = rows.copy()
a|     return rows

# global statement -> function ours.a.setup changed
a| N = 0
a| def setup():
a|     global N
a-     N = 1
a+     N = 2
a| def f():
a|     setup()
a|     return N

# shadowed in one function, used in another -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
a| def h(g): return g
a| def f(): return h(g())

# builtin that is bound anew -> function ours.a.len is new
a| def f(): return len([1])
a+ def len(x): return 7

# loop at import -> statement ours.a.i changed
a| N = []
a- for i in range(2): N.append(i)
a+ for i in range(3): N.append(i)
a| def f(): return N

# with at import -> import-time code of ours.a changed
a| import contextlib
a| N = []
a- with contextlib.suppress(ValueError): N.append(1)
a+ with contextlib.suppress(ValueError): N.append(2)
a| def f(): return N

# class attribute -> class ours.a.A changed
a- class A: n = 1
a+ class A: n = 2
in| from ours.a import A
run| result = A.n

# chain of inheritance -> class ours.b.C changed
a| from ours.b import B
a| class A(B): pass
a| def f(): return A().m()
b| class C:
b-     def m(self): return 1
b+     def m(self): return 2
b| class B(C): pass

# __init_subclass__ -> class ours.b.B changed
a| ALL = []
a| class Base:
a|     def __init_subclass__(cls): ALL.append(cls.n)
a| def f(): return ALL
b| from ours.a import Base
b- class B(Base): n = 1
b+ class B(Base): n = 2
in| from ours.a import f
in| import ours.b

# __init_subclass__ in one module -> class ours.a.B changed
a| ALL = []
a| class Base:
a|     def __init_subclass__(cls): ALL.append(cls.n)
a| class Between(Base): n = 0
a- class B(Between): n = 1
a+ class B(Between): n = 2
a| def f(): return ALL

# class made by type() -> constant ours.a.A changed
a| ALL = []
a| class Base:
a|     def __init_subclass__(cls): ALL.append(cls.n)
a- A = type("A", (Base,), {"n": 1})
a+ A = type("A", (Base,), {"n": 2})
a| def f(): return ALL

# class with unpacked bases -> class ours.a.A changed
a| ALL = []
a| class Base:
a|     def __init_subclass__(cls): ALL.append(cls.n)
a| bases = (Base,)
a- class A(*bases): n = 1
a+ class A(*bases): n = 2
a| def f(): return ALL

# private name of a class -> function ours.a._A__g changed
a- def _A__g(): return 1
a+ def _A__g(): return 2
a| class A:
a|     def call(self): return __g()
a| def f(): return A().call()

# metaclass -> class ours.a.A changed
a| ALL = []
a| class Meta(type):
a|     def __new__(cls, name, bases, space):
a|         ALL.append(space["n"])
a|         return super().__new__(cls, name, bases, space)
a- class A(metaclass=Meta): n = 1
a+ class A(metaclass=Meta): n = 2
a| def f(): return ALL

# __subclasses__ -> class ours.a.B changed
a| class A: pass
a- class B(A): n = 1
a+ class B(A): n = 2
a| def f(): return [c.n for c in A.__subclasses__()]

# __set_name__ -> class ours.a.A changed
a| ALL = []
a| class D:
a|     def __set_name__(self, owner, name): ALL.append(name)
a- class A: x = D()
a+ class A: y = D()
a| def f(): return ALL

# class body with an effect -> class ours.a.A changed
a| ALL = []
a- class A: ALL.append(1)
a+ class A: ALL.append(2)
a| def f(): return ALL

# class attribute that hides a global -> constant ours.a.n changed
a- n = 1
a+ n = 2
a| class A: n = n
a| def f(): return A.n

# registry by decorator -> function ours.b.late changed
a| RULES = {}
a| def rule(f):
a|     RULES[f.__name__] = f
a|     return f
a| def f(): return [g() for g in RULES.values()]
b| from ours.a import rule
b| @rule
b- def late(): return 1
b+ def late(): return 2
in| from ours.a import f
in| import ours.b

# registry by dictionary -> function ours.a.late changed
a- def late(): return 1
a+ def late(): return 2
a| RULES = {'late': late}
a| def f(): return RULES['late']()

# registry by assignment -> function ours.a.late changed
a- def late(): return 1
a+ def late(): return 2
a| RULES = {}
a| RULES['late'] = late
a| def f(): return [rule() for rule in RULES.values()]

# registry by default argument -> function ours.a.g changed
a| ALL = []
a- def g(x=ALL.append(1)): pass
a+ def g(x=ALL.append(2)): pass
a| def f(): return ALL

# registry by annotation -> function ours.a.g changed
a| ALL = []
a- def g(x: ALL.append(1)): pass
a+ def g(x: ALL.append(2)): pass
a| def f(): return ALL

# registry by singledispatch -> function ours.b._ changed
a| from functools import singledispatch
a| @singledispatch
a| def g(x): return 0
a| def f(): return g(1)
b| from ours.a import g
b| @g.register
b- def _(x: int): return 1
b+ def _(x: int): return 2
in| from ours.a import f
in| import ours.b

# setting of another package -> constant ours.a.old changed
a| import others
a- old = others.replace(1)
a+ old = others.replace(2)
a| def f(): return others.N
others| N = 0
others| def replace(n):
others|     global N
others|     N, old = n, N
others|     return old

# wiring by an operator -> constant ours.b.end changed
a| class Task:
a|     def __init__(self, name): self.name, self.after = name, []
a|     def __rshift__(self, other):
a|         self.after.append(other.name)
a|         return other
a| one, two = Task("one"), Task("two")
a| def f(): return one.after
b| from ours.a import one, two
b- end = one >> two
b+ end = two >> one
in| from ours.a import f
in| import ours.b

# call whose result nobody uses -> constant ours.a._ changed
a| ALL = []
a| def add(x): ALL.append(x)
a- _ = add(1)
a+ _ = add(2)
a| def f(): return ALL

# lambda called at import -> constant ours.a._ changed
a| ALL = []
a- _ = (lambda: ALL.append(1))()
a+ _ = (lambda: ALL.append(2))()
a| def f(): return ALL

# map at import -> function ours.a.add changed
a| ALL = []
a- def add(x): ALL.append(x + 1)
a+ def add(x): ALL.append(x + 2)
a| _ = list(map(add, [1]))
a| def f(): return ALL

# partial called at import -> constant ours.a._ changed
a| from functools import partial
a| ALL = []
a| def add(x): ALL.append(x)
a- _ = partial(add, 1)()
a+ _ = partial(add, 2)()
a| def f(): return ALL

# method of a fresh value that calls ours -> function ours.a.add changed
a| ALL = []
a- def add(x): ALL.append(x + 1)
a+ def add(x): ALL.append(x + 2)
a| order = [3].sort(key=add)
a| def f(): return ALL

# lambda that a fresh value calls -> constant ours.a.order changed
a| ALL = []
a- order = [3].sort(key=lambda x: ALL.append(x + 1))
a+ order = [3].sort(key=lambda x: ALL.append(x + 2))
a| def f(): return ALL

# constructor from a star import -> constant ours.b._ changed
a| ALL = []
a| class Adder:
a|     def __init__(self, x): ALL.append(x)
a| def f(): return ALL
b| from ours.a import *
b- _ = Adder(1)
b+ _ = Adder(2)
in| from ours.a import f
in| import ours.b

# effect in a condition -> import-time code of ours.a changed
a| import sys
a| ALL = []
a- if sys.platform: ALL.append(1)
a+ if sys.platform: ALL.append(2)
a| def f(): return ALL

# effect in a comprehension -> constant ours.a._ changed
a| ALL = []
a- _ = [ALL.append(x) for x in [1]]
a+ _ = [ALL.append(x) for x in [2]]
a| def f(): return ALL

# monkeypatch of a third module -> import-time code of ours.b changed
a| def f(): return 1
b| import ours.a
b- ours.a.f = lambda: 2
b+ ours.a.f = lambda: 3
in| import ours.a
in| import ours.b
run| result = ours.a.f()

# monkeypatch by an unused import -> import-time code of ours.b is new
a| def f(): return g()
a| def g(): return 1
b| from ours import a
b| a.g = lambda: 2
in| from ours.a import f
in+ import ours.b

# monkeypatch by setattr -> import-time code of ours.b changed
a| def f(): return 1
b| import ours.a
b- setattr(ours.a, 'f', lambda: 2)
b+ setattr(ours.a, 'f', lambda: 3)
in| import ours.b
in| from ours.a import f

# monkeypatch in the package's __init__ -> import-time code of ours changed
a| N = 1
a| def f(): return N
__init__| import ours.a
__init__- ours.a.N = 2
__init__+ ours.a.N = 3

# monkeypatch of a builtin -> import-time code of ours.a changed
a| import builtins
a- builtins.answer = 1
a+ builtins.answer = 2
a| def f(): return answer

# monkeypatch of another package -> import-time code of ours.b changed
a| import others, ours.b
a| def f(): return others.g()
b| import others
b- others.g = lambda: 2
b+ others.g = lambda: 3
others| def g(): return 1

# another package imported for its effect -> import ours.a.patches is new
a+ import patches
a| import others
a| def f(): return others.g()
others| def g(): return 1
patches| import others
patches| others.g = lambda: 2

# import from the future -> import ours.a.annotations is new
a+ from __future__ import annotations
a| def f(x: int = 1): return str(f.__annotations__)

# helper of a monkeypatch -> function ours.c.g changed
a| def f(): return 1
b| import ours.a
b| from ours.c import g
b| ours.a.f = g
c- def g(): return 2
c+ def g(): return 3
in| import ours.b
in| from ours.a import f

# monkeypatch by a function that is called -> function ours.b.patch changed
a| N = 1
a| def f(): return N
b| import ours.a
b- def patch(): ours.a.N = 2
b+ def patch(): ours.a.N = 3
in| from ours.a import f
in| from ours.b import patch
run| patch()
run| result = f()

# import added to a package's __init__ -> import-time code of ours.b is new
a| N = 1
a| def f(): return N
b| import ours.a
b| ours.a.N = 2
__init__+ import ours.b

# order of two effects -> import-time code of ours.a changed
a| N = []
a+ N.append(2)
a| N.append(1)
a- N.append(2)
a| def f(): return N

# order of an effect and a constant -> order of statements in ours.a changed
a| N = []
a+ M = tuple(N)
a| N.append(1)
a- M = tuple(N)
a| def f(): return M

# order of a redefinition and its reader -> order of statements in ours.a changed
a| N = 1
a+ M = N
a| N = 2
a- M = N
a| def f(): return M

# order of a definition and an import -> order of statements in ours.a changed
a+ def f(): return 1
a| from ours.b import f
a- def f(): return 1
b| def f(): return 2

# order of two imports that patch -> order of imports changed
a| N = 0
a| def f(): return N
b| import ours.a
b| ours.a.N = 1
c| import ours.a
c| ours.a.N = 2
in| from ours.a import f
in+ import ours.c
in| import ours.b
in- import ours.c

# order of an effect and an import -> order of imports changed
a| N = 0
a| def f(): return N
b| import ours.a
b| ours.a.N += 1
in| import ours.a
in| from ours.a import f
in+ import ours.b
in| ours.a.N = 5
in- import ours.b

# order of an effect and an import of another package -> order of statements in ours.a changed
a| import patches
a+ import others
a| patches.N = 1
a- import others
a| def f(): return others.N
others| import patches
others| N = patches.N
patches| N = 0

# order of definitions that globals() lists -> order of statements in ours.a changed
a+ def a_2(): pass
a| def a_1(): pass
a- def a_2(): pass
a| def f(): return [n for n in globals() if n[:2] == 'a_']

# getattr of a constant -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
in| import ours.a
run| result = getattr(ours.a, 'g')()

# getattr of a variable -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
in| import ours.a
run| which = 'g'
run| result = getattr(ours.a, which)()

# getattr of a variable, in a function -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
b| def call(module, name): return getattr(module, name)()
in| from ours import a
in| from ours.b import call
run| result = call(a, chr(103))

# getattr of a package -> function ours.deep.a.g changed
deep/a- def g(): return 1
deep/a+ def g(): return 2
in| import ours.deep.a
in| from ours import deep
run| which = 'a'
run| result = getattr(deep, which).g()

# attrgetter -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
in| import operator, ours.a
run| result = operator.attrgetter('a.g')(ours)()

# module in a variable -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
in| import ours.a as m
run| x = m
run| result = x.g()

# string that is a name -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
a| def f(): return look('g')
a| def look(n): return globals()[n]()

# globals() -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
a| def f(): return globals()[chr(103)]()

# globals under an alias -> function ours.a.g changed
a| look = globals
a- def g(): return 1
a+ def g(): return 2
a| def f(): return look()[chr(103)]()

# globals() of the notebook -> function training.train.g changed
exported- def g(): return 1
exported+ def g(): return 2
run| result = globals()[chr(103)]()

# globals() reaches an imported module -> function ours.b.g changed
a| import ours.b as b
a| def f(): return globals()[chr(98)].g()
b- def g(): return 1
b+ def g(): return 2

# names made by globals() -> function ours.a.make changed
a| for name in ['f']: globals()[name] = lambda: make()
a- def make(): return 1
a+ def make(): return 2

# vars of a module -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
in| import ours.a
run| result = vars(ours.a)[chr(103)]()

# __dict__ of a module -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
in| import ours.a
run| result = ours.a.__dict__[chr(103)]()

# __globals__ of a function -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
a| def f(): pass
run| result = f.__globals__[chr(103)]()

# eval -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
a| def f(): return eval(chr(103) + '()')

# exec under an alias -> function ours.b.g changed
a| run = exec
a| def g(): return 1
a| def f():
a|     space = {}
a|     run('import ours.b', space)
a|     return space['ours'].b.g()
b- def g(): return 1
b+ def g(): return 2

# sys.modules -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
b| import sys, ours.a
b| def f(): return sys.modules['ours.' + 'a'].g()
in| from ours.b import f

# sys.modules under an alias -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
b| from sys import modules as m
b| import ours.a
b| def f(): return m['ours.' + 'a'].g()
in| from ours.b import f

# frame of the caller -> function training.train.g changed
a| import sys
a| def f(): return sys._getframe(1).f_globals['g']()
exported- def g(): return 1
exported+ def g(): return 2

# name in a query of pandas -> constant ours.a.LIMIT changed
a| import pandas as pd
a- LIMIT = 1
a+ LIMIT = 2
a| def f(): return len(pd.DataFrame({"x": [1, 2, 3]}).query("x > @LIMIT"))

# function in a query -> function ours.a.late changed
a| import pandas as pd
a- def late(x): return x > 1
a+ def late(x): return x > 2
a| def f(): return len(pd.DataFrame({"x": [1, 2, 3]}).query("@late(x)"))

# table in a query of SQL -> constant training.train.TRIPS changed
in| import polars as pl
exported- TRIPS = pl.DataFrame({"x": [1]})
exported+ TRIPS = pl.DataFrame({"x": [2]})
exported| def f(): return pl.sql("select * from TRIPS", eager=True)["x"].to_list()

# string annotation -> class ours.a.B changed
a| import typing
a- class B: n = 1
a+ class B: n = 2
a| class A: x: 'list[B]'
a| def f(): return typing.get_type_hints(A)['x'].__args__[0].n

# string annotation of one name -> class ours.a.B changed
a| import typing
a- class B: n = 1
a+ class B: n = 2
a| class A: x: 'B'
a| def f(): return typing.get_type_hints(A)['x'].n

# docstring that is read -> function ours.a.g changed
a- def g(): 'Old.'
a+ def g(): 'New.'
a| def f(): return g.__doc__

# docstring that a decorator reads -> function ours.a.f changed
a| from ours.b import tool
a| @tool
a- def f(): 'Old.'
a+ def f(): 'New.'
b| def tool(f): return lambda: doc(f)
b| def doc(f): return getattr(f, '__' + 'doc__')

# source that is read -> function ours.a.f changed
a| import inspect
a| def f():
a-     # old
a+     # newer
a|     return len(inspect.getsource(f))

# import_module -> function ours.b.g changed
a| import importlib
a| def f(): return importlib.import_module('ours.' + 'b').g()
b- def g(): return 1
b+ def g(): return 2

# import_module under an alias -> function ours.b.g changed
a| from importlib import import_module as load
a| def f(): return load('ours.' + 'b').g()
b- def g(): return 1
b+ def g(): return 2

# import_module by getattr -> function ours.b.g changed
a| import importlib
a| def f(): return getattr(importlib, 'import' + '_module')('ours.' + 'b').g()
b- def g(): return 1
b+ def g(): return 2

# __import__ -> function ours.b.g changed
a| def f(): return __import__('ours.' + 'b').b.g()
b- def g(): return 1
b+ def g(): return 2

# module named in a string -> function ours.b.g changed
a| import pydoc
a| def f(): return pydoc.locate('ours.b').g()
b- def g(): return 1
b+ def g(): return 2

# function named in a string -> function ours.b.g changed
a| import pkgutil
a| def f(): return pkgutil.resolve_name('ours.b:g')()
b- def g(): return 1
b+ def g(): return 2

# code in a string -> function ours.b.g changed
a| import code
a| def f():
a|     space = {}
a|     code.InteractiveInterpreter(space).runsource('from ours.b import g; x = g()')
a|     return space['x']
b- def g(): return 1
b+ def g(): return 2

# class patched by its dotted name -> constant ours.b.N changed
a| from unittest.mock import patch
a| def f():
a|     with patch('ours.b.g', lambda: 3):
a|         import ours.b
a|         return ours.b.g() + ours.b.N
b| def g(): return 1
b- N = 1
b+ N = 2

# a new plugin -> constant ours.plugin.N is new
a| import importlib, pkgutil, ours
a| def f(): return sorted(m.name for m in pkgutil.iter_modules(ours.__path__))
plugin+ N = 1

# pickle -> function ours.b.g changed
a| import pickle
a| DATA = b'cours.b\ng\n.'
a| def f(): return pickle.loads(DATA)()
b- def g(): return 1
b+ def g(): return 2

# pickle under an alias -> function ours.b.g changed
a| from pickle import loads as read
a| DATA = b'cours.b\ng\n.'
a| def f(): return read(DATA)()
b- def g(): return 1
b+ def g(): return 2

# joblib under an alias -> function ours.b.g changed
a| import io
a| import joblib as j
a| DATA = b'cours.b\ng\n.'
a| def f(): return j.load(io.BytesIO(DATA))()
b- def g(): return 1
b+ def g(): return 2

# module attribute -> function ours.a.g changed
a- def g(): return 1
a+ def g(): return 2
in| import ours.a as m
run| result = m.g()

# relative import -> function ours.b.g changed
deep/a| from ..b import g
deep/a| def f(): return g()
b- def g(): return 1
b+ def g(): return 2
in| from ours.deep.a import f

# relative import of a module -> function ours.deep.b.g changed
deep/a| from . import b
deep/a| def f(): return b.g()
deep/b- def g(): return 1
deep/b+ def g(): return 2
in| from ours.deep.a import f

# relative import in an __init__ -> function ours.deep.b.g changed
deep/__init__| from .b import g
deep/b- def g(): return 1
deep/b+ def g(): return 2
in| from ours.deep import g as f

# re-export through __init__ -> function ours.a.g changed
__init__| from ours.a import g as f
a- def g(): return 1
a+ def g(): return 2
in| from ours import f

# re-export that moves -> function ours.b.f is new
__init__- from ours.a import f
__init__+ from ours.b import f
a| def f(): return 1
b| def f(): return 2
in| from ours import f

# folder without __init__ -> function ours.deep.a.f changed
deep/a- def f(): return 1
deep/a+ def f(): return 2
in| from ours.deep.a import f

# star import -> function ours.a.f changed
a- def f(): return 1
a+ def f(): return 2
in| from ours.a import *

# star import that hides a name -> function ours.b.f is new
a| def f(): return 1
b| def g(): pass
b+ def f(): return 2
in| from ours.a import f
in| from ours.b import *

# star import that may fail -> function ours.b.f changed
a| try: from ours.b import *
a| except ImportError: pass
b- def f(): return 1
b+ def f(): return 2

# names that a star import brings -> constant ours.b.__all__ changed
a| N = 1
a| from ours.b import *
b- __all__ = ["N"]
b+ __all__ = []
b| N = 2
in| from ours.a import N
run| result = N

# star import of a star import -> function ours.b.f changed
a| from ours.b import *
b- def f(): return 1
b+ def f(): return 2
in| from ours.a import *

# attribute through a star import -> function ours.b.g changed
a| from ours.b import *
b- def g(): return 1
b+ def g(): return 2
in| import ours.a
run| result = ours.a.g()

# module __getattr__ -> function ours.a.g changed
a| def __getattr__(name):
a|     if name != 'f': raise AttributeError
a|     return g
a- def g(): return 1
a+ def g(): return 2

# module __getattr__ of the package -> function ours.a.g changed
__init__| def __getattr__(name):
__init__|     if name != 'f': raise AttributeError
__init__|     from ours.a import g
__init__|     return g
a- def g(): return 1
a+ def g(): return 2
in| from ours import f

# import in a function -> function ours.b.g changed
a| def f():
a|     from ours.b import g as h
a|     return h()
b- def g(): return 1
b+ def g(): return 2

# module imported in a function -> function ours.b.g changed
a| def f():
a|     import ours.b as m
a|     return m.g()
b- def g(): return 1
b+ def g(): return 2

# effect of an import in a function -> import-time code of ours.b changed
a| N = 1
a| def f():
a|     import ours.b
a|     return N
b| import ours.a
b- ours.a.N = 2
b+ ours.a.N = 3

# import made global -> function ours.b.g changed
a| def setup():
a|     global m
a|     import ours.b as m
a| def f():
a|     setup()
a|     return m.g()
b- def g(): return 1
b+ def g(): return 2

# module imported in a class -> function ours.b.g changed
a| class A:
a|     import ours.b as m
a|     def call(self): return self.m.g()
a| def f(): return A().call()
b- def g(): return 1
b+ def g(): return 2

# function imported in a class -> function ours.b.g changed
a| class A: from ours.b import g
a| def f(): return A.g()
b- def g(): return 1
b+ def g(): return 2

# import in a function that asks locals() -> function ours.b.g changed
a| def f():
a|     from ours.b import g
a|     return locals()[chr(103)]()
b- def g(): return 1
b+ def g(): return 2

# import in a run cell -> function ours.b.g changed
b- def g(): return 1
b+ def g(): return 2
run| import ours.b as m
run2| result = m.g()

# constant of the package -> constant ours.N changed
__init__- N = 1
__init__+ N = 2
in| import ours
run| result = ours.N

# cyclic imports -> constant ours.a.N changed
a| import ours.b
a| def f(): return ours.b.g()
a- N = 1
a+ N = 2
b| import ours.a
b| def g(): return ours.a.N

# module replaced by a package -> function ours.a.f changed
a| def f(): return 1
a/__init__+ def f(): return 2

# function that hides its module -> function ours.deep.clean.clean changed
deep/__init__| from ours.deep.clean import clean
deep/clean- def clean(): return 1
deep/clean+ def clean(): return 2
in| from ours.deep import clean as f

# file beside a module -> files of ours changed
a| from pathlib import Path
a| def f(): return Path(__file__).with_name('data.csv').read_text()
data.csv- 1
data.csv+ 2

# file through a constant -> files of ours changed
a| from pathlib import Path
a| HERE = Path(__file__).parent
a| def f(): return (HERE / 'data.csv').read_text()
data.csv- 1
data.csv+ 2

# resource of a package -> files of ours changed
a| from importlib.resources import files as find
a| def f(): return (find('ours') / 'data.csv').read_text()
data.csv- 1
data.csv+ 2

# part of a workload -> constant ours.flights.contracts changed
flights- contracts = [1]
flights+ contracts = [2]
flights| features = [1]
in| from ours.kit import load_workload
run| result = load_workload(name).contracts

# part of a workload, by getattr -> constant ours.flights.contracts changed
flights- contracts = [1]
flights+ contracts = [2]
flights| features = [1]
in| from ours.kit import load_workload
run| result = getattr(load_workload(name), 'contracts')

# effect of a workload -> import-time code of ours.flights changed
flights| contracts = [1]
flights| features = [1]
flights- contracts.append(3)
flights+ contracts.append(4)
in| from ours.kit import load_workload
run| result = load_workload(name).contracts

# workload in a variable -> constant ours.flights.features changed
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
run| w = load_workload(name)
run| result = w.features

# workload in a variable of another cell -> constant ours.flights.features changed
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
run| w = load_workload(name)
run2| result = w.features

# workload in a variable that a function reads -> constant ours.flights.features changed
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
exported| def f(): return w.features
run| w = load_workload(name)
run| result = f()

# workload in a global variable -> constant ours.flights.features changed
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
exported| def setup():
exported|     global w
exported|     w = load_workload(name)
exported| def f(): return w.features
run| setup()
run| result = f()

# workload passed on -> constant ours.flights.features changed
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
exported| def f(x): return x.features
run| w = load_workload(name)
run| result = f(w)

# workload in an annotated variable -> constant ours.flights.features changed
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
run| w: object = load_workload(name)
run| result = w.features

# workload in a variable of a module -> constant ours.flights.features changed
flights- features = [1]
flights+ features = [2]
a| from ours.kit import load_workload
a| w = load_workload('flights')
in| import ours.a
run| result = ours.a.w.features

# workload as an attribute of a class -> constant ours.flights.features changed
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
exported| class A: w = load_workload('flights')
run| result = A.w.features

# workload as an attribute of an object -> constant ours.flights.features changed
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
exported| class A:
exported|     def __init__(self): self.w = load_workload('flights')
run| result = A().w.features

# workload returned -> constant ours.flights.features changed
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
exported| def f(): return load_workload(name)
run| result = f().features

# workload in two variables -> constant ours.flights.features changed
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
run| v = w = load_workload(name)
run| result = w.features

# workload by walrus -> constant ours.flights.features changed
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
run| result = (w := load_workload(name)).contracts + w.features

# workload on one condition -> constant ours.flights.features changed
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
run| w = load_workload(name) if name else None
run| result = w.features

# resolver under an alias -> constant ours.flights.features changed
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload as lw
run| result = lw(name).features

# resolver under an alias, in a variable -> constant ours.flights.features changed
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload as lw
run| w = lw(name)
run| result = w.features

# resolver of a module -> constant ours.flights.features changed
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
in| import ours.kit as k
run| result = k.load_workload(name).features

# resolver as a value -> constant ours.flights.features changed
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
run| result = [w.features for w in map(load_workload, [name])]

# resolver in the package -> constant ours.flights.features changed
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
a| from ours.kit import load_workload
a| def f():
a|     w = load_workload('flights')
a|     return w.features

# resolver itself -> function ours.kit.load_workload changed
kit| import importlib
kit- def load_workload(name): return importlib.import_module(f"ours.{name}")
kit+ def load_workload(name): return importlib.import_module(f"ours.other")
other| contracts = [2]
in| from ours.kit import load_workload
run| result = load_workload(name).contracts
"""

KEEPS_THE_KEY = r"""
# comment
a- def f(): return 1
a+ def f(): return 1  # why
a- def g(): return 1
a+ def g(): return 1  # why

# docstring
a| def f():
a-     'Old.'
a+     'New.'
a|     return 1

# docstring of a class
a| class A:
a-     'Old.'
a+     'New.'
a|     n = 1
a| def f(): return A.n

# docstring of a module
a- 'Old.'
a+ 'New.'
a| def f(): return 1
a| def g(): return 1

# docstring below an attribute
a| class A:
a|     n = 1
a-     'Old.'
a+     'New.'
a| def f(): return A.n

# docstring of a function that is passed on
a| def g(x):
a-     'Old.'
a+     'New.'
a|     return x
a| def f(): return list(map(g, [1]))

# layout
a- def f(): return 1
a+ def f( ): return (1)
a+
a| def g(): return 1

# quotes
a- def f(): return 'a'
a+ def f(): return "a"

# comment in a run cell
a| def f(): return 1
a| def g(): return 1
run- result = f()
run+ result = f()  # why

# directive of a cell
exported+ #| export
exported| def f(): return 1

# unused function edited
a| def f(): return 1
a- def g(): return 1
a+ def g(): return 2

# unused function added
a| def f(): return 1
a| def g(): return 1
a+ def h(): return f() + UNUSED
a+ UNUSED = 1

# unused function of the notebook
exported| def f(): return 1
exported- def g(): return 1
exported+ def g(): return 2

# unused constant
a| def f(): return 1
a| def g(): return 1
a- N = 1
a+ N = 2

# unused class
a| def f(): return 1
a| def g(): return 1
a- class A(Exception): n = 1
a+ class A(Exception): n = 2

# unused subclass of a plain class
a| def f(): return 1
a| def g(): return 1
a| class A(Exception): pass
a- class B(A): n = 1
a+ class B(A): n = 2

# unused dataclass
a| def f(): return 1
a| def g(): return 1
a| from dataclasses import dataclass, field
a| @dataclass(frozen=True)
a- class A: n: list = field(default_factory=list)
a+ class A: m: list = field(default_factory=list)

# unused model
a| def f(): return 1
a| def g(): return 1
a| from pydantic import BaseModel, Field
a- class A(BaseModel): n: int = Field(gt=0)
a+ class A(BaseModel): n: int = Field(gt=1)

# unused cached function
a| def f(): return 1
a| def g(): return 1
a| import functools
a| @functools.lru_cache(maxsize=None)
a- def h(): return 1
a+ def h(): return 2

# unused pattern
a| def f(): return 1
a| def g(): return 1
a| import re
a- P = re.compile('a')
a+ P = re.compile('b')

# unused path
a| def f(): return 1
a| def g(): return 1
a| from pathlib import Path
a- P = Path('a') / 'b'
a+ P = Path('a') / 'c'

# unused expression
a| def f(): return 1
a| def g(): return 1
a| import narwhals as nw
a- P = (nw.col('a') > 0).any()
a+ P = (nw.col('a') > 1).any()

# unused expression with a constant of ours
a| import narwhals as nw
a| CODES = [1]
a- P = nw.col('a').is_in(CODES)
a+ P = ~nw.col('a').is_in(CODES)
a| def f(): return CODES

# unused enumeration
a| from enum import Enum, auto
a- class A(Enum): x = auto()
a+ class A(Enum): y = auto()
a| def f(): return 1

# unused validator
a| from pydantic import BaseModel, field_validator
a| class A(BaseModel):
a|     x: int
a|     @field_validator("x")
a-     def check(cls, x): return x
a+     def check(cls, x): return -x
a| def f(): return 1

# unused property
a| class A:
a|     @property
a|     def x(self): return 1
a|     @x.setter
a-     def x(self, x): pass
a+     def x(self, x): print(x)
a| def f(): return 1

# unused alias of a type
a| def f(): return 1
a| def g(): return 1
a| from typing import Annotated
a- P = Annotated[str, 'input'] | None
a+ P = Annotated[str, 'output'] | None

# unused conditional constant
a| def f(): return 1
a| def g(): return 1
a| import sys
a- if sys.platform == 'linux': N = 1
a+ if sys.platform == 'linux': N = 2

# unused import of ours added
a| def f(): return 1
a| def g(): return 1
b| def g(): return 1
in| from ours.a import f
in+ from ours.b import g

# unused import of ours edited
a| from ours.b import g
a| def f(): return 1
a| def g(): return 1
b- def g(): return 1
b+ def g(): return 2

# unused import of the standard library
a| def f(): return 1
a| def g(): return 1
a+ import json

# import for an unused function
a| def f(): return 1
a| def g(): return 1
a+ import narwhals as nw
a+ def h(): return nw.col('a')

# import in an unused function
a| def f(): return 1
a| def g(): return 1
a| def h(): import ours.b
b| N = [1]
b- N.append(1)
b+ N.append(2)

# import for a type checker
a| from typing import TYPE_CHECKING
a| if TYPE_CHECKING: from ours.b import B
a| def f(x: 'B' = 1): return x
b| B = [1]
b- B.append(1)
b+ B.append(2)

# import that may fail, unused
a| try: import ours.b as m
a| except ImportError: m = None
a| def f(): return 1
a| def g(): return 1
b- def g(): return 1
b+ def g(): return 2

# sorted imports
a| def f(): return 1
a| def g(): return 1
b| def h(): return 1
in+ from ours.a import f
in| from ours.b import h
in- from ours.a import f
run| result = f() + h()

# relative import written out
a- from .b import g
a+ from ours.b import g
a| def f(): return g()
b| def g(): return 1

# relative import in an __init__, of something else
deep/__init__| from .b import g
deep/b| def g(): return 1
b- def g(): return 1
b+ def g(): return 2
in| from ours.deep import g as f

# variable that is made of itself
a| def f(): return [1]
a- def g(): return [1]
a+ def g(): return [2]
run| rows = f()
run| rows = rows.copy()
run| result = rows.copy()

# functions in another order
a+ def g(): return 1
a| def f(): return 1
a- def g(): return 1
in| from ours.a import f, g
run| result = f() + g()

# other attribute of a module
a| def f(): return 1
a- def g(): return 1
a+ def g(): return 2
in| import ours.a as m
run| result = m.f()

# other attribute by getattr
a| def f(): return 1
a- def g(): return 1
a+ def g(): return 2
in| import ours.a as m
run| result = getattr(m, 'f')()

# parameter with the name of a function
a- def g(): return 1
a+ def g(): return 2
a| def f(g=1): return g

# local variable with the name of an import
a| from ours.b import g
a| def f():
a|     g = 1
a|     return [g for g in [g]]
a| def h(): return g
b- def g(): return 1
b+ def g(): return 2

# keyword with the name of a function
a- def g(): return 1
a+ def g(): return 2
a| def f(): return dict(g=1)

# message with the name of a function
a- def g(): return 1
a+ def g(): return 2
a| def f(): return 'there is no g here'

# attribute called eval
a| def f(): return 1
a| def g(): return 1
a| class A:
a|     def eval(self): return 1
a- def h(): return 1
a+ def h(): return 2
in| from ours.a import A
run| result = A().eval()

# unused module
a| def f(): return 1
a| def g(): return 1
b| N = []
b- N.append(1)
b+ N.append(2)

# unused data file
a| def f(): return 1
a| def g(): return 1
data.csv- 1
data.csv+ 2

# data file of an unused function
a| def f(): return 1
a| def g(): return 1
a| def h(): return open(__file__)
data.csv- 1
data.csv+ 2

# dynamic code in an unused function
a| def f(): return 1
a- def g(): return 1
a+ def g(): return 2
a| def h():
a|     import importlib, pickle
a|     return globals(), importlib.import_module('x'), pickle.loads(b'')

# other part of a workload
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
run| result = load_workload(name).contracts

# other part of a workload in a variable
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
in| from ours.kit import load_workload
run| w = load_workload(name)
run| result = w.contracts, w.contracts

# other part of a workload in a local variable
flights| contracts = [1]
flights- features = [1]
flights+ features = [2]
a| from ours.kit import load_workload
a| def f():
a|     w = load_workload('flights')
a|     return w.contracts

# other function beside a resolver
kit| import importlib
kit| def load_workload(name): return importlib.import_module(f"ours.{name}")
kit- def g(): return 1
kit+ def g(): return 2
in| from ours.kit import load_workload
run| result = load_workload(name).contracts
"""
LABELS = {"in": "imports", "exported": "exported cell 1", "run": "run cell 1", "run2": "run cell 2"}
DEFAULTS = {
    "in": ["from ours.a import f"],
    "run": ["result = f()"],
    "kit": ["import importlib", "def load_workload(name): return importlib.import_module(f'ours.{name}')"],
    "flights": ["contracts = [1]", "features = [1]"],
    "__init__": [],
}


def parse(text):
    "Read cases: name -> (reason, project before, project after)."
    cases = {}
    for block in text.strip().split("\n\n"):
        title, *lines = block.split("\n")
        name, _, reason = title.removeprefix("# ").partition(" -> ")
        before, after = {}, {}
        for line in lines:
            place, sign, source = re.fullmatch(r"([\w./]+)([|+-]) ?(.*)", line).groups()
            for project in {"|": (before, after), "-": (before,), "+": (after,)}[sign]:
                project.setdefault(place, []).append(source)
        cases[name] = (reason, complete(before), complete(after))
    return cases


def complete(project):
    defaults = {place: lines for place, lines in DEFAULTS.items() if place not in project}
    if "a" not in project:
        defaults.pop("in", None)
    if "run2" in project:
        defaults.pop("run", None)
    return {place: "\n".join(lines) for place, lines in {**defaults, **project}.items()}


def cells_of(project):
    return [(LABELS[place], project[place]) for place in LABELS if place in project]


def write(folder, project):
    "Write the files of a project; give the folder of the package."
    for place in project.keys() - LABELS.keys():
        file = folder / ("" if place in ("others", "patches") else "ours") / place
        file = file if file.suffix else file.with_name(f"{file.name}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(project[place])
    return folder / "ours"


def read(folder, project):
    return read_code(
        cells_of(project), {"ours": write(folder, project)}, "training.train", {"load_workload": "ours.flights"}
    )


def is_of_case(module):
    return module.split(".")[0] in ("ours", "others", "patches")


def execute(folder, project, monkeypatch):
    "Run the cells in a fresh namespace, with the packages imported anew: give `result`, and the modules loaded."
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", [str(folder), *sys.path])
    importlib.invalidate_caches()
    space = {"__name__": "__main__", "name": "flights"}
    known = set(vars(builtins))
    try:
        for label, source in cells_of(project):
            exec(compile(source, label, "exec"), space)
        return space["result"], [name for name in sys.modules if is_of_case(name)]
    finally:
        for name in filter(is_of_case, list(sys.modules)):
            del sys.modules[name]
        for name in set(vars(builtins)) - known:
            delattr(builtins, name)


CHANGES, KEEPS = parse(CHANGES_THE_KEY), parse(KEEPS_THE_KEY)


@pytest.mark.parametrize("name", CHANGES)
def test_an_edit_that_changes_the_result_changes_the_key(name, tmp_path, monkeypatch):
    reason, before, after = CHANGES[name]
    old, new = read(tmp_path / "before", before), read(tmp_path / "after", after)
    assert old.units != new.units, "a stale result would be used"
    assert reason in changed_units(old.units, new.units)
    was, loaded = execute(tmp_path / "before", before, monkeypatch)
    now, _ = execute(tmp_path / "after", after, monkeypatch)
    assert was != now, "the case proves nothing"
    assert unforeseen(old, loaded) == []


@pytest.mark.parametrize("name", KEEPS)
def test_an_edit_that_changes_nothing_keeps_the_key(name, tmp_path, monkeypatch):
    _, before, after = KEEPS[name]
    old, new = read(tmp_path / "before", before), read(tmp_path / "after", after)
    assert changed_units(old.units, new.units) == []
    was, loaded = execute(tmp_path / "before", before, monkeypatch)
    now, _ = execute(tmp_path / "after", after, monkeypatch)
    assert was == now, "the case proves nothing"
    assert unforeseen(old, loaded) == []


def test_a_module_that_no_name_foretells_is_caught_by_the_net(tmp_path, monkeypatch):
    project = complete({"a": ["import pydoc", "def f(): return pydoc.locate('ours.' + 'b').N"], "b": ["N = 1"]})
    code = read(tmp_path, project)
    _, loaded = execute(tmp_path, project, monkeypatch)
    assert unforeseen(code, [*loaded, "json"]) == ["ours.b"]


def test_reasons_name_what_is_new_and_what_is_gone():
    assert changed_units({"a": "1", "b": "1", "c": "1"}, {"b": "1", "c": "2", "d": "1"}) == [
        "a is gone",
        "c changed",
        "d is new",
    ]
    assert changed_units({"order of imports": "1"}, {"order of imports": "2"}) == ["order of imports changed"]


def test_sources_are_kept_with_their_comments(tmp_path):
    code = read(tmp_path, complete({"a": ["N = 1  # why", "def f():", "    return N  # this"]}))
    assert code.sources.keys() == code.units.keys() and list(code.units) == sorted(code.units)
    assert code.sources["function ours.a.f"] == "def f():\n    return N  # this"
    assert code.sources["run cell 1 of training.train"] == "result = f()"


@pytest.mark.parametrize("label", ["run cell 2", "exported cell 3"])
def test_a_syntax_error_names_its_cell_and_line(label):
    with pytest.raises(SyntaxError) as caught:
        read_code([(label, "x = 1\ny = (")], {}, "training.train")
    assert (caught.value.filename, caught.value.lineno) == (label, 2)


def test_a_syntax_error_in_a_module_names_its_file(tmp_path):
    with pytest.raises(SyntaxError) as caught:
        read(tmp_path, complete({"a": ["def f(:"]}))
    assert caught.value.filename.endswith("a.py")


@pytest.mark.parametrize("source", ["%run other.py", "!make", "files = !ls", "%%bash\nls", "f?", "x = 1\n%time f()"])
@pytest.mark.parametrize("label", ["run cell 1", "exported cell 1"])
def test_a_cell_with_a_magic_command_may_use_anything(label, source, tmp_path):
    package = write(tmp_path, {"a": "N = 1"})
    code = read_code([(label, source)], {"ours": package}, "training.train")
    assert {f"{label} of training.train", "constant ours.a.N"} <= code.units.keys()
    assert code.units != read_code([(label, source + " ")], {"ours": package}, "training.train").units


def test_a_new_cell_of_prose_renames_no_unit():
    cells = [("export cell 3", "def f(): return 1"), ("run cell 8", "x = f()"), ("run cell 9", "y = x")]
    moved = [("export cell 4", "def f(): return 1"), ("run cell 10", "x = f()"), ("run cell 12", "y = x")]
    units = read_code(cells, {}, "training.train").units
    assert units == read_code(moved, {}, "training.train").units
    assert "run cell 2 of training.train" in units


def test_a_function_whose_answer_the_key_holds_is_not_followed(tmp_path):
    project = complete({"a": ["from ours.b import ask", "def f(): return ask()"], "b": ["def ask(): return eval('1')"]})
    package = {"ours": write(tmp_path, project)}
    code = read_code(cells_of(project), package, "training.train", {"ours.b.ask": ""})
    assert "function ours.a.f" in code.units and "function ours.b.ask" not in code.units
    assert "ours.b" in code.modules


def test_a_run_cell_may_await(tmp_path):
    package = write(tmp_path, {"a": "async def f(): return 1"})
    code = read_code([("run cell 1", "from ours.a import f\nx = await f()")], {"ours": package}, "training.train")
    assert "function ours.a.f" in code.units


def test_the_key_is_the_same_in_every_process(tmp_path):
    _, before, _ = CHANGES["registry by decorator"]
    package = write(tmp_path, before)
    script = (
        "import sys, pathlib; from mlops_kit.code import read_code\n"
        f"print(read_code({cells_of(before)!r}, {{'ours': pathlib.Path({str(package)!r})}}, 'training.train').units)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script], env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {f"{read(tmp_path, before).units}\n".encode()}


def test_an_edited_file_is_read_again(tmp_path):
    project = complete({"a": ["def f(): return 1"]})
    old = read(tmp_path, project)
    new = read(tmp_path, {**project, "a": "def f(): return 22"})
    assert changed_units(old.units, new.units) == ["function ours.a.f changed"]


def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def test_seven_steps_over_thirty_modules_cost_little_more_than_compiling_them(tmp_path):
    module = "from ours.m{after} import f0 as g\n" + "".join(
        f"def f{i}(x):\n    'Do it.'\n    y = [g(x, n) for n in range({i})]\n    return y + f{i + 1}(x)\n"
        for i in range(25)
    )
    project = {f"m{n}": module.replace("{after}", str((n + 1) % 30)) for n in range(30)}

    def read_steps(package):
        for step in range(7):
            read_code([("run cell 1", f"from ours.m{step} import f3\nf3(1)")], {"ours": package}, "training.train")

    packages = [write(tmp_path / str(attempt), project) for attempt in range(3)]
    first = min(seconds(lambda p=p: read_steps(p)) for p in packages)
    again = min(seconds(lambda p=p: read_steps(p)) for p in packages)
    compiled = min(seconds(lambda: [compile(s, "m", "exec") for s in project.values()]) for _ in range(3))
    assert first < 25 * compiled  # Seen: 10
    assert again < first / 2  # A module is indexed once in a process


KIT = Path(mlops_kit.__file__).parent


def test_an_edit_of_gate_leaves_a_step_that_only_reads_tables(tmp_path):
    shutil.copytree(KIT, tmp_path / "mlops_kit", ignore=shutil.ignore_patterns("__pycache__"))
    packages = {"mlops_kit": tmp_path / "mlops_kit"}
    steps = {name: [("run cell 1", f"from mlops_kit.steps import {name}\n{name}()")] for name in ("read_table", "gate")}
    old = {name: read_code(cells, packages, "training.train").units for name, cells in steps.items()}
    file = tmp_path / "mlops_kit" / "steps.py"
    file.write_text(file.read_text().replace("def gate(", "def gate(extra=None, *, ", 1))
    new = {name: read_code(cells, packages, "training.train").units for name, cells in steps.items()}
    assert changed_units(old["read_table"], new["read_table"]) == []
    assert changed_units(old["gate"], new["gate"]) == ["function mlops_kit.steps.gate changed"]
