// The producer's and the operator's side: adding, looking, steering.

const plain = value => JSON.parse(JSON.stringify(value ?? null));

export class Queues {
  #bullmq;
  #connect;
  #clients = [];
  #queues = new Map();
  #events = new Map();
  #flows = new Map();

  constructor(bullmq, connect) {
    this.#bullmq = bullmq;
    this.#connect = connect;
  }

  #client() {
    const client = this.#connect();
    this.#clients.push(client);
    return client;
  }

  queue({ prefix, queue, queueOpts = {} }) {
    const key = `${prefix}:${queue}`;
    if (!this.#queues.has(key)) {
      this.#queues.set(key, new this.#bullmq.Queue(queue, { connection: this.#client(), prefix, ...queueOpts }));
    }
    return this.#queues.get(key);
  }

  async #eventsOf({ prefix, queue }) {
    const key = `${prefix}:${queue}`;
    if (!this.#events.has(key)) {
      const events = new this.#bullmq.QueueEvents(queue, { connection: this.#client(), prefix });
      const seen = [];
      for (const name of ['added', 'waiting', 'active', 'progress', 'completed', 'failed', 'delayed', 'stalled', 'drained', 'retries-exhausted', 'deduplicated', 'paused', 'resumed']) {
        events.on(name, (args, id) => seen.push({ event: name, args, id }));
      }
      await events.waitUntilReady();
      this.#events.set(key, { events, seen });
    }
    return this.#events.get(key);
  }

  async close() {
    const open = [...this.#queues.values(), ...this.#flows.values(), ...[...this.#events.values()].map(({ events }) => events)];
    this.#queues.clear();
    this.#flows.clear();
    this.#events.clear();
    await Promise.allSettled(open.map(part => part.close()));
    for (const client of this.#clients.splice(0)) {
      client.disconnect();
    }
  }

  async add({ name, data, opts, ...where }) {
    const job = await this.queue(where).add(name, data, opts);
    return job.id;
  }

  async addBulk({ jobs, ...where }) {
    const added = await this.queue(where).addBulk(jobs);
    return added.map(job => job.id);
  }

  async addFlow({ prefix, flow }) {
    if (!this.#flows.has(prefix)) {
      this.#flows.set(prefix, new this.#bullmq.FlowProducer({ connection: this.#client(), prefix }));
    }
    const tree = await this.#flows.get(prefix).add(flow);
    return { id: tree.job.id, children: (tree.children ?? []).map(child => child.job.id) };
  }

  async upsertJobScheduler({ schedulerId, repeat, template, ...where }) {
    const job = await this.queue(where).upsertJobScheduler(schedulerId, repeat, template);
    return job?.id;
  }

  async getJobSchedulers(where) {
    return plain(await this.queue(where).getJobSchedulers());
  }

  async removeJobScheduler({ schedulerId, ...where }) {
    return this.queue(where).removeJobScheduler(schedulerId);
  }

  async getJob({ jobId, ...where }) {
    const job = await this.queue(where).getJob(jobId);
    return job ? { ...plain(job.toJSON()), state: await job.getState() } : null;
  }

  async getJobs({ types, start, end, asc, ...where }) {
    return plain((await this.queue(where).getJobs(types, start, end, asc)).map(job => job.toJSON()));
  }

  async getJobLogs({ jobId, ...where }) {
    return this.queue(where).getJobLogs(jobId);
  }

  async getDependencies({ jobId, ...where }) {
    const job = await this.queue(where).getJob(jobId);
    return plain({ values: await job.getChildrenValues(), ignored: await job.getIgnoredChildrenFailures() });
  }

  async counts(where) {
    return this.queue(where).getJobCounts();
  }

  async getMetrics({ type, ...where }) {
    return plain(await this.queue(where).getMetrics(type));
  }

  async exportPrometheusMetrics(where) {
    return this.queue(where).exportPrometheusMetrics();
  }

  async getWorkers(where) {
    return plain(await this.queue(where).getWorkers());
  }

  async pause(where) {
    await this.queue(where).pause();
  }

  async resume(where) {
    await this.queue(where).resume();
  }

  async isPaused(where) {
    return this.queue(where).isPaused();
  }

  async drain({ delayed, ...where }) {
    await this.queue(where).drain(delayed);
  }

  async retryJobs({ opts, ...where }) {
    await this.queue(where).retryJobs(opts);
  }

  async promoteJobs(where) {
    await this.queue(where).promoteJobs();
  }

  // One method of one job: retry, promote, remove, changePriority, changeDelay, log, updateProgress.
  async onJob({ jobId, method, args = [], ...where }) {
    const job = await this.queue(where).getJob(jobId);
    return plain(await job[method](...args));
  }

  async setGlobalConcurrency({ concurrency, ...where }) {
    await this.queue(where).setGlobalConcurrency(concurrency);
  }

  async setGlobalRateLimit({ max, duration, ...where }) {
    await this.queue(where).setGlobalRateLimit(max, duration);
  }

  async rateLimit({ ms, ...where }) {
    await this.queue(where).rateLimit(ms);
  }

  async watch(where) {
    await this.#eventsOf(where);
  }

  async seen(where) {
    return plain((await this.#eventsOf(where)).seen);
  }

  // Ends as job.waitUntilFinished does: with the job's value, or with an Error of its failed reason.
  async waitUntilFinished({ jobId, ttl, ...where }) {
    const { events } = await this.#eventsOf(where);
    const job = await this.queue(where).getJob(jobId);
    return plain(await job.waitUntilFinished(events, ttl));
  }
}
