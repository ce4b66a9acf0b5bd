"""Who may import whom, how large a module may grow, and what the source may not hold."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(p.relative_to(ROOT) for top in ("app", "operators", "models") for p in (ROOT / top).rglob("*.py"))


def is_stage(module: Path) -> bool:
    return (
        module.parent.name == "operators" and module.stem != "stage" and "StageOperator" in (ROOT / module).read_text()
    )


STAGES = [p for p in SOURCES if is_stage(p)]


@cache
def imports_of(module: Path) -> set[str]:
    """Every dotted name a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def tops(module: Path) -> set[str]:
    return {name.split(".")[0] for name in imports_of(module)}


def uses(module: Path, *packages: str) -> set[str]:
    """Which of the dotted packages a module imports from."""
    return {p for p in packages if any(n == p or n.startswith(p + ".") for n in imports_of(module))}


@pytest.mark.parametrize("module", SOURCES, ids=str)
def test_imports_point_one_way(module):
    top = module.parts[0]
    if top == "models":
        assert not tops(module) & {"app", "operators", "pydicom", "highdicom", "pynetdicom"}
        assert not uses(module, "monai.deploy")
    if top == "operators":
        assert "app" not in tops(module)
        runtime = ("diameters", "engine", "frame", "brain", "novelty", "refine", "segments")
        runtime += tuple(
            f"markers.{name}" for name in ("calibration", "figure_model", "image_features", "slice_network", "slices")
        )
        allowed = {"models", *(f"models.{name}" for name in runtime)}
        assert {n for n in imports_of(module) if n.split(".")[0] == "models"} <= {
            n for n in imports_of(module) if any(n == a or n.startswith(a + ".") for a in allowed - {"models"})
        } | {"models"}


@pytest.mark.parametrize("module", SOURCES, ids=str)
def test_libraries_stay_where_they_belong(module):
    name = str(module)
    if "pynetdicom" in tops(module):
        assert name in {
            "app/receiver.py",
            "app/admission.py",
            "app/entity.py",
            "app/listener.py",
            "app/upper_layer.py",
            "app/connection.py",
            "app/wire.py",
            "app/requestor.py",
            "app/sender.py",
            "app/retrieve.py",
            "app/history_port.py",
            "app/steady_timers.py",
        }
    if "highdicom" in tops(module):
        # validators: to read results back with the library they were written by is one of the checks.
        assert module.stem in {"build_volumes", "domain", "codes", "results", "validators"} or module.stem.startswith(
            ("write_", "phantom")
        )
    if module.parts[0] == "app":
        assert "torch" not in tops(module)
    if tops(module) & {"tensorrt", "tensorrt_rtx", "cuda"}:
        assert name.startswith("models/engine_")
    if tops(module) & {"nncf", "onnxruntime"}:
        assert name == "models/nasbranet/quantise.py"
    if "ov.Core(" in (ROOT / module).read_text():
        assert name == "models/engine_openvino.py", "one core for the process: see core() there"
    if uses(module, "monai.deploy"):
        assert name in {"app/pipeline.py", "operators/stage.py"}
    if "yaml" in tops(module) or "os.environ" in (ROOT / module).read_text() or "getenv" in (ROOT / module).read_text():
        # Settings are read in one place; what CuPy reads for itself is set before it is loaded.
        assert name in {"app/config.py", "app/__init__.py"}


@pytest.mark.parametrize("module", STAGES, ids=str)
def test_stages_do_not_know_one_another(module):
    others = {f"operators.{p.stem}" for p in STAGES} - {f"operators.{module.stem}"}
    assert not uses(module, *others)


def test_only_the_pipeline_knows_all_stages():
    knowing = {str(p) for p in SOURCES if len(uses(p, *(f"operators.{s.stem}" for s in STAGES))) > 2}
    assert knowing == {"app/pipeline.py"}


@pytest.mark.parametrize("module", SOURCES, ids=str)
def test_modules_stay_small_and_clean(module):
    text = (ROOT / module).read_text()
    assert len(text.splitlines()) <= 400
    assert not [n.lineno for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Assert)], "assert outside tests"


def test_there_are_four_catch_alls():
    """Around a stage, a C-STORE or peer that came, a round of a destination's delivery: one of them, not the rest."""
    found = {}
    for module in SOURCES:
        for node in ast.walk(ast.parse((ROOT / module).read_text())):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or getattr(node.type, "id", "") in {"Exception", "BaseException"}
            ):
                found[str(module)] = found.get(str(module), 0) + 1
    assert found == {"operators/stage.py": 1, "app/receiver.py": 1, "app/admission.py": 1, "app/delivery.py": 1}


def test_training_is_not_loaded_at_run_time():
    """What the node imports never reaches training, search or baselines."""
    code = (
        "import app.pipeline, app.process, sys;"
        "print([m for m in sys.modules if m.startswith(('models.training', 'models.nasbranet', 'models.baselines'))])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == "[]"
