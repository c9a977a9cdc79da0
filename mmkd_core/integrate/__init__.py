"""The orchestrator: a workspace on disk, the steps that fill it, and one integration as one transaction."""
