import assert from "node:assert/strict";
import { test } from "node:test";
import { EventStreamParser } from "../parser.js";

const encode = (text) => new TextEncoder().encode(text);
const message = (data, lastEventId = "", type = "message") => ({ type, data, lastEventId });

/** Parse bytes cut at the given places. */
function parse(bytes, cuts = [], lastEventId = "") {
  const parser = new EventStreamParser(lastEventId);
  const ends = [...cuts, bytes.length];
  const blocks = ends.flatMap((end, index) => parser.receive(bytes.subarray(ends[index - 1], end)));
  return { blocks, retry: parser.retry, lastEventId: parser.lastEventId };
}

/** The same, written as the standard puts it, on the whole text. */
function reference(bytes, lastEventId = "") {
  const text = new TextDecoder().decode(bytes);
  const lines = text.split(/\r\n|\r|\n/).slice(0, -1);
  const result = { blocks: [], retry: undefined, lastEventId };
  let [type, data, id] = ["", "", lastEventId];
  for (const line of lines) {
    const colon = line.indexOf(":");
    if (line === "") {
      const moved = id !== result.lastEventId;
      result.lastEventId = id;
      if (data || moved) {
        result.blocks.push(
          data ? message(data.slice(0, -1), id, type || "message") : message(undefined, id),
        );
      }
      type = data = "";
    } else if (colon !== 0) {
      const field = colon < 0 ? line : line.slice(0, colon);
      let value = colon < 0 ? "" : line.slice(colon + 1);
      if (value[0] === " ") value = value.slice(1);
      if (field === "event") type = value;
      if (field === "data") data += value + "\n";
      if (field === "id" && value.indexOf("\0") < 0) id = value;
      if (field === "retry" && value && [...value].every((c) => c >= "0" && c <= "9")) {
        result.retry = parseInt(value, 10);
      }
    }
  }
  return result;
}

