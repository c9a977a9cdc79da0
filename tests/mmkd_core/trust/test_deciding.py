"""The 90 % rule, the rule by gain and everyone, on teachers whose knowledge is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import TrustError
from mmkd_core.trust import StudentProbe, TeacherTrust, TeacherView, TrustConfig, decide, judge, measure

CLASSES = ("normal", "mass", "fluid")
PROMPTS = {domain: {label: (f"{domain} {label}",) for label in CLASSES} for domain in ("ct", "xray")}


def corpus(
    train=60,
    val=30,
    domains=("ct", "xray"),
    labelled=True,
    caption="caption {}".format,
    classes=CLASSES,
    patients=999,
):
    """Images of ``classes`` in turn, of as many patients per split as there are images, or of fewer."""
    rows = []
    for domain in domains:
        for split, count in (("train", train), ("val", val), ("test", 6)):
            for i in range(count):
                name = f"{domain}-{split}-{i}"
                rows.append(
                    {
                        "image": f"{name}.png",
                        "image_id": name,
                        "caption": caption(i),
                        "domain": domain,
                        "label": classes[i % len(classes)] if labelled else None,
                        "group_id": f"patient {domain}-{split}-{i % patients}",
                        "split": split,
                    }
                )
    return Corpus.build(Path("/nowhere"), rows, PROMPTS)


def view(data, wrong=lambda row: False, scale=100.0, **changes):
    """A teacher that believes the truth, and the next class where ``wrong(row)``; captions equal to their images."""
    index = np.array([CLASSES.index(label) if label else 0 for label in data.label])
    flip = np.array([wrong(row) for row in range(len(data))])
    image = np.zeros((len(data), 3 + len(data)), dtype=np.float32)
    image[np.arange(len(data)), (index + flip) % 3] = 2.0
    classes = np.eye(3, image.shape[1], dtype=np.float32)
    # Captions: their own direction each, shared with the image unless the teacher is wrong.
    caption = np.zeros_like(image)
    caption[np.arange(len(data)), 3 + np.arange(len(data))] = 1.0
    if not any(data.label):
        image = np.where(flip[:, None], np.roll(caption, 1, axis=0), caption)
    view = TeacherView("tutor", ("ct",), {}, scale, image, caption, {"ct": classes, "xray": classes})
    return replace(view, **changes)


def wrong_in(data, domain, split, share):
    """Wrong on the first ``share`` of the samples of a domain and split."""
    rows = np.flatnonzero((data.domain == domain) & (data.split == split))
    chosen = set(rows[: round(share * len(rows))].tolist())
    return lambda row: row in chosen


class TestNinety:
    def test_right_nine_times_in_ten_teaches_all(self):
        data = corpus()
        trust = decide(view(data, wrong_in(data, "ct", "val", 0.1)), data, TrustConfig())
        found = trust.domains["ct"]
        assert found.trusted
        assert (found.accuracy, found.balanced, found.status) == (0.9, pytest.approx(0.9), "measured")
        assert (found.n, found.patients, found.classes, found.admitted, found.of) == (30, 30, 3, 60, 60)
        assert found.reason == "90.0 % right (balanced 90.0 %) on 30 probe images: teaches all 60"
        assert trust.mask.sum() == 120
        assert (data.split[trust.mask] == "train").all()

    def test_below_it_only_what_it_is_sure_of_in_classes_where_that_proved_right(self):
        """On the probe it calls every third normal a mass, so "mass" is no answer to rely on; "normal", "fluid" are."""
        data = corpus(val=60)
        normal = np.flatnonzero((data.domain == "ct") & (data.split == "val") & (data.label == "normal"))[::2]
        train = set(np.flatnonzero((data.domain == "ct") & (data.split == "train"))[:15].tolist())
        chosen = {*normal.tolist(), *train}
        found = decide(view(data, lambda row: row in chosen), data, TrustConfig()).domains["ct"]
        assert not found.trusted
        assert found.accuracy == pytest.approx(50 / 60)
        assert found.sure_of == ("normal", "fluid")
        assert found.admitted == 30  # of 40 normal and fluid ones it is wrong about the 10 among the first 15
        assert found.reason == (
            "83.3 % right (balanced 83.3 %) on 60 probe images: only the 30 of 60 it is 90 % sure of and right about "
            "in normal, fluid, where such answers are right"
        )

    def test_labels_alone_as_it_was_once_read(self):
        data = corpus(val=60)
        normal = np.flatnonzero((data.domain == "ct") & (data.split == "val") & (data.label == "normal"))[::2]
        wrong = set(normal.tolist())
        found = decide(view(data, lambda row: row in wrong), data, TrustConfig(rule="90-labels")).domains["ct"]
        assert (found.trusted, found.admitted) == (False, 60)

    def test_right_but_unsure_is_not_admitted(self):
        data = corpus()
        # scale 1: the posterior of the right class is e / (e + 2) = 0.576
        unsure = view(data, wrong_in(data, "ct", "val", 0.2), scale=1.0)
        found = decide(unsure, data, TrustConfig()).domains["ct"]
        assert found.admitted == 0
        assert found.reason.endswith(
            "; with its logit scale of 1 it can be at most 78.7 % sure among so many classes: teaches nothing"
        )
        assert decide(unsure, data, TrustConfig(threshold=0.57)).domains["ct"].trusted
        assert decide(unsure, data, TrustConfig(threshold=0.81)).domains["ct"].admitted == 0

    def test_a_fitted_temperature_makes_an_unsure_teacher_sure(self):
        data = corpus(val=60)
        unsure = view(data, wrong_in(data, "ct", "val", 0.12), scale=1.0)
        assert decide(unsure, data, TrustConfig()).domains["ct"].admitted == 0
        found = decide(unsure, data, TrustConfig(calibrate=True, threshold=0.85)).domains["ct"]
        assert found.temperature < 0.5
        assert "temperature 0." in found.reason

    def test_strict_asks_the_wilson_bound(self):
        data = corpus()
        teacher = view(data, wrong_in(data, "ct", "val", 1 / 30))
        assert decide(teacher, data, TrustConfig()).domains["ct"].trusted
        found = decide(teacher, data, TrustConfig(strict=True)).domains["ct"]
        assert not found.trusted
        assert (found.lower, found.admitted) == (pytest.approx(0.864, abs=5e-4), 0)  # 10 of 10 are 78.7 % at least
        assert decide(teacher, data, TrustConfig(strict=True, threshold=0.78)).domains["ct"].trusted

    def test_does_not_look_at_the_test_split(self):
        data = corpus()
        teacher = view(data)
        spoilt = teacher.image.copy()
        spoilt[data.split == "test"] *= -1
        trust = decide(replace(teacher, image=spoilt), data, TrustConfig())
        assert trust.domains == decide(teacher, data, TrustConfig()).domains


class TestMeasured:
    """What counts as a measurement: literal cases, each one step below what is needed."""

    def reason(self, data, **settings):
        found = decide(view(data), data, TrustConfig(probe="val", **settings)).domains["ct"]
        return found.status, found.reason.partition(";")[0], found.trusted

    @pytest.mark.parametrize(
        ("val", "classes", "patients", "why"),
        [
            (30, ("normal",), 30, "all 30 labelled images are normal"),
            (19, CLASSES, 19, "19 labelled images of 19 patients, 20 of 5 are needed"),
            (30, CLASSES, 4, "30 labelled images of 4 patients, 20 of 5 are needed"),
            (22, ("normal",) * 10 + ("mass",), 22, "fewer than two classes have 3 labelled images"),
            (0, CLASSES, 1, "no labelled images"),
        ],
    )
    def test_less_is_not_measured(self, val, classes, patients, why):
        data = corpus(val=val, domains=("ct",), classes=classes, patients=patients)
        assert self.reason(data) == ("not measured", f"not measured: {why}", False)

    def test_that_much_is(self):
        data = corpus(val=20, domains=("ct",), patients=5)
        assert self.reason(data)[0] == "measured"
        assert self.reason(data, samples=21)[0] == "not measured"
        assert self.reason(data, patients=6)[0] == "not measured"
        assert self.reason(data, per_class=8)[0] == "not measured"

    def test_a_class_with_too_few_probe_images_is_left_out(self):
        data = corpus(val=28, domains=("ct",), classes=("normal", "mass") * 6 + ("fluid", "normal"))
        found = decide(view(data), data, TrustConfig()).domains["ct"]
        assert (found.status, found.trusted, found.classes) == ("measured", False, 2)
        assert (found.admitted, found.of) == (56, 60)
        assert found.reason.endswith("teaches 56 of 60, all but fluid, of which the probe has too few")

    def test_training_patients_measure_where_the_validation_split_is_too_small(self):
        data = corpus(val=2, domains=("ct",))
        assert decide(view(data), data, TrustConfig(probe="val")).domains["ct"].status == "not measured"
        found = decide(view(data), data, TrustConfig()).domains["ct"]
        assert (found.status, found.probe, found.n, found.trusted) == ("measured", "train", 60, True)
        assert "on 60 probe images of the training split" in found.reason

    def test_but_not_a_teacher_that_was_made_from_them(self):
        data = corpus(val=2, domains=("ct",))
        image = str(data.image_id[data.split == "train"][7])
        assert decide(view(data, seen=(image,)), data, TrustConfig()).domains["ct"].status == "not measured"
        elsewhere = str(data.image_id[data.split == "test"][0])
        assert decide(view(data, seen=(elsewhere,)), data, TrustConfig()).domains["ct"].status == "measured"


class TestClaims:
    @pytest.mark.parametrize("claims", [{"ct": 0.95}, {"ct": 0.6}, {}])
    @pytest.mark.parametrize("rule", ["90", "90-labels"])
    def test_a_claim_teaches_nothing_by_itself(self, claims, rule):
        data = corpus(val=0, train=12, domains=("ct",))
        found = decide(view(data, claims=claims), data, TrustConfig(rule=rule)).domains["ct"]
        assert (found.trusted, found.verified, found.on_claim, found.accuracy) == (False, False, False, None)
        assert found.claimed == claims.get("ct")

    def test_but_a_person_may_say_so(self):
        data = corpus(val=0, train=12, domains=("ct",))
        config = TrustConfig(rule="claimed")
        found = decide(view(data, claims={"ct": 0.95}), data, config).domains["ct"]
        assert (found.trusted, found.on_claim, found.admitted) == (True, True, 12)
        assert found.reason == ("claims 95.0 %, not measured: no labelled images, on its claim: teaches all 12")
        assert not decide(view(data, claims={"ct": 0.89}), data, config).domains["ct"].trusted
        assert not decide(view(data), data, config).domains["ct"].trusted

    def test_a_claim_does_not_outweigh_a_measurement(self):
        data = corpus()
        teacher = view(data, wrong_in(data, "ct", "val", 0.5), claims={"ct": 0.99})
        for rule in ("90", "claimed"):
            found = decide(teacher, data, TrustConfig(rule=rule)).domains["ct"]
            assert (found.trusted, found.on_claim) == (False, False)


class TestCaptions:
    """Without labels a teacher can only show that it finds a sample's own caption."""

    def test_unlabelled_samples_must_find_their_own_caption(self):
        data = corpus(labelled=False, domains=("ct",))
        teacher = view(data)
        found = decide(teacher, data, TrustConfig()).domains["ct"]
        assert (found.admitted, found.trusted, found.verified) == (60, False, False)
        assert found.reason == (
            "not measured: no labelled images: only the 60 of 60 "
            "whose own caption it finds among 60 and is 90 % sure of"
        )

    def test_being_sure_must_mean_being_right(self):
        """Sure of another patient's caption in one case of six, it may not confirm the other five."""
        data = corpus(labelled=False, domains=("ct",))
        found = decide(view(data, wrong_in(data, "ct", "train", 1 / 6)), data, TrustConfig()).domains["ct"]
        assert found.admitted == 0
        assert found.reason.endswith("by captions: right in 84.7 % when 90 % sure: teaches nothing")
        trust = decide(view(data, wrong_in(data, "ct", "train", 1 / 12)), data, TrustConfig())
        assert trust.mask[data.split == "train"].tolist() == [False] * 5 + [True] * 55

    def test_one_answer_for_all_confirms_nothing(self):
        """Half of all samples have one caption, a constant teacher always gives it: half right, sure and blind."""
        data = corpus(labelled=False, domains=("ct",), caption=lambda i: "a scan" if i % 2 else f"scan {i}")
        rng = np.random.default_rng(0)
        caption = rng.normal(size=(len(data), 16)).astype(np.float32)
        common = np.flatnonzero(data.caption == "a scan")
        caption[common] = caption[common[0]]
        image = np.repeat(caption[common[:1]], len(data), axis=0)
        trust = decide(view(data, image=image, caption=caption, classes={}), data, TrustConfig())
        assert trust.mask.sum() == 0
        assert (
            "50.0 % of captions are found among 31, 50.0 % with another patient's image" in trust.domains["ct"].reason
        )

    @pytest.mark.parametrize(
        ("train", "patients", "texts", "why"),
        [
            (19, 19, 19, "19 captions of 19 patients, 20 of 5 are needed"),
            (30, 4, 30, "30 captions of 4 patients, 20 of 5 are needed"),
            (30, 30, 19, "19 different captions, 20 are needed"),
        ],
    )
    def test_the_same_minimum_holds(self, train, patients, texts, why):
        data = corpus(
            train=train, labelled=False, domains=("ct",), patients=patients, caption=lambda i: f"c {i % texts}"
        )
        teacher = view(data)
        first = [np.flatnonzero(data.caption == text)[0] for text in data.caption]
        found = decide(
            replace(teacher, caption=teacher.caption[first], image=teacher.image[first]), data, TrustConfig()
        )
        assert found.domains["ct"].reason == f"not measured: no labelled images; by captions: {why}: teaches nothing"

    def test_a_scale_that_can_never_be_sure_is_named(self):
        data = corpus(labelled=False, domains=("ct",))
        found = decide(view(data, scale=1.0), data, TrustConfig()).domains["ct"]
        assert found.admitted == 0
        assert "with its logit scale of 1 it can be at most 11.1 % sure among so many captions" in found.reason

    def test_does_not_depend_on_order_or_on_the_test_split(self):
        data = corpus(labelled=False, domains=("ct",), train=200)
        rng = np.random.default_rng(0)
        noise = rng.normal(size=(len(data), 16)).astype(np.float32)
        text = (noise + 0.7 * rng.normal(size=noise.shape)).astype(np.float32)
        teacher = view(data, image=noise, caption=text, classes={}, scale=30.0)
        mask = decide(teacher, data, TrustConfig()).mask
        assert 10 < mask.sum() < 190
        shuffle = rng.permutation(len(data))
        shuffle = shuffle[data.split[shuffle] != "test"]
        moved = replace(teacher, image=noise[shuffle], caption=text[shuffle])
        np.testing.assert_array_equal(decide(moved, data.take(shuffle), TrustConfig()).mask, mask[shuffle])
        assert (decide(teacher, data, TrustConfig(seed=1)).mask != mask).any()


