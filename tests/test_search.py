"""A search end to end, on networks and data that are nobody's but the test's."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from strongticket import SearchConfig, apply, attach, extract, search
from strongticket.errors import ConfigError, InterruptedRunError, ModelError, SearchError
from strongticket.masks import (
    FixedMask,
    Supermask,
    as_rule,
    attachment_of,
    binary_activations,
    drawn_digest,
    edges,
    frozen_weights,
    weights_digest,
)
from strongticket.search import EpochDone, StepDone, seeded, train_dense
from strongticket.weights import LAWS

RULES = ["edge-popup", "bernoulli", "multicoated", as_rule("iterand", redraw_every=2)]
CONFIG = SearchConfig(epochs=4, learning_rate=0.5, device="cpu", precision="fp32")


def problem(seed: int = 0) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Two classes that a line separates, in batches of 16."""
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(seed))
    return list(zip(inputs.split(16), (inputs.sum(1) > 0).long().split(16), strict=True))


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))


def attached(**options) -> nn.Module:
    model = network()
    attach(model, **{"density": 0.5, **options})
    return model


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_a_search_finds_a_ticket_that_solves_the_problem_without_moving_a_weight(rule, scope):
    model = attached(rule=rule, scope=scope)
    digest = weights_digest(model)
    rate = {"edge-popup": 0.5, "bernoulli": 50.0, "multicoated": 0.03}.get(str(rule), 1.0)
    result = search(
        model, problem(), CONFIG.model_copy(update={"epochs": 40, "learning_rate": rate}), validation=problem(1)
    )
    assert max(e["validation_accuracy"] for e in result.history) >= 0.875
    assert weights_digest(model) == drawn_digest(model) == result.ticket.weights_digest
    assert (weights_digest(model) == digest) == (result.ticket.levels != "draws")
    assert result.ticket.kept == round(0.5 * 6 * 32) + round(0.5 * 64)


def test_the_model_ends_with_the_fixed_masks_of_the_ticket():
    model = attached()
    result = search(model, problem(), CONFIG, validation=problem(1))
    assert not any(isinstance(m, Supermask) for m in model.modules())
    assert sum(isinstance(m, FixedMask) for m in model.modules()) == 2
    again = apply(result.ticket, network())
    assert torch.equal(again(problem()[0][0]), model(problem()[0][0]))
    assert all(torch.equal(extract(model).masks[n], m) for n, m in result.ticket.masks.items())


def test_without_validation_the_last_epoch_is_the_ticket():
    result = search(attached(), problem(), CONFIG)
    assert result.best_epoch == 4
    assert all(torch.equal(result.last.masks[n], m) for n, m in result.ticket.masks.items())


def test_the_ticket_is_of_the_best_validation_epoch_and_the_last_one_is_kept_too():
    class Forgetful(list):
        """Teaches the problem for two epochs and its opposite afterwards."""

        def set_epoch(self, epoch: int) -> None:
            sign = 1 if epoch < 2 else -1
            self[:] = [(sign * inputs, targets) for inputs, targets in problem()]

    config = CONFIG.model_copy(update={"schedule": "constant"})
    result = search(attached(), Forgetful(problem()), config, validation=problem(1))
    accuracies = [epoch["validation_accuracy"] for epoch in result.history]
    assert result.best_epoch <= 2
    assert accuracies[result.best_epoch - 1] == max(accuracies)
    assert any(not torch.equal(result.last.masks[n], m) for n, m in result.ticket.masks.items())


def test_two_searches_of_one_seed_are_one_search():
    first, second = (search(attached(), problem(), CONFIG).ticket for _ in range(2))
    assert all(torch.equal(second.masks[n], m) for n, m in first.masks.items())


