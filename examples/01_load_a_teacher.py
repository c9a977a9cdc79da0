"""Load one teacher and ask it about one image.

Shows: finding the installed plugins, loading a teacher from its declaration (its files are hashed first), and zero-shot
classification by hand: mean of the prompts of a class, cosine, the teacher's own logit scale, softmax.

    python examples/01_load_a_teacher.py
"""

import numpy as np
import torch
from PIL import Image
from torch.nn.functional import normalize

from mmkd_core.data.phantom.captions import prompts
from mmkd_core.data.phantom.catalogue import render
from mmkd_core.plugins import PluginHost

DOMAIN, FINDING = "xray", "pleural effusion"


def main() -> None:
    torch.set_num_threads(1)
    host = PluginHost.discover()  # imports the plugins, but neither torch nor weights
    spec = host.teacher("phantom-radio")
    print(f"{spec.name}: {spec.summary}")
    print(f"good at {', '.join(spec.domains)}; fingerprint {spec.fingerprint}")
    teacher = host.load(spec)

    # A synthetic chest radiograph: one stream of random numbers draws the patient, the other the image.
    pixels = render(DOMAIN, FINDING, np.random.default_rng(7), np.random.default_rng(8))
    image = teacher.encode_image(teacher.preprocess(Image.fromarray(pixels))[None])

    classes = prompts(DOMAIN)  # finding -> six sentences
    texts = [
        normalize(teacher.encode_text(teacher.tokenize(sentences)), dim=-1).mean(dim=0)
        for sentences in classes.values()
    ]
    cosine = normalize(image, dim=-1) @ normalize(torch.stack(texts), dim=-1).T
    posterior = (spec.logit_scale * cosine).softmax(dim=-1)[0]

    print(f"\nan image of {FINDING} ({DOMAIN}), and what the teacher sees:")
    for finding, share in sorted(zip(classes, posterior.tolist(), strict=True), key=lambda pair: -pair[1]):
        print(f"  {share:6.1%}  {finding}")


if __name__ == "__main__":
    main()
