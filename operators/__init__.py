"""The stages of the analysis, one a file, in the order the data meets them."""
