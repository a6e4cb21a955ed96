// The payment worker: `node payment.mjs CONCURRENCY RECORDS`. Its gateway approves at once, in this
// process, after it wrote the charge's key to the file RECORDS.
import { readStatements } from './sql.mjs';
import { log, onStop, openQueue, PRIORITY_HIGH, startWorker } from './lib.mjs';
import { openPool } from './pool.mjs';
import { openRecord } from './record.mjs';

const [concurrency, records] = process.argv.slice(2);
const statements = readStatements('orders.sql');
const pool = openPool();
const notifications = openQueue('notifications');
const record = openRecord(records);

const OPEN = ['pending', 'processing'];
const ORDER_MAY_BE_CONFIRMED = ['pending', 'processing'];

const query = async (statement, values) => (await pool.query({ ...statement, values })).rows[0];

function charge(payment) {
  record(payment.id);
  return `recorded-${payment.id}`;
}

async function processPayment(job) {
  const { paymentId, orderId, paymentData } = job.data;
  const payment = await query(statements.find_payment, [paymentId]);
  if (!payment || payment.order_id !== orderId || payment.amount !== paymentData.amount || payment.method !== paymentData.method) {
    throw new Error(`the job contradicts payment ${paymentId}`);
  }
  let transactionId = payment.transaction_id;
  if (OPEN.includes(payment.status)) {
    await query(statements.begin_charge, [paymentId]);
    transactionId = charge(payment);
    await query(statements.settle_paid, [paymentId, transactionId, OPEN, ORDER_MAY_BE_CONFIRMED]);
    log.info({ order_id: orderId, payment_id: paymentId, outcome: 'paid' }, 'payment settled');
  }
  await notifications.add(
    'order-confirmation',
    { orderId, userId: payment.user_id },
    { jobId: `order-confirmation-${orderId}`, priority: PRIORITY_HIGH },
  );
  return { success: true, transactionId };
}

const worker = await startWorker('payment-processing', processPayment, Number(concurrency));
onStop(() => worker.close());
