"""How long and how hard a search goes, and what it counts as good; the defaults are the thesis's."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.nasbranet.latency import PenaltyWeights
from models.training.data import DataError


@dataclass(frozen=True, kw_only=True)
class SearchSettings:
    """How long and how hard to search; the defaults are the thesis's."""

    warm_up: int = 20
    """Epochs of weights alone."""
    epochs: int = 30
    """Epochs of architecture and weights."""
    steps: int | None = None
    """Batches an epoch; None for all."""
    batch: int = 8
    scale: float = 1.0
    """Share of the full image side."""
    target_ms: float = 8.3
    """T: the time at which a network is neither rewarded nor punished for its speed."""
    exponent: float = -0.07
    """w: how much speed counts in the score."""
    time_weight: float = 0.01
    """Lambda."""
    penalty: PenaltyWeights = field(default_factory=PenaltyWeights)
    """Shares of operator, halving and width in the time penalty."""
    hold_fps: tuple[float, float] | None = None
    """Double lambda after an epoch whose student is slower than the first (frames/s), halve it where faster than the
    second, as FasterSeg's code does (155 to 175); None, as the thesis has it, leaves lambda alone."""
    temperature: tuple[float, float] = (1.0, 1.0)
    """Of the Gumbel draws, in the first and in the last epoch of the search; geometric in between."""
    weight_rate: tuple[float, float] = (0.02, 0.01)
    """SGD's learning rate at the beginning of warm-up and of search."""
    rate_decay: float = 0.978
    """What the learning rate is multiplied by after each epoch."""
    momentum: float = 0.9
    """SGD's."""
    weight_decay: float = 5e-4
    """SGD's."""
    gradient_limit: float = 5.0
    """Longest gradient of all weights together; a longer one is shortened to it."""
    architecture_rate: float = 3e-4
    """Adam's learning rate of alpha, beta and gamma."""
    adam_betas: tuple[float, float] = (0.5, 0.999)
    """Adam's decay of the mean gradient and of its square."""
    empty_share: float = 0.2
    """Tumour-free slices per tumour slice, drawn anew each epoch."""
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.temperature) <= 0.0:
            raise DataError(f"temperatures must be above 0: {self.temperature}")
        if self.hold_fps is not None and not 0.0 < self.hold_fps[0] < self.hold_fps[1]:
            raise DataError(f"frames/s to hold must be two, the lower first: {self.hold_fps}")
        if not all(0.0 <= beta < 1.0 for beta in self.adam_betas):
            raise DataError(f"Adam's betas must be at least 0 and below 1: {self.adam_betas}")

    def temperature_at(self, epoch: int) -> float:
        """Temperature in an epoch, counted from the beginning of the warm-up."""
        first, last = self.temperature
        share = (epoch - self.warm_up) / max(1, self.epochs - 1)
        return float(first * (last / first) ** min(max(share, 0.0), 1.0))

    def held(self, time_weight: float, ms: float) -> float:
        """Lambda after an epoch whose student takes `ms`."""
        if self.hold_fps is None:
            return time_weight
        slowest, fastest = self.hold_fps
        frames_per_second = 1000.0 / ms
        if frames_per_second < slowest:
            return 2.0 * time_weight
        return time_weight / 2.0 if frames_per_second > fastest else time_weight


def score(dice: float, ms: float, settings: SearchSettings) -> float:
    """ACC x (LAT / T) ** w: twice too slow costs 5 %, twice as fast earns 5 %."""
    return float(dice * (ms / settings.target_ms) ** settings.exponent)
