"""The tiny teacher itself. Imported when it is loaded, because it needs torch."""

import torch

from mmkd_core.plugins.loaders.preprocess import preprocess


class LinearTeacher:
    def __init__(self, spec, seed, device):
        self.spec = spec
        generator = torch.Generator().manual_seed(seed)
        self.pixels = torch.randn(3 * spec.image.size**2, spec.embed_dim, generator=generator).to(device)
        self.letters = torch.randn(256, spec.embed_dim, generator=generator).to(device)

    def preprocess(self, image):
        return preprocess(image, self.spec.image)

    def tokenize(self, texts):
        length = self.spec.text.context_length
        rows = [list(text.encode()[:length].ljust(length, b"\0")) for text in texts]
        return torch.tensor(rows)

    def encode_image(self, images):
        return images.to(self.pixels).flatten(1) @ self.pixels

    def encode_text(self, tokens):
        return self.letters[tokens.to(self.letters.device)].mean(1)
