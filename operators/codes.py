"""Every code the result objects use, with where it comes from.

Context groups (CID) and templates (TID) are PS3.16's. NCIt codes are the National Cancer Institute Thesaurus';
they are not in PS3.16, unless a context group is named. DICOM has no concepts for markers predicted from images:
LOINC's name tissue assays and would mislead, so the node declares a scheme of its own. Nor has it one for the core of
a tumour.
"""

from __future__ import annotations

from pydicom.sr.coding import Code

from operators.domain import MarkerName, MarkerValue

PRIVATE_SCHEME = "99GLIOMA"
"""Coding scheme designator of the node's own concepts (PS3.3 section 8.2: private ones begin with 99)."""
PRIVATE_SCHEME_NAME = "Glioma Node concepts for findings predicted from images"

# What is segmented
NEOPLASM = Code("108369006", "SCT", "Neoplasm")  # CID 7159
ABNORMAL_STRUCTURE = Code("49755003", "SCT", "Morphologically Abnormal Structure")  # CID 7150
ENHANCING_LESION = Code("C113842", "NCIt", "Enhancing Lesion")  # CID 7168
NON_ENHANCING_LESION = Code("C81175", "NCIt", "Non-Enhancing Lesion")  # CID 7168
NECROSIS = Code("6574001", "SCT", "Necrosis")  # CID 7168
OEDEMA = Code("79654002", "SCT", "Edema")  # CID 7168
TUMOUR_CORE = Code("TUMOUR_CORE", PRIVATE_SCHEME, "Tumour core (enhancing, non-enhancing and necrotic parts)")
BRAIN = Code("12738006", "SCT", "Brain")  # CID 4
ARTIFICIAL_INTELLIGENCE = Code("123110", "DCM", "Artificial Intelligence")  # CID 7162

# The report: TID 1500
REPORT_TITLE = Code("126001", "DCM", "Oncology Measurement Report")  # CID 7021
MEASUREMENTS_TITLE = Code("126000", "DCM", "Imaging Measurement Report")  # CID 7021
BRAIN_MRI = Code("24590-2", "LN", "Brain MRI")  # CID 646
ENGLISH = Code("en", "RFC5646", "English")  # CID 5000
DEVICE = Code("121007", "DCM", "Device")  # CID 270
COMMENT = Code("121106", "DCM", "Comment")
LIMITS_OF_USE = Code("LIMITS_OF_USE", PRIVATE_SCHEME, "Limits of use")
SERIES_USED = Code("SERIES_USED", PRIVATE_SCHEME, "Series used")
PROCESSING_NOTE = Code("PROCESSING_NOTE", PRIVATE_SCHEME, "Note on the images")
INTEGRATED_READING = Code("READ_TOGETHER", PRIVATE_SCHEME, "Markers read together (WHO CNS 2021)")
QUALITY_WARNING = Code("QUALITY_WARNING", PRIVATE_SCHEME, "Warning of a quality check")
SOURCE_IMAGE = Code("121322", "DCM", "Source image for image processing operation")  # CID 7202
PROCESSING_EQUIPMENT = Code("109102", "DCM", "Processing Equipment")  # CID 7005

# Measurements: TID 300 and 1411
VOLUME = Code("118565006", "SCT", "Volume")  # CID 7469
VOXEL_SUM = Code("126030", "DCM", "Sum of segmented voxel volumes")  # CID 7474
LONG_AXIS = Code("103339001", "SCT", "Long Axis")  # CID 7470
SHORT_AXIS = Code("103340004", "SCT", "Short Axis")  # CID 7470
MILLILITRE = Code("ml", "UCUM", "ml")
MILLIMETRE = Code("mm", "UCUM", "mm")
PERCENT = Code("%", "UCUM", "%")
UPPER_UNCERTAINTY = Code("371886008", "SCT", "+, range of upper measurement uncertainty")  # CID 225
LOWER_UNCERTAINTY = Code("371885007", "SCT", "-, range of lower measurement uncertainty")  # CID 225

# What a report holds, for reading it again: TID 1500, 1501, 4019
IMAGING_MEASUREMENTS = Code("126010", "DCM", "Imaging Measurements")
MEASUREMENT_GROUP = Code("125007", "DCM", "Measurement Group")
FINDING = Code("121071", "DCM", "Finding")
TRACKING_UID = Code("112040", "DCM", "Tracking Unique Identifier")
ALGORITHM_NAME = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION = Code("111003", "DCM", "Algorithm Version")

