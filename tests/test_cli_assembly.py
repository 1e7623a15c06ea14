"""What a configuration makes of data and networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from strongticket.cli.assembly import assemble, network_of
from strongticket.cli.config import load_config
from strongticket.data import BatchLoader


def names(model: nn.Module) -> set[str]:
    return {type(module).__name__ for module in model.modules()}


def test_the_activation_reaches_the_network_the_dense_one_and_the_ticket() -> None:
    parts = assemble(load_config(None, {"activation": "silu"}))
    for model in (parts.model(), parts.dense_model(), network_of(parts.model_spec())):
        assert "SiLU" in names(model)
        assert "ReLU" not in names(model)


def test_named_modules_become_binary_in_a_network_of_another_activation() -> None:
    options = {"activation": "silu", "binary": "weights+activations", "activations": ("silu_fc1",)}
    parts = assemble(load_config(None, options))
    assert {"SiLU", "BinaryActivation"} <= names(parts.attached_model())
    assert "BinaryActivation" not in names(parts.dense_model())


def test_alternating_flips_turn_every_training_image_from_one_epoch_to_the_next() -> None:
    options = {"augment": "flip", "flips": "alternating", "batch_size": 1293}
    train = assemble(load_config(None, options)).train()
    assert isinstance(train, BatchLoader)
    epochs = []
    for epoch in range(2):
        train.set_epoch(epoch)
        (inputs, _), *_ = train
        epochs.append({image.numpy().tobytes() for image in inputs})
        mirrored = {image.numpy().tobytes() for image in inputs.flip(3)}
    assert epochs[0] == mirrored


@pytest.mark.parametrize("padding", [0, 1, 3])
def test_crops_shift_training_images_by_as_many_pixels_as_were_asked_for(padding: int) -> None:
    parts = assemble(load_config(None, {"augment": "crop-flip", "crop_padding": padding, "batch_size": 200}))
    train = parts.train()
    assert isinstance(train, BatchLoader)
    inputs, _ = next(iter(train))
    # A row of pixels that came in is 0 after normalisation, which no grey value of the digits is.
    came_in = (inputs == 0).all(dim=1).all(dim=2).sum(dim=1)
    assert int(came_in.max()) == padding
    assert torch.isfinite(inputs).all()