class TestGain:
    def scores(self, data, right):
        """A student that is right on a share of the probe images of every domain, or of each its own."""
        result = {}
        for domain, share in (right if isinstance(right, dict) else dict.fromkeys(("ct", "xray"), right)).items():
            rows = data.where("val", [domain])
            truth = np.array([CLASSES.index(label) for label in data.label[rows]], dtype=int)
            guess = np.where(np.random.default_rng(0).random(len(rows)) < share, truth, (truth + 1) % 3)
            result[domain] = np.eye(3)[guess]
        return StudentProbe(result)

    def test_teaches_where_it_is_better_and_elsewhere_what_it_is_sure_of(self):
        data = corpus(val=90)
        teacher = view(data, wrong_in(data, "xray", "val", 0.3))
        trust = decide(teacher, data, TrustConfig(rule="gain"), self.scores(data, {"ct": 0.5, "xray": 0.95}))
        ct, xray = trust.domains["ct"], trust.domains["xray"]
        assert ct.trusted
        assert ct.admitted == 60
        assert ct.gain.lower > 0
        assert ct.auc.estimate == 1.0
        assert ct.reason.startswith("AUC 100.0 against the student's ")
        assert ct.reason.endswith(" points: teaches all 60")
        by_sample = decide(teacher, data, TrustConfig(rule="90")).domains["xray"]
        assert (xray.trusted, xray.admitted) == (False, by_sample.admitted)
        assert xray.gain.lower < 0
        assert xray.reason.endswith(
            " points, and 90 % sure of all of them: its logit scale tells nothing apart: teaches nothing"
        )

    def test_as_good_as_the_student_is_not_better(self):
        data = corpus()
        trust = decide(view(data), data, TrustConfig(rule="gain"), self.scores(data, 1.0))
        assert not trust.domains["ct"].trusted
        assert trust.domains["ct"].reason == (
            "AUC 100.0 against the student's 100.0 on 30 probe images, "
            "a difference of at least +0.0 points: only the 60 of 60 it is 90 % sure of and right about "
            "in normal, mass, fluid, where such answers are right"
        )

    def test_needs_a_student_that_fits(self):
        data = corpus()
        with pytest.raises(TrustError, match=r"there is none yet\. Use `--trust 90`, or pretrain a student first"):
            decide(view(data), data, TrustConfig(rule="gain"))
        short = StudentProbe({"ct": np.ones((3, 3))})
        with pytest.raises(TrustError, match=r"scores of shape \(3, 3\) for the probe images of ct, where \(30, 3\)"):
            decide(view(data), data, TrustConfig(rule="gain"), short)
        sick = StudentProbe({domain: np.full((30, 3), np.nan) for domain in ("ct", "xray")})
        with pytest.raises(TrustError, match="the student's scores on ct hold NaN"):
            decide(view(data), data, TrustConfig(rule="gain"), sick)

    def test_worse_than_chance_is_not_compared(self):
        data = corpus()
        teacher = view(data, wrong_in(data, "ct", "val", 0.9))
        found = decide(teacher, data, TrustConfig(rule="gain"), self.scores(data, 0.05)).domains["ct"]
        assert (found.trusted, found.admitted, found.gain) == (False, 0, None)
        assert found.reason.startswith("not compared with the student, not better than chance: 10.0 % right")

    def test_training_patients_are_no_place_to_compare_with_a_student_that_learnt_them(self):
        data = corpus(val=0)
        found = decide(view(data), data, TrustConfig(rule="gain"), self.scores(data, 0.5)).domains["ct"]
        assert (found.trusted, found.admitted, found.gain) == (False, 60, None)
        assert found.reason.startswith("not compared with the student, 100.0 % right (balanced 100.0 %) on 60 probe")

    def test_a_gain_is_bounded_by_patient_and_one_sided(self):
        """30 patients with 20 copies each are 30: the bound is that of one image of each, at 95 % one-sided."""
        single, many = corpus(val=30, domains=("ct",)), corpus(val=600, patients=30, domains=("ct",))
        bounds = []
        for data, copies in ((single, 1), (many, 20)):
            rows = data.where("val", ["ct"])
            patient = np.arange(30 * copies) % 30
            truth = np.array([CLASSES.index(label) for label in data.label[rows]])
            teacher = view(
                data, lambda row, rows=rows, patient=patient: patient[row - rows[0]] < 3 if row in rows else False
            )
            ours = np.eye(3)[np.where(patient < 7, (truth + 1) % 3, truth)]
            gain = decide(teacher, data, TrustConfig(rule="gain"), StudentProbe({"ct": ours})).domains["ct"].gain
            bounds.append((gain.estimate, gain.lower, gain.groups))
        assert bounds[0] == pytest.approx(bounds[1])
        assert bounds[0][0] == pytest.approx(0.1, abs=0.01)
        assert bounds[0][1] == pytest.approx(0.0227, abs=0.004)  # at 90 % it would be 0.041, at 97.5 % 0.008

    def test_a_gain_that_chance_explains_is_none(self):
        """Right about two patients more, of thirty: an estimate above nothing, and a bound that is not."""
        data = corpus(val=30, domains=("ct",))
        rows = data.where("val", ["ct"])
        truth = np.array([CLASSES.index(label) for label in data.label[rows]])
        ours = np.eye(3)[np.where(np.arange(30) < 8, (truth + 1) % 3, truth)]
        teacher = view(data, lambda row: row in rows[:6])
        found = decide(teacher, data, TrustConfig(rule="gain"), StudentProbe({"ct": ours})).domains["ct"]
        assert found.gain.estimate > 0
        assert found.gain.lower <= 0
        assert not found.trusted


