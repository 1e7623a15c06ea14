"""The ledger of a sweep: every run is somebody's, and nobody's twice, whoever dies or is late."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from strongticket.cli.config import load_config
from strongticket.cli.sweep.ledger import Claim, Ledger
from strongticket.cli.sweep.plan import Interval, Slot, Sweep
from strongticket.cli.sweep.storage import default_storage, open_storage
from strongticket.errors import ConfigError, MissingExtraError, SearchError

optuna = pytest.importorskip("optuna")

PATIENCE = 0.3
Workers = Callable[..., Ledger]


def grid(*densities: float, seeds: tuple[int, ...] = (0,)) -> Sweep:
    return Sweep("mine", load_config(), {"density": densities}, {}, 1, "tpe", seeds)


def samples(trials: int, *, sampler: str = "tpe", seeds: tuple[int, ...] = (0,)) -> Sweep:
    return Sweep("mine", load_config(), {}, {"density": Interval(0.1, 0.9)}, trials, sampler, seeds)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Workers]:
    """Return a function that gives workers, each on a machine of its own, around one storage."""
    storage = optuna.storages.InMemoryStorage()
    with ExitStack() as stack:

        def start(sweep: Sweep, *, host: str | None = None, patience: float = PATIENCE) -> Ledger:
            ledger = Ledger(sweep, storage, tmp_path, patience=patience)
            ledger.host = host or f"machine {ledger._worker}"
            return stack.enter_context(ledger)

        yield start


def take(ledger: Ledger) -> Claim:
    claim = ledger.claim()
    assert claim is not None
    return claim


def taken_after_patience(ledger: Ledger) -> Claim | None:
    """Return what can be taken from workers of whom nothing is heard."""
    assert ledger.claim() is None  # looked, and heard of them for the first time
    time.sleep(1.2 * PATIENCE)
    return ledger.claim()


def accuracy(slot: Slot) -> float:
    return 0.5 + slot.point / 100 + slot.seed / 1000


def finish(ledger: Ledger, claim: Claim) -> bool:
    return ledger.finish(claim, accuracy(claim.slot), {"bits_per_weight": 1.0})


# Taking and writing down


def test_runs_are_taken_in_the_order_of_the_sweep_each_by_one(worker: Workers) -> None:
    sweep = grid(0.1, 0.5, seeds=(3, 1))
    first, second = worker(sweep), worker(sweep)
    claims = [take(first), take(second), take(worker(sweep)), take(worker(sweep))]
    assert [claim.slot for claim in claims] == [Slot(0, 3), Slot(0, 1), Slot(1, 3), Slot(1, 1)]
    assert [claim.values["density"] for claim in claims] == [0.1, 0.1, 0.5, 0.5]
    assert worker(sweep).claim() is None


def test_a_result_is_read_by_everybody(worker: Workers) -> None:
    sweep = grid(0.1, 0.5)
    ledger = worker(sweep)
    claim = take(ledger)
    assert ledger.finish(claim, 0.75, {"epoch": 3})
    (done,) = worker(sweep).done().values()
    assert (done.slot, done.values, done.accuracy, done.error) == (Slot(0, 0), {"density": 0.1}, 0.75, None)
    assert done.facts == {"epoch": 3}
    assert take(ledger).slot == Slot(1, 0)


def test_a_failure_is_final_until_it_is_tried_again(worker: Workers) -> None:
    sweep = grid(0.1)
    ledger = worker(sweep)
    assert ledger.fail(take(ledger), "the loss became nan")
    (done,) = ledger.done().values()
    assert (done.accuracy, done.error) == (None, "the loss became nan")
    assert worker(sweep).claim() is None
    ledger.retry()
    assert ledger.done() == {}
    assert finish(ledger, take(worker(sweep)))
    assert [done.accuracy for done in ledger.done().values()] == [accuracy(Slot(0, 0))]


def test_what_is_given_back_is_taken_by_the_next(worker: Workers) -> None:
    sweep = grid(0.1)
    ledger = worker(sweep)
    claim = take(ledger)
    ledger.give_back(claim)
    assert take(worker(sweep)).slot == claim.slot
    assert ledger.lost() == 0


def test_optuna_sees_ordinary_trials(worker: Workers, tmp_path: Path) -> None:
    sweep = Sweep("mine", load_config(), {"where": (["*"], ["conv*"])}, {"density": Interval(0.1, 0.9)}, 1, "tpe", (7,))
    storage = optuna.storages.InMemoryStorage()
    with Ledger(sweep, storage, tmp_path, patience=PATIENCE) as ledger:
        for _ in range(2):
            finish(ledger, take(ledger))
    study = optuna.load_study(study_name=sweep.study, storage=storage)
    assert [trial.value for trial in study.trials] == [accuracy(Slot(0, 7)), accuracy(Slot(1, 7))]
    assert study.best_trial.params["where"] == '["conv*"]'
    assert study.best_trial.params["seed"] == 7
    assert 0.1 <= study.best_trial.params["density"] <= 0.9


# Workers that die


def test_a_run_of_a_silent_worker_is_taken_after_a_while(worker: Workers) -> None:
    sweep = grid(0.1)
    claim, other = take(worker(sweep)), worker(sweep)
    again = taken_after_patience(other)
    assert again is not None
    assert again.slot == claim.slot
    assert other.lost() == 1


def test_a_run_of_a_worker_that_gives_signs_of_life_is_not_taken(worker: Workers) -> None:
    sweep = grid(0.1)
    ledger, other = worker(sweep), worker(sweep)
    with ledger.pulse(take(ledger)) as pulse:
        for _ in range(3):
            assert taken_after_patience(other) is None
        assert not pulse.lost.is_set()
    assert other.lost() == 0


def test_a_worker_that_was_taken_for_dead_hears_so_and_its_result_does_not_count(worker: Workers) -> None:
    sweep = grid(0.1)
    ledger, other = worker(sweep), worker(sweep)
    claim = take(ledger)
    again = taken_after_patience(other)
    assert again is not None
    with ledger.pulse(claim) as pulse:
        assert pulse.lost.wait(10)
    assert not ledger.finish(claim, 0.1, {})
    assert not ledger.fail(claim, "late")
    assert finish(other, again)
    assert [done.accuracy for done in ledger.done().values()] == [accuracy(again.slot)]


def test_a_worker_that_begins_anew_takes_its_own_run_at_once(worker: Workers) -> None:
    ledger = worker(grid(0.1))
    claim = take(ledger)  # and whatever happened then, it asks again
    assert take(ledger).slot == claim.slot


def test_a_run_that_kills_its_workers_is_given_up(worker: Workers) -> None:
    ledger = worker(grid(0.1, 0.5))
    for _ in range(50):
        assert take(ledger).slot == Slot(0, 0)
    assert take(ledger).slot == Slot(1, 0)
    (done,) = ledger.done().values()
    assert done.slot == Slot(0, 0)
    assert "died 50 times" in str(done.error)


def test_a_run_that_comes_further_each_time_is_not_given_up(worker: Workers) -> None:
    ledger = worker(grid(0.1))
    for epoch in range(1, 55):
        claim = take(ledger)
        with ledger.pulse(claim) as pulse:
            pulse.epoch = epoch
            while ledger._storage.get_trial(claim.trial_id).user_attrs["beat"][1] < epoch:
                time.sleep(0.001)
    assert take(ledger).slot == Slot(0, 0)


# Entries that cross each other


def test_of_two_entries_for_one_run_the_first_counts(worker: Workers) -> None:
    sweep = grid(0.1)
    first, second = worker(sweep), worker(sweep)
    values = {"density": 0.1}
    assert first._entered(Slot(0, 0), values) is not None
    assert second._entered(Slot(0, 0), values) is None
    assert second.claim() is None


def test_a_point_has_the_values_of_its_first_entry(worker: Workers) -> None:
    sweep = samples(1, seeds=(0, 1))
    first, second = worker(sweep), worker(sweep)
    claim = first._entered(Slot(0, 0), {"density": 0.25})
    assert claim is not None
    assert second._entered(Slot(0, 1), {"density": 0.75}) is None  # drawn before the other entry could be read
    assert take(second).values == {"density": 0.25}
    first.give_back(claim)
    assert take(worker(sweep)).values == {"density": 0.25}


def test_an_entry_whose_answer_was_lost_blocks_nothing(worker: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = worker(grid(0.1))
    add, failures = ledger._study.add_trial, [True]

    def unheard(trial: object) -> None:
        add(trial)
        if failures and failures.pop():
            raise optuna.exceptions.StorageInternalError("connection lost")

    monkeypatch.setattr(ledger._study, "add_trial", unheard)
    assert finish(ledger, take(ledger))
    assert ledger.claim() is None
    assert [trial.state.name for trial in ledger._study.trials] == ["COMPLETE", "FAIL"]
    assert ledger.lost() == 0


def test_a_result_whose_answer_was_lost_is_written_once(worker: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = worker(grid(0.1))
    claim, tell, failures = take(ledger), ledger._study.tell, [True]

    def unheard(*arguments: object, **options: object) -> None:
        tell(*arguments, **options)
        if failures and failures.pop():
            raise optuna.exceptions.StorageInternalError("connection lost")

    monkeypatch.setattr(ledger._study, "tell", unheard)
    assert finish(ledger, claim)
    assert len(ledger.done()) == 1


def test_a_storage_that_stays_away_is_an_error_that_says_how_to_go_on(
    worker: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = worker(grid(0.1))

    def away(**_: object) -> None:
        raise optuna.exceptions.StorageInternalError("no route to host")

    monkeypatch.setattr(ledger._study, "get_trials", away)
    with pytest.raises(SearchError, match=r"cannot be reached \(no route to host\).*run the same command"):
        ledger.claim()


@pytest.mark.parametrize(
    "sweep", [grid(0.1, 0.3, 0.5, seeds=(0, 1, 2)), samples(3, seeds=(0, 1, 2))], ids=["grid", "tpe"]
)
@pytest.mark.parametrize("kind", ["journal", pytest.param("sqlite", marks=pytest.mark.slow)])
def test_workers_that_race_and_die_lose_nothing_and_do_nothing_twice(sweep: Sweep, kind: str, tmp_path: Path) -> None:
    """Threads stand for machines: each has its own connection, and no lock holds between them."""
    address = f"journal:{tmp_path / 'trials.log'}" if kind == "journal" else f"sqlite:///{tmp_path / 'trials.db'}"
    open_storage(address)
    under_way: set[Slot] = set()
    done: list[tuple[Slot, float]] = []
    problems: list[str] = []

    def live(ledger: Ledger, *, dies: bool) -> bool:
        """Work until all is done, or until the first run if this worker ``dies`` over it, unheard of from then on."""
        while True:
            claim = ledger.claim()
            if claim is None:
                if len(ledger.done()) == len(list(sweep.slots())):
                    return True
                time.sleep(0.05)
            elif dies:
                return False
            else:
                with ledger.pulse(claim):
                    if claim.slot in under_way:
                        problems.append(f"{claim.slot} is done by two")
                    under_way.add(claim.slot)
                    time.sleep(0.02)
                    under_way.discard(claim.slot)
                    if ledger.finish(claim, accuracy(claim.slot), {}):
                        done.append((claim.slot, claim.values["density"]))

    def machine(number: int) -> None:
        try:
            for dies in (number < 3, False):
                ledger = Ledger(sweep, open_storage(address), tmp_path, patience=2.0)
                ledger.host = f"machine {number}"
                with ledger:
                    if live(ledger, dies=dies):
                        return
        except BaseException as error:
            problems.append(repr(error))

    threads = [threading.Thread(target=machine, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert sorted(slot for slot, _ in done) == list(sweep.slots())
    ledger = Ledger(sweep, open_storage(address), tmp_path, patience=2.0)
    results = ledger.done()
    assert {slot: found.accuracy for slot, found in results.items()} == {slot: accuracy(slot) for slot in sweep.slots()}
    assert 1 <= ledger.lost() <= 3  # one that dies late may find nothing left to die over
    assert all(results[slot].values["density"] == density for slot, density in done)
    for point in range(sweep.points):
        assert len({density for slot, density in done if slot.point == point}) == 1


# Sampling


def drawn(worker: Workers, sweep: Sweep, *, good: Callable[[float], float]) -> list[float]:
    """Let one worker do a sweep, and return the densities in the order in which they were drawn."""
    ledger, densities = worker(sweep), []
    while (claim := ledger.claim()) is not None:
        densities.append(claim.values["density"])
        ledger.finish(claim, good(claim.values["density"]), {})
    return densities


def test_random_points_do_not_depend_on_what_was_found(worker: Workers, tmp_path: Path) -> None:
    sweep = samples(8, sampler="random")
    densities = drawn(worker, sweep, good=lambda density: density)
    assert len(set(densities)) == 8
    assert all(0.1 <= density <= 0.9 for density in densities)
    with Ledger(sweep, optuna.storages.InMemoryStorage(), tmp_path, patience=PATIENCE) as other:
        assert drawn(lambda _: other, sweep, good=lambda density: -density) == densities


def test_tpe_draws_where_it_was_good(worker: Workers) -> None:
    densities = drawn(worker, samples(40), good=lambda density: 1 - abs(density - 0.3))
    early, late = densities[:10], densities[-10:]
    assert sum(abs(density - 0.3) for density in late) < sum(abs(density - 0.3) for density in early) / 2


def test_every_cell_of_a_grid_learns_from_its_own_points(tmp_path: Path) -> None:
    sweep = Sweep(
        "mine", load_config(), {"bn": ("frozen", "learned")}, {"density": Interval(0.1, 0.9)}, 15, "tpe", (0,)
    )
    found = []
    for sign in (1, -1):
        with Ledger(sweep, optuna.storages.InMemoryStorage(), tmp_path, patience=PATIENCE) as ledger:
            densities: dict[str, list[float]] = {"frozen": [], "learned": []}
            while (claim := ledger.claim()) is not None:
                cell, density = claim.values["bn"], claim.values["density"]
                densities[cell].append(density)
                ledger.finish(claim, density if cell == "frozen" else sign * density, {})
            found.append(densities)
    assert found[0]["frozen"] == found[1]["frozen"]
    assert found[0]["learned"] != found[1]["learned"]
    assert [len(densities) for densities in found[0].values()] == [15, 15]


def test_a_sequence_of_samples_is_repeated_exactly(worker: Workers, tmp_path: Path) -> None:
    sweep = samples(15)
    with Ledger(sweep, optuna.storages.InMemoryStorage(), tmp_path, patience=PATIENCE) as other:
        again = drawn(lambda _: other, sweep, good=lambda density: -density)
    assert drawn(worker, sweep, good=lambda density: -density) == again


def test_the_seeds_of_a_point_are_measured_at_the_same_values(worker: Workers) -> None:
    densities = drawn(worker, samples(3, seeds=(0, 1, 2)), good=lambda density: density)
    assert len(set(densities)) == 3
    assert all(len(set(densities[index : index + 3])) == 1 for index in (0, 3, 6))


# Storages


@pytest.mark.parametrize(
    "address", ["mysql://a/b", "sqlite://", "sqlite:///", "sqlite:///:memory:", "journal:", "x", ""]
)
def test_a_storage_of_another_kind_is_refused_with_those_there_are(address: str) -> None:
    with pytest.raises(ConfigError, match=r"expected sqlite:///FILE, journal:FILE or postgresql://"):
        open_storage(address)


def test_a_storage_that_cannot_be_opened_is_one_line_without_its_password(tmp_path: Path) -> None:
    for address in (f"sqlite:///{tmp_path}/no/where.db", f"journal:{tmp_path}/no/where.log"):
        with pytest.raises(ConfigError, match="cannot be used: ") as caught:
            open_storage(address)
        assert "\n" not in str(caught.value)
    pytest.importorskip("psycopg")
    with pytest.raises(ConfigError, match="cannot be used: ") as caught:
        open_storage("postgresql://someone:secret@127.0.0.1:1/trials")
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_database_driver_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'strongticket\[sweep\]'"):
        open_storage("postgresql://127.0.0.1:1/trials")


def test_braces_and_spaces_in_a_path_mean_themselves(tmp_path: Path) -> None:
    folder = tmp_path / "a {b} c%20"
    folder.mkdir()
    open_storage(default_storage(folder))
    open_storage(f"sqlite:///{tmp_path}/{{b}}.db")
    assert [file.name for file in folder.iterdir()] == ["sweep.db"]
    assert (tmp_path / "{b}.db").exists()
