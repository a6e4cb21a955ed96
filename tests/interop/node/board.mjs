// Bull Board over HTTP on a free port of loopback.
import { once } from 'node:events';

import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import { ExpressAdapter } from '@bull-board/express';
import express from 'express';

export class Board {
  #queues;
  #servers = [];

  constructor(queues) {
    this.#queues = queues;
  }

  async startBoard({ prefix, queues }) {
    const adapter = new ExpressAdapter();
    createBullBoard({
      queues: queues.map(queue => new BullMQAdapter(this.#queues.queue({ prefix, queue }))),
      serverAdapter: adapter,
    });
    const app = express();
    app.use(adapter.getRouter());
    const server = app.listen(0, '127.0.0.1');
    await once(server, 'listening');
    this.#servers.push(server);
    return `http://127.0.0.1:${server.address().port}`;
  }

  async close() {
    for (const server of this.#servers.splice(0)) {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    }
  }
}
