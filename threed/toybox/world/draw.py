"""Drawing the toybox world: sphere tracing of coloured solids, with the truth of every pixel.

One picture is one call on one core; nothing is shared, so threads may draw side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from threed.toybox.world.emblems import BITMAPS

Array = NDArray[np.float32]

ELLIPSOID, BOX, FRUSTUM, TORUS = 0, 1, 2, 3
EMBLEM = 4  # not a solid: this, plus which of BITMAPS, lies as paint on the solid before it
PLAIN, STRIPED, DOTTED, CHECKERED = 0, 1, 2, 3
ZIGZAG, SPECKLED, MARBLED, HOOPED = 4, 5, 6, 7  # of subjects; no caption names them

# columns of a packed part; FRAME is where its finish lives: origin, size, cosine and sine of a turn
# about z; GROUP is what its pixels are counted for
SHAPE, CUT, CENTER, ROTATION, SIZE, COLOR = 0, 1, 2, 5, 14, 18
FINISH, BOUND, SECOND, FRAME, GROUP, WIDTH = 21, 22, 23, 26, 32, 33


@dataclass(frozen=True)
class Light:
    """A lamp far away and an even sky; both have the colour white."""

    direction: tuple[float, float, float] = (0.4, 0.3, 0.85)  # unit, towards the lamp
    ambient: float = 0.62  # brightness of a surface that the lamp does not reach, 0 to 1


@dataclass(frozen=True)
class Picture:
    """What one camera sees, with its truth; row 0 is the top."""

    rgb: Array  # [H, W, 3] sRGB in [0, 1] over the background
    alpha: Array  # [H, W] share of the pixel that is covered
    depth: Array  # [H, W] distance along the ray, world units; 0 where empty
    normal: Array  # [H, W, 3] world space, unit length; 0 where empty
    part: NDArray[np.int32]  # [H, W] index of the part seen, -1 where empty
    cover: Array  # [H, W, G] share of the pixel that each group of parts covers


def draw(
    parts: Array,
    c2w: Array,
    fov_y: float,
    size: int,
    light: Light,
    background: Array,
    samples: int = 2,
) -> Picture:
    """Draw packed parts [P, WIDTH] from one camera.

    c2w [4, 4] and fov_y (radians) as in threed.core.Cameras; background is a picture [size, size,
    3], or [2, 3] the colours of the top and the bottom row; samples² rays are averaged in a pixel.
    """
    if background.shape == (2, 3):
        mix = np.linspace(0, 1, size)[:, None]
        rows = background[0] * (1 - mix) + background[1] * mix
        background = np.repeat(rows[:, None].astype(np.float32), size, axis=1)
    rgb, normal = np.empty((2, size, size, 3), np.float32)
    alpha, depth = np.empty((2, size, size), np.float32)
    part = np.empty((size, size), np.int32)
    cover = np.zeros((size, size, int(parts[:, GROUP].max()) + 1), np.float32)
    lamp = np.array([*light.direction, light.ambient], np.float32)
    drawn = (rgb, alpha, depth, normal, part, cover)
    _draw(parts, c2w, float(np.tan(fov_y / 2)), samples, lamp, background, BITMAPS, *drawn)
    return Picture(*drawn)


@njit(cache=True, nogil=True, fastmath=True)
def _solid(q: Any, x: Any, y: Any, z: Any) -> Any:
    """Signed distance from a world point to packed part q (negative inside)."""
    x, y, z = x - q[2], y - q[3], z - q[4]
    px = q[5] * x + q[6] * y + q[7] * z
    py = q[8] * x + q[9] * y + q[10] * z
    pz = q[11] * x + q[12] * y + q[13] * z
    a, b, c, e = q[14], q[15], q[16], q[17]
    shape = int(q[0])
    if shape == 0:  # ellipsoid with radii a, b, c (first-order distance)
        k0 = np.sqrt((px / a) ** 2 + (py / b) ** 2 + (pz / c) ** 2)
        k1 = np.sqrt((px / a**2) ** 2 + (py / b**2) ** 2 + (pz / c**2) ** 2)
        return k0 * (k0 - 1) / max(k1, 1e-6)
    if shape == 1:  # box with half sides a, b, c, rounded by e
        dx, dy, dz = abs(px) - a + e, abs(py) - b + e, abs(pz) - c + e
        out = np.sqrt(max(dx, 0.0) ** 2 + max(dy, 0.0) ** 2 + max(dz, 0.0) ** 2)
        return out + min(max(dx, max(dy, dz)), 0.0) - e
    if shape == 2:  # frustum: radius a at z = -c, b at z = c, rounded by e
        r = np.sqrt(px * px + py * py)
        a, b, h = a - e, b - e, c - e
        cax = r - min(r, a if pz < 0 else b)
        cay = abs(pz) - h
        kx, ky = b - a, 2 * h
        t = ((b - r) * kx + (h - pz) * ky) / (kx * kx + ky * ky)
        t = min(max(t, 0.0), 1.0)
        cbx, cby = r - b + kx * t, pz - h + ky * t
        sign = -1.0 if (cbx < 0 and cay < 0) else 1.0
        return sign * np.sqrt(min(cax * cax + cay * cay, cbx * cbx + cby * cby)) - e
    r = np.sqrt(px * px + py * py) - a  # torus around z: ring radius a, tube radius b
    return np.sqrt(r * r + pz * pz) - b


@njit(cache=True, nogil=True, fastmath=True)
def _carved(parts: Any, i: Any, x: Any, y: Any, z: Any) -> Any:
    """Distance to solid i less the cut parts right after it, and which part's surface that is."""
    distance, owner = _solid(parts[i], x, y, z), i
    for j in range(i + 1, len(parts)):
        if parts[j, 1] < 0.5:
            break
        d = -_solid(parts[j], x, y, z)
        if d > distance:
            distance, owner = d, j
    return distance, owner


