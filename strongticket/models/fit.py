"""Whether a network takes these images and answers with that many classes."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import ModelError
from .text import first_line, shape_text


def check_fits(model: nn.Module, input_shape: tuple[int, int, int], classes: int) -> None:
    """Run two black images through the network in evaluation mode, and check what comes out.

    Nothing of the network changes: no batch-norm statistic, and every module's training flag is put back.

    Parameters
    ----------
    model
        The network; the images go to the device of its first parameter or buffer.
    input_shape
        ``(channels, height, width)`` of one image.
    classes
        The outputs that each image should give.

    Raises
    ------
    ModelError
        If the network raises on this shape, or does not return a tensor ``(2, classes)``.
    """
    name = type(model).__name__
    tensors = [*model.parameters(), *model.buffers()]
    floating = [tensor for tensor in tensors if tensor.is_floating_point()]
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        images = torch.zeros(
            (2, *input_shape),
            device=tensors[0].device if tensors else None,
            dtype=floating[0].dtype if floating else None,
        )
        with torch.no_grad():
            outputs = model(images)
    except Exception as error:  # a layer raises RuntimeError, an assert of the network any kind
        raise ModelError(
            f"the model ({name}) does not take images of shape {shape_text(input_shape)}: {first_line(error)}; "
            f"use data of the shape that it was made for, or another model"
        ) from error
    finally:
        for module, was_training in training.items():
            module.training = was_training
    if not isinstance(outputs, torch.Tensor):
        raise ModelError(
            f"the model ({name}) returns a {type(outputs).__name__}; it must return one tensor (batch, {classes})"
        )
    if outputs.shape != (2, classes):
        raise ModelError(
            f"the model ({name}) answers a batch of 2 with shape {tuple(outputs.shape)}, but the data has {classes} "
            f"classes, so it must be (2, {classes}); build it for {classes} classes"
        )
