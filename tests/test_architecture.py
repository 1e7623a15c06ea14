"""The house rules that a machine can read off the source."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# Which parts of strongticket a part may import, itself and these aside.
EVERYBODYS = {"errors", "files"}
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "files": set(),
    "weights": set(),
    "masks": {"weights"},
    "ticket": {"weights", "masks"},
    "search": {"weights", "masks", "ticket"},
    "evaluate": {"weights", "masks", "ticket", "search"},
    "export": {"weights", "masks", "ticket"},
    "models": {"weights"},  # binary activations
    "data": {"weights"},  # shuffles and splits with the random source of weights
    "configs": set(),
    "__init__": {"weights", "masks", "ticket", "search", "evaluate", "export"},
    "cli": {"weights", "masks", "ticket", "search", "evaluate", "export", "models", "data", "configs", "__init__"},
}
SEEDING = {
    "random.seed",
    "np.random.seed",
    "numpy.random.seed",
    "torch.seed",
    "torch.manual_seed",
    "torch.random.seed",
    "torch.random.manual_seed",
    "torch.cuda.manual_seed",
    "torch.cuda.manual_seed_all",
}
UNSAFE_READERS = {"torch.load", "pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "marshal.loads"}


def sources() -> dict[str, Path]:
    """Return {installed module name: file} of the library and the command line."""
    found = {}
    for folder, package in (
        ("strongticket", "strongticket"),
        ("cli", "strongticket.cli"),
        ("configs", "strongticket.configs"),
    ):
        for file in (ROOT / folder).rglob("*.py"):
            inside = file.relative_to(ROOT / folder).with_suffix("")
            found[".".join([package, *inside.parts])] = file
    return found


def part_of(module: str) -> str:
    """Return the part of the house that a module stands in: ``strongticket.masks.rules.base`` → ``masks``."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def imports(source: str, module: str) -> Iterator[str]:
    """Yield the dotted name of all that ``source``, the text of ``module``, imports; relative imports resolved.

    ``from a import b`` gives ``a.b``, since b may be a module.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            yield from (".".join([*base, alias.name]) for alias in node.names)


def forbidden_imports(source: str, module: str) -> list[str]:
    """Return what ``source`` imports of the library against the order of the parts."""
    part = part_of(module)
    allowed = ALLOWED[part] | {part} | (set() if part in EVERYBODYS else EVERYBODYS)
    own = (name for name in imports(source, module) if name.split(".")[0] == "strongticket")
    return [name for name in own if part_of(name) in ALLOWED and part_of(name) not in allowed]


def called(source: str) -> set[str]:
    """Return the dotted names of the functions that ``source`` calls, by the names they were imported under."""
    tree = ast.parse(source)
    full: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            full |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            full |= {alias.asname: alias.name for alias in node.names if alias.asname}
    names = (ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {".".join([full.get(first, first), *rest]) for first, *rest in (name.split(".") for name in names)}


@pytest.mark.parametrize("module", sorted(sources()))
def test_imports_run_one_way(module: str) -> None:
    assert forbidden_imports(sources()[module].read_text("utf-8"), module) == []


def test_every_part_of_the_library_has_its_place_in_the_order() -> None:
    assert {part_of(module) for module in sources()} <= ALLOWED.keys()
    assert len(sources()) > 30


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("strongticket.weights.source", "from ..masks import select"),
        ("strongticket.masks.rules.base", "from ...ticket.ticket import Ticket"),
        ("strongticket.masks.rules.base", "from ... import search"),
        ("strongticket.search.loop", "import strongticket.evaluate"),
        ("strongticket.export.onnx", "def f():\n    from strongticket.search import search"),
        ("strongticket.models.registry", "from strongticket.data import load"),
        ("strongticket.evaluate.report", "from ..models import build"),
        ("strongticket.ticket.storage", "from strongticket.cli.console import note"),
        ("strongticket.errors", "from .weights import WeightLaw"),
    ],
)
def test_an_import_against_the_order_is_found(module: str, source: str) -> None:
    assert len(forbidden_imports(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("strongticket.masks.rules.base", "from ..selection import Selection\nfrom ...weights import Fans"),
        ("strongticket.evaluate.report", "from ..search import train_dense\nimport json"),
        ("strongticket.cli.search", "from strongticket.models import build\nfrom .config import RunConfig"),
        ("strongticket.__init__", "from .search import search"),
    ],
)
def test_an_import_along_the_order_is_not_found(module: str, source: str) -> None:
    assert forbidden_imports(source, module) == []


@pytest.mark.parametrize("module", sorted(sources()))
def test_a_file_stays_readable_in_one_sitting(module: str) -> None:
    assert len(sources()[module].read_text("utf-8").splitlines()) <= 400


@pytest.mark.parametrize("module", sorted(sources()))
def test_no_global_generator_is_seeded(module: str) -> None:
    assert called(sources()[module].read_text("utf-8")) & SEEDING == set()


@pytest.mark.parametrize("module", sorted(sources()))
def test_nothing_that_is_read_can_run_code(module: str) -> None:
    assert called(sources()[module].read_text("utf-8")) & UNSAFE_READERS == set()


def test_calls_are_found_under_any_import() -> None:
    source = (
        "import numpy as np\nfrom torch import manual_seed as ms, load\nms(1)\nnp.random.seed(0)\nload('x')\nf().g()"
    )
    assert {"torch.manual_seed", "numpy.random.seed", "torch.load"} <= called(source)


def test_a_generator_of_ones_own_may_be_seeded() -> None:
    assert called("import torch\ntorch.Generator().manual_seed(1)") & SEEDING == set()


def test_the_library_needs_neither_the_command_line_nor_its_leaves() -> None:
    program = (
        "import json, sys, strongticket\n"
        "for name in strongticket.__all__: getattr(strongticket, name)\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    loaded = set(json.loads(output))
    assert "strongticket.masks" in loaded
    strangers = {"click", "rich_click", "rich", "sklearn", "torchvision", "onnx", "onnxscript", "onnxruntime", "yaml"}
    assert loaded & (strangers | {"matplotlib", "tensorboard", "strongticket.models", "strongticket.data"}) == set()
