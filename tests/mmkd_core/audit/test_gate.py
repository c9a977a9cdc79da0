"""gate.yaml: what it holds, what it refuses, and a hash that changes with its meaning alone."""

import pytest

from mmkd_core.audit.gate import Gate, GateError, Rule, read_gate, write_gate


def test_a_round_trip_and_the_default(tmp_path):
    path = tmp_path / "gate.yaml"
    assert read_gate(path) == Gate()
    gate = Gate(seed=3, families={"zero-shot": {"auc": Rule(gates=True, margin=0.01, parts={"mri": 0.03})}})
    write_gate(path, gate)
    assert read_gate(path) == gate
    assert read_gate(path).hash == gate.hash
    assert gate.rule("zero-shot", "auc").of("mri") == 0.03
    assert gate.rule("zero-shot", "auc").of("ct") == 0.01
    assert gate.rule("retrieval", "R@10") == Gate().rule("retrieval", "R@10")  # what is left out is as it was


def test_what_gates_by_default():
    gates = {(f, m) for f, rules in Gate().families.items() for m, rule in rules.items() if rule.gates}
    assert gates == {
        ("zero-shot", "auc"),
        ("zero-shot", "balanced_accuracy"),
        ("retrieval", "R@10"),
        ("fidelity", "cosine"),
        ("calibration", "brier"),
    }
    assert [Gate().rule("zero-shot", "balanced_accuracy").of(part) for part in ("ct", "mean")] == [0.08, 0.05]
    assert [Gate().rule("calibration", "brier").of(part) for part in ("ct", "mean")] == [0.08, 0.05]
    assert (Gate().alpha, Gate().rule("zero-shot", "auc").margin) == (pytest.approx(0.025), 0.02)


def test_the_hash_is_of_the_meaning(tmp_path):
    path = tmp_path / "gate.yaml"
    write_gate(path, Gate())
    path.write_text("# a remark\n" + path.read_text().replace("seed: 0", "seed:   0"))
    assert read_gate(path).hash == Gate().hash
    path.write_text(path.read_text().replace("margin: 0.02", "margin: 0.03"))
    assert read_gate(path).hash != Gate().hash
    assert len({Gate().hash, Gate(seed=1).hash, Gate(confidence=0.9).hash, Gate(resamples=500).hash}) == 4


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "families: {zero-shot: {auc: {gates: true, margin: 2}}}",
            "setting families.zero-shot.auc.margin: .*less than 1",
        ),
        ("families: {zeroshot: {}}", "there is no family 'zeroshot', only zero-shot, retrieval"),
        ("families: {flips: {positive: {gates: true, margin: 0.1}}}", "flips has no metric 'positive', only negative"),
        ("margin: 0.02", "setting margin: Extra inputs"),
        ("resamples: 10", "setting resamples: .*greater than or equal to 100"),
        ("families: {zero-shot: {auc: {gates: true, margin: 0.1, parts: {ct: 0}}}}", "margin of 0.* for ct is no frac"),
        (
            "families: {zero-shot: {auc: {gates: false, margin: 0.1}, balanced_accuracy: {gates: false, margin: 0.1}}, "
            "retrieval: {R@10: {gates: false, margin: 0.1}}, fidelity: {cosine: {gates: false, margin: 0.1}}, "
            "calibration: {brier: {gates: false, margin: 0.1}}}",
            "no metric decides",
        ),
        ("- a", "gate.yaml holds no settings but a list"),
        ("a: [", "gate.yaml cannot be read"),
    ],
)
def test_refusals(tmp_path, text, sentence):
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    with pytest.raises(GateError, match=sentence):
        read_gate(path)
