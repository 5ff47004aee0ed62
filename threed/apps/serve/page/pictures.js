// Pictures of jobs: where their files are, and small ones for lists.

import { h } from "/page/dom.js";
import { blob } from "/page/api.js";

export const OVER = ["done", "failed", "cancelled"];
export const place = (job, name) => `/v1/jobs/${job.id}/files/${name}`;
export const picture = (job) => job.files.find((name) => /^(preview|picture)\./.test(name));

// a picture that comes when its address does
function coming(address, attributes) {
  const element = h("img", attributes);
  address.then((found) => { element.src = found; }).catch(() => element.remove());
  return element;
}

export const image = (path, attributes) => coming(blob(path), attributes);

const known = new Map(); // addresses of those of jobs that are done
export function thumbnail(job) {
  const name = picture(job) || job.files.find((file) => file === "live.png");
  if (!name) return h("span", { class: "thumb", "aria-hidden": "true" });
  const address = known.get(job.id) || blob(place(job, name));
  if (job.state === "done") known.set(job.id, address);
  return coming(address, { class: "thumb", alt: "" });
}
