from __future__ import annotations

import json

import pytest

from strongticket import data, models
from strongticket.cli import main
from strongticket.cli.shipped import shipped_configs
from strongticket.masks import RULES
from strongticket.weights import LAWS

THERE_IS = {
    "models": models.available(),
    "data": data.available(),
    "rules": RULES,
    "weights": LAWS,
    "configs": shipped_configs(),
}


@pytest.mark.parametrize("what", THERE_IS)
def test_json_is_one_object_with_every_name_and_a_line_about_it(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what, "--json"]) == 0
    listing = json.loads(capsys.readouterr().out)
    assert listing.keys() == {what}
    assert list(listing[what]) == list(THERE_IS[what])
    assert all(line and "\n" not in line for line in listing[what].values())


@pytest.mark.parametrize("what", THERE_IS)
def test_the_table_has_a_line_for_every_name(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", what]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == what
    assert [line.split()[0] for line in lines[2:]] == list(THERE_IS[what])


def test_nothing_but_the_listing_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main(["list", "rules"])
    assert capsys.readouterr().err == ""
