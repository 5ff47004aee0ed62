// The page: what to make, the job at hand, all jobs. The address names the job, so it is found again.

import { $, h, options } from "/page/dom.js";
import { get, send, setToken } from "/page/api.js";
import { fields, meshPicker } from "/page/form.js";
import { gallery } from "/page/gallery.js";
import { cancel, compare, show } from "/page/job.js";
import { OVER, thumbnail } from "/page/pictures.js";

const EXAMPLES = ["a red mug", "a striped blue teapot", "a green toy car", "a yellow duck"];
const KINDS = {
  generate: ["3D asset", "prompt"], image: ["Picture", "prompt"],
  texture: ["Paint a mesh", "prompt"], edit3d: ["Edit an asset", "instruction"],
};
const page = { systems: {}, models: [], inputs: [], mesh: null, before: undefined, job: null };

const kind = () => document.querySelector("input[name=kind]:checked").value;
const field = (name, label, element) => h("label", { id: `for-${name}` }, label, Object.assign(element, { id: name }));

function build() {
  $("kinds").append(...Object.entries(KINDS).map(([value, [text]]) =>
    h("label", {}, h("input", { type: "radio", name: "kind", value, checked: value === "generate", onchange: arrange }), text)));
  $("examples").append(...EXAMPLES.map((text) =>
    h("button", { type: "button", onclick: () => { $("prompt").value = text; $("prompt").focus(); } }, text)));
  $("common").append(
    field("preset", "Preset", h("select")), field("backbone", "Backbone", h("select")),
    field("seed", "Seed", h("input", { type: "number", min: 0, max: 2147483647, placeholder: "0" })),
    field("candidates", "Candidates", h("input", { type: "number", min: 1, max: 16, value: 1 })),
    field("best_of", "Best of (begun)", h("input", { type: "number", min: 1, max: 64, placeholder: "1" })));
  options($("state"), [["", "all"], ...["waiting", "running", "done", "failed", "cancelled"].map((name) => [name, name])]);
  $("system").onchange = choose;
  $("ask").onsubmit = ask;
  $("door").onsubmit = (event) => { event.preventDefault(); setToken($("token").value); start(); };
  $("older").onclick = () => history(true);
  $("words").oninput = $("state").onchange = () => history();
  addEventListener("hashchange", open);
  arrange();
}

// show what the kind of job has
function arrange() {
  const made = kind();
  $("prompt-label").textContent = made === "edit3d" ? "What to do" : made === "texture" ? "What it is" : "Prompt";
  $("prompt").placeholder = made === "edit3d" ? "make it blue" : "a red mug";
  const has = { preset: made !== "image", best_of: made === "generate", settings: made !== "image",
    system: ["generate", "image"].includes(made) };
  for (const name of ["preset", "best_of"]) $(`for-${name}`).hidden = !has[name];
  $("settings-label").hidden = !has.settings;
  for (const name of ["system", "knobs"]) $(name).closest("label").hidden = !has.system;
  $("claim").hidden = $("inputs").hidden = !has.system;
  $("mesh").hidden = made === "image";
  $("mesh-label").textContent = made === "generate" ? "A mesh to begin with (if any)" : "The mesh";
}

function useMesh(reference, title, made) {
  if (made) document.querySelector(`input[name=kind][value=${made}]`).checked = true;
  page.mesh.set(reference);
  $("mesh-said").textContent = reference ? `of ${title}` : "";
  arrange();
  $("prompt").focus();
}

function meshes() {
  page.mesh = meshPicker("A mesh");
  $("mesh").replaceChildren(h("span", { id: "mesh-label" }), page.mesh.element, h("span", { id: "mesh-said", class: "dim" }));
}

function choose() {
  const schema = page.systems[$("system").value];
  page.inputs = schema ? fields(schema, page.models) : [];
  $("inputs").replaceChildren(...page.inputs.map(({ element }) => element));
  $("claim").textContent = schema ? schema.description : "";
  const knobs = Object.entries(schema?.properties.knobs.properties || {});
  $("knobs").placeholder = knobs.map(([name, about]) => `${name}=${about.default ?? ""}`).join(" ");
}

const words = (text) => text.split(/\s+/).filter(Boolean);

