"""OHIF's published build in a headless Chromium, before a real Orthanc; for tests of what a radiologist sees.

One origin, as in a hospital's set-up, by a server of the standard library: OHIF's files, and all below /dicom-web
handed on to Orthanc. The browser is Debian's; the library that drives it brings none of its own. Where a part cannot
be had (no npm, no registry, no Chromium), the tests are skipped and say which.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import mimetypes
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tests.support_study import ROOT

VERSION = "3.13.2"
PACKAGE = f"@ohif/app@{VERSION}"
SHA512 = "WZdxmpmG7rqFgW9ZJLcbgr3XCtLi1KDNPoMaeY5PPe6j4G4fjEjjkycZM6C6Zk2F87BKxFfpq+jd5xXZB9E8EA=="
"""Of the package's file, in base64, as the registry names it."""
CACHE = ROOT / ".cache" / "ohif"
ARTEFACTS = ROOT / "out" / "test-artefacts"
"""Screenshots, for people; nothing compares them."""
LEFT_OUT = ("dist/ort/", "dist/dicom-microscopy-viewer/")
"""Parts for other kinds of images, three quarters of the package."""
PATIENCE_MS = 120_000
"""How long a state is waited for: 6 to 12 s pass until the first image where nothing else runs."""
FLAGS = [
    "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--disable-dev-shm-usage",
    # WebGL without a graphics card.
    "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
]  # fmt: skip
CONFIG = {
    "routerBasename": None,
    "extensions": [],
    "modes": [],
    "customizationService": [{"ohif.tours": {"$set": []}}],
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "showWarningMessageForCrossOrigin": False,
    "showCPUFallbackMessage": False,
    "strictZSpacingForVolumeViewport": True,
    "investigationalUseDialog": {"option": "never"},
    # SEG, SR and PDF load without a click.
    "disableConfirmationPrompts": True,
    "maxNumRequests": {"interaction": 100, "thumbnail": 5, "prefetch": 25},
    "defaultDataSourceName": "orthanc",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "orthanc",
            "configuration": {
                "friendlyName": "Orthanc",
                "name": "orthanc",
                "wadoUriRoot": "/wado",
                "qidoRoot": "/dicom-web",
                "wadoRoot": "/dicom-web",
                "qidoSupportsIncludeField": False,
                "supportsReject": False,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "dicomUploadEnabled": False,
                # Not pdf: Orthanc answers multipart.
                "singlepart": "bulkdata,video",
                "bulkDataURI": {"enabled": True, "relativeResolution": "studies"},
                "omitQuotationForMultipartRequest": True,
            },
        }
    ],
}
DICOMWEB = {
    "Enable": True,
    "Root": "/dicom-web/",
    "EnableWado": True,
    "WadoRoot": "/wado",
    "StudiesMetadata": "Full",
    "SeriesMetadata": "Full",
}


def published_build() -> Path:
    """Return the folder of OHIF's files; fetched once, checked, and kept."""
    dist = CACHE / VERSION
    if not dist.is_dir():
        part = CACHE / f".{VERSION}.part"
        shutil.rmtree(part, ignore_errors=True)
        with tarfile.open(_package()) as package:
            for member in package:
                name = member.name.removeprefix("package/")
                if member.isfile() and name.startswith("dist/") and not name.startswith(LEFT_OUT):
                    member.name = name.removeprefix("dist/")
                    package.extract(member, part, filter="data")
        part.rename(dist)
    return dist


def _package() -> Path:
    """Fetch the package by npm, which a fresh machine gets by apt, unless it is there already."""
    file = CACHE / f"ohif-app-{VERSION}.tgz"
    if not file.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        npm = shutil.which("npm") or pytest.skip("npm, which fetches OHIF, is not installed: apt-get install npm")
        command = [npm, "pack", PACKAGE, "--pack-destination", str(CACHE)]
        fetched = subprocess.run(command, cwd=CACHE, capture_output=True, text=True, check=False, timeout=300)
        if fetched.returncode != 0 or not file.is_file():
            pytest.skip(f"{PACKAGE} cannot be fetched by npm: {fetched.stderr.strip()[-200:]}")
    found = base64.b64encode(hashlib.sha512(file.read_bytes()).digest()).decode()
    if found != SHA512:
        file.unlink()
        raise AssertionError(f"{PACKAGE} is not what it was: sha512 {found}")
    return file


