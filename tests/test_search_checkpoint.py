"""What a stopped search goes on from."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from strongticket import SearchConfig, attach, search
from strongticket.errors import SearchError
from strongticket.masks import attachment_of
from strongticket.search import Resumed, StepDone, checkpoint, place
from strongticket.search.checkpoint import Checkpoints, has_checkpoint
from strongticket.search.loop import Loop
from strongticket.search.state import Best
from strongticket.ticket import to_bytes

CONFIG = SearchConfig(epochs=4, learning_rate=0.5, device="cpu", precision="fp32", checkpoint_epochs=1)


def problem(seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    inputs = torch.randn(24, 6, generator=torch.Generator().manual_seed(seed))
    return list(zip(inputs.split(8), (inputs.sum(1) > 0).long().split(8), strict=True))


def attached() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    attach(model)
    return model


def loop(config: SearchConfig = CONFIG, **options: Any) -> Loop:
    model = attached()
    return Loop(model, problem(), config, placement=place(model, config), **options)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def finished(folder: Path, **options: Any) -> None:
    """Search to the end with a checkpoint after every epoch."""
    search(attached(), problem(), CONFIG, checkpoint=folder, **options)


def resumed(folder: Path) -> tuple[bytes, list[Resumed]]:
    """Go on with the search in ``folder``; return its ticket and what it told of the checkpoint."""
    heard: list[Resumed] = []

    def listen(event: object) -> None:
        if isinstance(event, Resumed):
            heard.append(event)

    result = search(attached(), problem(), CONFIG, checkpoint=folder, resume=True, on_event=listen)
    return to_bytes(result.ticket), heard


@pytest.fixture(scope="module")
def ticket() -> bytes:
    return to_bytes(search(attached(), problem(), CONFIG).ticket)


# Which are kept


def test_the_last_two_checkpoints_are_kept_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / ".search-000009.safetensors.4711").write_bytes(b"half")
    checkpoints, run = Checkpoints(tmp_path, CONFIG), loop()
    checkpoints.begin()
    seen = []
    for _ in run.epochs():
        checkpoints.save(run, Best())
        seen.append(names(tmp_path))
    assert seen == [
        ["search-000001.safetensors"],
        ["search-000001.safetensors", "search-000002.safetensors"],
        ["search-000002.safetensors", "search-000003.safetensors"],
        ["search-000003.safetensors", "search-000004.safetensors"],
    ]


def test_a_search_that_begins_anew_replaces_what_lay_there(tmp_path: Path) -> None:
    finished(tmp_path)
    assert names(tmp_path) == ["search-000003.safetensors", "search-000004.safetensors"]
    checkpoints, run = Checkpoints(tmp_path, CONFIG), loop()
    checkpoints.begin()
    next(iter(run.epochs()))
    checkpoints.save(run, Best())
    assert names(tmp_path) == ["search-000005.safetensors"]


def test_after_going_on_the_one_gone_on_from_is_kept_too(tmp_path: Path) -> None:
    finished(tmp_path)
    checkpoints, run = Checkpoints(tmp_path, CONFIG), loop()
    checkpoints.load(run)
    checkpoints.save(run, Best())
    assert names(tmp_path) == ["search-000004.safetensors", "search-000005.safetensors"]


# When they are written


def due_after(config: SearchConfig, *, cost: float, epochs: int) -> list[int]:
    """Return after which epochs, of 10 seconds each, a checkpoint is written if writing takes ``cost`` seconds."""
    now = 0.0
    checkpoints = Checkpoints(Path("nowhere"), config, clock=lambda: now)
    written = []
    for epoch in range(1, epochs + 1):
        now += 10
        if checkpoints.due_after(epoch):
            written.append(epoch)
            now += cost
            checkpoints._saved, checkpoints._cost = now, cost
    return written


@pytest.mark.parametrize(
    ("options", "cost", "expected"),
    [
        ({}, 0.5, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({}, 2.0, [1, 5, 9, 10]),  # 20 times its cost, and always after the last
        ({"checkpoint_epochs": 1}, 1.0, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        ({"checkpoint_epochs": 4}, 0.0, [4, 8, 10]),
        ({"checkpoint_epochs": 100}, 0.0, [10]),
        ({"checkpoint_epochs": 100, "checkpoint_minutes": 0.5}, 0.0, [3, 6, 9, 10]),
    ],
)
def test_epochs_after_which_a_checkpoint_is_due(options: dict[str, Any], cost: float, expected: list[int]) -> None:
    config = SearchConfig(**{"epochs": 10, "device": "cpu", **options})
    assert due_after(config, cost=cost, epochs=10) == expected


def test_within_an_epoch_one_is_due_when_its_minutes_are_over(tmp_path: Path) -> None:
    now = 100.0
    config = CONFIG.model_copy(update={"checkpoint_minutes": 2.0})
    checkpoints, run = Checkpoints(tmp_path, config, clock=lambda: now), loop()
    now = 219.9
    assert not checkpoints.due()
    now = 220.0
    assert checkpoints.due()
    checkpoints.save(run, Best())
    assert not checkpoints.due()
    now = 340.0
    assert checkpoints.due()


def test_with_no_minutes_between_them_every_step_has_one(tmp_path: Path) -> None:
    found = []

    def listen(event: object) -> None:
        if isinstance(event, StepDone):
            found.append(names(tmp_path)[-1:])

    config = CONFIG.model_copy(update={"checkpoint_minutes": 0.0, "epochs": 1})
    search(attached(), problem(), config, checkpoint=tmp_path, on_event=listen)
    assert found == [[], ["search-000001.safetensors"], ["search-000002.safetensors"]]


def test_a_search_of_one_long_epoch_is_saved_within_it_by_default() -> None:
    assert SearchConfig().checkpoint_minutes <= 10


# Damage


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before_and_says_so(tmp_path: Path, ticket: bytes) -> None:
    finished(tmp_path)
    newest = tmp_path / "search-000004.safetensors"
    newest.write_bytes(newest.read_bytes()[:-10])
    found, heard = resumed(tmp_path)
    assert found == ticket
    assert [(event.epochs, event.steps) for event in heard] == [(3, 0)]
    assert heard[0].damaged is not None
    assert heard[0].damaged.startswith(f"the checkpoint {newest} is damaged (")
    assert heard[0].damaged.endswith("; going on from the one before, search-000003.safetensors")
    # The damaged one is not counted among the two that are kept.
    assert names(tmp_path) == ["search-000003.safetensors", "search-000005.safetensors"]


def test_where_nobody_listens_it_is_a_warning(tmp_path: Path) -> None:
    finished(tmp_path)
    (tmp_path / "search-000004.safetensors").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"search-000004\.safetensors is damaged"):
        search(attached(), problem(), CONFIG, checkpoint=tmp_path, resume=True)


def test_if_all_are_damaged_nothing_begins_anew(tmp_path: Path) -> None:
    finished(tmp_path)
    before = {}
    for number in (3, 4):
        file = tmp_path / f"search-00000{number}.safetensors"
        file.write_bytes(file.read_bytes()[: 1000 * number])
        before[file.name] = file.read_bytes()
    with pytest.raises(
        SearchError, match=r"000004\.safetensors is damaged .*000003\.safetensors is damaged .* no other"
    ):
        resumed(tmp_path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_every_flipped_bit_that_could_matter_is_noticed(tmp_path: Path) -> None:
    finished(tmp_path)
    file = tmp_path / "search-000004.safetensors"
    data = file.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    blank = len(data[:size].rstrip(b" "))  # safetensors fills its header up with spaces that say nothing
    positions = [*range(0, 8), *range(8, blank, 101), *range(size, len(data), 41)]
    assert len(positions) > 300
    expected = checkpoint._read(file)
    for count, position in enumerate(positions):
        damaged = bytearray(data)
        damaged[position] ^= 1 << (count % 8)
        file.write_bytes(damaged)
        with pytest.raises((checkpoint._DamagedError, SearchError)):
            checkpoint._read(file)
    file.write_bytes(data)
    assert checkpoint._read(file).values == expected.values


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 100, 5000])
def test_a_file_that_was_cut_short_is_damaged(length: int, tmp_path: Path) -> None:
    finished(tmp_path)
    file = tmp_path / "search-000004.safetensors"
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(checkpoint._DamagedError):
        checkpoint._read(file)


def test_what_cannot_be_read_counts_as_damaged(tmp_path: Path, ticket: bytes) -> None:
    finished(tmp_path)
    newest = tmp_path / "search-000004.safetensors"
    newest.unlink()
    newest.mkdir()
    found, heard = resumed(tmp_path)
    assert found == ticket
    assert "(Is a directory)" in str(heard[0].damaged)


# Other versions, other searches


def rewritten(file: Path, tensors: dict[str, torch.Tensor] | None = None, **changed: Any) -> None:
    """Change tensors and values of a checkpoint, under a checksum that fits."""
    state = checkpoint._read(file)
    tensors = {**state.tensors, **(tensors or {})}
    values = json.dumps({"version": checkpoint._VERSION, **state.values, **changed})
    metadata = {"search": values, "sha256": checkpoint._checksum(tensors, values)}
    file.write_bytes(safetensors.torch.save(tensors, metadata))


@pytest.mark.parametrize("version", [3, "2", None])
def test_another_version_is_refused_and_not_taken_for_damage(version: object, tmp_path: Path) -> None:
    finished(tmp_path)
    rewritten(tmp_path / "search-000004.safetensors", version=version)
    with pytest.raises(
        SearchError, match=rf"000004\.safetensors has version {version}, this release reads 2; go on with"
    ):
        resumed(tmp_path)


def test_the_checkpoint_of_the_first_version_is_refused(tmp_path: Path) -> None:
    # As that version wrote it: under this name, without a checksum.
    header = {"version": 1, "config": {}, "position": {}, "optimizer": {}, "refreshes": 3, "best_epoch": None}
    data = safetensors.torch.save({"random:now": torch.get_rng_state()}, {"search": json.dumps(header)})
    (tmp_path / "search.safetensors").write_bytes(data)
    assert has_checkpoint(tmp_path)
    with pytest.raises(SearchError, match=r"search\.safetensors has version 1, this release reads 2"):
        resumed(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"position": {"epochs": 3}},
        {"position": None},
        {"options": 3},
        {"random": {}},
        {"best_epoch": "two"},
        {"best_epoch": 5},
        {"best_epoch": 1},  # without its ticket
        {"refreshes": None},
        {"refreshes": -1},
    ],
)
def test_values_that_no_search_has_are_one_line(changed: dict[str, Any], tmp_path: Path) -> None:
    finished(tmp_path)
    rewritten(tmp_path / "search-000004.safetensors", **changed)
    with pytest.raises(SearchError, match=r"000004\.safetensors does not hold what a search of this release.*\)$"):
        resumed(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        {"epochs_done": 3},  # of four in the history
        {"epochs_done": 10**12},
        {"epochs_done": -1, "history": []},
        {"epochs_done": 4.0},
        {"history": []},
        {"history": [{"epoch": 1}] * 4},
        {"history": {}},
        {"batches_done": 2**70, "seen": 1},
        {"batches_done": 1, "seen": 0},
        {"loss_sum": math.nan},
        {"steps_in_epoch": "3"},
        {"more": 1},
    ],
)
def test_a_position_that_no_search_can_stand_at_is_one_line(changed: dict[str, Any], tmp_path: Path) -> None:
    finished(tmp_path)
    file = tmp_path / "search-000004.safetensors"
    rewritten(file, position={**checkpoint._read(file).values["position"], **changed})
    with pytest.raises(SearchError, match=r"000004\.safetensors does not hold what a search of this release.*\)$"):
        resumed(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("optimizer:0:momentum_buffer", torch.zeros(1)),  # read by address, as long as the scores are
        ("optimizer:0:momentum_buffer", torch.zeros(8, 6, dtype=torch.float64)),
        ("optimizer:0:exp_avg", torch.zeros(8, 6)),  # SGD has none
        ("optimizer:7:momentum_buffer", torch.zeros(8, 6)),
        ("model:1.running_mean", torch.zeros(8, dtype=torch.complex64)),
        ("model:1.running_mean", torch.zeros(7)),
        ("random:now:cpu", torch.zeros(3, dtype=torch.uint8)),
        ("best", torch.zeros(3, dtype=torch.uint8)),
    ],
)
def test_tensors_of_another_shape_or_type_are_refused(name: str, value: torch.Tensor, tmp_path: Path) -> None:
    finished(tmp_path)
    file = tmp_path / "search-000004.safetensors"
    rewritten(file, {name: value})
    with pytest.raises(SearchError, match=r"000004\.safetensors (does not hold what a|is of another)"):
        resumed(tmp_path)


def test_a_search_without_validation_data_does_not_go_on_with_it(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(SearchError, match="one of the two has validation data, and the other has none"):
        finished(tmp_path, resume=True, validation=problem())


def test_options_of_several_lines_are_named_in_one(tmp_path: Path) -> None:
    finished(tmp_path)
    file = tmp_path / "search-000004.safetensors"
    options = {**checkpoint._read(file).values["options"], "epochs": "\n4\n", "so\nmany": 1}
    rewritten(file, options=options)
    with pytest.raises(SearchError, match=r"of another search: epochs \( 4 → 4\), so many \(1 → None\) differ$"):
        resumed(tmp_path)


def test_json_that_is_too_deep_is_damage(tmp_path: Path) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    (tmp_path / "search-000001.safetensors").write_bytes(safetensors.torch.save({}, {"search": deep}))
    with pytest.raises(SearchError, match="is damaged"):
        resumed(tmp_path)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("precision", "bf16"),
        ("channels_last", "on"),
        ("checkpoint_minutes", 1.0),
        ("checkpoint_epochs", 3),
        ("deterministic", True),
    ],
)
def test_where_and_how_a_search_runs_may_change(name: str, value: object, tmp_path: Path) -> None:
    finished(tmp_path)
    other = CONFIG.model_copy(update={name: value})
    assert search(attached(), problem(), other, checkpoint=tmp_path, resume=True).best_epoch == 4


def test_no_checkpoint_is_said_to_be_none(tmp_path: Path) -> None:
    assert not has_checkpoint(tmp_path)
    assert not has_checkpoint(tmp_path / "missing")
    with pytest.raises(SearchError, match=f"there is no checkpoint to resume in {tmp_path}"):
        Checkpoints(tmp_path, CONFIG).load(loop())


# What is not worth keeping


def diverge(run: Loop, how: str) -> None:
    scores = [parameter for parameter in run.model.parameters() if parameter.requires_grad]
    with torch.no_grad():
        if how == "score":
            scores[0].view(-1)[3] = math.nan
        elif how == "infinite":
            scores[1].view(-1)[0] = -math.inf
        elif how == "momentum":
            run.optimizer.state[scores[0]]["momentum_buffer"][0, 0] = math.nan
        elif how == "loss":
            run.position.loss_sum = math.inf


@pytest.mark.parametrize("how", ["score", "infinite", "momentum", "loss"])
def test_a_state_that_diverged_never_replaces_a_good_one(how: str, tmp_path: Path) -> None:
    checkpoints, run = Checkpoints(tmp_path, CONFIG), loop()
    checkpoints.begin()
    next(iter(run.epochs()))
    checkpoints.save(run, Best())
    good = (tmp_path / "search-000001.safetensors").read_bytes()
    diverge(run, how)
    with pytest.raises(SearchError, match="NaN or infinite of epoch 1; lower the learning rate, add warm-up"):
        checkpoints.save(run, Best())
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [good]


def test_a_mask_of_minus_infinity_among_the_buffers_of_a_network_is_no_divergence(tmp_path: Path) -> None:
    run = loop()
    run.model.register_buffer("attention", torch.tensor([0.0, -math.inf]))
    Checkpoints(tmp_path, CONFIG).save(run, Best())
    assert has_checkpoint(tmp_path)


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_search_that_diverges_says_at_which_step_and_keeps_its_last_good_checkpoint(
    epoch: int, tmp_path: Path
) -> None:
    class Poisoned(list):  # type: ignore[type-arg]
        def set_epoch(self, number: int) -> None:
            if number == epoch - 1:
                self[1] = (torch.full((8, 6), math.nan), self[1][1])

    place = tmp_path / "checkpoint"
    kept = f"; the last good checkpoint is kept in {place}" if epoch == 3 else "$"
    with pytest.raises(SearchError, match=f"loss became nan in epoch {epoch} at step 2; lower .* 'fp32'{kept}"):
        search(attached(), Poisoned(problem()), CONFIG, checkpoint=place)
    assert has_checkpoint(place) == (epoch == 3)
    if epoch == 3:
        run = loop()
        Checkpoints(place, CONFIG).load(run)
        assert (run.position.epochs_done, run.position.batches_done) == (2, 0)
        assert all(parameter.isfinite().all() for parameter in run.model.parameters())


def test_scores_that_cannot_be_ranked_are_said_with_the_step(tmp_path: Path) -> None:
    class Overflowing(nn.Module):
        """A loss that is finite and has a gradient that is not."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0

        def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            loss = nn.functional.cross_entropy(outputs, targets)
            return loss + (outputs * 0).abs().sqrt().sum() if self.calls == 5 else loss

    with pytest.raises(SearchError, match=r"a score is NaN.* \(epoch 2, step 2\); the last good checkpoint is kept"):
        search(attached(), problem(), CONFIG, loss=Overflowing(), checkpoint=tmp_path)


