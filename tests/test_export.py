"""A ticket as a file for another runtime."""

from __future__ import annotations

import copy
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from exports import Branching, Recurrent, ThreeInputs, conv_net, found, mlp, normal, tokens, transformer
from safetensors import safe_open
from torch import Tensor, nn

import strongticket as st
from strongticket.errors import ConfigError, ExportError, MissingExtraError, TicketError
from strongticket.export import RELATIVE_TOLERANCE, TARGETS, Comparison, ExportReport, Source, Target, check_request
from strongticket.export.c import Memory
from strongticket.ticket import Ticket

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def outputs_of(model: nn.Module, batch: Tensor) -> list[np.ndarray]:
    with torch.no_grad():
        outputs = model(batch)
    return [output.numpy() for output in (outputs if isinstance(outputs, tuple) else (outputs,))]


def outputs_in_onnxruntime(path: Path, batch: Tensor) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, {"input": batch.numpy()})
    return outputs


@pytest.fixture
def example() -> Tensor:
    return normal(4, 12)


@pytest.fixture
def ticket(example: Tensor) -> Ticket:
    return found(mlp, example)


@pytest.mark.parametrize(
    ("build", "example"),
    [
        (mlp, normal(3, 12)),
        (conv_net, normal(2, 2, 6, 6)),
        (transformer, normal(2, 5, 8)),
        pytest.param(Recurrent, normal(2, 5, 4), marks=pytest.mark.slow),
        (tokens, torch.arange(9).reshape(3, 3)),
    ],
    ids=["mlp", "conv_net", "transformer", "recurrent", "tokens"],
)
@pytest.mark.parametrize("batch", [1, 5])
def test_onnxruntime_computes_what_torch_computes(
    build: Callable[[], nn.Module],
    example: Tensor,
    batch: int,
    onnx_file: Callable[..., tuple[Path, ExportReport, Ticket]],
) -> None:
    path, report, ticket = onnx_file(build, example)
    inputs = normal(batch, *example.shape[1:], seed=5)
    inputs = inputs if example.is_floating_point() else (inputs.abs() * 3).long().clamp(max=9)
    expected = outputs_of(st.apply(ticket, build()), inputs)
    assert max(np.abs(e).max() for e in expected) > 0.01
    for e, f in zip(expected, outputs_in_onnxruntime(path, inputs), strict=True):
        np.testing.assert_allclose(f, e, rtol=0, atol=1e-4 * np.abs(e).max())
    assert report.bytes == path.stat().st_size
    assert report.inputs == 16 + 1 + len(example) + 1
    assert report.max_relative <= RELATIVE_TOLERANCE


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, ExportReport, Ticket]]:
    written: dict[Callable[[], nn.Module], tuple[Path, ExportReport, Ticket]] = {}

    def export(build: Callable[[], nn.Module], example: Tensor) -> tuple[Path, ExportReport, Ticket]:
        if build not in written:
            ticket, path = found(build, example), tmp_path_factory.mktemp("onnx") / "net.onnx"
            written[build] = path, st.export(ticket, build(), path, to="onnx", example=example), ticket
        return written[build]

    return export


