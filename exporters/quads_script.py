"""What runs beside threed: Instant Meshes on one mesh. Knows only numpy and pynanoinstantmeshes.

Called by `exporters.quads` with a folder and a number as its last arguments: it reads `mesh.npz`
there and writes `done.npz`.
"""

import sys
from pathlib import Path

import numpy as np
import pynanoinstantmeshes


def main(folder: Path, count: int) -> None:
    """Remesh to about so many quads."""
    with np.load(folder / "mesh.npz") as given:
        vertices, faces = given["vertices"], given["faces"]
    places, quads = pynanoinstantmeshes.remesh(
        vertices.astype(np.float32), faces.astype(np.uint32),
        count // 4,  # each face that it finds is split in four at the end
        creaseAngle=30.0, align_to_boundaries=True, smooth_iter=2, deterministic=True,
    )  # fmt: skip
    np.savez(folder / "done.npz", vertices=places, quads=quads)


if __name__ == "__main__":
    main(Path(sys.argv[-2]), int(sys.argv[-1]))
