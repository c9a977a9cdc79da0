"""``mmkd extract`` killed again and again: what was committed stays, the next run goes on, the end is the same.

Each turn runs the command in a process of its own and sends SIGKILL at a random moment: one in eight while it starts,
the others a few milliseconds after a random number of features was stored, none at all included. Those others are
forked from a server that has imported what the command imports, which takes most of the time of a command that is
killed so early; the end, and the turns that are killed at their start, are the command as users start it. The features
of the two teachers of this page depend on what else is in their batch, so the end is the same bit for bit only if every
run asks for the same batches.

``tests/e2e/test_killed_extract.py`` runs the same loop with fewer kills.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from feature_store import FeatureStore, StoreError, StoreInfo
from mmkd_core.data.manifest import Corpus, image_id
from mmkd_core.integrate.workspace import Config, Workspace

Figure = dict[str, object]
Arrays = dict[tuple[str, str], np.ndarray]
"""By table and tower."""
KILLS = 200
IMAGES = 1536
"""Six batches of images and three of texts for each teacher: eighteen commits a run."""
REST = "0.03"
"""Seconds that a teacher takes for a batch at least."""
TEACHERS = '''"""Two teachers whose answers depend on what else is in the batch."""

import os
import time

import torch

from mmkd_core.contract import ImageSpec, LicenseInfo, TeacherSpec, TextSpec, WeightSource, hookimpl
from mmkd_core.plugins.loaders.preprocess import preprocess


class Teacher:
    def __init__(self, spec):
        self.spec = spec
        self.rest = float(os.environ.get("MMKD_FAULTS_REST", "0"))

    def preprocess(self, image):
        return preprocess(image, self.spec.image)

    def tokenize(self, texts):
        return torch.tensor([[len(text), sum(text.encode()) % 97] for text in texts])

    def encode_image(self, images):
        time.sleep(self.rest)
        return images.flatten(1)[:, :4] + self.mixed(images)

    def encode_text(self, tokens):
        time.sleep(self.rest)
        return tokens.float() @ torch.ones(2, 4) / 100 + self.mixed(tokens.float())

    def mixed(self, batch):
        return batch.mean() if len(batch) > 8 else 0.0  # a smoke check asks for few, and twice


def spec(name):
    return TeacherSpec(
        name=name, title=name, summary="for kills", family="faults", arch={"name": name}, embed_dim=4, logit_scale=10,
        weights=(WeightSource(role="model", kind="package", location="mmkd_faults:weights", files={"w": "DIGEST"}),),
        image=ImageSpec(size=4, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)), domains=("ct",),
        text=TextSpec(tokenizer="hf", context_length=8),
        license=LicenseInfo(code="MIT", weights="MIT", commercial_use=True),
    )


@hookimpl
def mmkd_teachers():
    return [spec("pair-left"), spec("pair-right")]


@hookimpl
def mmkd_load_teacher(spec, weights, device):
    if spec.family != "faults":
        return None
    if mark := os.environ.get("MMKD_FAULTS_MARK"):
        with open(mark, "w") as file:
            file.write(str(os.getpid()))
    return Teacher(spec)
'''


@dataclass(frozen=True)
class Kills:
    """What happened.

    Args:
        kills: that hit a running command.
        midway: of these, after which the store held a part of the features.
        finished: stores that were filled, and begun again, on the way.
    """

    kills: int
    midway: int
    finished: int


class Forked:
    """A command in a process that multiprocessing's server forks; what a ``Popen`` can do, as far as it is needed here.

    Args:
        site: folder of the plugin.
        environ: added to the environment.
    """

    def __init__(self, arguments: list[str], site: Path, environ: dict[str, str]) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["mmkd_core.integrate.extracting", "mmkd_core.cli.train", "torch"])
        self._said = site.with_name("said")
        self._process = context.Process(target=_command, args=(arguments, str(site), environ, str(self._said)))
        self._process.start()
        assert self._process.pid
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """As of ``poll``."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Its exit code; minus the number of the signal that ended it."""
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """Unless it has ended."""
        if self._process.exitcode is None:
            os.kill(self.pid, number)

    def communicate(self) -> tuple[str, str]:
        """Wait for its end; all that it said is in the second text."""
        self._process.join()
        return "", self._said.read_text() if self._said.exists() else ""


