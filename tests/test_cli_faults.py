"""What can go wrong around a run: full disks, other processes, data that fail. One clear line, and nothing is lost."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_runs import TINY, image_folder, refusal, search
from forks import ended, fork, forked
from PIL import Image

from strongticket.cli import main
from strongticket.cli.report_file import add_to_report
from strongticket.cli.run_folder import RunFolder
from strongticket.data import decoding
from strongticket.search.checkpoint import has_checkpoint

FILES = ("ticket.safetensors", "ticket-last.safetensors", "report.json", "config.yaml")
EVERY_EPOCH = (*TINY, "--checkpoint-epochs", "1")


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run; no test changes it."""
    return search(tmp_path_factory.mktemp("faults") / "run", *EVERY_EPOCH)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err.splitlines()[-1]


def goes_on(run: Path) -> str:
    return f"what was done is kept and goes on with: strongticket search --resume --out {run}"


def after_epoch(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], object]) -> None:
    """Do something when the metrics of an epoch are written."""
    original = RunFolder.write_metrics

    def write(run: RunFolder, history: Any) -> None:
        history = list(history)
        original(run, history)
        if len(history) == number:
            action()

    monkeypatch.setattr(RunFolder, "write_metrics", write)


# No room


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch, name: str, *, after: int = 0) -> Iterator[None]:
    """Let no more than ``after`` files of this name be written to the end."""
    original, count = os.fsync, 0

    def fsync(descriptor: int) -> None:
        nonlocal count
        if Path(f"/proc/self/fd/{descriptor}").readlink().name.startswith(f".{name}"):
            count += 1
            if count > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        yield


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to know a file by its descriptor")
@pytest.mark.parametrize(
    ("name", "after", "kept"),
    [
        ("config.yaml", 0, False),
        ("environment.json", 0, False),
        ("search-", 0, False),
        ("metrics.jsonl", 1, True),
        ("search-", 1, True),
        ("ticket-last", 0, True),
        ("ticket.safetensors", 0, True),
        ("report.json", 0, True),
    ],
)
def test_a_full_disk_is_one_line_and_nothing_is_lost(
    name: str,
    after: int,
    kept: bool,
    done: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    with full_disk(monkeypatch, name, after=after):
        assert main(["search", *EVERY_EPOCH, "--out", str(run)]) == 1
    line = last_line(capsys)
    assert line.startswith("error: ")
    assert "no space left on device" in line.lower()
    assert str(run) in line
    if kept:
        assert line.endswith(goes_on(run))
        assert not [entry for entry in run.rglob(".*")]
        assert main(["search", "--resume", "--out", str(run)]) == 0
    else:
        assert list(tmp_path.iterdir()) == []
        search(run, *EVERY_EPOCH)
    assert contents(run) == contents(done)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mount a file system in memory, of the size that it is given, or change its options."""
    place = tmp_path / "mounted"
    place.mkdir()
    mounted = False

    def change(options: str) -> Path:
        nonlocal mounted
        options = f"remount,{options}" if mounted else options
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        found = subprocess.run(command, capture_output=True, text=True) if shutil.which("mount") else None
        if found is None or found.returncode:
            pytest.skip(f"cannot mount here: {found.stderr.strip() if found else 'there is no mount'}")
        mounted = True
        return place

    yield change
    if mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full_is_one_line_and_nothing_is_lost(
    mount: Callable[[str], Path], done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = mount("size=180k") / "run"  # as much as two checkpoints and a half
    assert main(["search", *EVERY_EPOCH, "--epochs", "4", "--out", str(run)]) == 1
    line = last_line(capsys)
    assert "No space left on device" in line
    assert line.endswith(goes_on(run))
    assert has_checkpoint(run / "checkpoint")
    mount("size=10m")
    assert main(["search", "--resume", "--out", str(run)]) == 0
    other = search(run.parent / "other", *EVERY_EPOCH, "--epochs", "4")
    assert contents(run) == contents(other)


def test_where_nothing_may_be_written_it_is_one_line(
    mount: Callable[[str], Path], done: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = mount("size=10m")
    shutil.copytree(done, place / "done")
    (place / "begun").mkdir()
    shutil.copy(done / "config.yaml", place / "begun")
    (place / "empty").mkdir()
    mount("ro")
    for arguments in (["--out", place / "new"], ["--out", place / "empty"], ["--out", place / "begun", "--resume"]):
        line = refusal(capsys, "search", *TINY, *arguments)
        assert "cannot be written: Read-only file system; make room or choose another --out" in line
    assert main(["evaluate", str(place / "done"), "--controls", "shuffled", "--seeds", "0"]) == 1
    assert last_line(capsys) == f"error: {place / 'done' / 'report.json'}: Read-only file system"


# Other processes


@contextmanager
def running(run: Path, folder: Path) -> Iterator[int]:
    """Run a search in a process of its own, of this id, that waits after its first epoch until the block has ended."""
    ready, go = folder / "ready", folder / "go"

    def wait() -> None:
        ready.touch()
        while not go.exists():
            time.sleep(0.01)

    def life() -> int:
        with pytest.MonkeyPatch.context() as patch:
            after_epoch(patch, 1, wait)
            return main(["search", *EVERY_EPOCH, "--out", str(run)])

    child, deadline = fork(life), time.monotonic() + 60
    try:
        while not ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield child
    finally:
        go.touch()
        assert ended(child) == 0


def test_a_second_process_does_not_write_the_folder_of_a_run(
    done: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, helper = tmp_path / "run", tmp_path / "helper"
    helper.mkdir()
    with running(run, helper) as process:
        before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
        for arguments in ([*EVERY_EPOCH], [*TINY, "--seed", "5"], ["--resume"]):
            line = refusal(capsys, "search", *arguments, "--out", run)
            assert f"the run in {run} is being written by process {process} on " in line
            assert line.endswith("; wait until that has ended, or choose another --out\n")
        assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before
    assert contents(run) == contents(done)


def test_of_two_processes_that_begin_at_once_the_second_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Both saw an empty folder; while this one read its data the other began.
    run, original = tmp_path / "run", RunFolder.check_free
    monkeypatch.setattr(RunFolder, "check_free", lambda folder: None if folder.path.exists() else original(folder))
    run.mkdir()
    (run / "config.yaml").write_text("model: conv2\n")
    line = refusal(capsys, "search", *TINY, "--out", run)
    assert f"{run} holds another run" in line
    assert {entry.name: entry.read_text() for entry in run.iterdir()} == {"config.yaml": "model: conv2\n"}


def test_evaluations_in_several_processes_all_stand_in_the_report(done: Path, tmp_path: Path) -> None:
    report = json.loads((done / "report.json").read_text())
    template = report["controls"].pop("random")
    report["controls"] = {}
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report))

    def evaluate_twenty(process: int) -> None:
        for number in range(20):
            add_to_report(file, {**report, "controls": {f"{process}-{number}": template}})

    def both() -> None:
        child = os.fork()
        evaluate_twenty(int(child == 0))
        if child == 0:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    assert forked(both) == 0
    found = json.loads(file.read_text())
    assert set(found["controls"]) == {f"{process}-{number}" for process in (0, 1) for number in range(20)}
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.json"]


# Damage and divergence


def test_a_damaged_newest_checkpoint_is_said_and_the_one_before_goes_on(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        after_epoch(patch, 2, lambda: signal.raise_signal(signal.SIGTERM))
        assert main(["search", *EVERY_EPOCH, "--out", str(run)]) == 143
    older, newer = sorted((run / "checkpoint").iterdir())
    data = bytearray(newer.read_bytes())
    data[-100] ^= 1
    newer.write_bytes(data)
    capsys.readouterr()
    assert main(["search", "--resume", "--out", str(run)]) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if "is damaged" in line]
    assert said == [
        f"the checkpoint {newer} is damaged (its checksum is not the one it was written with); "
        f"going on from the one before, {older.name}"
    ]
    assert contents(run) == contents(done)


def test_if_all_checkpoints_are_damaged_nothing_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        after_epoch(patch, 2, lambda: signal.raise_signal(signal.SIGTERM))
        assert main(["search", *EVERY_EPOCH, "--out", str(run)]) == 143
    for file in (run / "checkpoint").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    before = {file: file.read_bytes() for file in run.rglob("*") if file.name != "environment.json" and file.is_file()}
    capsys.readouterr()
    assert main(["search", "--resume", "--out", str(run)]) == 1
    line = last_line(capsys)
    assert line.count("is damaged") == 2
    assert "nothing was begun anew" in line
    after = {file: file.read_bytes() for file in run.rglob("*") if file.name != "environment.json" and file.is_file()}
    assert after == before


def test_a_loss_that_becomes_nan_is_said_with_its_step_and_keeps_the_last_good_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exploding_network.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Exploding(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.register_buffer('steps', torch.zeros((), dtype=torch.int64))\n"
        "    def forward(self, x):\n"
        "        if self.training and x.shape[0] > 2:\n"  # not when it is tried out
        "            self.steps += 1\n"
        "        return x * float('nan') if self.steps == 14 else x\n"
        "def make():\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10, bias=False), Exploding())\n"
    )
    # 1293 images in batches of 128 are 10 steps an epoch.
    assert main(["search", "--model", "exploding_network:make", "--epochs", "3", "--out", "run"]) == 1
    line = last_line(capsys)
    assert "the loss became nan in epoch 2 at step 4; lower the learning rate, add warm-up epochs, or use" in line
    assert line.endswith("the last good checkpoint is kept in run/checkpoint")
    assert has_checkpoint(Path("run/checkpoint"))


def test_figures_that_are_not_finite_are_null_in_the_metrics(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.write_metrics([{"epoch": 1, "validation_loss": math.inf, "loss": math.nan, "density": 0.5, "rate": None}])
    expected = {"epoch": 1, "validation_loss": None, "loss": None, "density": 0.5, "rate": None}
    assert json.loads(run.metrics.read_text(), parse_constant=lambda name: pytest.fail(name)) == expected


# Data that fail


def streamed(tmp_path: Path, *arguments: str, workers: int = 0) -> list[str]:
    """Return the arguments of a search on an image folder that is read from disk all along."""
    if not (tmp_path / "data").exists():
        image_folder(tmp_path / "data" / "imagenet", count=12)
    options = ["--model", "mlp", "--width", "0.1x", "--data", "imagenet", "--data-dir", str(tmp_path / "data")]
    return ["search", *options, "--image-size", "8", "--batch-size", "4", "--workers", str(workers), *arguments]


def test_an_image_that_disappears_is_named_and_the_run_goes_on_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, lost = tmp_path / "run", tmp_path / "data" / "imagenet" / "train" / "cat" / "7.png"
    assert main([*streamed(tmp_path), "--epochs", "3", "--out", str(tmp_path / "whole")]) == 0
    content = lost.read_bytes()
    capsys.readouterr()
    with monkeypatch.context() as patch:
        after_epoch(patch, 1, lost.unlink)
        assert main([*streamed(tmp_path), "--epochs", "3", "--out", str(run)]) == 1
    line = last_line(capsys)
    assert f"error: cannot read the image {lost}: No such file or directory; repair or remove it" in line
    assert line.endswith(goes_on(run))
    lost.write_bytes(content)
    assert main(["search", "--resume", "--out", str(run)]) == 0
    assert contents(run) == contents(tmp_path / "whole")


def test_a_run_that_goes_on_with_other_data_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, lost = tmp_path / "run", tmp_path / "data" / "imagenet" / "train" / "cat" / "7.png"
    with monkeypatch.context() as patch:
        after_epoch(patch, 1, lost.unlink)
        assert main([*streamed(tmp_path), "--epochs", "3", "--out", str(run)]) == 1
    capsys.readouterr()
    assert main(["search", "--resume", "--out", str(run)]) == 0
    (said,) = (line for line in capsys.readouterr().err.splitlines() if "the data have changed" in line)
    assert "'train': 22, 'validation': 2, 'test': 24}" in said
    assert "'train': 21, 'validation': 2, 'test': 24}" in said


def test_an_image_that_disappears_may_be_left_out_when_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, lost = tmp_path / "run", tmp_path / "data" / "imagenet" / "train" / "cat" / "7.png"
    with monkeypatch.context() as patch:
        after_epoch(patch, 1, lambda: lost.write_bytes(b""))
        assert main([*streamed(tmp_path), "--epochs", "3", "--out", str(run)]) == 1
    assert main(["search", "--resume", "--skip-bad-images", "--out", str(run)]) == 0
    assert list(json.loads((run / "environment.json").read_text())["skipped_images"]["files"]) == [str(lost)]


@pytest.mark.parametrize("from_disk", [False, True])
def test_images_that_cannot_be_read_are_left_out_counted_and_named(
    from_disk: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, run = tmp_path / "data" / "imagenet", tmp_path / "run"
    arguments = [*streamed(tmp_path), "--epochs", "2"]
    if not from_disk:
        arguments[arguments.index("imagenet")] = f"imagefolder:{root}"
    bad = [root / "train" / "cat" / "3.png", root / "train" / "dog" / "0.png", root / "test" / "dog" / "11.png"]
    bad[0].write_bytes(b"")
    bad[1].write_bytes(bad[1].read_bytes()[:60])
    bad[2].write_text("no image")
    line = refusal_line(capsys, [*arguments, "--out", str(tmp_path / "refused")])
    assert "cannot read the image" in line
    assert "or use --skip-bad-images" in line
    assert main([*arguments, "--skip-bad-images", "--out", str(run)]) == 0
    captured = capsys.readouterr()
    skipped = json.loads((run / "environment.json").read_text())["skipped_images"]
    assert skipped["count"] == 3
    assert set(skipped["files"]) == {str(path) for path in bad}
    assert all(reason.startswith("cannot read the image ") for reason in skipped["files"].values())
    said = [line for line in captured.err.splitlines() if "left out" in line]
    assert said[-1].startswith("3 images that cannot be read are left out: ")
    assert all(str(path) in said[-1] for path in bad)
    assert json.loads((run / "report.json").read_text())["ticket"]["examples"] == 23
    assert main(["evaluate", str(run), "--controls", "shuffled", "--seeds", "0"]) == 0
    assert "cannot be read" in capsys.readouterr().err


def refusal_line(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    assert main(arguments) == 1
    return last_line(capsys)


def test_a_process_that_reads_images_and_dies_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments, main_process = [*streamed(tmp_path, workers=1), "--out", str(tmp_path / "run")], os.getpid()
    original = decoding.open_image

    def die(path: str) -> Image.Image:
        if os.getppid() != main_process:  # a reader of the fork below
            os.kill(os.getpid(), signal.SIGKILL)
        return original(path)

    monkeypatch.setattr("strongticket.data.streaming.open_image", die)
    assert forked(lambda: main(arguments)) == 1
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("error: a process that reads images died (")
    assert "use fewer --workers" in line
    assert not (tmp_path / "run").exists()