# All that changes is in it


def test_the_state_holds_all_that_changes_and_not_the_frozen_weights(tmp_path: Path) -> None:
    run = loop()
    run.model.register_buffer("counter", torch.zeros(3), persistent=False)
    next(iter(run.epochs()))
    Checkpoints(tmp_path, CONFIG).save(run, Best())
    tensors = checkpoint._read(tmp_path / "search-000001.safetensors").tensors
    model = {name.removeprefix("model:") for name in tensors if name.startswith("model:")}
    masked = [f"{layer}.parametrizations.weight.0" for layer in (0, 3)]
    norm = {f"1.{name}" for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert model == {f"{m}.{name}" for m in masked for name in ("scores", "mask")} | norm | {
        "0.bias",
        "3.bias",
        "counter",
    }
    assert {name for name in tensors if name.startswith("optimizer:")} == {
        "optimizer:0:momentum_buffer",
        "optimizer:1:momentum_buffer",
    }
    other = loop()
    other.model.register_buffer("counter", torch.ones(3), persistent=False)
    Checkpoints(tmp_path, CONFIG).load(other)
    assert other.position == run.position
    assert attachment_of(other.model).refreshes == attachment_of(run.model).refreshes
    for (name, ours), theirs in zip(run.model.named_parameters(), other.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name
    for (name, ours), theirs in zip(run.model.named_buffers(), other.model.buffers(), strict=True):
        assert torch.equal(ours, theirs), name
