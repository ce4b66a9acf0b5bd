"""Networks and how they came to be; knows tensors and arrays, not DICOM."""

import sys

# OpenVINO tells Google Analytics of each import and conversion through this package, which its own requires. A
# hospital's node tells nobody: where the package cannot be imported, OpenVINO and NNCF have stand-ins of their own.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
