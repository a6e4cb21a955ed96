// The notification worker: `node notification.mjs CONCURRENCY [RECORDS]`. Its sender writes down in
// the file RECORDS whom it would have told; without one it mails.
import { readStatements } from './sql.mjs';
import { log, onStop, startWorker } from './lib.mjs';
import { openPool } from './pool.mjs';
import { openRecord } from './record.mjs';
import { closeMailer, sendMail } from './mailer.mjs';

const [concurrency, records] = process.argv.slice(2);
const statements = readStatements('orders.sql');
const pool = openPool();
const record = records && openRecord(records);

const KIND = 'order-confirmation';
const CLAIM_S = 10;

const query = async (statement, values) => (await pool.query({ ...statement, values })).rows[0];

const render = order => `Thank you for your order.

Your order ${order.id} is paid and confirmed.

${order.items.map(item => `${item.quantity} x ${item.name}  ${item.unit_price} ${order.currency}`).join('\n')}

Total: ${order.total} ${order.currency}
`;

async function send(order, text) {
  if (!record) {
    return sendMail(order, KIND, text);
  }
  record(`${order.id} ${Date.now()} ${text.length}`);
  return `${KIND}.${order.id}`;
}

async function notify(job) {
  const { orderId } = job.data;
  const order = await query(statements.find_order, [orderId]);
  if (order?.status !== 'confirmed') {
    throw new Error(`order ${orderId} is not confirmed`);
  }
  const sent = [];
  if (await query(statements.claim_notification, [orderId, KIND, 'email', order.email, CLAIM_S])) {
    const reference = await send(order, render(order));
    await query(statements.record_sent, [orderId, KIND, 'email', reference]);
    sent.push('email');
  }
  await query(statements.mark_notified, [orderId]);
  log.info({ order_id: orderId, kind: KIND, sent }, 'customer notified');
  return { success: true, sent };
}

const worker = await startWorker('notifications', notify, Number(concurrency));
onStop(async () => {
  await worker.close();
  closeMailer();
});
