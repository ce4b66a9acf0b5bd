"""A folder per study: decides when a study is complete, and freezes each revision as one job.

A revision is a study and the set of instances it holds; its job id is their hash. So whatever is killed between two
steps, the same instances lead to the same job, and one more instance leads to another.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.config import Settings
from app.errors import JournalError
from app.files import INCOMING, private_folder, publish_folder, remove_parts, revision_id, study_key
from app.journal import JobRow, Journal
from app.store import NOT_UNDERSTOOD
from operators.errors import NO_ROOM, PipelineError
from operators.reading import read_study_uid
from operators.sequences import TooMuch

LOGGER = logging.getLogger(__name__)

_COARSE_CLOCK_NS = 100_000_000
"""A folder's modification time moves in steps of some ms: one this fresh may still hide a later change."""

OF_ONE_FOLDER = (*NOT_UNDERSTOOD, PipelineError, ArithmeticError, MemoryError)
"""What looking at a folder may raise because of what is in it."""

LOOK_SECONDS = 10.0
"""How often all studies are looked at though the receiver named nothing."""


@dataclass(frozen=True)
class ReadyJob:
    """A job to be processed now."""

    job_id: str
    input_folder: Path
    """Holds the study's instances, nothing else, and never changes."""
    output_folder: Path
    """Exists and is empty."""


@dataclass
class _Watch:
    """What was last seen of a study's folder."""

    modified_ns: int
    changed: float
    recognised: bool | None = None
    """None: not asked since it changed."""
    settled: bool = False
    """Its present instances have their job."""


