/** What the studio does: opens a video, follows it while it is made, and steers it. */

import { at, chunksOf, get, post, reader } from "./api.js";
import { say } from "./dom.js";
import { Live } from "./live.js";
import { Take } from "./take.js";
import { clock } from "./words.js";

/**
 * One video at a time, and its player.
 *
 * Says `take` when another video is opened, `change` when something about it is another,
 * `branched` with the new video, and `trouble` with an error for a person to read.
 */
export class Studio extends EventTarget {
  #live = null;
  #feed = null;
  #joining = null;

  /** @param {import("./player.js").Player} player */
  constructor(player) {
    super();
    this.player = player;
    this.take = null;
    this.info = { models: [], policies: [], examples: [], limits: {}, thresholds: [] };
    player.addEventListener("failed", ({ error }) => this.#unplayable(error));
  }

  /** Read what this server can do. */
  async learn() {
    this.info = { ...this.info, ...(await get("/v1/studio")) };
  }

  /** Make a video now, and play it as it comes. */
  start(request) {
    performance.clearMarks("asked");
    performance.mark("asked");
    this.#leave();
    this.player.close();
    this.#follow(new Live({ type: "start", request }));
    this.player.play();
    this.player.video.requestVideoFrameCallback?.(() =>
      performance.measure("first picture", "asked"),
    );
  }

  /** Show a video that there is, and follow it if it is not finished. */
  async open(id, { second = 0, play = false } = {}) {
    this.#leave();
    const video = await get(at(id));
    this.#adopt(new Take(video));
    if (this.take.isOver) await this.#showFile(second);
    else this.#follow(new Live({ type: "watch", video: id }));
    if (play || !this.take.isOver) this.player.play();
  }

  /** Leave the video, which goes on. */
  #leave() {
    this.#live?.close();
    this.#live = null;
    this.#feed = null;
  }

  #adopt(take) {
    this.take = take;
    take.addEventListener("change", () => take === this.take && this.#tell("change"));
    history.replaceState(null, "", `#video=${take.id}`);
    this.#tell("take");
  }

  #follow(live) {
    this.#live = live;
    live.addEventListener("message", ({ message, bytes }) => this.#heard(live, message, bytes));
    live.addEventListener("lost", (event) => live === this.#live && this.#lost(event));
    live.addEventListener("found", () => this.#tell("found"));
  }

  #lost({ started, code }) {
    if (code === 4401) this.#tell("trouble", { error: { status: 401, message: "No token." } });
    else if (!started) this.#trouble({ code: "offline", message: "The video was not begun." });
    else if (code !== 4008) this.#tell("lost");
  }

  async #heard(live, message, bytes) {
    if (live !== this.#live) return;
    if (message.type === "started") {
      this.#joining = this.#join(message);
      await this.#joining.catch((error) => this.#trouble(error));
      return;
    }
    const heard = HEARD[message.type];
    if (!heard) return;
    await this.#joining?.catch(() => {}); // what is said meanwhile waits
    if (live === this.#live) this[heard](message, bytes);
  }

  /** A session has begun, or begun again: fetch what was said before. */
  async #join({ video, mime, bytes, epoch }) {
    if (this.take?.id !== video.id) this.#adopt(new Take(video));
    const { take } = this;
    take.update(video);
    if (take.isOver) return;
    const before = bytes || take.chunks.length ? await chunksOf(video.id) : [];
    if (take !== this.take) return;
    const known = before.filter((chunk) => chunk.offset + chunk.bytes <= bytes);
    const second = take.replace(known);
    take.update({ epoch });
    if (!this.#feed) {
      const read = reader(take.id, () => take.video.epoch);
      this.#feed = this.player.grow(mime, take.fps, read);
    } else if (second < take.total) {
      this.player.cut(second);
    }
    for (const chunk of known) this.#feed.add(this.#fragment(chunk));
  }

  #fragment({ index, offset, bytes, start, stop }) {
    const { fps } = this.take;
    return { index, offset, bytes, from: start / fps, to: stop / fps };
  }

  hearHeader(message, bytes) {
    this.#feed.push(0, bytes);
    this.take.update({ status: "in_progress", position: null });
  }

