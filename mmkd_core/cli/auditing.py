"""`mmkd audit`: what audits of trust and of forgetting, a chain of releases and a self-test say, with exit codes."""

from typing import TYPE_CHECKING, Any

from mmkd_core.cli.output import Output, points, span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mmkd_core.audit.chain import ChainTable
    from mmkd_core.audit.comparison import Comparison, Undefined
    from mmkd_core.audit.forgetting import ForgettingAudit

THRESHOLDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 1.0)
"""Of the sweep, in the terminal; JSON and page have all."""


def show_trust(out: Output, sweep: bool) -> int:
    """What teachers claim and what they do here; with ``sweep`` what other thresholds would make of it."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.trusting import run_trust_audit
    from mmkd_core.integrate.workspace import Workspace, trust_audit_file

    workspace = Workspace.open(out.root)
    with workspace.writing():
        facts = run_trust_audit(workspace, sweep, watch())
    columns = ("teacher", "domain", "claimed", "measured", "95 % interval", "balanced", "AUC", "test split")
    out.table((*columns, "finding", "teaches", "why"), [_trust_cells(row) for row in facts["rows"]])
    if sweep:
        _show_sweep(out, facts["sweep"])
        _show_students(out, facts["students"])
    out.say(facts["sentence"])
    out.say(f"verdict: {facts['verdict'] or 'none, nothing to compare with: no teacher claims anything'}")
    path = trust_audit_file(workspace)
    out.finish(facts, wrote=[path.with_suffix(".html"), path], next=out.following())
    return int(facts["exit_code"])


def _trust_cells(row: "Mapping[str, Any]") -> tuple[object, ...]:
    measured = points(row["measured"]), span(row["lower"], row["upper"]), points(row["balanced"]), points(row["auc"])
    held = f"{points(row['gap']['test'])}, AUC {points(row['gap']['test_auc'])}" if row["gap"] else "-"
    teaches = f"{row['admitted']} of {row['of']}"
    return (
        row["teacher"],
        row["domain"],
        points(row["claimed"]),
        *measured,
        held,
        row["finding"],
        teaches,
        row["reason"],
    )


def _show_sweep(out: Output, found: "Mapping[str, Any]") -> None:
    """Pairs by teacher and domain at a few thresholds."""
    out.say("\ntraining samples that each threshold admits")
    places = [found["thresholds"].index(threshold) for threshold in THRESHOLDS]
    rows = [
        (name, domain, *(cell["admitted"][i] for i in places), cell["everyone"], cell["of"])
        for name, domains in found["teachers"].items()
        for domain, cell in domains.items()
    ]
    total = [sum(int(row[i]) for row in rows) for i in range(2, len(places) + 4)]
    heads = ("teacher", "domain", *(f"{threshold:g}" for threshold in THRESHOLDS), "no rule", "of")
    out.table(heads, [*rows, ("all", "", *total)])


def _show_students(out: Output, found: "Mapping[str, Any]") -> None:
    """Students that were trained at some thresholds, or the command that trains them."""
    rows = [
        (row["cell"], int(row["counts"]["trusted pairs"]), *_student_cells(row), len(row["seeds"]))
        for row in found["rows"]
    ]
    if rows:
        out.say(f"\nstudents of these thresholds, {found['steps']:,} steps each")
        out.table(("threshold", "trusted pairs", "mean AUC", "against 0.90", "95 % interval", "seeds"), rows)
    if found["missing"]:
        out.say(f"no student yet at {', '.join(found['missing'])}: run `{out.command(found['command'])}`")


def _student_cells(row: "Mapping[str, Any]") -> tuple[str, str, str]:
    """Mean AUC, and its change against the default with an interval."""
    change = row["change"] or {"mean": None, "lower": None, "upper": None}
    spread = span(change["lower"], change["upper"], sign=True)
    return points(row["mean"]["mean"]), points(change["mean"], sign=True), spread


def show_audit(out: Output, candidate: str | None, against: str | None, force: bool, because: str | None) -> int:
    """Audit a release against another, and promote it if it passes."""
    from mmkd_core.integrate import releases
    from mmkd_core.integrate.audits import audit_file
    from mmkd_core.integrate.measuring import run_audit
    from mmkd_core.integrate.workspace import Workspace, read_json

    workspace = Workspace.open(out.root)
    with workspace.writing():
        audit, new, old = run_audit(workspace, candidate, against, force, because)
        current = releases.in_use(workspace)
    written = audit_file(workspace, new.id, old.id)
    facts = read_json(written)
    _show(out, audit, old.id, new.id)
    _say_changes(out, facts["gate_changed"], new.id)
    if facts["looks"] > 1:
        out.say(f"{facts['looks']} candidates were audited against {old.id}: each is another chance to pass by luck")
    out.say(f"in use: release {current}")
    files = [written.with_suffix(suffix) for suffix in (".html", ".json", ".xml")]
    out.finish({**facts, "in_use": current}, wrote=files, next=out.following())
    return audit.exit_code


def _say_changes(out: Output, changed: "Mapping[str, Any]", candidate: str) -> None:
    """Settings of the gate that were others when the candidate was made."""
    for setting, one in changed.items():
        out.say(f"gate.yaml was changed after release {candidate} was made: {setting}: {one['was']}, now {one['is']}")


def show_chain(out: Output, candidate: str | None, force: bool, because: str | None) -> int:
    """The matrix of a release and all that it grew from."""
    from mmkd_core.audit.chain_figures import CHAIN_FIGURES
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.measuring import run_chain
    from mmkd_core.integrate.workspace import Workspace

    workspace = Workspace.open(out.root)
    with workspace.writing():
        found = run_chain(workspace, candidate, watch(), force, because)
    out.say("on the test split, in points; * is the release that learnt it")
    for table in found.tables:
        if table.gates:
            _show_matrix(out, table, found.releases)
    titles = [known.title for known in CHAIN_FIGURES]
    columns = ("figure", "", *titles[:2], "interval", *titles[2:])
    out.table(columns, [_figure_cells(table) for table in found.tables])
    for known in CHAIN_FIGURES:
        out.say(f"{known.title}: {known.words}")
    out.say()
    _table(out, [row for row in found.comparisons if row.gates], "when learnt", found.releases[-1])
    _reported(out, found.comparisons)
    _say_verdict(out, found.verdict.value, found.gate.hash, found.undefined)
    path = workspace.audits / f"chain-to-{found.releases[-1]}.json"
    files = [path.with_suffix(suffix) for suffix in (".html", ".json", ".xml")]
    out.finish(found.to_json(), wrote=files, next=out.following())
    return found.verdict.exit_code


def _show_matrix(out: Output, table: "ChainTable", releases: "Sequence[str]") -> None:
    """One metric by part and release."""
    rows = [
        (part, *(points(table.matrix[name][part]) + ("*" if name == learnt else "") for name in releases))
        for part, learnt in table.learnt.items()
    ]
    out.table((f"{table.family} {table.metric}", *releases), rows)
    out.say()


def _figure_cells(table: "ChainTable") -> tuple[object, ...]:
    """Every name for forgetting of one metric."""
    found = table.figures
    short = [points(f.estimate, sign=True) if f else "-" for f in found.values()]
    bwt, acc = found["bwt"], found["acc"]
    spread = span(bwt.lower, bwt.upper, sign=True) if bwt else "-"
    less = "less is better" if table.less_is_better else ""
    return (f"{table.family} {table.metric}", less, points(acc.estimate if acc else None), short[1], spread, *short[2:])


def show_self_test(out: Output, candidate: str | None, against: str | None) -> int:
    """How often the audit raises an alarm between copies that are alike."""
    from mmkd_core.cli.progress import watch
    from mmkd_core.integrate.measuring import run_self_test
    from mmkd_core.integrate.workspace import Workspace

    workspace = Workspace.open(out.root)
    with workspace.writing():
        found, new, old = run_self_test(workspace, candidate, against, watch())
    rate = found.false_alarms
    out.say(
        f"{found.rounds} audits of two copies that each got the answers of {new.id} or {old.id} by a coin per patient"
    )
    out.table(("verdict", "audits"), sorted(found.verdicts.items()))
    out.say(
        f"false alarms: {points(rate.share)} % ({span(rate.lower, rate.upper)}), "
        f"promised {points(rate.nominal)} % at most"
    )
    out.say()
    rows = [(n, points(r.share), span(r.lower, r.upper), points(r.nominal)) for n, r in found.excluded.items()]
    out.table(("intervals that exclude zero", "%", "interval", "promised"), rows)
    out.say("the scatter of training is not in this: for that, train with another seed and use --against")
    out.say(f"self-test: {'PASS' if found.passed else 'FAIL'} (gate {found.gate})")
    path = workspace.audits / f"self-test-{new.id}-{old.id}.json"
    out.finish(found.to_json(), wrote=[path], next=out.following())
    return 0 if found.passed else 1


def _show(out: Output, audit: "ForgettingAudit", old: str, new: str) -> None:
    """What gates as a table, what is reported as a line for each metric."""
    _table(out, [row for row in audit.comparisons if row.gates], old, new)
    _reported(out, audit.comparisons)
    gained = sum(len(flips.positive) for flips in audit.flips.values())
    lost = sum(len(flips.negative) for flips in audit.flips.values())
    out.say(f"first choices that turned right: {gained}, that turned wrong: {lost}")
    _say_verdict(out, audit.verdict.value, audit.gate.hash, audit.undefined)
    for row in audit.open:
        more = f"{row.needed:,} more samples would decide" if row.needed else "no number of samples would decide"
        why = "lost more than the margin" if row.verdict.value == "FAIL" else more
        out.say(f"  {row.verdict.value}: {row.family} {row.metric} {row.part}: {why}")


def _say_verdict(out: Output, verdict: str, gate: str, undefined: "Sequence[Undefined]") -> None:
    """The verdict, what these data cannot decide, and what could be compared and was not, with the way out."""
    from mmkd_core.audit.comparison import undecidable

    for row in undefined:
        if not row.verdict:
            out.say(f"not compared: {' '.join(row.key)}: {row.reason}")
    beyond = ", ".join(" ".join(row.key) for row in undecidable(undefined))
    out.say(f"verdict: {verdict} (gate {gate})" + (f"; these data cannot decide {beyond}" if beyond else ""))
    for row in undefined:
        if row.verdict:
            out.say(f"  {row.verdict.value}: {' '.join(row.key)} could not be compared: {row.reason}. {row.next}")


def _reported(out: Output, comparisons: "tuple[Comparison, ...]") -> None:
    """A line for each metric that has no part in the verdict."""
    told = [row for row in comparisons if not row.gates]
    for family, metric in dict.fromkeys((row.family, row.metric) for row in told):
        rows = [row for row in told if (row.family, row.metric) == (family, metric)]
        worst = min(rows, key=lambda row: row.delta)
        passed = sum(row.verdict.value == "PASS" for row in rows)
        out.say(
            f"reported: {family} {metric}: {passed} of {len(rows)} shown to keep within {points(worst.margin)} points, "
            f"worst {worst.part} {points(worst.delta, sign=True)}"
        )


def _table(out: Output, rows: "list[Comparison]", old: str, new: str) -> None:
    columns = ("family", "of", old, new, "change", "interval", "margin", "samples", "patients", "verdict", "needed")
    out.table(columns, [_cells(row) for row in rows])


def _cells(c: "Comparison") -> tuple[object, ...]:
    change = points(c.delta, sign=True), span(c.lower, c.upper, sign=True), points(c.margin)
    figures = points(c.before), points(c.after), *change, c.n, c.groups
    return f"{c.family} {c.metric}", c.part, *figures, c.verdict.value, c.needed
