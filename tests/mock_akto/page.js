// Asks every second what is new, and changes only what differs: what is open stays open, and what is typed is kept.
"use strict";

const SWAPPED = ["collections", "counted", "words", "fault"];
const list = document.getElementById("calls");
let tag = "";

const get = (address, headers) => fetch(address, { headers: { Accept: "text/html", ...headers }, cache: "no-store" });
const parsed = async (response) => new DOMParser().parseFromString(await response.text(), "text/html");

function say(text) {
    const live = document.getElementById("live");
    if (live.textContent !== text) live.textContent = text;
}

function replace(old, fresh) {
    if (old.innerHTML !== fresh.innerHTML) old.replaceChildren(...fresh.cloneNode(true).childNodes);
}

async function loadEnvelope(details) {
    const envelope = (await parsed(await get(details.dataset.envelope))).getElementById("envelope");
    const box = details.querySelector(".envelope");
    if (envelope) replace(box, envelope);
    else box.textContent = "This call is kept no longer.";
}

function update(row, fresh) {
    const summary = row.querySelector("summary"), before = summary.innerHTML;
    replace(summary, fresh.querySelector("summary"));
    const details = row.querySelector("details");
    if (details.open && summary.innerHTML !== before) loadEnvelope(details);
}

function show(page) {
    if (page.body.dataset.run !== document.body.dataset.run) return location.reload();
    for (const id of SWAPPED) replace(document.getElementById(id), page.getElementById(id));
    const fresh = [...page.getElementById("calls").children];
    for (const row of [...list.children]) {
        if (!page.getElementById(row.id) && !row.querySelector("details[open]")) row.remove();
    }
    for (const row of fresh.reverse()) {
        const known = document.getElementById(row.id);
        if (known) update(known, row);
        else list.prepend(row);
    }
}

async function look() {
    const response = await get(location.href, tag && { "If-None-Match": tag });
    if (response.status === 304) return;
    tag = response.headers.get("ETag");
    show(await parsed(response));
}

async function watch() {
    try {
        if (!document.hidden) await look();
        say("live");
    } catch {
        say("no connection, trying again");
    }
    setTimeout(watch, 1000);
}

list.addEventListener("toggle", (event) => {
    if (event.target.open && event.target.dataset.envelope) loadEnvelope(event.target);
}, true);
watch();
