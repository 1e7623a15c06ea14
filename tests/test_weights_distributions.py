"""The weight laws: their scales by hand, their values by moments, signs and golden digests."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from strongticket.errors import ConfigError
from strongticket.weights import LAWS, Fans, WeightLaw, as_law, draw, scale_of, signs, uniforms

FANS = Fans(50, 200)

# SHA-256 of the little-endian float32 values of seed 42, "conv1.weight", shape (8, 3, 3, 3), scale 0.1.
GOLDEN = {
    "signed-constant": "d4f5c30815f6047717299bec807a35e39740426ff733a3bc0c7e55730b6a6e70",
    "unsigned-constant": "a7fcafe3499090ad0b28a63290274c13907acacd68d25e3c85f0b10ed7868b2e",
    "kaiming-normal": "ee91db6a1c048d80b9c4e3ab9f4c8760e5bb093c7b66ed8fe67699abc002a4e4",
    "kaiming-uniform": "2ef2c6d13861756f094e9461a5fa79f932613af37798b489f72384ee30b4f7d4",
    "xavier-normal": "ee91db6a1c048d80b9c4e3ab9f4c8760e5bb093c7b66ed8fe67699abc002a4e4",
}


@pytest.mark.parametrize("kind", list(LAWS))
def test_values_are_those_of_every_release(kind: str) -> None:
    weight = draw(WeightLaw(kind), 42, "conv1.weight", (8, 3, 3, 3), scale=0.1)
    assert hashlib.sha256(weight.numpy().astype("<f4").tobytes()).hexdigest() == GOLDEN[kind]


@pytest.mark.parametrize("kind", list(LAWS))
@pytest.mark.parametrize("shape", [(), (7,), (4, 5), (2, 3, 1, 5), (0, 3)])
def test_tensors_are_contiguous_float32_of_the_shape_and_may_be_written_to(kind: str, shape: tuple[int, ...]) -> None:
    weight = draw(WeightLaw(kind), 1, "w", shape, scale=2.0)
    assert weight.shape == shape
    assert weight.dtype == torch.float32
    assert weight.is_contiguous()
    weight.zero_()
    assert not draw(WeightLaw(kind), 1, "w", shape, scale=2.0).eq(0).any()


@pytest.mark.parametrize("kind", [kind for kind in LAWS if kind != "unsigned-constant"])
def test_equal_names_repeat_and_other_names_or_seeds_differ(kind: str) -> None:
    law = WeightLaw(kind)
    first = draw(law, 5, "a", (16, 16), scale=1.0)
    assert draw(law, 5, "a", (16, 16), scale=1.0).equal(first)
    assert not draw(law, 5, "b", (16, 16), scale=1.0).equal(first)
    assert not draw(law, 6, "a", (16, 16), scale=1.0).equal(first)


@pytest.mark.parametrize("kind", list(LAWS))
def test_the_first_values_do_not_depend_on_the_shape(kind: str) -> None:
    law = WeightLaw(kind)
    small, large = draw(law, 0, "w", (3, 5), scale=0.3), draw(law, 0, "w", (40, 7), scale=0.3)
    assert small.flatten().equal(large.flatten()[:15])


def test_signed_constants_are_the_signs_times_sigma() -> None:
    weight = draw(WeightLaw("signed-constant"), 9, "w", (200,), scale=0.1)
    sigma = float(np.float32(0.1))
    assert weight.tolist() == [sigma if positive else -sigma for positive in signs(9, "w", 200)]


def test_unsigned_constants_are_sigma_everywhere() -> None:
    assert draw(WeightLaw("unsigned-constant"), 9, "w", (3, 2), scale=0.25).tolist() == [[0.25, 0.25]] * 3


def test_uniform_weights_are_exact_odd_steps_within_the_bound() -> None:
    weight = draw(WeightLaw("kaiming-uniform"), 9, "w", (1000,), scale=1.0).double()
    steps = uniforms(9, "w", 1000).astype(np.float64) * 2**24  # 0 … 2²⁴ − 1
    np.testing.assert_array_equal(weight.numpy(), (2 * steps + 1) / 2**24 - 1)
    assert weight.abs().max() < 1


@pytest.mark.parametrize(
    ("kind", "mean", "variance", "fourth"),
    [
        ("signed-constant", 0, 1, 1),
        ("unsigned-constant", 1, 0, 1),
        ("kaiming-normal", 0, 1, 3),
        ("kaiming-uniform", 0, 1 / 3, 1 / 5),
        ("xavier-normal", 0, 1, 3),
    ],
)
def test_moments_at_scale_one(kind: str, mean: float, variance: float, fourth: float) -> None:
    count = 400_000
    weight = draw(WeightLaw(kind), 0, "statistics", (count,), scale=1.0).double()
    deviation = 4 / math.sqrt(count)
    assert abs(weight.mean().item() - mean) <= deviation
    # Standard deviations: √2 at most for the square about the mean, below 10 for the fourth power.
    assert abs(weight.var().item() - variance) <= deviation * math.sqrt(2)
    assert abs(weight.pow(4).mean().item() - fourth) <= deviation * 10


@pytest.mark.parametrize("kind", ["signed-constant", "kaiming-normal", "kaiming-uniform"])
def test_kaiming_laws_have_variance_two_over_fan_in(kind: str) -> None:
    law = WeightLaw(kind)
    weight = draw(law, 3, "w", (200_000,), scale=scale_of(law, FANS)).double()
    assert weight.var().item() == pytest.approx(2 / 50, rel=0.015)


@pytest.mark.parametrize(
    ("law", "expected"),
    [
        (WeightLaw("signed-constant"), 0.2),  # √2 / √50
        (WeightLaw("unsigned-constant"), 0.2),
        (WeightLaw("kaiming-normal"), 0.2),
        (WeightLaw("kaiming-uniform"), 0.2 * math.sqrt(3)),  # ± √(6 / 50)
        (WeightLaw("xavier-normal"), math.sqrt(2 / 250)),
        (WeightLaw("signed-constant", fan="out"), 0.1),  # √2 / √200
        (WeightLaw("kaiming-uniform", fan="out"), 0.1 * math.sqrt(3)),
        (WeightLaw("xavier-normal", fan="out"), math.sqrt(2 / 250)),
        (WeightLaw("signed-constant", gain=math.sqrt(50)), 1.0),
        (WeightLaw("kaiming-uniform", gain=1), math.sqrt(3 / 50)),
        (WeightLaw("xavier-normal", gain=5), 5 * math.sqrt(2 / 250)),
    ],
)
def test_scales_by_hand(law: WeightLaw, expected: float) -> None:
    assert scale_of(law, FANS) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("kind", list(LAWS))
@pytest.mark.parametrize(("density", "factor"), [(0.25, 2.0), (0.01, 10.0), (1.0, 1.0)])
def test_fewer_kept_edges_make_larger_weights_by_one_over_the_root(kind: str, density: float, factor: float) -> None:
    plain = scale_of(WeightLaw(kind), FANS)
    scaled = scale_of(WeightLaw(kind, scale_by_density=True), FANS, density=density)
    assert scaled / plain == pytest.approx(factor, rel=1e-14)


@pytest.mark.parametrize("kind", list(LAWS))
def test_the_density_plays_no_part_unless_asked_for(kind: str) -> None:
    assert scale_of(WeightLaw(kind), FANS, density=0.1) == scale_of(WeightLaw(kind), FANS)


def test_scaling_by_density_keeps_the_variance_of_a_masked_sum() -> None:
    law = WeightLaw("signed-constant", scale_by_density=True)
    weight = draw(law, 0, "w", (4000, 100), scale=scale_of(law, Fans(100, 4000), density=0.2)).double()
    assert weight[:, :20].sum(dim=1).var().item() == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("density", [0, -0.5, 1.5, math.nan])
def test_a_density_out_of_range_is_refused(density: float) -> None:
    with pytest.raises(ConfigError, match=r"density .* above 0 and at most 1"):
        scale_of(WeightLaw(), FANS, density=density)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan, 1e-40, 1e39])
@pytest.mark.parametrize("kind", list(LAWS))
def test_a_scale_that_float32_cannot_hold_is_refused(kind: str, scale: float) -> None:
    with pytest.raises(ConfigError, match="do not fit float32; choose another gain"):
        draw(WeightLaw(kind), 0, "w", (2,), scale=scale)


@pytest.mark.parametrize("kind", [kind for kind in LAWS if kind != "unsigned-constant"])
def test_a_bad_seed_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match="seed -1 cannot be used"):
        draw(WeightLaw(kind), -1, "w", (2,), scale=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kind": "kaiming-norml"},
            "weight law 'kaiming-norml' is not known (did you mean 'kaiming-normal'?); the laws are signed-constant, "
            "unsigned-constant, kaiming-normal, kaiming-uniform, xavier-normal",
        ),
        ({"kind": None}, "weight law None is not known; the laws are "),
        ({"kind": ["a"]}, "weight law ['a'] is not known; the laws are "),
        ({"gain": 0}, "gain 0 cannot be used; give a positive finite number"),
        ({"gain": -1.5}, "gain -1.5 cannot be used"),
        ({"gain": math.inf}, "gain inf cannot be used"),
        ({"gain": math.nan}, "gain nan cannot be used"),
        ({"gain": 10**400}, "cannot be used; give a positive finite number"),
        ({"gain": True}, "gain True cannot be used"),
        ({"gain": "2"}, "gain '2' cannot be used"),
        ({"fan": "both"}, "fan 'both' is not known; choose 'in' or 'out'"),
        ({"scale_by_density": 1}, "scale_by_density 1 cannot be used; choose true or false"),
    ],
)
def test_a_law_that_cannot_be_used_is_refused_in_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        WeightLaw(**options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("law", [WeightLaw(), WeightLaw("kaiming-uniform", gain=2, fan="out", scale_by_density=True)])
def test_a_law_survives_json(law: WeightLaw) -> None:
    assert WeightLaw.from_dict(json.loads(json.dumps(law.to_dict()))) == law


def test_keys_left_out_have_their_defaults() -> None:
    assert WeightLaw.from_dict({"gain": 3.0}) == WeightLaw("signed-constant", 3.0, "in", False)


def test_an_unknown_key_of_a_law_is_named() -> None:
    with pytest.raises(ConfigError, match="weight law has no key 'sigma'; its keys are kind, gain, fan, scale_by_den"):
        WeightLaw.from_dict({"sigma": 1.0})


def test_a_law_is_given_by_name_or_as_itself() -> None:
    law = WeightLaw("xavier-normal", gain=2.0)
    assert as_law(law) is law
    assert as_law("xavier-normal") == WeightLaw("xavier-normal")
    with pytest.raises(ConfigError, match="did you mean 'signed-constant'"):
        as_law("signed_constant")


def test_the_global_generators_are_left_alone() -> None:
    before = torch.get_rng_state()
    draw(WeightLaw("kaiming-normal"), 0, "w", (100,), scale=1.0)
    assert torch.get_rng_state().equal(before)