@njit(cache=True, nogil=True, fastmath=True)
def _hit(parts: Any, ox: Any, oy: Any, oz: Any, dx: Any, dy: Any, dz: Any) -> Any:
    """The part that a ray meets first, -1 for none, and how far away.

    Each solid is traced by itself, so that what one pixel shows of it depends on nothing else: an
    added hat changes no pixel that it does not cover.
    """
    which, best = -1, 1e9
    for i in range(len(parts)):
        if parts[i, 1] > 0.5 or parts[i, 0] > 3.5:
            continue
        cx, cy, cz = parts[i, 2] - ox, parts[i, 3] - oy, parts[i, 4] - oz
        along = cx * dx + cy * dy + cz * dz
        gap = cx * cx + cy * cy + cz * cz - along * along
        r2 = parts[i, 22] * parts[i, 22]
        if gap >= r2:
            continue
        half = np.sqrt(r2 - gap)
        t, end = along - half, along + half
        if t >= best:
            continue
        for _ in range(80):
            d, owner = _carved(parts, i, ox + t * dx, oy + t * dy, oz + t * dz)
            if d < 1.5e-3:
                if t < best:
                    which, best = owner, t
                break
            t += 0.9 * d
            if t > end or t >= best:
                break
    return which, best


@njit(cache=True, nogil=True, fastmath=True)
def _is_second(q: Any, x: Any, y: Any, z: Any) -> Any:
    """Whether a point of packed part q has the finish's second colour."""
    finish = int(q[21])
    if finish == 0:
        return False
    dx, dy, dz = (x - q[26]) / q[29], (y - q[27]) / q[29], (z - q[28]) / q[29]
    x, y, z = q[30] * dx + q[31] * dy, q[30] * dy - q[31] * dx, dz
    if finish == 1:
        return (z * 4.2 + 0.25) % 1.0 < 0.45
    if finish == 2:
        u, v, w = (x * 3.4) % 1.0 - 0.5, (y * 3.4) % 1.0 - 0.5, (z * 3.4) % 1.0 - 0.5
        return u * u + v * v + w * w < 0.15
    if finish == 3:
        n = np.floor(x * 3.6 + 0.5) + np.floor(y * 3.6 + 0.5) + np.floor(z * 3.6 + 0.5)
        return n % 2.0 > 0.5
    if finish == 4:
        return (z * 3.4 + 0.9 * abs((np.arctan2(y, x) * 1.9) % 1.0 - 0.5)) % 1.0 < 0.42
    if finish == 5:
        n = np.floor(x * 9.0) * 12.9898 + np.floor(y * 9.0) * 78.233 + np.floor(z * 9.0) * 37.719
        return (np.sin(n) * 43758.547) % 1.0 < 0.3
    if finish == 6:
        wave = np.sin(5.1 * x + 2.2 * np.sin(4.3 * z + 1.0)) + np.sin(
            4.7 * y + 2.6 * np.sin(5.9 * x)
        )
        return wave + np.sin(6.1 * z + 1.8 * y) > 0.75
    return (np.arctan2(y, x) * 1.5915494 + 0.25) % 1.0 < 0.4


