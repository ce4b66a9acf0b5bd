"""A file system that fails at a chosen call, and one that loses all that was not synced when the power goes.

What the node asks of the operating system is recorded: writes, syncs, renames, links, new folders. From the record
follows what a disk is bound to hold after a power cut at that moment, in the worst case that POSIX allows: content only
of files that were synced after their last write, names only in folders that were synced after the name was given.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class PowerCut(BaseException):
    """The power went; no code may catch it."""


class Disk:
    """Records calls under `root`, fails the one numbered `fail_at` with `error`, and knows what a power cut leaves.

    Without an `error` the power goes at that call.
    """

    def __init__(
        self, root: Path, fail_at: int | None = None, error: int | None = errno.EIO, *, short: bool = False
    ) -> None:
        self.root, self.fail_at, self.error, self.short = str(root), fail_at, error, short
        self.calls: list[str] = []
        self.is_out = False
        """Whether the power has gone: nothing is done after it."""
        self._folders: set[int] = set()
        self._gone = 0
        self._removed: set[tuple[int, str]] = set()
        """Names that were taken away in a folder since it was synced: they may be back, or not."""
        self._renamed: dict[tuple[int, str], str] = {}
        """What such a name became, where it is in the same folder."""
        self._synced: dict[int, bytes] = {}
        """Content of files by inode, as it was when last synced."""
        self._names: dict[int, dict[str, int]] = {}
        """Names in folders by inode, as they were when last synced."""

    def within(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and str(path).startswith(self.root)

    def step(self, what: str) -> None:
        """Note a call; fail it if its turn has come."""
        if self.is_out:
            raise PowerCut
        self.calls.append(what)
        if len(self.calls) - 1 == self.fail_at:
            if self.error is None:
                self.is_out = True
                raise PowerCut
            raise OSError(self.error, os.strerror(self.error))

    def synced(self, path: str, content: Callable[[], bytes] | None) -> None:
        info = Path(path).stat()
        if content is None:
            self._names[info.st_ino] = {e.name: e.inode() for e in os.scandir(path)}
            self._folders |= {e.inode() for e in os.scandir(path) if e.is_dir()}
            self._removed = {entry for entry in self._removed if entry[0] != info.st_ino}
            self._renamed = {entry: name for entry, name in self._renamed.items() if entry[0] != info.st_ino}
        else:
            self._synced[info.st_ino] = content()

    def freed(self, path: Any) -> None:
        """Keep a file that loses its last name under a number that no other file can get: its name may come back."""
        info = Path(path).stat()
        is_folder = stat.S_ISDIR(info.st_mode)
        if info.st_nlink > 1 and not is_folder:
            return
        self._gone -= 1
        if is_folder:
            self._folders.add(self._gone)
            self._names[self._gone] = self._names.pop(info.st_ino, {})
        else:
            self._synced[self._gone] = self._synced.pop(info.st_ino, b"")
        for names in self._names.values():
            names.update({name: self._gone for name, number in names.items() if number == info.st_ino})

    def removed(self, path: Any) -> None:
        """Note that a name is about to be taken away."""
        self._removed.add((Path(path).parent.stat().st_ino, Path(path).name))

    def moved(self, source: Any, target: Any) -> None:
        """Note a rename: within one folder it is done or not, whenever the power goes; between two the name may be
        gone from the one and not yet in the other.
        """
        here, there = (Path(path).parent.stat().st_ino for path in (source, target))
        self.removed(source)
        if here == there:
            self._renamed[here, Path(source).name] = Path(target).name
            self._removed.discard((there, Path(target).name))

    def remains(self, root: Path, target: Path, *, removals: bool = False) -> None:
        """Write to `target` what a power cut now may leave below `root`, which is known to be on disk.

        That is the least that must be there; with `removals`, names that were taken away and not synced are gone, and
        what was renamed within its folder has its new name.
        """
        self._restore(root.stat().st_ino, target, removals)

    def _restore(self, folder: int, target: Path, removals: bool) -> None:
        target.mkdir(parents=True)
        for name, number in self._names.get(folder, {}).items():
            seen: set[str] = set()
            while removals and (folder, name) in self._renamed and name not in seen:
                seen.add(name)
                name = self._renamed[folder, name]  # noqa: PLW2901 - the name that it came to
            if removals and (folder, name) in self._removed:
                continue
            if number in self._folders:
                self._restore(number, target / name, removals)
            else:
                (target / name).write_bytes(self._synced.get(number, b""))

    def forget(self, folder: Path) -> None:
        """Take a folder's names for not synced."""
        self._names.pop(folder.stat().st_ino, None)

    def survives(self, path: Path) -> bytes | None:
        """Content that a file is bound to have after a power cut now; None where its name may be gone."""
        return self.survives_below(path, Path(self.root))

    def survives_below(self, path: Path, root: Path) -> bytes | None:
        """As `survives`, where `root` is known to be on disk."""
        here = path
        while here != root:
            if self._names.get(here.parent.stat().st_ino, {}).get(here.name) != here.stat().st_ino:
                return None
            here = here.parent
        return self._synced.get(path.stat().st_ino, b"")


