"""Extraction: teachers times samples into the feature store, and only what is missing."""

from mmkd_core.extract.features import Extraction, Job, extract

__all__ = ["Extraction", "Job", "extract"]
