// A worker whose jobs do nothing: `node drain.mjs QUEUE CONCURRENCY`.
import { onStop, startWorker } from './lib.mjs';

const [queue, concurrency] = process.argv.slice(2);
const worker = await startWorker(queue, async () => null, Number(concurrency));
onStop(() => worker.close());
