"""mmkd: continual integration of CLIP-like teachers into one medical image-text model."""

__version__ = "0.1.0"
