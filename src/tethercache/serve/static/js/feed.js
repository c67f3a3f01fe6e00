/**
 * Feeds a growing fragmented mp4 to a video element, a window of it at a time.
 *
 * The file on the server is the truth: fragments, one a chunk, each with its place in the file and
 * in time. What a WebSocket pushes is used when its turn comes; what is not at hand is read by
 * Range. So a page that joins late, one whose connection was lost and one that jumps back to what
 * its browser has dropped all do the same.
 *
 * Around the playhead `BEHIND` and `AHEAD` seconds are kept. Where the browser's quota is smaller
 * than that, what was played goes first, and what is ahead waits.
 */

import { beginsWithKey, isFragment } from "./mp4.js";

const BEHIND = 90;
const AHEAD = 120;
/** Bytes that were pushed and whose turn has not come. */
const PUSHED = 16 << 20;
/** Seconds behind the playhead that stay when the quota is full, from one attempt to the next. */
const SPARED = [20, 5, 1];

/** `MediaSource`, or what Safari on phones has in its place. */
export const Source = globalThis.ManagedMediaSource ?? globalThis.MediaSource;

/**
 * @typedef {object} Fragment
 * @property {number} index number of the chunk
 * @property {number} offset first byte in the file
 * @property {number} bytes its length
 * @property {number} from seconds
 * @property {number} to seconds
 */

export class Feed extends EventTarget {
  #source = new Source();
  #buffer = null;
  #fragments = [];
  #pushed = new Map();
  #pushedBytes = 0;
  #header = false;
  #next = 0;
  #needsKey = true;
  #cutAt = null;
  #epoch = 0;
  #complete = false;
  #closed = false;
  #running = false;
  #again = false;
  #read;

