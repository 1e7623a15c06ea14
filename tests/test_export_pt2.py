"""The target ``pt2``."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from exports import Branching, Recurrent, ThreeInputs, binary_net, conv_net, found, mlp, normal, tokens, transformer
from torch import Tensor, nn

import strongticket as st
from strongticket.errors import ExportError
from strongticket.export import pt2 as target


def outputs_of(model: nn.Module, batch: Tensor) -> list[Tensor]:
    with torch.no_grad():
        outputs = model(batch)
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


@pytest.mark.parametrize(
    ("build", "example"),
    [
        (mlp, normal(3, 12)),
        (conv_net, normal(2, 2, 6, 6)),
        (binary_net, normal(3, 2, 4, 4)),
        (transformer, normal(1, 5, 8)),
        (Recurrent, normal(2, 5, 4)),
        (tokens, torch.arange(9).reshape(3, 3)),
        (lambda: mlp().bfloat16(), normal(3, 12).bfloat16()),
    ],
    ids=["mlp", "conv_net", "binary", "transformer", "recurrent", "tokens", "half"],
)
def test_a_program_that_was_read_back_computes_what_the_network_computes(
    build: Callable[[], nn.Module], example: Tensor, tmp_path: Path
) -> None:
    ticket, path = found(build, example), tmp_path / "net.pt2"
    report = st.export(ticket, build(), path, to="pt2", example=example)
    assert report.bytes == path.stat().st_size
    assert report.inputs == 16 + 1 + len(example) + (len(example) > 1)
    program = torch.export.load(path)
    loaded, plain = program.module(), st.bake(st.apply(ticket, build())).eval()
    for batch in (1, 5):
        inputs = normal(batch, *example.shape[1:], seed=5)
        inputs = inputs.to(example.dtype) if example.is_floating_point() else (inputs.abs() * 3).long().clamp(max=9)
        for expected, output in zip(outputs_of(plain, inputs), outputs_of(loaded, inputs), strict=True):
            assert output.dtype == expected.dtype
            assert expected.abs().max() > 0.01
            torch.testing.assert_close(output, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_the_program_is_made_of_torch_operators_alone(tmp_path: Path) -> None:
    example = normal(3, 2, 4, 4)
    st.export(found(binary_net, example), binary_net(), tmp_path / "net.pt2", to="pt2", example=example)
    calls = [node.target for node in torch.export.load(tmp_path / "net.pt2").graph.nodes if node.op == "call_function"]
    assert {call.namespace for call in calls if call is not operator.getitem} == {"aten"}


def test_neither_the_example_nor_a_path_of_this_machine_is_in_the_file(tmp_path: Path) -> None:
    example = normal(3, 12)
    st.export(found(mlp, example), mlp(), tmp_path / "net.pt2", to="pt2", example=example)
    data = (tmp_path / "net.pt2").read_bytes()
    assert torch.export.load(tmp_path / "net.pt2").example_inputs is None
    assert example.numpy().tobytes()[:32] not in data
    for path in (torch.__file__, st.__file__, __file__):
        assert str(Path(path).parent).encode() not in data


def test_the_weights_of_the_file_are_masked(tmp_path: Path) -> None:
    ticket = found(mlp, normal(3, 12))
    st.export(ticket, mlp(), tmp_path / "net.pt2", to="pt2", example=normal(3, 12))
    state = torch.export.load(tmp_path / "net.pt2").state_dict
    kept = sum(int(torch.count_nonzero(value)) for name, value in state.items() if name.endswith("weight"))
    assert 0 < kept <= sum(int(mask.sum()) for mask in ticket.masks.values())


@pytest.mark.parametrize(
    ("build", "reason"), [(Branching, "data-dependent"), (ThreeInputs, "static shape|[Cc]onstraint|specialized")]
)
def test_a_network_that_cannot_be_traced_is_explained_in_one_line(
    build: Callable[[], nn.Module], reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ticket = found(build, normal(3, 12))
    with pytest.raises(ExportError, match=f"^torch cannot export this network as a program: .*({reason})") as caught:
        st.export(ticket, build(), tmp_path / "net.pt2", to="pt2", example=normal(3, 12))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


class Negated(nn.Module):
    """Another network's outputs with the other sign."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = -self.inner(inputs)
        return output


def test_a_program_that_computes_something_else_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = target.trace
    monkeypatch.setattr(target, "trace", lambda plain, batch: right(Negated(plain), batch))
    with pytest.raises(ExportError, match="does not compute what the network computes"):
        st.export(found(mlp, normal(3, 12)), mlp(), tmp_path / "net.pt2", to="pt2", example=normal(3, 12))
    assert list(tmp_path.iterdir()) == []


def test_an_example_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="the pt2 target needs an example batch of inputs"):
        st.export(found(mlp, normal(3, 12)), mlp(), tmp_path / "net.pt2", to="pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_file_name_without_pt2_will_do_and_nothing_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    st.export(found(mlp, normal(3, 12)), mlp(), tmp_path / "net", to="pt2", example=normal(3, 12))
    assert [file.name for file in tmp_path.iterdir()] == ["net"]
    assert capfd.readouterr() == ("", "")
