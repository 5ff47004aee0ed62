// Candidates: jobs that differ by their seed alone, and seeds that one job has begun; one is chosen.

import { h } from "/page/dom.js";
import { bytes, get, send } from "/page/api.js";
import { OVER, place, thumbnail } from "/page/pictures.js";

const apart = (job) => JSON.stringify(Object.entries({ ...job.job, seed: null }).sort());

// show the jobs that are like this one, to choose from; nothing if it is the only one
export async function gallery(box, job, changed) {
  const query = new URLSearchParams({ words: job.title.slice(0, 200), limit: 100 });
  const jobs = (await get(`/v1/jobs?${query}`)).filter((one) => apart(one) === apart(job))
    .sort((a, b) => (a.job.seed ?? 0) - (b.job.seed ?? 0));
  box.hidden = jobs.length < 2;
  if (box.hidden) return box.replaceChildren();
  const cards = jobs.map((one) => h("button", { type: "button", "aria-current": String(one.id === job.id),
    onclick: () => { location.hash = one.id; } }, thumbnail(one), `seed ${one.job.seed ?? "of the preset"}`, h("span", { class: "dim" }, one.state)));
  const others = jobs.filter((one) => one.id !== job.id && !OVER.includes(one.state));
  const keep = h("button", { type: "button", onclick: async () => {
    for (const one of others) await send("DELETE", `/v1/jobs/${one.id}`).catch(() => {});
    changed();
  } }, `Keep this one, cancel the ${others.length === 1 ? "other" : others.length} not done`);
  box.replaceChildren(h("p", { class: "dim" }, `${jobs.length} candidates`), h("div", { class: "cards" }, ...cards), others.length ? keep : "");
}

// the seeds that a job has begun, from the front, each of which can be made whole
export async function begun(job, seeds, made) {
  const picture = await createImageBitmap(new Blob([await bytes(place(job, "candidates.png"))]));
  const side = picture.height;
  const cards = seeds.map(({ seed, clip, fronts }, number) => {
    const canvas = h("canvas", { width: side, height: side, class: "thumb", "aria-hidden": "true" });
    canvas.getContext("2d").drawImage(picture, -number * side, 0);
    const said = `${clip.toFixed(3)}${fronts > 1 ? `, ${fronts} fronts` : ""}`;
    return h("button", { type: "button", title: "Make this one whole", onclick: async () => {
      made(await send("POST", "/v1/jobs", { ...job.job, best_of: null, seed }));
    } }, canvas, `seed ${seed}`, h("span", { class: "dim" }, said));
  });
  return h("div", {}, h("p", { class: "dim" }, "Seeds that were begun; the nearest to the prompt went on. Choose another to make that one whole."),
    h("div", { class: "cards" }, ...cards));
}
