"""What is shown before anything is installed or downloaded, and whether the user agreed to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mmkd_core.errors import PluginError
from mmkd_core.plugins.licences import Terms, forbids, is_known, needs_consent


@dataclass(frozen=True)
class Offer:
    """What ``add`` is about to do.

    Args:
        target: what was asked for.
        facts: field and value, for people: package, source, licence, gating, size.
        needs: what the user must agree to; empty if it may go on in a script that did not say so.
    """

    target: str
    facts: tuple[tuple[str, str], ...]
    needs: tuple[str, ...]


Agree = Callable[[Offer], bool | None]
"""Shows an offer and answers: True or False as the user said, None if nobody can be asked."""


class Consent:
    """Asks at most once for each thing that needs it."""

    def __init__(self, agree: Agree | None) -> None:
        self._agree = agree
        self._shown: set[tuple[str, str]] = set()
        self._agreed: set[str] = set()

    def ask(self, offer: Offer) -> None:
        """Show what was not shown yet, and ask.

        Raises:
            PluginError: the user did not agree, or must be asked and cannot.
        """
        facts = tuple(fact for fact in offer.facts if fact not in self._shown)
        needs = tuple(need for need in offer.needs if need not in self._agreed)
        if not needs and not facts:
            return
        if not needs and self._agreed:
            return  # agreed to more than this
        answer = self._agree(Offer(offer.target, facts, needs)) if self._agree else None
        if answer is False:
            raise PluginError("you did not agree", next="Nothing was changed")
        if answer is None and needs:
            raise PluginError(
                f"it needs your agreement: it {'; it '.join(needs)}",
                next=f"Run `mmkd teachers add {offer.target}` in a terminal, or with --yes if you agree",
            )
        self._shown |= set(facts)
        self._agreed |= set(needs)


def require_accepted(name: str, terms: Terms, accepted: bool) -> None:
    """Restrictive licences are agreed to by an option of their own, never by the way.

    Raises:
        PluginError: the licence forbids something, or is not stated, and the user did not accept it.
    """
    if accepted or not needs_consent(terms):
        return
    what = f"the licence of its weights ({terms.weights}) does not allow {' or '.join(forbids(terms))}"
    if not is_known(terms):
        what = "nobody states a licence of its weights, which allows nothing by itself"
    raise PluginError(
        what, next=f"If you agree, run `mmkd teachers add {name} --accept-license`: its students inherit it"
    )
