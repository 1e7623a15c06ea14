"""A ticket and its network: what was found is put back bit for bit, gains that no file holds included.

What is expected comes from the reader that docs/format.md prints, and from fractions that follow its prose.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from ticket_files import GOLDEN_5_COATS, GOLDEN_5_DRAWS, golden_coats_ticket, golden_draws_ticket, taken_apart
from torch import Tensor, nn

from strongticket import apply, attach, bake, extract, load, refresh, save
from strongticket.errors import TicketError
from strongticket.masks import Rule, as_rule, edges
from strongticket.masks.supermask import FixedMask
from strongticket.ticket import Ticket, from_bytes, to_bytes
from strongticket.weights import Binary, BinaryActivation, GainGroups, source

GOLDEN = Path(__file__).parent / "golden"
PAGE = (Path(__file__).parents[1] / "docs" / "format.md").read_text("utf-8")
READER: dict[str, Any] = {}
exec(
    compile("\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)), "format.md", "exec"),
    READER,
)
TABLE = np.load(Path(source.__file__).parent / "normal_quantiles.npy")


def effective_by_the_page(path: Path, structure: dict[str, dict[str, int]]) -> dict[str, NDArray[Any]]:
    """Return what the kept edges of a file carry; ``structure`` says what the network knows: padding, groups."""
    said, masks = READER["read_ticket"](path)
    found = {}
    for name in said["tensors"]:
        known = structure.get(name, {})
        weights = READER["frozen_weights"](said, name, TABLE, padding=known.get("padding"), mask=masks.get(name))
        found[name] = (
            READER["effective_weights"](said, name, weights, masks[name], **known) if name in masks else weights
        )
    return found


def assert_carries(model: nn.Module, expected: dict[str, NDArray[Any]]) -> None:
    """Raise AssertionError unless the applied or attached ``model`` computes with these weights, bit for bit."""
    state = bake(model).state_dict()
    for name, values in expected.items():
        found = state[name].numpy()
        assert (found.dtype, found.shape, found.tobytes()) == (values.dtype, values.shape, values.tobytes()), name


def gain_by_hand(magnitudes: list[float]) -> float:
    """Return the gain of edges that share one, by section 4 of the page, over fractions."""
    if not magnitudes:
        return 0.0
    power = Fraction(1)
    while power <= max(magnitudes):
        power *= 2
    while power / 2 > max(magnitudes) > 0:
        power /= 2
    unit = power / 2**34
    whole, rest = divmod(sum(round(Fraction(value) / unit) for value in magnitudes), len(magnitudes))
    return (whole + rest / len(magnitudes)) * float(unit)


def test_an_assertion_about_carried_weights_can_fail() -> None:
    model = nn.Linear(2, 2)
    attach(model, density=1.0)
    weight = bake(model).state_dict()["weight"].numpy()
    assert_carries(model, {"weight": weight})
    with pytest.raises(AssertionError):
        assert_carries(model, {"weight": np.nextafter(weight, np.float32(9))})


# The golden files


class Version1(nn.Module):
    """The network of the golden file of version 1: layers that hold what it stores, never to be computed with."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2d(1, 2, 2), nn.Linear(64, 64)
        self.tail, self.head = nn.Linear(100, 10, dtype=torch.float16), nn.Linear(10, 3)
        self.norm = nn.BatchNorm1d(3)
        self.norm.weight, self.norm.bias = nn.Parameter(torch.ones(2, dtype=torch.bfloat16)), None  # type: ignore[assignment]
        self.norm.running_var, self.norm.track_running_stats = None, False
        self.norm.register_buffer("active", torch.tensor([False, False]))
        self.register_buffer("steps", torch.tensor(0))


class Version2(nn.Module):
    """The network of the golden file of version 2, as it is built: its activations are real."""

    def __init__(self, activation: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 6, padding_idx=3, dtype=torch.float16)
        parts = {"conv": nn.Conv2d(4, 6, 2, padding=1), "norm": nn.BatchNorm2d(6), "act": activation()}
        self.body = nn.Sequential(OrderedDict(parts))
        self.up, self.act, self.head = nn.ConvTranspose2d(6, 4, 2, groups=2), activation(), nn.Linear(80, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.act(self.up(self.body(self.embed(tokens).float().view(-1, 4, 2, 3)))).flatten(1))