class Inbox:
    """Watches the study folders that the receiver fills; for one thread."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        recognise: Callable[[Path], bool],
        now: Callable[[], float] = time.monotonic,
        of_files: Callable[[], int] = time.time_ns,
    ) -> None:
        """`recognise` says of a study's folder whether its four contrasts are there; it must not raise.

        It is asked once for each change of a folder. `now` is any clock in seconds that does not go back; `of_files`
        is the one that files are dated by, in ns, and may be set at any time.
        """
        self._of_files = of_files
        self._config, self._journal, self._recognise, self._now = settings.inbox, journal, recognise, now
        self._folder = private_folder(settings.inbox_dir)
        self._work = private_folder(settings.work_dir)
        self._watched: dict[str, _Watch] = {}
        self._marks: list[int] = []
        """Times of change of inbox and incoming folder before the last look; none where they may yet hide a change."""
        self._looked = now()
        self._max_attempts = 1 + settings.pipeline.retries
        self._taken: list[JobRow] = []
        """Jobs that the journal gave out and that have no folder yet, as the disk failed."""
        self._troubled: set[str] = set()
        """Folders of which the log knows that they cannot be used yet."""

    def reconcile(self) -> list[JobRow]:
        """Put the jobs that a crash interrupted back, and the work folder in order; once, before the first `poll`.

        Returns the interrupted jobs, some of which may have failed for good.
        """
        interrupted = self._journal.requeue_crashed(self._max_attempts)
        remove_parts(self._work)
        waiting = self._journal.waiting_jobs()
        for folder in self._work.iterdir():
            if folder.name not in waiting:
                shutil.rmtree(folder)
        return interrupted

    def poll(self, limit: int | None = None) -> list[ReadyJob]:
        """Look at every study, and return at most `limit` jobs to be processed now, each of them once.

        Raises OSError or JournalError where the disk is full or fails; nothing is forgotten by that.
        """
        if self._something_came():
            self._look_at_all()
        self._taken += self._journal.take_ready(None if limit is None else limit - len(self._taken))
        ready: list[ReadyJob] = []
        while self._taken and (limit is None or len(ready) < limit):
            try:
                prepared = self._prepare(self._taken[0])
            except OSError:
                if ready:
                    break  # those before it go on; it has its turn at the next poll
                raise
            del self._taken[0]
            ready += [prepared] if prepared is not None else []
        return ready

    def give_back(self) -> None:
        """Put back what was taken and could not be prepared for want of the disk; for the end of the node."""
        for job in self._taken:
            try:
                self._journal.job_postponed(job.job_id, NO_ROOM, "its folder could not be made", "")
            except JournalError as error:
                LOGGER.error("job %s is put back at the next start: %s", job.job_id, error)

    def _something_came(self) -> bool:
        """Say whether the studies must be looked at: 1,000 that have been done for days cost no look every half second.

        What the receiver names goes through its own folder, whose time of change moves with it. What comes otherwise,
        from a backup say, is met by a look every few seconds.
        """
        marks = [folder.stat().st_mtime_ns for folder in (self._folder, self._folder / INCOMING) if folder.exists()]
        fresh = time.time_ns() - max(marks) < _COARSE_CLOCK_NS
        came = marks != self._marks or any(not watch.settled for watch in self._watched.values())
        if not came and self._now() - self._looked < LOOK_SECONDS:
            return False
        self._marks, self._looked = [] if fresh else marks, self._now()
        return True

    def _look_at_all(self) -> None:
        seen: set[str] = set()
        for modified_ns, name in self._folders():
            seen.add(name)
            try:
                self._look_at(self._folder / name, modified_ns)
                self._troubled.discard(name)
            except OF_ONE_FOLDER as error:
                # One study's folder never stops the others; it is looked at again when it has been quiet.
                if name not in self._troubled:
                    LOGGER.warning("folder %s cannot be used yet: %s", name, _reason(error))
                self._troubled.add(name)
                self._watched[name] = _Watch(0, self._now())
            except JournalError:
                # What the journal did not take is told to it again.
                self._watched.pop(name, None)
                self._marks = []
                raise
        for gone in self._watched.keys() - seen:
            del self._watched[gone]

    def _folders(self) -> list[tuple[int, str]]:
        """Return when each study's folder changed, and its name: of many that are complete at once, as after a start,
        the first to come goes first.
        """
        found = []
        for entry in os.scandir(self._folder):
            # What is being received, and what retention removes, is hidden.
            if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    found.append((entry.stat().st_mtime_ns, entry.name))
        return sorted(found)

    def release(self, job_id: str) -> None:
        """Remove a settled job's work folder; the study stays in the inbox."""
        shutil.rmtree(self._work / job_id, ignore_errors=True)

    def _input(self, job_id: str) -> Path:
        return self._work / job_id / "input"

    def _prepare(self, job: JobRow) -> ReadyJob | None:
        """Give a job its folders; None, and the job failed, where its instances are gone."""
        if not self._input(job.job_id).is_dir() and not self._freeze_again(job):
            self._journal.job_failed(job.job_id, "input-lost", "its instances are no longer in the inbox", "")
            LOGGER.warning("job %s failed: its instances are no longer in the inbox", job.job_id)
            return None
        output = self._work / job.job_id / "output"
        # A crashed attempt may have left half a result there.
        shutil.rmtree(output, ignore_errors=True)
        return ReadyJob(job.job_id, self._input(job.job_id), private_folder(output))

    def _freeze_again(self, job: JobRow) -> bool:
        """Make the input of a job that was put back after it had ended, if the inbox still holds just that."""
        folder = self._folder / job.study_key
        names = _instances(folder) if folder.is_dir() else []
        if revision_id(self._journal.study_uid(job.study_key) or "", names) != job.job_id:
            return False
        self._freeze(folder, names, job.job_id)
        return True

    def _freeze(self, folder: Path, names: list[str], job_id: str) -> None:
        private_folder(self._work / job_id)
        publish_folder((folder / name for name in names), self._input(job_id))

    def _look_at(self, folder: Path, modified_ns: int) -> None:
        watch = self._watched.get(folder.name)
        if watch is None or watch.modified_ns != modified_ns:
            watch = self._notice(folder, modified_ns)
        if watch.settled:
            return
        quiet = self._now() - watch.changed
        if quiet >= self._config.timeout_seconds or (
            quiet >= self._config.settle_seconds and self._known(folder, watch)
        ):
            self._complete(folder, watch)

    def _known(self, folder: Path, watch: _Watch) -> bool:
        if watch.recognised is None:
            # A folder that the node died over too often is not looked into again: it waits for the long time-out, and
            # is then a job, whose crashes are counted.
            watch.recognised = False
            if self._journal.begin_look(folder.name, self._max_attempts):
                watch.recognised = self._recognise(folder)
                self._journal.end_look(folder.name)
        return watch.recognised

    def _notice(self, folder: Path, modified_ns: int) -> _Watch:
        """Begin to watch a folder, or begin anew because it changed."""
        watch = self._watched[folder.name] = _Watch(modified_ns, self._now())
        names = _instances(folder)
        study_uid = self._study_uid(folder, names)
        if study_uid is None:
            # Nothing in it yet, or not ours; a change makes us look again.
            watch.settled = True
        elif self._journal.has_job(job_id := revision_id(study_uid, names)):
            self._journal.study_unchanged(folder.name, job_id)
            watch.settled = True
        else:
            self._journal.study_arriving(folder.name, study_uid)
        return watch

    def _study_uid(self, folder: Path, names: list[str]) -> str | None:
        """Return the folder's Study Instance UID: from the journal, or for a folder it does not know, from a file."""
        known = self._journal.study_uid(folder.name)
        if known or not names:
            return known if names else None
        try:
            study_uid = read_study_uid(folder / names[0])
        except OF_ONE_FOLDER as error:
            LOGGER.warning("folder %s is left alone: %s in its first file", folder.name, _reason(error))
            return None
        if study_key(study_uid) != folder.name:
            LOGGER.warning("folder %s is left alone: its name is not that of the study in it", folder.name)
            return None
        return study_uid

    def _complete(self, folder: Path, watch: _Watch) -> None:
        """Freeze what the folder holds as a job: snapshot first, record second, so a recorded job has its input."""
        # One dated far ahead was so by a clock that has been set back since: a change now would be dated otherwise.
        if abs(self._of_files() - watch.modified_ns) < _COARSE_CLOCK_NS:
            return
        names = _instances(folder)
        study_uid = self._journal.study_uid(folder.name) or ""
        job_id = revision_id(study_uid, names)
        if not self._journal.has_job(job_id):
            if not self._input(job_id).is_dir():
                self._freeze(folder, names, job_id)
            self._journal.job_ready(job_id, folder.name, len(names))
            LOGGER.info("study %s is complete: %d instances, job %s", study_uid, len(names), job_id)
        watch.settled = True


def _instances(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.endswith(".dcm"))


def _reason(error: BaseException) -> str:
    """Say why a folder cannot be used; the words of other errors may quote a header."""
    if isinstance(error, (TooMuch, PipelineError)):
        return str(error)
    return (isinstance(error, OSError) and error.strerror) or type(error).__name__
