"""A viewer of GLBs for browsers, which asks for nothing from elsewhere: everything is in its page.

The script is the one of the page of `threed serve`.
"""

from __future__ import annotations

import html
from base64 import b64encode
from pathlib import Path

SCRIPT = Path(__file__).with_suffix(".js")
PAGE = """<!doctype html>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ margin: 0; }}
canvas, img {{ display: block; width: 100%; max-width: {side}px; }}
canvas {{ aspect-ratio: 1; touch-action: none; cursor: grab; }}
</style>
<canvas tabindex="0" role="img" aria-label="{title}: drag or arrow keys turn it, wheel or + and -
 come nearer, P hides the colours"></canvas>
<script type="module">
{script}
const canvas = document.querySelector("canvas");
try {{
  const glb = Uint8Array.from(atob("{glb}"), (letter) => letter.charCodeAt(0));
  const shown = await view(canvas, glb.buffer);
  let turning = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  for (const name of ["pointerdown", "keydown", "wheel"])
    canvas.addEventListener(name, () => {{ turning = false; }});
  const turn = () => {{ if (turning) {{ shown.turn(0.01); requestAnimationFrame(turn); }} }};
  turn();
}} catch (error) {{
  const picture = Object.assign(document.createElement("img"), {{ alt: document.title }});
  picture.src = "data:image/png;base64,{picture}";
  canvas.replaceWith(picture);
}}
</script>
"""


def page(glb: bytes, picture: bytes, title: str, side: int = 480) -> str:
    """A page of HTML on which a GLB turns, and can be turned; where that cannot be, a picture.

    picture: a PNG. side: pixels, at most.
    """
    return PAGE.format(
        title=html.escape(title), script=SCRIPT.read_text(encoding="utf-8"), side=side,
        glb=b64encode(glb).decode(), picture=b64encode(picture).decode(),
    )  # fmt: skip


def frame(glb: bytes, picture: bytes, title: str, side: int = 480) -> str:
    """The same as an element of a page of others, which it cannot reach: for notebooks."""
    inner = html.escape(page(glb, picture, title, side))
    return (f'<iframe srcdoc="{inner}" title="{html.escape(title)}" sandbox="allow-scripts" '
            f'width="{side}" height="{side}" frameborder="0"></iframe>')  # fmt: skip