class _File(io.RawIOBase):
    """An unbuffered file whose writes are recorded, and one of them cut short."""

    def __init__(self, disk: Disk, raw: io.FileIO, path: str) -> None:
        self._disk, self._raw, self._path = disk, raw, path

    def write(self, data: Any) -> int:
        self._disk.step(f"write {Path(self._path).suffix}")
        view = memoryview(data)
        if self._disk.short and len(view) > 1:
            return self._raw.write(view[: len(view) // 2])
        return self._raw.write(view)

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()
        super().close()


@contextmanager
def on(disk: Disk, monkeypatch: Any) -> Iterator[Disk]:
    """Let every call under the disk's root pass through it."""
    moving_names = ("rename", "replace", "link", "mkdir", "unlink", "rmdir")
    real = {name: getattr(os, name) for name in ("open", "fsync", "writev", "listdir", *moving_names)}
    real_open = io.open

    def path_of(handle: int) -> str:
        return str(Path(f"/proc/self/fd/{handle}").readlink())

    def fsync(handle: int) -> None:
        path = path_of(handle)
        if not disk.within(path):
            real["fsync"](handle)
            return
        is_folder = stat.S_ISDIR(os.fstat(handle).st_mode)
        disk.step("sync folder" if is_folder else "sync file")
        disk.synced(path, None if is_folder else Path(path).read_bytes)

    def moving(name: str) -> Callable[..., Any]:
        def call(source: Any, *args: Any, **kwargs: Any) -> Any:
            given = kwargs.get("dir_fd")
            path = source if given is None else f"{path_of(given)}/{source}"
            if not disk.within(path):
                return real[name](source, *args, **kwargs)
            disk.step(name)
            there = Path(path).exists()
            if name in {"unlink", "rmdir"} and there:
                disk.removed(path)
                disk.freed(path)
            if name in {"rename", "replace"} and there:
                done = real[name](source, *args, **kwargs)
                disk.moved(path, args[0])
                return done
            return real[name](source, *args, **kwargs)

        return call

    def writev(handle: int, parts: Any) -> int:
        path = path_of(handle)
        if not disk.within(path):
            return real["writev"](handle, parts)
        disk.step(f"write {Path(path).suffix}")
        if disk.short:
            return real["writev"](handle, [part[: len(part) // 2 + 1] for part in parts][:1])
        return real["writev"](handle, parts)

    def listdir(path: Any = ".") -> Any:
        if disk.within(path):
            disk.step("list")
        return real["listdir"](path)

    def opened_bare(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if disk.within(path) and flags & (os.O_WRONLY | os.O_RDWR) and not flags & os.O_CREAT:
            disk.step("open")
        return real["open"](path, flags, *args, **kwargs)

    def opened(file: Any, mode: str = "r", buffering: int = -1, *args: Any, **kwargs: Any) -> Any:
        if disk.within(file) and set(mode) & {"w", "+"}:
            disk.step("open")
            if buffering == 0:
                return _File(disk, real_open(file, mode, 0), str(file))
        return real_open(file, mode, buffering, *args, **kwargs)

    with monkeypatch.context() as patched:
        for name, function in (("open", opened_bare), ("fsync", fsync), ("writev", writev), ("listdir", listdir)):
            patched.setattr(os, name, function)
        for name in moving_names:
            patched.setattr(os, name, moving(name))
        patched.setattr(io, "open", opened)
        yield disk
