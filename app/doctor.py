"""Says what is wrong with an installation, and how to mend it."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from pathlib import Path

import app
from app.config import Destination, SenderConfig, Settings
from app.config_tls import TlsFiles
from app.deidentify_secret import read_secret, secret_path
from app.doctor_place import Check, look_at_place, told
from app.doctor_place import attempt as _attempt
from app.doctor_services import look_at_services
from app.errors import NodeError
from app.process import (
    open_channels,
    open_classifiers,
    open_network,
    open_reference,
    open_refinement,
    open_segmenter,
)
from app.sender import echo, offers_commitment
from app.stow import StowCourier
from app.tls_health import look_at, look_at_client, look_at_mode
from models.refine import refinement_of
from operators.domain import MarkerName

CARDS = Path(app.__file__).parents[1] / "models" / "cards"


def examine(settings: Settings) -> Iterator[Check]:
    """Look at everything the node needs, one check at a time."""
    yield _cuda_runtime()
    yield _model(settings)
    yield from _beside_model(settings)
    yield _markers(settings)
    yield from _networks(settings)
    yield from look_at_place(settings)
    yield from look_at_services(settings)
    yield _peers(settings)
    if settings.receiver.tls is not None:
        yield from _tls("receiver TLS", settings.receiver.tls, server_side=True)
    for destination in settings.sender.destinations:
        seen = list(_files(destination))
        yield from seen
        # One clear line: without TLS there is no answer either.
        if not all(check.ok or check.warns for check in seen):
            continue
        reached = _destination(destination, settings.sender)
        yield reached
        if destination.commitment is not None and reached.ok:
            yield _commitment(destination, settings)
    if any(destination.deidentify for destination in settings.sender.destinations):
        yield _secret(settings)


def _tls(subject: str, files: TlsFiles, server_side: bool) -> Iterator[Check]:
    for seen in look_at(files, server_side, time.time()):
        yield told(subject, seen)


def _secret(settings: Settings) -> Check:
    """Look for the secret of de-identification, and leave it to the node to make one where there is none."""
    subject, remedy = "de-identification", "see docs/security.md"
    try:
        path = secret_path(settings)
        if settings.deidentification.secret_file is None and path is not None and not path.exists():
            return Check(subject, True, f"none yet; the secret will be {path}, made at first use")
        read_secret(settings)
        if path is not None and path.stat().st_mode & 0o077:
            return Check(subject, False, f"others can read {path}", f"chmod 600 {path}", warns=True)
    except (NodeError, OSError) as error:
        return Check(subject, False, str(error), remedy)
    return Check(
        subject,
        True,
        f"the secret is in {path or 'the settings'}; without it, what is de-identified later does not fit",
    )


def _destination(destination: Destination, sender: SenderConfig) -> Check:
    peer, stow = destination.address, destination.stow

    def look() -> str:
        if stow is not None:
            StowCourier(destination.name, stow, sender.network_timeout_seconds).echo()
            return f"{peer} answers STOW-RS"
        echo(destination, sender)
        return f"{peer} answers C-ECHO"

    knows = sender.calling_ae_title if stow is None else "our user, token or certificate"
    return _attempt(f"destination {destination.name}", look, f"is {peer} up, and does it know {knows}?")


def _files(destination: Destination) -> Iterator[Check]:
    """Look at what can be told of a destination's files without asking it."""
    subject, stow = f"destination {destination.name}", destination.stow
    if destination.tls is not None:
        yield from _tls(f"{subject} TLS", destination.tls, server_side=False)
    if stow is not None:
        for seen in look_at_client(stow.certificate, stow.key, stow.ca, time.time()):
            yield told(f"{subject} TLS", seen)
        if stow.secret_file is not None:
            for seen in look_at_mode(stow.secret_file, "secret"):
                yield told(f"{subject} secret", seen)


def _commitment(destination: Destination, settings: Settings) -> Check:
    subject, receiver = f"destination {destination.name} commitment", settings.receiver
    title, reporter = settings.sender.calling_ae_title, destination.reporter

    def look() -> str:
        if not receiver.allow_any_peer and reporter not in {peer.ae_title for peer in receiver.peers}:
            raise NodeError(f"{reporter} is not among node.receiver.peers: its reports would be turned away")
        if title != receiver.ae_title:
            raise NodeError(f"reports go to {title}, which asks for them, but the receiver answers to another title")
        if not offers_commitment(destination, settings.sender):
            raise NodeError(f"{destination.ae_title} does not offer storage commitment")
        return f"{destination.ae_title} offers it; does it know {title} at this machine, port {receiver.port}?"

    return _attempt(
        subject,
        look,
        f"list {reporter} under node.receiver.peers; give node.sender.calling_ae_title the title of "
        f"node.receiver.ae_title; switch storage commitment on at {destination.ae_title}, or take it off here",
    )


