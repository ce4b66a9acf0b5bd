"""Command line of NASBraNet: train, evaluate, export, benchmark."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress, track

from models.nasbranet.export import TumourProbability, export_onnx, load_network
from models.nasbranet.judge import judge, network_view
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import NetworkPlan
from models.training import data
from models.training.augment import Slices
from models.training.loop import Schedule, Trainer
from models.training.metrics import mean_interval

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)
console = Console(stderr=True)

Data = Annotated[Path, typer.Option("--data", help="folder with labels.csv and one folder of slices a case")]
Cache = Annotated[Path, typer.Option(help="where prepared cases are kept between runs")]
PlanName = Annotated[str, typer.Option("--plan", help="a plan of models/plans by name, or a JSON file")]


@app.command()
def train(
    data_folder: Data,
    out: Annotated[Path, typer.Option(help="folder for checkpoints and the log; an interrupted run resumes")],
    plan: PlanName = "thesis",
    leave_out: Annotated[list[str] | None, typer.Option(help="leave out cases whose name has this in it")] = None,
    folds: Annotated[int, typer.Option(help="validation is one of this many parts of the patients")] = 5,
    fold: Annotated[int, typer.Option(help="which part")] = 0,
    seed: int = 0,
    epochs: Annotated[str, typer.Option(help="epochs x image scale, one after another")] = "14x0.5,10x0.75,12x1",
    empty_share: Annotated[float, typer.Option(help="tumour-free slices per tumour slice, drawn anew")] = 0.4,
    cache: Cache = Path("runs/prepared"),
) -> None:
    """Train a plan's network; the last epoch's weights count, none is chosen on the validation patients."""
    stages = tuple((int(n), float(s)) for n, s in (part.split("x") for part in epochs.split(",")))
    cases = data.usable(data.read_cases(data_folder), leave_out or ())
    training, held = data.split(cases, folds, fold, seed)
    out.mkdir(parents=True, exist_ok=True)
    names = {"training": [c.name for c in training], "validation": [c.name for c in held]}
    (out / "split.json").write_text(json.dumps(names, indent=1), encoding="utf-8")
    prepared = [data.prepare(c, cache) for c in track(training, "preparing cases", console=console)]
    watched = [data.prepare(c, cache) for c in track(held, "preparing validation", console=console)]
    torch.manual_seed(seed)
    network = NASBraNet(NetworkPlan.load(plan))
    trainer = Trainer(network, Slices(prepared, empty_share, seed), Schedule(stages=stages, seed=seed), out)
    if trainer.resume():
        console.print(f"resuming after epoch {trainer.epoch}")
    with Progress(console=console) as progress:
        trainer.run(progress, lambda: float(np.mean(list(judge(_segmenter(network), watched).values()))))


def _segmenter(network: NASBraNet) -> "judge.Segmenter":  # type: ignore[name-defined]
    """Wrap a torch network as a judge's segmenter."""
    model = TumourProbability(network)

    def segment(image: NDArray[np.float32]) -> NDArray[np.float32]:
        network.eval()
        with torch.inference_mode():
            parts = [model(torch.from_numpy(p).to(memory_format=torch.channels_last)) for p in np.array_split(image, -(-len(image) // 8))]
        return torch.cat(parts).numpy()

    return segment


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    app()
