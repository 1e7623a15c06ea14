"""The target ``onnx`` with weights of few bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exports import binary_net, found, normal, tokens, transformer
from torch import Tensor, nn

import strongticket as st
from strongticket.errors import ConfigError, ExportError
from strongticket.export.onnx import writing as target
from strongticket.export.onnx.packing import pack
from strongticket.ticket import Ticket

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

BITS = {"int8": 8, "int2": 2}


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 8))


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1),
        nn.BatchNorm2d(5),
        nn.ReLU(),
        nn.ConvTranspose2d(5, 4, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    )


def in_onnxruntime(path: Path, batch: Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    output: np.ndarray = session.run(None, {"input": batch.numpy()})[0]
    return output


CHANNEL_GAINS = {"weights": "kaiming-normal", "binary": "weights", "gain": "channel"}


@pytest.mark.parametrize(
    ("build", "example", "options", "weights"),
    [
        (mlp, normal(3, 12), {}, "int8"),
        (conv_net, normal(2, 2, 6, 6), {}, "int2"),
        (conv_net, normal(2, 2, 6, 6), CHANNEL_GAINS, "int8"),
        (conv_net, normal(2, 2, 6, 6), CHANNEL_GAINS, "int2"),
        (binary_net, normal(3, 2, 4, 4), {}, "int2"),
        (tokens, torch.arange(9).reshape(3, 3), {}, "int2"),
        pytest.param(transformer, normal(2, 5, 8), {}, "int2", marks=pytest.mark.slow),
        pytest.param(lambda: mlp().bfloat16(), normal(3, 12).bfloat16(), {}, "int2", marks=pytest.mark.slow),
    ],
    ids=["mlp", "conv_net", "gains int8", "gains int2", "binary", "tokens", "transformer", "half"],
)
def test_packed_weights_compute_what_torch_computes(
    build: Callable[[], nn.Module], example: Tensor, options: dict[str, Any], weights: str, tmp_path: Path
) -> None:
    ticket, path = found(build, example, **options), tmp_path / "net.onnx"
    report = st.export(ticket, build(), path, to="onnx", example=example, weights=weights)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    assert report.bytes == path.stat().st_size
    plain = st.bake(st.apply(ticket, build())).float().eval()
    for batch in (1, 5):
        inputs = normal(batch, *example.shape[1:], seed=5)
        inputs = inputs if example.is_floating_point() else (inputs.abs() * 3).long().clamp(max=9)
        with torch.no_grad():
            expected = plain(inputs).numpy()
        assert np.abs(expected).max() > 0.01
        np.testing.assert_allclose(in_onnxruntime(path, inputs), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.fixture(scope="module")
def mlp_ticket() -> Ticket:
    """Return a ticket of so many edges that no unit is dead: the files hold whole layers."""
    ticket = found(mlp, normal(3, 12), density=0.75)
    assert all(mask.any(0).all() and mask.any(1).all() for mask in ticket.masks.values())
    return ticket


@pytest.fixture(scope="module")
def mlp_files(mlp_ticket: Ticket, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the file of that network by what its weights are stored as."""
    files = {weights: tmp_path_factory.mktemp("onnx") / f"{weights}.onnx" for weights in ("float", *BITS)}
    for weights, path in files.items():
        st.export(mlp_ticket, mlp(), path, to="onnx", example=normal(3, 12), weights=weights)
    return files


def raw(model: Any, ending: str) -> list[bytes]:
    return [tensor.raw_data for tensor in model.graph.initializer if tensor.name.endswith(ending)]


def signs_of(ticket: Ticket) -> list[np.ndarray]:
    """Return the signs of the masked weights, layer by layer, from a network in torch."""
    state = st.bake(st.apply(ticket, mlp())).state_dict()
    return [np.sign(state[name].numpy()).astype(int) for name in ("1.weight", "3.weight")]


def test_four_weights_stand_in_a_byte_the_first_in_its_lowest_bits(
    mlp_ticket: Ticket, mlp_files: dict[str, Path]
) -> None:
    for data, signs in zip(raw(onnx.load(mlp_files["int2"]), ".signs"), signs_of(mlp_ticket), strict=True):
        values = [int(value) for value in signs.ravel()]
        assert set(values) == {-1, 0, 1}
        expected = bytes(
            sum((value % 4) << (2 * place) for place, value in enumerate(values[start : start + 4]))  # −1 is 0b11
            for start in range(0, len(values), 4)
        )
        assert data == expected


