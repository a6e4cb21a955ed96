// The pages work without this. With it, what is in [data-live] follows the server.
"use strict";

const region = document.querySelector("[data-live]");
const status = document.querySelector("#live-status");
const toggle = document.querySelector("#live-toggle");
let stream = null;

// Only what differs is touched, so that focus, selection and open details stay as they are.
function morph(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
  } else if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
  } else {
    morphAttributes(old, fresh);
    morphChildren(old, [...fresh.childNodes]);
  }
}

function morphAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
}

function morphChildren(old, children) {
  const kept = [...old.childNodes];
  children.forEach((child, place) => {
    if (place < kept.length) morph(kept[place], child);
    else old.append(child);
  });
  kept.slice(children.length).forEach((child) => child.remove());
}

function show(text, state) {
  // The same words again would be read out again.
  if (status.textContent !== text) status.textContent = text;
  status.dataset.state = state;
}

function follow() {
  stream = new EventSource(location.href);
  stream.addEventListener("page", (event) => {
    const fresh = document.createElement("template");
    fresh.innerHTML = event.data;
    morphChildren(region, [...fresh.content.childNodes]);
    show("Live", "live");
  });
  stream.addEventListener("trouble", (event) => show(event.data, "lost"));
  stream.addEventListener("error", () => {
    const over = stream.readyState === EventSource.CLOSED;
    show(over ? "Not live: reload the page" : "Connection lost, trying again", "lost");
  });
  toggle.textContent = "Pause updates";
}

function leave() {
  stream?.close();
  stream = null;
}

function pause() {
  leave();
  show("Updates are paused", "paused");
  toggle.textContent = "Go on";
}

if (region) {
  toggle.hidden = false;
  toggle.addEventListener("click", () => (stream ? pause() : follow()));
  // A browser has six connections to a host: tabs that nobody sees must not hold them all.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) leave();
    else if (status.dataset.state !== "paused") follow();
  });
  follow();
}