def test_a_density_ramp_ends_at_the_exact_density():
    config = CONFIG.model_copy(update={"density_schedule": "cubic", "density_start": 0.9, "density_epochs": 3.0})
    result = search(attached(), problem(), config)
    densities = [epoch["density"] for epoch in result.history]
    assert densities == sorted(densities, reverse=True)
    assert densities[0] > 0.6
    assert result.ticket.density == 0.5


def test_learned_batch_norm_moves_and_is_stored():
    result = search(attached(bn="learned"), problem(), CONFIG)
    assert result.ticket.trained == ("1.weight", "1.bias")
    assert not torch.equal(result.ticket.stored["1.weight"], torch.ones(32))


def test_events_tell_every_step_and_epoch():
    events = []
    search(attached(), problem(), CONFIG, validation=problem(1), on_event=events.append)
    steps = [(e.epoch, e.step, e.steps) for e in events if isinstance(e, StepDone)]
    assert steps == [(epoch, step, 4) for epoch in range(1, 5) for step in range(1, 5)]
    epochs = [e for e in events if isinstance(e, EpochDone)]
    assert [e.epoch for e in epochs] == [1, 2, 3, 4]
    assert all(e.images_per_second > 0 and e.seconds > 0 for e in epochs)
    assert epochs[-1].seconds_left == 0


def test_a_plain_or_finished_model_is_refused():
    with pytest.raises(ModelError, match="has no masks"):
        search(network(), problem(), CONFIG)
    model = attached()
    search(model, problem(), CONFIG)
    with pytest.raises(ModelError, match="fixed already"):
        search(model, problem(), CONFIG)


def test_a_weight_that_somebody_moved_is_noticed():
    model = attached()

    def vandal(event: object) -> None:
        with torch.no_grad():
            edges(model)["0.weight"].weight[0, 0] += 1

    with pytest.raises(ModelError, match="a frozen weight changed"):
        search(model, problem(), CONFIG, on_event=vandal)


def test_a_diverged_search_stops():
    batches = [(torch.full((2, 6), float("inf")), torch.tensor([0, 1]))]
    with pytest.raises(SearchError, match="epoch 1 at step 1"):
        search(attached(), batches, CONFIG)


def test_the_global_generator_is_not_touched():
    model = attached()
    state = torch.get_rng_state()
    search(model, problem(), CONFIG)
    assert torch.equal(torch.get_rng_state(), state)


def loader() -> torch.utils.data.DataLoader:
    inputs = torch.cat([x for x, _ in problem()])
    targets = torch.cat([y for _, y in problem()])
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs, targets), batch_size=16, shuffle=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "muon"])
@pytest.mark.parametrize("stop_at", [3, 4, 9])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_search_goes_on_to_the_same_ticket(tmp_path: Path, optimizer, stop_at, number):
    config = CONFIG.model_copy(update={"optimizer": optimizer, "learning_rate": 0.1})
    torch.manual_seed(5)
    expected = search(attached(bn="learned"), loader(), config, validation=problem(1))

    steps = 0

    def stop(event: object) -> None:
        nonlocal steps
        if isinstance(event, StepDone):
            steps += 1
            if steps == stop_at:
                os.kill(os.getpid(), number)

    torch.manual_seed(5)
    with pytest.raises(InterruptedRunError, match="--resume goes on") as caught:
        search(attached(bn="learned"), loader(), config, validation=problem(1), on_event=stop, checkpoint=tmp_path)
    assert caught.value.signal == number
    torch.manual_seed(77)
    result = search(attached(bn="learned"), loader(), config, validation=problem(1), checkpoint=tmp_path, resume=True)
    drop = ("images_per_second", "seconds", "seconds_left")
    assert [{k: v for k, v in e.items() if k not in drop} for e in result.history] == [
        {k: v for k, v in e.items() if k not in drop} for e in expected.history
    ]
    for ours, theirs in ((result.ticket, expected.ticket), (result.last, expected.last)):
        assert all(torch.equal(ours.masks[n], m) for n, m in theirs.masks.items())
        assert all(torch.equal(ours.stored[n], v) for n, v in theirs.stored.items())


