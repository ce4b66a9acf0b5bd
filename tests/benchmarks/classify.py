"""Seconds of the whole classify stage: figures of the tumour, all markers that ship, and the map of where one looked.

python -m tests.benchmarks.classify                       26 slices with tumour on all, and a phantom study
python -m tests.benchmarks.classify --rounds 9 --json classify.json

No check warns, so that every model is asked. The first round of a process pays for what it loads, and is told apart.
Processor time is what a busy machine changes least. The phantom's tumour is what the network finds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from monai.deploy.core import Fragment

from app.config import load_settings
from app.phantom import PhantomOptions, make_phantom
from app.process import open_classifiers, open_networks, open_refinement, open_segmenter
from models.json_file import write_json
from operators.build_volumes import build_volumes
from operators.classify import ClassifyOperator
from operators.load_study import load_study
from operators.network_view import view_of
from operators.preprocess import preprocess
from operators.segment import segment
from operators.select_series import select_series
from operators.stage import Job
from tests.benchmarks.attention import job_with_tumour, taken

LIMIT_SECONDS = 3.0
"""What the stage may take for 26 slices on two cores."""


def jobs(folder: Path) -> Iterator[tuple[str, Job]]:
    """Make the studies, each ready for the stage."""
    shape = (26, 256, 256)
    synthetic = job_with_tumour(folder, shape, (5.0, 0.9, 0.9))
    synthetic.view = view_of(synthetic.stack)
    yield " x ".join(map(str, shape)) + ", tumour on every slice", synthetic
    (folder / "study").mkdir()
    make_phantom(folder / "study", PhantomOptions())
    study = load_study(folder / "study")
    stack = preprocess(build_volumes(select_series(study)))
    phantom, settings = Job("phantom", folder, folder, study=study, stack=stack, view=view_of(stack)), load_settings()
    phantom.tumour, _ = segment(stack, phantom.view, open_segmenter(settings), open_refinement(settings))
    yield f"phantom, tumour on {phantom.tumour.mask.any(axis=(1, 2)).sum()} of {len(stack.brain)} slices", phantom


def main() -> int:
    """Print a line for each study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, default=None)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    settings, told = load_settings(), {}
    stage = ClassifyOperator(
        Fragment(), name="classify", classifiers=open_classifiers(settings), networks=open_networks(settings)
    )
    with tempfile.TemporaryDirectory() as folder:
        for name, job in jobs(Path(folder)):
            # The stage lets go of the view: each round has a job of its own.
            rounds = [replace(job) for _ in range(given.rounds + 1)]
            first, *rest = [taken(lambda one=one: stage.process(one)) for one in rounds]
            processor, passed = map(min, zip(*rest, strict=True))
            told[name] = {
                "passed_s": round(passed, 3), "processor_s": round(processor, 3),
                "first_passed_s": round(first[1], 3), "first_processor_s": round(first[0], 3),
                "slowest_passed_s": round(max(each[1] for each in rest), 3), "within_limit": passed <= LIMIT_SECONDS,
                "markers": {str(marker.name): str(marker.value) for marker in rounds[-1].markers},
                "maps": len(rounds[-1].attention),
            }  # fmt: skip
            print(f"{name}: {passed:.2f} s passed, {processor:.2f} s of a processor (least of {given.rounds}); "
                  f"the first {first[1]:.2f} and {first[0]:.2f} s")  # fmt: skip
    if given.json is not None:
        content = {"rounds": given.rounds, "cores": len(os.sched_getaffinity(0)), "load": os.getloadavg()[0]}
        write_json(given.json, {**content, "limit_s": LIMIT_SECONDS, "studies": told})
    return 0


if __name__ == "__main__":
    sys.exit(main())