class Sign(nn.Module):
    def forward(self, values: Tensor) -> Tensor:
        return (values >= 0).float() * 2 - 1


STRUCTURE_2 = {"embed.weight": {"padding": 3}, "up.weight": {"groups": 2}}
LEVELLED: dict[str, tuple[Rule, dict[str, Any]]] = {
    "coats": (as_rule("multicoated", coats=4), {"weights": "xavier-normal"}),
    "coats of ±α": (
        as_rule("multicoated", coats=3),
        {"weights": "kaiming-uniform", "binary": "weights", "gain": "channel"},
    ),
    "coats of ±s": (as_rule("multicoated", coats=3), {"binary": "weights", "gain": "layer"}),
    "draws": (as_rule("iterand", redraw_every=1, redraw_share=0.7), {"weights": "kaiming-uniform"}),
    "draws of ±α": (
        as_rule("iterand", redraw_every=1, redraw_share=0.7),
        {"weights": "kaiming-normal", "binary": "weights", "gain": "channel"},
    ),
    "draws of signs": (as_rule("iterand", redraw_every=1, redraw_share=0.7), {}),
}
TOKENS = torch.tensor([[0, 3, 8, 1], [2, 2, 7, 6], [5, 4, 3, 3]])


def channels_of_version_2() -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """Yield, for each channel of the golden file of version 2, its tensor and the places in it."""
    for row in range(9):
        yield "embed.weight", [(row, column) for column in range(6)]
    for output in range(6):
        yield "body.conv.weight", [(output, *rest) for rest in np.ndindex(4, 2, 2)]
    for group, rows in enumerate(((0, 1, 2), (3, 4, 5))):
        for output in range(2):
            assert group * 3 == rows[0]
            yield "up.weight", [(row, output, *rest) for row in rows for rest in np.ndindex(2, 2)]


def effective_weights_of_version_2() -> dict[str, NDArray[Any]]:
    said, masks = READER["read_ticket"](GOLDEN / "ticket-v2.safetensors")
    weights = {
        name: READER["frozen_weights"](said, name, TABLE, padding=3 if name == "embed.weight" else None)
        for name in said["tensors"]
    }
    expected = {name: np.zeros_like(values) for name, values in weights.items()}
    expected["head.weight"] = weights["head.weight"]
    for name, places in channels_of_version_2():
        kept = [place for place in places if masks[name][place] and not (name == "embed.weight" and place[0] == 3)]
        alpha = np.float32(gain_by_hand([abs(float(weights[name][place])) for place in kept]))
        for place in kept:
            expected[name][place] = alpha if weights[name][place] >= 0 else -alpha
    return expected


def test_the_golden_file_of_version_1_applies() -> None:
    model = apply(load(GOLDEN / "ticket-v1.safetensors"), Version1())
    assert_carries(model, effective_by_the_page(GOLDEN / "ticket-v1.safetensors", {}))
    tail = bake(model).state_dict()["tail.weight"].flatten()
    assert tail.nonzero().flatten().tolist() == [0, 255, 256, 999]
    assert set(tail[[0, 255, 256, 999]].abs().tolist()) == {float(np.float16(0.1414213562373095))}
    state = model.state_dict()
    assert state["norm.weight"].tolist() == [1.5, 2.0]
    assert state["norm.active"].tolist() == [True, False]
    assert state["steps"].item() == 7
    assert not any(isinstance(module, BinaryActivation) for module in model.modules())


def test_the_golden_file_of_version_2_applies_with_gains_by_hand() -> None:
    expected = effective_weights_of_version_2()
    model = apply(load(GOLDEN / "ticket-v2.safetensors"), Version2())
    assert_carries(model, expected)
    assert not expected["embed.weight"][3].any()
    assert not expected["body.conv.weight"][5].any()
    assert not expected["up.weight"][3:, 0].any()
    for name, count in {"embed.weight": 8, "body.conv.weight": 5, "up.weight": 3}.items():
        assert len(np.unique(np.abs(expected[name][expected[name] != 0]))) == count, name
    assert len(np.unique(np.abs(expected["head.weight"]))) > 200


