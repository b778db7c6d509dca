/**
 * Positions, compared: what a tab that shares a stream has already had, lacks, or gets next.
 *
 * Ids are opaque to clients (docs/protocol.md). Those who share one connection have to compare
 * them all the same, so this reads the form that the service writes, `channel:number` pairs; names
 * stay encoded. Positions of any other form say nothing here, and count as equal.
 */

/** @typedef {Map<string, number>} Position  The number on each channel. */

/**
 * What the leader tells: a block, and where it stood before.
 *
 * @typedef {import("./parser.js").Block & { prev: string }} Message
 */

export const RESET = "stream-reset";

/** @param {string} text @returns {Position} */
function parse(text) {
  /** @type {Position} */
  const position = new Map();
  for (const pair of text.split(",")) {
    const [, name, number] = pair.match(/^([^:]+):(\d+)$/) || [];
    if (!name) {
      return new Map();
    }
    position.set(name, +number);
  }
  return position;
}

/**
 * Whether who stands at one position has all that leads to the other. A channel that it does not
 * name starts at the present, and lacks nothing.
 *
 * @param {string} own
 * @param {string} other
 */
export function covers(own, other) {
  const at = parse(own);
  return [...parse(other)].every(([name, number]) => !((at.get(name) ?? number) < number));
}

/**
 * Take a message of the leader, standing at `own`: return the new position ("" where there is none
 * of our form), and whether to deliver the message. Undefined: what comes before it is missing, or
 * it cannot be told.
 *
 * Channels stand for themselves: events of different channels have no order among each other.
 *
 * @param {string} own
 * @param {Message} message
 * @returns {[position: string, deliver: unknown] | undefined}
 */
export function take(own, { type, data, prev, lastEventId }) {
  const position = parse(own);
  const before = parse(prev);
  const resets = new Set(type === RESET ? JSON.parse(/** @type {string} */ (data)).channels : []);
  let news;
  let had;
  for (const [name, number] of parse(lastEventId)) {
    const was = before.get(name) ?? number - 1; // the service counts 1, 2, 3 ...
    const at = position.get(name) ?? was; // it starts at the present
    // Backwards: the service lost its counters, and all begin anew.
    const anew = resets.size && resets.delete(decodeURIComponent(name)) && was > number;
    if (anew || (at < number && number !== was)) {
      if (at < was && !anew) {
        return undefined;
      }
      news = position.set(name, number);
    } else {
      had ||= number !== was; // and needs no reset either
      position.set(name, at);
    }
  }
  // Both in one: an event, and others passed over that are not for this user. Which of the
  // channels is the event's, nobody can tell.
  if (news && had && data !== undefined && type !== RESET) {
    return undefined;
  }
  // Where nothing moved it is an event of the moment. Resets of unreliable channels are left over.
  const deliver = news || !had || resets.size;
  return [[...position].map((pair) => pair.join(":")).join(), deliver];
}
