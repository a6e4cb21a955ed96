// The Fastify service, whichever way its orders are written: JWT, JSON schema, answers.
import { createHash } from 'node:crypto';

import { createVerifier } from 'fast-jwt';
import Fastify from 'fastify';
import { v7 as uuidv7 } from 'uuid';

import { log, onStop, openQueue, PRIORITY_HIGH } from './lib.mjs';
import { openPool } from './pool.mjs';
import { readStatements } from './sql.mjs';

const { JWT_SECRET, PORT } = process.env;

export const TTL_S = 86_400;
export const statements = readStatements('checkout.sql');

export const pool = openPool();
export const payments = openQueue('payment-processing');

const text = (maxLength, minLength = 1) => ({ type: 'string', minLength, maxLength, pattern: '^[^\\x00-\\x1f\\x7f-\\x9f]*$' });
const object = (required, properties) => ({ type: 'object', additionalProperties: false, required, properties });

const schema = {
  body: object(['items', 'paymentMethod', 'contact'], {
    items: {
      type: 'array', minItems: 1, maxItems: 100,
      items: object(['sku', 'quantity'], { sku: text(64), quantity: { type: 'integer', minimum: 1, maximum: 1000 } }),
    },
    paymentMethod: { enum: ['card', 'online', 'wallet', 'cash'] },
    paymentToken: text(255),
    contact: object(['email'], {
      email: { type: 'string', format: 'email' },
      phone: { type: 'string', pattern: '^\\+[1-9][0-9]{6,14}$' },
    }),
    shippingAddress: object(['name', 'line1', 'postalCode', 'city', 'country'], {
      name: text(200), line1: text(200), line2: text(200), postalCode: text(20),
      city: text(200), region: text(200), country: { type: 'string', pattern: '^[A-Z]{2}$' },
    }),
  }),
  headers: {
    type: 'object', required: ['idempotency-key'],
    properties: { 'idempotency-key': { type: 'string', minLength: 1, maxLength: 255, pattern: '^[\\x20-\\x7e]*$' } },
  },
  response: {
    202: object(['orderId', 'paymentId', 'status', 'total', 'currency'], Object.fromEntries(
      ['orderId', 'paymentId', 'status', 'total', 'currency'].map(name => [name, { type: 'string' }]),
    )),
  },
};

class Refused extends Error {
  constructor(statusCode, code) {
    super(code);
    this.statusCode = statusCode;
  }
}

// What a request asks for, ready to be written.
function orderOf(request) {
  const { body } = request;
  const quantities = new Map();
  for (const { sku, quantity } of body.items) {
    quantities.set(sku, (quantities.get(sku) ?? 0) + quantity);
  }
  return {
    id: uuidv7(), paymentId: uuidv7(), userId: request.userId, key: request.headers['idempotency-key'],
    fingerprint: createHash('sha256').update(JSON.stringify(body)).digest(),
    email: body.contact.email, phone: body.contact.phone ?? null, address: body.shippingAddress ?? null,
    method: body.paymentMethod, token: body.paymentToken ?? null,
    skus: [...quantities.keys()], quantities: [...quantities.values()],
  };
}

export const jobOf = (order, total) => ({
  name: 'process-payment',
  data: { paymentId: order.paymentId, orderId: order.id, paymentData: { method: order.method, amount: total } },
  opts: { jobId: `payment-${order.paymentId}`, priority: PRIORITY_HIGH },
});

export const receiptOf = (order, { total, currency }) => ({
  orderId: order.id, paymentId: order.paymentId, status: 'pending', total, currency,
});

// Why an order was not placed, or what the same request was answered before.
export async function answerWithoutOrder(order) {
  const { rows: [kept] } = await pool.query({ ...statements.find_key, values: [order.userId, order.key] });
  if (kept && kept.fingerprint.equals(order.fingerprint)) {
    return kept.answer;
  }
  throw kept ? new Refused(422, 'idempotency-key-reused') : new Refused(422, 'unknown-products');
}

export const refusalOf = error =>
  error.constraint === 'products_stock_check' ? new Refused(409, 'out-of-stock') : error;

// `place` writes an order, adds its job, and returns the receipt.
export async function serve(place) {
  const verify = createVerifier({ key: JWT_SECRET, algorithms: ['HS256'], requiredClaims: ['sub', 'exp'], cache: 10_000 });
  const app = Fastify({
    loggerInstance: log,
    disableRequestLogging: true,
    bodyLimit: 65_536,
    // Fastify's defaults would mend a wrong body in silence.
    ajv: { customOptions: { removeAdditional: false, coerceTypes: false, useDefaults: false, allErrors: false } },
  });
  app.decorateRequest('userId', '');
  app.get('/livez', async () => ({ status: 'ok' }));
  app.post('/checkout', {
    schema,
    onRequest(request, reply, done) {
      const [scheme, token] = (request.headers.authorization ?? '').split(' ');
      try {
        if (scheme !== 'Bearer') {
          throw new Error('no bearer token');
        }
        request.userId = verify(token).sub;
        done();
      } catch {
        done(new Refused(401, 'unauthenticated'));
      }
    },
  }, async (request, reply) => {
    const receipt = await place(orderOf(request));
    log.info({ order_id: receipt.orderId, payment_id: receipt.paymentId, total: receipt.total, currency: receipt.currency }, 'order placed');
    reply.code(202).header('location', `/orders/${receipt.orderId}`);
    return receipt;
  });
  await payments.waitUntilReady();
  await app.listen({ host: '127.0.0.1', port: Number(PORT) });
  onStop(() => app.close());
}
