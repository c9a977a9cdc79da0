"""Write a teacher plugin, twice: by hand, and by export.

Shows: that the module beside this file is a whole plugin (its weights, a tiny random student, are made here), how the
host loads it, and what ``export_teacher``, the function behind ``mmkd export teacher``, writes by itself: spec,
golden values, source package and wheel. Everything lies in a temporary folder; nothing is installed.

    python examples/03_write_a_plugin/run.py
"""

import hashlib
import importlib
import json
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

import torch

from mmkd_core.contract import golden_image
from mmkd_core.plugins import PluginHost
from mmkd_core.student.config import StudentConfig, TextConfig
from mmkd_core.student.export import export_teacher
from mmkd_core.student.model import Student

HERE = Path(__file__).resolve().parent
PACKAGE = "mmkd_tiny_clip"
CAPTIONS = ["chest x-ray with no finding", "chest x-ray showing a nodule", "frontal radiograph, pleural effusion"]


def main() -> None:
    torch.set_num_threads(1)
    text = TextConfig(vocab_size=128, context_length=12, width=32, heads=2, layers=1)
    student = Student.build(StudentConfig(image_size=32, embed_dim=16, text=text), CAPTIONS, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        by_hand(student, Path(folder, "by-hand"))
        by_export(student, Path(folder, "by-export"))


def by_hand(student: Student, out: Path) -> None:
    """Put weights beside the module, and load it as the host loads any plugin."""
    shutil.copytree(HERE / PACKAGE, out / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    weights = out / PACKAGE / "weights"
    student.save(weights)
    hashes = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(weights.iterdir())}
    (out / PACKAGE / "sha256.json").write_text(json.dumps(hashes))
    sys.path.insert(0, str(out))  # stands for the installation
    host = PluginHost.offering({"tiny-clip": importlib.import_module(PACKAGE)})
    teacher = host.load(host.teacher("tiny-clip"))
    images = teacher.encode_image(teacher.preprocess(golden_image(0))[None])
    texts = teacher.encode_text(teacher.tokenize(CAPTIONS))
    print("by hand")
    print(f"  {teacher.spec.name}: image features {tuple(images.shape)}, text features {tuple(texts.shape)}")


def by_export(student: Student, out: Path) -> None:
    """Let mmkd write the plugin."""
    out.mkdir()
    facts = {"domains": ("xray",), "trust": {}, "training_data": "none: random weights"}
    spec, wheel = export_teacher(student, out, "tiny-export", **facts)
    print("by export")
    print(f"  {spec.name}: {spec.summary}")
    print(f"  fingerprint {spec.fingerprint}")
    print(
        f"  golden values {spec.golden is not None}, embedding of {spec.embed_dim}, logit scale {spec.logit_scale:.1f}"
    )
    print(f"  source {', '.join(sorted(path.name for path in (out / 'mmkd-tiny-export').iterdir()))}")
    print(f"  wheel {wheel.name}")
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            print(f"    {member.file_size:>9,}  {member.filename}")
        points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        print(f"  entry point {' '.join(archive.read(points).decode().split())}")
    print("  next: mmkd teachers add ./" + wheel.name)


if __name__ == "__main__":
    main()