def test_a_checkpoint_of_another_search_is_refused_by_the_options_that_differ(tmp_path: Path):
    search(attached(), problem(), CONFIG, checkpoint=tmp_path)
    other = CONFIG.model_copy(update={"learning_rate": 0.25, "epochs": 9})
    with pytest.raises(SearchError, match=r"epochs \(4 → 9\), learning_rate \(0.5 → 0.25\) differ"):
        search(attached(), problem(), other, checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({"seed": 5}, r"seed \(0 → 5\)"),
        ({"density": 0.25}, r"density \(0.5 → 0.25\)"),
        ({"rule": "bernoulli"}, r"rule \(edge-popup → bernoulli\)"),
        ({"weights": "kaiming-normal"}, "law"),
    ],
)
def test_a_checkpoint_of_other_weights_or_masks_is_refused(tmp_path: Path, changed, difference):
    search(attached(), problem(), CONFIG, checkpoint=tmp_path)
    with pytest.raises(SearchError, match=f"another search: {difference}.* differ"):
        search(attached(**changed), problem(), CONFIG, checkpoint=tmp_path, resume=True)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path):
    search(attached(), problem(), CONFIG, checkpoint=tmp_path)
    model = nn.Sequential(nn.Linear(6, 31), nn.Linear(31, 2))
    attach(model)
    with pytest.raises(SearchError, match="of another network"):
        search(model, problem(), CONFIG, checkpoint=tmp_path, resume=True)


def test_dense_training_has_the_budget_of_the_search_and_its_own_learning_rate():
    config = CONFIG.model_copy(update={"trained_learning_rate": 0.25, "trained_weight_decay": 0.0, "epochs": 40})
    dense = config.for_dense_training()
    assert (dense.epochs, dense.learning_rate, dense.weight_decay, dense.momentum) == (40, 0.25, 0.0, 0.9)
    with seeded(0):
        model = train_dense(network(), problem(), config)
    assert not hasattr(model, "_strongticket_attachment")
    with torch.no_grad():
        correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in problem(1))
    assert correct >= 0.9 * 64


def test_an_unknown_option_is_refused():
    with pytest.raises(ValueError, match="lerning_rate"):
        SearchConfig(lerning_rate=0.1)


def test_refreshes_are_counted_in_the_attachment():
    model = attached()
    before = attachment_of(model).refreshes
    search(model, problem(), CONFIG)
    assert attachment_of(model).refreshes == before + 1 + 16


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")
def test_cuda_without_cuda_is_refused():
    with pytest.raises(ConfigError, match="no CUDA device"):
        search(attached(), problem(), CONFIG.model_copy(update={"device": "cuda"}))


@pytest.mark.gpu
def test_a_search_runs_on_a_gpu():
    result = search(attached(), problem(), CONFIG.model_copy(update={"device": "cuda", "epochs": 10}))
    assert result.history[-1]["train_accuracy"] > 0.8


@pytest.mark.parametrize("options", [{"rule": "bernoulli"}, {"ramp": True}])
def test_what_is_validated_is_the_ticket_and_not_the_masks_of_the_last_step(options):
    ramp = {"density_schedule": "cubic", "density_start": 1.0, "density_epochs": 9.0} if "ramp" in options else {}
    config = CONFIG.model_copy(update=ramp)
    result = search(attached(rule=options.get("rule", "edge-popup")), problem(), config, validation=problem(1))
    model = apply(result.last, network())
    with torch.no_grad():
        correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in problem(1))
    assert result.history[-1]["validation_accuracy"] == correct / 64


RAMP = {"density_schedule": "cubic", "density_start": 0.9, "density_epochs": 1.0}


def without_clock(history: list[dict[str, object]]) -> list[dict[str, object]]:
    drop = ("images_per_second", "seconds", "seconds_left")
    return [{key: value for key, value in epoch.items() if key not in drop} for epoch in history]


