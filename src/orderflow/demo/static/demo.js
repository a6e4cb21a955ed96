// The demo shop: a cart, a checkout, and orders that are followed by their streams.
"use strict";

const find = (selector, within = document) => within.querySelector(selector);
const cart = new Map(); // by sku: {name, cents, currency, quantity}
const money = (cents, currency) => `${(cents / 100).toFixed(2)} ${currency}`;
const wait = (ms) => new Promise((done) => setTimeout(done, ms));

/* Who you are: a token for this tab, until the tab is closed or the token expires */

async function visitor(anew = false) {
  const kept = anew ? null : sessionStorage.getItem("visitor");
  if (kept) return JSON.parse(kept);
  const made = await (await fetch("/demo/token", { method: "POST" })).json();
  sessionStorage.setItem("visitor", JSON.stringify(made));
  return made;
}

async function call(path, options = {}) {
  const { token } = await visitor();
  const headers = { ...options.headers, Authorization: `Bearer ${token}` };
  return fetch(path, { ...options, headers, cache: "no-store" });
}

async function problem(answer) {
  const { detail, errors = [] } = await answer.json();
  return [detail, ...errors.map((fault) => `${fault.field}: ${fault.detail}`)].join(" ");
}

/* The cart */

function add(product) {
  const { sku, name, price, currency } = product.dataset;
  const line = cart.get(sku) ?? { name, cents: Math.round(Number(price) * 100), currency, quantity: 0 };
  cart.set(sku, { ...line, quantity: Math.min(line.quantity + 1, 1000) });
  showCart();
}

function showCart() {
  find("#empty").hidden = cart.size > 0;
  find("#lines").replaceChildren(...[...cart].map(([sku, line]) => lineOf(sku, line)));
  showTotal();
}

function lineOf(sku, line) {
  const item = find("#line").content.firstElementChild.cloneNode(true);
  find(".name", item).textContent = line.name;
  find(".price", item).textContent = money(line.cents, line.currency);
  find(".unseen", item).textContent = line.name;
  const quantity = find("input", item);
  quantity.value = line.quantity;
  quantity.addEventListener("input", () => {
    line.quantity = quantity.valueAsNumber;
    showTotal();
  });
  find("button", item).addEventListener("click", () => {
    cart.delete(sku);
    showCart();
    find("#main").focus(); // what was focused is gone
  });
  return item;
}

function showTotal() {
  const lines = [...cart.values()];
  const cents = lines.reduce((sum, line) => sum + line.cents * (line.quantity || 0), 0);
  find("#total").textContent = lines.length ? `Total: ${money(cents, lines[0].currency)}` : "";
}

/* Checkout. The key is of this cart: pressed twice, or sent again after a lost answer, it is one order */

const newKey = () => [...crypto.getRandomValues(new Uint32Array(4))].join("-");
let key = newKey();

async function checkout(event) {
  event.preventDefault();
  const button = find("#order-form button");
  const fault = (text) => (find("#fault").textContent = text);
  fault("");
  if (!cart.size) return fault("Put something into the cart first.");
  button.disabled = true;
  try {
    const answer = await call("/checkout", {
      method: "POST",
      headers: { "Content-Type": "application/json", "Idempotency-Key": `"${key}"` },
      body: JSON.stringify({
        items: [...cart].map(([sku, { quantity }]) => ({ sku, quantity })),
        paymentMethod: "card",
        paymentToken: new FormData(event.target).get("card"),
        contact: { email: find("#email").value },
      }),
    });
    // A request that was refused keeps nothing; whatever is changed now is another request.
    key = newKey();
    if (!answer.ok) return fault(await problem(answer));
    const { orderId } = await answer.json();
    cart.clear();
    showCart();
    follow(orderId);
    restock();
  } catch {
    fault("The shop did not answer. Order again: it makes one order.");
  } finally {
    button.disabled = false;
  }
}

/* What is in stock is rendered on the server, so it is asked for the page anew */

async function restock() {
  const page = new DOMParser().parseFromString(await (await fetch("/demo")).text(), "text/html");
  const fresh = new Map([...page.querySelectorAll("#products [data-sku]")].map((p) => [p.dataset.sku, p]));
  for (const product of document.querySelectorAll("#products [data-sku]")) {
    const now = fresh.get(product.dataset.sku);
    if (!now) continue;
    find(".stock", product).textContent = find(".stock", now).textContent;
    find("button", product).disabled = find("button", now).disabled;
  }
}

