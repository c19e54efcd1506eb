/** One retrieval, timed from both ends: by the server's stage clock and by the browser's. */

import { Problem, call, fileUrl, newRequestId, timingOf } from "./api.js";

const FIRST_OF_A_MOVIE = 1024 * 1024; // bytes: a player, too, asks for a movie by ranges
const ASK_AGAIN_AFTER_MS = [0, 20, 50, 100, 200, 400, 800, 1600];

/**
 * @typedef {object} Browser the browser's own clock, in milliseconds; null where it was not told
 * @property {number | null} waited from the call to the first byte of the request going out
 * @property {number | null} answered from there to the answer's first byte
 * @property {number | null} received from there to its last byte
 * @property {number} total
 */

/**
 * Fetch the file past the browser's cache (of a movie its first MiB), and find the server's record of it.
 * `show` is called with the bytes as soon as they are here, before the record is asked for.
 * @returns {Promise<{server: object, browser: Browser}>}
 */
export async function retrieve(record, show, signal) {
  const url = fileUrl(record);
  const requestId = newRequestId();
  const headers = { "X-Request-ID": requestId };
  if (record.coordinates.realm === "movie") headers.Range = `bytes=0-${Math.min(FIRST_OF_A_MOVIE, record.size) - 1}`;

  const entries = watchResources(url);
  const started = performance.now();
  const answer = await call(url, { headers, signal, cache: "no-store", priority: "high" });
  let blob;
  try {
    blob = await answer.blob();
  } catch (error) {
    throw error.name === "AbortError" ? error : new Problem({
      title: "The file broke off", detail: "The connection ended before the last byte. Fetch it again.",
    });
  }
  const total = performance.now() - started;
  show(blob);
  const server = await recordOf(requestId, signal);
  return { server, browser: browserTime(entries.stop(), started, total) };
}

/** The record is written after the last byte has left, so it may come a moment later than the bytes. */
async function recordOf(requestId, signal) {
  let missing;
  for (const pause of ASK_AGAIN_AFTER_MS) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    try {
      return await timingOf(requestId, signal);
    } catch (error) {
      if (error.status !== 404) throw error;
      missing = error;
    }
  }
  throw missing;
}

/** An observer is told of every request, even when the browser's buffer of entries is full. */
function watchResources(url) {
  const wanted = new URL(url, location.href).href;
  const seen = [];
  const keep = (entries) => seen.push(
    ...entries.filter((entry) => entry.name === wanted && entry.initiatorType === "fetch"),
  );
  const observer = new PerformanceObserver((list) => keep(list.getEntries()));
  observer.observe({ type: "resource" });
  return {
    stop() {
      keep(observer.takeRecords());
      observer.disconnect();
      return seen;
    },
  };
}

function browserTime(entries, started, total) {
  const entry = entries.find(({ startTime }) => startTime >= started - 1);
  if (!entry?.requestStart || !entry.responseEnd) return { waited: null, answered: null, received: null, total };
  return {
    waited: between(entry.startTime, entry.requestStart),
    answered: between(entry.requestStart, entry.responseStart),
    received: between(entry.responseStart, entry.responseEnd),
    total: between(entry.startTime, entry.responseEnd),
  };
}

/** The browser takes these moments in several processes, so one can come out before what it follows: that took no time. */
const between = (from, to) => Math.max(0, to - from);
