"""The forgetting budget: how far the loss on what was learnt before may rise, and what happens when it rises further.

For every earlier teacher and domain the relation loss on watched rows may rise to ``(1 + rise)`` times the parent's,
and a little more. What nobody taught has no bound: there the parent guesses, and is replayed. As a constrained problem,

    minimise the losses of the new teacher and of replay,  subject to  L_s <= bound_s  for every stratum s,

it has the Lagrangian ``losses + sum_s multiplier_s * L_s``. Training descends on it; after every check the multipliers
ascend by the share by which a bound is broken, and fall where it is not, never below 0 (dual ascent; Boyd and
Vandenberghe, Convex Optimization, 5.2; Fioretto et al. 2020, arXiv 2001.09394, for networks). So replay weighs more
only where it is needed.

The watched rows are the same ones at every check and are compared with the parent on the same rows and texts, without
random crops: a rise is no noise of the batch. While the learning rate is high a bound is often broken and kept again
later; a stratum is lost only where the student is no better than one that finds all texts equally likely.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd_core.distill import losses as loss
from mmkd_core.distill.bank import Bank
from mmkd_core.distill.config import BudgetConfig
from mmkd_core.distill.objective import Samples
from mmkd_core.distill.replay import Stratum
from mmkd_core.distill.sources import Source
from mmkd_core.student.batches import Rows
from mmkd_core.student.model import Student, evaluating

TEXTS = 16
"""Texts of the bank that a domain is watched with, at most."""


@dataclass(frozen=True)
class _Watched:
    """One stratum: its rows, the number of its domain, and the teacher's posteriors (n, K) there."""

    stratum: Stratum
    rows: Rows
    domain: str
    posterior: Tensor