@pytest.mark.parametrize("bn", ["frozen", "learned"])
@pytest.mark.parametrize("law", sorted(LAWS))
@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("rule", RULES, ids=str)
def test_binary_weights_go_with_every_rule_scope_law_and_norm(rule, scope, law, bn):
    gain = "channel" if bn == "learned" else "layer"
    options = {"rule": rule, "scope": scope, "weights": law, "bn": bn, "density": 0.3}
    model = attached(**options, binary="weights", gain=gain)
    digest, weights = weights_digest(attached(**options)), {n: w.clone() for n, w in frozen_weights(model).items()}
    assert weights_digest(model) == digest
    result = search(model, problem(), CONFIG.model_copy(update={"epochs": 2, **RAMP}), validation=problem(1))
    assert weights_digest(model) == result.ticket.weights_digest
    if result.ticket.levels == "draws":
        weights = frozen_weights(model)
    else:
        assert weights_digest(model) == digest
    assert result.ticket.trained == (("1.weight", "1.bias") if bn == "learned" else ())
    kept = {name: int(mask.count_nonzero()) for name, mask in result.ticket.masks.items()}
    assert sum(kept.values()) == round(0.3 * (192 + 64))
    if scope == "layer":
        assert kept == {"0.weight": round(0.3 * 192), "3.weight": round(0.3 * 64)}
    for name, mask in result.ticket.masks.items():
        weight, m = weights[name].numpy().astype(np.float64), mask.numpy() > 0
        coats = mask.numpy() if result.ticket.levels == "coats" else 1
        axis = None if gain == "layer" else 1
        alpha = (np.abs(weight) * m).sum(axis, keepdims=True) / np.maximum(m.sum(axis, keepdims=True), 1)
        effective = model[int(name[0])].weight.numpy()
        right = np.where(m, np.where(weight >= 0, alpha, -alpha), 0) * coats
        np.testing.assert_allclose(effective, right, rtol=1e-6, atol=0)
    again = apply(result.ticket, network())
    assert torch.equal(again(problem()[0][0]), model(problem()[0][0]))


@pytest.mark.parametrize("gain", ["layer", "channel"])
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_with_a_signed_constant_binary_weights_are_the_ordinary_search_bit_for_bit(scope, rule, gain):
    options = {"rule": rule, "scope": scope, "density": 0.3, "bn": "learned"}
    ordinary, binary = attached(**options), attached(**options, binary="weights", gain=gain)
    config = CONFIG.model_copy(update=RAMP)
    first, second = (search(model, problem(), config, validation=problem(1)) for model in (ordinary, binary))
    assert without_clock(first.history) == without_clock(second.history)
    assert all(torch.equal(second.ticket.masks[n], m) for n, m in first.ticket.masks.items())
    assert all(torch.equal(second.ticket.stored[n], v) for n, v in first.ticket.stored.items())
    assert torch.equal(ordinary(problem()[0][0]), binary(problem()[0][0]))


@pytest.mark.parametrize("gradient", ["bi-real", "clipped-identity"])
def test_a_search_with_binary_weights_and_activations_solves_the_problem(gradient):
    options = {"weights": "kaiming-normal", "binary": "weights+activations", "activation_gradient": gradient}
    model = attached(**options)
    digest = weights_digest(model)
    config = CONFIG.model_copy(update={"epochs": 40})
    result = search(model, problem(), config, validation=problem(1))
    assert max(e["validation_accuracy"] for e in result.history) >= 0.9
    assert weights_digest(model) == digest
    assert {name: module.gradient for name, module in binary_activations(model).items()} == {"2": gradient}
    assert model[:3](problem()[0][0]).unique().tolist() == [-1.0, 1.0]


