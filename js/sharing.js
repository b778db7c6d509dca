/**
 * One connection for all tabs of an origin.
 *
 * The tab that holds a Web Lock leads: it has the connection, and tells the others every block by
 * a BroadcastChannel. They wait for the lock, and so the next one leads as soon as a tab is closed
 * or crashes. Each tab has its own position and takes what follows it (position.js); so it does not
 * matter who leads, what is told twice, or what got lost with a tab. Who lacks something asks: the
 * leader tells again what it still has, or else the tab fetches it by a connection of its own,
 * which ends when it has caught up.
 *
 * Messages have `from`, and the sender's position: `lastEventId`. They are
 * - blocks, with the position before them: `prev`
 * - `state` and `reason` of the connection; `to` whoever asked
 * - `error`: the data of what ended the stream for good
 * - `ask`: whether the leader is there, and for what follows the position; by the others
 */

import { AHEAD, FAREWELL, KEPT, LARGE, PATIENCE, SILENCE } from "./limits.js";
import { RESET, covers, take } from "./position.js";
import { StreamError, keepReading } from "./reading.js";
import { Watchdog } from "./watchdog.js";

/**
 * Be one of the tabs that share a stream, until the signal aborts.
 *
 * @param {{ readonly url: string, lastEventId: string }} tab  This tab's stream.
 * @param {import("./types/eventstream").EventStreamOptions & { group: string }} options
 *   `group`: what tabs have to have in common.
 * @param {AbortSignal} signal
 * @param {import("./reading.js").On} on
 */
export function share(tab, options, signal, ...[onblock, onstate, onend]) {
  const { group, stallTimeout } = options;
  const me = Math.random();
  const bus = new BroadcastChannel(group);
  const watchdog = new Watchdog(ask, ask, stallTimeout || SILENCE);
  /** @type {number | undefined} */
  let leader;
  /** Of the own connection: as the leader, or to catch up. @type {AbortController | undefined} */
  let reading;
  /** What the leader says of its connection. */
  let status = {};
  /** The leader's position, as told last. */
  let target = "";
  /** @type {import("./position.js").Message[]} */
  let kept = [];
  /** Until when the leader should have answered. @type {any} */
  let timer;
  /** @type {boolean | undefined} */
  let heard;
  /** Of the lock. @type {AbortController | undefined} */
  let pending;
  let release = () => {};
  /** @type {boolean | undefined} */
  let ended;

  const post = (/** @type {object} */ message) => {
    bus.postMessage({ prev: tab.lastEventId, lastEventId: tab.lastEventId, ...message, from: me });
  };

  const keep = (/** @type {any} */ message) => {
    // From before a reset, or across a gap, nobody can go on.
    kept =
      message.type === RESET || message.data?.length > LARGE
        ? []
        : [...kept, message].slice(-KEPT);
  };

  const disconnect = () => {
    reading?.abort();
    reading = undefined;
  };

  /**
   * End the own connection if this tab has what the leader has. Whether a tab that is ahead may be
   * so, a block shows that follows `stream-open`: a reset, where it may not.
   *
   * @param {boolean} [shown]
   */
  const compare = (shown) => {
    if (covers(tab.lastEventId, target) && (shown || covers(target, tab.lastEventId))) {
      disconnect();
    }
  };

  /** @param {boolean} [leads]  Else this catches up. */
  const connect = (leads) => {
    disconnect();
    reading = new AbortController();
    keepReading(
      tab,
      options,
      reading.signal,
      (block) => {
        const { type, lastEventId } = block;
        const before = tab.lastEventId;
        const message = { ...block, prev: type === "stream-open" ? lastEventId : before };
        if (leads) {
          post(message);
        }
        const moved = message.prev !== lastEventId;
        if (moved) {
          keep(message);
        }
        // What is of the moment comes from the leader.
        const done = (leads || moved) && onblock(block);
        if (!leads) {
          compare(type !== "stream-open");
        }
        return done;
      },
      (state, reason) => {
        if (leads) {
          status = { state, reason: reason && `${reason}` };
          post(status);
          onstate(state, reason);
        }
      },
      (error) => {
        if (leads) {
          ended = true;
          post({ error: error.data });
        }
        onend(error);
      },
    );
  };

  const lead = () => {
    leader = me;
    answered();
    connect(true);
  };

  /** Queue for the lock, or take it away. @param {boolean} [steal] */
  const request = (steal) => {
    pending?.abort();
    const own = (pending = new AbortController());
    navigator.locks
      .request(
        group,
        steal ? { steal } : own, // that is, its signal
        () =>
          new Promise((/** @type {(_: void) => void} */ resolve) => {
            release = resolve;
            if (signal.aborted) {
              release();
            } else {
              lead();
            }
          }),
      )
      .catch((error) => {
        if (signal.aborted || own !== pending) {
          return;
        }
        if (error.name !== "AbortError") {
          lead(); // there are no locks here: by itself
          return;
        }
        // Another tab took it away: this one was blocked.
        leader = undefined;
        disconnect();
        request();
        ask();
      });
  };

  function answered() {
    clearTimeout(timer);
    timer = 0;
  }

  /** Ask the leader for what follows the own position, and so whether it is there at all. */
  function ask() {
    if (leader === me || timer) {
      return;
    }
    heard = false;
    post({ ask: true });
    timer = setTimeout(
      () => {
        timer = 0;
        if (heard) {
          ask();
        } else {
          request(true); // it hangs
        }
      },
      PATIENCE * (1 + me / 2), // not all at once
    );
  }

  bus.onmessage = ({ data: message }) => {
    const { from, ask: asks, state, reason, error, to, type, prev, lastEventId } = message;
    if (leader === me) {
      // Others that say they lead will learn that they do not any more.
      if (asks) {
        for (const block of kept) {
          if (covers(lastEventId, kept[0].prev) && !covers(lastEventId, block.lastEventId)) {
            post(block);
          }
        }
        post({ ...status, to: from });
      }
    } else if (!asks) {
      heard = true;
      leader ??= from; // or it would not take what comes before the answer
      if (state && (from !== leader || to === me)) {
        leader = from;
        answered();
      }
      if (from !== leader) {
        ask();
        return;
      }
      watchdog.heard();
      if (error) {
        onend(new StreamError(error));
        return;
      }
      target = lastEventId;
      if (state) {
        onstate(state, reason);
      }
      const moved = prev !== lastEventId;
      if (type && !moved) {
        // Of the moment: nobody tells it again, so it must not wait until this tab has caught up.
        onblock({ ...message, lastEventId: tab.lastEventId });
      }
      // A callback may have ended it.
      if (state === "connecting" || signal.aborted) {
        return;
      }
      if (reading) {
        compare();
        return;
      }
      const taken = take(tab.lastEventId, message);
      if (!taken || !covers(taken[0], target)) {
        if (to === me) {
          connect();
        } else {
          ask();
        }
        return;
      }
      tab.lastEventId = taken[0] || lastEventId;
      if (state) {
        setTimeout(() => {
          if (!reading && !signal.aborted && !covers(target, tab.lastEventId)) {
            connect();
          }
        }, AHEAD);
      }
      if (taken[1] && moved) {
        keep(message);
        onblock({ ...message, lastEventId: tab.lastEventId });
      }
    }
  };

  signal.addEventListener("abort", () => {
    answered();
    watchdog.stop();
    bus.close();
    pending?.abort();
    disconnect();
    if (ended) {
      setTimeout(release, FAREWELL);
    } else {
      release();
    }
  });
  request();
  ask();
}
