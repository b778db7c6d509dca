/** How long to wait before connecting again. */

const FIRST = 1000; // milliseconds, where the server asks for nothing
const LONGEST_TIMER = 2 ** 31 - 1; // what setTimeout takes

/** Pauses that double with each failure, up to a cap, and are never shorter than the server asks. */
export class Backoff {
  /** The pause that the server asked for by `retry:`, in milliseconds. @type {number} */
  retry = 0;
  #cap;
  #failures = 0;

  /** @param {number} cap  The longest pause in milliseconds; the server may ask for a longer one. */
  constructor(cap) {
    this.#cap = cap;
  }

  /** Return the next pause in milliseconds. */
  next() {
    const ceiling = Math.min(this.#cap, (this.retry || FIRST) * 2 ** this.#failures++);
    // Random: the clients of a server that failed must not all come back at once.
    const pause = Math.max(this.retry, ceiling * (0.5 + Math.random() / 2));
    return Math.min(pause, LONGEST_TIMER);
  }

  /** A connection stands: begin with short pauses again. */
  reset() {
    this.#failures = 0;
  }
}
