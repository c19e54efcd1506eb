/** The tray of uploads: one row a file, drawn ten times a second, however many there are. */

import { explain } from "./api.js";
import { announce, byId, copyOf } from "./dom.js";
import { formatBytes, formatCount, formatFiles, sentence } from "./format.js";

const DRAW_EVERY_MS = 100;
const ROWS_A_DRAWING = 100;

const STATES = {
  waiting: () => "waiting",
  sending: (upload) => {
    const share = upload.size ? upload.sent / upload.size : 0;
    const rate = upload.rate ? ` · ${formatBytes(upload.rate)}/s` : "";
    return `${formatBytes(upload.sent)} of ${formatBytes(upload.size)}${rate} · ${Math.floor(share * 100)} %`;
  },
  saving: () => "making it durable",
  stored: () => "stored",
  known: () => "already here",
  refused: () => "refused",
  failed: () => "failed",
  cancelled: () => "cancelled",
};

export class Tray {
  #queue;
  #rows = new Map();
  #unbuilt = [];
  #dirty = new Set();
  #timer = 0;
  #hidden = 0;
  #told = true;

  constructor(queue) {
    this.#queue = queue;
    this.tray = byId("tray");
    this.list = byId("tray-list");
    this.list.addEventListener("click", (event) => this.#clicked(event));
    byId("tray-fold").addEventListener("click", () => this.#fold(!this.tray.classList.contains("folded")));
    byId("tray-close").addEventListener("click", () => this.#close());
    byId("tray-cancel").addEventListener("click", () => queue.cancelAll());
    byId("tray-retry").addEventListener("click", () => {
      for (const upload of queue.uploads.filter(({ state }) => state === "failed")) queue.retry(upload);
    });
  }

  /** Show uploads that were just added to the queue. */
  added(uploads) {
    if (this.tray.hidden) this.#fold(false);
    this.tray.hidden = false;
    this.#told = false;
    for (const upload of uploads) this.#unbuilt.push(upload);
    this.#draw();
  }

  /** Take note that hidden files in a folder were left out. */
  leftOut(hidden) {
    this.#hidden += hidden;
    this.#draw();
  }

  /** Draw an upload's new state, soon. */
  changed(upload) {
    this.#dirty.add(upload);
    this.#draw();
  }

  #draw() {
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      const fresh = this.#unbuilt.splice(0, ROWS_A_DRAWING);
      this.list.append(...fresh.map((upload) => this.#build(upload)));
      for (const upload of this.#dirty) this.#fill(upload);
      this.#dirty.clear();
      this.#summarise();
      if (this.#unbuilt.length) this.#draw();
    }, DRAW_EVERY_MS);
  }

  #build(upload) {
    const row = copyOf("upload-template");
    row.querySelector(".name").textContent = upload.name;
    this.#rows.set(upload, row);
    row.upload = upload;
    this.#fill(upload);
    return row;
  }

  #fill(upload) {
    const row = this.#rows.get(upload);
    if (!row) return;
    const [name, state, button, progress, reason] = row.children;
    row.dataset.state = upload.state;
    name.title = upload.name;
    state.textContent = STATES[upload.state](upload);

    const action = upload.open ? "Cancel" : upload.retriable ? "Retry" : upload.record ? "Look" : "";
    button.hidden = !action;
    button.textContent = action;
    button.setAttribute("aria-label", `${action} ${upload.name}`);

    progress.hidden = !upload.active;
    progress.setAttribute("aria-label", `Sending ${upload.name}`);
    if (upload.state === "saving" || !upload.size) progress.removeAttribute("value");
    else progress.value = upload.sent / upload.size;

    reason.hidden = !upload.problem;
    reason.textContent = upload.problem ? explain(upload.problem) : "";
  }

  #summarise() {
    const uploads = this.#queue.uploads;
    const tally = { waiting: 0, sending: 0, saving: 0, stored: 0, known: 0, refused: 0, failed: 0, cancelled: 0 };
    let [sent, size] = [0, 0];
    for (const upload of uploads) {
      tally[upload.state] += 1;
      size += upload.size;
      sent += upload.open ? upload.sent : upload.size;
    }
    const open = tally.waiting + tally.sending + tally.saving;
    const ended = [
      [tally.stored, "stored"], [tally.known, "already here"], [tally.refused, "refused"],
      [tally.failed, "failed"], [tally.cancelled, "cancelled"], [this.#hidden, "hidden left out"],
    ].filter(([number]) => number).map(([number, word]) => `${formatCount(number)} ${word}`);
    const parts = open ? [`${formatFiles(open)} to go`, ...ended] : ended;

    byId("tray-title").textContent = parts.join(" · ") || "Uploads";
    byId("tray-cancel").hidden = !open;
    byId("tray-retry").hidden = !tally.failed;
    byId("tray-close").hidden = open > 0;
    const progress = byId("tray-progress");
    progress.hidden = !open;
    progress.value = size ? sent / size : 0;
    if (!open && uploads.length && !this.#told) {
      this.#told = true;
      announce(sentence(`Uploads ended: ${ended.join(", ")}`));
      for (const upload of uploads.filter(({ problem }) => problem).slice(0, 3)) {
        announce(`${upload.name} was not stored. ${explain(upload.problem)}`);
      }
    }
  }

  #clicked(event) {
    const button = event.target.closest("button");
    const upload = button?.closest("li").upload;
    if (!upload) return;
    if (upload.open) this.#queue.cancel(upload);
    else if (upload.retriable) {
      this.#told = false;
      this.#queue.retry(upload);
    } else if (upload.record) location.hash = `#/${upload.record.address}`;
  }

  #fold(folded) {
    this.tray.classList.toggle("folded", folded);
    const button = byId("tray-fold");
    button.setAttribute("aria-expanded", String(!folded));
    button.setAttribute("aria-label", folded ? "Show the list of uploads" : "Hide the list of uploads");
  }

  #close() {
    this.#queue.clear();
    this.#rows.clear();
    this.#unbuilt = [];
    this.#hidden = 0;
    this.list.replaceChildren();
    this.tray.hidden = true;
    byId("choose").focus();
  }
}
