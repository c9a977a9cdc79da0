"""A step of stage 2, reads included: nine teachers beside one, and the default recipe beside a plain loop.

``step-teachers``      seconds of a step with nine teachers of every sample over those with one
``step-vs-published``  an epoch of a plain loop in the style of the published code over an epoch of steps with one
                       teacher, both in the precision of the machine and with the same fused optimiser. The loop keeps
                       one torch file per sample with all teachers' features and draws a random one of them; a
                       ``DataLoader`` opens, crops and tokenizes ahead of the step, with as many workers as make it
                       fastest here (none, one, or one per core); texts are padded to the full length, and the loss is
                       FD x 50 + ICL + CLIP with full logits. The step is of the default recipe: more losses (heads,
                       relation to a bank of texts), cached pixels and tokens, features from the store.

The student is the default one, the batch 128, all captions differ, features are random with 512 dimensions. What runs
in one process is timed by its thread alone, so that what other processes take away does not count; what has workers is
timed by the wall, and so is what it is compared with.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from store import worker_counts
from timing import Figure, interleaved, ratio
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from feature_store import FeatureStore
from mmkd_core.data.manifest import Corpus
from mmkd_core.data.prompts_file import Prompts
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.config import DistillConfig
from mmkd_core.distill.objective import Objective, Samples
from mmkd_core.distill.run import warm_head
from mmkd_core.distill.sources import Source
from mmkd_core.student.batches import Epochs
from mmkd_core.student.config import StudentConfig
from mmkd_core.student.model import Student, precision_dtype
from mmkd_core.student.step import backward
from mmkd_core.student.training import optimizer_for

N, DIM, DOMAINS, TEACHERS, ROUNDS, EPOCHS = 1024, 512, 8, 9, 9, 5
CONFIG = DistillConfig()
DTYPE = precision_dtype("auto")


class Data:
    """Images, captions and teachers' features, in both layouts."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        self.folder, self.corpus = folder, _corpus()
        self.pixels = rng.integers(0, 256, (N, 64, 64, 3), dtype=np.uint8)
        self.bank = Bank.build(self.corpus, CONFIG.bank, 0)
        bank = [text for texts in self.bank.texts.values() for text in texts]
        self.texts = [*map(str, self.corpus.caption), *bank]
        features = rng.normal(size=(TEACHERS, 2, N, DIM)).astype(np.float32)
        features /= np.linalg.norm(features, axis=-1, keepdims=True)
        self._store(features)
        self._files(features, StudentConfig().embed_dim)
        self.store = FeatureStore.open(folder / "store")

    def _store(self, features: np.ndarray) -> None:
        with FeatureStore.open(self.folder / "store", "w") as store:
            rows = {tower: store.add_ids(tower, [f"{i}" for i in range(N)]) for tower in ("image", "text")}
            for number, (image, text) in enumerate(features):
                store.put(f"{number:032x}", "image", rows["image"], image)
                store.put(f"{number:032x}", "text", rows["text"], text)

    def _files(self, features: np.ndarray, dim: int) -> None:
        """One folder per sample: its image, and all teachers' features as they are after alignment."""
        for i in range(N):
            sample = self.folder / "samples" / f"{i}"
            sample.mkdir(parents=True)
            Image.fromarray(self.pixels[i]).save(sample / "image.png")
            aligned = {
                f"teacher-{t}_{tower}": torch.from_numpy(features[t, side, i, :dim].copy())
                for t in range(TEACHERS)
                for side, tower in enumerate(("img", "txt"))
            }
            torch.save(aligned, sample / "clips_project_output.pt")

    def student(self) -> Student:
        """A new one, always the same."""
        return Student.build(StudentConfig(), self.texts, seed=0)

    def source(self, number: int) -> Source:
        """A teacher of every sample."""
        rng = np.random.default_rng([2, number])
        bank = {
            domain: F.normalize(torch.from_numpy(rng.normal(size=(len(texts), DIM))).float(), dim=-1)
            for domain, texts in self.bank.texts.items()
        }
        rows = np.arange(N)
        return Source(f"teacher-{number}", self.store, f"{number:032x}", rows, rows, bank, 20.0, np.ones(N, bool))


def _corpus() -> Corpus:
    domains = [f"domain {i % DOMAINS}" for i in range(N)]
    rows = [
        {
            "image": f"{i}.png",
            "image_id": f"{i:032x}",
            "caption": f"{domain}, a finding of kind {i % 17} at place {i % 31}, number {i}",
            "domain": domain,
            "label": None,
            "group_id": f"{i}",
            "split": "train",
        }
        for i, domain in enumerate(domains)
    ]
    prompts: Prompts = {
        d: {finding: (f"{d}, finding {finding}",) for finding in ("none", "one")} for d in sorted(set(domains))
    }
    return Corpus.build(Path("nowhere"), rows, prompts)