# Comparison with an earlier examination
COMPARISON = Code("COMPARISON", PRIVATE_SCHEME, "Compared with the earlier examination")
DAYS_BETWEEN = Code("DAYS_BETWEEN", PRIVATE_SCHEME, "Days from the earlier examination to this one")
VOLUME_CHANGE = Code("VOLUME_CHANGE", PRIVATE_SCHEME, "Change of volume since the earlier examination")
DAY = Code("d", "UCUM", "day")

TIME_POINT = Code("C2348792", "UMLS", "Time Point")  # TID 1502
TIME_POINT_ORDER = Code("126073", "DCM", "Time Point Order")  # TID 1502
SUBJECT_TIME_POINT = Code("126070", "DCM", "Subject Time Point Identifier")  # TID 1502

# De-identification
BASIC_PROFILE = Code("113100", "DCM", "Basic Application Confidentiality Profile")  # CID 7050
CLEAN_CONTENT = Code("113104", "DCM", "Clean Structured Content Option")  # CID 7050
CLEAN_DESCRIPTORS = Code("113105", "DCM", "Clean Descriptors Option")  # CID 7050
MODIFIED_DATES = Code("113107", "DCM", "Retain Longitudinal Temporal Information Modified Dates Option")  # CID 7050

# Detection: TID 1501
TUMOUR_DETECTION = Code("TUMOUR_DETECTION", PRIVATE_SCHEME, "Tumour on images (automatic detection)")
PART_DETECTION = Code("PART_DETECTION", PRIVATE_SCHEME, "Part of the tumour on images (automatic detection)")
NOT_DETECTED = Code("260415000", "SCT", "Not detected")  # SNOMED CT

# Markers: TID 1501
CERTAINTY = Code("111012", "DCM", "Certainty of Finding")  # CID 6048
PROBABILITY = Code("PROBABILITY", PRIVATE_SCHEME, "Calibrated probability of the alteration")
COVERAGE = Code("COVERAGE", PRIVATE_SCHEME, "Patients whose true answer the rule does not rule out")
INDETERMINATE = Code("82334004", "SCT", "Indeterminate")  # CID 4220
NOT_EVALUATED = Code("373121007", "SCT", "Not Evaluated")  # CID 3703

MARKER_CONCEPTS = {
    MarkerName.IDH: Code("IDH_PRED", PRIVATE_SCHEME, "Predicted IDH mutation status (image-based)"),
    MarkerName.CODEL_1P19Q: Code("1P19Q_PRED", PRIVATE_SCHEME, "Predicted 1p/19q codeletion status (image-based)"),
    MarkerName.MGMT: Code("MGMT_PRED", PRIVATE_SCHEME, "Predicted MGMT promoter methylation (image-based)"),
    MarkerName.PROLIFERATION: Code(
        "PROLIF_PRED", PRIVATE_SCHEME, "Predicted proliferation, RNA surrogate of Ki-67 (image-based)"
    ),
}
"""What is asked of each marker."""

_ALTERED = {
    MarkerName.IDH: Code("C18093", "NCIt", "Gene Mutation"),
    MarkerName.CODEL_1P19Q: Code("1P19Q_CODEL", PRIVATE_SCHEME, "1p/19q codeleted"),
    MarkerName.MGMT: Code("C153562", "NCIt", "MGMT methylated"),
    MarkerName.PROLIFERATION: Code("75540009", "SCT", "High"),  # CID 75
}
_UNALTERED = {
    MarkerName.IDH: Code("C62195", "NCIt", "Wild Type"),
    MarkerName.CODEL_1P19Q: Code("1P19Q_INTACT", PRIVATE_SCHEME, "1p/19q not codeleted"),
    MarkerName.MGMT: Code("C132892", "NCIt", "MGMT unmethylated"),
    MarkerName.PROLIFERATION: Code("62482003", "SCT", "Low"),  # CID 75
}


def marker_value(name: MarkerName, value: MarkerValue) -> Code:
    """Return the code of what is said of one marker."""
    if value is MarkerValue.INDETERMINATE:
        return INDETERMINATE
    if value is MarkerValue.NOT_ASSESSED:
        return NOT_EVALUATED
    return _ALTERED[name] if value is MarkerValue.ALTERED else _UNALTERED[name]
