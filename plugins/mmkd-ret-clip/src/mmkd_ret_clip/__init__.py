"""RET-CLIP: a ViT-B/16 and a Chinese RoBERTa for fundus photographs, trained on both eyes of a patient at once.

It gives three vectors of a pair of eyes and three of a report: of the patient, of the left and of the right eye. A
sample here is one photograph of an unknown eye. Its embedding is the left eye's vector and the right eye's, one after
the other, and so is a text's: the cosine of two such embeddings is the mean of both eyes' cosines. The patient's vector
needs both photographs and is left out. Texts are Chinese: in small letters and with straight quotation marks, as in all
three places where its own code reads one (training/data.py, eval/data.py, eval/zeroshot_evaluation.py).
"""

from collections.abc import Mapping
from pathlib import Path

from mmkd_core import contract as mmkd

CHECKPOINT = "ret_clip_vit_b_16.pt"

HOME = "https://github.com/sStonemason/RET-CLIP"
SPEC = mmkd.TeacherSpec(
    name="ret-clip",
    title="RET-CLIP ViT-B/16",
    summary="ViT-B/16 and Chinese RoBERTa on fundus photographs of both eyes with Chinese reports",
    family="ret-clip",
    arch={"patch_size": 16, "width": 768, "layers": 12, "heads": 12},
    weights=(
        mmkd.WeightSource(
            role="model",
            kind="manual",
            location="https://drive.google.com/file/d/1lYrAg5qzFbNghEW-3UB36v9WL-mo5eN9/view",
            files={CHECKPOINT: None},
        ),
        mmkd.hub("hfl/chinese-roberta-wwm-ext", "config.json", "vocab.txt", role="text_tower", tokenizer=True),
    ),
    image=mmkd.ImageSpec(size=224, resize="squash", mean=mmkd.CLIP_MEAN, std=mmkd.CLIP_STD),
    # Of its published training script, RET-CLIP_example.sh; 52 is the default of Chinese-CLIP, from which it is a fork.
    text=mmkd.TextSpec(tokenizer="hf", context_length=100),
    embed_dim=1024,  # 512 of the left eye, 512 of the right eye
    logit_scale=90.0,  # where it starts; the mean of both eyes' learnt ones is read when it is added
    domains=("fundus",),
    license=mmkd.LicenseInfo(
        code="LicenseRef-unknown", weights="LicenseRef-unknown", commercial_use=None, derivatives=None, url=HOME
    ),
    provenance=mmkd.Provenance(
        paper="Du et al. 2024, MICCAI, arXiv:2405.14137",
        homepage=HOME,
        training_data="private photographs of both eyes with Chinese diagnostic reports",
    ),
)


@mmkd.hookimpl
def mmkd_teachers() -> list[mmkd.TeacherSpec]:
    """Declare RET-CLIP."""
    return [SPEC]


@mmkd.hookimpl
def mmkd_load_teacher(spec: mmkd.TeacherSpec, weights: Mapping[str, Path], device: str) -> mmkd.Teacher | None:
    """Build it: neither open_clip nor transformers has these projections."""
    from mmkd_ret_clip.model import load

    return load(spec, weights, device)
