// A Node service that has an order charged: it adds a job to the queue that orderflow works on.
//
//   npm install
//   REDIS_URL=redis://127.0.0.1:6379/0 node add.mjs 7001 4711 card 19.99
import { Queue } from 'bullmq';
import Redis from 'ioredis';

const [paymentId, orderId, method, amount] = process.argv.slice(2);

const connection = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379/0', {
  maxRetriesPerRequest: null,
});
const payments = new Queue('payment-processing', {
  connection,
  prefix: process.env.QUEUE_PREFIX ?? 'bull',
  // Those of docs/queue-contract.md: workers in both languages expect them.
  defaultJobOptions: {
    attempts: 3,
    backoff: { type: 'exponential', delay: 2000 },
    removeOnComplete: { age: 3600, count: 1000 },
    removeOnFail: { age: 86400 },
  },
});

const job = await payments.add(
  'process-payment',
  // The amount as text: 0.1 + 0.2 is no sum of money.
  { paymentId, orderId, paymentData: { method, amount } },
  // HIGH. The id makes a second run of this script the same job.
  { priority: 1, jobId: `payment-${paymentId}` },
);
console.log(`added ${job.id}`);

await payments.close();
await connection.quit();
