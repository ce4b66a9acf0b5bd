"""The fixed words of the report page, in English and in Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from operators.domain import MarkerName, MarkerValue
from operators.language import Language
from operators.report_phrases import CHINESE, Phrasebook
from operators.statements import LIKELY, LIMITS_OF_USE, MOVED, NO_TUMOUR


@dataclass(frozen=True, kw_only=True)
class Words:
    """What the page says in one language; {names} are filled in."""

    title: str
    subtitle: str
    badge: str
    patient: str
    patient_id: str
    born: str
    study_date: str
    accession: str
    not_stated: str
    warnings: str
    no_warning: str
    no_check: str
    between: str
    """Stands between the parts of one line."""
    tests: str
    """Stands between what tissue must confirm."""
    where: str
    outline: str
    side: str
    parts: str
    range: str
    volume: str
    long_axis: str
    short_axis: str
    not_measured: str
    parts_head: str
    part_volume: str
    part_not_found: str
    parts_remark: str
    no_tumour: str
    markers: str
    calibrated: str
    open_zone: str
    moved: str
    """What moved a marker's answer."""
    comma: str
    full_stop: str
    no_marker: str
    alterations: Mapping[MarkerName, str]
    """What a bar is the probability of."""
    beside: Mapping[MarkerName, str]
    """What must be said beside a marker's name, for those that have it."""
    values: Mapping[tuple[MarkerName, MarkerValue], str]
    indeterminate: str
    not_assessed: str
    reading: str
    weakest: str
    grade: str
    confirm: str
    models: str
    outlines: str
    model: str
    data_unknown: str
    series: str
    unnumbered: str
    engine: str
    more: str
    shortened: str
    made: str
    replaces: str
    phrases: Phrasebook
    """How sentences made elsewhere are said."""

    def value_of(self, name: MarkerName, value: MarkerValue) -> str:
        """Say what was found of a marker."""
        if value is MarkerValue.NOT_ASSESSED:
            return self.not_assessed
        return self.indeterminate if value is MarkerValue.INDETERMINATE else self.values[name, value]

    @property
    def limits(self) -> str:
        """What the report may be used for."""
        return self.phrases(LIMITS_OF_USE)

    @property
    def not_excluded(self) -> str:
        """What finding no tumour does not mean."""
        return self.phrases(NO_TUMOUR)


