"""What gets installed: all of the library, and nothing else at top level."""

from __future__ import annotations

import ast
import configparser
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Where the folders of the source tree stand once they are installed.
FOLDERS = {"strongticket": "strongticket", "cli": "strongticket/cli", "configs": "strongticket/configs"}


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", "utf-8")
    return parser


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def expected_files() -> set[str]:
    """Return the files of the source tree that belong into a wheel, as paths in it."""
    return {
        f"{installed}/{file.relative_to(ROOT / folder).as_posix()}"
        for folder, installed in FOLDERS.items()
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and file.suffix in {".c", ".py", ".typed", ".npy", ".yaml"}
    }


def test_every_package_folder_is_listed_and_nothing_else(setup_cfg: configparser.ConfigParser) -> None:
    listed = lines(setup_cfg["options"]["packages"])
    folders = {Path(file).parent.as_posix().replace("/", ".") for file in expected_files()}
    assert sorted(listed) == sorted(folders)


def test_every_package_folder_has_an_init() -> None:
    packages = {Path(file).parent.as_posix() for file in expected_files()}
    assert {f"{package}/__init__.py" for package in packages} <= expected_files()


def test_only_strongticket_is_at_top_level(setup_cfg: configparser.ConfigParser) -> None:
    assert {name.split(".")[0] for name in lines(setup_cfg["options"]["packages"])} == {"strongticket"}
    assert "py_modules" not in setup_cfg["options"]


def test_pyproject_holds_the_build_system_and_tools_only() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8")).keys() == {"build-system", "tool"}


def test_every_dependency_has_its_reason(setup_cfg: configparser.ConfigParser) -> None:
    required = lines(setup_cfg["options"]["install_requires"])
    for extra in setup_cfg["options.extras_require"].values():
        required += [line for line in lines(extra) if not line.startswith("strongticket[")]
    names = {line.split(";")[0].split(">")[0].strip() for line in required}
    text = (ROOT / "docs" / "dependencies.md").read_text("utf-8")
    explained = {line.split("`")[1] for line in text.splitlines() if line.startswith("| `")}
    assert explained == names


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build an sdist from a copy of the tree and a wheel from that sdist, with the setuptools that is here."""
    folder = tmp_path_factory.mktemp("build")
    tree = folder / "tree"
    skipped = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs", "data")
    tree.mkdir()
    for name in ("setup.cfg", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    for name in ("cli", "configs", "tests", "docs"):
        shutil.copytree(ROOT / name, tree / name, ignore=skipped)
    shutil.copytree(ROOT / "strongticket", tree / "strongticket", ignore=shutil.ignore_patterns("__pycache__"))
    sdist = build("sdist", tree, folder)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    return build("wheel", next((folder / "unpacked").iterdir()), folder)


def build(kind: str, tree: Path, target: Path) -> Path:
    program = f"from setuptools import build_meta as b; print('built', b.build_{kind}({str(target)!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=tree, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target / done.stdout.strip().splitlines()[-1].removeprefix("built ")


def test_the_wheel_holds_the_library_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    compiled = [name for name in names if name.startswith("strongticket/masks/_threshold.")]
    installed = {name for name in names if ".dist-info/" not in name} - set(compiled)
    assert installed == expected_files()
    assert len(compiled) == (shutil.which("cc") is not None or shutil.which("gcc") is not None)
    assert "strongticket/py.typed" in installed
    assert any(name.endswith("/LICENSE") for name in names)


def test_the_wheel_gives_a_working_command(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
        entry_points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "strongticket = strongticket.cli:main" in archive.read(entry_points).decode()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "strongticket.cli", "--version"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"strongticket {version()}\n", "")
    where = [sys.executable, "-c", "import strongticket.cli; print(strongticket.cli.__file__)"]
    assert subprocess.check_output(where, cwd=tmp_path, env=environment, text=True).startswith(str(tmp_path))


def version() -> str:
    """Return the version as it stands in the source."""
    for node in ast.parse((ROOT / "strongticket" / "__init__.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise AssertionError("strongticket/__init__.py has no __version__")
