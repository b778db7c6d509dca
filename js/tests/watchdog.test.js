import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { Watchdog } from "../watchdog.js";

const KEEP_ALIVE = [{ type: "keep-alive", data: "", lastEventId: "" }];
const EVENT = [{ type: "message", data: "", lastEventId: "" }];
const SECOND = 1000;

let deaths;
let returns;
let watchdog;

function watch(limit) {
  watchdog = new Watchdog(
    () => deaths.push(Date.now()),
    () => returns.push(Date.now()),
    limit,
  );
  return watchdog;
}

/** Let time pass, for the page too; in steps, since the clock of the mock jumps to a step's end. */
function pass(seconds) {
  for (let second = 0; second < seconds; second++) mock.timers.tick(SECOND);
}

/** Let time pass for the world, while the device sleeps. */
function sleep(seconds) {
  mock.timers.setTime(Date.now() + seconds * SECOND - 1);
  mock.timers.tick(1);
}

/** A connection that opens, with keep-alives. */
function open(...gaps) {
  watchdog.connecting();
  watchdog.heard();
  watchdog.heard(EVENT);
  for (const gap of gaps) {
    pass(gap);
    watchdog.heard(KEEP_ALIVE);
  }
}

beforeEach(() => {
  mock.timers.enable({ apis: ["setInterval", "setTimeout", "Date"], now: 1e12 });
  deaths = [];
  returns = [];
});

afterEach(() => {
  watchdog.stop();
  mock.timers.reset();
});

test("without keep-alives no silence is too long", () => {
  watch();
  open();
  pass(3600);
  assert.deepEqual(deaths, []);
});

test("a connection is dead when two keep-alives are missing", () => {
  watch();
  open(20);
  pass(49);
  assert.deepEqual(deaths, []);
  pass(8);
  assert.equal(deaths.length, 1);
});

test("it is reported once, and the next connection is watched too", () => {
  watch();
  open(20);
  pass(1000);
  assert.equal(deaths.length, 1);
  open(20);
  pass(1000);
  assert.equal(deaths.length, 2);
});

test("anything that comes is a sign of life", () => {
  watch();
  open(20);
  for (let round = 0; round < 10; round++) {
    pass(45);
    watchdog.heard(); // half a block, or a comment
  }
  assert.deepEqual(deaths, []);
});

test("a keep-alive in two pieces shows the same interval", () => {
  watch();
  open();
  for (let round = 0; round < 5; round++) {
    pass(20);
    watchdog.heard([]);
    watchdog.heard(KEEP_ALIVE);
  }
  pass(45);
  assert.deepEqual(deaths, []);
});

test("an event held up on the way does not make the limit too short", () => {
  watch();
  open(20);
  pass(19);
  watchdog.heard(EVENT); // 19 s late
  pass(1);
  watchdog.heard(KEEP_ALIVE);
  pass(45);
  assert.deepEqual(deaths, []);
});

test("a limit that is too short grows until connections live", () => {
  watch();
  open(1, 1); // and from now on every 20 s
  for (let round = 0; round < 6; round++) {
    const before = deaths.length;
    watchdog.connecting();
    watchdog.heard(EVENT);
    pass(20);
    if (deaths.length === before) watchdog.heard(KEEP_ALIVE);
  }
  assert.ok(deaths.length >= 1 && deaths.length <= 3, `${deaths.length} deaths`);
  pass(45);
  assert.ok(deaths.length <= 3);
});

test("a night's sleep does not teach that silence is long", () => {
  watch();
  open(20, 20);
  sleep(8 * 3600);
  watchdog.heard(KEEP_ALIVE); // the connection has lived through it
  for (let round = 0; round < 2; round++) {
    pass(20);
    watchdog.heard(KEEP_ALIVE);
  }
  assert.deepEqual(deaths, []);
  pass(60);
  assert.equal(deaths.length, 1);
});

test("who wakes up reads first what came meanwhile", () => {
  watch();
  open(20);
  mock.timers.setTime(Date.now() + 3600 * SECOND);
  watchdog.check();
  watchdog.heard(EVENT);
  pass(10);
  assert.deepEqual(deaths, []);
});

test("after waking up a dead connection is noticed at once", () => {
  watch();
  open(20);
  sleep(3600);
  watchdog.check();
  pass(2);
  assert.equal(deaths.length, 1);
});

test("a request without an answer is dead after a minute", () => {
  watch();
  watchdog.connecting();
  pass(59);
  assert.deepEqual(deaths, []);
  pass(10);
  assert.equal(deaths.length, 1);
});

test("an answer is enough where there are no keep-alives", () => {
  watch();
  watchdog.connecting();
  pass(50);
  watchdog.heard();
  pass(1000);
  assert.deepEqual(deaths, []);
});

test("a limit that the page gives is not changed by keep-alives", () => {
  watch(8 * SECOND);
  open(7, 7);
  pass(15);
  assert.equal(deaths.length, 1);
  open();
  pass(15);
  assert.equal(deaths.length, 2);
});

test("nothing is expected while there is no connection", () => {
  watch();
  open(20);
  watchdog.rest();
  pass(1000);
  assert.deepEqual(deaths, []);
});

test("nothing happens after stop, even if it was about to", () => {
  watch();
  open(20);
  sleep(3600);
  watchdog.check();
  watchdog.stop();
  pass(1000);
  assert.deepEqual(deaths, []);
});

test("returns are told, until it is stopped", () => {
  const target = new EventTarget();
  globalThis.addEventListener = target.addEventListener.bind(target);
  try {
    watch();
    target.dispatchEvent(new Event("online"));
    target.dispatchEvent(new Event("pageshow"));
    target.dispatchEvent(Object.assign(new Event("pageshow"), { persisted: true }));
    assert.equal(returns.length, 2);
    watchdog.stop();
    target.dispatchEvent(new Event("online"));
    assert.equal(returns.length, 2);
  } finally {
    delete globalThis.addEventListener;
  }
});
