"""What a model can do, measured under named protocols: per-sample predictions first, figures from them.

``predictions`` (kept as parquet), ``zero_shot``, ``retrieval``, ``summary`` (intervals).
"""
