"""A search from end to end on the second device of `support_device`; run as a program, in a process of its own.

python -m tests.models.support_search_on_device FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from rich.progress import Progress
from torch.utils._pytree import tree_map
from torch.utils.data import Dataset

from models.nasbranet import search as module
from models.nasbranet.latency_table import LatencyTable, keys_of
from models.nasbranet.search import Groups, Search, SearchSettings
from models.nasbranet.space import SearchSpace
from models.training.loop import save_whole
from tests.models.support_device import NAME, Mode, OnDevice, real_of, stand_in

SPACE = SearchSpace(layers=6, expansions=(4, 8), student_stem=4, student_head=8, teacher_stem=8, size=32)
SETTINGS = SearchSettings(warm_up=1, epochs=1, batch=2, steps=1, time_weight=1.0)


class Noise(Dataset):
    """Slices of nothing in particular."""

    cases = ()

    def begin_epoch(self, epoch):
        pass

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.randn(2, 32, 32), torch.randint(2, (32, 32))


def main(folder):
    table = LatencyTable({}, {key: 1.0 + number % 5 for number, key in enumerate(sorted(keys_of(SPACE)))})
    module.network_view = lambda prepared: torch.randn(2, 2, 32, 32).numpy()
    module.map_dice = lambda *_: 0.5
    # Such tensors cannot be pickled; a GPU's are brought to the CPU when they are read.
    module.save_whole = lambda path, state: save_whole(path, tree_map(real_of, state))
    torch.inference_mode = torch.no_grad  # a tensor of Python's cannot be an inference tensor
    judge = SimpleNamespace(case=SimpleNamespace(name="judge"))
    device = stand_in()
    with Mode(), Progress(disable=True) as progress:
        for stop in (1, 2):  # broken off after the warm-up, and gone on with
            search = Search(SPACE, Groups(Noise(), Noise(), [judge]), table, SETTINGS, folder, device)
            assert search.resume() == (stop == 2)
            assert {type(p) for p in search.net.parameters()} == {OnDevice}
            if stop == 1:
                search._epoch(progress, searching=False)
                search.epoch = 1
                search._save()
            else:
                began = {name: p.detach().cpu().clone() for name, p in search.net.named_parameters()}
                found = search.run(progress)
        moved = {name for name, p in search.net.named_parameters() if not torch.equal(p.detach().cpu(), began[name])}
        devices = {p.device.type for p in search.net.parameters()}
    assert {"student.gamma", "student.alpha", "student.beta", "teacher.alpha"} <= moved, moved
    assert devices == {NAME}
    sys.stdout.write(f"{len(found)} networks read off\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
