"""One study folder through the same graph as the node's, without a network."""

from __future__ import annotations

import hashlib
import logging
import tempfile
import time
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path

import app
from app.config import Settings
from app.errors import ConfigError, InputError
from app.pipeline import GliomaPipeline
from app.worker import prepare_worker
from models.engine import Model, ModelError, open_model
from models.markers.figure_model import FigureModel, FigureModelError
from models.markers.slice_network import ABOUT, NETWORK, SliceNetwork, SliceNetworkError
from models.novelty import NoveltyError, Reference, load_reference
from models.provenance import TrainingDataError, load_training_data
from models.refine import Refinement, RefinementError, load_refinement, refinement_of
from models.segments import FILE, Channels, SegmentsError, load_channels
from operators.classify import FigureClassifier
from operators.compare_earlier import FindReports, no_reports
from operators.decoder import ChildDecoder
from operators.domain import MarkerName
from operators.native import Worker
from operators.report_content import TrainingData
from operators.stage import Job

LOGGER = logging.getLogger(__name__)


def open_segmenter(settings: Settings) -> Model:
    """Open the configured segmentation model; raises ConfigError with the remedy."""
    try:
        return open_model(
            settings.pipeline.segmenter, settings.models_dir, settings.pipeline.engine, settings.engines_dir
        )
    except ModelError as error:
        raise ConfigError(f"{error}; `python -m app doctor` tells more") from error


def open_channels(settings: Settings, segmenter: Model) -> Channels | None:
    """Read what the channels of the segmenter stand for; None where it has one.

    Raises ConfigError with the remedy where the description is damaged, missing, or not that of the network.
    """
    folder = settings.models_dir / settings.pipeline.segmenter
    try:
        channels = load_channels(folder)
        if channels is not None:
            channels.check_network(segmenter.answer_shape)
    except SegmentsError as error:
        raise ConfigError(f"model {segmenter.name}: {error}; mend {folder / FILE}, see docs/results.md") from error
    if channels is None and len(segmenter.answer_shape) > 3:
        raise ConfigError(
            f"model {segmenter.name} answers with several channels, and nothing says what they stand for: "
            f"write {folder / FILE}, see docs/results.md"
        )
    return channels


def open_reference(settings: Settings) -> Reference | None:
    """Read what the segmenter was trained on; None where nobody said. Raises ConfigError where it is damaged."""
    path = settings.inputs_dir / f"{settings.pipeline.segmenter}.json"
    try:
        return load_reference(path) if path.is_file() else None
    except NoveltyError as error:
        raise ConfigError(f"{error}: python -m models.nasbranet describe-inputs") from error


def open_refinement(settings: Settings) -> Refinement:
    """Read how probabilities become a lesion; raises ConfigError where the file is damaged."""
    try:
        return load_refinement(refinement_of(settings.pipeline.segmenter, settings.inputs_dir))
    except RefinementError as error:
        raise ConfigError(f"{error}; make it anew by python -m models.nasbranet refine") from error


def open_classifiers(settings: Settings) -> dict[MarkerName, FigureClassifier]:
    """Open a model for each marker that has one; raises ConfigError with the remedy where one is damaged."""
    found: dict[MarkerName, FigureClassifier] = {}
    for name in MarkerName:
        folder = settings.models_dir / "markers" / name.value
        if folder.is_dir():
            try:
                found[name] = FigureClassifier(name, FigureModel(name.value, folder))
            except FigureModelError as error:
                raise ConfigError(f"{error}, or restore models/weights from the repository") from error
    return found


def open_network(settings: Settings, name: MarkerName) -> SliceNetwork | None:
    """Open the network that shows where it looked for a marker; None where there is none, or none is wanted.

    Raises ConfigError with the remedy where it is damaged.
    """
    folder = settings.models_dir / "markers" / name.value
    if not settings.results.attention_maps or not any((folder / part).is_file() for part in (ABOUT, NETWORK)):
        return None
    try:
        return SliceNetwork(folder)
    except SliceNetworkError as error:
        raise ConfigError(f"{error}, or restore models/weights from the repository") from error


def open_networks(settings: Settings) -> dict[MarkerName, SliceNetwork]:
    """Open what networks can be opened: they explain, and answer nothing, so a damaged one keeps no node from work."""
    found: dict[MarkerName, SliceNetwork] = {}
    for name in MarkerName:
        try:
            network = open_network(settings, name)
        except ConfigError as error:
            LOGGER.warning("studies go without a map of marker %s: %s; `python -m app doctor` tells more", name, error)
            continue
        if network is not None:
            found[name] = network
    return found


def open_training_data(settings: Settings) -> TrainingData:
    """Read what each model learnt from, for the report page; nothing where nobody said. Raises ConfigError."""
    try:
        return load_training_data(settings.inputs_dir / "training_data.json")
    except TrainingDataError as error:
        raise ConfigError(f"{error}; mend or remove it") from error


def open_pipeline(
    settings: Settings, on_settled: Callable[[Job], None], find_earlier: FindReports = no_reports
) -> GliomaPipeline:
    """Build the graph as the settings say; raises ConfigError as `open_segmenter` does."""
    segmenter = open_segmenter(settings)
    return GliomaPipeline(
        segmenter,
        on_settled,
        Worker(partial(prepare_worker, settings.log.format), settings.preprocess.timeout_seconds),
        version=app.__version__,
        clock=lambda: datetime.now().astimezone(),
        threads=settings.pipeline.scheduler_threads,
        rules=settings.series_rules,
        reference=open_reference(settings),
        refinement=open_refinement(settings),
        channels=open_channels(settings, segmenter),
        classifiers=open_classifiers(settings),
        networks=open_networks(settings),
        limits=settings.quality,
        find_earlier=find_earlier,
        language=settings.report.language,
        training_data=open_training_data(settings),
        labelmap=settings.wants_labelmap,
        probability_map=settings.results.probability_map,
        decoder=ChildDecoder(settings.pixels),
    )


def process_folder(study: Path, out: Path, settings: Settings, on_stage: Callable[[str], None] = lambda _: None) -> Job:
    """Analyse one study folder; `out` receives the results, or nothing where the job fails.

    `on_stage` is told each stage as it is finished. Raises InputError where `out` lies inside the study.
    """
    if out.resolve().is_relative_to(study.resolve()):
        raise InputError("--out lies inside the study folder; give another, or results would be read as input")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=out) as part:
        job = Job(hashlib.sha256(str(study.resolve()).encode()).hexdigest()[:16], study, Path(part))
        _run_once(job, settings, on_stage)
        if job.failure is None:
            job.results = {kind: _publish(path, out) for kind, path in job.results.items()}
    return job


def _publish(path: Path, out: Path) -> Path:
    """Move one finished file to where the user wants it; one of the same name is replaced."""
    return path.replace(out / path.name)


def _run_once(job: Job, settings: Settings, on_stage: Callable[[str], None]) -> None:
    """Run a graph for one job and tell of its progress."""
    pipeline = open_pipeline(settings, lambda _: None)
    try:
        finished = pipeline.run_async()
        pipeline.put(job)
        pipeline.drain()
        told: set[str] = set()
        while not finished.done():
            for stage in [stage for stage in list(job.seconds) if stage not in told]:
                told.add(stage)
                on_stage(stage)
            time.sleep(0.02)
        finished.result()
    finally:
        pipeline.close()
