"""A hub cache in tmp_path with random models in the published layout, and a user who adds teachers from it.

Nothing here knows how a plugin loads: the files are written as their authors publish them, ``kit.teacher`` goes the way
of ``mmkd teachers add``, and the tests compare with open_clip or transformers reading the same cache.
"""

from __future__ import annotations

import gzip
import hashlib
import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from mmkd_core.contract import Teacher, TeacherSpec, WeightSource, golden_image, hookimpl
from mmkd_core.plugins import PluginHost, Registry, locked_spec, read_lock
from mmkd_core.plugins.lifecycle import Choices, add
from mmkd_core.testing import Subject, run_all

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789" * 4
TEXTS = (
    "a histopathology slide of colon adenocarcinoma",
    "  Chest X-ray:&nbsp;no   signs of PNEUMONIA, 2.5 cm ",
    "mri " * 300,
    "",
)
WORDS = '[PAD] [UNK] [CLS] [SEP] [MASK] a slide of colon chest x - ray : no signs mri , 2 . 5 cm ##s path ##ology "'

for _source in (*sorted(ROOT.glob("plugins/*/src")), Path(__file__).parent):
    sys.path.append(str(_source))


class Kit:
    """A user with an empty hub cache and an empty lock."""

    def __init__(self, tmp_path: Path) -> None:
        self.hub = tmp_path / "hf" / "hub"
        self.lock = tmp_path / "project" / "mmkd.lock"
        self.said: list[str] = []
        self.choices = Choices(accept_license=True, agree=lambda _: True)
        self._scratch = tmp_path / "scratch"

    def publish(self, source: WeightSource, write: Callable[[Path], object]) -> Path:
        """Let ``write`` fill a folder and put it where the hub's client would: blobs, links, one ref."""
        scratch = self._scratch / source.location.replace("/", "--") / source.role
        scratch.mkdir(parents=True)
        write(scratch)
        kind = "datasets" if source.kind == "hf-dataset" else "models"
        repository = self.hub / f"{kind}--{source.location.replace('/', '--')}"
        commit = source.revision or COMMIT
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for name in ("blobs", "refs"):
            (repository / name).mkdir()
        (repository / "refs" / "main").write_text(commit)
        for file in sorted(scratch.iterdir()):
            with open(file, "rb") as opened:
                blob = repository / "blobs" / hashlib.file_digest(opened, "sha256").hexdigest()
            file.rename(blob)
            (snapshot / file.name).symlink_to(Path("../..") / "blobs" / blob.name)
        return snapshot

    def teacher(self, module: ModuleType, spec: TeacherSpec) -> Teacher:
        """Add, verify, lock and load the teacher of a plugin that declares ``spec`` instead of its own.

        Every conformance check that `mmkd teachers check NAME --full` runs must pass or have nothing to check.
        """
        self.host = PluginHost.offering({spec.name: _declaring(module, spec)})
        registry = Registry(schema_version=1)
        add(spec.name, self.lock, registry=registry, host=self.host, choices=self.choices, progress=self)
        locked = locked_spec(read_lock(self.lock), self.host.teacher(spec.name))
        subject = Subject(locked, lambda: self.host.load(locked))
        found = {outcome.name: outcome for outcome in run_all(subject, "full")}
        assert [(o.name, o.reason) for o in found.values() if o.status == "failed"] == []
        assert {"spec", "load", "shape", "text-sensitivity", "files"} <= {
            name for name, outcome in found.items() if outcome.status == "passed"
        }
        return subject.teacher

    def say(self, line: str) -> None:
        self.said.append(line)

    def task(self, *_: object) -> None:
        raise AssertionError("adding a teacher has no progress bar")


def _declaring(module: ModuleType, spec: TeacherSpec) -> object:
    """The plugin with another declaration; its loader, if it has one, is its own."""

    class Plugin:
        @hookimpl
        def mmkd_teachers(self) -> list[TeacherSpec]:
            return [spec]

    if hasattr(module, "mmkd_load_teacher"):

        @hookimpl
        def mmkd_load_teacher(self: object, spec: TeacherSpec, weights: Any, device: str) -> Teacher | None:
            return module.mmkd_load_teacher(spec=spec, weights=weights, device=device)

        Plugin.mmkd_load_teacher = mmkd_load_teacher
    return Plugin()


