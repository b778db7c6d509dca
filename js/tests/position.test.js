import assert from "node:assert/strict";
import { test } from "node:test";
import { covers, take } from "../position.js";

/** What a tab at a position makes of a message. */
function at(own, prev, lastEventId, block = { type: "message", data: "1" }) {
  const taken = take(own, { ...block, prev, lastEventId });
  return taken && [taken[0], Boolean(taken[1])];
}

const bare = { type: "message", data: undefined };
const reset = (...channels) => ({ type: "stream-reset", data: JSON.stringify({ channels }) });

test("what follows the own position is delivered, and moves it", () => {
  assert.deepEqual(at("a:5,b:3", "a:5,b:3", "a:6,b:3"), ["a:6,b:3", true]);
});

test("what was had already is dropped", () => {
  assert.deepEqual(at("a:6,b:3", "a:5,b:3", "a:6,b:3"), ["a:6,b:3", false]);
});

test("what does not follow is missing something", () => {
  assert.equal(at("a:4,b:3", "a:5,b:3", "a:6,b:3"), undefined);
});

test("channels stand for themselves", () => {
  // Ahead on one, behind on the other: the event is of the first.
  assert.deepEqual(at("a:5,b:2", "a:5,b:3", "a:6,b:3"), ["a:6,b:2", true]);
  assert.deepEqual(at("a:5,b:9", "a:5,b:3", "a:6,b:3"), ["a:6,b:9", true]);
});

test("a channel without a position starts at the present", () => {
  assert.deepEqual(at("", "a:5,b:3", "a:6,b:3"), ["a:6,b:3", true]);
  assert.deepEqual(at("b:3", "a:5,b:3", "a:5,b:4"), ["b:4,a:5", true]);
  assert.deepEqual(at("", "a:5,b:3", "a:5,b:3"), ["a:5,b:3", true]);
});

test("an event of the moment is delivered wherever the tab stands", () => {
  for (const own of ["a:5", "a:2", "a:9"]) assert.deepEqual(at(own, "a:5", "a:5"), [own, true]);
});

test("events that are not for the user move the position", () => {
  assert.deepEqual(at("a:5", "a:5", "a:9", bare), ["a:9", true]);
  assert.deepEqual(at("a:7", "a:5", "a:9", bare), ["a:9", true]);
  assert.equal(at("a:4", "a:5", "a:9", bare), undefined);
  assert.deepEqual(at("a:9,b:1", "a:5,b:1", "a:9,b:2", bare), ["a:9,b:2", true]);
});

test("an event that cannot be told from others passed over is not guessed at", () => {
  // It moves both channels, and of one the tab has everything: is it that one's event?
  assert.equal(at("a:6,b:3", "a:5,b:3", "a:6,b:4"), undefined);
});

test("who leads without a position tells it by the first event", () => {
  assert.deepEqual(at("a:5", "", "a:6"), ["a:6", true]);
  assert.equal(at("a:4", "", "a:6"), undefined);
});

test("a reset is for those who are behind what it leads to", () => {
  assert.deepEqual(at("a:5", "a:5", "a:9", reset("a")), ["a:9", true]);
  assert.deepEqual(at("a:7", "a:5", "a:9", reset("a")), ["a:9", true]);
  assert.deepEqual(at("a:9", "a:5", "a:9", reset("a")), ["a:9", false]);
});

test("a reset to lower numbers is for all: the service lost its counters", () => {
  for (const own of ["a:100", "a:50", "a:2"]) {
    assert.deepEqual(at(own, "a:100", "a:5", reset("a")), ["a:5", true]);
  }
});

test("a reset moves its channels and no others", () => {
  assert.equal(at("a:100,b:7", "a:100,b:3", "a:5,b:3", reset("a"))[0], "a:5,b:7");
});

test("a reset of an unreliable channel is always delivered", () => {
  assert(at("a:9", "a:5", "a:5", reset("loose"))[1]);
  assert(at("a:9", "a:5", "a:9", reset("a", "loose"))[1]);
  assert(at("", "", "", reset("loose"))[1]);
});

test("names are compared as they are written", () => {
  assert.equal(at("r%C3%A9:7", "r%C3%A9:7", "r%C3%A9:2", reset("ré"))[0], "r%C3%A9:2");
  assert.deepEqual(at("__proto__:1", "__proto__:1", "__proto__:2"), ["__proto__:2", true]);
});

test("positions of another form count as equal", () => {
  for (const id of ["42", "a", "a:b", ":1", "a:1,", "a:1,b", "a:-1", "a: 1"]) {
    assert.deepEqual(at("41", "41", id), ["", true]);
    assert(covers("41", id) && covers(id, "41"));
  }
});

test("who has all of another position covers it", () => {
  assert(covers("a:5,b:3", "a:5,b:3"));
  assert(covers("a:5,b:3", "a:5"));
  assert(covers("a:5", "a:5,b:3"));
  assert(!covers("a:4,b:9", "a:5,b:3"));
});
