"""Small mesh files as people's tools write them, a list of cases for each cell of the matrix.

The matrix is the table in docs/assets.md: `tests/test_exporters_reading.py` holds both together.
"""

from __future__ import annotations

import io
import re
import struct
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

FAR = ["1e9 1e9 0", "1000000002 1e9 0", "1000000002 1000000002 0", "1e9 1000000002 0"]
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
Color = tuple[int, int, int]
Text = str | bytes


@dataclass(frozen=True)
class Case:
    """A file, what lies beside it, and what comes out."""

    content: Text
    beside: dict[str, Text] = field(default_factory=dict)
    faces: int = 2
    area: float | None = 4.0
    colors: list[Color] | None = None  # sRGB in the middle of the faces
    says: str = ""  # in the warning or the error


def png(left: Color, right: Color | None = None, side: int = 16) -> bytes:
    """A picture of one colour, or of two halves."""
    image = np.full((side, side, 3), left, np.uint8)
    image[:, side // 2 :] = right or left
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


V = "v -1 -1 0\nv 1 -1 0\nv 1 1 0\nv -1 1 0\n"
VT = "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
F = "f 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"
SQUARE = V + "f 1 2 3\nf 1 3 4\n"
ARROW = "v 0 0 0\nv 4 0 0\nv 4 4 0\nv 2 1 0\nv 0 4 0\n"  # a concave pentagon of area 10
ASIDE = "v 2 -1 0\nv 4 -1 0\nv 4 1 0\nv 2 1 0\n"
PAINTED = f"mtllib a.mtl\n{V}{VT}usemtl a\n{F}"
BOTH = (RED, RED)


def painted(mtl: str, text: str = PAINTED, says: str = "", colors: tuple[Color, ...] = BOTH,
            picture: bytes = png(RED), name: str = "maps/red.png") -> Case:  # fmt: skip
    """A square of OBJ with a material and a picture."""
    return Case(
        text, {"a.mtl": f"newmtl a\n{mtl}", name: picture}, colors=list(colors) or None, says=says
    )


def colored(*colors: str) -> str:
    """The square with a colour behind each vertex."""
    return "".join(f"{line} {color}\n" for line, color in zip(V.splitlines(), colors))


OBJ: dict[str, list[Case]] = {
    "polygons, also concave": [
        Case(f"{ARROW}f 1 2 3 4 5\n", faces=3, area=10),
        Case(f"{ARROW}f 5 4 3 2 1\n", faces=3, area=10),
        Case("v 0 0 0\nv 2 2 0\nv 0 1 0\nv -2 2 0\nf 1 2 3 4\n", area=2),
        Case(f"{V}f 1 2 3 4\n"),
    ],
    "relative indices": [
        Case(f"{V}f -4 -3 -2\nf -4 -2 -1\n{ASIDE}f -4 -3 -2 -1\n", faces=4, area=8),
        Case(f"{V}{VT}f -4/-4 -3/-3 -2/-2\n{VT}f -4/-4 -2/-2 -1/-1\n"),
    ],
    "indices of nothing": [
        Case(f"{V}f 0 1 2\n", says=r"the line 'f 0 1 2' names a vertex that is not there"),
        Case(f"{V}f 1 2 5\n", says=r"'f 1 2 5' .*there are 4, counted from 1"),
        Case(f"{V}f 1 2 -5\n", says=r"'f 1 2 -5'"),
        Case(f"{V}f 1 2 a\n", says=r"'f 1 2 a' holds what is no number"),
        Case(f"{V}f 1 2 /3\n", says="are not of the form 1, 1/2, 1//3 or 1/2/3"),
    ],
    "faces of one or two corners": [Case(f"{SQUARE}f 1 2\n", says="1 faces of fewer than 3")],
    "cut short": [
        Case(f"{SQUARE}f 1 2", says="cut off in its last line, 'f 1 2'"),
        Case("v 0 0 0\nv 1 0\nf 1 2 3\n", says="the line 'v 1 0' has fewer than 3 numbers"),
    ],
    "byte order mark, UTF-16": [
        Case(("\ufeff" + SQUARE).encode()),
        Case(SQUARE.encode("utf-16")),
    ],
    "tabs, blanks, line ends, upper case": [
        Case(SQUARE.replace(" ", "\t")),
        Case(SQUARE.replace("\n", "\n  ")),
        Case(SQUARE.replace("\n", "\r")),
        Case(SQUARE.replace("\n", " \r\n")),
        Case(SQUARE.upper()),
        Case(SQUARE.replace("f ", "fo ").rstrip()),
    ],
    "comments, continued lines": [
        Case(f"# a\\\n{SQUARE}".replace("3\n", "3#x\n").replace("1 -1 0", "1 -1 0 # f 1 2 3")),
        Case(f"{V}f 1 2 \\\n 3\nf 1 \\  \n3 4\n"),
    ],
    "numbers that are none": [
        Case(SQUARE.replace("1 1 0", "1 x 0"), says="'x' is no number"),
        Case(SQUARE.replace("1 1 0", "1 1,5 0"), says="'1,5' is no number"),
        Case(SQUARE.replace("1 1 0", "1 nan 0"), says="coordinates that are not numbers"),
    ],
    "far from the origin": [
        Case("".join(f"v {row}\n" for row in FAR) + "f 1 2 3\nf 1 3 4\n", says="so far from the"),
    ],
    "colours of vertices": [
        Case(colored(*4 * ["1 0 0"]) + VT + F, colors=list(BOTH)),
        Case(colored(*4 * ["0 0 255"]) + F.replace("/", "//"), colors=[BLUE, BLUE]),
    ],
    "one place, several colours": [
        Case(f"{colored(*4 * ['1 0 0'])}{colored(*4 * ['0 1 0'])}f 1 2 3\nf 5 7 8\n",
             colors=[RED, GREEN]),
    ],
    "texture coordinates": [painted("map_Kd maps/red.png\n")],
    "texture coordinates of nothing": [
        painted("Kd 1 0 0\n", PAINTED.replace("3/3", "3/9"), "coordinates that are not there"),
    ],
    "texture": [
        painted("map_Kd maps/red.png\n"),
        painted("MAP_KD\tmaps/red.png\n"),
        painted("map_Kd maps\\red.png\n"),
        painted("map_Kd C:\\Users\\me\\Red.PNG\n", name="red.png"),
        painted("map_Kd MAPS/Red.PNG\n"),
        painted("map_Kd a red one.png\n", name="a red one.png"),
    ],
    "texture options": [
        painted("map_Kd -s 1 1 1 maps/red.png\n"),
        painted("map_Kd -blendu off -clamp on maps/red.png\n"),
        painted("map_Kd -s .4 1 1 -o .5 0 0 maps/red.png\n", colors=(WHITE, WHITE),
                picture=png(RED, WHITE)),
        painted("map_Kd -clamp on maps/red.png\n", picture=png(RED, WHITE),
                text=PAINTED.replace("vt 0", "vt -4").replace("vt 1", "vt -3")),
    ],
    "other texture options": [painted("map_Kd -mm .2 1 maps/red.png\n", says="-mm and -t of")],
    "texture without coordinates": [
        painted("Kd 1 0 0\nmap_Kd maps/red.png\n", f"mtllib a.mtl\n{V}usemtl a\nf 1 2 3 4\n",
                "a texture of faces without"),
    ],
    "missing or broken texture": [
        painted("Kd 1 0 0\nmap_Kd nowhere.png\n", says="its texture 'nowhere.png' is not there"),
        painted("Kd 1 0 0\nmap_Kd maps/red.png\n", picture=b"broken", says="'maps/red.png' is"),
    ],
    "files outside the folder": [painted("map_Kd ../../x.png\n", says="outside its folder")],
    "material": [
        painted("Kd 1 0 0\n"),
        painted("Kd 1 0 0\n", PAINTED.replace("usemtl a", "usemtl a # b")),
        painted("Kd 1 1 1\nKd 1 0 0\nillum 2\nNs 250\nKs .5 .5 .5\nd 1\nTr 0\n"),
    ],
    "several materials": [
        Case(f"mtllib red.mtl green.mtl\n{V}usemtl a\nf 1 2 3\nusemtl b #1\nf 1 3 4\n",
             {"red.mtl": "newmtl a\nKd 1 0 0\n", "green.mtl": "newmtl b #1\nKd 0 1 0\n"},
             colors=[RED, GREEN]),
        Case(f"mtllib the red.mtl\nmtllib b.mtl\n{V}{VT}usemtl a\nf 1/1 2/2 3/3\nusemtl b\n"
             "f 1/1 3/3 4/4\n", {"the red.mtl": "newmtl a\nmap_Kd g.png\n", "g.png": png(GREEN),
                                 "b.mtl": "newmtl b\nmap_Kd b.png\n", "b.png": png(BLUE)},
             colors=[GREEN, BLUE]),
    ],
    "missing material": [
        Case(PAINTED, says="its materials 'a.mtl' are not there"),
        painted("", PAINTED.replace("usemtl a", "usemtl b"), "its material 'b' is not there",
                ()),
    ],
    "colour × texture × vertex colour": [
        painted("Kd 1 0 0\nmap_Kd maps/red.png\n", picture=png(WHITE)),
        painted("Kd 1 0 1\n", f"mtllib a.mtl\n{colored(*4 * ['1 1 0'])}{VT}usemtl a\n{F}"),
        painted("Kd 1 0 1\nmap_Kd maps/red.png\n", picture=png((255, 255, 0))),
        painted("map_Kd maps/red.png\n", picture=png(WHITE),
                text=f"mtllib a.mtl\n{colored(*4 * ['1 0 0'])}{VT}usemtl a\n{F}"),
    ],
    "black colour of a texture": [painted("Kd 0 0 0\nmap_Kd maps/red.png\n", says="taken for wh")],
    "opacity": [
        painted("Kd 1 0 0\nd .5\n", says="the opacity of its materials"),
        painted("Kd 1 0 0\nTr .5\n", says="the opacity of its materials"),
    ],
    "emission; bump, normal and other maps": [
        painted("Kd 1 0 0\nKe 1 1 1\n", says="the emission of its materials"),
        painted("Kd 1 0 0\nbump -bm .2 maps/red.png\n", says="the bump map of its materials"),
        painted("Kd 1 0 0\nnorm maps/red.png\n", says="the normal map of its materials"),
    ],
    "lines, points, curves": [
        Case(f"{SQUARE}l 1 2\n", says="its lines and points are left out"),
        Case(f"{SQUARE}surf 0 1 0 1 1 2 3 4\n", says="its curves and curved surfaces"),
    ],
}  # fmt: skip

XYZ = [f"property float {axis}" for axis in "xyz"]
RGB = [f"property uchar {color}" for color in ("red", "green", "blue")]
LIST = "property list uchar int vertex_indices"
PLACES = ["-1 -1 0", "1 -1 0", "1 1 0", "-1 1 0"]
TRIANGLES = ["3 0 1 2", "3 0 2 3"]


def ply(rows: list[str], vertex: list[str] = XYZ, face: tuple[str, ...] = (LIST,), faces: int = 2,
        form: str = "ascii", vertices: int = 4, more: str = "") -> str:  # fmt: skip
    """A PLY text of a header and rows."""
    head = ["ply", f"format {form} 1.0", *more.splitlines(), f"element vertex {vertices}", *vertex,
            f"element face {faces}", *face, "end_header"]  # fmt: skip
    return "\n".join([*head, *rows]) + "\n"


def binary_ply(order: str, ends: str = "\n") -> bytes:
    """Doubles, 16-bit colours before them, a triangle and a quad with a flag between."""
    kinds = [f"property ushort {c}" for c in ("blue", "green", "red")]
    kinds += [f"property double {axis}" for axis in "zyx"]
    head = ply([], kinds, ("property list ushort uint vertex_index", "property uchar flag"), 2,
               f"binary_{order}_endian", 6)  # fmt: skip
    mark = {"little": "<", "big": ">"}[order]
    places = [(-1, -1), (1, -1), (1, 1), (-1, 1), (3, -1), (3, 1)]
    rows = [struct.pack(f"{mark}3H3d", 0, 0, 65535, 0, y, x) for x, y in places]
    rows += [
        struct.pack(f"{mark}H3IB", 3, 0, 1, 2, 7),
        struct.pack(f"{mark}H4IB", 4, 1, 4, 5, 2, 7),
    ]
    return head.replace("\n", ends).encode() + b"".join(rows)


PAINT = [*XYZ, "property float s", "property float t"]
CORNERS = ["-1 -1 0 0 0", "1 -1 0 1 0", "1 1 0 1 1", "-1 1 0 0 1"]
PENTAGON = ["0 0 0", "4 0 0", "4 4 0", "2 1 0", "0 4 0", "5 0 1 2 3 4"]
QUARTERS = [f"{place} {color}" for place, color in zip(PLACES, 4 * ["255 0 0"])]


def mapped(name: str, says: str = "", picture: bytes = png(RED)) -> Case:
    """A square of PLY with a texture, as MeshLab writes it."""
    text = ply(CORNERS + TRIANGLES, PAINT, more=f"comment TextureFile {name}")
    return Case(text, {"red.png": picture}, colors=None if says else list(BOTH), says=says)


PLY: dict[str, list[Case]] = {
    "polygons, also concave": [
        Case(ply(PENTAGON, faces=1, vertices=5), faces=3, area=10),
        Case(ply([*PENTAGON[:-1], "3 0 1 3", "4 1 2 3 3"], vertices=5), faces=3, area=None),
    ],
    "strips of triangles": [
        Case(ply([*PLACES, "6 0 1 3 2 -1 0"], face=(), faces=0).replace(
            "element face 0", "element tristrips 1\n" + LIST)),
    ],
    "indices of nothing": [
        Case(ply([*PLACES, "3 0 1 4", TRIANGLES[1]]), says="face names the vertex 4; there are 4"),
        Case(ply([*PLACES, "3 0 1 -1", TRIANGLES[1]]), says="names the vertex -1"),
    ],
    "faces of one or two corners": [
        Case(ply([*PLACES, *TRIANGLES, "2 0 1"], faces=3), says="1 faces of fewer than 3"),
    ],
    "cut short": [
        Case(ply([*PLACES, TRIANGLES[0]]), says="of 2 rows of its element 'face', number 2 is not"),
        Case(ply(PLACES[:2]), says="4 rows of its element 'vertex' need 12 numbers at least"),
        Case(binary_ply("little")[:-1], says="number 2 is not whole"),
        Case(binary_ply("big")[:-60], says="cut short"),
    ],
    "too much": [
        Case(binary_ply("little") + b"\0\0", faces=3, area=6, says="2 bytes too many at its end"),
        Case(ply(PLACES + TRIANGLES, more="made by me"), says="'made by me' of its header is"),
        Case(ply([*PLACES, *TRIANGLES, "1"]), says="1 numbers too many at its end"),
        Case(ply([*PLACES, *(f"{t} 9 1 1" for t in TRIANGLES)]), says="behind 2 rows of 'face'"),
    ],
    "byte order mark, UTF-16": [Case(("\ufeff" + ply(PLACES + TRIANGLES)).encode())],
    "tabs, blanks, line ends, upper case": [
        Case(ply(PLACES + TRIANGLES).replace(" ", "\t")),
        Case(ply([" ".join(PLACES + TRIANGLES)])),
        Case(ply(PLACES + TRIANGLES).replace("\n", "\n  ")),
        Case(ply(PLACES + TRIANGLES).replace("\n", "\r\n")),
        Case(ply(PLACES + TRIANGLES).replace("\n", "\r")),
        Case(ply(PLACES + TRIANGLES).upper()),
        Case(binary_ply("little", "\r\n"), faces=3, area=6),
        Case(binary_ply("little", "\r"), faces=3, area=6),
        Case(binary_ply("little").replace(b"header\n", b"header\r\n"), faces=3, area=6),
    ],
    "numbers of other types, in any order": [
        Case(binary_ply("little"), faces=3, area=6, colors=[RED] * 3),
        Case(binary_ply("big"), faces=3, area=6, colors=[RED] * 3),
        Case(ply(PLACES + TRIANGLES, [f"property int {axis}" for axis in "xyz"])),
        Case(ply([f"1 0 0 {p}" for p in PLACES] + TRIANGLES,
                 [p.replace("uchar", "float") for p in RGB] + XYZ), colors=list(BOTH)),
    ],
    "numbers that are none": [
        Case(ply([*PLACES, "3 0 1 x", TRIANGLES[1]]), says="'x' is no number"),
        Case(ply([*PLACES, "3 0 1 nan", TRIANGLES[1]]), says="where a whole number belongs"),
        Case(ply(["nan -1 0", *PLACES[1:], *TRIANGLES]), says="coordinates that are not numbers"),
        Case(ply([], ["property colour x"]), says="its header has the property 'colour x'"),
    ],
    "far from the origin": [
        Case(ply(FAR + TRIANGLES, [p.replace("float", "double") for p in XYZ]), says="so far from"),
    ],
    "colours of vertices": [
        Case(ply(QUARTERS + TRIANGLES, XYZ + RGB), colors=list(BOTH)),
        Case(ply(QUARTERS + TRIANGLES, XYZ + [p.replace("uchar ", "uchar diffuse_") for p in RGB]),
             colors=list(BOTH)),
    ],
    "colours of faces": [
        Case(ply([*PLACES, "3 0 1 2 255 0 0", "3 0 2 3 0 255 0"], face=(LIST, *RGB)),
             colors=[RED, GREEN]),
        Case(ply([*PLACES, "255 0 0 4 0 1 2 3"], face=(*RGB, LIST), faces=1), colors=list(BOTH)),
    ],
    "colours of vertices and faces": [
        Case(ply([*QUARTERS, "3 0 1 2 0 0 1", "3 0 2 3 0 0 1"], XYZ + RGB, (LIST, *RGB)),
             colors=list(BOTH), says="the colours of its faces are left out"),
    ],
    "one place, several colours": [
        Case(ply([f"{p} 255 0 0" for p in PLACES] + [f"{p} 0 255 0" for p in PLACES]
                 + ["3 0 1 2", "3 4 6 7"], XYZ + RGB, vertices=8), colors=[RED, GREEN]),
    ],
    "texture coordinates": [
        mapped("red.png"),
        Case(ply([*PLACES, "3 0 1 2 6 0 0 1 0 1 1", "3 0 2 3 6 0 0 1 1 0 1"],
                 face=(LIST, "property list uchar float texcoord"),
                 more="comment TextureFile red.png"), {"red.png": png(RED)}, colors=list(BOTH)),
    ],
    "texture coordinates of nothing": [
        Case(ply([*PLACES, "3 0 1 2 6 0 0 1 0 1 1", "3 0 2 3 0"],
                 face=(LIST, "property list uchar float texcoord")), says="some faces do not have"),
    ],
    "texture": [mapped("red.png"), mapped("RED.png"), mapped("maps\\red.png")],
    "texture without coordinates": [
        Case(ply(PLACES + TRIANGLES, more="comment TextureFile red.png"), {"red.png": png(RED)},
             says="a texture of faces without"),
    ],
    "missing or broken texture": [
        mapped("nowhere.png", "its texture 'nowhere.png' is not there"),
        mapped("red.png", "its texture 'red.png' is left out", b"broken"),
    ],
    "several textures": [mapped("red.png\ncomment TextureFile b.png", "all but the first")],
    "files outside the folder": [mapped("../red0.png", "lies outside its folder")],
    "opacity": [
        Case(ply([f"{row} 100" for row in QUARTERS] + TRIANGLES,
                 [*XYZ, *RGB, "property uchar alpha"]), says="can be seen through"),
    ],
    "comments, continued lines": [Case(ply(PLACES + TRIANGLES, more="comment a\nobj_info b"))],
}  # fmt: skip

LOOP = "outer loop\n vertex -1 -1 0\n vertex 1 -1 0\n vertex 1 1 0\nendloop\n"
FACET = f"facet normal 0 0 1\n{LOOP}endfacet\n"
SOLID = f"solid a\n{FACET}{FACET.replace('x 1 -1 0', 'x -1 1 0')}endsolid a\n"


def binary_stl(header: bytes = b"x", attribute: int = 0, offset: float = 0.0) -> bytes:
    """The square in single precision."""
    rows = np.zeros(2, [("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")])
    square = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], np.float32) + offset
    rows["v"], rows["a"] = square[[[0, 1, 2], [0, 2, 3]]], attribute
    return header.ljust(80) + np.uint32(2).tobytes() + rows.tobytes()


