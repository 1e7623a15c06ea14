"""What a configuration makes of data and networks."""

from __future__ import annotations

import pytest
import torch

from strongticket.cli.assembly import assemble
from strongticket.cli.config import load_config
from strongticket.data import BatchLoader


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
