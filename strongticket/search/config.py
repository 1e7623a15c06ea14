"""What a search is told: one model, one list of options."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ..masks import DensitySchedule

_SEARCH: dict[str, Any] = {"panel": "Search"}
_MACHINE: dict[str, Any] = {"panel": "Machine"}
_DENSE: dict[str, Any] = {"panel": "Dense baseline"}

Optimizer = Literal["sgd", "adam", "adamw", "muon"]


class SearchConfig(BaseModel):
    """The options of a search. Every field has a default; an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    epochs: int = Field(20, ge=1, description="Passes over the training data.", json_schema_extra=_SEARCH)
    optimizer: Optimizer = Field("sgd", description="Optimizer of the scores.", json_schema_extra=_SEARCH)
    learning_rate: float = Field(0.4, gt=0, description="Peak learning rate of the scores.", json_schema_extra=_SEARCH)
    momentum: float = Field(0.9, ge=0, lt=1, description="Momentum (SGD, Muon).", json_schema_extra=_SEARCH)
    nesterov: bool = Field(True, description="Nesterov momentum (SGD, Muon).", json_schema_extra=_SEARCH)
    weight_decay: float = Field(1e-4, ge=0, description="Weight decay on the scores.", json_schema_extra=_SEARCH)
    schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="Learning rate over the search.", json_schema_extra=_SEARCH
    )
    warmup_epochs: float = Field(0.0, ge=0, description="Epochs of linear warm-up.", json_schema_extra=_SEARCH)
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Label smoothing.", json_schema_extra=_SEARCH)
    density_schedule: DensitySchedule = Field(
        "constant", description="How the density reaches its value.", json_schema_extra=_SEARCH
    )
    density_start: float = Field(0.5, gt=0, le=1, description="Density a ramp begins with.", json_schema_extra=_SEARCH)
    density_epochs: float = Field(10.0, gt=0, description="Epochs a density ramp takes.", json_schema_extra=_SEARCH)

    trained_optimizer: Optimizer = Field(
        "sgd", description="Optimizer of the dense network with trained weights.", json_schema_extra=_DENSE
    )
    trained_learning_rate: float = Field(
        0.05, gt=0, description="Its peak learning rate; all else is shared with the search.", json_schema_extra=_DENSE
    )
    trained_weight_decay: float = Field(5e-4, ge=0, description="Its weight decay.", json_schema_extra=_DENSE)

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to run.", json_schema_extra=_MACHINE)
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="Arithmetic; auto is bf16 where the hardware has it.", json_schema_extra=_MACHINE
    )
    channels_last: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Memory format of images; auto is on for convolutional networks.",
        json_schema_extra=_MACHINE,
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto", description="Compile the network; auto is on for long runs on a GPU.", json_schema_extra=_MACHINE
    )
    deterministic: bool = Field(
        False, description="Only arithmetic that a GPU repeats bit for bit; slower.", json_schema_extra=_MACHINE
    )
    checkpoint_minutes: float = Field(
        5.0, ge=0, description="Minutes between checkpoints, within an epoch too.", json_schema_extra=_MACHINE
    )
    checkpoint_epochs: int | None = Field(
        None,
        ge=1,
        description="Epochs between checkpoints; 1 if not given, but less than a twentieth of the time goes into them.",
        json_schema_extra=_MACHINE,
    )

    def for_dense_training(self) -> SearchConfig:
        """Return the same budget with the optimizer of the dense baseline."""
        return self.model_copy(
            update={
                "optimizer": self.trained_optimizer,
                "learning_rate": self.trained_learning_rate,
                "weight_decay": self.trained_weight_decay,
            }
        )


MACHINE_OPTIONS = frozenset(
    name for name, option in SearchConfig.model_fields.items() if option.json_schema_extra == _MACHINE
)
"""The options that say where and how a search runs, and not what it is: it may go on under others."""
