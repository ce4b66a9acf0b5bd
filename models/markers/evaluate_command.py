"""The command that judges: a training's held-out patients, or a model that ships on a folder of patients."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from models.json_file import write_json
from models.markers.crossval import OUTCOMES
from models.markers.labels import ALSO
from models.markers.metrics import attention_shares, by_site, measure, paired
from models.markers.outcomes import Outcome, OutcomeError
from models.markers.plots import draw_reliability, draw_roc
from models.markers.screen import NAMES, site_table, verdict
from models.markers.shipped_command import Asked, evaluate_shipped
from models.nasbranet.export import WEIGHTS
from models.training.data import DataError

SHARES = {
    "inside": "attention inside the tumour",
    "around": "attention inside or within 10 mm",
    "covered": "share of the brain that this is",
}


def evaluate(
    marker: Annotated[str, typer.Option(help="idh, codel (or 1p/19q), mgmt, proliferation; of --run, what it learnt")],
    data_folder: Annotated[
        Path | None,
        typer.Option("--data", help="judge the model that ships on these patients: labels.csv, a folder a case"),
    ] = None,
    run: Annotated[Path | None, typer.Option(help="or judge a training: its folder, with outcomes.json")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="result file")] = None,
    plots: Annotated[Path | None, typer.Option(help="folder for roc.png and reliability.png")] = None,
    threshold: Annotated[float, typer.Option(help="probability from which a patient is called positive")] = 0.5,
    against: Annotated[
        Path | None, typer.Option(help="with --run: outcomes.json of another model, told on common patients too")
    ] = None,
    outlines: Annotated[
        Literal["found", "drawn"],
        typer.Option(help="with --data: the tumour that the network finds, as in the node, or as drawn by hand"),
    ] = "found",
    model: Annotated[
        Path | None, typer.Option(help="with --data: another model's folder (model.skops, calibration.json)")
    ] = None,
    weights: Annotated[Path, typer.Option(help="with --data: ONNX file of the network that finds tumours")] = WEIGHTS,
    score_threshold: Annotated[
        float | None,
        typer.Option(help="with --data: of a score, what lies above is truly positive; default as the model learnt"),
    ] = None,
    leave_out: Annotated[list[str] | None, typer.Option(help="leave out cases with this in their name")] = None,
    cache: Annotated[Path, typer.Option(help="where prepared cases and outlines are kept between runs")] = Path(
        "runs/prepared"
    ),
) -> None:
    """Measure a marker's model, each figure with its 95 % interval by bootstrap over patients.

    With --data the model that ships is asked about each patient as the node asks it; the file names whom it learnt
    from. With --run a training is judged on its held-out patients. The threshold is not chosen on these patients. A
    model whose AUC's interval reaches .5 does not beat chance, and is said not to.
    """
    marker = ALSO.get(marker, marker)
    if not 0.0 <= threshold <= 1.0:
        raise DataError(f"--threshold is a probability, which {threshold:g} is not")
    if (run is None) == (data_folder is None):
        raise DataError("evaluate wants --data, to judge the model that ships, or --run, to judge a training")
    if data_folder is None:
        return _evaluate_run(marker, run or Path(), json_file, plots, threshold, against)
    if against is not None:
        raise DataError("--against goes with --run")
    asked = Asked(
        marker=marker, folder=data_folder, threshold=threshold, drawn=outlines == "drawn", model=model,
        weights=weights, score_threshold=score_threshold, leave_out=tuple(leave_out or ()), cache=cache,
    )  # fmt: skip
    return evaluate_shipped(asked, json_file, plots)


def _evaluate_run(
    marker: str, run: Path, json_file: Path | None, plots: Path | None, threshold: float, against: Path | None
) -> None:
    console = Console(stderr=True)
    outcome = Outcome.load(run / OUTCOMES)
    if outcome.marker != marker:
        raise OutcomeError(f"{run} was trained for {outcome.marker}, not {marker}")
    title = str(outcome.settings.get("title", marker))
    performance = measure(outcome.labels, outcome.probabilities, threshold)
    sites = by_site(outcome, threshold)
    content = {"marker": marker, "title": title, "model": outcome.model, **performance.content(), "sites": sites}
    attention = attention_shares([p.attention for p in outcome.patients if p.attention])
    content |= {"attention": {name: share.content() for name, share in attention.items()}}
    pair = None if against is None else paired(outcome, Outcome.load(against))
    content |= {"against": pair.content()} if pair else {}
    if json_file is not None:
        write_json(json_file, content | {"settings": dict(outcome.settings)})
    if plots is not None:
        draw_roc({outcome.model: outcome}, plots / "roc.png", title)
        draw_reliability(outcome, plots / "reliability.png", title)
    table = Table("figure", "value (95 % interval)", title=f"{title}, {outcome.model}")
    for name, shown in NAMES.items():
        table.add_row(shown, str(performance.figures[name]))
    for name, share in attention.items():
        table.add_row(SHARES[name], str(share))
    if pair is not None:
        table.add_row(f"AUC less the other's ({pair.other:.3f}), {pair.patients} patients", str(pair.difference))
    console.print(table)
    console.print(site_table(sites))
    console.print(verdict(performance))