def test_none_admits_what_the_teacher_declares():
    data = corpus()
    trust = decide(view(data, lambda row: True), data, TrustConfig(rule="none"))
    np.testing.assert_array_equal(trust.mask, (data.domain == "ct") & (data.split == "train"))
    assert trust.domains["ct"].reason == "declared by the teacher: teaches all 60"
    assert trust.domains["xray"].reason == "not declared by the teacher: teaches nothing"


def test_the_same_evidence_serves_every_rule():
    data = corpus()
    teacher = view(data, wrong_in(data, "ct", "val", 0.3))
    evidence = measure(teacher, data)
    for config in (TrustConfig(), TrustConfig(threshold=0.6), TrustConfig(rule="none")):
        np.testing.assert_array_equal(judge(evidence, data, config).mask, decide(teacher, data, config).mask)


class TestRefusals:
    def test_config(self):
        with pytest.raises(TrustError, match=r"unknown trust rule 'ninety'\. Use one of 90, gain, claimed, none"):
            TrustConfig(rule="ninety")
        with pytest.raises(TrustError, match="a trust threshold of 90 is not a share"):
            TrustConfig(threshold=90)

    def test_features(self):
        data = corpus()
        teacher = view(data)
        with pytest.raises(TrustError, match="tutor has image features of 191 samples and the corpus has 192"):
            decide(replace(teacher, image=teacher.image[1:]), data, TrustConfig())
        sick = teacher.caption.copy()
        sick[5, 0] = np.nan
        with pytest.raises(TrustError, match=f"caption features with NaN or infinity .sample {data.sample_id[5]}"):
            decide(replace(teacher, caption=sick), data, TrustConfig())

    def test_classes(self):
        data = corpus()
        teacher = view(data)
        with pytest.raises(TrustError, match="tutor has 2 class embeddings for the 3 classes of ct"):
            decide(replace(teacher, classes={"ct": teacher.classes["ct"][:2]}), data, TrustConfig())
        data.label[3] = "ghost"
        with pytest.raises(TrustError, match="the label 'ghost' has no sentences among the prompts of ct"):
            decide(teacher, data, TrustConfig())