/* Orders */

const WORDS = {
  pending: ["Placed", "warn"],
  processing: ["Being paid", "warn"],
  confirmed: ["Confirmed", "ok"],
  shipped: ["On its way", "ok"],
  delivered: ["Delivered", "ok"],
  cancelled: ["Cancelled", "bad"],
};

function cardOf(orderId) {
  const article = find("#order").content.firstElementChild.cloneNode(true);
  const name = `order ${orderId}`;
  find("h3", article).textContent = `Order ${orderId}`;
  for (const unseen of article.querySelectorAll(".unseen")) unseen.textContent = name;
  find(".cancel", article).addEventListener("click", async () => {
    const answer = await call(`/orders/${orderId}/cancel`, { method: "POST" });
    if (!answer.ok) find(".following", article).textContent = await problem(answer);
  });
  find(".mail", article).addEventListener("click", async () => {
    const answer = await call(`/demo/mails/${orderId}`);
    find("pre", article).hidden = false;
    find("pre", article).textContent = answer.ok ? await answer.text() : await problem(answer);
  });
  find("#none").hidden = true;
  find("#order-list").prepend(article);
  return article;
}

function show(article, live) {
  const [word, mood] = WORDS[live.status];
  const reason = live.payment.declineReason ? `: ${live.payment.declineReason.replaceAll("_", " ")}` : "";
  const state = find(".state", article);
  state.textContent = word + reason;
  state.dataset.mood = mood;
  const step = document.createElement("li");
  const time = document.createElement("time");
  time.dateTime = live.at;
  time.textContent = new Date(live.at).toLocaleTimeString();
  const refunds = live.refunds.map((r) => `, refund of ${r.amount} ${r.currency} ${r.status}`).join("");
  step.append(time, ` ${live.status}, payment ${live.payment.status}${refunds}`);
  find(".steps", article).append(step);
  find(".cancel", article).hidden = !["pending", "processing", "confirmed"].includes(live.status);
  find(".mail", article).hidden = ["pending", "processing"].includes(live.status);
}

/* The stream. EventSource cannot send a token, so the events are read from a fetch */

// A browser has six connections to a host, and the shop needs some for itself.
const MOST_LIVE = 4;
const live = [];

async function follow(orderId) {
  const article = cardOf(orderId);
  const says = (text) => (find(".following", article).textContent = text);
  const leave = new AbortController();
  live.push(leave);
  if (live.length > MOST_LIVE) live.shift().abort();
  await followUntil(leave.signal, orderId, article, says);
  if (live.includes(leave)) live.splice(live.indexOf(leave), 1);
  else says("Not live any more, since newer orders are: reload the page");
}

async function followUntil(signal, orderId, article, says) {
  let lastId = "";
  let retryMs = 3000;
  while (!signal.aborted) {
    try {
      const headers = lastId ? { "Last-Event-ID": lastId } : {};
      const answer = await call(`/orders/${orderId}/events`, { headers, signal });
      if (answer.status === 204) return says("");
      if (answer.status === 401) return says("Your token has expired: reload the page.");
      if (!answer.ok) throw new Error(await problem(answer));
      says("Live");
      for await (const event of eventsOf(answer.body)) {
        if (event.retry) retryMs = Number(event.retry);
        if (event.id) lastId = event.id;
        if (event.event === "status") show(article, JSON.parse(event.data));
        if (event.event === "end") {
          restock();
          return says("");
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      says(`Connection lost, trying again (${error.message})`);
    }
    await wait(retryMs);
  }
}

async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      // Each line is a field and its value; one that begins with a colon is a comment.
      yield Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s, 2)));
    }
  }
}

async function begin() {
  let answer = await call(`/orders?limit=${MOST_LIVE}`);
  if (answer.status === 401) {
    await visitor(true);
    answer = await call(`/orders?limit=${MOST_LIVE}`);
  }
  find("#visitor").textContent = (await visitor()).user;
  const { orders } = await answer.json();
  for (const { orderId } of orders.reverse()) follow(orderId);
}

find("#products").addEventListener("click", ({ target }) => {
  const button = target.closest("button");
  if (button) add(button.closest("[data-sku]"));
});
find("#order-form").addEventListener("submit", checkout);
begin();
