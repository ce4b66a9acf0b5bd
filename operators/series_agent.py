"""Tell T1 before contrast agent from T1 after it, across a study.

Marks count: words, the header's agent, the order of acquisition, the time of injection, and what the images show.
Each gives log-odds for "after"; they are added. An agent recorded on every repeat of one protocol was entered at
registration and says little: then order and images decide.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from operators.domain import Series
from operators.headers import first, number
from operators.series_evidence import field_text, words
from operators.series_geometry import plane
from operators.series_kinds import DECIDED
from operators.series_physics import read_timing
from operators.series_pixels import Look, agent_points, pair_points
from operators.series_rules import AGENT_POINTS, Rules
from operators.series_words import read_agent

NO_AGENT = {"", "no", "n", "none", "no contrast", "without", "nein", "non", "0", "unknown", "na", "n/a", "nil", "nativ"}
UNSAID = -1.0
"""Log-odds of a T1 of which nothing is said: most come before."""
RECORDED, RECORDED_EVERYWHERE, NOT_RECORDED = 3.0, 0.5, -2.0
FOLLOWS, PRECEDES, REPEATS, REPEATED = 3.0, -1.5, 3.0, -1.0
WRONG_ORDER = 2.0
INJECTED = 3.0
NIGHT_SECONDS = 12 * 3600
"""Times without dates that lie further apart than this are of two days."""
LookAt = Callable[[Series], Look | None]


@dataclass(frozen=True)
class Mark:
    """One sign of contrast agent: log-odds for "after", and what it is."""

    points: float
    says: str


@dataclass(frozen=True, eq=False)
class Sign:
    """A T1 series with its marks."""

    series: Series
    moment: float | None
    marks: tuple[Mark, ...] = ()

    @property
    def odds(self) -> float:
        """Log-odds that contrast agent had been given."""
        return sum(mark.points for mark in self.marks) if self.marks else UNSAID

    def with_mark(self, points: float, says: str) -> Sign:
        """The same with one more mark."""
        return Sign(self.series, self.moment, (*self.marks, Mark(points, says))) if points else self

    def verdict(self) -> tuple[str, float, str]:
        """T1, T1C or "unknown", its probability, and why."""
        after = 1 / (1 + math.exp(-self.odds))
        if not self.marks:
            return "T1", 1 - after, "no contrast agent is recorded, and nothing came before it"
        kind = "T1C" if after >= DECIDED else "T1" if after <= 1 - DECIDED else "unknown"
        told = sorted(self.marks, key=lambda mark: -mark.points * (1 if after >= 0.5 else -1))
        agree = [m.says for m in told if (m.points > 0) == (after >= 0.5) and m.says and abs(m.points) >= 1]
        against = [m.says for m in told if (m.points > 0) != (after >= 0.5) and m.says and abs(m.points) >= 1]
        text = "; ".join(agree) or "nothing says that contrast agent was given"
        return kind, max(after, 1 - after), text + (f"; against it: {', '.join(against)}" if against else "")


def settle(
    series: Sequence[Series], given: Sequence[Series], everything: Sequence[Series], rules: Rules, look: LookAt | None
) -> dict[int, tuple[str, float, str]]:
    """Say of each T1, by its place in `series`, whether it is T1 or T1C, how surely, and why.

    `given` are series during which contrast agent is injected, `everything` all of the study; `look` looks at a
    series' image, None where images are not to be read.
    """
    moments = moments_of(everything)
    if any(id(s) not in moments for s in series):
        moments = _numbered(everything)
    signs = [Sign(s, moments.get(id(s))) for s in series]
    signs = [_own_marks(sign, rules) for sign in signs]
    signs = _recorded(signs, everything)
    signs = _order(signs, [moments[id(s)] for s in given if id(s) in moments])
    signs = [_injection(sign, everything) for sign in signs]
    if look is not None:
        signs = _images(signs, look)
    return {place: sign.verdict() for place, sign in enumerate(signs)}


def _own_marks(sign: Sign, rules: Rules) -> Sign:
    said = read_agent(words(sign.series))
    if said is not None:
        when = "after" if said else "before"
        sign = sign.with_mark(AGENT_POINTS if said else -AGENT_POINTS, f"description says {when} contrast agent")
    for rule in rules:
        if rule.kind in {"T1", "T1C"} and rule.matches(field_text(sign.series, rule.field)):
            sign = sign.with_mark(rule.weight if rule.kind == "T1C" else -rule.weight, "a rule of this site says so")
    return sign


def agent_recorded(series: Series) -> bool | None:
    """Say whether a header records contrast agent: True, False where it says none, None where it says nothing."""
    header = series.header
    if header.get("ContrastBolusAgentSequence"):
        return True
    text = str(first(header, "ContrastBolusAgent") or "").strip().lower()
    if text:
        return text not in NO_AGENT and not re.search(r"^(no|ohne|sans|sin|senza|without) |non[- ]contrast", text)
    return True if (number(header, "ContrastBolusVolume") or 0) > 0 or header.get("ContrastBolusStartTime") else None


def _recorded(signs: Sequence[Sign], everything: Sequence[Series]) -> list[Sign]:
    held = [agent_recorded(sign.series) for sign in signs]
    at_registration = len(signs) > 1 and all(agent_recorded(s) for s in everything if s.modality == "MR")
    return [
        _mark_record(sign, recorded, signs, held, at_registration) for sign, recorded in zip(signs, held, strict=True)
    ]


def _mark_record(
    sign: Sign, recorded: bool | None, signs: Sequence[Sign], held: Sequence[bool | None], at_registration: bool
) -> Sign:
    alike = [h for other, h in zip(signs, held, strict=True) if protocol(other.series) == protocol(sign.series)]
    if recorded and (at_registration or (len(alike) > 1 and all(alike))):
        sign = sign.with_mark(RECORDED_EVERYWHERE, "contrast agent is recorded, but on every repeat")
        return _first_or_later(sign, signs)
    if recorded:
        return sign.with_mark(RECORDED, "contrast agent is recorded (0018,0010)")
    if recorded is False or any(held):
        return sign.with_mark(NOT_RECORDED, "no contrast agent is recorded")
    return sign


def _first_or_later(sign: Sign, signs: Sequence[Sign]) -> Sign:
    """Where the record tells nothing, of several T1 the first is likelier plain, a later one enhanced."""
    moments = [s.moment for s in signs if s.moment is not None]
    if sign.moment is None or min(moments) == max(moments) or read_agent(words(sign.series)) is not None:
        return sign
    first = sign.moment == min(moments)
    return sign.with_mark(PRECEDES if first else -PRECEDES, f"is {'the first' if first else 'not the first'} T1")


def _order(signs: Sequence[Sign], perfusion: Sequence[float]) -> list[Sign]:
    """Post-contrast follows pre-contrast, perfusion imaging, and an identical series."""
    sure = [s.moment for s in signs if s.odds >= 2 and s.moment is not None]
    return [_placed(sign, signs, perfusion, sure) for sign in signs]


def _placed(sign: Sign, signs: Sequence[Sign], perfusion: Sequence[float], sure: Sequence[float]) -> Sign:
    moment, unsaid = sign.moment, read_agent(words(sign.series)) is None
    if moment is None:
        return sign
    if perfusion and moment > min(perfusion):
        sign = sign.with_mark(FOLLOWS, "taken after perfusion imaging")
    others = [s for s in sure if s != moment]
    if others and moment > min(others) and sign.odds < 2:
        follows = FOLLOWS if unsaid else WRONG_ORDER
        return sign.with_mark(follows, "taken after a T1 with contrast agent")
    if sure and moment < min(sure):
        return sign.with_mark(PRECEDES, "taken before the T1 with contrast agent")
    if _after_a_plain_one(sign, signs):
        return sign.with_mark(-WRONG_ORDER, "a T1 called unenhanced was taken after it")
    return sign if sure else _repeat(sign, signs)


def _after_a_plain_one(sign: Sign, signs: Sequence[Sign]) -> bool:
    """Say whether a T1 that is marked as enhanced has an unenhanced one of its kind after it."""
    plain = [s for s in signs if read_agent(words(s.series)) is False and s.moment is not None]
    return sign.odds > 0 and any((s.moment or 0) > (sign.moment or 0) for s in plain)


def _repeat(sign: Sign, signs: Sequence[Sign]) -> Sign:
    alike = [s for s in signs if s.moment is not None and protocol(s.series) == protocol(sign.series)]
    moments = {s.moment for s in alike}
    if len(moments) < 2 or read_agent(words(sign.series)) is not None:
        return sign
    if sign.moment == min(m for m in moments if m is not None):
        return sign.with_mark(REPEATED, "the first of two with the same description and timing")
    return sign.with_mark(UNSAID, "").with_mark(REPEATS, "repeats an earlier one with the same description and timing")


def protocol(series: Series) -> tuple[Any, ...]:
    """What two series have in common of which one repeats the other; numbers in descriptions do not count."""
    timing = read_timing(series.header)
    said = " ".join(re.findall(r"[^\W\d_]+", re.sub(r"t ?([12])", r"t\1", words(series)).replace("t1", "tone")))
    return said, round(timing.repetition or 0, -1), round(timing.echo or 0), plane(series)


def _injection(sign: Sign, everything: Sequence[Series]) -> Sign:
    """Compare the acquisition with the time of injection that any series of the study gives."""
    starts = [t for s in everything if (t := seconds_of(str(s.header.get("ContrastBolusStartTime") or ""))) is not None]
    if not starts or sign.moment is None or not clock_of(sign.series):
        return sign
    taken = seconds_of(clock_of(sign.series)) or 0.0
    if abs(taken - min(starts)) > NIGHT_SECONDS:
        return sign
    after = taken > min(starts)
    return sign.with_mark(INJECTED if after else -INJECTED, f"taken {'after' if after else 'before'} the injection")


def _images(signs: Sequence[Sign], look: LookAt) -> list[Sign]:
    """Compare the images of axial T1 two by two; look at a lone one only where nothing else tells."""
    axial = [s for s in signs if plane(s.series) == "axial"]
    if len(axial) == 1 and len(signs) == 1 and abs(axial[0].odds) < 2:
        seen = look(axial[0].series)
        points = agent_points(seen) if seen else 0.0
        return [_seen(axial[0].with_mark(UNSAID, "") if points and not axial[0].marks else axial[0], points)]
    looks = {id(s): look(s.series) for s in axial} if len(axial) > 1 else {}
    return [_compared(sign, axial, looks) for sign in signs]


def _compared(sign: Sign, axial: Sequence[Sign], looks: Mapping[int, Look | None]) -> Sign:
    mine = looks.get(id(sign))
    if mine is None:
        return sign
    points = [0.0]
    for other in axial:
        theirs = looks[id(other)]
        if other is not sign and theirs is not None:
            # Two protocols differ in brightness without any agent.
            same = read_timing(sign.series.header) == read_timing(other.series.header)
            points.append(pair_points(mine, theirs) * (1.0 if same else 0.5))
    return _seen(sign, max(points) + min(points))


def _seen(sign: Sign, points: float) -> Sign:
    when = "after" if points > 0 else "before"
    return sign.with_mark(points, f"the image looks {when} contrast agent")


def clock_of(series: Series) -> str:
    """Time of acquisition as DICOM writes it (TM): the earliest of the slices; empty if unknown."""
    for kind in ("AcquisitionTime", "SeriesTime", "ContentTime"):
        times = [str(first(i.header, kind) or "") for i in series.instances]
        if all(times):
            return min(times)
    stamps = [str(first(i.header, k) or "") for i in series.instances for k in DATE_TIMES]
    return min((s[8:] for s in stamps if len(s) > 8), default="")


DATE_TIMES = ("AcquisitionDateTime", "FrameAcquisitionDateTime")


def _day_of(series: Series) -> int | None:
    for keyword in ("AcquisitionDate", "SeriesDate", "ContentDate", "StudyDate", *DATE_TIMES):
        text = re.sub(r"\D", "", str(first(series.header, keyword) or ""))[:8]
        try:
            return date(int(text[:4]), int(text[4:6]), int(text[6:8])).toordinal()
        except ValueError:
            continue
    return None


def seconds_of(clock: str) -> float | None:
    """Seconds since midnight of a DICOM time, HHMMSS.F or HH:MM:SS; None where it is none."""
    digits = re.fullmatch(r"(\d\d):?(\d\d):?(\d\d(?:\.\d*)?)?.*", clock.strip())
    return int(digits[1]) * 3600.0 + int(digits[2]) * 60.0 + float(digits[3] or 0) if digits else None


def moments_of(series: Sequence[Series]) -> dict[int, float]:
    """When each series was taken, in seconds, by id; by series number where no series has a time."""
    clocks = {id(s): t for s in series if (t := seconds_of(clock_of(s))) is not None}
    if not clocks:
        return _numbered(series)
    days = {id(s): _day_of(s) for s in series}
    if all(days[key] is not None for key in clocks):
        start = min(day for day in days.values() if day is not None)
        return {key: t + 86400.0 * ((days[key] or start) - start) for key, t in clocks.items()}
    late = max(clocks.values())
    return {key: t + (86400.0 if late - t > NIGHT_SECONDS else 0.0) for key, t in clocks.items()}


def _numbered(series: Sequence[Series]) -> dict[int, float]:
    return {id(s): float(s.number) for s in series if s.number is not None}
