"""How well a network does on labelled batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from ..errors import ConfigError, DataError
from ..search import Placement
from ..search.loop import Batches

CALIBRATION_BINS = 15

TTA = Literal["none", "flip", "flip-shift"]


@dataclass(frozen=True)
class Measurement:
    """What one pass over labelled examples gave.

    ``accuracy`` in [0, 1]; ``nll`` the mean negative log-likelihood in nats; ``calibration_error`` the
    expected calibration error in [0, 1]; ``correct`` one bool an example, in the order of the data.
    """

    accuracy: float
    nll: float
    calibration_error: float
    correct: NDArray[np.bool_]


@torch.no_grad()
def measure(model: nn.Module, batches: Batches, *, placement: Placement, tta: TTA = "none") -> Measurement:
    """Measure ``model`` in evaluation mode over batches of (input, class index).

    Logits are the weighted mean of those of an example's views. With ``tta="flip"`` these are an image (batch,
    channels, height, width) and its mirror image, left to right; with "flip-shift" the two have half of the weight
    together, and the other half is shared by both moved by one pixel, once up and to the left and once down and to the
    right, 0 moving in: multi-crop evaluation of Jordan 2024 (arXiv 2404.00498). Raises DataError if there are no
    batches, a target is no class of the network, or what is to be mirrored is no image.
    """
    model.eval()
    outputs, targets = [], []
    with parametrize.cached():  # no mask changes, so each masked weight is computed once
        for inputs, labels in batches:
            with placement.autocast():
                views = _views(placement.inputs(inputs), tta)
                outputs.append(torch.stack([weight * model(view).float() for weight, view in views]).sum(0).cpu())
            targets.append(labels.cpu())
    if not outputs:
        raise DataError("there is no batch to evaluate on; expected an iterable of (input, target) batches")
    logits, labels = torch.cat(outputs), torch.cat(targets)
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise DataError(f"a target is class {int(labels.max())}, but the network has {logits.shape[1]} outputs")
    correct = (logits.argmax(1) == labels).numpy()
    return Measurement(
        accuracy=float(correct.mean()),
        nll=float(F.cross_entropy(logits, labels)),
        calibration_error=calibration_error(logits.softmax(1).amax(1).numpy(), correct),
        correct=correct,
    )


def check_tta(tta: str) -> None:
    """Raise ConfigError for a test-time augmentation that there is not."""
    if tta not in get_args(TTA):
        raise ConfigError(f"tta {tta!r} is not known; choose one of {', '.join(get_args(TTA))}")


def _views(inputs: Tensor, tta: TTA) -> list[tuple[float, Tensor]]:
    """Return what a network is to see of its inputs, and how much each counts."""
    if tta == "none":
        return [(1.0, inputs)]
    if inputs.dim() != 4:
        raise DataError(
            f"tta {tta} mirrors images (batch, channels, height, width), and these inputs are {tuple(inputs.shape)}; "
            "evaluate them without it"
        )
    if tta == "flip":
        return [(1 / 2, inputs), (1 / 2, inputs.flip(3))]
    padded = F.pad(inputs, (1, 1, 1, 1))
    moved = padded[:, :, 2:, 2:], padded[:, :, :-2, :-2]
    return [
        (weight, view)
        for weight, image in zip((1 / 4, 1 / 8, 1 / 8), (inputs, *moved), strict=True)
        for view in (image, image.flip(3))
    ]


def calibration_error(
    confidence: NDArray[np.floating], correct: NDArray[np.bool_], *, bins: int = CALIBRATION_BINS
) -> float:
    """Return the expected calibration error Σ_b (n_b/n)·|accuracy_b − confidence_b| over equal-width bins.

    ``confidence`` is the largest class probability of each example, in [0, 1]; bin b holds confidences in
    (b/bins, (b+1)/bins]. Guo et al. 2017 (arXiv 1706.04599), equation 3.
    """
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=correct.astype(float) - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


@dataclass(frozen=True)
class Interval:
    """A difference of two accuracies with its paired bootstrap interval; fractions of 1."""

    difference: float
    low: float
    high: float
    confidence: float


def paired_bootstrap(
    first: NDArray[np.generic],
    second: NDArray[np.generic],
    *,
    confidence: float = 0.95,
    resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """Return mean(first) − mean(second) over the same examples, with a percentile bootstrap interval.

    The vectors hold, in the same order, whether an example was classified correctly (or, over several
    networks, the share that did so, in [0, 1]); examples are resampled in pairs. Efron and Tibshirani
    1993, chapter 13. Raises DataError if the lengths differ.
    """
    if len(first) != len(second):
        raise DataError(f"a paired comparison needs the same examples; got {len(first)} and {len(second)}")
    difference = first.astype(np.float64) - second.astype(np.float64)
    mean = float(difference.mean())
    if np.ptp(difference) == 0:
        return Interval(mean, mean, mean, confidence)
    found = stats.bootstrap(
        (difference,),
        np.mean,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        batch=256,
        random_state=np.random.default_rng(seed),
    )
    return Interval(mean, float(found.confidence_interval.low), float(found.confidence_interval.high), confidence)