@njit(cache=True, nogil=True, fastmath=True)
def _emblem_on(parts: Any, bitmaps: Any, i: Any, x: Any, y: Any, z: Any, n: Any) -> Any:
    """The row of the emblem that a point of part i with the normal n shows, -1 for none.

    An emblem is projected along its own x, onto what faces that way.
    """
    size = bitmaps.shape[1]
    if parts[i, 1] > 0.5:  # the inside of something hollow
        return -1
    for j in range(i + 1, len(parts)):
        q = parts[j]
        if q[1] > 0.5:
            continue
        if q[0] < 3.5:
            break
        if q[5] * n[0] + q[6] * n[1] + q[7] * n[2] < 0.25:
            continue
        dx, dy, dz = x - q[2], y - q[3], z - q[4]
        u = (q[8] * dx + q[9] * dy + q[10] * dz) / q[14]
        v = (q[11] * dx + q[12] * dy + q[13] * dz) / q[14]
        if abs(u) < 1.0 and abs(v) < 1.0:
            row, column = int((1.0 - v) / 2 * size), int((1.0 + u) / 2 * size)
            if bitmaps[int(q[0]) - 4, row, column]:
                return j
    return -1


@njit(cache=True, nogil=True, fastmath=True)
def _normal(q: Any, x: Any, y: Any, z: Any) -> Any:
    """The unit normal of packed part q at a point of its surface; of a cut it points inwards."""
    e = 2e-3
    f = _solid(q, x, y, z)
    gx = _solid(q, x + e, y, z) - f
    gy = _solid(q, x, y + e, z) - f
    gz = _solid(q, x, y, z + e) - f
    length = max(np.sqrt(gx * gx + gy * gy + gz * gz), 1e-9)
    length = -length if q[1] > 0.5 else length
    return gx / length, gy / length, gz / length


@njit(cache=True, nogil=True, fastmath=True)
def _draw(
    parts: Any, c2w: Any, tan: Any, samples: Any, lamp: Any, background: Any, bitmaps: Any,
    rgb: Any, alpha: Any, depth: Any, normal: Any, part: Any, cover: Any,
) -> None:  # fmt: skip
    size, rays = rgb.shape[0], samples * samples
    ox, oy, oz = c2w[0, 3], c2w[1, 3], c2w[2, 3]
    for row in range(size):
        for column in range(size):
            total = np.zeros(3)
            n = np.zeros(3)
            hits, far, seen = 0, 0.0, -1
            for s in range(rays):
                u = (2 * (column + (s % samples + 0.5) / samples) / size - 1) * tan
                v = (1 - 2 * (row + (s // samples + 0.5) / samples) / size) * tan
                dx = c2w[0, 0] * u + c2w[0, 1] * v - c2w[0, 2]
                dy = c2w[1, 0] * u + c2w[1, 1] * v - c2w[1, 2]
                dz = c2w[2, 0] * u + c2w[2, 1] * v - c2w[2, 2]
                length = np.sqrt(dx * dx + dy * dy + dz * dz)
                dx, dy, dz = dx / length, dy / length, dz / length
                which, t = _hit(parts, ox, oy, oz, dx, dy, dz)
                if which < 0:
                    for c in range(3):
                        total[c] += background[row, column, c]
                    continue
                x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                q = parts[which]
                gx, gy, gz = _normal(q, x, y, z)
                facing = max(gx * lamp[0] + gy * lamp[1] + gz * lamp[2], 0.0)
                shade = lamp[3] * (0.9 + 0.1 * gz) + (1 - lamp[3]) * facing
                color = 23 if _is_second(q, x, y, z) else 18
                emblem = _emblem_on(parts, bitmaps, which, x, y, z, (gx, gy, gz))
                if emblem >= 0:
                    q, color = parts[emblem], 18
                for c, g in enumerate((gx, gy, gz)):
                    total[c] += min(q[color + c] * shade * 1.04, 1.0)
                    n[c] += g
                hits, far, seen = hits + 1, far + t, which
                cover[row, column, int(q[32])] += 1.0 / rays
            alpha[row, column] = hits / rays
            depth[row, column] = far / hits if hits else 0.0
            part[row, column] = seen
            length = np.sqrt(n[0] ** 2 + n[1] ** 2 + n[2] ** 2)
            for c in range(3):
                rgb[row, column, c] = total[c] / rays
                normal[row, column, c] = n[c] / length if length > 1e-6 else 0.0
