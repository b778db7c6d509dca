import assert from "node:assert/strict";
import { test } from "node:test";
import { EventStream } from "../eventstream.js";
import { World } from "./world.js";

/** Run a test in a world, with a tab that has a stream of its own. */
function scenario(name, run) {
  test(name, async () => {
    const world = new World(1);
    const restore = world.install();
    try {
      const tab = await world.open((tab) => {
        tab.stream = new EventStream("https://example.com/events/");
      });
      await world.run(1000);
      await run(world, tab.stream);
      assert.deepEqual(world.errors, []);
    } finally {
      restore();
    }
  });
}

/** Have events sent, and arrive. */
async function send(world, count) {
  while (count--) world.service.send("a");
  await world.run(1000);
}

scenario("a callback that is set by another one begins with the next event", async (world, stream) => {
  let calls = 0;
  let stop;
  const again = () => {
    stop();
    if (++calls < 100) stop = stream.on("message", again);
  };
  stop = stream.on("message", again);
  await send(world, 1);
  assert.equal(calls, 1);
  await send(world, 2);
  assert.equal(calls, 3);
});

scenario("a callback that is ended by another one hears nothing more", async (world, stream) => {
  let calls = 0;
  stream.on("message", () => stop());
  const stop = stream.on("message", () => calls++);
  await send(world, 2);
  assert.equal(calls, 0);
});

scenario("what still waits when a page closes the stream does not come", async (world, stream) => {
  const iterator = stream[Symbol.asyncIterator]();
  await send(world, 10);
  assert.equal((await iterator.next()).value.data.number, 3001);
  stream.close();
  assert.equal((await iterator.next()).done, true);
  assert.equal((await stream[Symbol.asyncIterator]().next()).done, true);
});

scenario("what still waits when the server ends the stream comes", async (world, stream) => {
  const iterator = stream[Symbol.asyncIterator]();
  await send(world, 3);
  const [connection] = world.service.streams;
  connection.write('event: stream-error\ndata: {"condition": "forbidden", "text": "No"}\n\n');
  await world.run(100);
  assert.equal(stream.state, "closed");
  for (const number of [3001, 3002, 3003]) {
    assert.equal((await iterator.next()).value.data.number, number);
  }
  await assert.rejects(iterator.next(), { condition: "forbidden" });
  await assert.rejects(stream[Symbol.asyncIterator]().next(), { condition: "forbidden" });
});