def test_the_reader_in_the_documentation_finds_the_gains_by_hand() -> None:
    found = effective_by_the_page(GOLDEN / "ticket-v2.safetensors", STRUCTURE_2)
    for name, expected in effective_weights_of_version_2().items():
        assert found[name].tobytes() == expected.tobytes(), name


class Version5(nn.Module):
    """The network of the golden file of version 5 with coats."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(1, 2, 2), nn.Linear(64, 32), nn.Linear(10, 3)
        self.tail = nn.Linear(100, 10, dtype=torch.float16)
        self.register_buffer("steps", torch.tensor(0))


def test_the_golden_file_with_coats_applies_with_gains_times_coats_by_hand() -> None:
    said, _ = READER["read_ticket"](GOLDEN_5_COATS)
    expected = {}
    for name, mask in golden_coats_ticket().masks.items():
        weights = READER["frozen_weights"](said, name)
        each = list(zip(weights.flat, mask.numpy().astype(weights.dtype).flat, strict=True))
        alpha = np.float32(gain_by_hand([abs(float(weight)) for weight, level in each if level])).astype(weights.dtype)
        values = [level * (alpha if weight >= 0 else -alpha) if level else 0 for weight, level in each]
        expected[name] = np.array(values, weights.dtype).reshape(weights.shape)
    expected["head.weight"] = READER["frozen_weights"](said, "head.weight")
    found = effective_by_the_page(GOLDEN_5_COATS, {})
    assert {name: values.tobytes() for name, values in found.items()} == {
        name: expected[name].tobytes() for name in found
    }
    assert [len(np.unique(np.abs(expected[name]))) for name in golden_coats_ticket().masks] == [2, 5, 3]
    model = apply(load(GOLDEN_5_COATS), Version5())
    assert_carries(model, expected)
    assert model.steps.item() == 7


def test_the_golden_file_with_draws_applies_with_the_draw_of_each_edge() -> None:
    said, _ = READER["read_ticket"](GOLDEN_5_DRAWS)
    found = effective_by_the_page(GOLDEN_5_DRAWS, STRUCTURE_2)
    for name, mask in golden_draws_ticket().masks.items():
        streams = [name, *(f"{name}:draw:{number}" for number in range(1, 6))]
        draws = [READER["draw"](said, name, stream, TABLE) for stream in streams]
        for place in np.ndindex(tuple(mask.shape)):
            level = int(mask[place])
            carried = draws[level - 1][place] if level and not (name == "embed.weight" and place[0] == 3) else 0
            assert found[name][place] == carried, (name, place)
    assert golden_draws_ticket().masks["embed.weight"][3].tolist() == [0, 1, 3, 0, 1, 3]
    model = apply(load(GOLDEN_5_DRAWS), Version2())
    assert_carries(model, found)
    assert not any(isinstance(module, BinaryActivation) for module in model.modules())


@pytest.mark.parametrize(("rule", "options"), LEVELLED.values(), ids=LEVELLED)
@pytest.mark.parametrize("coder", ["zstd", "ans"])
def test_what_a_search_with_levels_found_is_computed_by_the_page(
    tmp_path: Path, rule: Rule, options: dict[str, Any], coder: str
) -> None:
    model = Version2()
    attach(model, density=0.6, rule=rule, seed=5, **options)
    for step in range(6):
        for name, edge in edges(model).items():
            edge.scores.data.normal_(generator=torch.Generator().manual_seed(step + len(name)))
        refresh(model)
    save(extract(model), tmp_path / "t", coder=coder)
    ticket = load(tmp_path / "t")
    assert max(int(mask.max()) for mask in ticket.masks.values()) >= 3
    found = effective_by_the_page(tmp_path / "t", STRUCTURE_2)
    assert_carries(apply(ticket, Version2()), found)


@pytest.mark.parametrize("activation", [nn.ReLU, BinaryActivation, nn.Identity])
def test_the_golden_network_computes_with_signs_and_gains(activation: Callable[[], nn.Module]) -> None:
    model = apply(load(GOLDEN / "ticket-v2.safetensors"), Version2(activation))
    plain = Version2(Sign).eval()
    state = {name: torch.from_numpy(values) for name, values in effective_weights_of_version_2().items()}
    norm = {
        "weight": [1.0, -1.0, 0.5, 2.0, 0.25, 1.0],
        "bias": [0.5, 0.0, -0.5, 0.25, 0.0, -0.25],
        "running_mean": [0.0, 0.5, -0.5, 0.25, 0.125, 0.0],
        "running_var": [1.0, 0.5, 2.0, 0.25, 1.0, 4.0],
    }
    state |= {f"body.norm.{key}": torch.tensor(values) for key, values in norm.items()}
    state |= {name: torch.zeros_like(value) for name, value in plain.state_dict().items() if name not in state}
    plain.load_state_dict(state)
    with torch.no_grad():
        assert torch.equal(model(TOKENS), plain(TOKENS))
    gradients = {
        name: module.gradient for name, module in model.named_modules() if isinstance(module, BinaryActivation)
    }
    assert gradients == {"body.act": "bi-real", "act": "clipped-identity"}


# The formula


def test_the_example_of_the_page() -> None:
    weights, mask = np.array([[0.5, -0.25, 3.0, 0.25]], np.float32), np.array([[True, True, False, True]])
    found = READER["effective_weights"]({"binary": {"gain": "layer"}}, "w", weights, mask)
    third = np.frombuffer(bytes.fromhex("3eaaaaab"), ">f4")[0]
    assert found.tolist() == [[third, -third, 0.0, third]]
    assert np.float32(gain_by_hand([0.5, 0.25, 0.25])) == third
    assert 3 * 5726623061 + 1 == 2**34 == 2**33 + 2 * 2**32


@given(
    magnitudes=st.lists(st.floats(2.0**-30, 2.0**30, width=32), min_size=1, max_size=30),
    dtype=st.sampled_from(["float16", "float32", "float64"]),
)
def test_the_integers_of_the_page_give_the_mean(magnitudes: list[float], dtype: str) -> None:
    rounded = [float(value) for value in np.array(magnitudes).clip(2.0**-14, 2.0**15).astype(dtype)]
    mean = sum(map(Fraction, rounded)) / len(rounded)
    assert abs(Fraction(gain_by_hand(rounded)) / mean - 1) < Fraction(len(rounded), 2**33)
    weights = np.array([rounded], dtype)
    found = READER["effective_weights"]({"binary": {"gain": "layer"}}, "w", weights, np.ones_like(weights, bool))
    expected = gain_by_hand(rounded) if dtype == "float64" else np.float32(gain_by_hand(rounded)).astype(dtype)
    assert found.dtype == dtype
    assert set(found.flatten().tolist()) == {float(expected)}


def carried(values: list[float], mask: list[bool]) -> list[float]:
    """Return what a float16 tensor carries under one gain, on the page and in a network alike."""
    weights, kept = np.array([values], np.float16), np.array([mask])
    found = READER["effective_weights"]({"binary": {"gain": "layer"}}, "w", weights, kept)
    weight, groups = torch.from_numpy(weights), GainGroups((1, 1, 1, len(values)))
    module = FixedMask(torch.from_numpy(kept), weight, groups)
    assert module(weight).numpy().tobytes() == found.tobytes()
    return found.flatten().tolist()


def test_zeros_of_either_sign_carry_plus_alpha_and_dropped_edges_plus_zero() -> None:
    assert carried([0.0, -0.0, -1.5, -3.0], [True, True, True, False]) == [0.5, 0.5, -0.5, 0.0]
    assert np.signbit(carried([-0.0, -1.0, -3.0, 2.0], [True, True, False, False])).tolist() == [
        False,
        True,
        False,
        False,
    ]


def test_a_gain_in_float16_is_rounded_to_float32_before() -> None:
    # The mean is 1 + 2⁻¹¹ + 2⁻²⁵: float32 loses the last term, and the tie between 1 and 1 + 2⁻¹⁰ is even at 1.
    step = 2.0**-10
    values = [1.0] * 2**14 + [1 + step] * (2**14 - 1) + [1 + 2 * step]
    assert sum(map(Fraction, values)) / len(values) == 1 + Fraction(1, 2**11) + Fraction(1, 2**25)
    assert set(carried(values, [True] * 2**15)) == {1.0}


@settings(max_examples=40)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)),
    gain=st.sampled_from(["layer", "channel"]),
    law=st.sampled_from(["signed-constant", "unsigned-constant", "kaiming-normal", "kaiming-uniform", "xavier-normal"]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.float64]),
    density=st.floats(0.02, 1),
    seed=st.integers(0, 2**64 - 1),
)
def test_any_convolution_carries_what_the_page_says(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: tuple[int, int, int, int],
    gain: Any,
    law: str,
    dtype: torch.dtype,
    density: float,
    seed: int,
) -> None:
    groups, fan_in, fan_out, side = sizes
    for kind, known in ((nn.Conv2d, {}), (nn.ConvTranspose2d, {"weight": {"groups": groups}})):
        model = kind(groups * fan_in, groups * fan_out, side, groups=groups, dtype=dtype)
        least = 1 / model.weight.numel()
        attach(model, density=max(density, least), binary="weights", gain=gain, weights=law, seed=seed)
        path = tmp_path_factory.getbasetemp() / f"any-{kind.__name__}"
        save(extract(model), path)
        expected = effective_by_the_page(path, known)
        assert_carries(model, expected)
        assert_carries(
            apply(load(path), kind(groups * fan_in, groups * fan_out, side, groups=groups, dtype=dtype)), expected
        )


@pytest.mark.parametrize("gain", ["layer", "channel"])
def test_every_bit_of_a_gain_is_as_the_page_says(tmp_path: Path, gain: Any) -> None:
    # Among so many values of a normal law some are finer than a unit, and float64 shows what becomes of them.
    model = nn.Linear(300, 60, dtype=torch.float64)
    attach(model, density=0.9, binary="weights", gain=gain, weights="kaiming-normal", seed=4)
    save(extract(model), tmp_path / "t")
    assert_carries(model, effective_by_the_page(tmp_path / "t", {}))
    said, masks = READER["read_ticket"](tmp_path / "t")
    weights = READER["frozen_weights"](said, "weight", TABLE)
    for row in (0, 59):
        kept = masks["weight"] & ((np.arange(60) == row)[:, None] | (gain == "layer"))
        alpha = gain_by_hand(np.abs(weights[kept]).tolist())
        assert set(bake(model).state_dict()["weight"][row].abs().tolist()) == {0.0, alpha}


# Through a file and back


class Tokens(nn.Module):
    def __init__(self, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.embed, self.act, self.head = nn.Embedding(9, 6, padding_idx=-7), activation(), nn.Linear(6, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.act(self.embed(tokens)).mean(1))


class Recurrent(nn.Module):
    def __init__(self, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body = nn.LSTM(5, 7, num_layers=2, bidirectional=True, batch_first=True)
        self.act, self.head = activation(), nn.Linear(14, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.body(x)[0]).mean(1))


def dense(activation: Callable[[], nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(12, 10), nn.BatchNorm1d(10), activation(), nn.Linear(10, 4))


def convolutions(activation: Callable[[], nn.Module]) -> nn.Module:
    body = [nn.Conv2d(4, 6, 3, groups=2, padding=1), nn.BatchNorm2d(6), activation()]
    return nn.Sequential(*body, nn.Conv2d(6, 9, 2, groups=3), nn.Flatten(), nn.Linear(81, 4))


def transposed(activation: Callable[[], nn.Module]) -> nn.Module:
    body = [nn.ConvTranspose2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), activation()]
    return nn.Sequential(*body, nn.ConvTranspose2d(6, 3, 2, groups=3), activation(), nn.ConvTranspose2d(3, 2, 3))


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@dataclass
class Network:
    """A network, a batch for it, and what its tensors' layers know."""

    build: Callable[[Callable[[], nn.Module]], nn.Module]
    batch: Tensor
    structure: dict[str, dict[str, int]] = field(default_factory=dict)


