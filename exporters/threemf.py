"""3MF: what slicers read; millimetres, z up, colours of vertices.

The 3MF Core Specification 1.3 and its Materials and Properties Extension 1.2 (colour groups).
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import torch
from torch import Tensor

from exporters import axes, pictures
from exporters.glb import Extras, name_of
from exporters.ply import vertex_colors
from exporters.topology import find_distinct
from threed.core import files
from threed.core.mesh import Mesh

MM = 1000.0  # a world unit is a metre
MODEL = "3D/3dmodel.model"
CORE = "http://schemas.microsoft.com/3dmanufacturing/core/2015/02"
MATERIAL = "http://schemas.microsoft.com/3dmanufacturing/material/2015/02"
PACKAGE = "http://schemas.openxmlformats.org/package/2006"
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
TYPES = f"""{HEAD}<Types xmlns="{PACKAGE}/content-types">
<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>
<Default Extension="model" ContentType="application/vnd.ms-package.3dmanufacturing-3dmodel+xml"/>
</Types>
"""
RELATIONS = f"""{HEAD}<Relationships xmlns="{PACKAGE}/relationships">
<Relationship Id="model" Target="/{MODEL}"
 Type="http://schemas.microsoft.com/3dmanufacturing/2013/01/3dmodel"/>
</Relationships>
"""


def save(mesh: Mesh, path: Path, extras: Extras) -> None:
    """Write a 3MF; a texture becomes colours of vertices. Of `extras` it has name and prompt.

    The same mesh gives the same bytes.
    """
    about = {"Title": name_of(path, extras), "Application": "threed"}
    if "prompt" in extras:
        about["Description"] = str(extras["prompt"])
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        parts = {"[Content_Types].xml": TYPES, "_rels/.rels": RELATIONS}
        for name, text in (parts | {MODEL: _describe(mesh, about)}).items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, text, zipfile.ZIP_DEFLATED)
    files.write(path, content.getvalue())


def _describe(mesh: Mesh, about: dict[str, str]) -> str:
    """The text of the model: its colours, its mesh, and that it is to be made."""
    lines = [
        f'{HEAD}<model unit="millimeter" xmlns="{CORE}" xmlns:m="{MATERIAL}">',
        *(f'<metadata name="{key}">{escape(text)}</metadata>' for key, text in about.items()),
        "<resources>",
    ]
    colors, corner, own, paint = vertex_colors(mesh), mesh.faces, "", ""
    if colors is not None:
        shades, index = find_distinct(pictures.to_bytes(colors).long())
        colored = _rows('<m:color color="#%02X%02X%02XFF"/>', shades)
        lines += ['<m:colorgroup id="1">', *colored, "</m:colorgroup>"]
        corner = torch.cat([mesh.faces, index[mesh.faces]], 1)
        own, paint = ' pid="1" pindex="0"', ' pid="1" p1="%d" p2="%d" p3="%d"'
    lines += [
        f'<object id="2" type="model" name={quoteattr(about["Title"])}{own}><mesh><vertices>',
        *_rows('<vertex x="%.5f" y="%.5f" z="%.5f"/>', axes.to_z_up(mesh.vertices).double() * MM),
        "</vertices><triangles>",
        *_rows(f'<triangle v1="%d" v2="%d" v3="%d"{paint}/>', corner),
        "</triangles></mesh></object></resources>",
        '<build><item objectid="2"/></build></model>\n',
    ]
    return "\n".join(lines)


def _rows(form: str, rows: Tensor) -> list[str]:
    return [form % tuple(row) for row in rows.tolist()]
