// A GLB that can be turned: one draw call for each of its primitives, nothing but WebGL.

const SIZES = { SCALAR: 1, VEC2: 2, VEC3: 3, VEC4: 4 };
const ARRAYS = { 5121: Uint8Array, 5123: Uint16Array, 5125: Uint32Array, 5126: Float32Array };
const VERTEX = `#version 300 es
in vec3 place; in vec3 normal; in vec2 uv; in vec4 color;
uniform mat4 view; uniform mat4 turn; uniform mat4 node;
out vec3 n; out vec2 t; out vec4 c;
void main() {
  n = mat3(turn) * mat3(node) * normal; t = uv; c = color;
  gl_Position = view * turn * node * vec4(place, 1.0);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 n; in vec2 t; in vec4 c;
uniform sampler2D albedo; uniform vec4 factor; uniform bool plain;
out vec4 shown;
void main() {
  vec3 m = normalize(gl_FrontFacing ? n : -n);
  float light = 0.55 + 0.35 * max(dot(m, normalize(vec3(0.4, 0.7, 0.8))), 0.0) + 0.1 * m.y;
  vec3 own = plain ? vec3(0.8) : texture(albedo, t).rgb * factor.rgb * c.rgb;
  shown = vec4(own * light, 1.0);
}`;

// the parts of a GLB: its JSON, and what its accessors hold
function parse(buffer) {
  const data = new DataView(buffer);
  if (data.getUint32(0, true) !== 0x46546c67) throw new Error("this is no GLB");
  const length = data.getUint32(12, true);
  const json = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 20, length)));
  const start = 20 + length + 8;
  const bytes = (view) => {
    const { byteOffset = 0, byteLength } = json.bufferViews[view];
    return new Uint8Array(buffer, start + byteOffset, byteLength);
  };
  const array = (index) => {
    const { bufferView, byteOffset = 0, componentType, count, type } = json.accessors[index];
    const view = bytes(bufferView);
    const length = count * SIZES[type];
    const Kind = ARRAYS[componentType];
    const from = view.byteOffset + byteOffset;
    return new Kind(buffer.slice(from, from + length * Kind.BYTES_PER_ELEMENT));
  };
  return { json, bytes, array };
}

// matrices, by columns
const multiply = (a, b) => {
  const out = new Float32Array(16);
  for (let i = 0; i < 4; i++) for (let j = 0; j < 4; j++)
    for (let k = 0; k < 4; k++) out[4 * j + i] += a[4 * k + i] * b[4 * j + k];
  return out;
};
const identity = () => new Float32Array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);

function local(node) {
  if (node.matrix) return new Float32Array(node.matrix);
  const [x, y, z, w] = node.rotation || [0, 0, 0, 1];
  const [a, b, c] = node.scale || [1, 1, 1];
  const [p, q, r] = node.translation || [0, 0, 0];
  return new Float32Array([
    a * (1 - 2 * (y * y + z * z)), a * 2 * (x * y + z * w), a * 2 * (x * z - y * w), 0,
    b * 2 * (x * y - z * w), b * (1 - 2 * (x * x + z * z)), b * 2 * (y * z + x * w), 0,
    c * 2 * (x * z + y * w), c * 2 * (y * z - x * w), c * (1 - 2 * (x * x + y * y)), 0,
    p, q, r, 1]);
}

function program(gl) {
  const found = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(found, shader);
  }
  ["place", "normal", "uv", "color"].forEach((name, i) => gl.bindAttribLocation(found, i, name));
  gl.linkProgram(found);
  if (!gl.getProgramParameter(found, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(found));
  return found;
}

async function texture(gl, glb, index) {
  const found = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, found);
  if (index === undefined) {
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, 1, 1, 0, gl.RGBA, gl.UNSIGNED_BYTE,
      new Uint8Array([255, 255, 255, 255]));
    return found;
  }
  const image = glb.json.images[glb.json.textures[index].source];
  const picture = await createImageBitmap(
    new Blob([glb.bytes(image.bufferView)], { type: image.mimeType }), { colorSpaceConversion: "none" });
  gl.bindTexture(gl.TEXTURE_2D, found);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, picture);
  gl.generateMipmap(gl.TEXTURE_2D);
  return found;
}

function attribute(gl, place, array, size, kind) {
  if (!array) return;
  gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ARRAY_BUFFER, array, gl.STATIC_DRAW);
  gl.enableVertexAttribArray(place);
  gl.vertexAttribPointer(place, size, kind, kind !== gl.FLOAT, 0, 0);
}

async function part(gl, glb, primitive, node) {
  const { attributes, indices, material = -1 } = primitive;
  const vao = gl.createVertexArray();
  gl.bindVertexArray(vao);
  const places = glb.array(attributes.POSITION);
  const corners = indices === undefined
    ? Uint32Array.from({ length: places.length / 3 }, (_, i) => i) : Uint32Array.from(glb.array(indices));
  attribute(gl, 0, places, 3, gl.FLOAT);
  attribute(gl, 1, attributes.NORMAL === undefined ? normals(places, corners) : glb.array(attributes.NORMAL), 3, gl.FLOAT);
  if (attributes.TEXCOORD_0 !== undefined) attribute(gl, 2, glb.array(attributes.TEXCOORD_0), 2, gl.FLOAT);
  gl.vertexAttrib4f(3, 1, 1, 1, 1);
  if (attributes.COLOR_0 !== undefined) {
    const { componentType, type } = glb.json.accessors[attributes.COLOR_0];
    attribute(gl, 3, glb.array(attributes.COLOR_0), SIZES[type], componentType);
  }
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, corners, gl.STATIC_DRAW);
  gl.bindVertexArray(null);
  const look = (glb.json.materials || [])[material]?.pbrMetallicRoughness || {};
  return { vao, count: corners.length, node, places, factor: look.baseColorFactor || [1, 1, 1, 1],
    picture: await texture(gl, glb, look.baseColorTexture?.index) };
}

