"""Verdicts that hold up: ``forgetting`` (candidate against parent) and ``trust`` (claims against measurements)."""
