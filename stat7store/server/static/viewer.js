/** The viewer: one file, fetched as it is opened, and where the time of that very fetch went. */

import { deleteFile, explain, fileUrl, metadataOf } from "./api.js";
import { coordinateList, factList } from "./coordinates.js";
import { announce, byId, make } from "./dom.js";
import { formatDuration } from "./format.js";
import { retrieve } from "./retrieval.js";
import { drawWaterfall } from "./waterfall.js";

export class Viewer {
  #gallery;
  #address = null; // of the file that is shown
  #record = null;
  #before = null; // the retrieval shown now, to compare the next one with
  #work = null; // AbortController of all that the shown file still waits for
  #blobUrl = null;
  #cameFromGallery = false; // then going back is the way there
  #isGoingBack = false; // a second step back would leave the page
  #returnTo = null; // the file whose tile takes the focus on closing, if not the one shown
  #removed;

  /**
   * @param gallery knows the neighbours, and takes the focus back
   * @param {(address: string) => void} removed called when a file is deleted
   */
  constructor(gallery, removed) {
    this.#gallery = gallery;
    this.#removed = removed;
    this.dialog = byId("viewer");
    this.picture = byId("viewer-picture");
    this.times = byId("viewer-retrieval");
    byId("viewer-close").addEventListener("click", () => this.close());
    byId("viewer-previous").addEventListener("click", () => this.#step(-1));
    byId("viewer-next").addEventListener("click", () => this.#step(1));
    byId("viewer-again").addEventListener("click", () => this.#fetch());
    byId("viewer-delete").addEventListener("click", () => this.#askToDelete(true));
    byId("confirm-no").addEventListener("click", () => this.#askToDelete(false));
    byId("confirm-yes").addEventListener("click", () => this.#delete());
    this.dialog.addEventListener("keydown", (event) => this.#key(event));
    this.dialog.addEventListener("close", () => this.close());
    addEventListener("hashchange", () => this.follow(true));
  }

  /** Show what the page's address names: `#/<address>`, or the gallery. `moved`: within this page. */
  follow(moved = false) {
    const address = /^#\/([0-9a-f]{64})$/.exec(location.hash)?.[1] ?? null;
    if (address === this.#address) return;
    this.#cameFromGallery = moved && this.#address === null;
    if (address) this.#show(address);
    else this.#hide();
  }

  /** Go back to the gallery. */
  close() {
    if (this.#address === null || this.#isGoingBack) return;
    if (this.#cameFromGallery) {
      this.#isGoingBack = true;
      history.back(); // follow() does the rest
      return;
    }
    history.replaceState(null, "", location.pathname + location.search);
    this.follow();
  }

  async #show(address) {
    this.#reset(address);
    if (!this.dialog.open) {
      this.dialog.showModal();
      byId("viewer-name").focus();
    }
    for (const scroller of [this.dialog, byId("viewer-panel")]) scroller.scrollTop = 0; // either, by the window's width
    const work = this.#work;
    try {
      this.#record = this.#gallery.record(address) ?? (await metadataOf(address, work.signal));
    } catch (error) {
      if (error.name !== "AbortError") this.#failed(error);
      return;
    }
    if (work.signal.aborted) return;
    this.#describe();
    await this.#fetch();
  }

  #hide() {
    const returnTo = this.#returnTo ?? this.#address;
    this.#returnTo = null;
    this.#reset(null);
    document.title = "STAT7 Store";
    if (this.dialog.open) this.dialog.close();
    this.#gallery.focus(returnTo);
  }

  #reset(address) {
    this.#work?.abort();
    this.#work = new AbortController();
    this.#isGoingBack = false;
    this.#address = address;
    this.#record = null;
    this.#before = null;
    if (this.#blobUrl) URL.revokeObjectURL(this.#blobUrl);
    this.#blobUrl = null;
    this.picture.replaceChildren();
    this.times.replaceChildren();
    this.dialog.classList.remove("missing");
    byId("viewer-name").textContent = "…";
    byId("viewer-facts").replaceChildren();
    byId("viewer-coordinates").replaceChildren();
    this.#askToDelete(false);
    this.#say("");
  }

  #describe() {
    const record = this.#record;
    byId("viewer-name").textContent = record.filename;
    document.title = `${record.filename} · STAT7 Store`;
    byId("viewer-facts").replaceChildren(factList(record));
    byId("viewer-coordinates").replaceChildren(coordinateList(record.coordinates));
    byId("viewer-download").href = `${fileUrl(record)}?download=1`;
    this.#offerNeighbours();
  }

  async #offerNeighbours() {
    const address = this.#address;
    for (const [id, step] of [["viewer-previous", -1], ["viewer-next", 1]]) {
      const neighbour = await this.#gallery.neighbour(address, step);
      if (address === this.#address) this.#offer(byId(id), Boolean(neighbour));
    }
  }

  #offer(button, possible) {
    if (!possible && document.activeElement === button) byId("viewer-name").focus();
    button.disabled = !possible;
  }

  /** Fetch the file and draw where the time went; a second time beside the first. */
  async #fetch() {
    const [record, work, again] = [this.#record, this.#work, byId("viewer-again")];
    if (!record || again.getAttribute("aria-disabled")) return;
    again.setAttribute("aria-disabled", "true"); // not `disabled`, which would drop the focus
    this.times.classList.add("busy");
    try {
      const retrieval = await retrieve(record, (blob) => this.#display(record, blob), work.signal);
      drawWaterfall(this.times, retrieval, this.#before);
      this.#before = retrieval;
      const [whole, ours] = [retrieval.browser.total, retrieval.server.total_ms].map(formatDuration);
      announce(`${record.filename}: fetched in ${whole}, ${ours} of it in the server.`);
    } catch (error) {
      if (error.name !== "AbortError") this.#notFetched(error);
    } finally {
      again.removeAttribute("aria-disabled");
      this.times.classList.remove("busy");
    }
  }

  /** Show the very bytes that came; of a movie they are only the beginning, so the player asks for its own. */
  #display(record, blob) {
    if (this.picture.firstChild) return;
    const shown = record.coordinates.realm === "movie" ? this.#movie(record) : this.#image(record, blob);
    shown.addEventListener("error", () => this.picture.replaceChildren(unshowable(record)));
    this.picture.replaceChildren(shown);
  }

  #image(record, blob) {
    this.#blobUrl = URL.createObjectURL(blob);
    return make("img", { alt: record.filename, src: this.#blobUrl });
  }

  #movie(record) {
    const attributes = { controls: true, preload: "metadata", playsinline: true, "aria-label": record.filename };
    return make("video", { ...attributes, src: fileUrl(record) });
  }

  #notFetched(error) {
    this.times.replaceChildren(make("p", { class: "failure", role: "alert" },
      error.status === 404 && this.picture.firstChild
        ? "The server's record of this retrieval was not found. Fetch again to get a new one."
        : explain(error)));
  }

  /** Nothing is known of the file at all. */
  #failed(error) {
    this.dialog.classList.add("missing");
    const gone = error.status === 404;
    byId("viewer-name").textContent = gone ? "Not stored here" : "Not reached";
    this.picture.replaceChildren(make("p", { class: "unshowable", role: "alert" },
      gone ? "Nothing is stored under this address: it was deleted, or never sent here." : explain(error),
      make("code", { class: "address" }, this.#address)));
    for (const id of ["viewer-previous", "viewer-next"]) this.#offer(byId(id), false);
  }

  async #step(step) {
    const address = this.#address;
    const next = await this.#gallery.neighbour(address, step);
    if (!next || address !== this.#address) return;
    history.replaceState(null, "", `#/${next}`); // so that going back leads to the gallery at once
    this.#show(next);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    if (event.target.matches("video, input")) return; // arrows seek and choose there
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    this.#step(step);
  }

  #askToDelete(asking) {
    const had = !byId("viewer-confirm").hidden;
    byId("viewer-confirm").hidden = !asking;
    byId("viewer-delete").hidden = asking;
    byId("viewer-download").hidden = asking;
    if (asking) byId("confirm-no").focus();
    else if (had && this.dialog.open) byId("viewer-delete").focus();
  }

  async #delete() {
    const [address, record] = [this.#address, this.#record];
    try {
      await deleteFile(address);
    } catch (error) {
      if (error.status !== 404) {
        this.#askToDelete(false);
        this.#say(`It was not deleted. ${explain(error)}`);
        return;
      }
    }
    const next = (await this.#gallery.neighbour(address, 1)) ?? (await this.#gallery.neighbour(address, -1));
    this.#removed(address);
    if (address === this.#address) {
      this.#returnTo = next;
      this.close();
    }
    announce(`Deleted ${record.filename}.`);
  }

  #say(text) {
    byId("viewer-failure").textContent = text;
    byId("viewer-failure").hidden = !text;
  }
}

function unshowable(record) {
  return make("p", { class: "unshowable" }, `This browser cannot show ${record.media_type}. Download it to look at it.`);
}
