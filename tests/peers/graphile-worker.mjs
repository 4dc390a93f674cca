// Puts jobs into graphile-worker's queue and takes them out again, and says how long both took.
//
// usage: node graphile-worker.mjs FOLDER CALLERS JOBS      PG* in the environment say where
//
// FOLDER holds node_modules. Prints one line of JSON: seconds of both halves and CPU of this process.
import { createRequire } from "node:module";
import { performance } from "node:perf_hooks";

const [folder, callers, jobs] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const require = createRequire(`${folder}/package.json`);
const { makeWorkerUtils, runOnce, Logger } = require("graphile-worker");
const { Pool } = require("pg");

const WARM_UP = 40;
const PAYLOAD = {
  model: "tiny",
  messages: [{ role: "user", content: "what is the time" }],
};

const pgPool = new Pool({ max: callers + 2 });
const logger = new Logger(() => () => {});
const utils = await makeWorkerUtils({ pgPool, logger });
let done = 0;
const taskList = { job: async () => { done += 1; } };

// Each caller puts in its share, one after the other, each committed.
const putIn = (count) =>
  Promise.all(
    Array.from({ length: callers }, async (_, caller) => {
      for (let job = caller; job < count; job += callers) await utils.addJob("job", PAYLOAD);
    }),
  );
const takeOut = async (count) => {
  done = 0;
  await runOnce({ pgPool, taskList, logger, concurrency: callers, noHandleSignals: true });
  if (done !== count) throw new Error(`${done} of ${count} jobs were done`);
};
const timed = async (work) => {
  const before = performance.now();
  await work();
  return (performance.now() - before) / 1000;
};

await utils.migrate();
await putIn(WARM_UP);
await takeOut(WARM_UP);

const cpu = process.cpuUsage();
const put_in_s = await timed(() => putIn(jobs));
const taken_out_s = await timed(() => takeOut(jobs));
const { user, system } = process.cpuUsage(cpu);
console.log(JSON.stringify({ put_in_s, taken_out_s, cpu_s: (user + system) / 1e6 }));
await utils.release();
await pgPool.end();
