"""Processes that search together find what one process finds, and none of them is lost in silence."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from crews import codes, run_crew, start_crew
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from strongticket import SearchConfig, attach, extract, search
from strongticket.errors import ConfigError, DataError, InterruptedRunError, SearchError
from strongticket.search import EpochDone, Event, LostProcessError, Processes, StepDone
from strongticket.search.processes import joined, refuse_uneven
from strongticket.ticket import to_bytes

PLAIN = SearchConfig(epochs=3, learning_rate=0.3, device="cpu", precision="fp32")
EVERY_STEP = PLAIN.model_copy(update={"checkpoint_minutes": 0.0})
Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Forks that each use all processors are slow, and their sums are of other orders."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def images(*sizes: int) -> Batches:
    """Batches of noise; the class is the sign of the sum."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(size, 1, 6, 6, generator=generator) for size in sizes]
    return [(x, (x.sum((1, 2, 3)) > 0).long()) for x in inputs]


TRAIN, HELD_OUT = images(16, 16, 16, 16, 3), images(30, 3)


def network(*, seed: int = 1, dropout: float = 0.0) -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(128, 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Linear(16, 2),
    )
    attach(model, seed=seed, bn="learned")
    return model


def stated(folder: Path, rank: int) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((folder / f"stated-{rank}").read_text())
    return values


def state(folder: Path, rank: int, **values: Any) -> None:
    (folder / f"stated-{rank}").write_text(json.dumps(values))


# What one process finds.


def small_whole_numbers(*sizes: int) -> Batches:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randint(-2, 3, (size, 8), generator=generator).double(),
            torch.randint(0, 2, (size,), generator=generator),
        )
        for size in sizes
    ]


