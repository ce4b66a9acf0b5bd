"""The network a plan describes: stem, cells in branches with a shared beginning, climb, merge, head.

Source: thesis section 4.3 and figure 4-4. Climb and head follow FasterSeg (ICLR 2020); the thesis does not
print them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.nasbranet.ops import build_op, conv_bn_relu, resize
from models.nasbranet.plan import CellPlan, NetworkPlan
from models.training.network import SegmentationNetwork


class Climb(nn.Module):
    """One scale up: halve the channels, double the size, join the branch's last map there, convolve."""

    def __init__(self, inputs: int, beside: int, outputs: int) -> None:
        super().__init__()
        self.narrow = conv_bn_relu(inputs, inputs // 2, kernel=1)
        self.refine = conv_bn_relu(inputs // 2 + beside, outputs)

    def forward(self, x: Tensor, beside: Tensor) -> Tensor:
        """Map (B, C_in, H/2, W/2) and the finer map (B, C_beside, H, W) to (B, C_out, H, W)."""
        finer = resize(self.narrow(x), (beside.shape[-2], beside.shape[-1]))
        result: Tensor = self.refine(torch.cat([finer, beside], dim=1))
        return result


class Branch(nn.Module):
    """The unshared cells of one branch and its climb back to scale 2."""

    def __init__(self, plan: NetworkPlan, index: int) -> None:
        super().__init__()
        cells = plan.branches[index]
        self.scales = [cell.scale for cell in cells]
        self.shared = plan.shared
        self.cells = nn.ModuleList(build_cells(plan, cells)[plan.shared :])
        width = {2: plan.stem_expansion * 2} | {cell.scale: cell.channels for cell in cells}
        self.climbs = nn.ModuleList()
        inputs, scale = cells[-1].channels, cells[-1].scale
        while scale > 2:
            scale //= 2
            self.climbs.append(Climb(inputs, width[scale], plan.head_expansion * scale))
            inputs = plan.head_expansion * scale
        self.out_channels = inputs

    def forward(self, stem: Tensor, shared: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Map the stem's and the shared cells' maps to (the branch's map at scale 2, its coarsest map)."""
        x = shared[-1] if shared else stem
        last = {2: stem} | dict(zip(self.scales, shared, strict=False))
        for cell, scale in zip(self.cells, self.scales[self.shared :], strict=True):
            x = last[scale] = cell(x)
        coarsest, scale = x, self.scales[-1]
        for climb in self.climbs:
            scale //= 2
            x = climb(x, last[scale])
        return x, coarsest


class NASBraNet(SegmentationNetwork):
    """A segmentation network built from its plan."""

    def __init__(self, plan: NetworkPlan) -> None:
        super().__init__()
        self.plan = plan
        self.stem = conv_bn_relu(plan.in_channels, plan.stem_expansion * 2, stride=2)
        self.shared = nn.ModuleList(build_cells(plan, plan.branches[0])[: plan.shared])
        branches = [Branch(plan, i) for i in range(len(plan.branches))]
        self.branches = nn.ModuleList(branches)
        joined, width = sum(b.out_channels for b in branches), plan.head_expansion * 2
        self.merge = conv_bn_relu(joined, joined, kernel=1)
        self.head = nn.Sequential(conv_bn_relu(joined, width), nn.Conv2d(width, plan.classes, 1))
        self.auxiliary = nn.ModuleList(nn.Conv2d(b[-1].channels, plan.classes, 1) for b in plan.branches)

    def forward_all(self, image: Tensor) -> list[Tensor]:
        """Map (B, C, H, W), H and W divisible by 8, to the main logits and one auxiliary map a branch.

        The main logits are (B, classes, H, W); the auxiliary ones keep their branch's own scale.
        """
        x = stem = self.stem(image)  # (B, 2 chi, H/2, W/2)
        shared: list[Tensor] = []
        for cell in self.shared:
            x = cell(x)
            shared.append(x)
        fine, coarse = zip(*(branch(stem, shared) for branch in self.branches), strict=True)
        logits = self.head(self.merge(torch.cat(fine, dim=1)))  # (B, classes, H/2, W/2)
        main = resize(logits, (image.shape[-2], image.shape[-1]))
        return [main, *(head(c) for head, c in zip(self.auxiliary, coarse, strict=True))]


def build_cells(plan: NetworkPlan, cells: tuple[CellPlan, ...]) -> list[nn.Module]:
    """Build a branch's cells in order; a cell whose scale is twice the last one's halves the map."""
    built, inputs, scale = [], plan.stem_expansion * 2, 2
    for cell in cells:
        built.append(build_op(cell.op, inputs, cell.channels, cell.scale // scale))
        inputs, scale = cell.channels, cell.scale
    return built
