"""``strongticket sweep``: many searches, a table of what they found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from strongticket.errors import ConfigError, MissingExtraError, SearchError
from strongticket.files import write_beside
from strongticket.search import choose_device
from strongticket.ticket import check_coder

from .. import console
from ..trackers import check_tracker
from .crew import crew
from .file import load_sweep
from .ledger import Ledger
from .plan import Sweep
from .plots import draw_plots
from .results import PointResult, as_dict, print_results, results_of, write_csv
from .storage import default_storage, open_storage, shown
from .worker import Job, work

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

_FILE = "sweep.yaml"


@click.command(name="sweep")
@click.argument("sweep", metavar="SWEEP.yaml", type=click.Path(path_type=Path))
@click.option(
    "--storage",
    metavar="URL",
    help="Where trials are kept: sqlite:///FILE, journal:FILE or postgresql://…; sweep.db in --out if not given.",
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes on this machine.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the sweep; runs/NAME-OF-THE-FILE if not given.")
@click.option(
    "--patience",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds without a sign of life after which a worker on another machine is taken for dead.",
)
@click.option("--retry", is_flag=True, help="Try runs that failed again.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to run.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Folder in which data sets lie.")
@click.option("--download", is_flag=True, default=None, help="Fetch the data set if it is missing.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as one JSON object.")
def command(
    sweep: Path,
    storage: str | None,
    workers: int,
    out: Path | None,
    patience: float,
    retry: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Search with every setting of a grid, or with sampled ones, over several seeds.

    SWEEP.yaml says what is varied: 'base:' (a config's name, its path, or options), 'grid:' {key: [values]}, 'sample:'
    {key: {low, high, log, step} or {choices}} with 'trials:' and 'sampler: tpe|random', and 'seeds: [0, 1, 2]'.
    Settings are compared by their accuracy on held-out images; the test split is not used. The same command goes on
    with a sweep that was stopped, and joins one that runs on another machine with the same file and storage. It ends
    with a table, results.csv and plots in --out.
    """
    asked = load_sweep(sweep, {key: value for key, value in flags.items() if value is not None})
    choose_device(asked.base.device)
    check_tracker(asked.base.track)
    check_coder(asked.base.coder)
    out = out or Path("runs") / asked.name
    _prepare(out)
    address = storage or default_storage(out)
    job = Job(asked, address, out, patience)
    trials = open_storage(address)
    ledger = Ledger(asked, trials, out, patience=patience)
    write_beside(out / _FILE, sweep.read_bytes())
    if retry:
        ledger.retry()
    _work_off(job, trials, ledger, workers)
    results = results_of(ledger.done())
    files = _written(asked, results, out)
    if as_json:
        values = {**as_dict(asked, results), "taken_up": ledger.lost(), "storage": shown(address)}
        console.print_json({**values, "out": str(out), "files": [str(file) for file in files]})
    else:
        print_results(asked, results, out)
        console.print_line(f"files: {', '.join(str(file) for file in files)}")
    if not any(result.accuracies for result in results):
        raise SearchError(f"no run of the sweep found a ticket; see the errors in {files[0]}")


def _prepare(out: Path) -> None:
    """Create the folder of a sweep; ConfigError if it cannot be, or is that of a single run."""
    if (out / "config.yaml").exists():
        raise ConfigError(f"{out} holds a run of 'strongticket search'; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {out} cannot be written: {error.strerror}; choose another --out") from None


def _work_off(job: Job, trials: BaseStorage, ledger: Ledger, workers: int) -> None:
    """Do what is still to be done; results so far are written down whatever ends it."""
    total = job.sweep.points * len(job.sweep.seeds)
    done = len(ledger.done())
    if done == total:
        return
    console.note(f"{total} runs, {done} done; trials in {shown(job.storage)}")
    try:
        if workers == 1:
            work(job, trials)
        else:
            crew(job, ledger, min(workers, total - done))
    except BaseException:
        if results := results_of(ledger.done()):
            write_csv(job.sweep, results, job.out)
        raise


def _written(sweep: Sweep, results: list[PointResult], out: Path) -> list[Path]:
    files = [write_csv(sweep, results, out)]
    try:
        files += draw_plots(sweep, results, out)
    except MissingExtraError as error:
        console.note(f"no plots: {error}")
    return files
