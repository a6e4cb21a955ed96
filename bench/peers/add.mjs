// A producer: `node add.mjs QUEUE JOBS IN_FLIGHT WARM_UP_JOBS` adds single jobs, so many at once.
import { openQueue, serveGo } from './lib.mjs';

const [name, jobs, inFlight, warmUp] = process.argv.slice(2);
const PRIORITIES = [1, 10, 20];

async function add(queue, count) {
  for (let start = 0; start < count; start += Number(inFlight)) {
    const end = Math.min(count, start + Number(inFlight));
    const adds = [];
    for (let n = start; n < end; n += 1) {
      const data = { paymentId: `p-${n}`, orderId: `o-${n}`, paymentData: { method: 'card', amount: '19.99' } };
      adds.push(queue.add('process-payment', data, { jobId: `payment-${n}`, priority: PRIORITIES[n % 3] }));
    }
    await Promise.all(adds);
  }
}

await add(openQueue(`${name}-warm-up`), Number(warmUp));
const queue = openQueue(name);
await queue.waitUntilReady();
await serveGo(() => add(queue, Number(jobs)));