  /**
   * @param {HTMLVideoElement} video plays it
   * @param {string} mime type with codecs
   * @param {(start: number, stop: number) => Promise<ArrayBuffer>} read bytes of the file
   */
  constructor(video, mime, read) {
    super();
    this.video = video;
    this.evicted = 0;
    this.#read = read;
    this.#source.addEventListener("sourceopen", () => this.#open(mime), { once: true });
    this.url = URL.createObjectURL(this.#source);
    video.src = this.url;
    this.tick = setInterval(() => this.pump(), 500);
    this.seeking = () => this.#jump();
    video.addEventListener("seeking", this.seeking);
  }

  #open(mime) {
    URL.revokeObjectURL(this.url);
    if (this.#closed) return;
    try {
      this.#buffer = this.#source.addSourceBuffer(mime);
    } catch (error) {
      this.#fail(Object.assign(error, { code: "playback" }));
      return;
    }
    this.pump();
  }

  /** Seconds that can be played at once from the playhead on. */
  get ahead() {
    const { buffered, currentTime } = this.video;
    for (let i = 0; i < buffered.length; i++) {
      if (buffered.start(i) <= currentTime + 0.1 && currentTime < buffered.end(i)) {
        return buffered.end(i) - currentTime;
      }
    }
    return 0;
  }

  /** @param {Fragment} fragment is in the file */
  add(fragment) {
    this.#fragments[fragment.index] = fragment;
    this.pump();
  }

  /** Keep bytes that were pushed until their turn comes, as far as there is room. */
  push(offset, bytes) {
    if (this.#pushedBytes + bytes.byteLength > PUSHED) return;
    this.#pushed.set(offset, bytes);
    this.#pushedBytes += bytes.byteLength;
  }

  /** The video was taken back: what begins at this second or later is void. */
  cut(second) {
    const place = this.#fragments.findIndex((known) => known && known.from >= second - 1e-3);
    if (place >= 0) this.#fragments.length = place;
    this.#pushed.clear();
    this.#pushedBytes = 0;
    this.#epoch += 1;
    this.#complete = false;
    this.#cutAt = Math.min(second, this.#cutAt ?? second);
    if (this.#next >= this.#fragments.length) {
      this.#next = this.#fragments.length;
      this.#needsKey = true;
    }
    const newest = Math.max(0, second - 0.04);
    if (this.video.currentTime > newest) this.video.currentTime = newest;
    this.pump();
  }

  /** No more fragments will come. */
  complete() {
    this.#complete = true;
    this.pump();
  }

  /** Stop; the element is free for something else. */
  close() {
    this.#closed = true;
    clearInterval(this.tick);
    this.video.removeEventListener("seeking", this.seeking);
  }

  /** Append what is due; one round at a time. */
  async pump() {
    this.#again = true;
    if (this.#running) return;
    this.#running = true;
    try {
      while (this.#again) {
        this.#again = false;
        while (await this.#step());
      }
    } catch (error) {
      if (!this.#closed) this.#fail(error);
    } finally {
      this.#running = false;
    }
  }

  /** One step towards what is wanted; whether there may be another. */
  async #step() {
    if (this.#closed || !this.#buffer || this.#source.readyState === "closed") return false;
    if (!this.#header) return this.#begin();
    if (this.#cutAt !== null) return this.#drop();
    const now = this.video.currentTime;
    const fragment = this.#fragments[this.#next];
    if (!fragment) return this.#end();
    if (fragment.from > now + AHEAD) return false;
    if (this.#source.streaming === false && this.ahead > 2) return false;
    if (now > 1.5 * BEHIND) await this.#evict(now - BEHIND);
    return this.#bring(fragment);
  }

  async #begin() {
    const [first] = this.#fragments;
    if (!first) return false;
    const bytes = this.#pushed.get(0) ?? (await this.#read(0, first.offset));
    if (this.#closed) return false;
    this.#header = await this.#append(bytes);
    this.#forget(0);
    return this.#header;
  }

  /** Let what a rewind made void go out of the buffer. */
  async #drop() {
    const second = this.#cutAt;
    this.#cutAt = null;
    await this.#remove(second, Infinity);
    return true;
  }

  #end() {
    const all = this.#complete && this.#next === this.#fragments.length && this.#next > 0;
    if (all && this.#source.readyState === "open") this.#source.endOfStream();
    return false;
  }

  async #bring({ index, offset, bytes: size }) {
    const epoch = this.#epoch;
    const bytes = this.#pushed.get(offset) ?? (await this.#read(offset, offset + size));
    if (this.#closed) return false;
    if (index !== this.#next || epoch !== this.#epoch) return true; // meanwhile all has changed
    if (!isFragment(bytes)) throw Object.assign(new Error("the file is another"), { code: "changed" });
    if (this.#needsKey && index > 0 && !beginsWithKey(bytes)) {
      this.#next -= 1;
      return true;
    }
    if (!(await this.#append(bytes))) return false;
    if (epoch !== this.#epoch || index !== this.#next) return true;
    this.#next += 1;
    this.#needsKey = false;
    this.#forget(offset);
    this.dispatchEvent(new Event("appended"));
    return true;
  }

  #forget(offset) {
    this.#pushedBytes -= this.#pushed.get(offset)?.byteLength ?? 0;
    this.#pushed.delete(offset);
  }

  /** Append; where the quota is full, what was played goes. False: there is no room yet. */
  async #append(bytes) {
    for (const spared of SPARED) {
      try {
        await this.#settled(() => this.#buffer.appendBuffer(bytes));
        return true;
      } catch (error) {
        if (error.name !== "QuotaExceededError") throw error;
        await this.#evict(this.video.currentTime - spared);
      }
    }
    return false;
  }

  async #evict(until) {
    const { buffered } = this.#buffer;
    if (!buffered.length || until <= buffered.start(0)) return;
    await this.#remove(0, until);
    this.evicted += 1;
  }

  async #remove(start, stop) {
    if (this.#buffer.buffered.length && stop > start) {
      await this.#settled(() => this.#buffer.remove(start, stop));
    }
  }

  /** Do something with the buffer, and wait until it is done. */
  async #settled(act) {
    const buffer = this.#buffer;
    act();
    await new Promise((resolve, reject) => {
      buffer.addEventListener("updateend", resolve, { once: true });
      const broken = () => reject(Object.assign(new Error("it cannot be decoded"), { code: "playback" }));
      buffer.addEventListener("error", broken, { once: true });
    });
  }

  /** The playhead was moved: go on from there, if it is not in the buffer. */
  #jump() {
    const now = this.video.currentTime + this.ahead;
    const behind = (known) => known && known.to > now + 1e-3;
    const place = this.#fragments.findIndex(behind);
    const next = place < 0 ? this.#fragments.length : place;
    if (next !== this.#next) {
      this.#next = next;
      this.#needsKey = true;
    }
    this.pump();
  }

  #fail(error) {
    this.dispatchEvent(Object.assign(new Event("failed"), { error }));
  }
}
