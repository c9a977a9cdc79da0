"""Use the feature store alone, for any features of anything: it knows neither mmkd nor torch.

Shows: numbering ids, storing two tables over the same rows, a table that grows, gathering a batch in any order, what
float16 costs, and checking every block against its checksum.

    python examples/02_feature_store.py
"""

import tempfile
from pathlib import Path

import numpy as np

from feature_store import FeatureStore

N = 5_000


def main() -> None:
    rng = np.random.default_rng(0)
    small = rng.standard_normal((N, 64), dtype=np.float32)
    large = rng.standard_normal((N, 256), dtype=np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "features")
        with FeatureStore.open(path, "w") as store:
            # Ids get their rows once and for all; every table of a tower speaks of the same rows.
            rows = store.add_ids("image", [f"image-{number}" for number in range(N)])
            store.put("teacher-a", "image", rows, small)
            store.put("teacher-b", "image", rows[:3000], large[:3000], dtype="float32")
            store.describe("teacher-b", name="the larger one")
            absent = store.missing("teacher-b", "image", rows)
            print(f"teacher-b lacks {absent.sum():,} of {N:,} rows")  # an extractor that was stopped asks this
            store.put("teacher-b", "image", rows[absent], large[absent])
            print(f"teacher-b lacks {store.missing('teacher-b', 'image', rows).sum():,} now")

        with FeatureStore.open(path) as store:  # for reading, by as many processes as you like
            batch = store.rows("image", ["image-42", "image-7", "image-4999"])
            features = store.gather("teacher-a", "image", batch)
            error = np.abs(features - small[[42, 7, 4999]]).max()
            print(f"gathered {features.shape} {features.dtype}; float16 changed no number by more than {error:.4f}")
            same = np.array_equal(store.gather("teacher-b", "image", batch), large[[42, 7, 4999]])
            print(f"float32 comes back bit by bit: {same}")
            for table in store.tables():
                size = f"{table.bytes:,} bytes, {table.bytes / table.bytes_raw:.0%} of raw float32"
                print(f"{table.table}: {table.rows:,} x {table.dim} {table.dtype}, {size} {table.facts}")
            print(f"damaged blocks: {len(store.verify())}")


if __name__ == "__main__":
    main()
