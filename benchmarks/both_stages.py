"""Both stages on 24 samples, for measurements and tests of the training loop.

``python benchmarks/both_stages.py FOLDER ACCUMULATE`` is one process of a run (torchrun sets RANK and WORLD_SIZE); it
writes ``FOLDER/result-RANK.json``. With ``--die`` all but the leader are killed in the middle.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from feature_store import FeatureStore
from mmkd_core.data.manifest import Corpus
from mmkd_core.data.prompts_file import Prompts
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.config import BankConfig, DistillConfig
from mmkd_core.distill.objective import Samples
from mmkd_core.distill.run import distill
from mmkd_core.distill.sources import Source
from mmkd_core.student import parallel, training
from mmkd_core.student.batches import Epochs
from mmkd_core.student.config import PretrainConfig, StudentConfig, TextConfig
from mmkd_core.student.model import Student
from mmkd_core.student.pretrain import pretrain
from mmkd_core.student.step import backward

N, STEPS = 24, 5
PROMPTS: Prompts = {
    "ct": {"normal": ("normal ct",), "lesion": ("ct with a lesion",)},
    "xray": {"normal": ("a clear chest",)},
}
TEXT = TextConfig(vocab_size=128, context_length=8, width=32, heads=2, layers=1)
CONFIG: dict[str, Any] = {"steps": STEPS, "batch_size": 11, "warmup": 2, "lr": 3e-3, "precision": "fp32", "crop": 0.8}


def corpus() -> Corpus:
    rows = [
        {
            "image": f"{i}.png",
            "image_id": f"{i:032x}",
            "caption": f"{('ct', 'xray')[i % 2]} number {i // 3}",
            "domain": ("ct", "xray")[i % 2],
            "label": None,
            "group_id": f"patient {i}",
            "split": "train",
        }
        for i in range(N)
    ]
    return Corpus.build(Path("nowhere"), rows, PROMPTS)


def write_store(folder: Path) -> None:
    """Features of two teachers of different dimensions."""
    rng = np.random.default_rng(5)
    with FeatureStore.open(folder, "w") as store:
        for tower in ("image", "text"):
            rows = store.add_ids(tower, [f"{i}" for i in range(N)])
            for table, dim in (("a" * 32, 6), ("b" * 32, 4)):
                store.put(table, tower, rows, rng.normal(size=(N, dim)).astype(np.float32), dtype="float32")


def sources(store: FeatureStore, bank: Bank) -> list[Source]:
    rng, made = np.random.default_rng(6), []
    for name, dim, taught in (("a", 6, range(0, N, 2)), ("b", 4, range(5, N))):
        texts = {
            domain: torch.nn.functional.normalize(torch.from_numpy(rng.normal(size=(len(row), dim))).float(), dim=-1)
            for domain, row in bank.texts.items()
        }
        mask = np.isin(np.arange(N), list(taught))
        made.append(Source(name, store, name * 32, np.arange(N), np.arange(N), texts, 10.0, mask))
    return made


def build(vision: str, seed: int = 0) -> Student:
    shape = StudentConfig(vision=vision, image_size=32, embed_dim=16, text=TEXT)
    return Student.build(shape, map(str, corpus().caption), seed)


def run(folder: Path, store: Path, accumulate: int = 1, vision: str = "vit-tiny", steps: int = STEPS) -> dict[str, Any]:
    """Train both stages; return their logs, sums of the weights, and a hash of every bit of students and heads."""
    training.LOG_EVERY = 1
    digest = hashlib.sha256()
    data = corpus()
    pixels = np.random.default_rng(0).integers(0, 256, (N, 32, 32, 3), dtype=np.uint8)
    student = build(vision)
    one = PretrainConfig(**{**CONFIG, "steps": steps}, accumulate=accumulate)
    domains, captions = np.array(data.domain, object), [str(text) for text in data.caption]
    logs = [
        pretrain(student, pixels, captions, domains, np.arange(N), one, folder / "one", seed=1, identity="one"),
    ]
    _take(digest, student.model)
    # From the same weights and slowly: heads start where their regression has no gradient left, and Adam makes steps of
    # full length of what rounding leaves there.
    student = build(vision, seed=2)
    bank = Bank.build(data, BankConfig(captions=2), seed=0)
    samples = Samples.of(student, pixels, data, bank)
    two = DistillConfig(
        **{**CONFIG, "lr": 2e-4, "steps": steps}, accumulate=accumulate, bank=BankConfig(per_step=2), weights={}
    )
    with FeatureStore.open(store) as opened:
        batches = partial(Epochs(np.arange(N), 0).batch, size=11)
        facts: dict[str, Any] = {"seed": 1, "identity": "two", "label": "stage 2"}
        taught = distill(student, sources(opened, bank), samples, bank, batches, two, folder / "two", **facts)
    logs.append(taught.log)
    weights = torch.cat([p.detach().flatten() for p in student.model.parameters()]).double()
    for module in (student.model, *taught.heads.values()):
        _take(digest, module)
    sums = [weights.sum().item(), weights.square().sum().item()]
    return {"logs": logs, "weights": sums, "digest": digest.hexdigest()}


def _take(digest: Any, module: torch.nn.Module) -> None:
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())


def die_at(step: int) -> None:
    """Let this process be killed when it is asked for the batch of ``step``."""

    def mortal(objective: Any, number: int, **options: Any) -> Any:
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return backward(objective, number, **options)

    mock.patch.object(training, "backward", mortal).start()


if __name__ == "__main__":
    torch.set_num_threads(1)
    parallel.start()
    out = Path(sys.argv[1])
    if "--die" in sys.argv and not parallel.leads():
        die_at(3)
    result = run(out, out / "store", int(sys.argv[2]))
    result |= {"files": sorted(p.name for p in out.rglob("*") if p.is_file()), "rank": parallel.rank()}
    (out / f"result-{parallel.rank()}.json").write_text(json.dumps(result))