async function wanted() {
  const made = kind();
  const [, asked] = KINDS[made];
  const job = { job: made, [asked]: $("prompt").value };
  const mesh = page.mesh.value();
  if (made !== "image" && mesh) job[{ generate: "init", texture: "mesh", edit3d: "asset" }[made]] = mesh;
  for (const name of ["preset", "backbone"]) if (!$(`for-${name}`).hidden && $(name).value) job[name] = $(name).value;
  if (made === "generate" && $("best_of").value) job.best_of = Number($("best_of").value);
  if (made !== "image" && $("settings").value) job.settings = words($("settings").value);
  if (["generate", "image"].includes(made) && $("system").value) {
    job.system = $("system").value;
    job.inputs = {};
    for (const { name, ready } of page.inputs) {
      const texts = await ready();
      if (texts.length) job.inputs[name] = texts;
    }
    if ($("knobs").value) job[made === "image" ? "knobs" : "knob"] = words($("knobs").value);
  }
  return job;
}

async function ask(event) {
  event.preventDefault();
  $("refused").textContent = "";
  $("go").disabled = true;
  try {
    const job = await wanted();
    const count = Math.max(1, Math.min(16, Number($("candidates").value) || 1));
    const seed = $("seed").value === "" ? null : Number($("seed").value);
    let first = null;
    for (let number = 0; number < count; number++) {
      const own = seed === null && count === 1 ? {} : { seed: (seed || 0) + number };
      const made = await send("POST", "/v1/jobs", { ...job, ...own });
      first ||= made;
    }
    location.hash = first.id;
    open();
    history();
  } catch (error) {
    refuse(error);
  }
  $("go").disabled = false;
}

function refuse(error) {
  if (error.status === 401) $("door").hidden = false;
  $("refused").textContent = error.message;
}

function open() {
  const id = location.hash.slice(1);
  for (const item of $("history").children) item.setAttribute("aria-current", String(item.id === `job-${id}`));
  if (/^[0-9a-f]{32}$/.test(id)) show($("now"), id, acts);
}

// what a job that is shown has done
const acts = {
  useMesh,
  changed: () => history(),
  compare: (job) => compare($("sides"), job),
  made: (job) => { location.hash = job.id; history(); },
  shown: (job) => {
    const other = page.job?.id !== job.id;
    page.job = job;
    if (other) candidates();
  },
};

const candidates = () => page.job && gallery($("gallery"), page.job, acts.changed).catch(refuse);

let asked = 0;
async function history(older = false) {
  const mine = ++asked;
  const query = new URLSearchParams({ state: $("state").value, words: $("words").value, limit: 24 });
  if (older) query.set("before", page.before);
  let jobs;
  try {
    jobs = await get(`/v1/jobs?${query}`);
    const { jobs: counts, left, trouble } = await get("/v1/status");
    $("counts").textContent = Object.entries(counts).filter(([, n]) => n).map(([name, n]) => `${n} ${name}`).join(", ") +
      (left ? `; about ${left < 100 ? `${Math.ceil(left)} s` : `${Math.round(left / 60)} min`} left` : "");
    $("trouble").hidden = !trouble;
    $("trouble").textContent = trouble;
  } catch (error) {
    return refuse(error);
  }
  if (mine !== asked) return;
  const items = jobs.map((job) => h("li", { id: `job-${job.id}` }, thumbnail(job),
    h("button", { class: "open", onclick: () => { location.hash = job.id; $("now").focus(); } }, job.title,
      h("span", { class: "dim" }, h("br"), `${job.job.job || ""} · ${job.state} · ${job.job.seed ?? "seed of the preset"}`)),
    OVER.includes(job.state) ? null : cancel(job, acts)));
  older ? $("history").append(...items) : $("history").replaceChildren(...items);
  page.before = jobs.length ? jobs.at(-1).number : 0;
  $("older").hidden = jobs.length < 24;
  const id = location.hash.slice(1);
  document.getElementById(`job-${id}`)?.setAttribute("aria-current", "true");
  candidates();
}

async function start() {
  try {
    const [systems, presets, backbones, models] = await Promise.all(
      ["systems", "presets", "backbones", "models"].map((name) => get(`/v1/${name}`)));
    $("door").hidden = true;
    $("refused").textContent = "";
    page.systems = systems;
    page.models = models;
    options($("system"), [["", "none: the prompt alone"], ...Object.keys(systems).map((name) => [name, name])]);
    options($("preset"), [["", "what suits"], ...Object.entries(presets).map(([name, { about }]) => [name, `${name}: ${about}`])]);
    options($("backbone"), [["", "what suits"], ...backbones.map((name) => [name, name])]);
    await history();
    open();
  } catch (error) {
    refuse(error);
  }
}

meshes();
build();
start();
setInterval(() => { if (!document.hidden && $("door").hidden) history(); }, 10000);
