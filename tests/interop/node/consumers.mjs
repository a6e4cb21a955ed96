// The worker's side. A job's data says what becomes of it:
//
//   {sleepMs}          it takes that long
//   {failTimes, fail}  that many attempts end with an Error of that message
//   {unrecoverable}    it ends with an UnrecoverableError of that message
//   {value}            it is the job's value; else what the worker returns, {by: 'node'}
import { setTimeout as sleep } from 'node:timers/promises';

export class Consumers {
  #bullmq;
  #connect;
  #workers = new Map();
  #clients = [];

  constructor(bullmq, connect) {
    this.#bullmq = bullmq;
    this.#connect = connect;
  }

  async startWorker({ prefix, queue, opts = {}, returns = { by: 'node' } }) {
    const client = this.#connect();
    this.#clients.push(client);
    const ran = [];
    const errors = [];
    const worker = new this.#bullmq.Worker(queue, job => this.#process(job, ran, returns), {
      connection: client,
      prefix,
      ...opts,
    });
    worker.on('error', error => errors.push(error.message));
    await worker.waitUntilReady();
    this.#workers.set(`${prefix}:${queue}`, { worker, ran, errors });
  }

  async #process(job, ran, returns) {
    ran.push({ id: job.id, name: job.name, data: job.data, attempt: job.attemptsMade + 1 });
    const { sleepMs, failTimes = 0, fail, unrecoverable, value } = job.data;
    if (sleepMs) {
      await sleep(sleepMs);
    }
    if (unrecoverable) {
      throw new this.#bullmq.UnrecoverableError(unrecoverable);
    }
    if (job.attemptsMade < failTimes) {
      throw new Error(fail ?? 'as asked');
    }
    return value ?? returns;
  }

  async ran({ prefix, queue }) {
    return this.#workers.get(`${prefix}:${queue}`).ran;
  }

  async workerErrors({ prefix, queue }) {
    return this.#workers.get(`${prefix}:${queue}`).errors;
  }

  async stopWorker({ prefix, queue }) {
    const key = `${prefix}:${queue}`;
    await this.#workers.get(key).worker.close();
    this.#workers.delete(key);
  }

  async close() {
    const open = [...this.#workers.values()];
    this.#workers.clear();
    await Promise.allSettled(open.map(({ worker }) => worker.close(true)));
    for (const client of this.#clients.splice(0)) {
      client.disconnect();
    }
  }
}
