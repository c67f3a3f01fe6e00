/** Small pictures of frames, fetched a few at a time; the newest wishes come first. */

const AT_ONCE = 4;
const KEPT = 600;

/** Pictures for a canvas, by their address. */
export class Pictures {
  #known = new Map();
  #wished = [];
  #busy = 0;

  /** @param {() => void} arrived is called when there is a new one */
  constructor(arrived) {
    this.arrived = arrived;
  }

  /** The picture, or null as long as it is not there. */
  get(url) {
    const known = this.#known.get(url);
    if (known === undefined) {
      this.#known.set(url, null);
      this.#wished.push(url);
      this.#fetch();
    }
    return known ?? null;
  }

  #fetch() {
    while (this.#busy < AT_ONCE && this.#wished.length) {
      const url = this.#wished.pop();
      const image = new Image();
      const done = (picture) => {
        this.#busy -= 1;
        if (picture) this.#known.set(url, picture);
        else this.#known.delete(url);
        this.#trim();
        if (picture) this.arrived();
        this.#fetch();
      };
      image.onload = () => done(image);
      image.onerror = () => setTimeout(done, 2000, null);
      image.src = url;
      this.#busy += 1;
    }
  }

  #trim() {
    for (const url of this.#known.keys()) {
      if (this.#known.size <= KEPT) return;
      this.#known.delete(url);
    }
  }
}
