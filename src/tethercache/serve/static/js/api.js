/** The job API, see docs/serve.md. Everything goes to the server that the page came from. */

/** A refusal or failure of the server, or none of its answers at all (`code` is `offline`). */
export class ApiError extends Error {
  constructor(message, { status = 0, code = "", param = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param });
  }
}

/** Where something of a video is. */
export const at = (video, what = "") => `/v1/videos/${encodeURIComponent(video)}${what}`;

/** Where the picture of a frame is; another epoch is another picture. */
export const picture = (video, frame, epoch = 0, width = 96) =>
  at(video, `/thumbnail?frame=${frame}&width=${width}&epoch=${epoch}`);

async function ask(path, options) {
  let reply;
  try {
    reply = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The connection to the server is gone.", { code: "offline" });
  }
  if (reply.ok) return reply;
  const body = await reply.json().catch(() => ({}));
  const { message, code, param } = body.error ?? {};
  throw new ApiError(message || `The server answered ${reply.status}.`, {
    status: reply.status,
    code,
    param,
  });
}

/** Read JSON. */
export const get = async (path) => (await ask(path)).json();

/** Send JSON, read JSON. */
export const post = async (path, body = {}) =>
  (
    await ask(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    })
  ).json();

/** Delete something. */
export const remove = (path) => ask(path, { method: "DELETE" });

/** All that was said of a video's chunks so far. */
export async function chunksOf(video) {
  const all = [];
  for (;;) {
    const page = await get(at(video, `/chunks?from=${all.length}&limit=1000`));
    all.push(...page.data);
    if (!page.has_more || !page.data.length) return all;
  }
}

/**
 * Bytes of a growing file.
 *
 * @param {string} video its id
 * @param {() => number} epoch what the bytes must be of
 */
export const reader = (video, epoch) => async (start, stop) => {
  const reply = await ask(at(video, "/content"), {
    headers: { range: `bytes=${start}-${stop - 1}` },
    cache: "no-store",
  });
  const tag = reply.headers.get("etag") ?? "";
  if (reply.status !== 206 || !tag.includes(`${epoch()}-growing`)) {
    reply.body?.cancel();
    throw new ApiError("The file is another one now.", { code: "changed" });
  }
  return reply.arrayBuffer();
};
