// One job: how it goes, what it made, what can be done with it.

import { h } from "/page/dom.js";
import { blob, bytes, get, send, watch } from "/page/api.js";
import { begun } from "/page/gallery.js";
import { OVER, image, picture, place } from "/page/pictures.js";
import { view } from "/page/viewer.js";

let ending = null; // of what is watched

function time(seconds) {
  return seconds < 100 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
}

// what a report says, in sentences
function inWords(report) {
  const n = (value) => value.toLocaleString();
  const said = [`It has ${n(report.faces)} faces and ${n(report.vertices)} vertices in ${report.components === 1 ? "one piece" : `${n(report.components)} pieces`}.`];
  said.push(report.watertight ? "It is closed: every edge belongs to two faces, so it can be printed."
    : `It is not closed: ${n(report.holes)} holes, ${n(report.non_manifold_edges)} edges of more than two faces.`);
  if (report.texture) said.push(`Its texture has ${n(report.texture)} texels a side, of which ${Math.round(100 * (report.uv_coverage || 0))} % are seen.`);
  if (report.uv_overlap > 0.001) said.push(`${(100 * report.uv_overlap).toFixed(1)} % of the texture is used twice.`);
  if (report.psnr != null) said.push(report.psnr < 24 || report.iou < 0.95
    ? `Beside what it was made from it lost something (${report.psnr.toFixed(1)} dB, outlines ${report.iou.toFixed(3)}).`
    : `It looks like what it was made from (${report.psnr.toFixed(1)} dB, outlines ${report.iou.toFixed(3)}).`);
  if (report.fronts > 1) said.push(`It seems to have ${report.fronts} fronts: try another seed.`);
  return said.join(" ");
}

function sparkline(losses) {
  const canvas = h("canvas", { class: "loss", width: 600, height: 60, role: "img", "aria-label": "The loss so far" });
  const pen = canvas.getContext("2d");
  const [low, high] = [Math.min(...losses), Math.max(...losses)];
  pen.strokeStyle = "#2563eb";
  pen.lineWidth = 2;
  losses.forEach((value, i) => pen.lineTo((600 * i) / Math.max(1, losses.length - 1), 55 - (50 * (value - low)) / (high - low || 1)));
  pen.stroke();
  return canvas;
}

// whether a job that is begun once more goes on where it was
const goesOn = (job) => job.state === "cancelled" && job.step > 0 && !job.reason && job.job.job !== "image";

// a canvas with an asset that can be turned, or its picture where that cannot be
async function asset(job) {
  const canvas = h("canvas", { class: "view", tabIndex: 0, role: "img",
    "aria-label": "The asset: drag or arrow keys turn it, wheel or + and - come nearer, P hides the colours" });
  try {
    const content = await bytes(place(job, "asset.glb"));
    return { element: canvas, begin: () => view(canvas, content) };
  } catch (error) {
    return { element: h("p", { role: "alert" }, error.message), begin: async () => {} };
  }
}

async function shown(job) {
  if (!job.files.includes("asset.glb")) return picture(job) ? image(place(job, picture(job)), { alt: job.title }) : null;
  const { element, begin } = await asset(job);
  const box = h("div", {}, element);
  requestAnimationFrame(() => begin().catch(async (error) => {
    box.replaceChildren(h("p", { class: "dim" }, `A picture instead: ${error.message}.`), image(place(job, "preview.png"), { alt: job.title }));
  }));
  return box;
}