@pytest.mark.slow
def test_resnet18_computes_the_same_in_onnxruntime(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    example, path = normal(2, 3, 32, 32), tmp_path / "net.onnx"
    ticket = found(resnet18, example)
    report = st.export(ticket, resnet18(), path, to="onnx", example=example)
    assert report.equal_decisions == 1
    model, inputs = st.apply(ticket, resnet18()), normal(5, 3, 32, 32, seed=5)
    (expected,), (output,) = outputs_of(model, inputs), outputs_in_onnxruntime(path, inputs)
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_an_example_of_one_input_still_gives_a_free_batch_dimension(ticket: Ticket, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    report = st.export(ticket, mlp(), path, to="onnx", example=normal(1, 12))
    assert [len(o) for o in outputs_in_onnxruntime(path, normal(7, 12))] == [7]
    (free,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()
    assert (free.name, free.shape) == ("input", ["batch", 12])
    assert report.inputs == 16 + 1 + 1


def test_half_precision_weights_are_written_in_float32(tmp_path: Path) -> None:
    def half() -> nn.Module:
        return mlp().bfloat16()

    ticket = found(half, normal(4, 12).bfloat16())
    path = tmp_path / "net.onnx"
    st.export(ticket, half(), path, to="onnx", example=normal(4, 12))
    (expected,) = outputs_of(st.bake(st.apply(ticket, half())).float(), normal(5, 12))
    (output,) = outputs_in_onnxruntime(path, normal(5, 12))
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("build", [mlp, conv_net, transformer, Recurrent])
def test_safetensors_load_into_the_plain_network_bit_for_bit(build: Callable[[], nn.Module], tmp_path: Path) -> None:
    example = {mlp: normal(3, 12), conv_net: normal(2, 2, 6, 6), transformer: normal(2, 5, 8)}.get(
        build, normal(2, 5, 4)
    )
    ticket, path = found(build, example), tmp_path / "net.safetensors"
    report = st.export(ticket, build(), path, to="safetensors")
    plain = build().eval()
    plain.load_state_dict(safetensors.torch.load_file(path), strict=True)
    for expected, output in zip(
        outputs_of(st.apply(ticket, build()), example), outputs_of(plain, example), strict=True
    ):
        np.testing.assert_array_equal(output, expected)
    assert (report.inputs, report.max_difference, report.bytes) == (0, 0.0, path.stat().st_size)


def test_dropped_edges_are_plus_zero_and_kept_ones_are_the_frozen_weights(ticket: Ticket, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    st.export(ticket, mlp(), path, to="safetensors")
    written = safetensors.torch.load_file(path)
    # Signed constant: ± sqrt(2 / fan in) wherever the mask keeps the edge.
    for name, fan_in in (("1.weight", 12), ("3.weight", 16)):
        mask, weight = ticket.masks[name], written[name]
        torch.testing.assert_close(weight[mask].abs(), torch.full((int(mask.sum()),), (2 / fan_in) ** 0.5))
        assert not weight[~mask].view(torch.int32).any()
    assert not written["1.bias"].view(torch.int32).any()


def test_safetensors_metadata_name_the_frozen_weights(ticket: Ticket, tmp_path: Path) -> None:
    st.export(ticket, mlp(), tmp_path / "net.safetensors", to="safetensors")
    with safe_open(tmp_path / "net.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "weights_digest": ticket.weights_digest}


def test_an_example_sends_the_loaded_weights_through_the_network(ticket: Ticket, tmp_path: Path) -> None:
    report = st.export(ticket, mlp(), tmp_path / "net.safetensors", to="safetensors", example=normal(4, 12))
    assert (report.inputs, report.max_difference, report.equal_decisions) == (8, 0.0, 1.0)


class Tied(nn.Module):
    """Two names for one unmasked parameter, and a buffer that is a transposed view."""

    view: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 3, bias=False)
        self.one = nn.Parameter(torch.arange(3.0))
        self.two = self.one
        self.register_buffer("view", torch.arange(6.0).reshape(2, 3).T)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.linear(inputs) * self.one + self.two + self.view.sum(1)
        return output


def test_shared_and_strided_tensors_are_written_under_every_name(tmp_path: Path) -> None:
    ticket, path = found(Tied, normal(2, 12)), tmp_path / "net.safetensors"
    st.export(ticket, Tied(), path, to="safetensors", example=normal(2, 12))
    written = safetensors.torch.load_file(path)
    assert written["one"].tolist() == written["two"].tolist() == [0, 1, 2]
    assert written["view"].tolist() == [[0, 3], [1, 4], [2, 5]]
    Tied().load_state_dict(written, strict=True)


def test_the_same_ticket_gives_the_same_bytes_whatever_the_memory_format(tmp_path: Path) -> None:
    ticket = found(conv_net, normal(2, 2, 6, 6))
    for index in range(8):
        model = conv_net().to(memory_format=torch.channels_last if index % 2 else torch.contiguous_format)
        st.export(ticket, model, tmp_path / str(index), to="safetensors")
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1


def test_a_state_that_is_no_tensor_is_refused(tmp_path: Path) -> None:
    class Stateful(nn.Linear):
        def get_extra_state(self) -> dict[str, int]:
            return {"steps": 3}

        def set_extra_state(self, state: dict[str, int]) -> None:
            pass

    ticket = found(lambda: nn.Sequential(nn.Linear(12, 3)), normal(2, 12))
    with pytest.raises(ExportError, match=r"^0._extra_state in the state_dict is of type dict"):
        st.export(ticket, nn.Sequential(Stateful(12, 3)), tmp_path / "net", to="safetensors")
    assert list(tmp_path.iterdir()) == []


def test_the_model_stays_as_it_is(ticket: Ticket, tmp_path: Path) -> None:
    model = mlp().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    st.export(ticket, model, tmp_path / "net.safetensors", to="safetensors", example=normal(2, 12))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_a_model_that_carries_the_ticket_gives_the_same_file(ticket: Ticket, tmp_path: Path) -> None:
    applied = st.apply(ticket, mlp()).train()
    st.export(ticket, applied, tmp_path / "applied", to="safetensors")
    st.export(ticket, mlp(), tmp_path / "fresh", to="safetensors")
    assert (tmp_path / "applied").read_bytes() == (tmp_path / "fresh").read_bytes()
    assert applied.training


@pytest.mark.parametrize("options", [{"seed": 8}, {"density": 0.25}])
def test_a_model_that_carries_another_ticket_is_refused(
    ticket: Ticket, tmp_path: Path, options: dict[str, Any]
) -> None:
    other = mlp()
    st.attach(other, **{"density": 0.5, "seed": 7, **options})
    with pytest.raises(ExportError, match="this model carries other weights, masks or statistics than the ticket"):
        st.export(ticket, other, tmp_path / "net", to="safetensors")


def test_a_model_with_other_batch_norm_statistics_is_refused(tmp_path: Path) -> None:
    example = normal(2, 2, 6, 6)
    ticket = found(conv_net, example)
    model = st.apply(ticket, conv_net())
    st.export(ticket, model, tmp_path / "same", to="safetensors")
    model.train()(example)
    with pytest.raises(ExportError, match="statistics"):
        st.export(ticket, model, tmp_path / "moved", to="safetensors")


def test_a_ticket_of_another_network_is_refused(ticket: Ticket, tmp_path: Path) -> None:
    with pytest.raises(TicketError, match="another network"):
        st.export(ticket, conv_net(), tmp_path / "net", to="safetensors")


def test_the_report_is_made_of_json_values(ticket: Ticket, tmp_path: Path) -> None:
    report = st.export(ticket, mlp(), tmp_path / "net", to="safetensors", example=normal(4, 12))
    assert json.loads(json.dumps(report.as_dict())) == {
        "target": "safetensors",
        "path": str(tmp_path / "net"),
        "bytes": (tmp_path / "net").stat().st_size,
        # 259 weights and biases; 240 weights masked, half of them kept, so one bit of entropy each.
        "sizes": {"dense": 4 * 259, "one_bit": 30, "entropy_bound": 30},
        "census": asdict(report.census) if report.census else None,
        "inputs": 8,
        "max_difference": 0.0,
        "max_relative": 0.0,
        "equal_decisions": 1.0,
        "beyond": 0,
        "tolerance": 1e-4,
        "memory": None,
    }


# What must get one clear line, and no file.


def assert_refused(match: str, error: type[Exception], ticket: Ticket, path: Path, **options: Any) -> None:
    before = {file: file.read_bytes() for file in path.parent.iterdir()} if path.parent.exists() else {}
    with pytest.raises(error, match=match) as caught:
        st.export(ticket, options.pop("model", None) or mlp(), path, **options)
    assert "\n" not in str(caught.value)
    assert ({file: file.read_bytes() for file in path.parent.iterdir()} if path.parent.exists() else {}) == before


@pytest.mark.parametrize(
    ("name", "hint"), [("onxx", "did you mean 'onnx'"), ("ONNX", "did you mean 'onnx'"), ("q", "")]
)
def test_an_unknown_target_names_the_targets(ticket: Ticket, tmp_path: Path, name: str, hint: str) -> None:
    assert_refused(f"{name}.*{hint}.*safetensors, onnx", ConfigError, ticket, tmp_path / "net", to=name)


def test_every_target_is_described() -> None:
    assert list(TARGETS) == ["safetensors", "onnx", "c", "openvino", "pt2"]
    assert all(target.description for target in TARGETS.values())


def test_an_existing_file_is_replaced_only_when_asked(ticket: Ticket, tmp_path: Path) -> None:
    path = tmp_path / "net"
    path.write_text("mine")
    assert_refused(
        "exists already; choose another name, or pass overwrite", ExportError, ticket, path, to="safetensors"
    )
    report = st.export(ticket, mlp(), path, to="safetensors", overwrite=True)
    assert path.stat().st_size == report.bytes > 100
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_not_made(ticket: Ticket, tmp_path: Path) -> None:
    assert_refused(
        "folder .*missing does not exist", ExportError, ticket, tmp_path / "missing" / "net", to="safetensors"
    )
    assert not (tmp_path / "missing").exists()


def test_a_folder_is_never_replaced(ticket: Ticket, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    with pytest.raises(ExportError, match="is a folder"):
        st.export(ticket, mlp(), tmp_path / "net", to="safetensors", overwrite=True)


def test_a_full_disk_is_explained(ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert_refused(
        "cannot be written: No space left on device", ExportError, ticket, tmp_path / "net", to="safetensors"
    )


@pytest.mark.parametrize("module", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(
    ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    match = rf"needs {module} .*pip install 'strongticket\[onnx\]'"
    assert_refused(match, MissingExtraError, ticket, tmp_path / "net", to="onnx", example=normal(2, 12))


def test_onnx_needs_an_example(ticket: Ticket, tmp_path: Path) -> None:
    assert_refused("needs an example batch of inputs", ExportError, ticket, tmp_path / "net", to="onnx")


@pytest.mark.parametrize("to", ["safetensors", "onnx"])
def test_an_example_of_the_wrong_shape_is_refused(ticket: Ticket, tmp_path: Path, to: str) -> None:
    match = r"does not take inputs of shape 4x13 \(.*13.*\)"
    assert_refused(match, ExportError, ticket, tmp_path / "net", to=to, example=normal(4, 13))


class Eigen(nn.Module):
    """Uses an operator that ONNX does not have."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 9)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = torch.linalg.eigvals(self.linear(inputs).reshape(-1, 3, 3)).real
        return output


def test_a_network_of_a_fixed_batch_size_still_has_its_weights_written(tmp_path: Path) -> None:
    ticket = found(ThreeInputs, normal(3, 12))
    report = st.export(ticket, ThreeInputs(), tmp_path / "net", to="safetensors", example=normal(3, 12))
    assert report.inputs == 6


@pytest.mark.parametrize(
    ("build", "reason"),
    [(Branching, "data-dependent"), (Eigen, "linalg_eig"), (ThreeInputs, "static shape|[Cc]onstraint")],
)
def test_a_layer_that_onnx_does_not_have_is_explained_in_one_line(
    build: Callable[[], nn.Module], reason: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    example = normal(3, 12)
    ticket = found(build, example)
    match = f"^torch cannot express this network in ONNX: .*({reason})"
    assert_refused(match, ExportError, ticket, tmp_path / "net", to="onnx", model=build(), example=example)
    assert capfd.readouterr() == ("", "")


def test_an_export_prints_nothing_and_leaves_logging_as_it_was(
    ticket: Ticket, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    st.export(ticket, mlp(), tmp_path / "net", to="onnx", example=normal(2, 12))
    assert capfd.readouterr() == ("", "")
    assert logging.root.manager.disable == logging.NOTSET
    assert torch.backends.mha.get_fastpath_enabled()
    assert list(tmp_path.iterdir()) == [tmp_path / "net"]


def test_a_graph_that_computes_something_else_is_caught(
    ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = torch.export.export

    def tampered(model: nn.Module, *args: Any, **options: Any) -> Any:
        model = copy.deepcopy(model)
        weight = model.get_parameter("3.weight")
        with torch.no_grad():
            weight[0, weight[0].nonzero()[0]] *= 1.01
        return honest(model, *args, **options)

    monkeypatch.setattr(torch.export, "export", tampered)
    match = r"largest difference \d.*of the largest output \(allowed 0.0001\).*equal decisions over 22 inputs"
    assert_refused(match, ExportError, ticket, tmp_path / "net", to="onnx", example=normal(4, 12))


def test_one_wrong_bit_in_a_weights_file_is_caught(
    ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = safetensors.torch.save

    def tampered(tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
        data = bytearray(honest(tensors, metadata))
        data[-1] ^= 0x80  # +0 becomes −0, which compares as equal
        return bytes(data)

    monkeypatch.setattr(safetensors.torch, "save", tampered)
    assert_refused("does not read back as it was written", ExportError, ticket, tmp_path / "net", to="safetensors")


def test_a_failed_export_leaves_the_file_it_was_to_replace(
    ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = safetensors.torch.save
    monkeypatch.setattr(
        safetensors.torch, "save", lambda tensors, _: honest({**tensors, "more": torch.ones(1)}, {"a": "b"})
    )
    (tmp_path / "net").write_text("mine")
    assert_refused("does not read back", ExportError, ticket, tmp_path / "net", to="safetensors", overwrite=True)


# Options, and targets that write a folder


def write_folder(source: Source, path: Path, *, text: str = "hello", fail: bool = False) -> Comparison:
    assert list(path.iterdir()) == []
    (path / "one.txt").write_text(text)
    (path / "two.txt").write_text("two")
    if fail:
        raise ExportError("it computes something else; nothing was written")
    return Comparison(inputs=1)


@pytest.fixture
def folder_target(monkeypatch: pytest.MonkeyPatch) -> str:
    target = Target("two files", write_folder, options=("text", "fail"), folder=True)
    monkeypatch.setitem(TARGETS, "two-files", target)  # type: ignore[arg-type]
    return "two-files"


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_a_folder_is_made_or_an_empty_one_filled(ticket: Ticket, tmp_path: Path, folder_target: str) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        report = st.export(ticket, mlp(), tmp_path / name, to=folder_target, text="given")
        assert contents(tmp_path / name) == {"one.txt": "given", "two.txt": "two"}
        assert (report.bytes, report.inputs, report.path) == (8, 1, tmp_path / name)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["empty", "new"]


def test_the_working_directory_may_be_the_folder(
    ticket: Ticket, tmp_path: Path, folder_target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    st.export(ticket, mlp(), ".", to=folder_target)
    assert contents(tmp_path) == {"one.txt": "hello", "two.txt": "two"}


def test_files_of_a_folder_are_replaced_only_when_asked(ticket: Ticket, tmp_path: Path, folder_target: str) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "one.txt").write_text("mine")
    (tmp_path / "net" / "other.txt").write_text("mine")
    match = "net exists already and is not empty; choose another name, or pass overwrite=True"
    with pytest.raises(ExportError, match=match):
        st.export(ticket, mlp(), tmp_path / "net", to=folder_target)
    assert contents(tmp_path / "net") == {"one.txt": "mine", "other.txt": "mine"}
    st.export(ticket, mlp(), tmp_path / "net", to=folder_target, overwrite=True)
    assert contents(tmp_path / "net") == {"one.txt": "hello", "two.txt": "two", "other.txt": "mine"}


def test_a_file_where_a_folder_is_to_be_is_refused(ticket: Ticket, tmp_path: Path, folder_target: str) -> None:
    (tmp_path / "net").write_text("mine")
    match = "net is a file; expected the name of a folder to write"
    assert_refused(match, ExportError, ticket, tmp_path / "net", to=folder_target, overwrite=True)


def test_a_failed_verification_leaves_no_folder(ticket: Ticket, tmp_path: Path, folder_target: str) -> None:
    with pytest.raises(ExportError, match="it computes something else"):
        st.export(ticket, mlp(), tmp_path / "net", to=folder_target, fail=True)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "net").mkdir()
    with pytest.raises(ExportError, match="it computes something else"):
        st.export(ticket, mlp(), tmp_path / "net", to=folder_target, fail=True)
    assert list(tmp_path.rglob("*")) == [tmp_path / "net"]


def test_an_option_that_a_target_does_not_take_names_those_that_do(ticket: Ticket, tmp_path: Path) -> None:
    path = tmp_path / "net"
    match = "export to safetensors takes no option 'weights'; onnx takes it"
    assert_refused(match, ConfigError, ticket, path, to="safetensors", weights="int8")
    match = "export to onnx takes no option 'colour'; no target takes it"
    assert_refused(match, ConfigError, ticket, path, to="onnx", colour="red")


def test_a_request_is_checked_without_a_network(tmp_path: Path, folder_target: str) -> None:
    assert check_request(tmp_path / "net", to=folder_target, text="x") is TARGETS[folder_target]
    with pytest.raises(ConfigError, match="takes no option 'colour'"):
        check_request(tmp_path / "net", to=folder_target, colour="red")
    with pytest.raises(ExportError, match="does not exist; create it first"):
        check_request(tmp_path / "missing" / "net", to=folder_target)
    assert list(tmp_path.iterdir()) == []


def test_a_program_says_how_much_memory_it_takes(
    ticket: Ticket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder_target: str
) -> None:
    memory = Memory(len("two"), 7)
    target = replace(TARGETS[folder_target], memory=lambda path: memory if (path / "two.txt").exists() else None)
    monkeypatch.setitem(TARGETS, folder_target, target)  # type: ignore[arg-type]
    report = st.export(ticket, mlp(), tmp_path / "net", to=folder_target)
    assert report.as_dict()["memory"] == {"table_bytes": 3, "buffer_bytes": 7}


def test_a_target_that_needs_a_graph_names_the_layer_that_has_none(tmp_path: Path) -> None:
    def gelu() -> nn.Module:
        return nn.Sequential(nn.Linear(12, 8), nn.GELU(), nn.Linear(8, 3))

    ticket = found(gelu, normal(4, 12))
    match = r"^1 \(GELU\) has no form here; onnx \(float weights\), pt2 and safetensors take it$"
    assert_refused(match, ExportError, ticket, tmp_path / "net", to="c", model=gelu(), example=normal(4, 12))
    report = st.export(ticket, gelu(), tmp_path / "net", to="safetensors", example=normal(4, 12))
    assert report.census is None


def test_what_cannot_matter_is_counted_and_not_written(tmp_path: Path) -> None:
    ticket = found(mlp, normal(4, 12), density=0.1)
    report = st.export(ticket, mlp(), tmp_path / "net.onnx", to="onnx", example=normal(4, 12))
    # A hidden unit is left if an edge leads to it and one from it; biases are 0, so that others are 0.
    alive = ticket.masks["1.weight"].any(1) & ticket.masks["3.weight"].any(0)
    edges = int(ticket.masks["1.weight"][alive].sum() + ticket.masks["3.weight"][:, alive].sum())
    assert 0 < int(alive.sum()) < 16
    assert report.census is not None
    assert (report.census.before.edges, report.census.after.edges) == (ticket.kept, edges)
    assert (report.census.before.channels, report.census.after.channels) == (19, int(alive.sum()) + 3)
    shapes = {tuple(value.dims) for value in onnx.load(tmp_path / "net.onnx").graph.initializer if len(value.dims) == 2}
    assert {tuple(sorted(shape)) for shape in shapes} == {tuple(sorted((int(alive.sum()), units))) for units in (12, 3)}


def test_safetensors_still_load_into_the_whole_network(tmp_path: Path) -> None:
    ticket = found(mlp, normal(4, 12), density=0.1)
    report = st.export(ticket, mlp(), tmp_path / "net", to="safetensors", example=normal(4, 12))
    assert report.census is not None
    assert report.census.after.channels < report.census.before.channels
    mlp().load_state_dict(safetensors.torch.load_file(tmp_path / "net"), strict=True)