/** Numbers that a seed draws (a linear congruential generator). */
function random(seed) {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

const RULES = {
  "a message": ["data: a\n\n", [message("a")]],
  "no space after the colon": ["data:a\n\n", [message("a")]],
  "only the first space goes": ["data:  a \n\n", [message(" a ")]],
  "a tab is no space": ["data:\ta\n\n", [message("\ta")]],
  "several lines": ["data: a\ndata: b\n\n", [message("a\nb")]],
  "empty data": ["data\n\ndata:\n\ndata: \n\n", [message(""), message(""), message("")]],
  "two empty lines of data": ["data\ndata\n\n", [message("\n")]],
  "colons in data": ["data: a: b\n\n", [message("a: b")]],
  "no data, no event": ["event: a\n\nevent: b\nretry: 1\n\n", []],
  "the type is for one event": ["event: a\n\ndata: b\n\n", [message("b")]],
  "the last type counts": ["event: a\nevent: b\ndata\n\n", [message("", "", "b")]],
  "an empty type is message": ["event: a\nevent:\ndata\n\n", [message("")]],
  "an id stays": ["id: 1\ndata: a\n\ndata: b\n\n", [message("a", "1"), message("b", "1")]],
  "an id alone moves the position": ["id: 1\n\n", [message(undefined, "1")]],
  "a type without data is none": ["event: a\nid: 1\n\n", [message(undefined, "1")]],
  "an empty id forgets": ["id: 1\ndata\n\nid\ndata\n\n", [message("", "1"), message("")]],
  "an id with NUL is ignored": ["id: 1\nid: 2\0\ndata\n\n", [message("", "1")]],
  "NUL elsewhere stays": ["event: \0\ndata: \0\n\n", [message("\0", "", "\0")]],
  "an id waits for the blank line": ["data: a\n\nid: 1\ndata: b\n", [message("a")]],
  "comments": [":a\n:\n: data: b\ndata: c\n:d\n\n", [message("c")]],
  "unknown fields": [" data: a\nData: a\ndata : a\ndat: a\ndatas: a\ndata: b\n\n", [message("b")]],
  "a byte order mark at the start": ["\ufeffdata: a\n\n", [message("a")]],
  "one only": ["\ufeff\ufeffdata: a\n\ndata: b\n\n", [message("b")]],
  "and none later": ["data: a\n\n\ufeffdata: b\n\ndata: \ufeffc\n\n", [message("a"), message("\ufeffc")]],
  "CR": ["data: a\rdata: b\r\r", [message("a\nb")]],
  "CRLF": ["data: a\r\ndata: b\r\n\r\n", [message("a\nb")]],
  "CRLF is one line end": ["data: a\r\ndata: b\n\n", [message("a\nb")]],
  "LF CR are two": ["data: a\n\rdata: b\n\r", [message("a"), message("b")]],
  "CR CR LF is two": ["data: a\r\r\ndata: b\r\r\n", [message("a"), message("b")]],
  "no other line ends": ["data: a\u2028b\u0085c\vd\fe\n\n", [message("a\u2028b\u0085c\vd\fe")]],
  "what is unfinished goes": ["data: a\n\ndata: b\n", [message("a")]],
  "and half a line": ["data: a\n\ndata: b", [message("a")]],
};

for (const [name, [stream, blocks]] of Object.entries(RULES)) {
  test(`${name}, whole and split at each byte`, () => {
    const bytes = encode(stream);
    assert.deepEqual(parse(bytes).blocks, blocks);
    assert.deepEqual(reference(bytes).blocks, blocks);
    const each = [...bytes.keys()];
    for (const cut of each) assert.deepEqual(parse(bytes, [cut]).blocks, blocks, `cut at ${cut}`);
    assert.deepEqual(parse(bytes, each).blocks, blocks);
  });
}

test("an event is complete with the CR of its blank line", () => {
  const parser = new EventStreamParser();
  assert.deepEqual(parser.receive(encode("data: a\r\n\r")), [message("a")]);
  assert.deepEqual(parser.receive(encode("\ndata: b\n\n")), [message("b")]);
});

test("what is no UTF-8 is replaced", () => {
  const bytes = Uint8Array.from([...encode("data: "), 0xff, 0xe2, 0x82, 0x0a, 0xc0, 0x80, 0x0a, 0x0a]);
  for (const cut of bytes.keys()) {
    assert.deepEqual(parse(bytes, [cut]).blocks, [message("\ufffd\ufffd")]);
  }
});

test("retry takes digits only, and counts at once", () => {
  for (const [line, retry] of [
    ["retry: 10", 10],
    ["retry:010", 10],
    ["retry: 99999999999999999999", 1e20],
    [`retry: ${"9".repeat(400)}`, Infinity],
    ["retry", undefined],
    ["retry: ", undefined],
    ["retry:  1", undefined],
    ["retry: 1 ", undefined],
    ["retry: -1", undefined],
    ["retry: 1.5", undefined],
    ["retry: 1e3", undefined],
    ["retry: 0x1", undefined],
    ["retry: \u0661", undefined],
  ]) {
    assert.equal(parse(encode(`${line}\n`)).retry, retry, line);
  }
  assert.equal(parse(encode("retry: 1\nretry: 2\nretry: x\n")).retry, 2);
});

test("a response goes on with the id of the one before", () => {
  const { blocks, lastEventId } = parse(encode("data: a\n\nid: 5\n\nid: 6\ndata: b\n\n"), [], "5");
  assert.deepEqual(blocks, [message("a", "5"), message("b", "6")]);
  assert.equal(lastEventId, "6");
});

test("random streams in random pieces are read as the standard says", () => {
  const ALPHABET = [
    ..."\n\n\n\r\r:: \0a5\ufeff\u20ac\u{1f600}",
    ...["data:", "data", "event: ", "id: ", "id", "retry: ", "\r\n", "\r\n\r\n"],
  ].map((text) => [...encode(text)]);
  ALPHABET.push([0xff], [0xe2], [0x82], [0xf0, 0x9f], [0xed, 0xa0, 0x80], [0xef, 0xbb]);
  for (let seed = 0; seed < 5000; seed++) {
    const below = random(seed);
    const pieces = Array.from({ length: below(60) }, () => ALPHABET[below(ALPHABET.length)]);
    const bytes = Uint8Array.from(pieces.flat());
    const cuts = Array.from({ length: below(6) }, () => below(bytes.length + 1));
    const start = ["", "5"][below(2)];
    const found = parse(bytes, cuts.sort((a, b) => a - b), start);
    assert.deepEqual(found, reference(bytes, start), `seed ${seed}`);
  }
});

test("time grows with the length of lines and the number of pieces no faster than they do", () => {
  const seconds = (size) => {
    const bytes = encode(`data: ${"x".repeat(size)}\n\n`);
    const start = performance.now();
    const cuts = Array.from({ length: bytes.length / 1024 }, (_, index) => 1024 * index);
    assert.equal(parse(bytes, cuts).blocks[0].data.length, size);
    return (performance.now() - start) / 1000;
  };
  seconds(1e5); // compile
  // 0.1 s where this was written; searching the whole line at each piece took 60 s.
  assert.ok(seconds(1e7) < 10);
});

test("a million small events", () => {
  const bytes = encode("event: a\nid: b:1\ndata: {}\n\n".repeat(10_000));
  const parser = new EventStreamParser();
  let count = 0;
  for (let round = 0; round < 100; round++) count += parser.receive(bytes).length;
  assert.equal(count, 1_000_000);
});
