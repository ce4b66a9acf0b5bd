"""Molecular markers from brain MRI: the classifiers of the sources, behind one interface."""
