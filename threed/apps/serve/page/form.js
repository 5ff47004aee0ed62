// The form of a system, made of its inputs' kinds. Each field has value(): the texts that a job says.

import { h } from "/page/dom.js";
import { upload } from "/page/api.js";

const PICTURES = "image/png,image/jpeg,image/webp";

// a file that is sent as soon as it is chosen; its id is the value
function filePicker(label, accept, onsent = () => {}) {
  let id = "";
  const told = h("span", { class: "dim", role: "status" });
  const input = h("input", { type: "file", accept, "aria-label": label, onchange: async () => {
    id = "";
    const [file] = input.files;
    if (!file) return;
    told.textContent = "Sending…";
    try {
      const sent = await upload(file, file.name);
      id = sent.id;
      told.textContent = sent.faces ? `${sent.faces.toLocaleString()} faces` : `${sent.width} × ${sent.height}`;
      await onsent(file);
    } catch (error) {
      told.textContent = error.message;
    }
  } });
  return { element: h("div", {}, input, " ", told), value: () => id, set: (own) => { id = own; } };
}

const position = (canvas, event) => {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]
    .map((value) => Math.min(1, Math.max(0, value)));
};

const box = ([a, b], [c, d]) =>
  [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)].map((v) => v.toFixed(2)).join(",");

// boxes dragged on a canvas: grow(box as text, what it gave before), and end(that) when one is done
function dragging(canvas, grow, end = () => {}) {
  let from = null;
  let held = null;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    from = position(canvas, event);
    held = null;
  });
  canvas.addEventListener("pointermove", (event) => {
    if (from && event.buttons & 1) held = grow(box(from, position(canvas, event)), held);
  });
  canvas.addEventListener("pointerup", () => {
    if (held) end(held);
    from = null;
  });
}

const png = (canvas) => new Promise((done) => { canvas.toBlob(done, "image/png"); });

// a picture, and of it what is meant: all of it, or a part that is dragged or typed, such as a face
function cropper(label) {
  let picture = null;
  let sent = "";
  const canvas = h("canvas", { class: "draw", width: 256, height: 256, hidden: true, "aria-label": `${label}: drag over what is meant, such as a face` });
  const context = canvas.getContext("2d");
  const place = h("input", { placeholder: "all of it", "aria-label": "The part that is meant: left, top, right, bottom, from 0 to 1", oninput: changed });
  const part = h("div", { class: "row", hidden: true }, "Part ", place, h("button", { type: "button", onclick: () => { place.value = ""; changed(); } }, "All of it"));
  const told = h("p", { class: "dim" });
  const sides = () => place.value.split(",").map(Number);
  function changed() {
    sent = "";
    const { width, height } = canvas;
    context.drawImage(picture, 0, 0, width, height);
    if (!place.value) return;
    const [left, top, right, bottom] = sides();
    context.fillStyle = "#000a";
    context.fillRect(0, 0, width, height);
    const [x, y, w, t] = [left * width, top * height, (right - left) * width, (bottom - top) * height];
    context.save();
    context.beginPath();
    context.rect(x, y, w, t);
    context.clip();
    context.drawImage(picture, 0, 0, width, height);
    context.restore();
  }
  const file = filePicker(label, PICTURES, async (chosen) => {
    picture = await createImageBitmap(chosen);
    canvas.height = Math.round((256 * picture.height) / picture.width);
    canvas.hidden = part.hidden = false;
    told.textContent = "Drag over a part, such as a face, if not all of it is meant.";
    place.value = "";
    changed();
  });
  dragging(canvas, (text) => { place.value = text; changed(); return true; });
  async function prepare() {
    if (!place.value || sent) return;
    const [left, top, right, bottom] = sides();
    const [width, height] = [(right - left) * picture.width, (bottom - top) * picture.height].map(Math.round);
    if (!(width > 0 && height > 0)) throw new Error(`${label}: the part must be left, top, right, bottom, from 0 to 1`);
    const cut = h("canvas", { width, height });
    cut.getContext("2d").drawImage(picture, -left * picture.width, -top * picture.height);
    sent = (await upload(await png(cut), "part.png")).id;
  }
  return { element: h("div", {}, file.element, canvas, told, part), prepare, value: () => (place.value ? sent : file.value()) };
}

// paint a mask: white is what is meant; over a picture if one is chosen
function maskPainter(label) {
  const canvas = h("canvas", { class: "draw", width: 256, height: 256, "aria-label": `${label}: paint what is meant` });
  const paint = document.createElement("canvas");
  paint.width = paint.height = 256;
  const pen = paint.getContext("2d");
  const context = canvas.getContext("2d");
  let picture = null;
  let painted = false;
  let sent = "";
  const size = h("input", { type: "range", min: 4, max: 64, value: 20, "aria-label": "Brush" });
  const told = h("span", { class: "dim", role: "status" });
  function show() {
    context.globalAlpha = 1;
    context.fillStyle = "#888";
    context.fillRect(0, 0, 256, 256);
    if (picture) context.drawImage(picture, 0, 0, 256, 256);
    context.globalAlpha = 0.6;
    context.drawImage(paint, 0, 0);
  }
  function stroke(event) {
    if (!(event.buttons & 1)) return;
    const [x, y] = position(canvas, event);
    pen.fillStyle = "#fff";
    pen.beginPath();
    pen.arc(256 * x, 256 * y, Number(size.value), 0, 7);
    pen.fill();
    painted = true;
    sent = "";
    show();
  }
  canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); stroke(event); });
  canvas.addEventListener("pointermove", stroke);
  const under = h("input", { type: "file", accept: "image/*", "aria-label": "A picture to paint over", onchange: async () => {
    picture = under.files[0] ? await createImageBitmap(under.files[0]) : null;
    show();
  } });
  const clear = h("button", { type: "button", onclick: () => { pen.clearRect(0, 0, 256, 256); painted = false; show(); } }, "Clear");
  const file = filePicker(`${label}: a mask`, PICTURES);
  show();
  async function prepare() {
    if (!painted || sent) return;
    const whole = document.createElement("canvas");
    whole.width = whole.height = 256;
    const mask = whole.getContext("2d");
    mask.fillRect(0, 0, 256, 256);
    mask.drawImage(paint, 0, 0);
    sent = (await upload(await png(whole), "mask.png")).id;
  }
  return {
    element: h("div", {}, canvas, h("div", { class: "row" }, "Brush", size, clear),
      h("label", {}, "Paint over ", under), h("div", { class: "dim" }, "or a mask that is there:"), file.element, told),
    prepare, value: () => sent || file.value(),
  };
}

