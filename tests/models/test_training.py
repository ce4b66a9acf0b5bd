import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from rich.progress import Progress
from torch.nn import functional as F

from models import frame
from models.nasbranet.network import NASBraNet
from models.nasbranet.plan import CellPlan, NetworkPlan, Op
from models.training import data
from models.training.augment import CROP, RandMissingChanneld, RandTightMaskd, Slices
from models.training.challenges import CHALLENGES
from models.training.loop import Schedule, Trainer, autocast
from models.training.losses import focal_loss, segmentation_loss
from models.training.metrics import dice, mean_interval


def test_focal_loss_without_focus_is_cross_entropy():
    logits, target = torch.randn(3, 2, 5, 5), torch.randint(2, (3, 5, 5))
    assert torch.allclose(focal_loss(logits, target, gamma=0.0), F.cross_entropy(logits, target))


def test_focal_loss_weights_each_pixel_before_the_mean():
    logits = torch.tensor([[[[4.0, 0.0]], [[0.0, 0.0]]]])  # one sure pixel, one unsure
    target = torch.zeros(1, 1, 2, dtype=torch.long)
    p = torch.softmax(logits, 1)[0, 0, 0]
    assert torch.allclose(focal_loss(logits, target), (-((1 - p) ** 2) * p.log()).mean())


def test_a_right_answer_costs_nothing():
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[:, 2:5, 2:5] = 1
    logits = torch.stack([-40.0 * (target - 0.5), 40.0 * (target - 0.5)], 1)
    assert segmentation_loss(logits, target) < 0.01
    assert segmentation_loss(-logits, target) > 1.0


DICE = [
    ([1, 1, 0, 0], [1, 1, 0, 0], 1.0),
    ([1, 0, 0, 0], [1, 1, 0, 0], 2 / 3),
    ([0, 0], [1, 0], 0.0),
    ([0, 0], [0, 0], 1.0),
]


@pytest.mark.parametrize(("found", "truth", "expected"), DICE)
def test_dice(found, truth, expected):
    assert dice(np.array(found, bool), np.array(truth, bool)) == pytest.approx(expected)


def test_the_interval_holds_the_mean_and_narrows_with_patients():
    rng = np.random.default_rng(1)
    few, many = rng.normal(0.8, 0.1, 10), rng.normal(0.8, 0.1, 1000)
    (mean, (low, high)), (_, (low_many, high_many)) = mean_interval(list(few)), mean_interval(list(many))
    assert low < mean < high
    assert high_many - low_many < (high - low) / 5
    assert mean_interval([0.5]) == (0.5, (0.5, 0.5))


