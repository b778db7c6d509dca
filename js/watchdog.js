/** When a connection that says nothing has died, and when the page should look after it. */

const TICK = 5000;
const KEEP_ALIVES_MISSED = 2.5;

/**
 * Watches a connection: calls back when it must be replaced.
 *
 * A server that sends keep-alives shows how often by the first one; when two are missing, the
 * connection is dead, though nothing says so: the device slept, or changed networks. The clock is
 * that of the wall, since others stand still while a device sleeps.
 */
export class Watchdog {
  /** When something was heard last, in milliseconds; Infinity: nothing is expected. */
  #heard = Infinity;
  #limit;
  #learn;
  #ondead;
  #timer = 0;
  #stop = new AbortController();

  /**
   * @param {() => void} ondead  The connection is dead.
   * @param {() => void} onreturn  The network is back: do not wait any longer.
   * @param {number} [limit]  How long a silence is death, in milliseconds; otherwise learned.
   */
  constructor(ondead, onreturn, limit) {
    this.#ondead = ondead;
    this.#limit = limit || Infinity;
    this.#learn = limit === undefined;
    const options = { signal: this.#stop.signal };
    const check = () => this.check();
    this.#timer = setInterval(check, TICK);
    globalThis.addEventListener?.("online", onreturn, options);
    globalThis.addEventListener?.("pageshow", (event) => event.persisted && onreturn(), options);
    globalThis.document?.addEventListener("visibilitychange", check, options);
  }

  /** Something came. @param {string} [type]  The event's type. */
  heard(type) {
    const now = Date.now();
    if (this.#learn && type === "keep-alive" && now > this.#heard) {
      const limit = KEEP_ALIVES_MISSED * (now - this.#heard);
      this.#limit = this.#limit < Infinity ? Math.max(this.#limit, limit) : limit;
    }
    this.#heard = now;
  }

  /** No connection is open, and silence means nothing. */
  rest() {
    this.#heard = Infinity;
  }

  check() {
    if (Date.now() - this.#heard > this.#limit) {
      this.rest();
      this.#ondead();
    }
  }

  stop() {
    clearInterval(this.#timer);
    this.#stop.abort();
  }
}
