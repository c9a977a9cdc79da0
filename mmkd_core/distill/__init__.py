"""Distillation: losses, heads, the bank of texts, replay and the two stages that teach from cached features."""
