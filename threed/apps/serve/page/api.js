// Speaking to the server: a token if it needs one, errors in its words, files as blobs.

let token = sessionStorage.getItem("token") || "";

export class Refused extends Error {
  constructor(status, words) { super(words); this.status = status; }
}

export function setToken(text) {
  token = text;
  sessionStorage.setItem("token", text);
}

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The server does not answer.");
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, said.error || `The server answered ${answer.status}.`);
  }
  return answer;
}

export const get = async (path) => (await call(path)).json();
export const send = async (method, path, data) =>
  (await call(path, { method, body: data === undefined ? undefined : JSON.stringify(data) })).json();
export const upload = async (content, name) =>
  (await call(`/v1/files?name=${encodeURIComponent(name)}`, { method: "POST", body: content })).json();
export const bytes = async (path) => (await call(path)).arrayBuffer();

// a file as an address for pictures and links, which cannot send a token themselves
export async function blob(path) {
  return URL.createObjectURL(await (await call(path)).blob());
}

// hear of a job each time that it changes, until it is over or the signal ends it
export async function watch(id, hear, signal) {
  const answer = await call(`/v1/jobs/${id}/events`, { signal });
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) await hear(JSON.parse(part.slice(6)));
  }
}
