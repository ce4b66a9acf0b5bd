"""How sentences that other stages make in English are said in another language.

A phrase is the English sentence with {names} for what changes; what stands in their place is translated too, where
there is a phrase for it. A sentence without a phrase stays as it is: English is better than nothing, and a test holds
this book to what the stages say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from operators.earlier import OTHER_METHOD
from operators.statements import LIMITS_OF_USE, NO_TUMOUR, REACHES_EDGE, THE_TUMOUR

_NAME = re.compile(r"\\\{(\w+)\\\}")


class Phrasebook:
    """Says English sentences in one language."""

    def __init__(self, phrases: Mapping[str, str], colon: str = "：", stop: str = "；") -> None:
        self._exact = {english: said for english, said in phrases.items() if "{" not in english}
        self._patterns = [
            (re.compile(_NAME.sub(r"(?P<\1>.*?)", re.escape(english))), said)
            for english, said in phrases.items()
            if "{" in english
        ]
        self._joints = {": ": colon, "; ": stop} if phrases else {}

    def __call__(self, sentence: str) -> str:
        """Say a sentence, or as much of it as is known."""
        return self._said(sentence) or sentence

    def _said(self, sentence: str) -> str | None:
        # A part that ends early is tried first: what a name stands for may hold joints of its own.
        return self._exact.get(sentence) or self._joined(sentence) or self._patterned(sentence)

    def _joined(self, sentence: str) -> str | None:
        """Say two sentences that a colon or a semicolon joins, if both are known."""
        for joint, said in self._joints.items():
            for found in re.finditer(re.escape(joint), sentence):
                head = sentence[: found.start()]
                first = self._exact.get(head) or self._patterned(head)
                second = self._said(sentence[found.end() :]) if first else None
                if first and second:
                    return f"{first}{said}{second}"
        return None

    def _patterned(self, sentence: str) -> str | None:
        for pattern, said in self._patterns:
            if found := pattern.fullmatch(sentence):
                return said.format(**{name: self(part) for name, part in found.groupdict().items()})
        return None


CHINESE = {
    LIMITS_OF_USE: (
        "仅供科研使用，非医疗器械。由软件自动生成，未经人工审核。影像预测不能替代组织病理诊断，最终须经组织病理学证实。"
    ),
    NO_TUMOUR: "没有任何体素更可能属于肿瘤。此为自动分析结果，不能排除肿瘤。",
    REACHES_EDGE.format(what=THE_TUMOUR): ("肿瘤到达 T1C 的首层、末层或图像边缘，其外部分未成像：体积和径线均为下限。"),
    # operators.earlier
    "Whole tumour {then} on {date}, {now} now, {percent} in {days} days.": (
        "全肿瘤体积：{date} 为 {then}，本次 {now}，变化 {percent}，间隔 {days} 天。"
    ),
    "Whole tumour {then} on {date}, {now} now, {percent} in 1 day.": (
        "全肿瘤体积：{date} 为 {then}，本次 {now}，变化 {percent}，间隔 1 天。"
    ),
    "Whole tumour {then} on {date}, {now} now in {days} days.": (
        "全肿瘤体积：{date} 为 {then}，本次 {now}，间隔 {days} 天。"
    ),
    "Tumour core": "肿瘤核心",
    "Enhancing part": "强化部分",
    "Non-enhancing part": "非强化部分",
    "Necrosis": "坏死",
    "Oedema": "水肿",
    "{then} then, {now} now, {percent}.": "既往 {then}，本次 {now}，变化 {percent}。",
    "{then} then, {now} now.": "既往 {then}，本次 {now}。",
    OTHER_METHOD: "既往由其他模型或版本测量，部分变化可能源于方法差异。",
    # operators.classify
    "no model for this marker is installed": "未安装该标志物的模型",
    "no tumour was found": "未检出肿瘤",
    "no tumour lies within the brain": "脑内未见肿瘤",
    "the models learnt from adults alone": "模型仅由成人患者训练",
    "the header says a child's age and an adult's, and the models learnt from adults alone": (
        "DICOM 头信息同时给出儿童年龄与成人年龄，而模型仅由成人患者训练"
    ),
    "the outline is doubtful": "肿瘤轮廓不可靠",
    "the images may be unlike those of training": "图像可能与训练数据不同",
    "the images may be unlike those of training and the outline is doubtful": (
        "图像可能与训练数据不同，且肿瘤轮廓不可靠"
    ),
    "no model tells it better than chance on patients it never saw (AUC {auc}, {low} to {high})": (
        "在未见过的患者中，尚无模型优于随机猜测（AUC {auc}，{low}–{high}）"
    ),
    "of patients of either kind about {share} have their true answer ruled out "
    "(AUC {auc}, {low} to {high} on patients never seen)": (
        "两类患者中各约有 {share} 的真实结果会被误排除（在未见过的患者中 AUC {auc}，{low}–{high}）"
    ),
    "suggested by the images": "影像提示",
    "the images do not decide it": "影像不足以判定",
    "the patient's age is not known": "患者年龄未知",
    # operators.integrated
    "The images suggest {kind}": "影像提示：{kind}",
    "oligodendroglioma, IDH-mutant and 1p/19q-codeleted": "少突胶质细胞瘤，IDH 突变伴 1p/19q 共缺失型",
    "astrocytoma, IDH-mutant": "星形细胞瘤，IDH 突变型",
    "an IDH-mutant diffuse glioma, astrocytoma or oligodendroglioma": (
        "IDH 突变型弥漫性胶质瘤（星形细胞瘤或少突胶质细胞瘤）"
    ),
    "an IDH-wildtype diffuse glioma, glioblastoma if tissue shows its hallmarks": (
        "IDH 野生型弥漫性胶质瘤；若组织学具备其特征，则为胶质母细胞瘤"
    ),
    "IDH wild-type and 1p/19q co-deletion do not go together: no kind of glioma is suggested": (
        "IDH 野生型与 1p/19q 共缺失互相矛盾，不提示胶质瘤类型"
    ),
    "proliferation is likely high, which is commoner in higher grades": "增殖活性可能偏高，较高级别中更常见",
    "proliferation is likely low, which is commoner in lower grades": "增殖活性可能偏低，较低级别中更常见",
    "H3 K27 and H3 G34": "H3 K27 与 H3 G34",
    "IDH is open, so no kind of glioma is suggested": "IDH 状态未定，不提示胶质瘤类型",
    "histology and grade": "组织学类型与分级",
    "IDH1/IDH2 (immunohistochemistry for R132H, then sequencing)": "IDH1/IDH2（先行 R132H 免疫组化，再行测序）",
    "1p/19q (FISH or array)": "1p/19q（FISH 或芯片）",
    "TERT promoter": "TERT 启动子",
    "EGFR amplification": "EGFR 扩增",
    "gain of chromosome 7 with loss of 10": "7 号染色体获得伴 10 号染色体缺失",
    # operators.quality
    "brain on the topmost slice is {share} of its widest section": "最上层脑面积为最大层面的 {share}",
    "the vertex is not covered": "颅顶未被覆盖",
    "{height} mm of brain are covered, feet to head": "头足方向仅覆盖脑 {height} mm",
    "FLAIR covers {share} of T1C's brain": "FLAIR 覆盖 T1C 脑区的 {share}",
    "{contrast}'s slices lie {gap} mm apart": "{contrast} 层间距为 {gap} mm",
    "{contrast}'s pixels are {side} mm wide": "{contrast} 像素宽 {side} mm",
    "{contrast}'s signal is {ratio} times its noise": "{contrast} 信噪比为 {ratio}",
    "on {contrast} {share} of the head is at the greatest value": "{contrast} 上头部 {share} 达到最大灰度值",
    "it is clipped": "信号截断",
    "on {contrast} the air beside the head has {share} of the head's signal": (
        "{contrast} 上头旁空气信号为头部信号的 {share}"
    ),
    "look for ghosts or motion": "请留意伪影或运动",
    "{contrast} is not used, as it could not be aligned to T1C: {fault}": (
        "{contrast} 无法与 T1C 配准，未使用：{fault}"
    ),
    "{contrast} was aligned to T1C by {shift} mm and {turn} degrees": (
        "{contrast} 与 T1C 配准：移动 {shift} mm，旋转 {turn}°"
    ),
    "look whether they match": "请核对二者是否吻合",
    "{volume} ml of brain are outlined": "脑轮廓体积为 {volume} ml",
    "no reference tells whether the images are like those the network learnt from": (
        "无参照数据，无法判断图像是否与训练数据相似"
    ),
    "novelty of the images scores {score}": "图像新异度评分 {score}",
    "unlike what the network learnt from, most in {one} and {two}": "与网络的训练数据不同，以 {one} 与 {two} 最明显",
    # operators.alignment
    "it covers {share} of the brain that T1C shows, and {limit} are needed": (
        "仅覆盖 T1C 所示脑区的 {share}（至少需 {limit}）"
    ),
    "a movement by {shift} mm and {turn} degrees is not plausible": "移动 {shift} mm、旋转 {turn}° 不合理",
    "registering there and back ends {gap} mm apart ({limit} at most)": "往返配准相差 {gap} mm（上限 {limit} mm）",
    "it is not like T1C: likeness is {found}, and {limit} is expected": "与 T1C 不相似：相似度 {found}（应达 {limit}）",
    "it fits T1C nowhere: likeness falls by {found} when pushed apart, and {limit} is expected": (
        "与 T1C 无法吻合：移开后相似度仅下降 {found}（应达 {limit}）"
    ),
    "it does not fit T1C closely: ends lie {gap} mm apart and likeness hardly falls off": (
        "与 T1C 吻合不佳：两端相差 {gap} mm，且相似度几乎不下降"
    ),
    # models.markers.influence
    "age": "年龄",
    "location": "位置",
    "size and outline": "大小与轮廓",
    "enhancement": "强化",
    "other signal on T1C": "T1C 其他信号",
    "texture on T1C": "T1C 纹理",
    "signal on FLAIR": "FLAIR 信号",
    "texture on FLAIR": "FLAIR 纹理",
    "likeness of T1C and FLAIR": "T1C 与 FLAIR 的相似度",
    # operators.segment
    "no tumour was found, but something smaller than one that is kept, which is from {smallest} ml: look for a small "
    "lesion in the images": "未检出肿瘤，但有小于保留下限（{smallest} ml）的可疑区域：请在图像中查看有无小病灶",
    "no tumour was found, and how sure that is cannot be told: the network learnt from patients with a glioma alone; "
    "its highest probability is {highest}; look for a lesion in the images": (
        "未检出肿瘤，但其可靠程度无从得知：网络仅学习过胶质瘤患者的图像；最高概率为 {highest}；请在图像中查看有无病灶"
    ),
    "the network is not sure of its outline: it expects a Dice of {dice}, and is sure from {limit}; check the contour "
    "before using volume and diameters": (
        "网络对轮廓没有把握：预期 Dice {dice}，达到 {limit} 方视为可靠；使用体积和径线前请先核对轮廓"
    ),
}
"""Sentences of other stages in Chinese."""