function normals(places, corners) {
  const found = new Float32Array(places.length);
  for (let i = 0; i < corners.length; i += 3) {
    const [a, b, c] = [0, 1, 2].map((j) => 3 * corners[i + j]);
    const [u, v] = [b, c].map((p) => [0, 1, 2].map((k) => places[p + k] - places[a + k]));
    const n = [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
    for (const p of [a, b, c]) n.forEach((value, k) => { found[p + k] += value; });
  }
  return found;
}

function bounds(parts) {
  const low = [Infinity, Infinity, Infinity];
  const high = low.map((value) => -value);
  for (const { places, node } of parts) {
    for (let i = 0; i < places.length; i += 3) for (let k = 0; k < 3; k++) {
      const value = node[k] * places[i] + node[4 + k] * places[i + 1] + node[8 + k] * places[i + 2] + node[12 + k];
      low[k] = Math.min(low[k], value);
      high[k] = Math.max(high[k], value);
    }
  }
  const middle = low.map((value, k) => (value + high[k]) / 2);
  return { middle, radius: Math.hypot(...high.map((value, k) => value - low[k])) / 2 || 1 };
}

function pointers(canvas, state, draw) {
  const held = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    held.set(event.pointerId, event);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = held.get(event.pointerId);
    if (!before) return;
    const other = [...held.values()].find((one) => one.pointerId !== event.pointerId);
    if (other) {
      const far = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      state.far *= far(before) / far(event);
    } else {
      state.azimuth += (event.clientX - before.clientX) * 0.01;
      state.elevation += (event.clientY - before.clientY) * 0.01;
    }
    held.set(event.pointerId, event);
    draw();
  });
  for (const name of ["pointerup", "pointercancel"])
    canvas.addEventListener(name, (event) => held.delete(event.pointerId));
  canvas.addEventListener("wheel", (event) => {
    event.preventDefault();
    state.far *= Math.exp(event.deltaY * 0.001);
    draw();
  }, { passive: false });
  const keys = { ArrowLeft: ["azimuth", -0.15], ArrowRight: ["azimuth", 0.15],
    ArrowUp: ["elevation", -0.15], ArrowDown: ["elevation", 0.15], "+": ["far", -0.2], "-": ["far", 0.2] };
  canvas.addEventListener("keydown", (event) => {
    if (event.key === "p") state.plain = !state.plain;
    else if (keys[event.key]) state[keys[event.key][0]] += keys[event.key][1];
    else return;
    event.preventDefault();
    draw();
  });
}

// show a GLB on a canvas; throws where there is no WebGL, or the file is none that it knows
export async function view(canvas, buffer) {
  const gl = canvas.getContext("webgl2", { antialias: true, preserveDrawingBuffer: true });
  if (!gl) throw new Error("this browser has no WebGL");
  const glb = parse(buffer);
  const parts = [];
  const walk = async (index, above) => {
    const node = glb.json.nodes[index];
    const placed = multiply(above, local(node));
    if (node.mesh !== undefined)
      for (const primitive of glb.json.meshes[node.mesh].primitives)
        if ((primitive.mode ?? 4) === 4) parts.push(await part(gl, glb, primitive, placed));
    for (const child of node.children || []) await walk(child, placed);
  };
  for (const root of glb.json.scenes[glb.json.scene || 0].nodes) await walk(root, identity());
  const { middle, radius } = bounds(parts);
  const shaders = program(gl);
  const at = (name) => gl.getUniformLocation(shaders, name);
  const state = { azimuth: 0.5, elevation: 0.35, far: 2.6, plain: false };

  function draw() {
    const side = Math.min(1024, Math.round(canvas.clientWidth * devicePixelRatio)) || 512;
    if (canvas.width !== side) canvas.width = canvas.height = side;
    state.elevation = Math.max(-1.55, Math.min(1.55, state.elevation));
    state.far = Math.max(1.1, Math.min(8, state.far));
    gl.viewport(0, 0, side, side);
    gl.clearColor(0.93, 0.93, 0.94, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(shaders);
    const [a, b] = [Math.cos(state.azimuth), Math.sin(state.azimuth)];
    const [c, d] = [Math.cos(state.elevation), Math.sin(state.elevation)];
    const turn = new Float32Array([a, b * d, -b * c, 0, 0, c, d, 0, b, -a * d, a * c, 0, 0, 0, 0, 1]);
    const s = 1 / radius;
    const centre = new Float32Array([s, 0, 0, 0, 0, s, 0, 0, 0, 0, s, 0, ...middle.map((v) => -v * s), 1]);
    const [near, end, f] = [0.05, 12, 1 / Math.tan(0.4)];
    const view = new Float32Array([f, 0, 0, 0, 0, f, 0, 0, 0, 0, (end + near) / (near - end), -1,
      0, 0, (2 * end * near) / (near - end) + state.far * (end + near) / (end - near), state.far]);
    gl.uniformMatrix4fv(at("view"), false, view);
    gl.uniformMatrix4fv(at("turn"), false, multiply(turn, centre));
    gl.uniform1i(at("plain"), state.plain);
    for (const { vao, count, node, factor, picture } of parts) {
      gl.bindTexture(gl.TEXTURE_2D, picture);
      gl.uniformMatrix4fv(at("node"), false, node);
      gl.uniform4fv(at("factor"), factor);
      gl.bindVertexArray(vao);
      gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_INT, 0);
    }
  }

  pointers(canvas, state, draw);
  draw();
  return { draw, turn: (azimuth) => { state.azimuth += azimuth; draw(); } };
}
