"""Networks and how they came to be; knows tensors and arrays, not DICOM."""
