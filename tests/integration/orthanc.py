"""A real Orthanc on free ports, with all it writes in one folder; for any test that needs a PACS.

with Orthanc(tmp_path, modalities={"node": ("GLIOMA_NODE", 11112)}) as pacs:
    send_files(files, pacs.destination(), ...)
    pacs.get("/instances")
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import pytest

from app.config import Destination
from tests.support_port import free_port

PLUGINS = Path("/usr/share/orthanc/plugins")


class Orthanc:
    """One running Orthanc; `start` and `stop` may be called again and again, its database stays."""

    AE_TITLE = "ORTHANC"

    def __init__(
        self,
        folder: Path,
        *,
        modalities: Mapping[str, tuple[str, int]] | None = None,
        dicomweb: bool = False,
        login: tuple[str, str] | None = None,
        **settings: Any,
    ) -> None:
        """`modalities` are the peers it may send to: name to (AE title, port on this machine).

        `login` is the user and password of ours, where its settings ask for one.
        """
        self.program = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
        if self.program is None:
            pytest.skip("Orthanc is not installed")
        self.http_port, self.dicom_port = free_port(), free_port()
        self._login = base64.b64encode(":".join(login).encode()).decode() if login else ""
        self._folder = folder / "orthanc"
        self._folder.mkdir(parents=True, exist_ok=True)
        plugin = PLUGINS / "libOrthancDicomWeb.so"
        if dicomweb and not plugin.exists():
            pytest.skip("Orthanc's DICOMweb plugin is not installed")
        self._config = {
            "Name": "test",
            "StorageDirectory": str(self._folder / "storage"),
            "IndexDirectory": str(self._folder / "index"),
            "Plugins": [str(plugin)] if dicomweb else [],
            "HttpPort": self.http_port,
            "HttpBindAddresses": ["127.0.0.1"],
            "DicomPort": self.dicom_port,
            "DicomAet": self.AE_TITLE,
            "DicomCheckCalledAet": True,
            "DicomModalities": {},
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": False,
            "MaximumPduLength": 131_072,
        } | settings
        self._process: subprocess.Popen[bytes] | None = None
        if modalities is not None:
            self.know(**modalities)

    def know(self, **modalities: tuple[str, int]) -> None:
        """Set, for its next start, the peers that it may send to."""
        self._config["DicomModalities"] = {
            name: [title, "127.0.0.1", port] for name, (title, port) in modalities.items()
        }

    def start(self) -> Self:
        """Start it, and return when it answers."""
        path = self._folder / "orthanc.json"
        path.write_text(json.dumps(self._config))
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.program, str(path)], stdout=log, stderr=log, env=os.environ | {"TCP_NODELAY": "1"}
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.get("/system")
                return self
            except urllib.error.URLError:
                time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"Orthanc did not start: {(self._folder / 'log').read_text()[-2000:]}")

    def stop(self) -> None:
        """Stop it, if it runs."""
        if self._process is not None:
            # Its orderly end takes 3 s; its database survives a sudden one.
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Root of its REST interface."""
        return f"http://127.0.0.1:{self.http_port}"

    def destination(self, name: str = "orthanc") -> Destination:
        """Return it as the node's settings name it."""
        return Destination(name=name, ae_title=self.AE_TITLE, host="127.0.0.1", port=self.dicom_port)

    def get(self, path: str) -> Any:
        """GET from its REST interface: parsed JSON, or bytes where it is none."""
        return self._request(path, None)

    def post(self, path: str, body: bytes | Mapping[str, Any]) -> Any:
        """POST bytes, or JSON, to its REST interface."""
        return self._request(path, body if isinstance(body, bytes) else json.dumps(body).encode())

    def delete(self, path: str) -> None:
        """DELETE by its REST interface."""
        self._request(path, None, "DELETE")

    def _request(self, path: str, body: bytes | None, method: str | None = None) -> Any:
        headers = {"Authorization": f"Basic {self._login}"} if self._login else {}
        request = urllib.request.Request(self.url + path, body, headers, method=method)  # noqa: S310 - our own http address
        with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310 - the same
            content = answer.read()
            return json.loads(content) if "json" in answer.headers.get("Content-Type", "") else content

    def instance_uids(self) -> set[str]:
        """Return the SOP Instance UIDs that it holds."""
        return {entry["MainDicomTags"]["SOPInstanceUID"] for entry in self.get("/instances?expand")}

    def file(self, sop_instance_uid: str) -> bytes:
        """Return an instance's file as it holds it."""
        (found,) = self.post(
            "/tools/find", {"Level": "Instance", "Query": {"SOPInstanceUID": sop_instance_uid}, "Expand": False}
        )
        content: bytes = self.get(f"/instances/{found}/file")
        return content


@pytest.fixture(name="orthanc")
def running_orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """A running Orthanc of the test's own; a test module that imports this function has the fixture `orthanc`."""
    with Orthanc(tmp_path) as server:
        yield server