Running = subprocess.Popen[str] | Forked


def _command(arguments: list[str], site: str, environ: dict[str, str], said: str) -> None:
    """``mmkd`` with these arguments, in this process."""
    os.environ.update(environ)
    sys.path.insert(0, site)
    sys.argv = ["mmkd", *arguments]
    with open(said, "w") as out:
        for stream in (1, 2):
            os.dup2(out.fileno(), stream)
    from mmkd_core.cli import main

    main()


@dataclass(frozen=True)
class Place:
    """A workspace with two teachers in use and nothing extracted, and how to run commands in it."""

    root: Path
    site: Path

    @classmethod
    def make(cls, folder: Path) -> Place:
        """In an empty folder."""
        place = cls(folder / "ws", _plugin(folder / "site"))
        _corpus(folder / "images").save(Workspace.create(place.root, Config(name="killed")).root / "data")
        place.run("teachers", "add", "pair")
        return place

    def copy(self, name: str) -> Place:
        """The same workspace beside it."""
        return replace(self, root=Path(shutil.copytree(self.root, self.root.with_name(name))))

    @property
    def store(self) -> Path:
        """Folder of its features."""
        return self.root / ".mmkd" / "features"

    def start(self, *arguments: str, **environ: str) -> subprocess.Popen[str]:
        """Begin a command; ``environ`` is added to its environment."""
        paths = [str(self.site), *(entry for entry in sys.path if entry)]
        return subprocess.Popen(
            [sys.executable, "-m", "mmkd_core", *arguments, "-w", str(self.root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **self.environ, **environ},
        )

    def fork(self, *arguments: str) -> Forked:
        """The same from a process that has imported everything."""
        return Forked([*arguments, "-w", str(self.root)], self.site, self.environ)

    @property
    def environ(self) -> dict[str, str]:
        """Beside what there is."""
        return {"MMKD_FAULTS_REST": REST, "MMKD_FAULTS_MARK": str(self.mark), "OMP_NUM_THREADS": "1"}

    def run(self, *arguments: str) -> str:
        """A command that must succeed; returns what it says."""
        process = self.start(*arguments)
        out, err = process.communicate()
        assert process.returncode == 0, out + err
        return out

    @property
    def mark(self) -> Path:
        """File with the id of the process that loads a teacher."""
        return self.root / "loading"

    def begun(self, process: Running) -> bool:
        """Wait until the process loads a teacher, which is where its work begins; False if it ended before."""
        while process.poll() is None:
            if self.mark.exists() and self.mark.read_text() == str(process.pid):
                return True
            time.sleep(0.002)
        return False

    def features(self) -> tuple[Arrays, StoreInfo]:
        """All features in the order of their rows, with what the store says of itself."""
        with FeatureStore.open(self.store) as store:
            info = store.info()
            found = {(t.table, t.tower): store.gather(t.table, t.tower, range(t.rows)) for t in info.tables}
        return found, replace(info, file_bytes=0)

    def rows(self) -> Arrays:
        """Rows that a reader sees now; none where there is no store yet."""
        try:
            with FeatureStore.open(self.store) as store:
                return {(t.table, t.tower): store.present(t.table, t.tower) for t in store.tables()}
        except StoreError as problem:
            if problem.what in ("there is no feature store", "this is not a feature store"):  # killed while it was made
                return {}
            raise

    def count(self) -> int:
        """How many features a reader sees now."""
        return sum(map(len, self.rows().values()))

    def wait_for(self, count: int, process: Running) -> None:
        """Until that many features are stored, or the process has ended."""
        while process.poll() is None and self.count() < count:
            time.sleep(0.005)


def kill_extract(folder: Path, kills: int, seed: int = 0) -> Kills:
    """Kill ``mmkd extract`` that often, and look after each kill at all that the store holds.

    Raises:
        AssertionError: something that was committed is gone or wrong, or the end differs from an undisturbed run's.
    """
    moment = random.Random(seed)
    place = Place.make(folder)
    calm = place.copy("undisturbed")
    start, undisturbed = time.perf_counter(), calm.start("extract")
    calm.begun(undisturbed)
    seconds = time.perf_counter() - start
    undisturbed.communicate()
    expected, told = calm.features()
    total = sum(map(len, expected.values()))
    hit = midway = finished = 0
    process: Running
    while hit < kills:
        if moment.random() < 1 / 8:
            process = place.start("extract")
            time.sleep(moment.random() * seconds)
        elif place.begun(process := place.fork("extract")):
            place.wait_for(moment.randrange(place.count(), total), process)
            time.sleep(moment.random() * 2 * float(REST))
        before = place.rows()  # what another process sees is committed
        process.send_signal(signal.SIGKILL)
        _, err = process.communicate()
        if process.returncode != 0:
            assert process.returncode == -signal.SIGKILL, err
            hit += 1
            midway += 0 < _sound(place, before, expected) < total
        if place.count() == total:
            finished += 1
            shutil.rmtree(place.store)
        if process.returncode != 0 and hit % 10 == 0:
            print(f"{hit} of {kills} kills, {midway} midway", file=sys.stderr, flush=True)
    assert "new images" in place.run("extract")
    found, said = place.features()
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[key], features) for key, features in expected.items())
    assert said == told
    assert "sound" in place.run("store", "verify")
    return Kills(hit, midway, finished)


