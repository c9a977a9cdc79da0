"""Teachers for real images when no published one can be had: one specialist per group of domains.

What `mmkd pretrain --domains ... --captions labels` and `mmkd export teacher` do by hand.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from mmkd_core.data.manifest import Corpus
from mmkd_core.errors import DataError
from mmkd_core.integrate.student_data import measured_claims, run_pretrain
from mmkd_core.integrate.workspace import Workspace, read_json, write_json
from mmkd_core.progress import Progress
from mmkd_core.student.export import export_teacher
from mmkd_core.student.model import Student

SPECIALISTS = 4


def make_specialists(workspace: Workspace, progress: Progress) -> dict[str, str]:
    """Train and export one specialist per group; return name to wheel, the newcomer last."""
    corpus = workspace.corpus()
    wheels = {}
    for domains in groups(corpus):
        name = "-".join([workspace.config.name, *domains])
        wheels[name] = str(make_specialist(workspace, name, domains, progress))
    return wheels


def groups(corpus: Corpus) -> list[tuple[str, ...]]:
    """Split the domains over at most four specialists.

    The domain with most training images makes the last one, which is integrated later: there a gain can be measured
    with the narrowest interval. The others are neighbours in the alphabet.

    Raises:
        DataError: fewer than two domains, so that nobody could be added later, or a domain without labels.
    """
    domains = corpus.domains
    if bare := [domain for domain in domains if not corpus.classes(domain)]:
        raise DataError(
            f"teachers of your own would learn labels, and {', '.join(bare)} has none",
            next="Captions are enough for a published teacher: `mmkd init`, `mmkd data import`, `mmkd integrate NAME`",
        )
    if len(domains) < 2:
        raise DataError(
            f"the data has {len(domains)} domain, two are needed to add a teacher later",
            next="Give data of several domains, or take a published teacher: `mmkd integrate NAME`",
        )
    newcomer = max(domains, key=lambda domain: (len(corpus.where(split="train", domains=[domain])), domain))
    rest = [domain for domain in domains if domain != newcomer]
    count = min(SPECIALISTS - 1, len(rest))
    cuts = [round(i * len(rest) / count) for i in range(count + 1)]
    return [*(tuple(rest[a:b]) for a, b in pairwise(cuts)), (newcomer,)]


def make_specialist(workspace: Workspace, name: str, domains: tuple[str, ...], progress: Progress) -> Path:
    """Train and export the specialist ``name`` for some domains of the workspace's corpus; return its wheel."""
    out = workspace.state / "specialists" / name
    config = workspace.config.pretrain.model_copy(
        update={"domains": domains, "captions": "labels", **workspace.config.specialist.model_dump()}
    )
    folder, run = run_pretrain(workspace, config, out / "student", progress)
    made = read_json(out / "wheel.json")
    if made and made["identity"] == run["identity"] and Path(made["wheel"]).exists():
        return Path(made["wheel"])
    student = Student.load(folder)
    claims = measured_claims(workspace, student, domains)
    made_from = {"training_data": run["data"], "images": tuple(run.get("images", ()))}
    _, wheel = export_teacher(student, out, name, domains=domains, trust=claims, **made_from)
    write_json(out / "wheel.json", {"identity": run["identity"], "wheel": str(wheel.absolute())})
    return wheel.absolute()
