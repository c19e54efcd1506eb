/** The upload queue: what is sent, when, and how far it is. Knows nothing of the page. */

import { Problem, contentDisposition } from "./api.js";

const PARALLEL = 3; // browsers open six connections to a host: leave some for looking at pictures
const RATE_OVER_MS = 1500;

/**
 * One file on its way. `state` is one of waiting, sending, saving (all sent, not yet durable),
 * stored, known (the same bytes were here already), refused, failed (a retry may help), cancelled.
 */
class Upload {
  state = "waiting";
  sent = 0;
  rate = 0; // bytes a second, over the last RATE_OVER_MS
  problem = null;
  record = null;
  request = null;

  constructor(file) {
    this.file = file;
    this.name = file.name || "unnamed";
    this.size = file.size;
  }

  get open() {
    return this.state === "waiting" || this.active;
  }

  get active() {
    return this.state === "sending" || this.state === "saving";
  }

  get retriable() {
    return this.state === "failed" || this.state === "cancelled";
  }
}

export class UploadQueue {
  uploads = [];
  #waiting = [];
  #active = 0;
  #changed;
  #stored;

  /**
   * @param {(upload: Upload) => void} changed called on each change of an upload, often
   * @param {(record: object) => void} stored called with the FileRecord of each file that is new
   */
  constructor(changed, stored) {
    this.#changed = changed;
    this.#stored = stored;
  }

  add(files) {
    const added = Array.from(files, (file) => new Upload(file));
    this.uploads.push(...added);
    this.#waiting.push(...added);
    this.#fill();
    return added;
  }

  cancel(upload) {
    if (!upload.open) return;
    this.#waiting = this.#waiting.filter((other) => other !== upload);
    if (upload.request) upload.request.abort();
    else this.#become(upload, "cancelled");
  }

  cancelAll() {
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const upload of waiting) this.#become(upload, "cancelled");
    for (const upload of this.uploads) upload.request?.abort();
  }

  retry(upload) {
    if (!upload.retriable) return;
    upload.sent = 0;
    upload.problem = null;
    this.#become(upload, "waiting");
    this.#waiting.push(upload);
    this.#fill();
  }

  /** Forget all uploads that have ended. */
  clear() {
    this.uploads = this.uploads.filter((upload) => upload.open);
  }

  #fill() {
    while (this.#active < PARALLEL && this.#waiting.length) this.#send(this.#waiting.shift());
  }

  #send(upload) {
    const request = new XMLHttpRequest(); // fetch() does not tell how much of a body has been sent
    const samples = [[performance.now(), 0]];
    upload.request = request;
    this.#active += 1;
    this.#become(upload, "sending");

    request.upload.onprogress = (event) => {
      const now = performance.now();
      samples.push([now, event.loaded]);
      while (samples.length > 2 && now - samples[0][0] > RATE_OVER_MS) samples.shift();
      const [since, before] = samples[0];
      upload.sent = event.loaded;
      upload.rate = now > since ? ((event.loaded - before) / (now - since)) * 1000 : 0;
      this.#changed(upload);
    };
    request.upload.onload = () => {
      upload.sent = upload.size;
      if (upload.state === "sending") this.#become(upload, "saving");
    };
    request.onload = () => this.#answered(upload, request);
    request.onerror = () => this.#broke(upload);
    request.onabort = () => this.#become(upload, "cancelled");
    request.onloadend = () => {
      upload.request = null;
      this.#active -= 1;
      this.#fill();
    };
    request.open("POST", "/v1/files");
    request.setRequestHeader("Content-Type", "application/octet-stream"); // the bytes decide, not the browser's guess
    request.setRequestHeader("Content-Disposition", contentDisposition(upload.name));
    request.send(upload.file);
  }

  #answered(upload, request) {
    if (request.status >= 200 && request.status < 300) {
      upload.record = JSON.parse(request.responseText);
      this.#become(upload, upload.record.created ? "stored" : "known");
      if (upload.record.created) this.#stored(upload.record);
      return;
    }
    upload.problem = Problem.read(
      request.status, request.statusText, request.responseText, request.getResponseHeader("Retry-After"),
    );
    this.#become(upload, upload.problem.passing ? "failed" : "refused");
  }

  #broke(upload) {
    upload.problem = new Problem({
      title: "The connection broke",
      detail: "The file was not acknowledged. It may have changed on your disk, or the server has gone.",
    });
    this.#become(upload, "failed");
  }

  #become(upload, state) {
    upload.state = state;
    this.#changed(upload);
  }
}