def test_a_stopped_binary_search_goes_on_with_its_gains(tmp_path: Path):
    def fresh() -> nn.Module:
        return attached(weights="kaiming-normal", binary="weights+activations", gain="channel", bn="learned")

    expected = search(fresh(), problem(), CONFIG, validation=problem(1))

    def stop(event: object) -> None:
        if isinstance(event, StepDone) and (event.epoch, event.step) == (2, 3):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        search(fresh(), problem(), CONFIG, validation=problem(1), on_event=stop, checkpoint=tmp_path)
    result = search(fresh(), problem(), CONFIG, validation=problem(1), checkpoint=tmp_path, resume=True)
    assert without_clock(result.history) == without_clock(expected.history)
    assert all(torch.equal(result.ticket.masks[n], m) for n, m in expected.ticket.masks.items())


def vgg_like() -> nn.Module:
    layers: list[nn.Module] = []
    for inputs, outputs, pool in [(3, 16, 1), (16, 16, 2), (16, 32, 1), (32, 32, 2)]:
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.MaxPool2d(pool)]
        layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10, bias=False))


@pytest.mark.parametrize("rule", RULES[2:], ids=str)
def test_a_stopped_search_with_levels_goes_on_with_them(tmp_path: Path, rule):
    expected = search(attached(rule=rule), problem(), CONFIG, validation=problem(1))

    def stop(event: object) -> None:
        if isinstance(event, StepDone) and (event.epoch, event.step) == (3, 2):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError):
        search(attached(rule=rule), problem(), CONFIG, validation=problem(1), on_event=stop, checkpoint=tmp_path)
    model = attached(rule=rule)
    result = search(model, problem(), CONFIG, validation=problem(1), checkpoint=tmp_path, resume=True)
    assert without_clock(result.history) == without_clock(expected.history)
    assert all(torch.equal(result.last.masks[n], m) for n, m in expected.last.masks.items())
    assert result.ticket.weights_digest == expected.ticket.weights_digest == weights_digest(model)
    changed = as_rule("multicoated", coats=4) if rule == "multicoated" else as_rule("iterand", redraw_every=3)
    with pytest.raises(SearchError, match=r"of another search: (redraw_every \(2 → 3\)|coats \(3 → 4\)) differ"):
        search(attached(rule=changed), problem(), CONFIG, validation=problem(1), checkpoint=tmp_path, resume=True)


@pytest.mark.parametrize("floor", [0.0, 0.01])
@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("binary", ["none", "weights"])
def test_a_global_ramp_to_two_percent_leaves_no_layer_without_an_edge_at_any_step(binary, rule, floor):
    model = vgg_like()
    attach(model, density=0.02, scope="global", floor=floor, rule=rule, weights="kaiming-normal", binary=binary, seed=1)
    sizes = {name: edge.mask.numel() for name, edge in edges(model).items()}
    total = sum(sizes.values())
    assert total == 432 + 2304 + 4608 + 9216 + 1280
    counted = []

    def check(event: object) -> None:
        if not isinstance(event, StepDone):
            return
        left = max(0.0, 1 - (event.epoch - 1 + event.step / event.steps) / 2)
        kept = {name: int(edge.mask.count_nonzero()) for name, edge in edges(model).items()}
        assert sum(kept.values()) == round((0.02 + 0.48 * left**3) * total)
        assert all(count >= max(1, round(floor * sizes[name])) for name, count in kept.items())
        counted.append(sum(kept.values()))

    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8)) for _ in range(4)]
    ramp = {"density_schedule": "cubic", "density_start": 0.5, "density_epochs": 2.0}
    config = CONFIG.model_copy(update={"epochs": 3, **ramp, "learning_rate": 5.0})
    result = search(model, batches, config, on_event=check)
    assert len(counted) == 12
    assert counted == sorted(counted, reverse=True)
    assert result.ticket.kept == counted[-1] == round(0.02 * total)
    assert all(mask.any() for mask in result.ticket.masks.values())
    assert all(module.weight.count_nonzero() > 0 for module in model if isinstance(module, nn.Conv2d | nn.Linear))
