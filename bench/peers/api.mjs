// POST /checkout with one statement an order.
import { answerWithoutOrder, jobOf, payments, pool, receiptOf, refusalOf, serve, statements, TTL_S } from './app.mjs';

async function place(order) {
  let placed;
  try {
    ({ rows: [placed] } = await pool.query({
      ...statements.place_order,
      values: [
        order.id, order.paymentId, order.userId, order.key, order.fingerprint, TTL_S, order.email, order.phone,
        order.address, order.method, order.token, order.skus, order.quantities,
      ],
    }));
  } catch (error) {
    throw refusalOf(error);
  }
  if (!placed) {
    return answerWithoutOrder(order);
  }
  const { name, data, opts } = jobOf(order, placed.total);
  await payments.add(name, data, opts);
  return receiptOf(order, placed);
}

await serve(place);