def cases(n, per_patient=1, sites=("A", "B")):
    return [
        data.Case(f"c{i}", f"p{i // per_patient}", sites[i // per_patient % len(sites)], "G2", i != 3, None)  # type: ignore[arg-type]
        for i in range(n)
    ]


def test_a_split_never_shares_a_patient_and_covers_all():
    every = cases(40, per_patient=2)
    held = []
    for fold in range(5):
        train, validation = data.split(every, 5, fold, seed=0)
        assert not {c.patient for c in train} & {c.patient for c in validation}
        held += [c.name for c in validation]
    assert sorted(held) == sorted(c.name for c in every)


def test_a_split_that_shares_a_patient_is_refused():
    with pytest.raises(data.DataError, match="1 patients"):
        data.refuse_shared_patients(cases(4), cases(1))


def test_cases_without_true_t1c_or_left_out_are_not_used():
    assert [c.name for c in data.usable(cases(6), ["c1"])] == ["c0", "c2", "c4", "c5"]


def test_a_case_is_prepared_once_and_comes_back_to_its_grid(folder, tmp_path):
    case = data.read_cases(folder)[0]
    prepared = data.prepare(case, tmp_path / "cache")
    assert prepared.images.shape == (4, 2, data.FIELD, data.FIELD)
    assert [bool(t.any()) for t in prepared.tumour] == [False, True, True, False]
    back = frame.from_frame(prepared.tumour.astype(np.float32), prepared.placement, 256, 256) > 0.5
    assert dice(back, case.read()[1]) > 0.95
    kept = next((tmp_path / "cache").iterdir())
    before = kept.stat().st_mtime_ns
    data.prepare(case, tmp_path / "cache")
    assert kept.stat().st_mtime_ns == before


def test_epochs_are_repeatable_and_differ(folder, tmp_path):
    slices = Slices([data.prepare(c, tmp_path / "cache") for c in data.read_cases(folder)], 0.5, seed=0)
    assert len(slices) == 9  # six with tumour, half as many without
    first = slices[0]
    slices.begin_epoch(1)
    other = slices[0]
    slices.begin_epoch(0)
    again = slices[0]
    assert first[0].shape == (2, *CROP)
    assert torch.equal(first[0], again[0])
    assert not torch.equal(first[0], other[0])


def small_plan():
    branch = tuple(CellPlan(op=Op.CONV, scale=s, expansion=4) for s in (2, 4))
    return NetworkPlan(
        name="small", source="test", in_channels=2, classes=2, stem_expansion=4, head_expansion=4, shared=1,
        branches=(branch, (branch[0], CellPlan(op=Op.ZOOM, scale=4, expansion=4))),
    )  # fmt: skip


def train(folder, cache, out, epochs):
    torch.manual_seed(0)
    network = NASBraNet(small_plan())
    slices = Slices([data.prepare(c, cache) for c in data.read_cases(folder)], 0.5, seed=0)
    trainer = Trainer(network, slices, Schedule(stages=((1, 0.5), (1, 1.0)), batch=3, workers=0), out)
    trainer.resume()
    with Progress(disable=True) as progress:
        if epochs == 1:
            trainer._epoch(progress)
            trainer.epoch = 1
            trainer._save(trainer.state)
        else:
            trainer.run(progress, lambda: 0.5, every=1)
    return network


def test_a_resumed_training_ends_where_an_unbroken_one_does(folder, tmp_path):
    unbroken = train(folder, tmp_path / "cache", tmp_path / "a", 2)
    train(folder, tmp_path / "cache", tmp_path / "b", 1)
    resumed = train(folder, tmp_path / "cache", tmp_path / "b", 2)
    for (name, a), b in zip(unbroken.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.allclose(a.float(), b.float(), atol=1e-5), name
    assert (tmp_path / "a" / "log.csv").read_text().count("\n") == 3


BAD_FOLDERS = [("labels.csv", None, "no labels.csv"), ("labels.csv", "a,b\n1,2\n", "columns case, patient")]


@pytest.mark.parametrize(("name", "content", "reason"), BAD_FOLDERS)
def test_a_folder_of_another_form_is_refused_in_one_line(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(data.DataError, match=reason):
        data.read_cases(tmp_path)


def test_a_lost_mask_is_named(folder):
    (folder / "case1" / "002_mask.png").unlink()
    with pytest.raises(data.DataError, match=r"case1 lacks 002_mask\.png"):
        data.read_cases(folder)[1].read()


def test_evaluate_writes_its_contract(folder, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from models.nasbranet import __main__ as command
    from models.nasbranet.export import export_onnx

    weights = tmp_path / "small" / "model.onnx"
    export_onnx(NASBraNet(small_plan()).eval(), weights)
    result = tmp_path / "result.json"
    arguments = ["evaluate", "--challenges", "--data", str(folder), "--weights", str(weights), "--json", str(result)]
    done = CliRunner().invoke(command.app, [*arguments, "--cache", str(tmp_path / "cache")])
    assert done.exit_code == 0, done.output
    found = json.loads(result.read_text())
    assert set(found["patients"]) == {"patient0", "patient1", "patient2"}
    assert set(found["challenges"]) == set(CHALLENGES) - {"as it is"}
    assert found["dice_interval"][0] <= found["dice_mean"] <= found["dice_interval"][1]


@pytest.mark.parametrize("name", CHALLENGES)
def test_a_challenge_changes_what_it_says_and_keeps_to_the_brain(name):
    rng = np.random.default_rng(0)
    r, c = np.mgrid[:64, :64]
    brain = np.hypot(r - 32, c - 30) < 24
    view = (rng.normal(0.0, 1.0, (3, 2, 64, 64)) * brain).astype(np.float32)
    before = view.copy()
    spoilt = CHALLENGES[name](view)
    assert np.array_equal(view, before), "what was given stays as it was"
    assert spoilt.shape == view.shape
    assert spoilt.dtype == np.float32
    assert not spoilt[..., ~brain].any()
    changed = [channel for channel in (0, 1) if not np.array_equal(spoilt[:, channel], view[:, channel])]
    assert changed == {"as it is": [], "without T1C": [0], "other contrast": [1]}.get(name, [0, 1])


def test_masks_are_drawn_in_and_channels_left_out_as_often_as_said():
    tight, missing = RandTightMaskd(["brain"], 0.3, 5), RandMissingChanneld(["image"], 0.1, 0)
    tight.set_random_state(0)
    missing.set_random_state(0)
    r, c = np.mgrid[:64, :64]
    disc = torch.from_numpy((np.hypot(r - 32, c - 32) < 20).astype(np.float32))[None]
    areas = [float(tight({"brain": disc})["brain"].sum()) for _ in range(400)]
    drawn_in = [area for area in areas if area < float(disc.sum())]
    assert 0.22 < len(drawn_in) / 400 < 0.38
    assert np.pi * 12**2 < min(drawn_in) < np.pi * 15.5**2, "five pixels at most"
    left = [bool(missing({"image": torch.ones(2, 4, 4)})["image"][0].any()) for _ in range(400)]
    assert 0.05 < left.count(False) / 400 < 0.15
    assert missing({"image": torch.ones(2, 4, 4)})["image"][1].all()


def test_a_case_without_t1c_never_shows_one(folder, tmp_path):
    case = data.Case("case0", "p", "A", "G2", False, folder / "case0")
    slices = Slices([data.prepare(case, tmp_path / "cache")], 0.5, seed=0)
    assert all(not slices[i][0][0].any() for i in range(len(slices)))
    assert any(slices[i][0][1].any() for i in range(len(slices)))


@pytest.mark.parametrize(
    "epochs", ["foo", "", "3x", "x1", "0x1", "-1x1", "3x0", "3x-1", "3xnan", "3x2", "3x1,", "3x1x1"]
)
def test_epochs_of_another_form_are_refused_with_the_right_one(epochs):
    with pytest.raises(data.DataError, match=r"^--epochs is .* as 10x0\.5,4x0\.75,3x1; not '.*'$") as refused:
        Schedule.parse(epochs)
    assert repr(epochs) in str(refused.value)


def test_epochs_are_read_in_their_order():
    assert Schedule.parse("10x0.5,4x0.75,3x1", seed=3) == Schedule(stages=((10, 0.5), (4, 0.75), (3, 1.0)), seed=3)


@pytest.mark.parametrize(("device", "native"), [("cuda", True), ("cuda", False), ("cpu", True), ("cpu", False)])
def test_bfloat16_is_computed_in_only_where_it_is_native(device, native, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *how: how)
    # A GPU before Ampere only emulates it, slowly, and says so only where it is asked without emulation.
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation=True: device == "cuda" and (native or including_emulation),
    )
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: device == "cpu" and native)
    found = autocast(torch.device(device))
    assert found == (device, torch.bfloat16) if native else isinstance(found, nullcontext)


def drawn(slices, out, workers, **schedule):
    """An epoch's images, one a batch, as the trainer gets them."""
    trainer = Trainer(NASBraNet(small_plan()), slices, Schedule(batch=1, workers=workers, **schedule), out)
    torch.manual_seed(0)
    return [image for image, _ in trainer._batches(1.0)]


@pytest.fixture
def one_slice(folder, tmp_path):
    """The same slice four times, so that only the augmentation tells the images apart."""
    slices = Slices([data.prepare(data.read_cases(folder)[0], tmp_path / "cache")], 0.5, seed=0)
    slices.begin_epoch(3)
    slices.indices = slices.indices[:1] * 4
    return slices


def test_two_workers_do_not_draw_alike_and_the_first_draws_what_one_would(one_slice, tmp_path):
    beside = drawn(one_slice, tmp_path / "run", 2)
    assert not any(torch.equal(a, b) for i, a in enumerate(beside) for b in beside[:i]), "workers take turns"
    again = drawn(one_slice, tmp_path / "run", 2)
    assert all(torch.equal(a, b) for a, b in zip(beside, again, strict=True)), "the same seed draws the same"
    alone = [one_slice[0][0] for _ in range(2)]
    assert all(torch.allclose(a[0], b, atol=1e-5) for a, b in zip(beside[::2], alone, strict=True))


def test_one_worker_draws_what_none_does(one_slice, tmp_path):
    one = drawn(one_slice, tmp_path / "run", 1)
    none = drawn(one_slice, tmp_path / "run", 0)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, none, strict=True))


def test_another_seed_or_epoch_or_worker_draws_otherwise(one_slice):
    def seeded(seed, epoch, number):
        one_slice.seed = seed
        one_slice.begin_epoch(epoch)
        one_slice.begin_worker(number)
        return float(one_slice.augment.transforms[0].R.random_sample())

    every = [(seed, epoch, number) for seed in (0, 1) for epoch in (0, 1) for number in (0, 1, 2)]
    assert len({seeded(*parts) for parts in every}) == len(every)


def test_patience_stops_and_keeps_the_best(folder, tmp_path):
    network = NASBraNet(small_plan())
    slices = Slices([data.prepare(c, tmp_path / "cache") for c in data.read_cases(folder)], 0.5, seed=0)
    schedule = Schedule(stages=((8, 0.5),), batch=3, workers=0, patience=2)
    trainer = Trainer(network, slices, schedule, tmp_path / "run")
    told = iter([0.5, 0.7, 0.6, 0.65, 0.9])
    best = {}

    def validate():
        if trainer.epoch == 2:
            best.update({k: v.clone() for k, v in network.state_dict().items()})
        return next(told)

    with Progress(disable=True) as progress:
        trainer.run(progress, validate, every=1)
    assert trainer.epoch == 4, "two validations brought nothing better than .7"
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in best.items())