WORDS: Mapping[Language, Words] = {
    "en": Words(
        title="Glioma AI report",
        subtitle="Automatic analysis of brain MRI",
        badge="Research use only · not a medical device",
        patient="Patient",
        patient_id="Patient ID",
        born="Date of birth",
        study_date="Study date",
        accession="Accession no.",
        not_stated="not stated",
        warnings="Quality warnings ({count}): look at the images before relying on what follows",
        no_warning="Quality checks: {count} made, no warning",
        no_check="No quality check is recorded",
        between=" · ",
        tests="; ",
        where="Axial slice {index} of {count}, counted from the feet",
        outline="yellow: outline of the whole tumour",
        side="the patient's right is on the left",
        parts="{count} separate parts: volume of all, diameters of the longest",
        range="small figures: what a person's outline would measure, in {percent} of patients never seen",
        volume="Whole tumour, volume",
        long_axis="Longest diameter",
        short_axis="Perpendicular diameter",
        not_measured="not measured",
        parts_head="Parts of the tumour, outlined in their colours",
        part_volume="Volume",
        part_not_found="none found",
        parts_remark=(
            "How far the figures of parts can be trusted has not been measured. A core is all but oedema. "
            "Perpendicular diameters stay inside their part."
        ),
        no_tumour="No tumour detected",
        markers="Molecular markers, predicted from the images",
        calibrated="Calibrated probability of",
        open_zone="no answer is given in this range",
        moved=MOVED,
        comma=", ",
        full_stop=". ",
        no_marker="Not assessed: no marker was predicted for this study.",
        alterations={
            MarkerName.IDH: "IDH mutation",
            MarkerName.CODEL_1P19Q: "1p/19q codeletion",
            MarkerName.MGMT: "MGMT promoter methylation",
            MarkerName.PROLIFERATION: "High proliferation",
        },
        beside={MarkerName.PROLIFERATION: "RNA surrogate of Ki-67"},
        values={answer: text.capitalize() for answer, text in LIKELY.items()},
        indeterminate="Indeterminate",
        not_assessed="Not assessed",
        reading="Read together (WHO CNS 2021)",
        weakest="Its weakest marker has {percent}.",
        grade="Hint of grade: {hint} ({percent}).",
        confirm="Tissue must confirm: {tests}.",
        models="Models, and what they learnt from",
        outlines="outline",
        model="{name} {version} ({purpose})",
        data_unknown="training data not stated",
        series="Series used: {numbers}",
        unnumbered="unnumbered",
        engine="the outline's network ran on {engine}",
        more="{count} more: see the structured report.",
        shortened="Shortened to fit one page: the structured report has the full text.",
        made="{product} {version}, made {when}",
        replaces="replaces the report of {when} on this study (other images, version, model or setting)",
        phrases=Phrasebook({}),
    ),
    "zh": Words(
        title="胶质瘤 AI 分析报告",
        subtitle="脑部 MRI 自动分析",
        badge="仅供科研使用 · 非医疗器械",
        patient="姓名",
        patient_id="患者编号",
        born="出生日期",
        study_date="检查日期",
        accession="检查号",
        not_stated="未提供",
        warnings="质量警告（{count} 项）：采信以下结果前请先核对图像",
        no_warning="质量检查：已完成 {count} 项，无警告",
        no_check="无质量检查记录",
        between=" · ",
        tests="；",
        where="轴位第 {index} 层，共 {count} 层（自足侧起）",
        outline="黄线：全肿瘤轮廓",
        side="图像左侧为患者右侧",
        parts="共 {count} 个不相连部分：体积为总和，径线取最长者",
        range="小字：人工勾画的测量值范围（{percent} 的未见患者）",
        volume="全肿瘤体积",
        long_axis="最大径",
        short_axis="最大垂直径",
        not_measured="未测量",
        parts_head="肿瘤各部分（轮廓以相应颜色显示）",
        part_volume="体积",
        part_not_found="未检出",
        parts_remark="各部分测量值的可信范围未经测定。肿瘤核心为除水肿外各部分之和。最大垂直径始终位于该部分之内。",
        no_tumour="未检出肿瘤",
        markers="分子标志物（影像预测）",
        calibrated="校准后概率",
        open_zone="此区间内不作判定",
        moved="对概率比值影响最大者：{groups}。",
        comma="、",
        full_stop="。",
        no_marker="未评估：本检查未作标志物预测。",
        alterations={
            MarkerName.IDH: "IDH 突变",
            MarkerName.CODEL_1P19Q: "1p/19q 共缺失",
            MarkerName.MGMT: "MGMT 启动子甲基化",
            MarkerName.PROLIFERATION: "高增殖活性",
        },
        beside={MarkerName.PROLIFERATION: "Ki-67 的 RNA 替代指标"},
        values={
            (MarkerName.IDH, MarkerValue.ALTERED): "可能为突变型",
            (MarkerName.IDH, MarkerValue.UNALTERED): "可能为野生型",
            (MarkerName.CODEL_1P19Q, MarkerValue.ALTERED): "可能共缺失",
            (MarkerName.CODEL_1P19Q, MarkerValue.UNALTERED): "可能无共缺失",
            (MarkerName.MGMT, MarkerValue.ALTERED): "可能甲基化",
            (MarkerName.MGMT, MarkerValue.UNALTERED): "可能未甲基化",
            (MarkerName.PROLIFERATION, MarkerValue.ALTERED): "可能偏高",
            (MarkerName.PROLIFERATION, MarkerValue.UNALTERED): "可能偏低",
        },
        indeterminate="不确定",
        not_assessed="未评估",
        reading="综合判读（WHO CNS 2021）",
        weakest="其中最弱标志物的概率为 {percent}。",
        grade="分级线索：{hint}（{percent}）。",
        confirm="须经组织学证实：{tests}。",
        models="模型及其训练数据",
        outlines="分割",
        model="{name} {version}（{purpose}）",
        data_unknown="训练数据未说明",
        series="所用序列：{numbers}",
        unnumbered="无编号",
        engine="分割网络运行于 {engine}",
        more="另有 {count} 项，见结构化报告。",
        shortened="为排入一页已作删节，全文见结构化报告。",
        made="{product} {version}，生成于 {when}",
        replaces="替代本检查 {when} 的报告（图像、版本、模型或设置不同）",
        phrases=Phrasebook(CHINESE),
    ),
}
