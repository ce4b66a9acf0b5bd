"""The node, but that a study of three images hangs its first stage and every other fails there; for test_poison."""

from __future__ import annotations

import time

from app.__main__ import main
from operators.errors import MissingSequence
from operators.load_study import LoadStudyOperator
from operators.stage import Job


def process(operator: LoadStudyOperator, job: Job) -> None:
    if len(list(job.study_folder.iterdir())) == 3:
        time.sleep(1e6)
    raise MissingSequence("FLAIR has no candidate")


LoadStudyOperator.process = process

if __name__ == "__main__":
    main()
