/** When a connection that says nothing has died, and when to connect without waiting. */

const TICK = 5000;
const GRACE = 1000;
const KEEP_ALIVES_MISSED = 2.5;
const SHORTEST = 5000;
const LONGEST_WITHOUT_ANSWER = 60_000;

/**
 * Watches a connection: calls back when it must be replaced.
 *
 * A server that sends keep-alives shows by them how often; when two are missing, the connection is
 * dead, though nothing says so: the device slept, or changed networks. The clock is that of the
 * wall, since others stand still while a device sleeps. Timers of hidden pages run once a minute:
 * such a page notices later, or when it is shown.
 *
 * Works in workers, and in environments that have no such events.
 */
export class Watchdog {
  /** When something was heard last, in milliseconds; Infinity: nothing is expected. */
  #heard = Infinity;
  /** @type {boolean | undefined} */
  #answered;
  /** When the last block came. */
  #block = Infinity;
  /** Between a block and the keep-alive after it. */
  #gap = 0;
  #limit;
  #learn;
  #ondead;
  #timer;
  #stop = new AbortController();

  /**
   * @param {() => void} ondead  The connection is dead.
   * @param {() => void} onreturn  The network is back: what seems open is dead; connect now.
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
    globalThis.addEventListener?.("visibilitychange", check, options);
  }

  /** A request was sent. */
  connecting() {
    this.#heard = Date.now();
    this.#answered = false;
    this.#block = Infinity;
  }

  /**
   * Something came: the answer, or a piece of it.
   *
   * @param {import("./parser.js").Block[]} [blocks]  What the piece completed.
   */
  heard(blocks = []) {
    const now = (this.#heard = Date.now());
    this.#answered = true;
    for (const { type } of blocks) {
      // From block to block: a keep-alive itself may come in pieces.
      const gap = now - this.#block;
      if (this.#learn && type === "keep-alive" && gap > 0) {
        // The longer of the last two: what was held up on the way makes one short. Not the longest
        // ever: one during which the device slept would mean for good that there is no limit.
        this.#limit = Math.max(SHORTEST, KEEP_ALIVES_MISSED * Math.max(gap, this.#gap));
        this.#gap = gap;
      }
      this.#block = now;
    }
  }

  /** No connection is wanted, and silence means nothing. */
  rest() {
    this.#heard = Infinity;
  }

  check() {
    const heard = this.#heard;
    const limit = this.#answered ? this.#limit : Math.min(this.#limit, LONGEST_WITHOUT_ANSWER);
    if (Date.now() - heard > limit) {
      // Not at once: a page that stood still has yet to read what came meanwhile.
      setTimeout(() => {
        if (this.#heard === heard) {
          this.rest();
          if (this.#learn) {
            this.#limit *= 2; // or one that was too short would end each connection
          }
          this.#ondead();
        }
      }, GRACE);
    }
  }

  stop() {
    this.rest();
    clearInterval(this.#timer);
    this.#stop.abort();
  }
}
