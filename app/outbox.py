"""What is owed to whom: a job's results, kept until every destination has them, and the embedded archive.

A job's results become owed in one step, the journal's transaction; until then a crash means that the job is
processed again, and as the UIDs of results derive from the input, the same objects come out.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from app.config import Settings
from app.files import private_folder, publish_folder, remove_parts
from app.journal import JobState, Journal

LOGGER = logging.getLogger(__name__)


class Outbox:
    """The folders of owed and of archived results; methods may be called from any thread."""

    def __init__(self, settings: Settings, journal: Journal) -> None:
        self._journal = journal
        self._destinations = {each.name: each.segmentation for each in settings.sender.destinations}
        self._folder = private_folder(settings.outbox_dir)
        self._archive = private_folder(settings.archive_dir)

    def reconcile(self) -> None:
        """Remove what a crash left half-made, and what nobody is owed any more; once, at start-up."""
        remove_parts(self._folder)
        for study in self._archive.iterdir():
            remove_parts(study)
        owing = self._journal.owing_jobs()
        for folder in self._folder.iterdir():
            if folder.name not in owing:
                shutil.rmtree(folder)

    def commit(
        self,
        job_id: str,
        files: Sequence[Path],
        beside: Sequence[Path] = (),
        labelmaps: Mapping[Path, Path] | None = None,
    ) -> Path:
        """Settle a job as done: archive its results and owe them to every destination; return the archive folder.

        What is `beside` them is archived only. `labelmaps` tells of a file which other one a labelmap destination is
        owed in its place. A second call for the same job changes nothing.
        """
        job = self._journal.job(job_id)
        if job is None:
            raise ValueError(f"there is no job {job_id}")
        twins = labelmaps or {}
        archive = [*files, *twins.values(), *beside]
        if len({file.name for file in archive}) != len(archive):
            raise ValueError(f"two results of job {job_id} have one name")
        archived = self._archive / job.study_key / job_id
        if job.state is JobState.DONE:
            return archived
        private_folder(archived.parent)
        publish_folder(archive, archived)
        owed = {
            name: [twins.get(file, file) for file in files] if form == "labelmap" else files
            for name, form in self._destinations.items()
        }
        if owed:
            publish_folder(dict.fromkeys(file for each in owed.values() for file in each), self._folder / job_id)
        results = len(files) + len(twins)
        self._journal.job_done(job_id, results, {name: [file.name for file in each] for name, each in owed.items()})
        LOGGER.info("job %s is done: %d results for %d destinations", job_id, results, len(owed))
        return archived

    def path(self, job_id: str, file: str) -> Path:
        """Return where an owed file lies."""
        return self._folder / job_id / file

    def forget_delivered(self, job_id: str) -> None:
        """Remove a job's folder once no destination is owed any of it; the archive keeps the results."""
        if not self._journal.is_owing(job_id):
            shutil.rmtree(self._folder / job_id, ignore_errors=True)