def linear_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of the wrong output minus the right one: no rounding where sizes are powers of two."""
    right = outputs.gather(1, targets[:, None])
    wrong = outputs.gather(1, 1 - targets[:, None])
    return (wrong - right).sum() / len(targets)


def found_exactly(folder: Path, rank: int) -> None:
    model = nn.Sequential(
        nn.Linear(8, 32, bias=False), nn.ReLU(), nn.Linear(32, 8, bias=False), nn.ReLU(), nn.Linear(8, 2, bias=False)
    ).double()
    attach(model, density=0.5, scope="global", seed=2)
    scores: dict[str, Tensor] = {}

    def listen(event: Event) -> None:
        if isinstance(event, EpochDone):
            scores.update({n: p.detach().clone() for n, p in model.named_parameters() if n.endswith("scores")})

    config = PLAIN.model_copy(
        update={"learning_rate": 0.125, "schedule": "constant", "momentum": 0.5, "nesterov": False, "weight_decay": 0.0}
    )
    result = search(model, small_whole_numbers(16, 16, 8), config, loss=linear_loss, on_event=listen)
    torch.save({"masks": result.ticket.masks, "scores": scores}, folder / f"found-{rank}")


@pytest.mark.parametrize("count", [2, 4])
def test_where_arithmetic_is_exact_masks_and_scores_are_those_of_one_process(tmp_path: Path, count: int) -> None:
    found_exactly(tmp_path, -1)
    alone = torch.load(tmp_path / "found--1")
    assert len(alone["scores"]) == 3
    run_crew(count, tmp_path, lambda rank: found_exactly(tmp_path, rank))
    for rank in range(count):
        found = torch.load(tmp_path / f"found-{rank}")
        for kind in ("masks", "scores"):
            assert all(torch.equal(value, found[kind][name]) for name, value in alone[kind].items()), (rank, kind)


def found(folder: Path, rank: int, train: Any = TRAIN, **options: Any) -> None:
    model = network()
    result = search(model, train, PLAIN, validation=HELD_OUT, **options)
    assert [type(module).__name__ for module in model] == [type(module).__name__ for module in network()]
    assert extract(model).masks.keys() == result.ticket.masks.keys()
    stored = {name: value.double().flatten().tolist() for name, value in result.last.stored.items()}
    masks = {name: mask.int().flatten().tolist() for name, mask in result.last.masks.items()}
    ticket = to_bytes(result.ticket).hex()
    state(folder, rank, history=result.history, stored=stored, masks=masks, ticket=ticket)


@pytest.mark.parametrize("count", [2, 4])
def test_an_ordinary_network_is_found_as_by_one_process(tmp_path: Path, count: int) -> None:
    found(tmp_path, -1)
    alone = stated(tmp_path, -1)
    run_crew(count, tmp_path, lambda rank: found(tmp_path, rank))
    assert len({stated(tmp_path, rank)["ticket"] for rank in range(count)}) == 1
    for rank in range(count):
        together = stated(tmp_path, rank)
        assert together["masks"] == alone["masks"]
        assert together["stored"].keys() == alone["stored"].keys()
        assert any(name.endswith("running_var") for name in alone["stored"])
        for name, values in alone["stored"].items():
            assert together["stored"][name] == pytest.approx(values, rel=1e-5, abs=1e-6)
        for before, now in zip(alone["history"], together["history"], strict=True):
            for key in ("loss", "validation_loss", "train_accuracy", "validation_accuracy", "learning_rate"):
                assert now[key] == pytest.approx(before[key], rel=1e-5)


def test_a_distributed_sampler_gives_shares_that_are_taken_as_they_are(tmp_path: Path) -> None:
    inputs, targets = (torch.cat(values) for values in zip(*images(16, 16, 16, 16), strict=True))
    data = TensorDataset(inputs, targets)

    def shared(rank: int) -> None:
        sampler = DistributedSampler(data, shuffle=False)  # process r has examples r, r + 2, …
        found(tmp_path, rank, DataLoader(data, batch_size=8, sampler=sampler))

    run_crew(2, tmp_path, shared)
    found(tmp_path, -1, DataLoader(data, batch_size=16))
    assert stated(tmp_path, 0)["masks"] == stated(tmp_path, -1)["masks"] == stated(tmp_path, 1)["masks"]


def test_a_loader_that_shuffles_from_the_global_generator_shuffles_alike_everywhere(tmp_path: Path) -> None:
    data = TensorDataset(*(torch.cat(values) for values in zip(*TRAIN, strict=True)))

    def shuffled(rank: int) -> None:
        torch.default_generator.manual_seed(7 + rank)
        found(tmp_path, rank, DataLoader(data, batch_size=16, shuffle=True))

    run_crew(2, tmp_path, shuffled)
    torch.default_generator.manual_seed(7)
    found(tmp_path, -1, DataLoader(data, batch_size=16, shuffle=True))
    assert stated(tmp_path, 0)["masks"] == stated(tmp_path, -1)["masks"] == stated(tmp_path, 1)["masks"]


class Counting(nn.Module):
    """A network of a stranger's: noise in each forward pass, and a state of its own that follows its inputs."""

    level: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("level", torch.zeros(()))
        self.layer, self.noise = nn.Linear(36, 2), list[float]()

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.level.lerp_(x.mean(), 0.5)
            self.noise.append(float(torch.rand(())))
        outputs: Tensor = self.layer(x.flatten(1) - self.level)
        return outputs


