import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { Backoff } from "../backoff.js";

const random = Math.random;
afterEach(() => {
  Math.random = random;
});

/** The pauses that follow, with the least and the greatest jitter. */
function bounds(prepare, count) {
  const [low, high] = [0, 1].map((value) => {
    Math.random = () => value;
    const backoff = prepare();
    return Array.from({ length: count }, () => backoff.next());
  });
  return low.map((shortest, index) => [shortest, high[index]]);
}

const asking = (retry, cap) => () => Object.assign(new Backoff(cap), { retry });

test("pauses double up to the cap", () => {
  assert.deepEqual(bounds(() => new Backoff(3000), 4), [
    [500, 1000],
    [1000, 2000],
    [1500, 3000],
    [1500, 3000],
  ]);
});

test("pauses are never shorter than the server asks", () => {
  assert.deepEqual(bounds(asking(400, 1000), 3), [
    [400, 500],
    [400, 800],
    [500, 1000],
  ]);
});

test("the server may ask for more than the cap, and clients still differ", () => {
  assert.deepEqual(bounds(asking(8000, 3000), 2), [
    [8000, 10000],
    [8000, 10000],
  ]);
});

test("a server that asks for nothing at all is not besieged when it fails", () => {
  Math.random = () => 1;
  const backoff = asking(0, 3000)();
  const pauses = Array.from({ length: 14 }, () => backoff.next());
  assert.deepEqual(pauses.slice(0, 4), [1, 2, 4, 8]);
  assert.equal(pauses.at(-1), 3000);
});

test("a success begins anew, and keeps what the server asked", () => {
  Math.random = () => 1;
  const backoff = asking(100, 3000)();
  for (let round = 0; round < 3; round++) backoff.next();
  backoff.reset();
  assert.deepEqual([backoff.next(), backoff.next()], [125, 200]);
});

test("pauses fit a timer, after any number of failures", () => {
  for (const retry of [1e20, 1.7e308, Infinity]) {
    assert.equal(asking(retry, 3000)().next(), 2 ** 31 - 1);
  }
  const failing = new Backoff(30_000);
  for (let round = 0; round < 3000; round++) failing.next();
  assert.ok(failing.next() <= 30_000);
});
