"""A made-up segmenter of four classes: a real network, whose weights are thresholds on T1C and FLAIR."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import models
from app.config import load_settings
from app.phantom import PhantomOptions, make_phantom
from app.process import process_folder
from models.segments import CID_7168, FILE, Channels, Segment
from operators import native
from operators.domain import LabelMap, TumourMap
from operators.key_image import render_key_image, save_key_image
from operators.measure import measure
from operators.write_capture import write_captures
from operators.write_measurements import write_measurements
from operators.write_pdf import write_pdf
from operators.write_seg import write_segs
from operators.write_sr import write_sr
from tests.support_phantom import FOLDER
from tests.support_results import MADE_AT, ellipsoid, job_of

NAME = "layers"
WEIGHTS = Path(models.__file__).parent / "weights"
BRIGHT_FLAIR, BRIGHT_T1C, DARK_T1C = 1.7, 1.0, -1.7
"""Where the made-up network sees lesion, enhancement and necrosis, in its frame's normalised intensities."""
STEEPNESS = 12.0
ORDER = ("background", Segment.NECROSIS, Segment.OEDEMA, Segment.ENHANCING)
"""Of its channels: not that of the results."""


def code_of(segment):
    """A channel as the description has it."""
    wanted = None if segment == "background" else segment
    return next(
        {"value": value, "scheme": scheme, "meaning": meaning}
        for (value, scheme), (meaning, known) in CID_7168.items()
        if known is wanted
    )


def described(order=ORDER, probabilities="exclusive"):
    """A description of channels."""
    return {"probabilities": probabilities, "channels": [code_of(segment) for segment in order]}


def layers_onnx(path, size=224, logits=False, bright_t1c=BRIGHT_T1C):
    """Write (N, 2, size, size), T1C and FLAIR, to the probabilities of four classes (N, 4, size, size)."""
    values = {"flair": BRIGHT_FLAIR, "bright": bright_t1c, "dark": DARK_T1C, "steep": STEEPNESS, "less": -STEEPNESS}
    values |= {"unit": 1.0, "nothing": 0.0}
    constants = [numpy_helper.from_array(np.array(v, np.float32), name) for name, v in values.items()]
    nodes = [
        helper.make_node("Split", ["image"], ["t1c", "fl"], axis=1, num_outputs=2),
        *_step("fl", "flair", "steep", "lesion"),
        *_step("t1c", "bright", "steep", "enhances"),
        *_step("t1c", "dark", "less", "is_dark"),
        helper.make_node("Mul", ["lesion", "enhances"], ["enhancing"]),
        helper.make_node("Mul", ["lesion", "is_dark"], ["necrosis"]),
        helper.make_node("Sub", ["lesion", "enhancing"], ["others"]),
        helper.make_node("Sub", ["others", "necrosis"], ["oedema"]),
        helper.make_node("Sub", ["unit", "lesion"], ["background"]),
        helper.make_node("Concat", ["background", "necrosis", "oedema", "enhancing"], ["p"], axis=1),
        helper.make_node("Mul" if logits else "Identity", ["p", "steep"] if logits else ["p"], ["classes"]),
    ]
    shape = ["slices", 2, size, size]
    graph = helper.make_graph(
        nodes,
        NAME,
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("classes", TensorProto.FLOAT, ["slices", 4, size, size])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def _step(image, threshold, slope, name):
    """A steep but smooth step of an image about a threshold."""
    yield helper.make_node("Sub", [image, threshold], [f"{name}_above"])
    yield helper.make_node("Mul", [f"{name}_above", slope], [f"{name}_steep"])
    yield helper.make_node("Sigmoid", [f"{name}_steep"], [name])


def models_folder(folder, description=None, refinement=None, **network):
    """Make a folder of weights with the made-up segmenter beside the real markers; returns settings that use it."""
    layers_onnx(folder / "weights" / NAME / "model.onnx", **network)
    (folder / "weights" / NAME / FILE).write_text(json.dumps(description or described()))
    (folder / "weights" / "markers").symlink_to(WEIGHTS / "markers")
    (folder / "inputs").mkdir()
    (folder / "inputs" / f"{NAME}.refinement.json").write_text(json.dumps(refinement or {"smallest_ml": 0.5}))
    return {
        "models_dir": str(folder / "weights"),
        "inputs_dir": str(folder / "inputs"),
        "pipeline": {"segmenter": NAME},
    }


LEGEND = (Segment.ENHANCING, Segment.NECROSIS, Segment.OEDEMA)
LAYER_SIZES = {Segment.OEDEMA: 1.0, Segment.ENHANCING: 0.72, Segment.NECROSIS: 0.45}
"""Semi-axes of ellipsoids within one another, as shares of the tumour's."""


def label_map(array, legend=LEGEND):
    """A label map as the made-up segmenter makes it."""
    return LabelMap(np.asarray(array, np.uint8), legend, str(Channels.model_validate(described())))


def with_labels(job, array, legend=LEGEND, **measured):
    """Let a job's tumour be what these labels say."""
    chance = np.where(array > 0, 0.9, 0.1).astype(np.float32)
    tumour = job.tumour
    job.tumour = TumourMap(job.stack.geometry, chance, tumour.model, tumour.model_version, label_map(array, legend))
    job.findings = measure(job.stack, job.tumour, **measured)
    return job


def segments_of(tumour):
    """What a result outlines: the whole, and the parts that were found."""
    return Segment.WHOLE, *(tumour.labels.found if tumour.labels else ())


def layers_of(geometry, semi_axes_mm=(14, 11, 12), centre_mm=(0, 0, 0), legend=LEGEND):
    """Labels of ellipsoids within one another: necrosis in an enhancing rim in oedema."""
    array = np.zeros(geometry.spatial_shape, np.uint8)
    for segment, share in LAYER_SIZES.items():
        inside = ellipsoid(geometry, tuple(share * a for a in semi_axes_mm), centre_mm) > 0.5
        array[inside] = legend.index(segment) + 1
    return array


def layered_job(folder, semi_axes_mm=(14, 11, 12), centre_mm=(0, 0, 0), **made):
    """A job whose tumour has three layers."""
    job = job_of(folder, semi_axes_mm=semi_axes_mm, centre_mm=centre_mm, **made)
    return with_labels(job, layers_of(job.stack.geometry, semi_axes_mm, centre_mm))


def write_all(job, language="en", version="1.0.0", **asked):
    """Write every object of a job's result set, as the graph does."""
    picture = render_key_image(job.stack, job.tumour, job.findings)
    job.results["key image"] = save_key_image(picture, job.output_folder / "key_image.png")
    write_segs(job, version, MADE_AT, **asked)
    for write in (write_measurements, write_captures):
        write(job, version, MADE_AT)
    write_pdf(job, version, MADE_AT, language)
    write_sr(job, version, MADE_AT)
    return job


@lru_cache(maxsize=1)
def analysed_layers():
    """A phantom of a high-grade glioma and the made-up segmenter through the whole graph, once a test run.

    Returns its truth and the finished job, with label maps and probability asked for.
    """
    folder = Path(mkdtemp(dir=FOLDER.name))
    truth = make_phantom(folder / "study", PhantomOptions(high_grade=True))
    peer = {"name": "a", "ae_title": "A", "host": "127.0.0.1", "port": 1, "segmentation": "labelmap"}
    settings = load_settings(
        preprocess={"timeout_seconds": 900.0},
        sender={"destinations": [peer]},
        results={"probability_map": True},
        **models_folder(folder / "models"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "START_SECONDS", 900.0)
        job = process_folder(truth.folder, folder / "results", settings)
    assert job.failure is None, job.failure
    return truth, job
