"""What the trainer expects of a segmentation network, ours or a baseline."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn


class SegmentationNetwork(nn.Module):
    """A network that maps slices (B, 2, H, W) to class logits (B, classes, H, W), H and W divisible by 16."""

    @abstractmethod
    def forward_all(self, image: Tensor) -> list[Tensor]:
        """Return the main logits at the image's size, then the auxiliary ones at scales of their own."""

    def forward(self, image: Tensor) -> Tensor:
        """Return the main logits."""
        return self.forward_all(image)[0]
