"""Networks of the user's own."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from strongticket.errors import ConfigError, ModelError, StrongTicketError
from strongticket.models.factory import call_factory

SOURCE = """
from torch import nn

def _record(**options):
    model = nn.Identity()
    model.options = options
    return model

def takes_all(num_classes, input_shape, *, width=1.0, norm="none"):
    return _record(num_classes=num_classes, input_shape=input_shape, width=width, norm=norm)

def takes_classes(num_classes):
    return _record(num_classes=num_classes)

def takes_nothing():
    return _record()

def takes_options(**options):
    return _record(**options)

def returns_text():
    return "a network"

def raises():
    raise KeyError("no such layer\\nsecond line")

def leaves():
    raise SystemExit(3)

def imports_late():
    import beside_the_factory
    return beside_the_factory.model()

class Net(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.options = {"num_classes": num_classes}

constant = 5
"""


@pytest.fixture(autouse=True)
def _working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory with a module, a package and broken modules; nothing of it stays imported."""
    (tmp_path / "own_nets.py").write_text(SOURCE)
    (tmp_path / "beside_the_factory.py").write_text("from torch import nn\nmodel = nn.Identity\n")
    (tmp_path / "own_package").mkdir()
    (tmp_path / "own_package" / "nets.py").write_text(SOURCE)
    (tmp_path / "broken_syntax.py").write_text("def f(:\n")
    (tmp_path / "broken_import.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "broken_body.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    for name in ("own_nets", "own_package", "own_package.nets", "beside_the_factory"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def options(spec: str, *, width: float | None = None, norm: str | None = None) -> Any:
    return call_factory(spec, (1, 8, 8), classes=10, width=width, norm=norm).options


def message(error: type[StrongTicketError], spec: str, **asked: Any) -> str:
    with pytest.raises(error) as caught:
        options(spec, **asked)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "asked", "given"),
    [
        ("takes_all", {}, {"num_classes": 10, "input_shape": (1, 8, 8), "width": 1.0, "norm": "none"}),
        (
            "takes_all",
            {"width": 2.0, "norm": "batch"},
            {"num_classes": 10, "input_shape": (1, 8, 8), "width": 2.0, "norm": "batch"},
        ),
        ("takes_classes", {}, {"num_classes": 10}),
        ("takes_nothing", {}, {}),
        ("takes_options", {}, {"num_classes": 10}),
        ("takes_options", {"width": 0.5}, {"num_classes": 10, "width": 0.5}),
        ("Net", {}, {"num_classes": 10}),
    ],
)
def test_a_factory_gets_what_its_signature_names(name: str, asked: dict[str, Any], given: dict[str, Any]) -> None:
    assert options(f"own_nets:{name}", **asked) == given


def test_a_module_in_a_package_of_the_working_directory_is_found() -> None:
    assert options("own_package.nets:takes_classes") == {"num_classes": 10}


def test_an_installed_package_is_found() -> None:
    assert isinstance(call_factory("torch.nn:Identity", (1, 8, 8), classes=10, width=None, norm=None), nn.Identity)


def test_a_factory_may_import_from_the_working_directory_when_it_is_called() -> None:
    model = call_factory("own_nets:imports_late", (1, 8, 8), classes=10, width=None, norm=None)
    assert isinstance(model, nn.Identity)


@pytest.mark.parametrize("spec", ["own_nets:takes_nothing", "own_nets:raises", "broken_body:f"])
def test_the_import_path_is_put_back(spec: str) -> None:
    before = list(sys.path)
    try:
        options(spec)
    except ModelError:
        assert spec != "own_nets:takes_nothing"
    assert sys.path == before


@pytest.mark.parametrize("option", ["width", "norm"])
def test_an_option_that_the_factory_does_not_take_is_refused(option: str) -> None:
    text = message(ConfigError, "own_nets:takes_classes", **{option: 2.0 if option == "width" else "batch"})
    assert f"own_nets:takes_classes has no {option}" in text


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("own_netz:f", ["no module 'own_netz'"]),
        ("own_package.netz:f", ["no module 'own_package.netz'"]),
        ("not_there.nets:f", ["no module 'not_there'"]),
        ("own_nets:take_all", ["own_nets has no 'take_all'", "takes_all"]),
        ("own_nets:constant", ["int, not a function", "'constant'"]),
        ("own_nets:", ["package.module:factory"]),
        (":f", ["package.module:factory"]),
        ("own nets:f", ["package.module:factory"]),
        ("own_nets:returns_text", ["returned a str", "torch.nn.Module"]),
        ("own_nets:raises", ["own_nets:raises()", "KeyError", "no such layer"]),
        ("own_nets:leaves", ["SystemExit", "3"]),
        ("broken_syntax:f", ["importing broken_syntax", "SyntaxError", "line 1"]),
        ("broken_import:f", ["importing broken_import", "ModuleNotFoundError", "a_module_that_is_not_there"]),
        ("broken_body:f", ["importing broken_body", "ZeroDivisionError", "division by zero"]),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(spec: str, words: list[str]) -> None:
    text = message(ModelError, spec)
    assert spec.partition(":")[0] in text
    for word in words:
        assert word in text