@pytest.fixture
def kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kit:
    kit = Kit(tmp_path)
    monkeypatch.setenv("HF_HOME", str(kit.hub.parent))  # for fresh interpreters; this one has read it already
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(kit.hub))
    monkeypatch.setenv("MMKD_CACHE", str(tmp_path / "cache"))
    return kit


@pytest.fixture
def plugin() -> Callable[[str], ModuleType]:
    """Call with a teacher's name: the module of its first-party plugin."""
    return lambda name: importlib.import_module(f"mmkd_{name.replace('-', '_')}")


@pytest.fixture
def open_hashes() -> Callable[[TeacherSpec], TeacherSpec]:
    """Call with a spec: the same without sha256, because random weights cannot have those of the published ones."""

    def opened(spec: TeacherSpec) -> TeacherSpec:
        weights = [source.model_copy(update={"files": dict.fromkeys(source.files)}) for source in spec.weights]
        return spec.model_copy(update={"weights": tuple(weights)})

    return opened


@pytest.fixture
def images() -> list[Image.Image]:
    """Wide, tall, small, gray, with an alpha channel."""
    wide = golden_image(5)
    return [wide, wide.rotate(90, expand=True), wide.resize((37, 51)), wide.convert("L"), wide.convert("RGBA")]


@pytest.fixture
def assert_same() -> Callable[..., None]:
    """Compare a teacher with what the upstream library gave for the same images and texts."""

    def compare(
        teacher: Teacher, images: list[Image.Image], pixels: list[Tensor], tokens: Tensor, image: Any, text: Any
    ) -> None:
        for picture, expected in zip(images, pixels, strict=True):
            assert torch.equal(teacher.preprocess(picture), expected), f"pixels of a {picture.mode} {picture.size}"
        assert torch.equal(teacher.tokenize(TEXTS), tokens)
        batch = torch.stack(pixels)
        with torch.no_grad():
            expected_image, expected_text = image(batch), text(tokens)
        torch.testing.assert_close(teacher.encode_image(batch), expected_image, atol=1e-5, rtol=0)
        torch.testing.assert_close(teacher.encode_text(tokens), expected_text, atol=1e-5, rtol=0)
        assert expected_image.shape == (len(images), teacher.spec.embed_dim)
        assert expected_text.std(dim=0).max() > 1e-3, "all texts have the same embedding"
        assert expected_image.std(dim=0).max() > 1e-3, "all images have the same embedding"

    return compare


@pytest.fixture
def write_bert() -> Callable[..., Callable[[Path], None]]:
    """Call with sizes: writes what BiomedBERT's and Bio_ClinicalBERT's repositories hold, and no tokenizer.json."""

    def writer(tokenizer_config: bool = True, **sizes: int) -> Callable[[Path], None]:
        def write(folder: Path) -> None:
            config = {"architectures": ["BertForMaskedLM"], "model_type": "bert", "hidden_act": "gelu", **sizes}
            (folder / "config.json").write_text(json.dumps(config))
            (folder / "vocab.txt").write_text("\n".join(WORDS.split()) + "\n")
            if tokenizer_config:
                (folder / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))

        return write

    return writer


@pytest.fixture(scope="session")
def clip_vocabulary() -> tuple[dict[str, int], list[str]]:
    """CLIP's own vocabulary and merges as its repositories on the hub hold them, from the copy inside open_clip."""
    import open_clip.tokenizer

    file = Path(open_clip.tokenizer.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    with gzip.open(file) as opened:
        merges = opened.read().decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}  # open_clip's own to OpenAI's
    encoder = open_clip.tokenizer.SimpleTokenizer().encoder
    return {names.get(token, token): number for token, number in encoder.items()}, merges


@pytest.fixture
def write_clip_tokenizer(clip_vocabulary: tuple[dict[str, int], list[str]]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        vocabulary, merges = clip_vocabulary
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        end = "<|endoftext|>"
        special = {"bos_token": "<|startoftext|>", "eos_token": end, "unk_token": end, "pad_token": end}
        (folder / "special_tokens_map.json").write_text(json.dumps(special))
        settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    return write
