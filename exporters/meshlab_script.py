"""What runs beside threed: MeshLab's filters on one mesh. Knows only numpy and pymeshlab.

Called by `exporters.meshlab` with a folder as its last argument: it reads `mesh.npz` and
`steps.json` there, and writes `done.npz`. It ends with status 3 where pymeshlab cannot be loaded,
and with REFUSED where a filter refuses the mesh.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

REFUSED, NOT_LOADED = 4, 3
CLOSE = 0.001  # percent of the diagonal: vertices so near are one after a union
ALL_HOLES = 10**6  # edges of the longest hole that is closed

try:
    import pymeshlab
except ImportError as error:
    sys.stderr.write(f"{error}\n")
    sys.exit(NOT_LOADED)


def mesh_set(vertices: Any, faces: Any) -> Any:
    """A set of the one mesh of vertices [V, 3] and faces [F, 3]."""
    found = pymeshlab.MeshSet(verbose=False)
    found.add_mesh(_mesh(vertices, faces))
    return found


def _mesh(vertices: Any, faces: Any) -> Any:
    places = np.asarray(vertices, np.float64)
    return pymeshlab.Mesh(vertex_matrix=places, face_matrix=np.asarray(faces, np.int32))


def orient(meshes: Any) -> None:
    """Let neighbouring faces look to the same side; refused where edges have three faces."""
    meshes.meshing_re_orient_faces_coherently()


def trim(meshes: Any) -> None:
    """Take away the smallest faces at edges of more than two, and part what touches in a vertex."""
    meshes.meshing_repair_non_manifold_edges(method="Remove Faces")
    meshes.meshing_repair_non_manifold_vertices()


def close(meshes: Any) -> None:
    """Close every hole that MeshLab can, with triangles between its own vertices."""
    meshes.meshing_close_holes(maxholesize=ALL_HOLES, selfintersection=False)


def unite(meshes: Any) -> None:
    """Keep what bounds the space that the surface winds around: exact, nothing crosses afterwards.

    Refused where the surface is not closed. What rounding brings too near becomes one vertex.
    """
    box = meshes.current_mesh().bounding_box()
    far = box.max()[0] + 2 * box.diagonal()
    # a mesh is united with itself faster when the other one is small and elsewhere
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) * 0.01 * box.diagonal()
    speck = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    meshes.add_mesh(_mesh(corners + np.array([far, *box.min()[1:]]), speck))
    meshes.generate_boolean_union(first_mesh=0, second_mesh=1)
    meshes.compute_selection_by_condition_per_vertex(condselect=f"x > {far - box.diagonal()}")
    meshes.meshing_remove_selected_vertices()
    meshes.meshing_merge_close_vertices(threshold=pymeshlab.PercentageValue(CLOSE))
    meshes.meshing_remove_duplicate_faces()
    meshes.meshing_remove_null_faces()


def poisson(meshes: Any, points: Any, normals: Any, depth: int) -> None:
    """Reconstruct the surface whose normals the points have (Kazhdan and Hoppe 2013)."""
    meshes.add_mesh(pymeshlab.Mesh(vertex_matrix=points, v_normals_matrix=normals))
    # with more threads, the same points give another mesh every time
    meshes.generate_surface_reconstruction_screened_poisson(depth=depth, threads=1)


def wrap(meshes: Any, alpha: float, offset: float) -> None:
    """Shrink a closed surface onto the mesh, alpha and offset in percent of the diagonal.

    It enters no gap narrower than alpha, and stays offset away (Portaneri et al. 2022).
    """
    percent = pymeshlab.PercentageValue
    meshes.generate_alpha_wrap(alpha=percent(alpha), offset=percent(offset))


def remesh(meshes: Any, edge: float) -> None:
    """Make all edges about so long, and keep the creases (Botsch and Kobbelt 2004)."""
    meshes.meshing_isotropic_explicit_remeshing(targetlen=pymeshlab.PureValue(edge))


STEPS = {f.__name__: f for f in (orient, trim, close, unite, poisson, wrap, remesh)}


def crossing(vertices: Any, faces: Any) -> int:
    """How many faces cut through others."""
    meshes = mesh_set(vertices, faces)
    meshes.compute_selection_by_self_intersections_per_face()
    return int(meshes.current_mesh().selected_face_number())


def main(folder: Path) -> None:
    """Do the steps that the folder asks for, and leave there what came of them."""
    given = dict(np.load(folder / "mesh.npz"))
    vertices, faces = given.pop("vertices"), given.pop("faces")
    for name, words in json.loads((folder / "steps.json").read_text("utf-8")):
        meshes = mesh_set(vertices, faces)
        if name == "poisson":
            words |= given
        try:
            STEPS[name](meshes, **words)
        except pymeshlab.PyMeshLabException as error:
            sys.stderr.write(f"{name}: {' '.join(str(error).split())}\n")
            sys.exit(REFUSED)
        meshes.meshing_remove_unreferenced_vertices()
        found = meshes.current_mesh()
        # as they are written: rounding must not come after the last look
        vertices, faces = found.vertex_matrix().astype(np.float32), found.face_matrix()
    cut = crossing(vertices, faces) if len(faces) else 0
    np.savez(folder / "done.npz", vertices=vertices, faces=faces, crossing=cut)


if __name__ == "__main__":
    main(Path(sys.argv[-1]))
