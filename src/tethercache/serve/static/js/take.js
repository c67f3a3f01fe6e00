/** What is known of one video: its chunks, what changes over time, what was asked and waits. */

import { picture } from "./api.js";

/** Chunks over which the speed is taken. */
const LATELY = 6;

/** The first pixel frame that shows a latent frame, as a causal video VAE has them. */
export const pixelFrame = (latent) => (latent ? 4 * latent - 3 : 0);

/**
 * A video of the server; says `change` whenever something about it is another.
 *
 * `video` is the server's object, `chunks` its `chunk` messages by number, and `asked` what was
 * asked for and does not hold yet.
 */
export class Take extends EventTarget {
  constructor(video) {
    super();
    this.video = video;
    this.chunks = [];
    this.asked = new Map();
    this.reactions = [];
  }

  get id() {
    return this.video.id;
  }

  get fps() {
    return this.video.fps || this.chunks[0]?.fps || 16;
  }

  /** Seconds of the finished video. */
  get total() {
    return this.video.num_frames ? this.video.num_frames / this.fps : Number(this.video.seconds);
  }

  /** Seconds that are made. */
  get made() {
    const last = this.chunks.at(-1);
    return last ? last.stop / this.fps : 0;
  }

  get isOver() {
    return this.video.status === "completed" || this.video.status === "failed";
  }

  get isMaking() {
    return this.video.status === "in_progress" && !this.video.paused;
  }

  /** Seconds of video a second, of late; 0: not known. */
  get rate() {
    const some = this.chunks.slice(-LATELY).filter((chunk) => chunk.epoch === this.video.epoch);
    if (some.length < 2) return this.video.speed ? this.video.speed / this.fps : 0;
    const frames = some.at(-1).stop - some[0].stop;
    const wall = some.at(-1).made_at - some[0].made_at;
    return wall > 0 ? frames / this.fps / wall : 0;
  }

  /** What the model remembers by. */
  get policy() {
    return (this.video.policy ?? "").split(":")[0];
  }

  /** The number of the chunk that shows a second; -1: none is made. */
  chunkAt(second) {
    const frame = Math.floor(second * this.fps + 1e-6);
    let [low, high] = [0, this.chunks.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.chunks[middle].start <= frame) low = middle;
      else high = middle - 1;
    }
    return high;
  }

  /** Where the picture of a pixel frame is. */
  picture(frame, width) {
    return picture(this.id, frame, this.video.epoch ?? 0, width);
  }

  /** The prompts over time, `{from, to, text, how, status, id}`; those that wait come last. */
  get prompts() {
    const changes = (this.video.changes ?? []).filter((change) => change.text);
    const all = [{ from: 0, text: this.video.prompt, how: "", status: "first" }];
    for (const change of changes) {
      const from = (change.frame ?? change.at * this.fps) / this.fps;
      const status = from < this.made || this.isOver ? "applied" : "planned";
      all.push({ from, text: change.text, how: change.how ?? "soft", status });
    }
    for (const [id, asked] of this.asked) {
      if (asked.type !== "prompt") continue;
      all.push({ from: this.made, text: asked.text, how: asked.how, status: "queued", id });
    }
    return all.map((one, place) => ({ ...one, to: all[place + 1]?.from ?? this.total }));
  }

  /** The prompt at a second. */
  promptAt(second) {
    const known = this.prompts.filter(({ status }) => status !== "queued");
    return known.findLast(({ from }) => from <= second + 1e-3)?.text ?? this.video.prompt;
  }

  /** Spans of seconds that are pinned or forgotten, `{kind, start, stop, queued}`. */
  get spans() {
    const all = [];
    for (const change of this.video.changes ?? []) {
      for (const kind of ["pin", "forget"]) {
        if (change[kind]) all.push({ kind, start: change[kind][0], stop: change[kind][1] });
      }
    }
    for (const { type: kind, start, stop } of this.asked.values()) {
      if (kind === "pin" || kind === "forget") all.push({ kind, start, stop, queued: true });
    }
    return all;
  }

  /** Take what the server says of the video now. */
  update(video) {
    this.video = { ...this.video, ...video };
    this.#changed();
  }

  /** Take a chunk; one of an older epoch, or that is known, is left. */
  add(chunk) {
    if (chunk.index !== this.chunks.length) return false;
    this.chunks.push(chunk);
    this.#changed();
    return true;
  }

  /**
   * Take all chunks that the server knows.
   *
   * @returns {number} the second from which on something differs from what was known
   */
  replace(chunks) {
    const same = (a, b) => a && a.offset === b.offset && a.made_at === b.made_at;
    let place = 0;
    while (place < chunks.length && same(this.chunks[place], chunks[place])) place += 1;
    const second = (this.chunks[place]?.start ?? Infinity) / this.fps;
    this.chunks = [...chunks];
    this.#changed();
    return second;
  }

  /** The video was taken back to a frame. */
  rewind({ frame, epoch, second, why }) {
    this.chunks = this.chunks.filter((chunk) => chunk.start < frame);
    if (why !== "rewind") this.reactions.push({ second, text: why });
    this.update({ epoch });
  }

  /** Something was asked for, and waits. */
  ask(id, message) {
    this.asked.set(id, message);
    this.#changed();
  }

  /** It holds now, or was refused. */
  answer(id) {
    const message = this.asked.get(id);
    this.asked.delete(id);
    this.#changed();
    return message;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