def test_a_weight_is_a_byte_in_int8(mlp_ticket: Ticket, mlp_files: dict[str, Path]) -> None:
    for data, signs in zip(raw(onnx.load(mlp_files["int8"]), ".signs"), signs_of(mlp_ticket), strict=True):
        assert list(np.frombuffer(data, np.int8)) == signs.ravel().tolist()


def test_signs_times_scales_are_the_float_weights_bit_for_bit(mlp_files: dict[str, Path]) -> None:
    plain, packed = (onnx.load(mlp_files[weights]) for weights in ("float", "int8"))
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in plain.graph.initializer if len(t.dims) == 2}
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in packed.graph.initializer}
    unpacked = [node for node in packed.graph.node if node.op_type == "DequantizeLinear"]
    assert len(unpacked) == len(weights) == 2
    for node in unpacked:
        signs, scale = (arrays[name] for name in node.input)
        assert [(a.name, a.i) for a in node.attribute] == [("axis", 0)]
        (name,) = node.output
        np.testing.assert_array_equal(signs * scale[:, None], weights[name])
        assert not (signs * scale[:, None]).astype(np.float32)[signs == 0].any()


@pytest.mark.parametrize(("weights", "opset", "container"), [("int8", 18, 10), ("int2", 25, 13)])
def test_only_standard_operators_of_a_set_that_has_them(
    weights: str, opset: int, container: int, mlp_files: dict[str, Path]
) -> None:
    model = onnx.load(mlp_files[weights])
    assert [(each.domain, each.version) for each in model.opset_import] == [("", opset)]
    assert {node.domain for node in model.graph.node} == {""}
    assert model.ir_version == container
    assert not model.functions
    onnx.checker.check_model(model, full_check=True)


class Mixed(nn.Module):
    """A layer with a mask, and a matrix of real numbers that is no layer's weight."""

    matrix: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(12, 16)
        self.register_buffer("matrix", torch.linspace(-1, 1, 16 * 8).reshape(16, 8))

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.linear(inputs) @ self.matrix
        return output


def test_only_ternary_weights_are_packed(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    st.export(found(Mixed, normal(3, 12)), Mixed(), path, to="onnx", example=normal(3, 12), weights="int2")
    types = {tuple(t.dims): t.data_type for t in onnx.load(path).graph.initializer if len(t.dims) > 1}
    assert types[16, 8] == onnx.TensorProto.FLOAT
    assert onnx.TensorProto.INT2 in (types.get((16, 12)), types.get((12, 16)))


def test_a_transposed_convolution_has_its_scales_along_its_second_dimension(tmp_path: Path) -> None:
    example, path = normal(2, 2, 6, 6), tmp_path / "net.onnx"
    ticket = found(conv_net, example, **CHANNEL_GAINS)
    st.export(ticket, conv_net(), path, to="onnx", example=example, weights="int8")
    model = onnx.load(path)
    (layer,) = (node for node in model.graph.node if node.op_type == "ConvTranspose")
    (unpacked,) = (node for node in model.graph.node if node.output[0] == layer.input[1])
    assert [a.i for a in unpacked.attribute if a.name == "axis"] == [1]


def test_a_file_is_as_small_as_its_weights(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))

    example = normal(2, 256)
    ticket = found(build, example)
    count, channels = 256 * 256 + 256 * 10, 256 + 10
    sizes = {}
    for weights, bits in BITS.items():
        st.export(ticket, build(), tmp_path / weights, to="onnx", example=example, weights=weights)
        sizes[weights] = (tmp_path / weights).stat().st_size
        assert count * bits / 8 + 4 * channels < sizes[weights] < count * bits / 8 + 4 * channels + 4000
    assert sizes["int2"] < 4 * count / 14  # a sixteenth of the float weights, scales and the graph


