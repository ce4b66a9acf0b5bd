"""Says what is wrong with an installation, and how to mend it."""

from __future__ import annotations

import ctypes
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import app
from app.config import Destination, SenderConfig, Settings, TlsFiles
from app.errors import NodeError
from app.process import (
    open_channels,
    open_classifiers,
    open_networks,
    open_reference,
    open_refinement,
    open_segmenter,
)
from app.sender import echo
from app.tls_health import look_at

CARDS = Path(app.__file__).parents[1] / "models" / "cards"


@dataclass(frozen=True)
class Check:
    """One thing looked at: its state, and the remedy where it is not well."""

    subject: str
    ok: bool
    found: str
    remedy: str = ""
    warns: bool = False
    """Not well, but the node works: no reason for another exit status."""


def examine(settings: Settings) -> Iterator[Check]:
    """Look at everything the node needs, one check at a time."""
    yield _cuda_runtime()
    yield _model(settings)
    yield _markers(settings)
    yield _data_folder(settings)
    yield _disk(settings)
    yield _port(settings)
    yield _peers(settings)
    if settings.receiver.tls is not None:
        yield from _tls("receiver TLS", settings.receiver.tls, server_side=True)
    for destination in settings.sender.destinations:
        if destination.tls is not None:
            seen = list(_tls(f"destination {destination.name} TLS", destination.tls, server_side=False))
            yield from seen
            # One clear line: without TLS there is no answer either.
            if not all(check.ok or check.warns for check in seen):
                continue
        yield _destination(destination, settings.sender)


def _tls(subject: str, files: TlsFiles, server_side: bool) -> Iterator[Check]:
    for seen in look_at(files, server_side, time.time()):
        yield Check(subject, not seen.remedy, seen.found, seen.remedy, warns=bool(seen.remedy) and not seen.grave)


def _destination(destination: Destination, sender: SenderConfig) -> Check:
    peer = f"{destination.ae_title}@{destination.host}:{destination.port}"

    def look() -> str:
        echo(destination, sender)
        return f"{peer} answers C-ECHO"

    return _attempt(
        f"destination {destination.name}", look, f"is {peer} up, and does it know {sender.calling_ae_title}?"
    )


def _attempt(subject: str, look: Callable[[], str], remedy: str) -> Check:
    try:
        return Check(subject, True, look())
    except (NodeError, OSError) as error:
        return Check(subject, False, str(error), remedy)


def _cuda_runtime() -> Check:
    try:
        ctypes.CDLL("libcudart.so.13")
    except OSError:
        return Check("CUDA runtime", False, "libcudart.so.13 is not found", "pip install -r requirements.txt")
    return Check("CUDA runtime", True, "libcudart.so.13 is loaded (needed by Holoscan even without a GPU)")


def _model(settings: Settings) -> Check:
    def look() -> str:
        model = open_segmenter(settings)
        open_refinement(settings)
        channels = open_channels(settings, model)
        if open_reference(settings) is None:
            raise NodeError(
                f"nothing tells what {model.name} was trained on: no {settings.inputs_dir / model.name}.json"
            )
        _check_card(CARDS / f"{model.name}.md", model.version, str(model.path))
        parts = f", and tells apart {', '.join(channels.legend)}" if channels else ""
        return f"{model.name} {model.version} opens on {model.engine}{parts}"

    return _attempt("segmentation model", look, "restore models/weights from the repository")


def _markers(settings: Settings) -> Check:
    def look() -> str:
        opened = open_classifiers(settings)
        for name, classifier in opened.items():
            _check_card(CARDS / "markers.md", classifier.version, f"the model of marker {name}")
        networks = open_networks(settings)
        for name, network in networks.items():
            _check_card(CARDS / "markers.md", network.version, f"the network of marker {name}")
        told = [f"{name} {classifier.version}" for name, classifier in opened.items()]
        told += [f"{name} network {network.version}" for name, network in networks.items()]
        return f"{', '.join(told) or 'none'} open"

    return _attempt("marker models", look, "restore models/weights from the repository, or see docs/markers.md")


def _check_card(card: Path, version: str, subject: str) -> None:
    """Raise NodeError where there is a card, and it is of another file."""
    if card.exists() and version not in card.read_text(encoding="utf-8"):
        raise NodeError(f"{subject} is not the file that its model card describes (SHA-256 {version}...)")


def _data_folder(settings: Settings) -> Check:
    def look() -> str:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = settings.data_dir / ".doctor"
        probe.write_bytes(b"")
        probe.unlink()
        return f"{settings.data_dir} can be written"

    return _attempt("data folder", look, "set node.data_dir to a folder this user may write")


def _disk(settings: Settings) -> Check:
    here = settings.data_dir if settings.data_dir.exists() else Path()
    free = shutil.disk_usage(here).free // 1_000_000
    needed = settings.receiver.free_space_watermark_mb
    return Check(
        "disk", free > needed, f"{free} MB free, {needed} MB kept in reserve", "make room or move node.data_dir"
    )


def _port(settings: Settings) -> Check:
    host, port = settings.receiver.host, settings.receiver.port

    def look() -> str:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
        return f"{host}:{port} is free"

    return _attempt("port", look, f"is a node running already? Else choose another node.receiver.port than {port}")


def _peers(settings: Settings) -> Check:
    names = ", ".join(p.ae_title for p in settings.receiver.peers)
    if settings.receiver.allow_any_peer:
        return Check("peers", True, "anybody may send (allow_any_peer)")
    return Check(
        "peers", bool(names), names or "nobody may send", "list the PACS under node.receiver.peers in app.yaml"
    )