NETWORKS = {
    "Linear": Network(dense, noise(8, 12)),
    "grouped Conv2d": Network(convolutions, noise(3, 4, 4, 4)),
    "grouped ConvTranspose2d": Network(
        transposed,
        noise(3, 4, 2, 2),
        {"0.weight": {"groups": 2}, "3.weight": {"groups": 3}, "5.weight": {"groups": 1}},
    ),
    "Embedding": Network(Tokens, torch.tensor([[0, 2, 8], [2, 2, 2], [1, 5, 2]]), {"embed.weight": {"padding": 2}}),
    "LSTM": Network(Recurrent, noise(3, 6, 5)),
}


def searched(network: Network, activation: Callable[[], nn.Module] = nn.ReLU, **choices: Any) -> nn.Module:
    """Return a network some way into a search: its scores moved, its statistics warm."""
    torch.manual_seed(0)
    model = network.build(activation)
    attach(model, **{"density": 0.4, "seed": 3, "binary": "weights+activations", **choices})
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for edge in edges(model).values():
            edge.scores.copy_(torch.randn(edge.scores.shape, generator=generator))
        refresh(model)
        model.train()(network.batch)
    return model.eval()


@pytest.mark.parametrize("law", ["signed-constant", "kaiming-normal", "kaiming-uniform"])
@pytest.mark.parametrize("gain", ["layer", "channel"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_binary_ticket_applies_bit_for_bit(tmp_path: Path, network: Network, gain: Any, law: str) -> None:
    model = searched(network, gain=gain, weights=law)
    save(extract(model), tmp_path / "t")
    torch.manual_seed(9)
    again = apply(load(tmp_path / "t"), network.build(nn.ReLU))

    expected = effective_by_the_page(tmp_path / "t", network.structure)
    assert_carries(model, expected)
    assert_carries(again, expected)
    for values in expected.values():
        most = 1 if gain == "layer" else values.shape[0] * values.shape[1]
        assert 1 <= len(np.unique(np.abs(values[values != 0]))) <= most
    with torch.no_grad():
        wanted = model(network.batch)
        assert torch.equal(again(network.batch), wanted)
        assert wanted.unique().numel() > 4
        assert torch.equal(bake(again)(network.batch), wanted)
    assert to_bytes(extract(again)) == (tmp_path / "t").read_bytes()


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_signed_constant_weight_is_carried_as_it_is_drawn(network: Network) -> None:
    binary = bake(searched(network, binary="weights")).state_dict()
    real = bake(searched(network, binary="none")).state_dict()
    for name, value in real.items():
        assert value.numpy().tobytes() == binary[name].numpy().tobytes(), name


def keys_of(value: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """Yield the path of every key in a JSON value."""
    for key, inner in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from keys_of(inner, *path, key)


@pytest.mark.parametrize("gain", ["layer", "channel"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_a_file_holds_no_gain(network: Network, gain: Any) -> None:
    data = to_bytes(extract(searched(network, gain=gain, weights="kaiming-normal")))
    said, _ = taken_apart(data)
    # The law has a gain of its own: a number that was chosen, null here.
    assert [path for path in keys_of(said) if "gain" in path[-1]] == [("law", "gain"), ("binary", "gain")]
    assert (said["law"]["gain"], said["binary"]["gain"]) == (None, gain)
    plain = network.build(nn.ReLU).state_dict()
    assert {*said["tensors"], *said["stored"]} <= plain.keys()
    real = from_bytes(to_bytes(extract(searched(network, binary="none", weights="kaiming-normal"))))
    binary = from_bytes(data)
    assert binary.stored.keys() == real.stored.keys()
    for name, mask in real.masks.items():
        assert torch.equal(binary.masks[name], mask)


# Activations


def snapshot(model: nn.Module) -> tuple[Any, ...]:
    """Return all that ``apply`` could change about a model."""
    state = {name: (value.dtype, value.numpy().tobytes()) for name, value in model.state_dict().items()}
    flags = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modules = [(name, id(module), type(module), module.training) for name, module in model.named_modules()]
    return state, flags, modules, sorted(vars(model))


def assert_refused(ticket: Ticket, model: nn.Module, message: str) -> None:
    before = snapshot(model)
    with pytest.raises(TicketError, match=rf"^{message}$"):
        apply(ticket, model)
    assert snapshot(model) == before


def test_a_snapshot_shows_what_apply_does() -> None:
    model = dense(nn.ReLU)
    before = snapshot(model)
    apply(extract(searched(NETWORKS["Linear"])), model)
    assert all(one != other for one, other in zip(snapshot(model), before, strict=True))


OTHER = "this ticket is of another network: "


def test_a_ticket_whose_activation_the_model_lacks_is_refused() -> None:
    class Without(Tokens):
        def __init__(self) -> None:
            super().__init__(nn.ReLU)
            del self.act

    ticket = extract(searched(NETWORKS["Embedding"]))
    assert_refused(ticket, Without(), rf"{OTHER}its activation act is no module of the model")
    deeper = replace(ticket, binary=Binary("layer", {"act": "bi-real", "body.act": "bi-real"}))
    assert_refused(deeper, Tokens(nn.ReLU), rf"{OTHER}its activation body\.act is no module of the model")


def test_a_model_with_a_binary_activation_of_its_own_is_refused() -> None:
    real = extract(searched(NETWORKS["Embedding"], binary="weights"))
    assert_refused(real, Tokens(BinaryActivation), rf"{OTHER}act is a binary activation in the model only")
    one = extract(searched(NETWORKS["grouped ConvTranspose2d"], activations=["2"]))
    assert one.binary.activations == {"2": "bi-real"}
    assert_refused(one, transposed(BinaryActivation), rf"{OTHER}4 is a binary activation in the model only")


@pytest.mark.parametrize(("name", "kind"), [("0", "Linear"), ("1", "BatchNorm1d"), ("3", "Linear")])
def test_a_layer_with_weights_is_not_replaced(name: str, kind: str) -> None:
    ticket = extract(searched(NETWORKS["Linear"], bn="learned"))
    odd = replace(ticket, binary=Binary("layer", {**ticket.binary.activations, name: "bi-real"}))
    assert_refused(
        odd,
        dense(nn.ReLU),
        rf"{OTHER}its activation {name} is a {kind} in the model, expected a module without weights or parts of its "
        "own",
    )


def test_a_module_with_parts_is_not_replaced() -> None:
    def two_in_one() -> nn.Module:
        return nn.Sequential(nn.ReLU(), nn.Tanh())

    ticket = extract(searched(NETWORKS["Embedding"]))
    assert_refused(ticket, Tokens(two_in_one), rf"{OTHER}its activation act is a Sequential in the model, expected .*")


@pytest.mark.parametrize("built", [nn.ReLU, BinaryActivation, lambda: BinaryActivation("clipped-identity")])
@pytest.mark.parametrize("found", [nn.ReLU, BinaryActivation])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_binary_activations_are_put_in_place(
    network: Network, found: Callable[[], nn.Module], built: Callable[[], nn.Module]
) -> None:
    model = searched(network, found, activation_gradient="clipped-identity")
    again = apply(from_bytes(to_bytes(extract(model))), network.build(built))
    names = [
        name for name, module in network.build(BinaryActivation).named_modules() if type(module) is BinaryActivation
    ]
    assert names
    for name in names:
        module = again.get_submodule(name)
        assert isinstance(module, BinaryActivation)
        assert (module.gradient, module.training) == ("clipped-identity", False)
    with torch.no_grad():
        assert torch.equal(again(network.batch), model(network.batch))


def test_activations_that_were_not_chosen_stay_as_they_are() -> None:
    network = NETWORKS["grouped ConvTranspose2d"]
    model = searched(network, nn.Tanh, activations=["4"])
    again = apply(from_bytes(to_bytes(extract(model))), transposed(nn.Tanh))
    assert (type(again.get_submodule("2")), type(again.get_submodule("4"))) == (nn.Tanh, BinaryActivation)
    with torch.no_grad():
        assert torch.equal(again(network.batch), model(network.batch))


def test_what_a_replaced_activation_holds_goes_with_it() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("factor", torch.tensor(2.0))

        def forward(self, values: Tensor) -> Tensor:
            return values.clamp(0) * self.factor

    network = NETWORKS["Embedding"]
    model = searched(network, Scaled, activations=["act"])
    ticket = from_bytes(to_bytes(extract(model)))
    assert list(ticket.stored) == []
    for built in (Scaled, nn.ReLU, BinaryActivation):
        with torch.no_grad():
            assert torch.equal(apply(ticket, Tokens(built))(network.batch), model(network.batch))