STL: dict[str, list[Case]] = {
    "polygons, also concave": [
        Case(SOLID.replace("endloop", "vertex -1 1 0\nendloop", 1), says="with 7 corners"),
    ],
    "cut short": [
        Case(binary_stl()[:-1], says="2 triangles need 184 bytes, and it has 183"),
        Case(SOLID[:-20], says="its end is missing"),
        Case(SOLID.replace("endfacet\n", "", 1), says="begins 2 triangles and ends 1"),
    ],
    "too much": [Case(binary_stl() + b"\0\0", says="2 bytes too many at its end")],
    "byte order mark, UTF-16": [
        Case(("\ufeff" + SOLID).encode()),
        Case(SOLID.encode("utf-16")),
    ],
    "tabs, blanks, line ends, upper case": [
        Case(SOLID.replace(" ", "\t")),
        Case(SOLID.replace("\n", "\n  ")),
        Case(SOLID.replace("\n", "\r")),
        Case(SOLID.replace("\n", "\r\n")),
        Case(SOLID.upper()),
    ],
    "headers and names of any words": [
        Case(binary_stl(b"solid facet of vertex 1 2 3")),
        Case(SOLID.replace("solid a", "solid facet normal vertex 1 2 3 endsolid")),
        Case(SOLID.replace("normal 0 0 1", "normal -nan(ind) 0 0")),
        Case(SOLID + SOLID.replace("-1", "-3"), faces=4, area=20),
    ],
    "numbers that are none": [
        Case(SOLID.replace("1 1 0", "1 x 0"), says="'x' is no number"),
        Case(SOLID.replace("1 1 0", "1 nan 0"), says="coordinates that are not numbers"),
    ],
    "far from the origin": [
        Case(re.sub(r"vertex (\S+) (\S+)", r"vertex \1e8 \2e8", SOLID)
             .replace("1e8", "100000001").replace("-100000001", "99999999"), says="so far from"),
    ],
    "colours of faces": [Case(binary_stl(attribute=5), says="which may be colours, are left out")],
}  # fmt: skip

CASES = {"OBJ": OBJ, "PLY": PLY, "STL": STL}