  hearChunk(message, bytes) {
    if (!this.take.add(message)) return;
    this.take.update({ status: "in_progress", frames_made: message.stop });
    this.#feed.push(message.offset, bytes);
    this.#feed.add(this.#fragment(message));
  }

  hearWaiting({ position }) {
    this.take.update({ status: "queued", position });
  }

  hearApplied({ id, action, second, changes }) {
    this.take.answer(id);
    this.take.update({ changes });
    const told = DONE[action];
    if (told) say(`${told} from ${clock(second)} on`);
  }

  hearBranched({ id, video }) {
    this.take.answer(id);
    this.#tell("branched", { video });
  }

  hearRewound(message) {
    this.take.rewind(message);
    this.player.cut(message.second);
    say(`Rewound to ${clock(message.second)}`);
  }

  hearPaused() {
    this.take.update({ paused: true });
  }

  hearResumed() {
    this.take.update({ paused: false });
  }

  async hearFinished({ video }) {
    this.take.update(video);
    this.#live.close();
    this.#tell("finished");
    say(video.status === "failed" ? "The video has failed" : "The video is finished");
    if (video.status === "failed") this.#trouble(video.error ?? { message: "The video failed." });
    if (this.#feed) this.player.complete();
    else await this.#showFile(0);
  }

  hearGone() {
    this.#leave();
    this.#trouble({ status: 404, message: "Somebody has deleted the video that was shown." });
  }

  hearError({ id, code, message }) {
    this.take?.answer(id);
    this.#trouble({ code, message });
  }

  /** A finished video: from its file, and all that was said of it. */
  async #showFile(second) {
    const { take, player } = this;
    if (take.video.status === "failed" && !take.video.frames_made) return;
    player.show(at(take.id, "/content"), take.fps, second);
    take.replace(await chunksOf(take.id));
    const record = await get(at(take.id, "/record")).catch(() => null);
    for (const event of record?.settings?.guard ?? []) {
      const text = `${event.reaction}: ${(event.reasons ?? []).join("; ")}`;
      take.reactions.push({ second: event.found_at, text });
    }
    if (take === this.take) this.#tell("change");
  }

  /** What the browser could not play or read: another file, or one of no use to it. */
  async #unplayable(error) {
    const { take } = this;
    if (error.code !== "changed" || !take) {
      this.#trouble(error);
      return;
    }
    const second = this.player.time;
    try {
      await this.open(take.id, { second, play: this.player.wanted });
    } catch (problem) {
      this.#trouble(problem);
    }
  }

  // What a person asks for

  #ask(message, problem) {
    const id = this.#live?.ask(message);
    if (id) this.take.ask(id, message);
    else this.#trouble({ code: "offline", message: problem });
    return Boolean(id);
  }

  /** Another prompt from the next chunk on. */
  steer(text, how) {
    const sent = this.#ask({ type: "prompt", text, how }, "The new prompt was not sent.");
    if (sent) say("The new prompt is queued");
    return sent;
  }

  /** Go back, and make it anew from there. */
  rewind(second) {
    this.#ask({ type: "rewind", seconds: second }, "The video was not rewound.");
  }

  /** `pin` or `forget` seconds. */
  mark(kind, start, stop) {
    this.#ask({ type: kind, start, stop }, "That was not sent.");
  }

  /** `pause`, `resume` or `stop` the making. */
  make(what) {
    this.#ask({ type: what }, "That was not sent.");
  }

  /** Another future, from a second on. */
  async branch(second, { prompt, how, seed } = {}) {
    const what = { at: second, ...(prompt && { prompt, how }), ...(seed !== undefined && { seed }) };
    const video = await post(at(this.take.id, "/branch"), what);
    this.#tell("branched", { video });
    return video;
  }

  #trouble(error) {
    this.#tell("trouble", { error });
  }

  #tell(name, what = {}) {
    this.dispatchEvent(Object.assign(new Event(name), what));
  }
}

const HEARD = {
  header: "hearHeader",
  chunk: "hearChunk",
  waiting: "hearWaiting",
  applied: "hearApplied",
  branched: "hearBranched",
  rewound: "hearRewound",
  paused: "hearPaused",
  resumed: "hearResumed",
  finished: "hearFinished",
  gone: "hearGone",
  error: "hearError",
};

const DONE = { prompt: "The new prompt holds", pin: "Pinned", forget: "Forgotten" };
