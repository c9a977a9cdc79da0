"""Domain and class names of the MedMNIST sets, in the order of their integer labels.

After ``medmnist.INFO`` (MedMNIST v2, Yang et al., Scientific Data 2023), worded to stand in a sentence.
"""

from __future__ import annotations

_ORGANS = (
    "bladder",
    "left femur",
    "right femur",
    "heart",
    "left kidney",
    "right kidney",
    "liver",
    "left lung",
    "right lung",
    "pancreas",
    "spleen",
)

FLAGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "pathmnist": (
        "pathology",
        (
            "adipose tissue",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        ),
    ),
    "dermamnist": (
        "dermatology",
        (
            "actinic keratoses and intraepithelial carcinoma",
            "basal cell carcinoma",
            "benign keratosis-like lesions",
            "dermatofibroma",
            "melanoma",
            "melanocytic nevi",
            "vascular lesions",
        ),
    ),
    "octmnist": ("oct", ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal")),
    "pneumoniamnist": ("xray", ("normal", "pneumonia")),
    "retinamnist": (  # published as grades 0 to 4; these are the grades' names in its source, DeepDRiD
        "fundus",
        (
            "no diabetic retinopathy",
            "mild non-proliferative diabetic retinopathy",
            "moderate non-proliferative diabetic retinopathy",
            "severe non-proliferative diabetic retinopathy",
            "proliferative diabetic retinopathy",
        ),
    ),
    "breastmnist": ("ultrasound", ("malignant", "normal or benign")),
    "bloodmnist": (
        "microscopy",
        (
            "basophil",
            "eosinophil",
            "erythroblast",
            "immature granulocytes",
            "lymphocyte",
            "monocyte",
            "neutrophil",
            "platelet",
        ),
    ),
    "tissuemnist": (
        "microscopy",
        (
            "collecting duct or connecting tubule",
            "distal convoluted tubule",
            "glomerular endothelial cells",
            "interstitial endothelial cells",
            "leukocytes",
            "podocytes",
            "proximal tubule segments",
            "thick ascending limb",
        ),
    ),
    "organamnist": ("ct", _ORGANS),
    "organcmnist": ("ct", _ORGANS),
    "organsmnist": ("ct", _ORGANS),
}

SEVERAL: dict[str, tuple[str, tuple[str, ...]]] = {  # an image is of any number of these, or of none
    "chestmnist": (
        "xray",
        (
            "atelectasis",
            "cardiomegaly",
            "effusion",
            "infiltration",
            "mass",
            "nodule",
            "pneumonia",
            "pneumothorax",
            "consolidation",
            "edema",
            "emphysema",
            "fibrosis",
            "pleural thickening",
            "hernia",
        ),
    ),
}

NON_COMMERCIAL = ("dermamnist",)
"""CC BY-NC 4.0; the others are CC BY 4.0."""
