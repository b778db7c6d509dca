/**
 * Builds the scripts that the package ships: `node js/build.js`. With `--check` it writes nothing,
 * and fails if a file is not what its sources give or is too large.
 */
import { readFile, writeFile } from "node:fs/promises";
import { gzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const LARGEST = 4096; // bytes of each script, gzipped
/** Names of ours that leave no script, and may be short in it. */
const WITHIN = /^(heard|connecting|rest|check|group)$/;
const root = fileURLToPath(new URL("..", import.meta.url));
const target = `${root}django_eventstream/static/django_eventstream/`;

/** Each script's source, its file and its format. */
const SCRIPTS = [
  ["eventstream.js", "eventstream", "esm"],
  ["reconnecting-eventsource.js", "reconnecting-eventsource", "iife"],
  ["eventsource.js", "eventsource.min", "iife"],
];

const files = new Map();
for (const [source, name, format] of SCRIPTS) {
  const { outputFiles } = await build({
    absWorkingDir: root,
    entryPoints: { [name]: `js/${source}` },
    outdir: target,
    format,
    bundle: true,
    minify: true,
    mangleProps: WITHIN,
    sourcemap: true,
    charset: "ascii",
    target: "es2022",
    write: false,
  });
  for (const { path, contents } of outputFiles) files.set(path, Buffer.from(contents));
  files.set(`${target}${name}.d.ts`, await readFile(`${root}js/types/${name}.d.ts`));
}

const check = process.argv.includes("--check");
for (const [path, contents] of files) {
  const name = path.slice(target.length);
  const size = gzipSync(contents, { level: 9 }).length;
  if (name.endsWith(".js")) {
    console.log(`${name}: ${size} bytes gzipped`);
    if (size > LARGEST) fail(`${name} is larger than ${LARGEST} bytes gzipped`);
  }
  if (!check) {
    await writeFile(path, contents);
  } else if (!contents.equals(await readFile(path).catch(() => Buffer.alloc(0)))) {
    fail(`${name} is not what its sources give: run npm run build`);
  }
}

function fail(message) {
  console.error(message);
  process.exitCode = 1;
}
