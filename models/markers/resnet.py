"""ResNet's stem, middle layer and shortcut.

Source: K. He et al., "Deep Residual Learning", CVPR 2016, table 1; the halving stride stands in the 3x3
convolution, not in the 1x1 before it, as in every current implementation ("v1.5").
"""

from __future__ import annotations

from torch import nn

from models.markers.backbone import Backbone, conv_bn, conv_bn_relu


class ResNet(Backbone):
    """Builds ResNet's parts."""

    def stem(self, inputs: int) -> nn.Module:
        """Build the 7x7 convolution and the pooling, both of stride 2."""
        return nn.Sequential(conv_bn_relu(inputs, self.design.stem, 7, 2), nn.MaxPool2d(3, 2, 1))

    def middle(self, inner: int, stride: int) -> nn.Module:
        """Build the 3x3 convolution."""
        return conv_bn_relu(inner, inner, 3, stride)

    def shortcut(self, inputs: int, outputs: int, stride: int) -> nn.Module:
        """Build the strided 1x1 convolution (option B of section 3.3)."""
        return conv_bn(inputs, outputs, 1, stride)
