/**
 * What a stream says, out of the bytes that carry it: no I/O, no timers.
 *
 * WHATWG HTML, section 9.2.5 "Parsing an event stream" and 9.2.6 "Interpreting an event stream".
 */

/**
 * One block of a stream: what stands between two blank lines.
 *
 * @typedef {object} Block
 * @property {string} type  The event's type; "message" if the stream names none, or it is no event.
 * @property {string | undefined} data  Undefined: no event, only the position moved.
 * @property {string} lastEventId  The position after this block.
 */

/** Reads the bytes of one response, in any pieces. */
export class EventStreamParser {
  /** The id that was in force after the last complete block. */
  lastEventId;
  /** What the last `retry:` line said, in milliseconds. @type {number | undefined} */
  retry;
  // Replaces what is no UTF-8, and drops a byte order mark, at the start only.
  #decoder = new TextDecoder();
  #rest = ""; // of a line that has not ended
  /** Whether an LF would belong to the line end before it. @type {boolean | undefined} */
  #afterCR;
  #type = "";
  /** @type {string[]} */
  #data = [];
  #id;

  /**
   * @param {string} [lastEventId]  Where the response resumes. The standard has each response
   *   begin without an id; browsers keep the old one for events that carry none, and so do we.
   */
  constructor(lastEventId = "") {
    this.lastEventId = this.#id = lastEventId;
  }

  /**
   * Return the blocks that these bytes complete. What follows the last blank line is kept for the
   * next call, and forgotten at the end of the response, as the standard has it.
   *
   * @param {Uint8Array} bytes
   * @returns {Block[]}
   */
  receive(bytes) {
    /** @type {Block[]} */
    const blocks = [];
    const text = this.#decoder.decode(bytes, { stream: true });
    if (text) {
      let start = this.#afterCR && text[0] === "\n" ? 1 : 0;
      this.#afterCR = text.endsWith("\r");
      // Only the new text is searched, and what is left joined once: long lines in small pieces
      // take linear time.
      const lineEnd = /\r\n?|\n/g;
      lineEnd.lastIndex = start;
      for (let match; (match = lineEnd.exec(text)); start = lineEnd.lastIndex) {
        this.#line(this.#rest + text.slice(start, match.index), blocks);
        this.#rest = "";
      }
      this.#rest += text.slice(start);
    }
    return blocks;
  }

  /** @param {string} line @param {Block[]} blocks */
  #line(line, blocks) {
    if (!line) {
      this.#end(blocks);
      return;
    }
    // A line without a colon is a name; one that begins with it, a comment, has an empty one.
    const [, name, value = ""] = /** @type {RegExpMatchArray} */ (
      line.match(/^([^:]*)(?:: ?([^]*))?/)
    );
    if (name === "event") {
      this.#type = value;
    } else if (name === "data") {
      this.#data.push(value);
    } else if (name === "id" && !value.includes("\0")) {
      this.#id = value;
    } else if (name === "retry" && /^\d+$/.test(value)) {
      this.retry = +value;
    }
  }

  /** @param {Block[]} blocks */
  #end(blocks) {
    const data = this.#data.length ? this.#data.join("\n") : undefined;
    if (data !== undefined || this.#id !== this.lastEventId) {
      this.lastEventId = this.#id;
      const type = (data !== undefined && this.#type) || "message";
      blocks.push({ type, data, lastEventId: this.#id });
    }
    this.#type = "";
    this.#data = [];
  }
}
