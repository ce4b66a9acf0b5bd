"""What is owed to whom: a job's results, kept until every destination has them, and the embedded archive.

A job's results become owed in one step, the journal's transaction; until then a crash means that the job is
processed again, and as the UIDs of results derive from the input, the same objects come out.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from app.config import Settings
from app.files import PART, link_or_copy, private_folder, publish_folder, remove_parts, sync_folder
from app.journal import DeliveryRow, DeliveryState, JobState, Journal
from app.tally import DeliveryTally

if TYPE_CHECKING:
    # Loaded where a destination asks for it.
    from app.deidentify import OwedCopies

LOGGER = logging.getLogger(__name__)


class Outbox:
    """The folders of owed and of archived results; methods may be called from any thread."""

    def __init__(self, settings: Settings, journal: Journal, tally: DeliveryTally | None = None) -> None:
        """Raises ConfigError where a destination wants results de-identified, and there is no secret to do it with."""
        self._journal, self._tally = journal, tally
        self._destinations = settings.sender.destinations
        self._copies = _copies(settings)
        self._folder = private_folder(settings.outbox_dir)
        self._archive = private_folder(settings.archive_dir)

    def reconcile(self) -> None:
        """Remove what a crash left half-made, and what nobody is owed any more, and make what is; once, at start-up."""
        remove_parts(self._folder)
        for study in self._archive.iterdir():
            remove_parts(study)
        owing = self._journal.owing_jobs()
        for folder in self._folder.iterdir():
            if folder.name not in owing:
                shutil.rmtree(folder)
        self._make_missing()

    def commit(
        self,
        job_id: str,
        files: Sequence[Path],
        beside: Sequence[Path] = (),
        labelmaps: Mapping[Path, Path] | None = None,
    ) -> Path:
        """Settle a job as done: archive its results and owe them to every destination; return the archive folder.

        What is `beside` them is archived only. `labelmaps` tells of a file which other one a labelmap destination is
        owed in its place. A destination that wants results de-identified is owed copies, and none of the report page. A
        second call for the same job changes nothing.
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
        owed: dict[str, Sequence[Path]] = {
            each.name: [twins.get(file, file) for file in files] if each.segmentation == "labelmap" else files
            for each in self._destinations
        }
        staging = self._folder / f".{job_id}-deidentified{PART}"
        try:
            failed = self._copies.replace(owed, staging) if self._copies else {}
            if owed:
                publish_folder(dict.fromkeys(file for each in owed.values() for file in each), self._folder / job_id)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        results = len(files) + len(twins)
        names = {name: [*(file.name for file in each), *failed.get(name, ())] for name, each in owed.items()}
        self._journal.job_done(job_id, results, names)
        LOGGER.info("job %s is done: %d results for %d destinations", job_id, results, len(owed))
        for row in self._journal.deliveries(job_id) if failed else ():
            if why := failed.get(row.destination, {}).get(row.file):
                self._give_up(row, why)
        return archived

    def _give_up(self, row: DeliveryRow, why: str) -> None:
        """Leave what cannot be made, or not de-identified, as a dead letter: a person hears of it, nobody gets it."""
        self._journal.not_delivered([row.delivery_id], f"not sent: {why}", lambda _: 0.0, refusals_allowed=1)
        if self._tally is not None:
            self._tally.count(row.destination, "dead")

    def _make_missing(self) -> None:
        """Make what is owed and not there.

        Copies that could not be made before, or are wanted only now; and results that the archive has, where a folder
        was restored without its outbox.
        """
        for job_id in sorted(self._journal.owing_jobs()):
            job = self._journal.job(job_id)
            for row in self._journal.deliveries(job_id):
                if job is None or row.state is DeliveryState.DELIVERED or self.path_of(row).exists():
                    continue
                why = self._make(row, self._archive / job.study_key / job_id)
                if why and row.state is DeliveryState.OWED:
                    self._give_up(row, why)

    def _make(self, row: DeliveryRow, archived: Path) -> str:
        """Make one file that is owed from the archive; return why it cannot be made, or nothing."""
        path, original = self.path_of(row), archived / row.file
        if path.name == row.file and original.is_file():  # never an original in place of a copy
            private_folder(path.parent)
            link_or_copy(original, path)
            sync_folder(path.parent)
            return ""
        if self._copies is None:
            return "its file is gone, and the archive has none"
        return self._copies.make(row, archived, path)

    def path(self, job_id: str, file: str) -> Path:
        """Return where a job's owed file lies."""
        return self._folder / job_id / file

    def path_of(self, row: DeliveryRow) -> Path:
        """Return where lies what a destination is to get: of one that wants results de-identified a copy, always.

        There is none where it could not be made, or was owed before the setting was made.
        """
        return self.path(row.job_id, self._copies.name(row.destination, row.file) if self._copies else row.file)

    def forget_delivered(self, job_id: str) -> None:
        """Remove a job's folder once no destination is owed any of it; the archive keeps the results."""
        if not self._journal.is_owing(job_id):
            shutil.rmtree(self._folder / job_id, ignore_errors=True)


def _copies(settings: Settings) -> OwedCopies | None:
    """Return what makes de-identified copies, where a destination asks for them."""
    profiles = {each.name: each.deidentify for each in settings.sender.destinations if each.deidentify is not None}
    if not profiles:
        return None
    from app.deidentify import OwedCopies

    return OwedCopies(settings, profiles)
