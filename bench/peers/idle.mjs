// Workers that mostly rest: `node idle.mjs QUEUE COUNT` works on QUEUE-0, QUEUE-1, … and says for
// each job how many microseconds after its adding it was started. Both ends read the clock of
// this machine that only goes forward.
import { onStop, say, startWorker } from './lib.mjs';

const [queue, count] = process.argv.slice(2);

async function process_(job) {
  const startedUs = Number(process.hrtime.bigint() / 1000n);
  say(startedUs - job.data.addedUs);
  return null;
}

const names = Array.from({ length: Number(count) }, (_, n) => `${queue}-${n}`);
const workers = await Promise.all(names.map(name => startWorker(name, process_, 10)));
onStop(() => Promise.all(workers.map(worker => worker.close())));
say('ready');
