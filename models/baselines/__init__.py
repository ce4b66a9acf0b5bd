"""The networks that NASBraNet is compared with (thesis table 4-5): U-Net, ICNet, NAS-Unet.

All take two channels (T1C, FLAIR), give two classes, begin from random weights, and are trained by the same
trainer on the same patients. None is loaded when the node runs.
"""

from models.baselines.icnet import ICNet
from models.baselines.nas_unet import NasUnet
from models.baselines.unet import UNet

__all__ = ["ICNet", "NasUnet", "UNet"]
