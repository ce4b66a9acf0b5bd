"""ResNet for MGMT promoter methylation.

Source: Su Q. et al., "Glioma Methyltransferase Biogenetic Markers Detection Based on ResNet50", Advances in
Clinical Medicine 12(9), 2022, sections 2 and 3.2, figure 6. What the paper leaves open:
- How the four sequences enter: as four channels. It uses no tumour mask, so neither does this network.
- The fully connected layer is printed as 1024 x 1000 with a softmax over 1000 classes, ImageNet's; two classes
  here, from the 2048 features that ResNet-50 has. The batch normalisation it names stands before that layer.
- A patient's MGMT_value (table 2) is taken to be the mean of its slices' probabilities.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.markers.backbone import STAGES
from models.markers.batch import InputMode, SliceBatch, input_channels
from models.markers.fusion import stages
from models.markers.network import MarkerNetwork, Setup
from models.markers.prediction import Prediction


class MgmtNet(MarkerNetwork):
    """The images of all sequences through one network; pooled features normalised, then classified."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        features = setup.backbone.channels(STAGES[-1])
        self.stem = setup.backbone.stem(InputMode.IMG.channels(len(self.sequences)))
        self.stages = stages(setup.backbone, STAGES[0], STAGES[-1])
        self.normalise = nn.BatchNorm1d(features)
        self.head = nn.Linear(features, setup.classes)

    def predict(self, batch: SliceBatch) -> Prediction:
        """Answer a batch; needs more than one slice while training."""
        features = self.stages(self.stem(input_channels(batch, InputMode.IMG, self.sequences)))  # (B, C, H/32, W/32)
        return Prediction(self.head(self.normalise(features.mean(dim=(2, 3)))), features, self.head_weight())

    def head_weight(self) -> Tensor:
        """Return how the logits change with the pooled features, as the running statistics scale them."""
        # A BatchNorm that tracks statistics, as this one does, has a variance and a scale.
        variance: Tensor = self.normalise.running_var  # type: ignore[assignment]
        return self.head.weight * (self.normalise.weight / torch.sqrt(variance + self.normalise.eps))


def patient_value(probabilities: Tensor) -> Tensor:
    """Return a patient's probability of each class, (classes,), from its slices' (slices, classes)."""
    if len(probabilities) == 0:
        raise ValueError("a patient without slices has no MGMT value")
    return probabilities.mean(dim=0)
