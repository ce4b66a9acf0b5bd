"""What a network's channels stand for: the description is whole and true, or is refused with what is wrong."""

import json

import numpy as np
import pytest
from pydicom.sr._cid_dict import cid_concepts
from pydicom.sr.codedict import codes as dictionary

from models.segments import CID_7168, FILE, Channels, Segment, SegmentsError, load_channels
from operators import codes
from operators.segment_table import SEGMENTS
from tests.support_segments import ORDER, code_of, described

NESTED = (Segment.OEDEMA, Segment.NON_ENHANCING, Segment.ENHANCING)


def channels(*args):
    return Channels.model_validate(described(*args))


def test_the_codes_are_all_of_cid_7168_and_mean_what_the_standard_says():
    keywords = {keyword for scheme in cid_concepts[7168].values() for keyword in scheme}
    standard = {(c.value, c.scheme_designator): c.meaning for c in (getattr(dictionary.cid7168, k) for k in keywords)}
    assert standard == {code: meaning for code, (meaning, _) in CID_7168.items()}


def test_results_use_the_same_codes():
    for (value, scheme), (meaning, segment) in CID_7168.items():
        if segment is not None:
            code = SEGMENTS[segment].code
            assert (code.value, code.scheme_designator, code.meaning) == (value, scheme, meaning)
    assert SEGMENTS[Segment.WHOLE].code == codes.NEOPLASM == dictionary.cid7159.Neoplasm
    assert SEGMENTS[Segment.CORE].code.scheme_designator == codes.PRIVATE_SCHEME
    assert list(SEGMENTS) == list(Segment)
    assert len({row.rgb for row in SEGMENTS.values()}) == len(Segment)


def test_a_folder_without_description_has_none(tmp_path):
    assert load_channels(tmp_path) is None


def test_a_description_is_read_in_the_networks_order_and_told_in_ours(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(described()))
    found = load_channels(tmp_path)
    assert found.legend == (Segment.ENHANCING, Segment.NECROSIS, Segment.OEDEMA)
    assert dict(found.parts()) == {1: 2, 2: 3, 3: 1}
    assert str(found) == "exclusive 125040/DCM 6574001/SCT 79654002/SCT C113842/NCIt"


def wrong(change):
    content = described()
    change(content)
    return content


def miscoded(content):
    content["channels"][1]["value"] = "12738006"


def misnamed(content):
    content["channels"][1]["meaning"] = "Edema"


def without_background(content):
    del content["channels"][0]


def doubled(content):
    content["channels"][1] = content["channels"][2]


def with_background(content):
    content["probabilities"] = "nested"


def core_alone(content):
    del content["channels"][2]


def one_part(content):
    del content["channels"][2:]


def with_more(content):
    content["threshold"] = 0.4


def half_a_code(content):
    del content["channels"][1]["scheme"]


WRONG = [
    (miscoded, r"channels\.1: .*\(12738006, SCT\) is no code of CID 7168; there are .*Necrosis"),
    (misnamed, r'channels\.1: .*\(6574001, SCT\) means "Necrosis", not "Edema"'),
    (half_a_code, r"channels\.1\.scheme: Field required"),
    (without_background, "need a channel of the background"),
    (doubled, r'\(79654002, SCT, "Edema"\) is there twice'),
    (with_background, "nested probabilities have no channel of the background"),
    (core_alone, "would not be the whole tumour"),
    (one_part, "two parts of the tumour at least"),
    (with_more, "threshold: Extra inputs"),
]


@pytest.mark.parametrize(("change", "reason"), WRONG)
def test_a_wrong_description_is_refused_with_what_is_wrong(tmp_path, change, reason):
    (tmp_path / FILE).write_text(json.dumps(wrong(change)))
    with pytest.raises(SegmentsError, match=reason) as refusal:
        load_channels(tmp_path)
    assert "\n" not in str(refusal.value)
    assert str(tmp_path / FILE) in str(refusal.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"probabilities": "softmax", "channels": []}'])
def test_a_damaged_description_is_refused(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    with pytest.raises(SegmentsError):
        load_channels(tmp_path)


@pytest.mark.parametrize("shape", [(None, 224, 224), (None, 3, 224, 224), (None, 5, 224, 224)])
def test_a_network_of_another_form_is_refused(shape):
    with pytest.raises(SegmentsError, match="names 4 channels, and the network answers with"):
        channels().check_network(shape)


@pytest.mark.parametrize("shape", [(), (None, 4, 224, 224), (None, None, None, None)])
def test_what_is_not_known_before_is_left_to_the_answer(shape):
    channels().check_network(shape)


def answer(values):
    """One slice of two voxels, with these probabilities of each channel."""
    return np.array(values, np.float32).T.reshape(1, len(values[0]), 1, 2)


def test_logits_are_refused():
    with pytest.raises(SegmentsError, match="values from -3 to 7, which are no probabilities"):
        channels().check_answer(answer([(7, -3, 0, 0), (1, 0, 0, 0)]))


def test_nested_regions_under_an_exclusive_description_are_refused():
    with pytest.raises(SegmentsError, match=r"add up to between 1 and 1\.9.*nested"):
        channels().check_answer(answer([(0.1, 0.2, 0.9, 0.7), (1, 0, 0, 0)]))


def test_a_slice_that_was_not_asked_about_is_no_fault():
    asked = answer([(0.1, 0.2, 0.3, 0.4), (1, 0, 0, 0)])
    channels().check_answer(np.concatenate([asked, np.zeros_like(asked)]))
    with pytest.raises(SegmentsError, match="answers with 1 x 3 x 1 x 2"):
        channels().check_answer(asked[:, :3])


def test_the_whole_is_the_union_of_the_parts():
    whole = channels().whole(answer([(0.1, 0.2, 0.3, 0.4), (0.8, 0.0, 0.2, 0.0)]))
    assert whole.ravel() == pytest.approx([0.9, 0.2])
    whole = channels(NESTED, "nested").whole(answer([(0.9, 0.6, 0.2), (0.3, 0.4, 0.1)]))
    assert whole.ravel() == pytest.approx([0.9, 0.4]), "a region that holds another is at least as likely"


def test_nested_regions_give_each_voxel_to_the_innermost():
    nested = channels(NESTED, "nested")
    framed = answer([(0.9, 0.8, 0.6), (0.9, 0.8, 0.4)])
    claims = np.array([nested.claim(place, framed[:, place]).ravel() for place, _ in nested.parts()])
    assert [nested.legend[dict(nested.parts())[n] - 1] for n in claims.argmax(axis=0)] == [
        Segment.ENHANCING,
        Segment.NON_ENHANCING,
    ]
    least = np.array([nested.claim(place, np.float32([0.4])) for place, _ in nested.parts()])
    assert least.argmax() == 0, "in none for sure: the outermost"


def test_every_order_of_channels_is_good():
    assert channels(ORDER[::-1]).legend == channels().legend
    assert channels(("background", Segment.NON_ENHANCING, Segment.ENHANCING)).legend == (
        Segment.ENHANCING,
        Segment.NON_ENHANCING,
    )
    assert code_of("background")["value"] == "125040"
