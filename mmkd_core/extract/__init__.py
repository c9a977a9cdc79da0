"""Extraction: teachers times samples into the feature store, and only what is missing."""

from mmkd_core.extract.asking import Job
from mmkd_core.extract.config import ExtractConfig
from mmkd_core.extract.features import Extraction, extract

__all__ = ["ExtractConfig", "Extraction", "Job", "extract"]
