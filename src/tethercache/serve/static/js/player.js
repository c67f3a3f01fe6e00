/**
 * The player: what is shown, whether it shall move, and why it does not.
 *
 * A video that is made more slowly than it plays is held where nothing more is there, and goes on
 * by itself when a little is. Says `state` and `time`.
 */

import { Feed } from "./feed.js";

/** Seconds that must be there before a player that has waited goes on. */
const LEAD = 0.7;
/** Seconds after which a player that should move and does not is given a push. */
const STUCK = 1.5;

export class Player extends EventTarget {
  #feed = null;
  #wanted = false;
  #held = false;
  #over = true;
  #seen = { at: -1, when: 0 };
  #pushes = 0;

  /** @param {HTMLVideoElement} video what shows it */
  constructor(video) {
    super();
    this.video = video;
    this.fps = 16;
    for (const name of ["play", "pause", "seeked", "ended", "loadeddata", "playing", "waiting"]) {
      video.addEventListener(name, () => this.#look());
    }
    video.addEventListener("error", () => this.#broken());
    const tick = () => {
      this.#look();
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
    setInterval(() => this.#look(), 250); // frames of a hidden page do not come
  }

  /** `empty`, `loading`, `playing`, `waiting`, `paused` or `ended`. */
  get state() {
    const { video } = this;
    if (!video.hasAttribute("src")) return "empty";
    if (!this.#wanted) return this.#over && video.ended ? "ended" : "paused";
    if (this.#over && video.ended) return "ended";
    if (this.#held || video.readyState < 3) return video.readyState ? "waiting" : "loading";
    return "playing";
  }

  get wanted() {
    return this.#wanted;
  }

  get time() {
    return this.video.currentTime;
  }

  /** Seconds that can be played at once. */
  get ahead() {
    return this.#feed ? this.#feed.ahead : Math.max(0, this.video.duration - this.time || 0);
  }

  /** How often what was played had to go. */
  get evicted() {
    return this.#feed?.evicted ?? 0;
  }

  /** The frame that is shown. */
  get frame() {
    return Math.floor(this.time * this.fps + 1e-3);
  }

  /**
   * Show a video that grows.
   *
   * @returns {Feed} is to be told what there is
   */
  grow(mime, fps, read) {
    this.close();
    this.fps = fps;
    this.#over = false;
    const feed = new Feed(this.video, mime, read);
    feed.addEventListener("appended", () => this.#look());
    feed.addEventListener("failed", ({ error }) => this.#tell("failed", { error }));
    this.#feed = feed;
    return feed;
  }

  /** Show a finished video, from a second on. */
  show(url, fps, second = 0) {
    const wanted = this.#wanted;
    this.close();
    this.fps = fps;
    this.#over = true;
    this.video.src = url;
    this.video.addEventListener("loadedmetadata", () => (this.video.currentTime = second), {
      once: true,
    });
    if (wanted) this.play();
  }

  /** The video that grows is whole. */
  complete() {
    this.#over = true;
    this.#feed?.complete();
  }

  /** It was taken back to a second. */
  cut(second) {
    this.#over = false;
    this.#feed?.cut(second);
  }

  /** Show nothing. */
  close() {
    this.#feed?.close();
    this.#feed = null;
    this.#held = false;
    if (this.video.hasAttribute("src")) {
      this.video.removeAttribute("src");
      this.video.load();
    }
  }

  play() {
    this.#wanted = true;
    if (this.state === "ended" || this.video.ended) this.seek(0);
    this.#look();
  }

  pause() {
    this.#wanted = false;
    this.video.pause();
    this.#look();
  }

  toggle() {
    if (this.#wanted && this.state !== "ended") this.pause();
    else this.play();
  }

  /** Show a second. */
  seek(second) {
    if (!this.video.hasAttribute("src")) return;
    this.video.currentTime = Math.max(0, second);
    this.#held = false;
    this.#look();
  }

  /** Show the frame so many frames on or back. */
  step(frames) {
    this.pause();
    this.seek((this.frame + frames + 0.5) / this.fps);
  }

  /** Hold, go on, or give a push, and say what has changed. */
  #look() {
    const { video } = this;
    if (this.#wanted && video.hasAttribute("src")) {
      const ahead = this.ahead;
      const dry = !this.#over && (ahead < 1 / this.fps || (video.readyState < 3 && ahead < LEAD));
      if (dry && !this.#held && video.readyState) this.#held = true;
      if (this.#held && (ahead >= LEAD || this.#over)) this.#held = false;
      if (this.#held) {
        if (!video.paused) video.pause();
      } else if (video.paused && !video.ended) {
        video.play().catch((error) => this.#refused(error));
      }
      this.#unstick(ahead);
    }
    this.#tell("time");
    if (this.state !== this.said) {
      this.said = this.state;
      this.#tell("state");
    }
  }

  /** A browser may stop before a gap of a fraction of a frame. */
  #unstick(ahead) {
    const now = performance.now();
    const moves = this.time !== this.#seen.at || this.#held || ahead < 0.2 || this.video.seeking;
    if (moves) {
      this.#seen = { at: this.time, when: now };
      this.#pushes = 0;
    } else if (now - this.#seen.when > STUCK * 1000 * (1 + this.#pushes)) {
      this.#pushes += 1;
      this.video.currentTime = this.time + 0.01;
      this.#seen = { at: this.time, when: now };
    }
  }

  #refused(error) {
    if (error.name !== "NotAllowedError") return; // a newer call has taken its place
    this.#wanted = false;
    this.#tell("state");
  }

  #broken() {
    const { error } = this.video;
    if (!error || !this.video.hasAttribute("src")) return;
    const code = this.#feed ? "playback" : "changed";
    this.#tell("failed", { error: Object.assign(new Error(error.message), { code }) });
  }

  #tell(name, what = {}) {
    this.dispatchEvent(Object.assign(new Event(name), what));
  }
}
