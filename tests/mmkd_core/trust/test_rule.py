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


def corpus(train=60, val=30, domains=("ct", "xray"), labelled=True, caption=None):
    rows = []
    for domain in domains:
        for split, count in (("train", train), ("val", val), ("test", 6)):
            for i in range(count):
                name = f"{domain}-{split}-{i}"
                rows.append(
                    {
                        "image": f"{name}.png",
                        "image_id": name,
                        "caption": caption or f"caption of {name}",
                        "domain": domain,
                        "label": CLASSES[i % 3] if labelled else None,
                        "group_id": f"patient {name}",
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
        assert found.accuracy == 0.9
        assert (found.n, found.admitted, found.of) == (30, 60, 60)
        assert found.reason == "90.0 % right on 30 probe images: teaches all 60"
        assert trust.mask.sum() == 120
        assert (data.split[trust.mask] == "train").all()

    def test_below_it_only_what_it_is_sure_and_right_about(self):
        data = corpus()
        bad = wrong_in(data, "ct", "val", 0.2), wrong_in(data, "ct", "train", 0.25)
        trust = decide(view(data, lambda row: any(b(row) for b in bad)), data, TrustConfig())
        found = trust.domains["ct"]
        assert not found.trusted
        assert found.reason == ("80.0 % right on 30 probe images: only the 45 of 60 it is 90 % sure of and right about")
        refused = np.flatnonzero((data.domain == "ct") & (data.split == "train") & ~trust.mask)
        assert refused.tolist() == [row for row in range(len(data)) if bad[1](row)]
        assert trust.domains["xray"].trusted

    def test_right_but_unsure_is_not_admitted(self):
        data = corpus()
        # scale 1: the posterior of the right class is e / (e + 2) = 0.576
        unsure = view(data, wrong_in(data, "ct", "val", 0.2), scale=1.0)
        assert decide(unsure, data, TrustConfig()).domains["ct"].admitted == 0
        assert decide(unsure, data, TrustConfig(threshold=0.57)).domains["ct"].trusted
        assert decide(unsure, data, TrustConfig(threshold=0.81)).domains["ct"].admitted == 0
        lenient = view(data, wrong_in(data, "ct", "val", 0.5), scale=1.0)
        assert decide(lenient, data, TrustConfig(threshold=0.57)).domains["ct"].admitted == 60
        assert decide(lenient, data, TrustConfig(threshold=0.58)).domains["ct"].admitted == 0

    def test_strict_asks_the_wilson_bound(self):
        data = corpus()
        teacher = view(data, wrong_in(data, "ct", "val", 1 / 30))
        assert decide(teacher, data, TrustConfig()).domains["ct"].trusted
        found = decide(teacher, data, TrustConfig(strict=True)).domains["ct"]
        assert not found.trusted
        assert found.reason.startswith(
            "96.7 % right on 30 probe images (at least 86.4 % with 95 % confidence): only the 60"
        )

    @pytest.mark.parametrize(
        ("claims", "trusted", "reason"),
        [
            ({"ct": 0.95}, True, "claims 95.0 %, unverified for want of probe images: teaches all 60"),
            ({"ct": 0.6}, False, "claims 60.0 %, unverified for want of probe images: only the 15 of 60 it is 90 % "),
            ({}, False, "no probe images and no claim: only the 15 of 60 it is 90 % sure of and right about"),
        ],
    )
    def test_without_probe_images_the_claim_counts_and_says_so(self, claims, trusted, reason):
        data = corpus(val=0, domains=("ct",))
        teacher = view(data, wrong_in(data, "ct", "train", 0.75), claims=claims)
        found = decide(teacher, data, TrustConfig()).domains["ct"]
        assert (found.trusted, found.verified, found.accuracy, found.n) == (trusted, False, None, 0)
        assert found.claimed == claims.get("ct")
        assert found.reason.startswith(reason)

    def test_a_claim_does_not_outweigh_a_measurement(self):
        data = corpus()
        teacher = view(data, wrong_in(data, "ct", "val", 0.5), claims={"ct": 0.99})
        assert not decide(teacher, data, TrustConfig()).domains["ct"].trusted

    def test_unlabelled_samples_must_find_their_own_caption(self):
        data = corpus(labelled=False, domains=("ct",))
        trust = decide(view(data, wrong_in(data, "ct", "train", 0.5)), data, TrustConfig())
        train = np.flatnonzero(data.split == "train")
        assert trust.mask[train].tolist() == [False] * 30 + [True] * 30
        assert not trust.domains["ct"].verified

    def test_equal_captions_do_not_compete(self):
        data = corpus(labelled=False, domains=("ct",), train=8)
        caption = data.caption.copy()
        caption[:6] = "a ct scan"
        data = Corpus.build(
            data.root,
            [
                {name: getattr(data, name)[i] for name in ("image", "image_id", "domain", "group_id", "split")}
                | {"caption": caption[i]}
                for i in range(len(data))
            ],
            PROMPTS,
        )
        teacher = view(data)
        features = teacher.caption.copy()
        features[:6] = features[0]
        trust = decide(replace(teacher, caption=features, image=features), data, TrustConfig())
        assert trust.domains["ct"].admitted == 8

    def test_one_caption_for_all_is_no_evidence(self):
        data = corpus(labelled=False, domains=("ct",), caption="a ct scan")
        same = np.ones((len(data), 4), dtype=np.float32)
        trust = decide(view(data, image=same, caption=same, classes={}), data, TrustConfig())
        assert trust.domains["ct"].admitted == 0

    def test_does_not_depend_on_order_or_on_the_test_split(self):
        data = corpus(labelled=False, domains=("ct",), train=200)
        rng = np.random.default_rng(0)
        noise = rng.normal(size=(len(data), 16)).astype(np.float32)
        text = (noise + 1.2 * rng.normal(size=noise.shape)).astype(np.float32)
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
        """A student that is right on a share of the probe images of every domain."""
        result = {}
        for domain in ("ct", "xray"):
            rows = data.where("val", [domain])
            truth = np.array([CLASSES.index(label) for label in data.label[rows]], dtype=int)
            guess = np.where(np.random.default_rng(0).random(len(rows)) < right, truth, (truth + 1) % 3)
            result[domain] = np.eye(3)[guess]
        return StudentProbe(result)

    def test_teaches_where_it_is_better_and_elsewhere_what_it_is_sure_of(self):
        data = corpus(val=90)
        teacher = view(data, wrong_in(data, "xray", "val", 0.9))
        trust = decide(teacher, data, TrustConfig(rule="gain"), self.scores(data, 0.5))
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
        assert xray.reason.endswith(f" points: only the {xray.admitted} of 60 it is 90 % sure of and right about")

    def test_as_good_as_the_student_is_not_better(self):
        data = corpus()
        trust = decide(view(data), data, TrustConfig(rule="gain"), self.scores(data, 1.0))
        assert not trust.domains["ct"].trusted
        assert trust.domains["ct"].reason == (
            "AUC 100.0 against the student's 100.0 on 30 probe images, "
            "a difference of at least +0.0 points: only the 60 of 60 it is 90 % sure of and right about"
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

    def test_without_probe_images_what_it_is_sure_of(self):
        data = corpus(val=0)
        trust = decide(view(data), data, TrustConfig(rule="gain"), self.scores(data, 0.5))
        assert not any(found.trusted for found in trust.domains.values())
        assert trust.domains["ct"].reason == (
            "no probe images of two classes to compare on: only the 60 of 60 it is 90 % sure of and right about"
        )


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
        with pytest.raises(TrustError, match=r"unknown trust rule 'ninety'\. Use one of 90, gain, none"):
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
        with pytest.raises(TrustError, match="of version 9, this mmkd reads 1"):
            TeacherTrust.load(tmp_path / "new.npz")