class _Handler(BaseHTTPRequestHandler):
    """OHIF's files, its page for every path of its own, and what Orthanc answers."""

    protocol_version = "HTTP/1.1"
    dist: Path
    orthanc_port: int

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith(("/dicom-web", "/wado")):
            self._hand_on()
        elif path == "/app-config.js":
            self._answer(f"window.config = {json.dumps(CONFIG)};".encode(), "application/javascript")
        else:
            file = self.dist / path.lstrip("/")
            file = file if file.is_file() and ".." not in path else self.dist / "index.html"
            self._answer(file.read_bytes(), mimetypes.guess_type(file.name)[0] or "application/octet-stream")

    do_POST = do_GET  # noqa: N815 - the base class's way

    def _answer(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hand_on(self) -> None:
        """Ask Orthanc, under this server's name: the addresses in its answers then lead back here."""
        orthanc = http.client.HTTPConnection("127.0.0.1", self.orthanc_port, timeout=120)
        kept = {k: v for k, v in self.headers.items() if k.lower() in {"accept", "content-type", "host"}}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or None
        orthanc.request(self.command, self.path, body, kept)
        answer = orthanc.getresponse()
        self._answer(answer.read(), answer.headers.get("Content-Type", "application/octet-stream"), answer.status)
        orthanc.close()


@contextmanager
def serving(dist: Path, orthanc_port: int) -> Iterator[str]:
    """Serve OHIF before an Orthanc; gives the address."""
    handler = type("Handler", (_Handler,), {"dist": dist, "orthanc_port": orthanc_port})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class Viewer:
    """OHIF in one page of a browser."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self.address = page, address
        self.outside: list[str] = []
        """Requests to anywhere but our own address: there must be none."""
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", self._note)
        page.on("pageerror", lambda error: self.errors.append(str(error)[:300]))

    def _note(self, request: Any) -> None:
        # Chromium's own PDF viewer is an extension.
        if not request.url.startswith((self.address, "data:", "blob:", "chrome-extension:", "chrome:")):
            self.outside.append(request.url)

    def open(self, study_uid: str, series_uid: str) -> None:
        """Open a study at one series, as a link from a PACS does."""
        self.page.goto(f"{self.address}/viewer?StudyInstanceUIDs={study_uid}&initialSeriesInstanceUID={series_uid}")

    def until(self, condition: str, argument: Any = None) -> Any:
        """Wait until a JavaScript expression is true, and return it."""
        return self.page.wait_for_function(condition, arg=argument, polling=200).json_value()

    def ask(self, expression: str, argument: Any = None) -> Any:
        """Return the value of a JavaScript expression."""
        return self.page.evaluate(expression, argument)

    def settled(self) -> None:
        """Wait until what is painted has not changed for a while."""
        self.page.evaluate("() => { window.__seen = undefined; window.__same = 0; }")
        self.until(PAINTED_THE_SAME)

    def until_paper(self, share: float) -> None:
        """Wait until this share of the page is white, as paper is: what a plug-in paints is in no canvas of ours."""
        until = time.monotonic() + PATIENCE_MS / 1000
        while time.monotonic() < until:
            picture = np.asarray(Image.open(io.BytesIO(self.page.screenshot())).convert("L"))
            if (picture > 250).mean() >= share:
                return
            self.page.wait_for_timeout(300)
        raise AssertionError("no paper is to be seen")

    def shot(self, name: str) -> Path:
        """Take a screenshot for people."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / name)
        return ARTEFACTS / name


PAINTED_THE_SAME = """() => {
  const canvases = [...document.querySelectorAll('canvas.cornerstone-canvas')].filter(c => c.width);
  let lit = 0, sum = 0;
  for (const c of canvases) {
    const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    for (let i = 0; i < d.length; i += 4) {
      sum = (sum * 31 + d[i] + 3 * d[i + 1] + 7 * d[i + 2]) >>> 0;
      lit += d[i] > 40;
    }
  }
  window.__same = sum === window.__seen ? window.__same + 1 : 0;
  window.__seen = sum;
  return lit > 1000 && window.__same >= 4;
}"""


@contextmanager
def viewing(address: str) -> Iterator[Viewer]:
    """Run a headless Chromium with one page."""
    chromium = shutil.which("chromium") or pytest.skip("Chromium is not installed: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        try:
            yield Viewer(browser.new_page(viewport={"width": 1600, "height": 1000}), address)
        finally:
            browser.close()
