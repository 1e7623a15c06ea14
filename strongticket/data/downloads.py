"""The small standard sets, through torchvision's loaders."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from ..errors import DataError
from .splits import ImageData, Split, assemble


@dataclass(frozen=True)
class DownloadedSet:
    """A set of torchvision: its loader's name, where that keeps its files, and how it names the two splits."""

    description: str
    loader: str
    folder: str
    splits: tuple[Mapping[str, Any], Mapping[str, Any]] = ({"train": True}, {"train": False})


DOWNLOADED: Mapping[str, DownloadedSet] = MappingProxyType(
    {
        "mnist": DownloadedSet("handwritten digits, 28x28 grey, 60,000 + 10,000", "MNIST", "MNIST/raw"),
        "fashion-mnist": DownloadedSet(
            "articles of clothing, 28x28 grey, 60,000 + 10,000", "FashionMNIST", "FashionMNIST/raw"
        ),
        "cifar10": DownloadedSet(
            "10 kinds of objects, 32x32 colour, 50,000 + 10,000", "CIFAR10", "cifar-10-batches-py"
        ),
        "cifar100": DownloadedSet(
            "100 kinds of objects, 32x32 colour, 50,000 + 10,000", "CIFAR100", "cifar-100-python"
        ),
        "svhn": DownloadedSet(
            "house numbers, 32x32 colour, 73,257 + 26,032", "SVHN", "", ({"split": "train"}, {"split": "test"})
        ),
    }
)


def load_downloaded(name: str, data_dir: Path, *, download: bool, validation: float, seed: int) -> ImageData:
    """Load one of `DOWNLOADED` from its files below `data_dir`, after fetching them if asked to.

    Raises
    ------
    DataError
        If the files are missing or damaged, or cannot be fetched; the message names their folder.
    """
    known = DOWNLOADED[name]
    folder = data_dir / known.folder
    # Importing torchvision takes a second, which no other command or data set should wait for.
    loader = getattr(importlib.import_module("torchvision.datasets"), known.loader)
    # MNIST's loader prints each mirror that fails; the error below says it once.
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train, test = (loader(data_dir, download=download, **which) for which in known.splits)
    except Exception as error:  # the loaders raise anything from OSError to AssertionError
        reason = " ".join(str(error).split()) or type(error).__name__
        if download:
            problem = (
                f"{name} could not be downloaded to {folder} ({reason}); check the network, or put its files there"
            )
        elif isinstance(error, RuntimeError) and "not found" in reason:
            problem = f"{name} is not in {folder}, or its files there are damaged; --download fetches it"
        else:
            problem = f"the files of {name} in {folder} are damaged ({reason}); remove them, and --download fetches it"
        raise DataError(problem) from error
    parts = [_split(part) for part in (train, test)]
    classes = getattr(train, "classes", None) or [str(label) for label in range(10)]
    return assemble(name, classes=classes, train=parts[0], test=parts[1], validation=validation, seed=seed)


def _split(loaded: Any) -> Split:
    """Return the arrays of a torchvision set, whatever it calls them and in whatever order their dimensions are."""
    images = torch.as_tensor(loaded.data)
    labels = torch.as_tensor(np.asarray(loaded.targets if hasattr(loaded, "targets") else loaded.labels))
    if images.dim() == 3:
        images = images.unsqueeze(1)
    elif images.shape[-1] == 3:
        images = images.permute(0, 3, 1, 2)
    return Split(images.contiguous(), labels.to(torch.int64))
