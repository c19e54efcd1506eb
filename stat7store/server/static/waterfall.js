/** The stage waterfall of one retrieval: where its time went, drawn in the order in which it went. */

import { make } from "./dom.js";
import { formatBytes, formatDuration } from "./format.js";

const MEANING = {
  queue: "From the request's last header byte to its handler's start",
  index: "Address to locator",
  metadata: "Locator to record",
  disk: "Making the bytes ready to send",
  network: "From the first byte handed to the kernel to the last one it accepted",
  other: "The server's own work between the stages",
  outside: "The browser, and the way there and back: the browser's time less the server's",
};
const NAMES = { other: "between" };
const SCALES = {
  stretched: {
    of: Math.cbrt,
    note: "Bar widths grow with the cube root of the time, so that microseconds stay visible. Shares are of the browser's whole time.",
  },
  true: {
    of: (share) => share,
    note: "Bar widths are true to the time, but never under 3 pixels. Shares are of the browser's whole time.",
  },
};

/**
 * Draw a retrieval into `place`.
 * @param {HTMLElement} place
 * @param {{server: object, browser: object}} retrieval
 * @param {{server: object, browser: object} | null} before the one before it, to show the change
 */
export function drawWaterfall(place, retrieval, before) {
  const scale = SCALES[place.dataset.scale] ? place.dataset.scale : "stretched";
  const legs = legsOf(retrieval);
  const earlier = before && new Map(legsOf(before).map(({ stage, ms }) => [stage, ms]));
  const table = make("table", { class: earlier ? "waterfall compared" : "waterfall" });
  table.append(head(earlier), body(legs, earlier, SCALES[scale].of, retrieval.server), foot(retrieval, before));
  place.replaceChildren(
    table,
    scaleChoice(scale, (chosen) => {
      place.dataset.scale = chosen;
      drawWaterfall(place, retrieval, before);
      place.querySelector(`input[value="${chosen}"]`).focus();
    }),
    make("p", { class: "note" }, SCALES[scale].note),
    facts(retrieval),
    glossary(),
  );
}

/** The stages in order, then what lies between them, then what the server cannot see; they add up to the browser's time. */
function legsOf({ server, browser }) {
  const stages = ["queue", "index", "metadata", "disk", "network"].map((stage) => ({ stage, ms: server[`${stage}_ms`] }));
  const known = stages.reduce((sum, { ms }) => sum + ms, 0);
  return [
    ...stages,
    { stage: "other", ms: Math.max(0, server.total_ms - known) },
    // the browser's clock has coarse steps, so a tiny remainder can come out below zero
    { stage: "outside", ms: Math.max(0, browser.total - server.total_ms) },
  ];
}

function head(compared) {
  const cells = [["Stage", "stage"], ["", "track"], ["ms", "ms"], ["share", "share"]];
  if (compared) cells.push(["change", "change"]);
  return make("thead", {}, make("tr", {}, ...cells.map(([text, name]) =>
    make(text ? "th" : "td", text ? { scope: "col", class: name } : { class: name }, text))));
}

function body(legs, earlier, widthOf, server) {
  const total = legs.reduce((sum, { ms }) => sum + ms, 0) || 1;
  const widths = legs.map(({ ms }) => widthOf(ms / total));
  const whole = widths.reduce((sum, width) => sum + width, 0) || 1;
  let from = 0;
  return make("tbody", {}, ...legs.map(({ stage, ms }, place) => {
    const bar = make("span", { class: "leg" });
    bar.style.setProperty("--from", String(from / whole));
    bar.style.setProperty("--width", String(widths[place] / whole));
    from += widths[place];
    if (stage === "disk" && server.disk_first_ms < ms) {
      const first = make("span", { class: "first", title: `First byte ready after ${formatDuration(server.disk_first_ms)}` });
      first.style.setProperty("--width", String(server.disk_first_ms / ms));
      bar.append(first);
    }
    const row = make("tr", { "data-stage": stage },
      make("th", { scope: "row", class: "stage", title: MEANING[stage] }, NAMES[stage] ?? stage),
      make("td", { class: "track" }, bar),
      duration(ms, stage === "outside"),
      make("td", { class: "share" }, percent(ms / total)));
    if (earlier) row.append(make("td", { class: "change" }, change(ms - earlier.get(stage), stage === "outside")));
    return row;
  }));
}

function foot({ server, browser }, before) {
  const line = (name, text, ms, rough, difference) => {
    const row = make("tr", { "data-sum": name },
      make("th", { scope: "row", class: "stage", colspan: "2" }, text),
      duration(ms, rough),
      make("td", { class: "share" }));
    if (before) row.append(make("td", { class: "change" }, change(difference, rough)));
    return row;
  };
  return make("tfoot", {},
    line("server", "Server", server.total_ms, false, before && server.total_ms - before.server.total_ms),
    line("browser", "Browser, same request", browser.total, true, before && browser.total - before.browser.total));
}

function scaleChoice(chosen, choose) {
  return make("fieldset", { class: "segments small" }, make("legend", { class: "unseen" }, "Scale of the bars"),
    ...Object.keys(SCALES).map((name) => {
      const input = make("input", { type: "radio", name: "scale", value: name, checked: name === chosen });
      input.addEventListener("change", () => choose(name));
      return make("label", {}, input, make("span", {}, `${name[0].toUpperCase()}${name.slice(1)} bars`));
    }));
}

function facts({ server, browser }) {
  const list = make("dl", { class: "facts narrow" });
  const fact = (term, text) => list.append(make("dt", {}, term), make("dd", {}, text));
  fact("Bytes", `${formatBytes(server.bytes)}${server.range ? ` (${server.range})` : ""}, status ${server.status}`);
  if (server.source) fact("Source", `${server.source}, ${server.backend}`);
  fact("First byte", `ready after ${formatDuration(server.disk_first_ms)} of disk`);
  if (server.unsent_bytes) fact("Unsent", `${formatBytes(server.unsent_bytes)} still in the kernel at the end`);
  if (browser.waited !== null) {
    fact("Browser", `waited ${formatDuration(browser.waited)}, first byte ${formatDuration(browser.answered)} later, `
      + `the rest took ${formatDuration(browser.received)}`);
  }
  fact("Request", server.request_id);
  fact("Worker", String(server.worker));
  return list;
}

function glossary() {
  return make("details", { class: "glossary" }, make("summary", {}, "What the stages are"),
    make("dl", {}, ...Object.entries(MEANING).flatMap(([stage, text]) =>
      [make("dt", {}, NAMES[stage] ?? stage), make("dd", {}, text)])));
}

/** The server's clock is good to 0.0001 ms; the browser's is coarser, and is not shown finer than it is. */
function duration(ms, rough) {
  return make("td", { class: rough ? "ms rough" : "ms" }, ms.toFixed(rough ? 1 : 4));
}

function change(ms, rough) {
  const sign = ms > 0 ? "+" : ms < 0 ? "−" : "±";
  return `${sign}${rough ? Math.abs(ms).toFixed(1) : Math.abs(ms).toFixed(ms && Math.abs(ms) < 0.01 ? 4 : 2)}`;
}

const percent = (share) => (share > 0 && share < 0.001 ? "<0.1 %" : `${(share * 100).toFixed(1)} %`);
