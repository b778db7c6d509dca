// Requests to the room's API, and what to do when they fail.

const TIMEOUT = 15_000;
const FIRST_PAUSE = 1_000;
const LONGEST_PAUSE = 30_000;

/** The server will not have this, however often it is asked. */
export class Refused extends Error {}

/** Return the answer. Throws Refused, or another Error where it may help to try again. */
export async function request(url, options = {}) {
  let response;
  try {
    const signal = AbortSignal.timeout(TIMEOUT);
    response = await fetch(url, { cache: "no-store", signal, ...options });
    if (response.ok) return await response.json();
  } catch {
    throw new Error("The server cannot be reached.");
  }
  if (response.status !== 400) throw new Error(`The server failed (${response.status}).`);
  const { errors } = await response.json();
  throw new Refused(Object.values(errors).join(" "));
}

/** Pauses between attempts: each twice as long as the one before, until something gives hope. */
export class Pauses {
  #length = FIRST_PAUSE;
  #end = () => {};

  wait() {
    const pause = this.#length * (0.5 + Math.random() / 2);
    this.#length = Math.min(this.#length * 2, LONGEST_PAUSE);
    return new Promise((resolve) => {
      this.#end = resolve;
      setTimeout(resolve, pause);
    });
  }

  /** End the pause, and begin with short ones again. */
  end() {
    this.#length = FIRST_PAUSE;
    this.#end();
  }
}
