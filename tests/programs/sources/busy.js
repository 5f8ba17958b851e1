// Node at work: timers, promises, a worker thread, a file being written.
'use strict';
const crypto = require('crypto');
const fs = require('fs');
const path = require('path');
const { Worker, isMainThread, workerData, parentPort } = require('worker_threads');

if (!isMainThread) {
  const shared = new Int32Array(workerData);
  setInterval(() => Atomics.add(shared, 0, 1), 5);
  parentPort.on('message', (n) => parentPort.postMessage(n * 2));
} else {
  main().then(() => process.exit(0), (e) => {
    fs.writeSync(2, `${e.stack}\n`);
    process.exit(1);
  });
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

async function waitFor(what, condition) {
  const deadline = performance.now() + 30000;
  while (!condition()) {
    if (performance.now() > deadline) throw new Error(`waited in vain for ${what}`);
    await sleep(2);
  }
}

/** The stage protocol: see tests/victims/harness/stage.rs. */
function makeStage() {
  const dir = process.env.ICECORE_STAGE;
  const deadline = Date.now() + 300000;
  let round = 0;
  return async () => {
    const draft = path.join(dir, '.draft');
    fs.writeFileSync(draft, '');
    fs.renameSync(draft, path.join(dir, `ready-${round}`));
    const go = path.join(dir, `go-${round}`);
    const end = path.join(dir, 'end');
    round += 1;
    for (;;) {
      if (fs.existsSync(go)) return true;
      if (fs.existsSync(end)) return false;
      if (Date.now() > deadline) throw new Error('abandoned by the harness');
      await sleep(2);
    }
  };
}

async function main() {
  const shared = new SharedArrayBuffer(4);
  const counter = new Int32Array(shared);
  const worker = new Worker(__filename, { workerData: shared });
  let ticks = 0;
  setInterval(() => { ticks += 1; }, 10);
  let digest = crypto.createHash('sha256').update('ice').digest();
  let links = 0;
  const first = digest;
  setInterval(() => {
    digest = crypto.createHash('sha256').update(digest).digest();
    links += 1;
  }, 3);
  const written = path.join(process.env.ICECORE_STAGE, 'written');
  const file = fs.openSync(written, 'w');
  let lines = 0;

  const ask = (n) => new Promise((done) => {
    worker.once('message', done);
    worker.postMessage(n);
  });
  if (await ask(1) !== 2) throw new Error('the worker cannot multiply');

  const next = makeStage();
  while (await next()) {
    const before = ticks;
    const counted = Atomics.load(counter, 0);
    await waitFor('ticks', () => ticks > before + 3);
    await waitFor('the worker', () => Atomics.load(counter, 0) > counted + 3);
    if (await ask(21) !== 42) throw new Error('the worker cannot multiply any more');
    let again = first;
    for (let i = 0; i < links; i += 1) {
      again = crypto.createHash('sha256').update(again).digest();
    }
    if (!again.equals(digest)) throw new Error('the chain is broken');
    const start = performance.now();
    await sleep(50);
    const slept = performance.now() - start;
    if (slept < 49 || slept > 30000) throw new Error(`50 ms took ${slept} ms`);
    fs.writeSync(file, `line ${lines}\n`);
    lines += 1;
    const read = fs.readFileSync(written, 'utf8').split('\n').length - 1;
    if (read !== lines) throw new Error(`${read} lines instead of ${lines}`);
  }
}
