"""``strongticket list``: what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import rich_click as click

from .console import print_json, print_table

# What each listing is made of; imported when asked for, since a listing of configs needs no torch.


def _models() -> Mapping[str, str]:
    from strongticket import models

    return models.available()


def _data() -> Mapping[str, str]:
    from strongticket import data

    return data.available()


def _rules() -> Mapping[str, str]:
    from strongticket.masks import RULES

    return {name: (rule.__doc__ or "").strip().partition("\n")[0] for name, rule in RULES.items()}


def _weights() -> Mapping[str, str]:
    from strongticket.weights import LAWS

    return LAWS


def _configs() -> Mapping[str, str]:
    from .shipped import shipped_configs

    return shipped_configs()


_LISTINGS: Mapping[str, Callable[[], Mapping[str, str]]] = {
    "models": _models,
    "data": _data,
    "rules": _rules,
    "weights": _weights,
    "configs": _configs,
}


@click.command(name="list")
@click.argument("what", type=click.Choice(list(_LISTINGS)))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: {WHAT: {name: description}}.")
def command(what: str, as_json: bool) -> None:
    """Show the names that the other commands take, each with a line about it."""
    listing = _LISTINGS[what]()
    if as_json:
        print_json({what: dict(listing)})
    else:
        print_table([what, ""], listing.items())
