"""Whether two runs of a network count as equal."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strongticket.errors import ExportError
from strongticket.export import RELATIVE_TOLERANCE, Comparison
from strongticket.export.text import core_reason, quiet, shape_text
from strongticket.export.verify import check_batches, compare, read_example, require_equal, run_torch


def gives(*outputs: Any) -> Any:
    """Return a run that gives these outputs for any batch."""

    def run(batch: Tensor) -> Sequence[Tensor]:
        return [torch.tensor(output) for output in outputs]

    return run


ONE, TWO = torch.zeros(1, 5), torch.zeros(2, 5)


def test_the_figures_are_those_worked_out_by_hand() -> None:
    expected, found = [[1.0, -4.0, 0.5], [0.0, 2.0, 1.0]], [[1.0, -4.0, 1.5], [0.0, 1.75, 1.0]]
    # Differences 1 and 0.25, largest output 4; the first input's decision moves from 0 to 2.
    assert compare(gives(expected), gives(found), [TWO]) == Comparison(2, 1.0, 0.25, 0.5, beyond=2)


def test_the_scale_is_that_of_each_batch() -> None:
    def reference(batch: Tensor) -> Sequence[Tensor]:
        return [torch.full((len(batch), 2), 100.0 if len(batch) == 2 else 0.5)]

    def other(batch: Tensor) -> Sequence[Tensor]:
        return [reference(batch)[0] + 0.25]

    assert compare(reference, other, [TWO, ONE]) == Comparison(3, 0.25, 0.5, 1.0, beyond=3)


def test_every_output_of_a_network_counts() -> None:
    comparison = compare(gives([[1.0, 2.0]], [[4.0]]), gives([[1.0, 2.0]], [[3.0]]), [ONE])
    assert comparison == Comparison(1, 1.0, 0.25, 1.0, beyond=1)


@pytest.mark.parametrize("shape", [(8, 3), (8,), (8, 2, 2)])
def test_an_input_is_beyond_the_tolerance_by_its_own_outputs(shape: tuple[int, ...]) -> None:
    batch, outputs = torch.zeros(8, 1), torch.full(shape, 100.0)
    moved = outputs.clone()
    moved[1] += 1.0
    moved[5] += 0.009  # below 1e-4 of 100
    moved[6] = math.nan
    assert compare(lambda _: [outputs], lambda _: [moved], [batch]).beyond == 2


def test_only_binary_activations_let_a_quarter_of_the_inputs_differ() -> None:
    quarter = Comparison(inputs=8, max_relative=0.5, beyond=2)
    require_equal(quarter, binary_activations=True)
    with pytest.raises(ExportError, match="does not compute what the network computes"):
        require_equal(quarter)
    with pytest.raises(ExportError, match="does not compute what the network computes"):
        require_equal(Comparison(inputs=8, max_relative=0.5, beyond=3), binary_activations=True)


def test_one_output_an_input_decides_by_its_sign() -> None:
    assert compare(gives([[1.0], [-1.0]]), gives([[2.0], [1.0]]), [TWO]).equal_decisions == 0.5
    assert compare(gives([1.0, -1.0]), gives([2.0, 1.0]), [TWO]).equal_decisions == 0.5


def test_equal_outputs_pass_whatever_they_are() -> None:
    for outputs in ([[0.0, 0.0]], [[math.inf, -math.inf]], [[1e-30, -1e30]]):
        comparison = compare(gives(outputs), gives(outputs), [ONE])
        assert comparison == Comparison(1, 0.0, 0.0, 1.0)
        require_equal(comparison)


@pytest.mark.parametrize(
    ("expected", "found"),
    [
        ([[1.0, math.nan]], [[1.0, math.nan]]),
        ([[1.0, 2.0]], [[1.0, math.nan]]),
        ([[1.0, math.inf]], [[1.0, 2.0]]),
        ([[1.0, math.inf]], [[1.0, -math.inf]]),
        ([[0.0, 0.0]], [[0.0, 1e-30]]),
        ([[1.0, 2.0]], [[1.0, 2.0003]]),
    ],
    ids=["both nan", "nan", "not infinite", "other infinity", "zero expected", "over tolerance"],
)
def test_outputs_that_differ_are_refused(expected: Any, found: Any) -> None:
    same = gives([[1.0, 2.0]])
    comparison = compare(
        lambda batch: gives(expected)(batch) if len(batch) == 2 else same(batch),
        lambda batch: gives(found)(batch) if len(batch) == 2 else same(batch),
        [ONE, TWO, ONE],
    )
    with pytest.raises(ExportError, match=r"does not compute what the network computes.*allowed 0.0001.*4 inputs"):
        require_equal(comparison)


def test_a_difference_of_the_tolerance_itself_passes() -> None:
    require_equal(Comparison(max_relative=RELATIVE_TOLERANCE, equal_decisions=0.0))
    with pytest.raises(ExportError, match=r"0\.00% equal decisions"):
        require_equal(Comparison(max_relative=math.nextafter(RELATIVE_TOLERANCE, 1), equal_decisions=0.0))


def test_outputs_of_another_shape_or_number_are_refused() -> None:
    with pytest.raises(ExportError, match=r"outputs of shape 1x3 for a batch of 1; expected 1x2"):
        compare(gives([[1.0, 2.0]]), gives([[1.0, 2.0, 3.0]]), [ONE])
    with pytest.raises(ExportError, match=r"outputs of shape 1, 1 for a batch of 1; expected 1,"):
        compare(gives([1.0]), gives([1.0], [1.0]), [ONE])


def test_random_and_real_inputs_are_checked_alone_and_in_batches() -> None:
    example = torch.ones(3, 2, 4)
    batches = check_batches(example)
    assert [tuple(batch.shape) for batch in batches] == [(16, 2, 4), (1, 2, 4), (3, 2, 4), (1, 2, 4)]
    assert torch.equal(batches[2], example)
    assert [len(batch) for batch in check_batches(example[:1])] == [16, 1, 1]
    assert [len(batch) for batch in check_batches(example, any_size=False)] == [3, 3]
    assert [len(batch) for batch in check_batches(example[:1], any_size=False)] == [1, 1]


def test_random_inputs_are_normal_and_the_same_each_time() -> None:
    random = check_batches(torch.zeros(1, 1000))[0]
    assert torch.equal(random, check_batches(torch.zeros(1, 1000))[0])
    assert not torch.equal(random, check_batches(torch.zeros(1, 1000), seed=1)[0])
    # Standard errors over 16,000 draws: 0.008 of the mean, 0.006 of the standard deviation.
    assert abs(float(random.mean())) < 0.04
    assert abs(float(random.std()) - 1) < 0.03


def test_random_inputs_touch_no_global_generator() -> None:
    before = torch.get_rng_state()
    check_batches(torch.zeros(2, 3))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("example", [torch.tensor([[3, 7]]), torch.tensor([[True, False]])])
def test_random_ids_and_flags_are_values_of_the_example(example: Tensor) -> None:
    random = check_batches(example)[0]
    assert random.dtype == example.dtype
    assert random.shape == (16, 2)
    assert set(random.flatten().tolist()) == set(example.flatten().tolist())


def test_an_example_is_a_tensor_or_a_batch_with_targets() -> None:
    model, inputs = nn.Linear(5, 2), torch.ones(3, 5)
    for example in (inputs, (inputs, torch.zeros(3)), [inputs, torch.zeros(3)], inputs.double()):
        assert torch.equal(read_example(example, model), inputs)


def test_an_example_is_converted_to_the_dtype_of_the_network() -> None:
    assert read_example(torch.ones(3, 5), nn.Linear(5, 2).double()).dtype == torch.float64
    assert read_example(torch.ones(3, 5, dtype=torch.int64), nn.Flatten()).dtype == torch.int64


@pytest.mark.parametrize(
    ("example", "message"),
    [
        ("images", "example is of type str; expected a tensor of inputs"),
        ([], "example is of type list"),
        (torch.tensor(1.0), r"example has shape \(\); expected at least one input"),
        (torch.zeros(0, 5), "example has shape 0x5; expected at least one input"),
        (torch.zeros(2, 6), r"does not take inputs of shape 2x6 \(.*2x6 and 5x2"),
    ],
)
def test_an_example_that_cannot_be_used_is_refused_in_one_line(example: object, message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        read_example(example, nn.Linear(5, 2))
    assert "\n" not in str(caught.value)


def test_a_network_that_gives_no_tensor_is_refused() -> None:
    class Silent(nn.Module):
        def forward(self, inputs: Tensor) -> None:
            return None

    with pytest.raises(ExportError, match="gives no tensor"):
        read_example(torch.ones(2, 5), Silent())


def test_the_tensors_of_a_structure_are_taken_in_order() -> None:
    class Structured(nn.Module):
        def forward(self, inputs: Tensor) -> dict[str, Any]:
            return {"out": inputs, "none": None, "more": (inputs + 1, 3)}

    assert [float(output) for output in run_torch(Structured(), torch.zeros(1))] == [0.0, 1.0]


def test_the_core_reason_is_the_innermost_cause_in_one_line() -> None:
    inner, outer = ValueError("\nno such layer\nsecond line"), RuntimeError("failed. Next steps:\n- ask")
    outer.__cause__ = inner
    assert core_reason(outer) == "no such layer"
    assert core_reason(RuntimeError("conflicts:\n- one is two\n- more")) == "conflicts: one is two"
    assert core_reason(KeyError()) == "KeyError"
    assert len(core_reason(ValueError("x" * 1000))) == 240


def test_a_shape_reads_as_a_person_writes_it() -> None:
    assert [shape_text(()), shape_text((5,)), shape_text((2, 3, 4))] == ["()", "5", "2x3x4"]


def test_quiet_swallows_warnings_and_prints_but_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    def talk() -> None:
        warnings.warn("unheard", stacklevel=1)
        print("unseen")
        logging.getLogger("torch.onnx").error("unlogged")
        raise ValueError("heard")

    with pytest.raises(ValueError, match="heard"), quiet():
        talk()
    assert capsys.readouterr() == ("", "")
    with pytest.warns(UserWarning, match="again"):
        warnings.warn("again", stacklevel=1)
