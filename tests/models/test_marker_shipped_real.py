"""`evaluate --data` with all that ships, on some real patients; nothing is stood in for."""

from __future__ import annotations

import csv
import json

import pytest
from typer.testing import CliRunner

from models.markers import __main__ as command


@pytest.mark.shared
def test_patients_of_shared_are_read_as_the_card_says(shared, tmp_path):
    """One whom nothing learnt from, and two who taught: by the models and the network that ship."""
    source, home = shared / "data" / "tcga_lgg", tmp_path / "three"
    home.mkdir()
    chosen = ("TCGA_FG_6692_20020606", "TCGA_CS_4942_19970222", "TCGA_CS_6186_20000601")
    with (source / "labels.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["case"] in chosen]
    with (home / "labels.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)
    for name in chosen:
        (home / name).symlink_to(source / name)
    told = {}
    for marker in ("idh", "mgmt", "1p/19q"):
        words = ["evaluate", "--marker", marker, "--data", home, "--cache", tmp_path / "cache"]
        done = CliRunner().invoke(command.app, [*map(str, words), "--json", str(tmp_path / "told.json")])
        assert done.exit_code == 0, done.output
        told[marker] = json.loads((tmp_path / "told.json").read_text())
    idh = {p["patient"]: p for p in told["idh"]["patients"]}
    assert (idh["TCGA-FG-6692"]["verdict"], idh["TCGA-FG-6692"]["label"]) == ("unaltered", 0)
    assert idh["TCGA-CS-4942"]["verdict"] == "altered"
    assert told["idh"]["seen_in_training"] == ["TCGA-CS-4942", "TCGA-CS-6186"]
    assert told["idh"]["unseen"]["judged"] == 1
    assert {p["verdict"] for p in told["mgmt"]["patients"]} == {"not assessed"}
    assert told["mgmt"]["coverage"] == 0.0
    assert told["1p/19q"]["marker"] == "codel"
