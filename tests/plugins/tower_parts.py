"""Small towers with random weights, under the names in which they were published; for tests of own loaders."""

from __future__ import annotations

import torch
from torch import nn

TEXTS = (
    "a histopathology slide of colon adenocarcinoma",
    "  Chest X-ray:&nbsp;no   signs of PNEUMONIA, 2.5 cm ",
    "mri " * 300,
    "",
)
BERT = {
    "vocab_size": 32,
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 77,
    "type_vocab_size": 2,
}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
OLD_SWIN = {  # how transformers called Swin's weights when MedCLIP was published
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.o_proj": "attention.output.dense",
    "attention.relative_position_bias.": "attention.self.",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def shaken(model: nn.Module) -> nn.Module:
    """All weights random: biases, norms and the running statistics of batch norms too."""
    state = model.state_dict()
    for name, value in state.items():
        if value.is_floating_point():
            state[name] = value + (torch.rand_like if name.endswith("running_var") else torch.randn_like)(value) * 0.1
    model.load_state_dict(state)
    return model.eval()


def bert_state(bert: nn.Module) -> dict:
    return dict(bert.state_dict()) | {"embeddings.position_ids": torch.arange(77)[None]}


def old_swin_state(swin: nn.Module) -> dict:
    """The weights of a Swin transformer under the names of 2022, with the buffers that were saved then."""
    state = {}
    for name, value in swin.state_dict().items():
        for new, old in OLD_SWIN.items():
            name = name.replace(new, old)
        state[name] = value
    for name, value in swin.named_buffers():
        if name.endswith("relative_position_index"):
            state[name.replace("relative_position_bias.", "self.")] = value
    return state


def without_or_with(state: dict, name: str) -> dict:
    """The same weights without this one or, where there is none of that name, with one."""
    changed = {key: value for key, value in state.items() if key != name}
    return changed if name in state else changed | {name: torch.ones(1)}


def resized(spec, open_hashes, size: int, dim: int, arch: dict):
    image = spec.image.model_copy(update={"size": size})
    return open_hashes(spec).model_copy(update={"image": image, "embed_dim": dim, "arch": arch})
