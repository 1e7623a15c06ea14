"""From the options of a run to its network, its data and its ticket's provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from strongticket import __version__, attach
from strongticket.data import ImageData, load, make_loader
from strongticket.errors import TicketError
from strongticket.models import build, check_fits
from strongticket.search import Batches, SearchConfig, choose_device

from .config import RunConfig

# What says where a run ran and lies, and not what it is: two tickets of one search differ in none of it.
_PLACE = {"device", "data_dir", "download", "out", "track"}


@dataclass(frozen=True)
class Assembly:
    """Everything a run is made of."""

    config: RunConfig
    data: ImageData

    @property
    def search_config(self) -> SearchConfig:
        """The options that are the search's own."""
        return SearchConfig(**{name: getattr(self.config, name) for name in SearchConfig.model_fields})

    def model(self) -> nn.Module:
        """Return a fresh plain network for the data."""
        config, data = self.config, self.data
        return build(
            config.model,
            input_shape=data.input_shape,
            classes=len(data.classes),
            width=config.width,
            norm=config.norm,
        )

    def attached_model(self) -> nn.Module:
        """Return a fresh network under masks, after checking that it takes the data."""
        config, model = self.config, self.model()
        check_fits(model, self.data.input_shape, len(self.data.classes))
        attach(
            model,
            density=config.density_by_name,
            seed=config.seed,
            rule=config.rule,
            scope=config.scope,
            floor=config.floor,
            weights=config.law,
            bn=config.bn,
            where=config.where or None,
        )
        return model

    def train(self) -> Batches:
        """Return the training batches, shuffled and augmented; the last, smaller one is left out if there are others."""
        drop_last = len(self.data.train) > self.config.batch_size
        return self._loader("train", shuffle=True, augment=self.config.augment, drop_last=drop_last)

    def validation(self) -> Batches | None:
        """Return the held-out batches, None if nothing is held out."""
        return self._loader("validation") if len(self.data.validation) else None

    def test(self) -> Batches:
        """Return the batches of the test split."""
        return self._loader("test")

    def model_spec(self) -> dict[str, Any]:
        """Return how the network is built and what it is fed, as JSON values."""
        config, data = self.config, self.data
        return {
            "name": config.model,
            "width": config.width,
            "norm": config.norm,
            "input_shape": list(data.input_shape),
            "classes": list(data.classes),
            "mean": list(data.mean),
            "std": list(data.std),
        }

    def provenance(self, best_epoch: int, history: list[dict[str, Any]]) -> dict[str, Any]:
        """Return where a ticket comes from, as JSON values that a repeated search gives again."""
        options = self.config.model_dump(mode="json")
        return {
            "strongticket": __version__,
            "torch": torch.__version__,
            "config": {key: value for key, value in options.items() if key not in _PLACE},
            "epoch": best_epoch,
            "validation_accuracy": history[best_epoch - 1]["validation_accuracy"],
        }

    def _loader(self, part: str, **options: Any) -> Batches:
        return make_loader(
            getattr(self.data, part),
            batch_size=self.config.batch_size if part == "train" else 500,
            mean=self.data.mean,
            std=self.data.std,
            seed=self.config.seed,
            device=choose_device(self.config.device),
            channels_last=False,
            **options,
        )


def assemble(config: RunConfig, *, on_progress: Callable[[int, int], None] | None = None) -> Assembly:
    """Load the data of a run; the network is built when it is asked for."""
    data = load(
        config.data,
        data_dir=config.data_dir,
        download=config.download,
        validation=config.validation,
        seed=config.seed,
        image_size=config.image_size,
        on_progress=on_progress,
    )
    return Assembly(config, data)


def network_of(spec: Mapping[str, Any]) -> nn.Module:
    """Return a fresh plain network as a ticket describes it; TicketError if it describes none."""
    try:
        return build(
            spec["name"],
            input_shape=tuple(spec["input_shape"]),
            classes=len(spec["classes"]),
            width=spec["width"],
            norm=spec["norm"],
        )
    except (KeyError, TypeError) as error:
        raise TicketError(
            f"this ticket does not say how its network is built ({error}); it was not found by 'strongticket search': "
            "use strongticket.apply with your own network"
        ) from None
