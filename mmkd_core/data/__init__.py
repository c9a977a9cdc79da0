"""Manifests, decoding, importers, captions, checks and the phantom images."""
