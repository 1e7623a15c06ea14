"""Whether a network takes the images and has the right number of outputs."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from strongticket.errors import ModelError
from strongticket.models.fit import check_fits


def message(model: nn.Module, shape: tuple[int, int, int], classes: int) -> str:
    with pytest.raises(ModelError) as caught:
        check_fits(model, shape, classes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_network_that_fits_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2 * 6 * 6, 5))
    model[1].eval()  # a part that the user keeps in evaluation mode
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check_fits(model, (1, 8, 8), 5)
    assert [model.training, model[0].training, model[1].training] == [True, True, False]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_training_flags_are_put_back_after_a_failure() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    message(model, (1, 3, 3), 2)
    assert model.training
    assert model[1].training


def test_a_wrong_shape_names_shape_model_and_what_torch_says() -> None:
    text = message(nn.Sequential(nn.Conv2d(3, 4, 3)), (1, 8, 8), 10)
    assert "(Sequential)" in text
    assert "1x8x8" in text
    assert "3 channels, but got 1 channels" in text


def test_an_assertion_of_the_network_is_a_line_too() -> None:
    class Picky(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.shape[-1] == 224, "wrong image width"
            return images

    assert "wrong image width" in message(Picky(), (3, 32, 32), 10)


def test_a_wrong_number_of_outputs_names_both_numbers() -> None:
    text = message(nn.Sequential(nn.Flatten(), nn.Linear(4, 7)), (1, 2, 2), 10)
    assert "(2, 7)" in text
    assert "10 classes" in text


def test_outputs_that_are_no_tensor_are_refused() -> None:
    class Pair(nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return images, images

    assert "returns a tuple" in message(Pair(), (1, 2, 2), 10)


def test_a_network_of_another_dtype_gets_images_of_its_own() -> None:
    check_fits(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double(), (1, 2, 2), 3)