function save(job, name) {
  return h("button", { type: "button", onclick: async () => {
    const address = await blob(place(job, name));
    h("a", { href: address, download: `${job.title.replace(/[^a-z0-9]+/gi, "-").slice(0, 40)}-${name}` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
  } }, name);
}

async function result(job, acts) {
  const parts = [await shown(job)];
  if (job.files.includes("asset.glb")) {
    const use = (made, text) => h("button", { type: "button", onclick: () => acts.useMesh(`${job.id}/asset.glb`, job.title, made) }, text);
    parts.push(h("p", { class: "row" }, use("generate", "Begin with it"), use("texture", "Paint it"), use("edit3d", "Edit it"),
      h("button", { type: "button", onclick: () => acts.compare(job) }, "Side by side")));
  }
  if (job.files.includes("report.json")) {
    const report = await get(place(job, "report.json")).catch(() => null);
    if (report?.faces) parts.push(h("p", { id: "report" }, inWords(report)));
    if (report?.best_of && job.files.includes("candidates.png")) parts.push(await begun(job, report.best_of, acts.made));
  }
  if (job.files.includes("turntable.mp4")) {
    const film = h("video", { controls: true, loop: true, muted: true, "aria-label": "Once around" });
    parts.push(h("details", { ontoggle: async () => { film.src ||= await blob(place(job, "turntable.mp4")); } }, h("summary", {}, "Once around"), film));
  }
  parts.push(h("p", { class: "row" }, "Download ", ...job.files.map((name) => save(job, name))));
  return parts.filter(Boolean);
}

export const act = (text, method, path, acts, again) => h("button", { type: "button", onclick: async (event) => {
  event.target.disabled = true;
  await send(method, path).catch((error) => alert(error.message));
  acts.changed();
  again();
} }, text);
export const cancel = (job, acts, again = () => {}) => act("Cancel", "DELETE", `/v1/jobs/${job.id}`, acts, again);

// show a job, and go on with it until it is over
export async function show(box, id, acts) {
  ending?.abort();
  const mine = (ending = new AbortController());
  const losses = [];
  let step = null; // of the newest loss
  let live = null;
  let address = null;
  const again = () => show(box, id, acts);
  const stop = cancel({ id }, acts, again);
  async function hear(job) {
    if (mine.signal.aborted) return;
    const title = h("h2", {}, job.title);
    const said = { waiting: `waiting; ${job.ahead} before it`, running: `${job.message || "beginning"}, ${time(job.seconds)}`, done: `done in ${time(job.seconds)}`,
      failed: `failed: ${job.reason}`, cancelled: job.reason ? `cancelled: ${job.reason}` : "cancelled" }[job.state];
    const parts = [title, h("p", { role: "status", id: "state-of-job" }, said)];
    if (job.state === "running") {
      if (job.steps) parts.push(h("progress", { max: job.steps, value: job.step, "aria-label": `step ${job.step} of ${job.steps}` }), h("p", { class: "dim" }, `step ${job.step} of ${job.steps}`));
      if (job.losses.loss !== undefined && job.step !== step) losses.push(job.losses.loss);
      step = job.step;
      if (losses.length > 1) parts.push(sparkline(losses));
      if (losses.length) parts.push(h("p", { class: "dim" }, `loss ${losses.at(-1).toPrecision(3)}`));
      if (job.files.includes("live.png")) {
        const fresh = await blob(place(job, "live.png")).catch(() => null);
        if (fresh) { if (address) URL.revokeObjectURL(address); address = fresh; live ||= h("img", { class: "live", alt: "what it looks like now" }); live.src = fresh; }
      }
      if (live) parts.push(live);
    }
    for (const note of job.notes) parts.push(h("p", { class: "dim" }, `Note: ${note}`));
    if (!OVER.includes(job.state)) parts.push(stop);
    if (["failed", "cancelled"].includes(job.state)) parts.push(act(goesOn(job) ? "Go on" : "Do it again", "POST", `/v1/jobs/${id}/retry`, acts, again));
    if (job.state === "done") parts.push(...(await result(job, acts)));
    if (mine.signal.aborted) return;
    const held = document.activeElement;
    box.replaceChildren(...parts);
    if (box.contains(held)) held.focus({ preventScroll: true }); // what is taken out and put back loses it
    acts.shown(job);
    if (OVER.includes(job.state)) acts.changed();
  }
  try {
    await watch(id, hear, mine.signal);
  } catch (error) {
    if (mine.signal.aborted) return;
    if (error.status === 404 || error.status === 401) return box.replaceChildren(h("p", { role: "alert" }, error.message));
    setTimeout(() => { if (!mine.signal.aborted) again(); }, 2000); // the server was away for a moment
  }
}

// one or two assets beside each other
const beside = [];
export async function compare(box, job) {
  if (!beside.some(({ id }) => id === job.id)) beside.push(job);
  while (beside.length > 2) beside.shift();
  const cells = [];
  for (const one of beside) cells.push(h("div", {}, h("p", {}, one.title, h("span", { class: "dim" }, ` · ${one.job.seed ?? ""}`)), await shown(one)));
  const close = h("button", { type: "button", onclick: () => { beside.length = 0; box.hidden = true; } }, "Close");
  if (cells.length < 2) cells.push(h("p", { class: "dim" }, "Open another job, and choose Side by side there, too."));
  box.replaceChildren(h("div", {}, ...cells), close);
  box.hidden = false;
  box.scrollIntoView({ behavior: "smooth" });
}