class TestFile:
    def test_round_trip(self, tmp_path):
        data = corpus(val=90)
        student = TestGain().scores(data, 0.5)
        for rule in ("90", "gain", "none"):
            trust = decide(view(data, wrong_in(data, "ct", "train", 0.3)), data, TrustConfig(rule=rule), student)
            trust.save(tmp_path / "a.npz")
            trust.save(tmp_path / "b.npz")
            assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
            again = TeacherTrust.load(tmp_path / "a.npz")
            np.testing.assert_array_equal(again.mask, trust.mask)
            assert again.mask.dtype == bool
            assert again.domains == trust.domains
            assert (again.teacher, again.config, again.corpus) == ("tutor", trust.config, data.fingerprint)

    def test_refusals(self, tmp_path):
        with pytest.raises(TrustError, match=r"no trust results .*none.npz.*`mmkd audit trust`"):
            TeacherTrust.load(tmp_path / "none.npz")
        (tmp_path / "bad.npz").write_bytes(b"not an archive")
        with pytest.raises(TrustError, match="the trust results cannot be read"):
            TeacherTrust.load(tmp_path / "bad.npz")
        text = np.frombuffer(b'{"version": 9, "n": 0}', dtype=np.uint8)
        np.savez(tmp_path / "new.npz", mask=np.zeros(0, np.uint8), facts=text)
        with pytest.raises(TrustError, match="of version 9, this mmkd reads 2"):
            TeacherTrust.load(tmp_path / "new.npz")
