"""A search space small enough to finish in seconds, and a table of times for it."""

from models.nasbranet.latency_table import LatencyTable, keys_of
from models.nasbranet.plan import Op
from models.nasbranet.space import SearchSpace

SPACE = SearchSpace(layers=6, expansions=(4, 8), student_stem=4, student_head=8, teacher_stem=8)


def slow_convolutions():
    """Convolutions take nine times what skips and zooms do."""
    slow = (Op.CONV, Op.CONV_X2)
    times = {k: (9.0 if k.op in slow else 1.0) + 0.001 * (k.c_in + k.height) for k in keys_of(SPACE)}
    return LatencyTable({"device": "test"}, times)
