"""What a job came to, as plain data for `--json`, the archive and tables; holds no patient identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from models.segments import Segment
from operators.domain import Attention, Check, Findings, Marker, Selection
from operators.integrated import read_together
from operators.report_words import WORDS
from operators.segment_table import SEGMENTS
from operators.stage import Job
from operators.statements import millilitres


def describe_selection(selection: Selection | None) -> dict[str, Any]:
    """Give the chosen series by contrast, and the verdict on every series, with reasons."""
    if selection is None:
        return {"chosen": {}, "series": []}
    chosen = {
        str(contrast): {
            "series_number": v.series.number,
            "series_uid": v.series.uid,
            "reason": v.reason,
            "confidence": v.confidence,
        }
        for contrast, v in selection.chosen.items()
    }
    series = [
        {
            "series_number": v.series.number,
            "series_uid": v.series.uid,
            "instances": len(v.series.instances),
            "kind": v.kind,
            "contrast": str(v.contrast) if v.contrast else None,
            "confidence": v.confidence,
            "reason": v.reason,
        }
        for v in selection.verdicts
    ]
    return {"chosen": chosen, "series": series}


def describe_job(job: Job) -> dict[str, Any]:
    """Give everything that a caller may want to know of a settled job."""
    return {
        "job_id": job.job_id,
        "study_uid": job.study.uid if job.study else None,
        "status": _status(job),
        "failure": vars(job.failure) if job.failure else None,
        **describe_selection(job.selection),
        **_describe_findings(job.findings),
        "markers": {str(m.name): _describe_marker(m) for m in job.markers},
        "earlier": _describe_earlier(job),
        "attention": [_describe_attention(found) for found in job.attention],
        "reading": str(read_together(job.markers)) if job.markers else None,
        "segmenter": _describe_segmenter(job),
        "checks": [_describe_check(check) for check in job.checks],
        "notes": [*job.notes, *(job.stack.notes if job.stack else ())],
        "seconds": _rounded(job.seconds),
        "preprocess_seconds": _rounded(job.stack.seconds) if job.stack else {},
        "files": {kind: str(path) for kind, path in job.results.items()},
    }


def _describe_segmenter(job: Job) -> dict[str, str] | None:
    if job.tumour is None:
        return None
    return {"name": job.tumour.model, "version": job.tumour.model_version, "engine": job.engine}


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {step: round(taken, 3) for step, taken in seconds.items()}


def _status(job: Job) -> str:
    if job.failure is None:
        return "done"
    return "not assessed" if job.failure.not_assessable else "failed"


def _describe_check(check: Check) -> dict[str, Any]:
    return {**vars(check), "outcome": str(check.outcome)}


def _describe_findings(findings: Findings | None) -> dict[str, Any]:
    if findings is None:
        return {"volumes_ml": {}, "diameters_mm": {}}
    axes = {"long": findings.long_axis, "short": findings.short_axis}
    return {
        "volumes_ml": {"tumour": _ml(findings.tumour_mm3)},
        "diameters_mm": {name: round(axis.millimetres, 2) for name, axis in axes.items() if axis},
        "ranges": _describe_ranges(findings),
        "parts": findings.parts,
        "reaches_edge": findings.reaches_edge,
        **_describe_segments(findings),
    }


def _ml(cubic_mm: float) -> float:
    """Round to a cubic millimetre; what was found is never 0."""
    return round(cubic_mm / 1000.0, 3) or millilitres(cubic_mm)


def _describe_segments(findings: Findings) -> dict[str, Any]:
    """Give each part that the network tells apart, 0 ml where it was not found; {} of one that tells none."""
    if not findings.segments:
        return {}
    return {"segments": {str(s): _describe_segment(s, part) for s, part in findings.segments.items()}}


def _describe_segment(segment: Segment, part: Findings) -> dict[str, Any]:
    code, axes = SEGMENTS[segment].code, {"long": part.long_axis, "short": part.short_axis}
    return {
        "code": [code.value, code.scheme_designator, code.meaning],
        "volume_ml": _ml(part.tumour_mm3),
        "diameters_mm": {name: round(axis.millimetres, 2) for name, axis in axes.items() if axis},
        "parts": part.parts,
        "reaches_edge": part.reaches_edge,
    }


def _describe_ranges(findings: Findings) -> dict[str, Any]:
    """Give the ranges that a person's outline would measure, and in what share of patients; {} where none are known."""
    volume, axes = findings.tumour_interval_mm3, {"long": findings.long_axis, "short": findings.short_axis}
    if volume is None:
        return {}
    return {
        "level": volume.level,
        "tumour_ml": [_ml(end) for end in (volume.low, volume.high)],
        **{
            f"{name}_mm": [round(end, 2) for end in (axis.interval_mm.low, axis.interval_mm.high)]
            for name, axis in axes.items()
            if axis is not None and axis.interval_mm is not None
        },
    }


def _describe_earlier(job: Job) -> dict[str, Any] | None:
    """Say what an earlier examination measured, where there was one."""
    earlier = job.earlier
    if earlier is None:
        return None
    return {
        "examined_on": earlier.examined_on.isoformat(),
        "tumour_ml": earlier.tumour_ml,
        "model": earlier.model,
        "version": earlier.model_version,
        **({"segments_ml": {str(s): ml for s, ml in earlier.parts_ml.items()}} if earlier.parts_ml else {}),
    }


def _describe_attention(found: Attention) -> dict[str, Any]:
    """Say what a marker's network made of the study, and on which slices (counted from the feet, the first is 1)."""
    return {
        "marker": str(found.name),
        "network": found.model,
        "version": found.model_version,
        "probability": round(found.probability, 4),
        "worth": found.worth,
        "sequences": list(found.read),
        "slices": [index + 1 for index in found.slices],
    }


def _describe_marker(marker: Marker) -> dict[str, Any]:
    return {
        "value": str(marker.value),
        "said": WORDS["en"].value_of(marker.name, marker.value).lower(),
        "probability": marker.probability,
        "reason": marker.reason,
        "model": marker.model or None,
        "version": marker.model_version or None,
        "times_the_odds": {group: float(f"{factor:.3g}") for group, factor in marker.moved_by},
    }
