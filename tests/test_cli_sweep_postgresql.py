"""A sweep on a real PostgreSQL server: many machines, one storage."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_kills import ENVIRONMENT, TEXT, check_nothing_lost, command, kill_one, rows, said, start, trials

from strongticket.cli import main
from strongticket.cli.config import load_config
from strongticket.cli.sweep.ledger import Ledger
from strongticket.cli.sweep.plan import Slot, Sweep
from strongticket.cli.sweep.storage import open_storage

pytest.importorskip("optuna")
pytest.importorskip("psycopg")

_PASSWORD = "s{e}cret"


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs; skips where there is none."""
    places = [Path(found).resolve().parent for found in [shutil.which("initdb")] if found]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for place in places:
        if (place / "initdb").exists() and (place / "postgres").exists():
            return place
    pytest.skip("no PostgreSQL server is installed (on Debian: apt-get install postgresql)")


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start a PostgreSQL server of our own, and return its address without a database."""
    place = binaries()
    # It refuses to run as root, and another user cannot look into the folders of pytest.
    pwd = pytest.importorskip("pwd")
    root, nobody = os.geteuid() == 0, pwd.getpwnam("nobody")
    folder = Path(tempfile.mkdtemp(prefix="strongticket-postgresql-"))
    try:
        if root:
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []} if root else {}
        options = {**user, "cwd": folder, "env": {"PATH": os.environ["PATH"], "LC_ALL": "C"}}
        password = folder / "password"
        password.write_text(_PASSWORD)
        password.chmod(0o644)
        subprocess.run(
            [
                *(place / "initdb", "-D", folder / "data", "-U", "tester", "-A", "scram-sha-256"),
                *("--pwfile", password, "--no-sync", "-E", "UTF8"),
            ],
            check=True,
            capture_output=True,
            **options,
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [place / "postgres", "-D", folder / "data", "-p", str(port), "-h", "127.0.0.1", "-k", "", "-F"],
                stdout=log,
                stderr=log,
                **options,
            )
        try:
            address = f"postgresql://tester:{_PASSWORD}@127.0.0.1:{port}"
            wait_for(address, process, folder / "log")
            yield address
        finally:
            process.send_signal(signal.SIGINT)  # at once, whoever is connected
            process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def wait_for(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    import psycopg

    until = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(f"{address}/postgres", connect_timeout=5).close()
            return
        except psycopg.OperationalError:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.1)


@pytest.fixture
def database(server: str, request: pytest.FixtureRequest) -> str:
    """Return the address of an empty database."""
    import psycopg

    name = f"trials_{abs(hash(request.node.name))}"
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")  # type: ignore[arg-type]
    return f"{server}/{name}"


@pytest.mark.slow
def test_machines_that_race_on_an_empty_database_do_each_run_once(database: str, tmp_path: Path) -> None:
    sweep = Sweep("mine", load_config(), {"density": (0.1, 0.5, 0.9)}, {}, 1, "tpe", (0, 1, 2, 3))
    done: list[Slot] = []
    problems: list[str] = []

    def machine(number: int) -> None:
        try:
            with Ledger(sweep, open_storage(database), tmp_path, patience=60.0) as ledger:
                ledger.host = f"machine {number}"
                while (claim := ledger.claim()) is not None:
                    assert ledger.finish(claim, 0.5, {})
                    done.append(claim.slot)
        except BaseException as error:
            problems.append(repr(error))

    threads = [threading.Thread(target=machine, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sorted(done) == list(sweep.slots())
    complete = [trial for trial in trials(open_storage(database)) if trial.state.name == "COMPLETE"]
    assert len(complete) == 12


def test_a_sweep_runs_on_a_server_and_never_says_its_password(
    database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = tmp_path / "mine.yaml", tmp_path / "out"
    file.write_text("base: {model: mlp, width: 0.1x, epochs: 1}\ngrid: {density: [0.3, 0.6]}\n")
    assert main(["sweep", str(file), "--out", str(out), "--storage", database]) == 0
    assert main(["sweep", str(file), "--out", str(out), "--storage", database, "--json"]) == 0
    assert [row["density"] for row in rows(out)] == ["0.3", "0.6"]
    assert not (out / "sweep.db").exists()
    captured = capsys.readouterr()
    assert _PASSWORD not in captured.out + captured.err
    assert "tester:***@127.0.0.1" in captured.out


def test_a_database_that_is_not_there_is_one_line(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("grid: {density: [0.3, 0.6]}\n")
    assert main(["sweep", str(file), "--out", str(tmp_path / "out"), "--storage", f"{server}/nothing"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert 'database "nothing" does not exist' in line
    assert _PASSWORD not in line


@pytest.mark.slow
def test_four_workers_on_a_server_that_are_killed_lose_nothing(database: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(TEXT)
    subprocess.run(
        command(tmp_path / "mine.yaml", tmp_path / "reference"), env=ENVIRONMENT, check=True, capture_output=True
    )
    out = tmp_path / "out"
    sweeping = start(tmp_path / "mine.yaml", out, "--workers", "4", "--storage", database)
    killed: set[int] = set()
    hit = [run for _ in range(6) if (run := kill_one(out, sweeping, killed)) is not None]
    assert sweeping.wait() == 0, said(out)
    assert len(hit) >= 4
    found = trials(open_storage(database))
    assert len(hit) - 1 <= sum(trial.user_attrs.get("ended") == "lost" for trial in found) <= len(hit)
    check_nothing_lost(out, tmp_path / "reference", open_storage(database))
