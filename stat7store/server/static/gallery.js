/** What is stored, newest first: a contact sheet that loads more as it is scrolled. */

import { explain, fileUrl, listFiles } from "./api.js";
import { byId, copyOf, make } from "./dom.js";
import { formatBytes, formatPlayingTime } from "./format.js";

const PAGE = 60;
const GATHER_MS = 400; // what arrives within this time is shown at once: every tile in front moves all others

export class Gallery {
  #records = new Map(); // address → record, in the order shown
  #tiles = new Map();
  #filter = { realm: "", name: "" };
  #cursor = null;
  #stale = true; // what is shown is not (yet) of this filter
  #loading = null; // AbortController of the page under way
  #loaded = Promise.resolve(); // when that page is here
  #arrived = [];

  constructor() {
    this.grid = byId("grid");
    byId("more").addEventListener("click", () => this.#load());
    byId("trouble").querySelector("button").addEventListener("click", () => this.#load());
    // the button is also the mark that, coming near, loads the next page
    new IntersectionObserver(
      (entries) => entries.some((entry) => entry.isIntersecting) && this.#load(),
      { rootMargin: "800px" },
    ).observe(byId("more"));
  }

  get filter() {
    return this.#filter;
  }

  /** Start again with another filter. */
  show(filter) {
    this.#filter = { ...this.#filter, ...filter };
    this.#loading?.abort();
    this.#loading = null;
    this.#cursor = null;
    this.#stale = true;
    this.#arrived = [];
    byId("more").hidden = true;
    return this.#load();
  }

  /** Put a file that was just stored in front. */
  add(record) {
    if (!this.#arrived.length) setTimeout(() => this.#showArrived(), GATHER_MS);
    this.#arrived.push(record);
  }

  remove(address) {
    this.#records.delete(address);
    this.#tiles.get(address)?.remove();
    this.#tiles.delete(address);
    this.#settle();
  }

  record(address) {
    return this.#records.get(address);
  }

  /** The address `step` places further on (negative: before), or null; may load a page for it. */
  async neighbour(address, step) {
    let addresses = [...this.#records.keys()];
    const at = addresses.indexOf(address);
    if (at < 0) return null;
    if (at + step >= addresses.length && this.#cursor) {
      await this.#load();
      addresses = [...this.#records.keys()];
    }
    return addresses[at + step] ?? null;
  }

  /** Put the focus on a file's tile; on the gallery if it has none. */
  focus(address) {
    (this.#tiles.get(address)?.querySelector("a") ?? byId("gallery")).focus();
  }

  /** Load the next page; the one that is under way, if there is one. */
  #load() {
    if (!this.#loading && (this.#stale || this.#cursor)) this.#loaded = this.#loadNext();
    return this.#loaded;
  }

  async #loadNext() {
    const loading = new AbortController();
    this.#loading = loading;
    byId("trouble").hidden = true;
    this.grid.setAttribute("aria-busy", "true");
    try {
      const page = await this.#nextPage(loading.signal);
      if (this.#stale) this.#clear();
      this.#stale = false;
      this.#cursor = page.cursor;
      this.#append(page.files);
    } catch (error) {
      if (error.name === "AbortError") return;
      byId("trouble").querySelector("p").textContent = explain(error);
      byId("trouble").hidden = false;
      byId("more").hidden = true;
      return;
    } finally {
      if (this.#loading === loading) {
        this.#loading = null;
        this.grid.removeAttribute("aria-busy");
      }
    }
    this.#settle();
  }

  /** A page may be empty and yet not the last, because the server bounds its scan. */
  async #nextPage(signal) {
    let page = { files: [], cursor: this.#cursor };
    do {
      page = await listFiles(this.#filter, page.cursor, PAGE, signal);
    } while (!page.files.length && page.cursor);
    return page;
  }

  #clear() {
    this.#records.clear();
    this.#tiles.clear();
    this.grid.replaceChildren();
  }

  #append(records) {
    const fresh = records.filter((record) => !this.#records.has(record.address));
    for (const record of fresh) this.#records.set(record.address, record);
    this.grid.append(...fresh.map((record) => this.#tile(record)));
  }

  #showArrived() {
    const fresh = this.#arrived.reverse().filter((record) => this.#matches(record) && !this.#records.has(record.address));
    this.#arrived = [];
    this.#records = new Map([...fresh.map((record) => [record.address, record]), ...this.#records]);
    this.grid.prepend(...fresh.map((record) => this.#tile(record)));
    this.#settle();
  }

  #matches(record) {
    const { realm, name } = this.#filter;
    return (!realm || record.coordinates.realm === realm) && record.filename.toLowerCase().includes(name.toLowerCase());
  }

  #tile(record) {
    const tile = copyOf("tile-template");
    const link = tile.querySelector("a");
    const mat = tile.querySelector(".mat");
    link.href = `#/${record.address}`;
    link.title = record.filename;
    tile.querySelector(".name").textContent = record.filename;
    tile.querySelector(".size").textContent = formatBytes(record.size);
    mat.append(preview(record));
    if (record.coordinates.realm === "movie") {
      const { duration_s: seconds } = record.media;
      mat.append(make("span", { class: "badge" }, seconds ? formatPlayingTime(seconds) : "movie"));
    }
    this.#tiles.set(record.address, tile);
    return tile;
  }

  /** Show what fits the number of files there are. */
  #settle() {
    const filtered = Boolean(this.#filter.realm || this.#filter.name);
    const none = !this.#records.size;
    byId("empty").hidden = !none || filtered;
    byId("unmatched").hidden = !none || !filtered;
    byId("more").hidden = !this.#cursor;
    if (none && filtered) {
      const kind = { image: "image", movie: "movie" }[this.#filter.realm] ?? "file";
      byId("unmatched").querySelector("h2").textContent = this.#filter.name
        ? `No ${kind} has “${this.#filter.name}” in its name` : `No ${kind} is stored yet`;
    }
  }
}

function preview(record) {
  if (record.coordinates.realm === "movie") return moviePreview(record);
  const image = make("img", { loading: "lazy", decoding: "async", alt: "", src: fileUrl(record) });
  image.addEventListener("error", () => image.replaceWith(noPreview(record)));
  return image;
}

/** A movie's first frame; its header is only asked for when the tile comes near. */
function moviePreview(record) {
  const video = make("video", { preload: "none", tabindex: "-1", "aria-hidden": "true" });
  video.muted = true;
  video.addEventListener("error", () => video.replaceWith(noPreview(record)));
  new IntersectionObserver((entries, observer) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    observer.disconnect();
    video.preload = "metadata";
    video.src = fileUrl(record);
  }, { rootMargin: "300px" }).observe(video);
  return video;
}

function noPreview(record) {
  return make("span", { class: "no-preview" }, record.media_type.replace(/^.*\//, ""));
}
