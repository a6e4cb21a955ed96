// POST /checkout with a group commit: the requests that came in one turn of the event loop, and
// those that came while both batches were under way, share one statement and one bulk add.
import { answerWithoutOrder, jobOf, payments, pool, receiptOf, refusalOf, serve, statements, TTL_S } from './app.mjs';

const MAX_BATCH = 128;
const MAX_UNDER_WAY = 2;

const waiting = [];
let underWay = 0;
let scheduled = false;

function place(order) {
  return new Promise((resolve, reject) => {
    waiting.push({ order, resolve, reject });
    if (!scheduled) {
      scheduled = true;
      setImmediate(flush);
    }
  });
}

function flush() {
  scheduled = false;
  while (waiting.length && underWay < MAX_UNDER_WAY) {
    underWay += 1;
    run(nextBatch());
  }
}

// A key that two requests share is for one of them: the other waits for the next batch.
function nextBatch() {
  const batch = [];
  const later = [];
  const keys = new Set();
  while (waiting.length && batch.length < MAX_BATCH) {
    const entry = waiting.shift();
    const key = `${entry.order.userId}\0${entry.order.key}`;
    (keys.has(key) ? later : batch).push(entry);
    keys.add(key);
  }
  waiting.unshift(...later);
  return batch;
}

async function run(batch) {
  let placed;
  try {
    placed = await write(batch.map(({ order }) => order));
  } catch (error) {
    fail(batch, error);
    return;
  } finally {
    underWay -= 1;
    flush();
  }
  await answer(batch, placed);
}

// What breaks a batch may be the fault of one order in it.
function fail(batch, error) {
  if (batch.length === 1) {
    batch[0].reject(refusalOf(error));
    return;
  }
  for (const entry of batch) {
    write([entry.order]).then(placed => answer([entry], placed), cause => fail([entry], cause));
  }
}

async function write(orders) {
  const lines = { numbers: [], lines: [], skus: [], quantities: [] };
  orders.forEach((order, index) => order.skus.forEach((sku, line) => {
    lines.numbers.push(index + 1);
    lines.lines.push(line + 1);
    lines.skus.push(sku);
    lines.quantities.push(order.quantities[line]);
  }));
  const each = name => orders.map(order => order[name]);
  const { rows } = await pool.query({
    ...statements.place_orders,
    values: [
      each('id'), each('paymentId'), each('userId'), each('key'), each('fingerprint'), TTL_S,
      each('email'), each('phone'), orders.map(({ address }) => address && JSON.stringify(address)),
      each('method'), each('token'), orders.map(({ skus }) => skus.length),
      lines.numbers, lines.lines, lines.skus, lines.quantities,
    ],
  });
  return new Map(rows.map(row => [row.number, row]));
}

async function answer(batch, placed) {
  const written = batch.filter((_, index) => placed.has(index + 1));
  const others = batch.filter((_, index) => !placed.has(index + 1));
  const rows = [...placed.values()].sort((one, other) => one.number - other.number);
  others.forEach(({ order, resolve, reject }) => answerWithoutOrder(order).then(resolve, reject));
  try {
    await payments.addBulk(written.map(({ order }, index) => jobOf(order, rows[index].total)));
    written.forEach(({ order, resolve }, index) => resolve(receiptOf(order, rows[index])));
  } catch (error) {
    written.forEach(({ reject }) => reject(error));
  }
}

await serve(place);
