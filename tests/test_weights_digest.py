"""The digest: what it must see, what it must not see, and its bytes written out by hand."""

from __future__ import annotations

import hashlib
import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from strongticket.weights import digest

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
]


def image_weights() -> Tensor:
    return torch.arange(2 * 3 * 4 * 5, dtype=torch.float32).reshape(2, 3, 4, 5)


def test_bytes_by_hand() -> None:
    tensors = {"b": torch.tensor([[1.0, -2.0]]), "a": torch.tensor([258], dtype=torch.int16)}
    by_hand = (
        struct.pack("<Q1s", 1, b"a")
        + struct.pack("<Q5s", 5, b"int16")
        + struct.pack("<QQ", 8, 1)
        + struct.pack("<Qh", 2, 258)
        + struct.pack("<Q1s", 1, b"b")
        + struct.pack("<Q7s", 7, b"float32")
        + struct.pack("<QQQ", 16, 1, 2)
        + struct.pack("<Qff", 8, 1.0, -2.0)
    )
    assert digest(tensors) == hashlib.sha256(by_hand).hexdigest()


def test_nothing_has_the_digest_of_nothing() -> None:
    assert digest({}) == hashlib.sha256(b"").hexdigest()


def test_memory_format_plays_no_part() -> None:
    weight = image_weights()
    expected = digest({"w": weight})
    assert digest({"w": weight.to(memory_format=torch.channels_last)}) == expected
    assert digest({"w": weight.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)}) == expected
    assert digest({"w": torch.stack([weight, weight], dim=-1)[..., 1]}) == expected
    assert digest({"w": torch.cat([torch.zeros(1, 3, 4, 5), weight])[1:]}) == expected


def test_kernels_of_size_one_have_one_digest_in_every_memory_format() -> None:
    weight = torch.arange(12.0).reshape(4, 3, 1, 1)
    assert digest({"w": weight.to(memory_format=torch.channels_last)}) == digest({"w": weight})


def test_a_transposed_matrix_is_another_matrix() -> None:
    square = torch.arange(9.0).reshape(3, 3)
    assert digest({"w": square.t()}) != digest({"w": square})


def test_order_of_the_mapping_and_gradients_play_no_part() -> None:
    first, second = torch.ones(2), torch.zeros(3)
    assert digest({"x": first, "y": second}) == digest({"y": second, "x": first})
    assert digest({"x": nn.Parameter(first)}) == digest({"x": first})


def test_the_name_is_seen() -> None:
    assert digest({"a": torch.ones(2)}) != digest({"b": torch.ones(2)})


def test_exchanged_tensors_are_seen() -> None:
    first, second = torch.zeros(2), torch.ones(2)
    assert digest({"a": first, "b": second}) != digest({"a": second, "b": first})


def test_a_missing_tensor_is_seen_even_if_it_is_empty() -> None:
    assert digest({"a": torch.ones(2), "b": torch.empty(0)}) != digest({"a": torch.ones(2)})


def test_the_shape_is_seen() -> None:
    shapes = [(6,), (1, 6), (6, 1), (2, 3), (3, 2)]
    assert len({digest({"w": torch.zeros(shape)}) for shape in shapes}) == len(shapes)
    assert digest({"w": torch.empty(0, 3)}) != digest({"w": torch.empty(3, 0)})
    assert digest({"w": torch.tensor(1.0)}) != digest({"w": torch.tensor([1.0])})


def test_the_dtype_is_seen() -> None:
    assert len({digest({"w": torch.zeros(4, dtype=dtype)}) for dtype in DTYPES}) == len(DTYPES)
    # The same bytes under two dtypes of one size:
    halves = torch.zeros(4, dtype=torch.float16)
    assert digest({"w": halves}) != digest({"w": halves.view(torch.bfloat16)})


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_one_value_is_seen(dtype: torch.dtype) -> None:
    weight = torch.zeros(2, 3, dtype=dtype)
    digests = {digest({"w": weight})}
    for i in range(6):
        changed = weight.clone()
        changed.view(-1)[i] = 1
        digests.add(digest({"w": changed}))
    assert len(digests) == 7


@given(position=st.integers(0, 29), bit=st.integers(0, 31))
def test_any_one_bit_is_seen(position: int, bit: int) -> None:
    weight = torch.linspace(-1, 1, 30)
    changed = weight.clone()
    changed.view(torch.int32)[position] ^= (1 << bit) if bit < 31 else -(2**31)
    assert digest({"w": changed}) != digest({"w": weight})


def test_negative_zero_is_not_zero() -> None:
    assert digest({"w": torch.tensor([-0.0])}) != digest({"w": torch.tensor([0.0])})


@pytest.mark.parametrize(("dtype", "one"), [(torch.float16, 0x3C00), (torch.bfloat16, 0x3F80)])
def test_half_precision_values_are_hashed_as_they_are(dtype: torch.dtype, one: int) -> None:
    name = str(dtype).removeprefix("torch.").encode()
    by_hand = struct.pack("<Q1s", 1, b"w") + struct.pack("<Q", len(name)) + name
    by_hand += struct.pack("<QQ", 8, 2) + struct.pack("<QHH", 4, one, one | 0x8000)
    assert digest({"w": torch.tensor([1.0, -1.0], dtype=dtype)}) == hashlib.sha256(by_hand).hexdigest()


def test_a_conjugate_view_is_hashed_by_its_values() -> None:
    weight = torch.tensor([1 + 2j, 3 - 4j])
    assert digest({"w": weight.conj()}) == digest({"w": torch.tensor([1 - 2j, 3 + 4j])})


@pytest.mark.gpu
def test_the_device_plays_no_part() -> None:
    weight = image_weights()
    on_gpu = weight.cuda().to(memory_format=torch.channels_last)
    assert digest({"w": on_gpu}) == digest({"w": weight})