def test_a_checkpoint_of_another_network_is_told_in_one_line(folder, tmp_path):
    slices = Slices([data.prepare(c, tmp_path / "cache") for c in data.read_cases(folder)], 0.5, seed=0)
    Trainer(NASBraNet(small_plan()), slices, Schedule(), tmp_path / "run")._save(tmp_path / "run" / "last.pt")
    other = small_plan().model_copy(update={"stem_expansion": 8})
    with pytest.raises(data.DataError, match="run holds a training of another network; choose another --out"):
        Trainer(NASBraNet(other), slices, Schedule(), tmp_path / "run").resume()


def test_a_teacher_teaches_and_does_not_learn(folder, tmp_path):
    torch.manual_seed(1)
    teacher, student = NASBraNet(small_plan()), NASBraNet(small_plan())
    slices = Slices([data.prepare(c, tmp_path / "cache") for c in data.read_cases(folder)], 0.5, seed=0)
    taught = {k: v.clone() for k, v in teacher.state_dict().items()}
    trainer = Trainer(student, slices, Schedule(stages=((1, 0.5),), batch=3, workers=0), tmp_path / "run", teacher)
    image, target = next(trainer._batches(0.5))
    with torch.no_grad():
        lesson = trainer._loss(image, target)
        trainer.teacher = None
        assert lesson > trainer._loss(image, target), "the lesson is part of the loss"
    trainer.teacher = teacher
    with Progress(disable=True) as progress:
        trainer.run(progress)
    assert all(torch.equal(v, teacher.state_dict()[k]) for k, v in taught.items())