def test_noise_differs_between_processes_and_a_state_of_the_networks_own_does_not(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        model = Counting()
        attach(model)
        search(model, TRAIN, PLAIN)
        state(tmp_path, rank, noise=model.noise, level=float(model.level), after=float(torch.rand(())))

    run_crew(2, tmp_path, work)
    first, second = stated(tmp_path, 0), stated(tmp_path, 1)
    assert len(set(first["noise"]) | set(second["noise"])) == 30
    assert first["level"] == second["level"] != 0
    assert first["after"] == second["after"]


def test_what_one_says_all_hear(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        processes = Processes(None)
        assert (processes.rank, processes.count) == (rank, 3)
        assert processes.gathered({"é": [rank] * rank}) == [{"é": []}, {"é": [1]}, {"é": [2, 2]}]
        assert processes.told(b"from one" if rank == 1 else b"", by=1) == b"from one"
        assert processes.told(b"") == b""
        assert processes.table([rank, -rank]) == [[0, 0], [1, -1], [2, -2]]
        assert processes.agreed(lambda: rank) == rank

        def fail() -> None:
            if rank == 2:
                raise ConfigError("no room")

        with pytest.raises(SearchError if rank < 2 else ConfigError) as raised:
            processes.agreed(fail)
        assert str(raised.value) == ("process 2: no room" if rank < 2 else "no room")

    run_crew(3, tmp_path, work)


def test_no_group_is_no_company() -> None:
    with joined() as processes:
        assert processes is None


def test_a_batch_that_cannot_be_divided_is_refused_with_one_that_can() -> None:
    refuse_uneven(128, 4)
    with pytest.raises(ConfigError, match=r"a batch of 130 cannot be divided among 4 processes.*such as 132"):
        refuse_uneven(130, 4)


# What goes wrong.


def refusals(tmp_path: Path, count: int, work: Callable[[int], object]) -> list[str]:
    """Return what each process says, all of which have to end in an error."""
    found = codes(start_crew(count, tmp_path, work))
    assert found == [3] * count
    return [(tmp_path / f"error-{rank}").read_text() for rank in range(count)]


def test_processes_that_search_for_different_things_are_refused(tmp_path: Path) -> None:
    def other(what: str) -> Callable[[int], object]:
        def work(rank: int) -> None:
            config = PLAIN.model_copy(update={"learning_rate": 0.1 + rank * (what == "config")})
            train = TRAIN if what != "batches" or rank == 0 else TRAIN[::-1]
            train = train[:-1] if what == "length" and rank else train
            search(network(seed=rank * (what == "seed")), train, config)

        return work

    said = {what: refusals(tmp_path / what, 2, other(what)) for what in ("config", "seed", "batches", "length")}
    assert "learning_rate (0.1 → 1.1) differ" in said["config"][1]
    assert "process 1: what process 0 searches is of another search: learning_rate" in said["config"][0]
    assert all("seed (0 → 1)" in text for text in said["seed"])
    assert all("process 1 was given another batch than process 0" in text for text in said["batches"])
    assert all("process 1 has no more batches, and process 0 has" in text for text in said["length"])


def test_a_loss_that_is_not_finite_stops_all_at_that_step(tmp_path: Path) -> None:
    broken = [(x.clone(), y) for x, y in TRAIN]
    broken[2][0][-1] = float("nan")  # in the share of the last process
    said = refusals(tmp_path, 2, lambda rank: search(network(), broken, PLAIN))
    assert all("the loss became nan in epoch 1 at step 3" in text for text in said)


class Failing:
    """Batches that cannot be read from a step on, in one process."""

    def __init__(self, rank: int) -> None:
        self.rank = rank

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield from TRAIN[:3]
        if self.rank == 1:
            raise DataError("cannot read c.png")
        yield from TRAIN[3:]


def test_data_that_fail_in_one_process_end_all_and_what_was_done_is_kept(tmp_path: Path) -> None:
    place = tmp_path / "checkpoint"
    said = refusals(tmp_path, 2, lambda rank: search(network(), Failing(rank), PLAIN, checkpoint=place))
    assert said == ["DataError: cannot read c.png"] * 2
    heard: list[Event] = []
    search(network(), TRAIN, PLAIN, checkpoint=place, resume=True, on_event=heard.append)
    assert (heard[0].epochs, heard[0].steps) == (0, 3)  # type: ignore[union-attr]


def searched(folder: Path, place: Path, on_event: Callable[[int, Event], None], rank: int) -> None:
    result = search(
        network(dropout=0.2),
        TRAIN,
        EVERY_STEP,
        validation=HELD_OUT,
        checkpoint=place if rank == 0 else folder / f"nobody-writes-{rank}",
        resume=True,
        on_event=lambda event: on_event(rank, event),
    )
    (folder / f"ticket-{rank}").write_bytes(to_bytes(result.ticket))


def nothing(rank: int, event: Event) -> None:
    pass


def at_step(rank: int, number: int) -> Callable[[int, Event], None]:
    """Return what ends process ``rank`` by signal ``number`` after step 3 of the second epoch."""

    def act(own: int, event: Event) -> None:
        if own == rank and isinstance(event, StepDone) and (event.epoch, event.step) == (2, 3):
            os.kill(os.getpid(), number)

    return act


@pytest.mark.parametrize("lost", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_lost_process_ends_the_search_by_name_and_it_goes_on_bit_for_bit(tmp_path: Path, lost: int) -> None:
    run_crew(3, tmp_path / "whole", lambda rank: searched(tmp_path / "whole", tmp_path / "a", nothing, rank))
    folder = tmp_path / "killed"
    ended = codes(start_crew(3, folder, lambda rank: searched(folder, tmp_path / "b", at_step(lost, 9), rank)))
    assert ended == [-9 if rank == lost else 3 for rank in range(3)]
    for rank in {0, 1, 2} - {lost}:
        text = (folder / f"error-{rank}").read_text()
        assert text.startswith(f"LostProcessError: process {lost} was lost")
        assert ("the last good checkpoint is kept in" in text) == (rank == 0)
    assert not list(folder.glob("nobody-writes-*"))
    run_crew(3, folder, lambda rank: searched(folder, tmp_path / "b", nothing, rank))
    tickets = {(tmp_path / part / f"ticket-{rank}").read_bytes() for part in ("whole", "killed") for rank in range(3)}
    assert len(tickets) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_stop_that_one_process_is_asked_for_stops_all_and_others_go_on_from_there(
    tmp_path: Path, number: signal.Signals
) -> None:
    place = tmp_path / "checkpoint"

    def stopped(rank: int) -> None:
        try:
            searched(tmp_path, place, at_step(1, number), rank)
        except InterruptedRunError as error:
            state(tmp_path, rank, text=str(error), signal=error.signal)

    run_crew(2, tmp_path, stopped)
    for rank in range(2):
        said = stated(tmp_path, rank)
        assert said == {
            "text": "stopped after 1 epochs and 4 steps; the checkpoint is saved, --resume goes on",
            "signal": number,
        }
    whole = tmp_path / "whole"
    run_crew(2, tmp_path, lambda rank: searched(tmp_path, place, nothing, rank))
    run_crew(2, whole, lambda rank: searched(whole, tmp_path / "other", nothing, rank))
    tickets = {(folder / f"ticket-{rank}").read_bytes() for folder in (tmp_path, whole) for rank in range(2)}
    assert len(tickets) == 1


def test_a_search_goes_on_with_any_number_of_processes(tmp_path: Path) -> None:
    place = tmp_path / "checkpoint"

    def until(epoch: int) -> Callable[[int, Event], None]:
        def act(rank: int, event: Event) -> None:
            if rank == 0 and isinstance(event, StepDone) and (event.epoch, event.step) == (epoch, 2):
                os.kill(os.getpid(), signal.SIGTERM)

        return act

    def part(epoch: int) -> Callable[[int], None]:
        def work(rank: int) -> None:
            with pytest.raises(InterruptedRunError):
                search(
                    network(),
                    TRAIN,
                    PLAIN,
                    validation=HELD_OUT,
                    checkpoint=place,
                    resume=True,
                    on_event=lambda event: until(epoch)(rank, event),
                )

        return work

    run_crew(4, tmp_path, part(1))
    run_crew(2, tmp_path, part(2))
    resumed = search(network(), TRAIN, PLAIN, validation=HELD_OUT, checkpoint=place, resume=True)
    whole = search(network(), TRAIN, PLAIN, validation=HELD_OUT)
    assert all(torch.equal(mask, resumed.last.masks[name]) for name, mask in whole.last.masks.items())
    for before, now in zip(whole.history, resumed.history, strict=True):
        assert now["loss"] == pytest.approx(before["loss"], rel=1e-5)
        assert now["validation_accuracy"] == before["validation_accuracy"]


def test_masks_that_differ_between_processes_are_noticed(tmp_path: Path) -> None:
    def work(rank: int) -> None:
        model = network()

        def spoil(event: Event) -> None:
            if rank == 1 and isinstance(event, StepDone) and event.epoch == 2:
                with torch.no_grad():
                    for name, parameter in model.named_parameters():
                        if name.endswith("scores"):
                            parameter.neg_().add_(torch.linspace(0, 9, parameter.numel()).view(parameter.shape))

        search(model, TRAIN, PLAIN, on_event=spoil)

    said = refusals(tmp_path, 2, work)
    assert all("after epoch 2 the masks of process 1 are not those of process 0" in text for text in said)


def test_a_lost_process_says_which(tmp_path: Path) -> None:
    assert str(LostProcessError([1, 3], "; so")) == "processes 1 and 3 were lost; so"
    assert str(LostProcessError([])).startswith("a process on another machine was lost")

    def work(rank: int) -> None:
        processes = Processes(None)
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        with pytest.raises(LostProcessError, match=r"^process 1 was lost$"), processes.watched():
            processes.gathered(rank)
        with pytest.raises(RuntimeError, match="of our own"), processes.watched():
            raise RuntimeError("a mistake of our own")

    assert codes(start_crew(2, tmp_path, work)) == [0, -9]
