// What all Node peers share: the environment, the options of the queue contract, logs, and the
// words that they exchange with the harness (see bench/processes.py).
import { once } from 'node:events';
import { hostname } from 'node:os';
import { createInterface } from 'node:readline';

import { MetricsTime, Queue, Worker } from 'bullmq';
import { Redis } from 'ioredis';
import pino from 'pino';

const { LOG_LEVEL, QUEUE_PREFIX: prefix, REDIS_URL } = process.env;

export const JOB_OPTIONS = {
  attempts: 3,
  backoff: { type: 'exponential', delay: 2000 },
  removeOnComplete: { age: 3600, count: 1000 },
  removeOnFail: { age: 86400 },
};
export const PRIORITY_HIGH = 1;

// Lines go out in blocks: pino's fastest way.
export const log = pino(
  // pino has a shorter word for it than Python.
  { level: LOG_LEVEL === 'warning' ? 'warn' : LOG_LEVEL },
  pino.destination({ dest: 2, sync: false, minLength: 4096 }),
);

const connect = () => new Redis(REDIS_URL, { maxRetriesPerRequest: null });

export const openQueue = name =>
  new Queue(name, { connection: connect(), prefix, defaultJobOptions: JOB_OPTIONS });

export async function startWorker(name, process_, concurrency) {
  const worker = new Worker(name, process_, {
    connection: connect(),
    prefix,
    concurrency,
    name: `${hostname()}-${process.pid}`,
    metrics: { maxDataPoints: MetricsTime.TWO_WEEKS },
    // A dead worker is found out in seconds: the settings that orderflow ships with.
    lockDuration: 10_000,
    stalledInterval: 5_000,
  });
  worker.on('error', error => log.error(error));
  await worker.waitUntilReady();
  return worker;
}

// Ends the process in order when the harness asks for it.
export function onStop(close) {
  process.on('SIGTERM', async () => {
    await close();
    log.flush();
    process.exit(0);
  });
}

export const say = word => process.stdout.write(`${word}\n`);

// Runs `work` each time the harness says `go`.
export async function serveGo(work) {
  const input = createInterface({ input: process.stdin });
  say('ready');
  for (;;) {
    const [word] = await once(input, 'line');
    if (word === 'go') {
      await work();
      say('done');
    }
  }
}