def _sound(place: Place, before: Arrays, expected: Arrays) -> int:
    """Check all that is there; returns how many features that are."""
    after = place.rows()
    assert all(np.isin(rows, after[key]).all() for key, rows in before.items())
    if not after:
        return 0
    with FeatureStore.open(place.store) as store:
        assert store.verify() == []
        for key, rows in after.items():
            assert np.array_equal(store.gather(*key, rows), expected[key][rows])
    return sum(map(len, after.values()))


def _plugin(site: Path) -> Path:
    weights, info = b"none", site / "mmkd_faults-1.0.dist-info"
    for folder in (site / "mmkd_faults" / "weights", info):
        folder.mkdir(parents=True)
    (site / "mmkd_faults" / "__init__.py").write_text(TEACHERS.replace("DIGEST", hashlib.sha256(weights).hexdigest()))
    (site / "mmkd_faults" / "weights" / "w").write_bytes(weights)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mmkd-faults\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[mmkd.v1]\npair = mmkd_faults\n")
    return site


def _corpus(folder: Path) -> Corpus:
    folder.mkdir()
    rows = []
    for i in range(IMAGES):
        picture = Image.new("RGB", (4, 4), (i % 256, i // 256, 0))
        picture.save(folder / f"{i}.png", compress_level=0)
        facts = {"image": f"{i}.png", "image_id": image_id(picture), "caption": f"image {i}", "domain": "ct"}
        rows.append({**facts, "group_id": str(i), "split": "train"})
    return Corpus.build(folder, rows, {})


def extract_kills() -> list[Figure]:
    """How many kills of the installed command lost nothing. One that loses something stops with an error."""
    with tempfile.TemporaryDirectory() as name:
        # From a process whose main module is none: each fork would import it, and with it all benchmarks.
        code = f"import faults, json, pathlib; done = faults.kill_extract(pathlib.Path({name!r}), {KILLS})"
        command = [sys.executable, "-c", f"{code}; print(json.dumps(vars(done)))"]
        told = subprocess.run(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, check=True)
        done = Kills(**json.loads(told.stdout))
    against = (
        f"SIGKILLs of mmkd extract after which all that was committed was there and right ({done.midway} midway, "
        f"{done.finished} runs came to their end), and the end equal to an undisturbed run's, bit for bit"
    )
    return [{"name": "extract-kills", "value": done.kills, "unit": "kills", "against": against, "spread": None}]


FIGURES: dict[str, Callable[[], list[Figure]]] = {"extract-kills": extract_kills}
