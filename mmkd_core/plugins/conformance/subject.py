"""A teacher under examination: loaded once, asked once, and watched while it does so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

from mmkd_core.contract import Teacher, TeacherSpec, golden_image
from mmkd_core.errors import PluginError
from mmkd_core.plugins.observe import Seen, watching
from mmkd_core.plugins.record import describe

if TYPE_CHECKING:
    from torch import Tensor

TEXTS = (
    "medical image",
    "a much longer text, so that the two differ in their number of tokens",
    "no finding",
)

CALLS = {"pixels": "preprocess", "tokens": "tokenize", "image": "encode_image", "text": "encode_text"}

Tower = Literal["image", "text"]


class FailedError(Exception):
    """What the teacher breaks."""


class SkippedError(Exception):
    """Why there is nothing to check."""


class Subject:
    """A teacher, its answers to three images and three texts, and what was seen meanwhile.

    Args:
        spec: what the plugin declared, or that as it is locked.
        load: builds the teacher; called once, here. What it raises becomes ``load_error``;
            a PluginError is kept whole in ``failure``.
    """

    def __init__(self, spec: TeacherSpec, load: Callable[[], Teacher]) -> None:
        import numpy  # noqa: F401
        import torch  # noqa: F401 - both here, so that their state is known before the plugin can change it

        seed, prompt = (spec.golden.seed, spec.golden.prompt) if spec.golden else (0, TEXTS[0])
        self.spec, self.seen, self.load_error = spec, Seen(), ""
        self.failure: PluginError | None = None
        self.images = [golden_image(seed + i) for i in range(3)]
        self.texts = [prompt, *(text for text in TEXTS if text != prompt)][:3]
        self._teacher: Teacher | None = None
        self._answers: dict[str, Any] = {}
        self._errors: dict[str, str] = {}
        with self.watching():
            try:
                self._teacher = load()
            except PluginError as error:
                self.load_error, self.failure = describe(error), error
            except (Exception, SystemExit) as error:
                self.load_error = describe(error)
            else:
                self._ask()

    @property
    def teacher(self) -> Teacher:
        """The loaded teacher; SkippedError if it could not be loaded."""
        if self._teacher is None:
            raise SkippedError("it could not be loaded")
        return self._teacher

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note in ``seen`` what the block does; see ``observe.watching``."""
        # The code of an isolated teacher runs elsewhere; what runs here is ours, and it keeps a log.
        with watching(self.seen, block=self.spec.runtime == "shared"):
            yield

    def answer(self, part: Literal["pixels", "tokens", "image", "text"]) -> Tensor:
        """Pixels (3, 3, H, W), token ids (3, L), or the embeddings (3, D) of a tower.

        Raises:
            SkippedError: there is none, because asking for it, or for what it needs, raised.
        """
        if part in self._answers:
            found: Tensor = self._answers[part]
            return found
        raise SkippedError("it could not be loaded" if self.load_error else f"there is no answer of {CALLS[part]}")

    @property
    def errors(self) -> list[str]:
        """What raised when it was asked for the first time, and why."""
        return [f"{CALLS[part]}: {reason}" for part, reason in self._errors.items()]

    def towers(self) -> Iterator[tuple[Tower, Tensor]]:
        """Both towers and their embeddings, raising like ``answer``."""
        yield "image", self.answer("image")
        yield "text", self.answer("text")

    def encode(self, tower: Tower, part: slice = slice(None)) -> Tensor:
        """Ask a tower again for some of the inputs; texts are tokenized again, images not."""
        if tower == "image":
            return self.teacher.encode_image(self.answer("pixels")[part])
        return self.teacher.encode_text(self.teacher.tokenize(self.texts[part]))

    def _ask(self) -> None:
        import torch

        teacher = self.teacher
        steps: list[tuple[str, Callable[[], Any]]] = [
            ("pixels", lambda: torch.stack([teacher.preprocess(image) for image in self.images])),
            ("tokens", lambda: teacher.tokenize(self.texts)),
            ("image", lambda: teacher.encode_image(self._answers["pixels"])),
            ("text", lambda: teacher.encode_text(self._answers["tokens"])),
        ]
        needs = {"image": "pixels", "text": "tokens"}
        for part, step in steps:
            if needs.get(part) not in self._errors:
                try:
                    self._answers[part] = step()
                except (Exception, SystemExit) as error:
                    self._errors[part] = describe(error)
                    if isinstance(error, PluginError) and self.failure is None:
                        self.failure = error
