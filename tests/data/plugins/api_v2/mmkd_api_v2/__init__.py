"""Written for a plugin API of the future: must never be imported."""

raise RuntimeError("a plugin for another API was imported")
