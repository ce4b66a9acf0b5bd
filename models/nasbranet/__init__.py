"""NASBraNet: the thesis's searched two-branch segmentation network (thesis chapter 4)."""

import warnings

# MONAI imports Holoscan where it is installed, and Holoscan warns of a stack size that training never needs.
warnings.filterwarnings("ignore", "Current stack size", RuntimeWarning)
