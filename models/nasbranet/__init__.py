"""NASBraNet: the thesis's searched two-branch segmentation network (thesis chapter 4)."""
