/** How long to wait before connecting again. */

const FIRST = 1000; // milliseconds, where the server asks for nothing
const LONGEST_TIMER = 2 ** 31 - 1; // what setTimeout takes

/** Pauses that double with each failure, up to a cap, and are never shorter than the server asks. */
export class Backoff {
  /** The pause that the server asked for by `retry:`, in milliseconds. @type {number | undefined} */
  retry;
  #cap;
  #failures = 0;

  /** @param {number} cap  The longest pause in milliseconds; the server may ask for a longer one. */
  constructor(cap) {
    this.#cap = cap;
  }

  /** Return the next pause in milliseconds. */
  next() {
    // With more digits than a number takes it is infinite, and the pause would be none at all.
    const asked = Math.min(this.retry ?? 0, LONGEST_TIMER);
    // From 0 no doubling would lead away.
    const doubled = Math.max(1, this.retry ?? FIRST) * 2 ** this.#failures++;
    // Random: the clients of a server that failed must not all come back at once; not even those
    // that it asked to wait for longer than the cap.
    const longest = Math.max(Math.min(this.#cap, doubled), asked * 1.25);
    const shortest = Math.max(longest / 2, asked);
    return Math.min(shortest + (longest - shortest) * Math.random(), LONGEST_TIMER);
  }

  /**
   * Begin with short pauses again: the server works. An answer shows less than the first block:
   * a server in trouble, or a proxy, may answer and end at once.
   */
  reset() {
    this.#failures = 0;
  }
}
