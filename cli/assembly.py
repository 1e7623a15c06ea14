"""From the options of a run to its network, its data and its ticket's provenance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from strongticket import Ticket, __version__, attach
from strongticket.data import ImageData, load, make_loader
from strongticket.errors import DataError, ModelError, TicketError
from strongticket.models import build, check_fits
from strongticket.models.text import first_line
from strongticket.search import Batches, choose_device

from .config import RunConfig
from .run_folder import PLACE

_MEASURED_AT_ONCE = 500


@dataclass(frozen=True)
class Assembly:
    """Everything a run is made of."""

    config: RunConfig
    data: ImageData

    def model(self) -> nn.Module:
        """Return a fresh plain network for the data, with the activations of the run if they are built in."""
        return self._built(activation=self.config.built_activation)

    def dense_model(self) -> nn.Module:
        """Return the real-valued network of the same shape, the one whose weights are trained for comparison."""
        # A binary variant normalises where its ordinary sibling need not; the two are compared in the same shape.
        binary = self.config.built_activation == "binary"
        return self._built(activation=self.config.activation, norm="batch" if binary else None)

    def attached_model(self) -> nn.Module:
        """Return a fresh network under masks, after checking that it takes the data and can be trained on them."""
        self._check_model()
        config, model = self.config, self.model()
        attach(
            model,
            density=config.density_by_name,
            seed=config.seed,
            rule=config.chosen_rule,
            scope=config.scope,
            floor=config.floor,
            weights=config.law,
            bn=config.bn,
            where=config.where or None,
            binary=config.binary,
            gain=config.gain,
            activations=config.activations or None,
            activation_gradient=config.activation_gradient,
        )
        return model

    def train(self) -> Batches:
        """Return the training batches, shuffled and augmented; a smaller last one is left out if there are others."""
        drop_last = len(self.data.train) > self.config.batch_size
        changes = {"augment": self.config.augment, "crop_padding": self.config.crop_padding, "flips": self.config.flips}
        return self._loader("train", shuffle=True, drop_last=drop_last, **changes)

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
            "activation": config.built_activation,
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
            "config": {key: value for key, value in options.items() if key not in PLACE},
            "epoch": best_epoch,
            "validation_accuracy": history[best_epoch - 1]["validation_accuracy"],
        }

    def fitted_to(self, ticket: Ticket) -> Assembly:
        """Return the same with images normalised as the ticket knows them; DataError if they are of other classes."""
        spec, data = ticket.model, self.data
        try:
            classes, channels = tuple(spec["classes"]), spec["input_shape"][0]
            normalised = replace(data, mean=tuple(spec["mean"]), std=tuple(spec["std"]))
        except (KeyError, TypeError, IndexError):
            return self  # a ticket of somebody's own; whether the data fit is theirs to know
        if (len(classes), channels) != (len(data.classes), data.input_shape[0]):
            raise DataError(
                f"the ticket was found on {len(classes)} classes and images of {channels} channels; {data.name} has "
                f"{len(data.classes)} classes and {data.input_shape[0]} channels: use data like those of its search"
            )
        if classes != data.classes and set(classes) == set(data.classes):
            raise DataError(
                f"the classes of {data.name} stand in another order than in the ticket ({', '.join(classes[:3])}, …); "
                "name them so that they sort alike"
            )
        return replace(self, data=normalised)

    def _built(self, *, activation: str | None, norm: str | None = None) -> nn.Module:
        config, data = self.config, self.data
        return build(
            config.model,
            input_shape=data.input_shape,
            classes=len(data.classes),
            width=config.width,
            norm=config.norm or norm,
            activation=activation,
        )

    def _check_model(self) -> None:
        """Try a network that is then thrown away; ModelError if it does not take the data, or not in training."""
        model, shape = self.model(), self.data.input_shape
        check_fits(model, shape, len(self.data.classes))
        images = torch.zeros(min(2, self.config.batch_size, len(self.data.train)), *shape)
        try:
            with torch.no_grad():
                outputs = model.train()(images)
        except Exception as error:  # whatever a stranger's network raises
            raise ModelError(
                f"the model ({self.config.model}) cannot be trained on batches of {len(images)} images: "
                f"{first_line(error)}; {'use a larger --batch-size' if len(images) == 1 else 'use another model'}"
            ) from error
        if not isinstance(outputs, torch.Tensor):
            raise ModelError(
                f"the model ({self.config.model}) returns a {type(outputs).__name__} in training; "
                "it must return one tensor (batch, classes)"
            )

    def _loader(self, part: str, **options: Any) -> Batches:
        return make_loader(
            getattr(self.data, part),
            batch_size=self.config.batch_size if part == "train" else _MEASURED_AT_ONCE,
            mean=self.data.mean,
            std=self.data.std,
            seed=self.config.seed,
            device=choose_device(self.config.device),
            channels_last=False,
            workers=self.config.workers,
            **options,
        )


def assemble(config: RunConfig, *, on_progress: Callable[[int, int], None] | None = None) -> Assembly:
    """Load the data of a run; the network is built when it is asked for. ConfigError if the device is not there."""
    choose_device(config.device)
    data = load(
        config.data,
        data_dir=config.data_dir,
        download=config.download,
        validation=config.validation,
        seed=config.seed,
        image_size=config.image_size,
        skip_bad_images=config.skip_bad_images,
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
            activation=spec.get("activation"),  # tickets of format 1 name none
        )
    except (KeyError, TypeError) as error:
        raise TicketError(
            f"this ticket does not say how its network is built ({error}); it was not found by 'strongticket search': "
            "use strongticket.apply with your own network"
        ) from None
