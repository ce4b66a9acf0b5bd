"""The MONAI Deploy application: wires the operators, nothing else; and what the node asks of single stages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from holoscan.logger import LogLevel, set_log_level
from holoscan.schedulers import EventBasedScheduler
from monai.deploy.core import Application

from models.engine import Model
from models.markers.slice_network import SliceNetwork
from models.novelty import Reference
from models.refine import Refinement
from models.segments import Channels
from operators.build_volumes import BuildVolumesOperator
from operators.classify import ClassifyOperator, MarkerClassifier
from operators.compare_earlier import CompareEarlierOperator, FindReports, no_reports
from operators.decoder import ChildDecoder
from operators.domain import Contrast, MarkerName
from operators.errors import PipelineError
from operators.headers import DAMAGED
from operators.key_image import KeyImageOperator
from operators.language import Language
from operators.load_study import LoadStudyOperator, load_study
from operators.measure import MeasureOperator
from operators.native import Worker
from operators.preprocess import PreprocessOperator
from operators.quality import QualityOperator
from operators.quality_limits import QualityLimits
from operators.report_content import TrainingData
from operators.segment import SegmentOperator
from operators.select_series import SelectSeriesOperator, recognised
from operators.series_rules import Rules
from operators.stage import Job, QueueSource, SettleOperator
from operators.write_capture import WriteCaptureOperator
from operators.write_measurements import WriteMeasurementsOperator
from operators.write_pdf import PdfOperator
from operators.write_seg import WriteSegOperator
from operators.write_sr import WriteSrOperator

__all__ = ["GliomaPipeline", "has_all_contrasts"]


def has_all_contrasts(folder: Path, rules: Rules = ()) -> bool:
    """Say whether a folder that may still be filling holds all four contrasts; an unreadable one does not."""
    try:
        return len(recognised(load_study(folder), rules)) == len(Contrast)
    except (PipelineError, *DAMAGED):
        # It is asked in the node's main loop; what is wrong is told when the study is analysed.
        return False


class GliomaPipeline(Application):
    """A long-lived graph: jobs go in by `put`, come out, done or failed, at `on_settled`."""

    def __init__(
        self,
        segmenter: Model,
        on_settled: Callable[[Job], None],
        worker: Worker,
        *,
        version: str,
        clock: Callable[[], datetime],
        threads: int = 4,
        rules: Rules = (),
        reference: Reference | None = None,
        refinement: Refinement | None = None,
        channels: Channels | None = None,
        classifiers: Mapping[MarkerName, MarkerClassifier] | None = None,
        networks: Mapping[MarkerName, SliceNetwork] | None = None,
        limits: QualityLimits,
        find_earlier: FindReports = no_reports,
        language: Language = "en",
        training_data: TrainingData | None = None,
        labelmap: bool = False,
        probability_map: bool = False,
        decoder: ChildDecoder | None = None,
    ) -> None:
        """`worker` is started here and warms up meanwhile; `close` ends it, and `decoder`."""
        self._segmenter, self._on_settled, self._version, self._clock = segmenter, on_settled, version, clock
        self._rules, self._reference, self._limits = rules, reference, limits
        self._refinement, self._channels = refinement or Refinement(), channels
        self._classifiers, self._networks = dict(classifiers or {}), dict(networks or {})
        self._worker, self._find_earlier = worker, find_earlier
        self._decoder = decoder or ChildDecoder()
        self._asked: dict[str, Any] = {"labelmap": labelmap, "probability_map": probability_map}
        self._page: dict[str, Any] = {"language": language, "training_data": training_data}
        self._worker.start()
        self._composed = threading.Event()
        super().__init__([])
        set_log_level(LogLevel.ERROR)
        self.scheduler(EventBasedScheduler(self, worker_thread_number=threads, name="scheduler"))

    def compose(self) -> None:
        """Wire the stages: each hands the job to the next."""
        stamp: dict[str, Any] = {"version": self._version, "clock": self._clock}
        self.source = QueueSource(self, name="source")
        stages = [
            self.source,
            LoadStudyOperator(self, name="load"),
            SelectSeriesOperator(self, name="select", rules=self._rules, decoder=self._decoder),
            BuildVolumesOperator(self, name="volumes", decoder=self._decoder),
            PreprocessOperator(self, name="preprocess", worker=self._worker),
            QualityOperator(self, name="quality", reference=self._reference, limits=self._limits),
            SegmentOperator(
                self, name="segment", model=self._segmenter, refinement=self._refinement, channels=self._channels
            ),
            ClassifyOperator(self, name="classify", classifiers=self._classifiers, networks=self._networks),
            MeasureOperator(self, name="measure", spread=self._refinement.spread),
            CompareEarlierOperator(self, name="compare", find=self._find_earlier),
            KeyImageOperator(self, name="key image"),
            WriteSegOperator(self, name="write SEG", **stamp, **self._asked),
            WriteMeasurementsOperator(self, name="write measurements", **stamp),
            WriteCaptureOperator(self, name="write key image", **stamp),
            PdfOperator(self, name="write PDF", **stamp, **self._page),
            WriteSrOperator(self, name="write SR", **stamp),
            SettleOperator(self, name="settle", on_settled=self._on_settled),
        ]
        for upstream, downstream in pairwise(stages):
            self.add_flow(upstream, downstream, {("job_out", "job")})
        self._composed.set()

    def put(self, job: Job) -> None:
        """Queue a job; waits until the graph stands."""
        self._composed.wait()
        self.source.put(job)

    def drain(self) -> None:
        """Finish what is queued, then end the graph."""
        self._composed.wait()
        self.source.drain()

    @property
    def worker_pid(self) -> int | None:
        """Number of the worker process."""
        return self._worker.pid

    @property
    def decoder_pid(self) -> int | None:
        """Number of the process that decodes pixel data, once a study needed it."""
        return self._decoder.pid

    def close(self) -> None:
        """End the processes beside this one; call it when the graph has ended, or never began."""
        self._worker.stop()
        self._decoder.stop()
