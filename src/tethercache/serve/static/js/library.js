/** Takes of the film that is open, as a tree; and all videos, with those that wait. */

import { at, get, remove } from "./api.js";
import { button, byId, make, refill, write } from "./dom.js";
import { clock } from "./words.js";

const OFTEN = 1500;
const SELDOM = 6000;
const PAGE = 30;

export class Library {
  /**
   * @param {import("./studio.js").Studio} studio
   * @param {(pair: object[]) => void} compare shows two takes
   */
  constructor(studio, compare) {
    this.studio = studio;
    this.compare = compare;
    this.videos = [];
    this.pair = [];
    this.more = false;
    this.pages = 1;
    const reload = () => this.reload();
    studio.addEventListener("take", reload);
    studio.addEventListener("finished", reload);
    studio.addEventListener("branched", reload);
    document.addEventListener("visibilitychange", () => document.hidden || reload());
    this.#show();
  }

  /** Read the list again, and once more after a while. */
  async reload() {
    clearTimeout(this.timer);
    try {
      await this.#read();
      this.#show();
    } catch (error) {
      if (error.status === 401) return;
    }
    const busy = this.videos.some(({ status }) => status === "queued" || status === "in_progress");
    const pause = document.hidden ? 10 * SELDOM : busy ? OFTEN : SELDOM;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.reload(), pause);
  }

  async #read() {
    const found = [];
    let page = { has_more: true };
    for (let i = 0; i < this.pages && page.has_more; i++) {
      const after = found.length ? `&after=${found.at(-1).id}` : "";
      page = await get(`/v1/videos?limit=${PAGE}${after}`);
      found.push(...page.data);
    }
    this.more = page.has_more;
    this.videos = found;
    await this.#readFamily();
  }

  /** The relatives of the open video that are on no page that was read. */
  async #readFamily() {
    const known = new Map(this.videos.map((video) => [video.id, video]));
    let open = known.get(this.studio.take?.id) ?? this.studio.take?.video;
    const relatives = [];
    while (open?.parent) {
      const id = open.parent.video;
      open = known.get(id) ?? (await get(at(id)).catch(() => null));
      if (open) relatives.push(open);
    }
    this.relatives = relatives.filter(({ id }) => !known.has(id));
  }

  #all() {
    const { take } = this.studio;
    const known = new Map([...(this.relatives ?? []), ...this.videos].map((video) => [video.id, video]));
    if (take && !known.has(take.id)) known.set(take.id, take.video);
    return known;
  }

  #show() {
    const { take } = this.studio;
    const all = this.#all();
    const active = this.videos.filter(({ status }) => status === "queued" || status === "in_progress");
    this.studio.dispatchEvent(Object.assign(new Event("queue"), { active }));
    const state = JSON.stringify([...all.values(), take?.id, this.pair, this.more]);
    if (state === this.state) return;
    this.state = state;
    write(byId("waiting"), active.length ? String(active.length) : "");
    refill(byId("panel-takes"), ...this.#takes(all, take));
    refill(byId("panel-library"), ...this.#library(active));
  }

  // Takes

  #takes(all, take) {
    if (!take) return [make("p", { className: "nothing" }, "Open a video, then branch it: its takes are kept here as a tree.")];
    let root = all.get(take.id) ?? take.video;
    while (root.parent && all.has(root.parent.video)) root = all.get(root.parent.video);
    const pair = this.pair.filter((id) => all.has(id)).map((id) => all.get(id));
    const head = make(
      "div",
      { className: "panel-head" },
      make("h2", {}, "Takes"),
      button(pair.length < 2 ? "Choose two to compare" : "Compare side by side", () => this.compare(pair), {
        className: pair.length < 2 ? "ghost small" : "primary small",
        disabled: pair.length < 2,
        data: { key: "compare" },
      }),
    );
    const hint = all.size < 2 && make("p", { className: "note" }, "Move the playhead and press “Branch here” for another future of this video.");
    return [head, make("ul", { className: "videos" }, this.#branch(root, all)), hint];
  }

  #branch(video, all) {
    const children = [...all.values()]
      .filter(({ parent }) => parent?.video === video.id)
      .sort((a, b) => a.parent.at - b.parent.at);
    const below = children.length && make("ul", {}, ...children.map((child) => this.#branch(child, all)));
    return make("li", {}, this.#row(video, "takes"), below || null);
  }

  // Library

  #library(active) {
    const rest = this.videos.filter((video) => !active.includes(video));
    const part = (title, videos, nothing) => [
      make("div", { className: "panel-head" }, make("h2", {}, title)),
      videos.length
        ? make("ul", { className: "videos" }, ...videos.map((video) => make("li", {}, this.#row(video, "library"))))
        : make("p", { className: "nothing" }, nothing),
    ];
    const more = this.more && button("More", () => {
      this.pages += 1;
      this.reload();
    }, { data: { key: "more" } });
    const queue = active.length ? part("Being made, and waiting", [...active].reverse(), "") : [];
    return [...queue, ...part("Library", rest, "Finished videos are kept here."), more];
  }

  #row(video, list) {
    const key = (what) => ({ key: `${list}-${video.id}-${what}` });
    const open = button(video.prompt, () => this.#open(video.id), {
      className: "open",
      title: video.prompt,
      data: key("open"),
    });
    const row = make(
      "div",
      { className: "video", aria: { current: video.id === this.studio.take?.id ? "true" : null } },
      this.#poster(video),
      open,
      this.#facts(video),
      list === "takes" ? this.#chooser(video, key("pair")) : this.#deleter(video, key("delete")),
    );
    if (video.status === "in_progress" || video.status === "queued") {
      const label = `${video.prompt}, ${video.progress} % made`;
      row.append(make("progress", { max: 100, value: video.progress, aria: { label } }));
    }
    if (video.error) row.append(make("p", { className: "wrong" }, video.error.message));
    return row;
  }

  #poster(video) {
    if (!video.chunks_made && !video.frames_made) return make("span", { className: "thumb" });
    const frame = video.parent ? Math.round(video.parent.at * (video.fps || 16)) + 4 : 0;
    const shown = Math.min(frame, Math.max(0, (video.frames_made || 1) - 1));
    const src = at(video.id, `/thumbnail?frame=${shown}&width=96&epoch=${video.epoch ?? 0}`);
    return make("img", { className: "thumb", alt: "", loading: "lazy", src });
  }

  #facts(video) {
    const length = clock(Number(video.seconds));
    const facts = [video.parent ? `left at ${clock(video.parent.at)}, ${length}` : length];
    if (video.status === "queued") facts.push(video.position ? `${video.position} before it` : "next");
    else if (video.status === "in_progress") facts.push(`${video.progress} %${video.paused ? ", paused" : ""}`);
    else if (video.status === "failed") facts.push("failed");
    else if (video.verdict) facts.push(video.verdict);
    const line = make("p", { className: "facts" }, facts.join(" · "));
    if (video.status === "completed") {
      const name = video.prompt.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 50).replace(/^-|-$/g, "") || video.id;
      line.append(" · ", this.#link(video, "content", "video", `${name}.mp4`), " · ", this.#link(video, "record", "record", `${name}.json`));
    }
    return line;
  }

  #link(video, what, text, download) {
    const aria = { label: `Download the ${text} of ${video.prompt}` };
    return make("a", { href: at(video.id, `/${what}`), download, aria, data: { key: `${what}-${video.id}` } }, text);
  }

  #chooser(video, data) {
    const box = make("input", {
      type: "checkbox",
      checked: this.pair.includes(video.id),
      data,
      aria: { label: `Compare: ${video.prompt}, ${video.parent ? `left at ${clock(video.parent.at)}` : "the first take"}` },
      on: { change: () => this.#choose(video.id) },
    });
    return make("div", { className: "tools" }, make("label", {}, box));
  }

  /** Two at most: the oldest choice goes. */
  #choose(id) {
    this.pair = this.pair.includes(id) ? this.pair.filter((other) => other !== id) : [...this.pair, id].slice(-2);
    this.#show();
  }

  #deleter(video, data) {
    const busy = video.status === "queued" || video.status === "in_progress";
    const ask = button(busy ? "Cancel" : "Delete", (event) => this.#confirm(event.currentTarget, video), {
      className: "ghost small",
      data,
      aria: { label: `${busy ? "Cancel" : "Delete"}: ${video.prompt}` },
    });
    return make("div", { className: "tools" }, ask);
  }

  /** The first press asks, the second does it. */
  async #confirm(pressed, video) {
    if (pressed.dataset.sure !== "true") {
      pressed.dataset.sure = "true";
      write(pressed, "Sure?");
      setTimeout(() => {
        this.state = null;
        this.#show();
      }, 3000);
      return;
    }
    try {
      await remove(at(video.id));
      await this.reload();
    } catch (error) {
      this.#trouble(error);
    }
  }

  async #open(id) {
    try {
      await this.studio.open(id, { play: true });
    } catch (error) {
      this.#trouble(error);
    }
  }

  #trouble(error) {
    this.studio.dispatchEvent(Object.assign(new Event("trouble"), { error }));
  }
}
