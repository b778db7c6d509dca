/**
 * How much, and how long: the numbers of EventStream, times in milliseconds.
 *
 * A module of their own: esbuild writes numbers out, and so makes the script smaller, only where
 * they come from a module without imports.
 */

/** The longest pause between attempts. */
export const LONGEST_PAUSE = 30_000;

/** How much may wait in an iterator: so many events, or ten thousand times as many characters. */
export const ROOM = 1000;

/** With so much room again, an iterator lets the stream go on. */
export const ENOUGH = 500;

/** How often an iterator gets its turn before it is held to be slow. */
export const TURNS = 10_000;

/** How many events tabs keep for those that ask, and up to how many characters each. */
export const KEPT = 500;
export const LARGE = 4000;

/** Silence after which a tab asks whether the leader is still there. */
export const SILENCE = 30_000;

/** Without an answer for so long, and half as long again at most, another tab leads. */
export const PATIENCE = 1000;

/** How long a tab that is ahead of the leader waits for it, before it asks the service. */
export const AHEAD = 2000;

/** How long others have to learn of an error, before they could connect. */
export const FAREWELL = 500;
