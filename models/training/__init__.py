"""Data, losses, metrics and loops for training; never imported when the node runs."""