def ours(data: Data, teachers: int) -> Callable[[int], None]:
    """A step of the default recipe, as ``training.fit`` takes it."""
    student = data.student()
    sources = [data.source(i) for i in range(teachers)]
    samples = Samples.of(student, data.pixels, data.corpus, data.bank)
    heads = {source.name: warm_head(student, source, samples)[0] for source in sources}
    batches = partial(Epochs(np.arange(N), 0).batch, size=CONFIG.batch_size)
    objective = Objective(student, heads, sources, samples, data.bank, batches, CONFIG, 0)
    modules = nn.ModuleList([student.model, *heads.values()]).train()
    optimizer = optimizer_for(modules, CONFIG)

    def step(number: int) -> None:
        optimizer.zero_grad(set_to_none=True)
        backward(objective, number, dtype=DTYPE)
        nn.utils.clip_grad_norm_(modules.parameters(), CONFIG.clip_norm)
        optimizer.step()

    return step


class Published(Dataset[tuple[torch.Tensor, ...]]):
    """Samples as the published code reads them: each from its folder when its turn comes, one teacher drawn of it."""

    def __init__(self, data: Data, student: Student) -> None:
        self.folder, self.texts, self.tokenize = data.folder / "samples", data.texts, student.tokenize
        crop = transforms.RandomResizedCrop(
            student.pixels, scale=(0.9, 1.0), interpolation=transforms.InterpolationMode.BICUBIC
        )
        normalize = transforms.Normalize(student.preprocess["mean"], student.preprocess["std"])
        self.view = transforms.Compose([crop, transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> tuple[torch.Tensor, ...]:
        sample = self.folder / f"{row}"
        image = self.view(Image.open(sample / "image.png").convert("RGB"))
        features = torch.load(sample / "clips_project_output.pt", weights_only=True)
        teacher = random.choice([f"teacher-{t}" for t in range(TEACHERS)])
        return image, self.tokenize([self.texts[row]])[0], features[f"{teacher}_img"], features[f"{teacher}_txt"]


def published(data: Data, workers: int) -> Callable[[int], None]:
    """An epoch of a plain loop: a ``DataLoader`` reads, all logits are made."""
    student = data.student()
    model = student.model.train()
    cross = nn.Parameter(torch.tensor(float(np.log(1 / 0.07))))
    optimizer = optimizer_for(nn.ModuleList([model, nn.ParameterList([cross])]), CONFIG)
    loader = DataLoader(
        Published(data, student), CONFIG.batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )

    def epoch(_: int) -> None:
        for image, tokens, t_image, t_text in loader:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", DTYPE, enabled=torch.float32 != DTYPE):
                s_image, s_text = F.normalize(model.visual(image), dim=-1), F.normalize(model.text(tokens), dim=-1)
                target = torch.arange(len(image))
                logits = model.logit_scale.exp() * s_image @ s_text.T
                task = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
                fd = F.mse_loss(s_image, t_image) + F.mse_loss(s_text, t_text)
                by_image, by_text = cross * s_image @ t_text.T, cross * s_text @ t_image.T
                icl = (F.cross_entropy(by_image, target) + F.cross_entropy(by_text, target)) / 2
                loss = task + 50 * fd + icl
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    return epoch


@contextmanager
def one_thread() -> Iterator[Data]:
    """The data, and a single thread for torch."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as folder:
            data = Data(Path(folder))
            yield data
            data.store.close()
    finally:
        torch.set_num_threads(threads)


def teachers() -> list[Figure]:
    """The default recipe with nine teachers and with one."""
    with one_thread() as data:
        ways = {"one": ours(data, 1), "nine": ours(data, TEACHERS)}
        seconds = interleaved(ways, lambda turn: turn, ROUNDS, clock=time.thread_time)
    return [ratio("step-teachers", seconds["nine"], seconds["one"], "a step with one teacher (seconds)")]


def against_published() -> list[Figure]:
    """The plain loop and the default recipe with one teacher, an epoch at a time."""
    with one_thread() as data:
        step, steps = ours(data, 1), N // CONFIG.batch_size

        def epoch(turn: int) -> None:
            for number in range(turn * steps, (turn + 1) * steps):
                step(number)

        loops = {f"{n} workers": published(data, n) for n in worker_counts()}
        seconds = interleaved({"ours": epoch, **loops}, lambda turn: turn, EPOCHS, warm=1)
    best = min(loops, key=lambda name: float(np.median(seconds[name])))
    against = f"ours; seconds of an epoch of a plain loop, its DataLoader with {best}"
    return [ratio("step-vs-published", seconds[best], seconds["ours"], against)]


FIGURES = {"step-teachers": teachers, "step-vs-published": against_published}
