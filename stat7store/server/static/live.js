/** Totals, and how long the retrievals of the last minute took, stage by stage. */

import { stats } from "./api.js";
import { byId, make } from "./dom.js";
import { formatBytes, formatCount, formatDuration, formatFiles } from "./format.js";

const STAGES = ["queue", "index", "metadata", "disk", "network", "total"];
const EVERY_MS = 5000;

export class Live {
  #timer = 0;
  #asked = 0;

  constructor() {
    for (const stage of STAGES) {
      byId("live-stages").append(make("th", { scope: "col", "data-stage": stage }, stage));
      for (const id of ["live-p50", "live-p99"]) byId(id).append(make("td", { "data-stage": stage }, "–"));
    }
    if (matchMedia("(max-width: 640px)").matches) byId("live").open = false;
    document.addEventListener("visibilitychange", () => this.refresh());
    byId("live").addEventListener("toggle", () => byId("live").open && this.refresh());
  }

  /** Ask now, and then again every few seconds while someone looks. */
  async refresh() {
    clearTimeout(this.#timer);
    if (document.hidden) return;
    const asked = (this.#asked += 1);
    try {
      const answer = await stats();
      if (asked === this.#asked) this.#show(answer);
    } catch {
      byId("live-note").textContent = `The server does not answer; asking again every ${EVERY_MS / 1000} s.`;
      byId("live").classList.add("stale");
    }
    if (asked === this.#asked) this.#timer = setTimeout(() => this.refresh(), EVERY_MS);
  }

  /** Ask soon; many calls close together ask once. */
  refreshSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.refresh(), 300);
  }

  #show({ files, bytes, by_realm: realms, stages }) {
    byId("live").classList.remove("stale");
    byId("totals").textContent = `${formatFiles(files)} · ${formatBytes(bytes)}`;
    for (const place of document.querySelectorAll("[data-count]")) {
      const realm = place.dataset.count;
      const number = realm ? (realms[realm]?.files ?? 0) : files;
      place.textContent = number ? formatCount(number) : "";
    }
    const minute = stages.last_minute;
    for (const [id, percentile] of [["live-p50", "p50_ms"], ["live-p99", "p99_ms"]]) {
      for (const cell of byId(id).querySelectorAll("td")) {
        const stage = minute[cell.dataset.stage];
        cell.textContent = stage?.count ? formatDuration(stage[percentile]) : "–";
      }
    }
    const retrievals = minute.total?.count ?? 0;
    byId("live-note").textContent = retrievals === 1
      ? "1 retrieval in the last minute" : `${formatCount(retrievals)} retrievals in the last minute`;
  }
}