// regions: boxes drawn by mouse or typed, each with a prompt
function boxes() {
  const colors = ["#e11", "#17e", "#1a1", "#c80", "#a1c", "#088"];
  const canvas = h("canvas", { class: "draw", width: 256, height: 256, "aria-label": "Drag to place a box" });
  const context = canvas.getContext("2d");
  const list = h("div");
  const rows = [];
  function show() {
    context.clearRect(0, 0, 256, 256);
    rows.forEach(({ place }, number) => {
      const [left, top, right, bottom] = place.value.split(",").map((value) => 256 * Number(value));
      context.strokeStyle = context.fillStyle = colors[number % colors.length];
      context.lineWidth = 3;
      context.strokeRect(left, top, right - left, bottom - top);
      context.fillText(String(number + 1), left + 5, top + 13);
    });
  }
  function add(text = "0,0,0.5,1") {
    const place = h("input", { value: text, "aria-label": "Left, top, right, bottom, from 0 to 1", oninput: show });
    const prompt = h("input", { placeholder: "what is there", "aria-label": "What is there" });
    const row = { place, prompt };
    const remove = h("button", { type: "button", "aria-label": "Remove", onclick: () => {
      rows.splice(rows.indexOf(row), 1);
      element.remove();
      show();
    } }, "×");
    const element = h("div", { class: "row" }, place, prompt, remove);
    rows.push(row);
    list.append(element);
    show();
    return row;
  }
  dragging(canvas, (text, held) => {
    const row = held || add();
    row.place.value = text;
    show();
    return row;
  }, (row) => row.prompt.focus());
  const more = h("button", { type: "button", onclick: () => add().place.focus() }, "Add a box");
  return { element: h("div", {}, canvas, list, more),
    values: () => rows.filter(({ prompt }) => prompt.value).map(({ place, prompt }) => `${place.value}:${prompt.value}`) };
}

function one(name, kind, placeholder, offered) {
  if (kind === "picture") return cropper(name);
  if (kind === "pose") return filePicker(name, PICTURES);
  if (kind === "mask") return maskPainter(name);
  if (["map", "word with a look", "word with a place", "garment"].includes(kind)) {
    const hints = { map: "its kind, such as edges-map", garment: "what it is, such as shirt" };
    const word = h("input", { placeholder: hints[kind] || "the word", "aria-label": `${name}: ${kind}` });
    const file = filePicker(name, PICTURES);
    const value = () => (file.value() && (word.value || kind === "garment") ? [word.value, file.value()].filter(Boolean).join(":") : "");
    return { element: h("div", {}, word, file.element), value };
  }
  if (["weights", "what was learned", "file", "keypoints", "planner"].includes(kind)) {
    const names = kind === "planner" ? ["rules"] : offered;
    const select = h("select", { "aria-label": name }, h("option", { value: "" }, names.length ? "—" : "none are offered here"),
      ...names.map((value) => h("option", { value }, value)));
    return { element: select, value: () => select.value };
  }
  const text = h("input", { placeholder, "aria-label": name });
  return { element: text, value: () => text.value };
}

// the fields of a system, by name: { element, ready(): texts }
export function fields(schema, offered) {
  const { properties, required } = schema.properties.inputs;
  return Object.entries(properties).map(([name, about]) => {
    const many = about.type === "array";
    const { kind, placeholder } = many ? about.items : about;
    const title = h("strong", {}, name + (required.includes(name) ? " (needed)" : ""));
    const said = h("p", { class: "dim" }, about.description);
    if (["region", "subject"].includes(kind)) {
      const drawn = boxes();
      return { name, element: h("div", { class: "input" }, title, said, drawn.element), ready: async () => drawn.values() };
    }
    const list = h("div");
    const all = [];
    const add = () => {
      const field = one(name, kind, placeholder, offered);
      all.push(field);
      list.append(field.element);
    };
    add();
    const more = many ? h("button", { type: "button", onclick: add }, "One more") : null;
    const ready = async () => {
      for (const field of all) await field.prepare?.();
      return all.map((field) => field.value()).filter(Boolean);
    };
    return { name, element: h("div", { class: "input" }, title, said, list, more), ready };
  });
}

export const meshPicker = (label) => filePicker(label, ".glb,.obj,.ply,.stl");