@pytest.mark.parametrize("weights", ["float", "int8", "int2"])
def test_no_path_of_this_machine_is_in_the_file(weights: str, mlp_files: dict[str, Path]) -> None:
    data = mlp_files[weights].read_bytes()
    for path in (torch.__file__, st.__file__, __file__, mlp_files[weights]):
        assert str(Path(path).parent).encode() not in data


def test_weights_too_large_for_one_file_lie_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(256, 256))

    example, path = normal(2, 256), tmp_path / "net.onnx"
    ticket = found(build, example)
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 5000)
    report = st.export(ticket, build(), path, to="onnx", example=example, weights="int2")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]
    assert path.stat().st_size < 5000
    assert report.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    with torch.no_grad():
        expected = st.bake(st.apply(ticket, build()))(example).numpy()
    np.testing.assert_allclose(in_onnxruntime(path, example), expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_weights_that_lay_beside_the_file_and_are_small_now_move_into_it(tmp_path: Path) -> None:
    weight, path = np.sign(normal(64, 32).numpy()), tmp_path / "net.onnx"
    onnx.save(model_of(weight), path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    assert (tmp_path / "net.onnx.data").stat().st_size == weight.nbytes
    target._pack(path, "int2")
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    batch = normal(2, 64)
    np.testing.assert_allclose(in_onnxruntime(path, batch), batch.numpy() @ weight, rtol=1e-5, atol=1e-5)


# What must get one clear line, and no file.


def assert_refused(match: str, error: type[Exception], folder: Path, **options: Any) -> None:
    ticket = found(mlp, normal(3, 12), **options.pop("law", {}))
    with pytest.raises(error, match=match) as caught:
        st.export(ticket, mlp(), folder / "net.onnx", to="onnx", example=normal(3, 12), **options)
    assert "\n" not in str(caught.value)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("weights", ["int8", "int2"])
def test_real_weights_are_refused_by_name(weights: str, tmp_path: Path) -> None:
    law = {"weights": "kaiming-normal"}
    match = f"^1.weight has kept weights of different magnitude within one channel, and {weights} holds .*; export with"
    assert_refused(match, ExportError, tmp_path, weights=weights, law=law)


def test_packed_weights_that_compute_something_else_leave_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(model: Any, weights: str) -> Any:
        model = pack(model, weights)
        for tensor in model.graph.initializer:
            if tensor.name.endswith(".scale"):
                tensor.raw_data = (onnx.numpy_helper.to_array(tensor) * np.float32(1.001)).tobytes()
        return model

    monkeypatch.setattr(target, "pack", wrong)
    assert_refused("does not compute what the network computes", ExportError, tmp_path, weights="int8")


@pytest.mark.parametrize("weights", ["int4", "FLOAT", None, 8])
def test_unknown_weights_are_refused_with_the_known_ones(weights: Any, tmp_path: Path) -> None:
    match = f"weights {weights!r} are not known; choose one of float, int8, int2"
    assert_refused(match, ConfigError, tmp_path, weights=weights)


def model_of(weight: np.ndarray) -> Any:
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["output"])],
        "net",
        [helper.make_tensor_value_info("input", 1, ["batch", len(weight)])],
        [helper.make_tensor_value_info("output", 1, ["batch", weight.shape[1]])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(
    "weight",
    [normal(8, 8).numpy(), np.zeros((8, 8), np.float32), np.ones((8, 8)), np.float32([[1, -1], [0, 1]])[:, :1]],
    ids=["real", "zero", "double", "smaller as it is"],
)
def test_a_graph_without_ternary_weights_has_nothing_to_pack(weight: np.ndarray) -> None:
    with pytest.raises(ExportError, match="no weight of this graph is ternary, so none can be stored as int8"):
        pack(model_of(weight), "int8")


def test_a_matrix_the_other_way_round_has_a_scale_a_column() -> None:
    weight = np.float32([[1, 0, 3], [-1, 2, 0], [1, -2, -3], [0, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3], [1, 2, 3]])
    packed = pack(model_of(weight), "int8")
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in packed.graph.initializer}
    assert arrays["w.scale"].tolist() == [1, 2, 3]
    np.testing.assert_array_equal(arrays["w.signs"], np.sign(weight))
    session = onnxruntime.InferenceSession(packed.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"input": np.eye(8, dtype=np.float32)})[0], weight)
