/**
 * A live session: a WebSocket about one video, see docs/serve.md.
 *
 * Where the connection is lost it is made again, with `watch`, for as long as it takes. Says
 * `message` (with `message` and, for a header or a chunk, `bytes`) and `lost` and `found`.
 */

const PATIENCE = [300, 700, 1500, 3000, 5000];

/** Messages that a binary one follows. */
const WITH_BYTES = new Set(["header", "chunk"]);

export class Live extends EventTarget {
  #socket = null;
  #first = null;
  #awaiting = null;
  #closed = false;
  #tries = 0;
  #count = 0;

  /**
   * @param {object} first the first message: `start` with a request, or `watch` with a video
   */
  constructor(first) {
    super();
    this.#first = first;
    this.#connect();
    this.pinging = setInterval(() => this.#send({ type: "ping" }), 20000);
  }

  #connect() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}/v1/live`);
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify({ ...this.#first, id: "first" }));
    socket.onmessage = ({ data }) => this.#receive(data);
    socket.onclose = ({ code }) => this.#lost(code);
    this.#socket = socket;
  }

  #receive(data) {
    if (typeof data !== "string") {
      const message = this.#awaiting;
      this.#awaiting = null;
      if (message) this.#tell(message, data);
      return;
    }
    const message = JSON.parse(data);
    if (WITH_BYTES.has(message.type)) {
      this.#awaiting = message;
      return;
    }
    if (message.type === "started") this.#started(message.video.id);
    this.#tell(message);
  }

  /** From now on, a connection that is made again watches this video. */
  #started(video) {
    if (this.#tries) this.dispatchEvent(new Event("found"));
    this.#tries = 0;
    this.#first = { type: "watch", video };
  }

  #tell(message, bytes = null) {
    this.dispatchEvent(Object.assign(new Event("message"), { message, bytes }));
  }

  #lost(code) {
    if (this.#closed) return;
    this.#awaiting = null;
    const started = this.#first.type === "watch";
    this.dispatchEvent(Object.assign(new Event("lost"), { code, started }));
    if (!started || code === 4401 || code === 4403) {
      this.close();
      return;
    }
    const pause = PATIENCE[Math.min(this.#tries, PATIENCE.length - 1)];
    this.#tries += 1;
    setTimeout(() => this.#closed || this.#connect(), pause);
  }

  #send(message) {
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  /**
   * Ask for something.
   *
   * @returns {string|null} the id that answers repeat; null: there is no connection now
   */
  ask(message) {
    this.#count += 1;
    const id = `ask-${this.#count}`;
    return this.#send({ ...message, id }) ? id : null;
  }

  /** Leave; the video goes on. */
  close() {
    this.#closed = true;
    clearInterval(this.pinging);
    this.#socket?.close();
  }
}
