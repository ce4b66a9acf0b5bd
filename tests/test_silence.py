"""The node tells nobody of itself: no library that it loads calls home."""

import os
import subprocess
import sys

import pytest

from app.phantom import PhantomOptions, make_phantom
from tests.support_study import ROOT

WATCH = """
import os, socket

connect, look_up = socket.socket.connect, socket.getaddrinfo
HERE = {None, "", "localhost", "127.0.0.1", "0.0.0.0", "::1"}

def told(who):
    if who not in HERE:
        with open(os.environ["TOLD"], "a") as file:
            file.write(f"{who}\\n")

def watched_connect(self, address):
    if self.family != socket.AF_UNIX:
        told(address[0])
    return connect(self, address)

def watched_look_up(host, *rest, **more):
    told(host)
    return look_up(host, *rest, **more)

socket.socket.connect, socket.getaddrinfo = watched_connect, watched_look_up
"""
"""Loaded by every Python that starts with its folder on the path: whoever is looked up or connected to is noted."""
SAYS_CI = {"CI", "TF_BUILD", "JENKINS_URL", "GITHUB_ACTIONS", "TRAVIS", "GITLAB_CI"}
"""Some libraries call home from anywhere but a CI."""


@pytest.fixture
def watched(tmp_path):
    """Run Python with an empty home folder; returns whom it looked for."""
    (tmp_path / "watch").mkdir()
    (tmp_path / "watch" / "sitecustomize.py").write_text(WATCH)
    told = tmp_path / "told.txt"
    bare = {name: value for name, value in os.environ.items() if name not in SAYS_CI}
    path = os.pathsep.join([str(tmp_path / "watch"), str(ROOT)])

    def run(*words):
        environment = bare | {"HOME": str(tmp_path / "home"), "PYTHONPATH": path, "TOLD": str(told)}
        done = subprocess.run(
            [sys.executable, *map(str, words)], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return set(told.read_text().split()) if told.exists() else set()

    (tmp_path / "home").mkdir()
    return run


def test_who_calls_is_noticed(watched):
    """Else the test below could not fail."""
    code = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('home.invalid', 443)"
    assert watched("-c", code) == {"home.invalid"}


def test_a_study_is_analysed_and_nobody_is_told(watched, tmp_path):
    """OpenVINO told Google Analytics of each import and of each network that it converted."""
    make_phantom(tmp_path / "study", PhantomOptions())
    assert watched("-m", "app", "process", tmp_path / "study", "--out", tmp_path / "out") == set()
    assert not (tmp_path / "home" / "intel").exists(), "where it keeps an identity for that"


def test_no_training_tells_anybody(watched):
    assert watched("-c", "import models.nasbranet.__main__, models.markers.__main__") == set()