def _cuda_runtime() -> Check:
    try:
        ctypes.CDLL("libcudart.so.13")
    except OSError:
        return Check("CUDA runtime", False, "libcudart.so.13 is not found", "pip install -r requirements.txt")
    return Check("CUDA runtime", True, "libcudart.so.13 is loaded (needed by Holoscan even without a GPU)")


def _model(settings: Settings) -> Check:
    def look() -> str:
        model = open_segmenter(settings)
        channels = open_channels(settings, model)
        _check_card(CARDS / f"{model.name}.md", model.version, str(model.path))
        parts = f", and tells apart {', '.join(channels.legend)}" if channels else ""
        return f"{model.name} {model.version} opens on {model.engine}{parts}"

    return _attempt("segmentation model", look, "restore models/weights from the repository")


def _beside_model(settings: Settings) -> Iterator[Check]:
    """Look at the files that the network needs beside it; without them it runs, but less is said of its results."""
    name, folder = settings.pipeline.segmenter, settings.inputs_dir
    beside = (
        ("training's inputs", folder / f"{name}.json", open_reference,
         "describe-inputs --data DATA --split RUN/split.json",
         "the input check warns of every study, and no marker is assessed"),
        ("post-processing", refinement_of(name, folder), open_refinement, "refine --data DATA --run RUN",
         "its probabilities are taken as they are, without confidence and ranges"),
    )  # fmt: skip
    for subject, path, opened, command, lacking in beside:
        remedy = f"python -m models.nasbranet {command} --to {path}, see README.md, Retrain"
        try:
            opened(settings)
        except NodeError as error:
            yield Check(subject, False, str(error), remedy)
            continue
        if path.is_file():
            yield Check(subject, True, f"{path.name} tells of {name}")
        else:
            yield Check(subject, False, f"{name} has no {path}: {lacking}", remedy, warns=True)


def _markers(settings: Settings) -> Check:
    def look() -> str:
        opened = open_classifiers(settings)
        for name, classifier in opened.items():
            _check_card(CARDS / "markers.md", classifier.version, f"the model of marker {name}")
        told = [f"{name} {classifier.version}" for name, classifier in opened.items()]
        return f"{', '.join(told) or 'none'} open"

    return _attempt("marker models", look, "restore models/weights from the repository, or see docs/markers.md")


def _networks(settings: Settings) -> Iterator[Check]:
    """Look at the networks that show where they looked; without one, studies go without its picture."""
    remedy = "restore models/weights from the repository, or set node.results.attention_maps to false"
    if not settings.results.attention_maps:
        yield Check("attention maps", True, "none are drawn (node.results.attention_maps is false)")
    for name in MarkerName:
        subject = f"attention map of {name}"
        try:
            network = open_network(settings, name)
            if network is not None:
                _check_card(CARDS / "markers.md", network.version, f"the network of marker {name}")
                yield Check(subject, True, f"{network.name} {network.version} opens")
        except NodeError as error:
            yield Check(subject, False, str(error), remedy, warns=True)


def _check_card(card: Path, version: str, subject: str) -> None:
    """Raise NodeError where there is a card, and it is of another file."""
    if card.exists() and version not in card.read_text(encoding="utf-8"):
        raise NodeError(f"{subject} is not the file that its model card describes (SHA-256 {version}...)")


def _peers(settings: Settings) -> Check:
    names = ", ".join(p.ae_title for p in settings.receiver.peers)
    if settings.receiver.allow_any_peer:
        return Check("peers", True, "anybody may send (allow_any_peer)")
    if not names:
        return Check("peers", False, "nobody may send", "list the PACS under node.receiver.peers in app.yaml")
    loose = ", ".join(p.ae_title for p in settings.receiver.peers if p.address is None and not p.is_bound)
    if loose:
        remedy = "give its address, or bind its certificate, under node.receiver.peers: a title alone proves nothing"
        return Check("peers", False, f"{names}; from any address: {loose}", remedy, warns=True)
    return Check("peers", True, names)
