/** Numbers and failures in words. */

/** A second as `m:ss.t`, or `h:mm:ss.t` from an hour on. */
export function clock(seconds) {
  const tenths = Math.max(0, Math.floor(seconds * 10 + 1e-6));
  const [hours, minutes] = [Math.floor(tenths / 36000), Math.floor(tenths / 600) % 60];
  const rest = `${String(Math.floor(tenths / 10) % 60).padStart(2, "0")}.${tenths % 10}`;
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

/** A length of time, as one says it: `3.2 s`, `4 min 10 s`, `2 h 5 min`. */
export function span(seconds) {
  if (!Number.isFinite(seconds)) return "a long time";
  if (seconds < 9.95) return `${Math.max(0, seconds).toFixed(1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (seconds < 600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** A speed, in seconds of video a second: `1.8×`. */
export const times = (rate) => `${rate < 9.95 ? rate.toFixed(1) : Math.round(rate)}×`;

/** Bytes: `72 kB`, `1.4 MB`. */
export function size(bytes) {
  if (bytes < 1e6) return `${Math.max(1, Math.round(bytes / 1e3))} kB`;
  return bytes < 1e9 ? `${(bytes / 1e6).toFixed(1)} MB` : `${(bytes / 1e9).toFixed(2)} GB`;
}

/** `1 video`, `2 videos`. */
export const count = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

/**
 * What went wrong, and what to do about it.
 *
 * @param {{code?: string, message?: string, status?: number}} error as the server or `api.js` has it
 * @returns {{title: string, text: string, todo: string}}
 */
export function explain(error) {
  const text = error.message || String(error);
  const known = ADVICE[error.code] ?? ADVICE[error.status] ?? (error.status >= 500 && ADVICE[500]);
  const [title, todo] = known || ["That did not work", ""];
  return { title, text, todo };
}

const ADVICE = {
  offline: [
    "The server does not answer",
    "Is “tethercache serve” still running? The page goes on by itself as soon as it is back; nothing that was made is lost.",
  ],
  401: ["The server wants a token", "It is the text behind --token where the server was started."],
  403: ["The server refuses this page", "Open it by the address that “tethercache serve” prints."],
  404: ["That video is not there any more", "It may have been deleted. The library has what is left."],
  409: ["Not possible at this moment", ""],
  413: ["That is more than the server takes", "Shorten it and try again."],
  429: ["The queue is full", "Wait for a video to finish, or take one out of the queue."],
  500: ["The server failed", "What was made so far is kept. Its log, where it was started, says more."],
  507: ["The disk is full", "Delete videos in the library, or make room on the disk; the video then goes on."],
  disk_full: ["The disk is full", "Delete videos in the library, or make room on the disk."],
  queue_full: ["The queue is full", "Wait for a video to finish, or take one out of the queue."],
  playback: [
    "This browser cannot play the video",
    "It needs H.264 and Media Source Extensions: a current Chromium, Firefox or Safari. The video is still made; download it from the library.",
  ],
};
