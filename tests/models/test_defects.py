"""Defect 8 of the released code (reference in docs/nasbranet.md), looked for in the source of models/."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "models").rglob("*.py"))
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def faults(source):
    """What a source does that the released code should not have done."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            found |= {"pickle" for name in names if name.split(".")[0] in PICKLES}
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.path":
            found.add("sys.path")
        if isinstance(node, ast.ImportFrom) and node.module == "sys" and "path" in {a.name for a in node.names}:
            found.add("sys.path")
        if isinstance(node, ast.Call):
            found |= faults_of_call(node)
    return found


def faults_of_call(call):
    name = ast.unparse(call.func)
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name.endswith("torch.load") and given.get("weights_only") != "True":
        return {"pickle"}
    if name.endswith(("np.load", "numpy.load")) and given.get("allow_pickle", "False") != "False":
        return {"pickle"}
    inner = call.func.value if isinstance(call.func, ast.Attribute) and call.func.attr == "log" else None
    if name.endswith((".log", "log")) and call.args:
        inner = inner if isinstance(inner, ast.Call) else call.args[0]
    if isinstance(inner, ast.Call) and ast.unparse(inner.func).endswith("softmax"):
        return {"log of softmax"}
    return set()


def functions(source):
    """The code of every function that does something, without its name and docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body
            text = "\n".join(ast.unparse(line) for line in body)
            if len(text.splitlines()) >= 6:
                yield f"{ast.unparse(node.args)}\n{text}"


FAULTY = [
    ("import pickle", "pickle"), ("from joblib import load", "pickle"), ("torch.load(path)", "pickle"),
    ("torch.load(path, weights_only=False)", "pickle"), ("np.load(path, allow_pickle=True)", "pickle"),
    ("import sys\nsys.path.insert(0, 'x')", "sys.path"), ("from sys import path", "sys.path"),
    ("F.softmax(x, 1).log()", "log of softmax"), ("torch.log(x.softmax(dim=1))", "log of softmax"),
]  # fmt: skip
SOUND = ["torch.load(path, weights_only=True)", "np.load(path)", "F.log_softmax(x, 1)", "math.log(2)", "x.log()"]


@pytest.mark.parametrize(("source", "fault"), FAULTY)
def test_a_fault_is_seen(source, fault):
    assert faults(source) == {fault}


@pytest.mark.parametrize("source", SOUND)
def test_what_is_sound_is_let_be(source):
    assert faults(source) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_has_one(path):
    assert faults(path.read_text()) == set()


def test_a_copy_is_seen_under_another_name_and_docstring():
    body = "\n".join(f"    a{i} = x + {i}" for i in range(6))
    one, two = (f"def {name}(x):\n    '{text}'\n{body}\n" for name, text in (("f", "one"), ("g", "two")))
    assert list(functions(one)) == list(functions(two)) != []


def test_no_function_has_a_copy():
    """Three diverging copies of each file: here no function of six lines stands twice."""
    places = {}
    for path in SOURCES:
        for text in functions(path.read_text()):
            places.setdefault(text, []).append(path.relative_to(ROOT))
    assert len(places) > 200, "the functions are found"
    assert {text: where for text, where in places.items() if len(where) > 1} == {}
