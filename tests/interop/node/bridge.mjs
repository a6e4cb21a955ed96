// A real Node BullMQ at the end of a pipe: `node bridge.mjs bullmq6|bullmq5 REDIS_URL`. A URL of
// several hosts is a cluster.
//
// Reads one JSON request per line, {id, op, args}, and answers {id, result} or {id, error}. Requests
// run side by side. Ends when its input ends.
import { createInterface } from 'node:readline';

import { Board } from './board.mjs';
import { Consumers } from './consumers.mjs';
import { Queues } from './queues.mjs';

const PACKAGES = { bullmq6: 'bullmq', bullmq5: 'bullmq5' };

const [version, redisUrl] = process.argv.slice(2);
const bullmq = await import(PACKAGES[version]);
const { default: Redis } = await import('ioredis');

const options = { maxRetriesPerRequest: null };
const nodes = redisUrl.replace('redis://', '').split(',').map(place => `redis://${place}`);
const connect = () => {
  const client = nodes.length > 1 ? new Redis.Cluster(nodes, { redisOptions: options }) : new Redis(redisUrl, options);
  client.on('error', error => console.error('redis:', error.message));
  return client;
};
const parts = [new Queues(bullmq, connect), new Consumers(bullmq, connect)];
parts.push(new Board(parts[0]));

async function perform({ op, args }) {
  if (op === 'reset') {
    for (const part of [...parts].reverse()) {
      await part.close();
    }
    return null;
  }
  const part = parts.find(candidate => op in candidate && op !== 'close');
  if (!part) {
    throw new Error(`the bridge has no operation '${op}'`);
  }
  return part[op](args ?? {});
}

function answer(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function serve(line) {
  const request = JSON.parse(line);
  try {
    const result = await perform(request);
    answer({ id: request.id, result: result === undefined ? null : result });
  } catch (error) {
    answer({ id: request.id, error: { name: error?.name, message: String(error?.message ?? error) } });
  }
}

answer({ id: 0, result: { node: process.version, pid: process.pid } });
createInterface({ input: process.stdin })
  .on('line', serve)
  .on('close', () => process.exit(0));