class Watch:
    """The relation loss of the student, stratum by stratum, on rows that are not trained on.

    Args:
        sources: the earlier teachers, by name.
        watched: by stratum the rows; strata without a source or a bank are left out.
        most: rows that one check embeds, at most; more strata than fit take turns.
    """

    def __init__(
        self,
        student: Student,
        samples: Samples,
        bank: Bank,
        sources: Mapping[str, Source],
        watched: Mapping[Stratum, Rows],
        most: int,
    ) -> None:
        self.student, self.samples = student, samples
        self.tokens = {domain: student.tokenize(texts[:TEXTS]) for domain, texts in bank.texts.items()}
        self.watched = [
            _Watched(key, rows, key[1], _posterior(sources[key[0]], rows, key[1]))
            # By domain: what a check looks at together has few texts to embed.
            for key, rows in sorted(watched.items(), key=lambda entry: entry[0][::-1])
            if len(rows) and key[0] in sources and key[1] in bank.texts
        ]
        longest = max((len(entry.rows) for entry in self.watched), default=1)
        self.at_once = max(1, most // longest)

    @property
    def strata(self) -> list[Stratum]:
        """What is watched, in the order of ``turn``."""
        return [entry.stratum for entry in self.watched]

    @property
    def ignorant(self) -> Tensor:
        """(S,) mean KL(teacher || uniform) of each stratum."""
        losses = [loss.relation(torch.zeros_like(entry.posterior), entry.posterior).mean() for entry in self.watched]
        return torch.stack(losses) if losses else torch.zeros(0)

    def turn(self, number: int) -> list[int]:
        """Places of the strata that check ``number`` looks at; all come round."""
        count = len(self.watched)
        if count <= self.at_once:
            return list(range(count))
        return [(number * self.at_once + i) % count for i in range(self.at_once)]

    def everywhere(self) -> Tensor:
        """(S,) losses of all strata, no more at a time than a check looks at."""
        places = range(len(self.watched))
        pieces = [self.losses(places[start : start + self.at_once]) for start in places[:: self.at_once]]
        return torch.cat(pieces or [torch.zeros(0)])

    @torch.no_grad()
    def losses(self, places: Sequence[int]) -> Tensor:
        """Mean KL(teacher || student) of each stratum in ``places``."""
        entries = [self.watched[place] for place in places]
        if not entries:
            return torch.zeros(0)
        rows = np.concatenate([entry.rows for entry in entries])
        with evaluating(self.student.model), torch.autocast(self.student.device.type, enabled=False):
            image = F.normalize(self.student.images(self.student.prepare(self.samples.pixels[rows])), dim=-1)
            texts = {
                domain: F.normalize(self.student.texts(self.tokens[domain]), dim=-1)
                for domain in dict.fromkeys(entry.domain for entry in entries)
            }
        scale = self.student.model.logit_scale.exp()
        found, start = [], 0
        for entry in entries:
            part = image[start : start + len(entry.rows)]
            start += len(part)
            logits = scale * part @ texts[entry.domain].T
            found.append(loss.relation(logits, entry.posterior.to(logits.device)).mean())
        return torch.stack(found)


def _posterior(source: Source, rows: Rows, domain: str) -> Tensor:
    return (source.logit_scale * source.images(rows) @ source.bank[domain][:TEXTS].T).softmax(-1)


class Budget(nn.Module):
    """Bounds, levels and multipliers; buffers, so that checkpoints hold them.

    Args:
        parent, ignorant: (S,) loss of the parent, and of a student to which all texts are equally likely.

    Attributes:
        bound, lost_at, level, multiplier, since: (S,) by stratum: the most its loss may be; from where on it is lost;
            what it was when last looked at; the weight that replay has on top; the step since which it is lost, 0 if
            it is not.
    """

    bound: Tensor
    lost_at: Tensor
    level: Tensor
    multiplier: Tensor
    since: Tensor

    def __init__(self, strata: Sequence[Stratum], parent: Tensor, ignorant: Tensor, config: BudgetConfig) -> None:
        super().__init__()
        self.strata, self.config = list(strata), config
        parent = parent.double()
        self.register_buffer("bound", parent * (1 + config.rise) + config.slack)
        self.register_buffer("lost_at", torch.maximum(self.bound, ignorant.double()))
        self.register_buffer("level", parent.clone())
        self.register_buffer("multiplier", torch.zeros_like(parent))
        self.register_buffer("since", torch.zeros(len(parent), dtype=torch.int64))
        self._place = {stratum: place for place, stratum in enumerate(self.strata)}

    def update(self, places: Sequence[int], losses: Tensor, step: int) -> list[Stratum]:
        """Take in the losses of some strata after a step; return those whose bound was kept and is broken now."""
        where = torch.tensor(places, dtype=torch.int64)
        losses, bound = losses.to(self.bound), self.bound[where]
        broken = (losses > bound) & (self.level[where] <= bound)
        self.level[where] = losses
        ascent = self.multiplier[where] + self.config.rate * (losses / bound - 1)
        self.multiplier[where] = ascent.clamp(0.0, self.config.most)
        since = self.since[where]
        self.since[where] = torch.where(losses > self.lost_at[where], torch.where(since > 0, since, step), 0)
        return [self.strata[place] for place, now in zip(places, broken.tolist(), strict=True) if now]

    def weight(self, stratum: Stratum) -> float:
        """How much replay of a stratum counts: 1 as long as its bound is kept."""
        place = self._place.get(stratum)
        return 1.0 if place is None else 1.0 + float(self.multiplier[place])

    @property
    def ratio(self) -> Tensor:
        """(S,) loss when last looked at, over the bound: above 1 it is broken."""
        return self.level / self.bound

    def worst(self) -> tuple[Stratum, float] | None:
        """The stratum whose loss is largest beside its bound, and the ratio of the two."""
        if not self.strata:
            return None
        place = int(self.ratio.argmax())
        return self.strata[place], float(self.ratio[place])

    def lost(self, step: int, steps: int) -> Stratum | None:
        """A stratum that has been lost for too large a share of all ``steps``."""
        waited = {
            stratum: step - since for stratum, since in zip(self.strata, self.since.tolist(), strict=True) if since
        }
        stratum = max(waited, key=lambda key: waited[key], default=None)
        return stratum if stratum and waited[stratum] >= self.config.patience * steps else None

    def facts(self) -> dict[str, dict[str, float]]:
        """By ``teacher/domain``: bound, loss when last looked at, and multiplier."""
        rows = zip(self.strata, self.bound.tolist(), self.level.tolist(), self.multiplier.tolist(), strict=True)
        return {
            named(stratum): {"bound": round(bound, 4), "loss": round(level, 4), "multiplier": round(weight, 3)}
            for stratum, bound, level, weight in rows
        }


def named(stratum: Stratum) -> str:
    """``teacher/domain``."""
    return "/".join(stratum)
