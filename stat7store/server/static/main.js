/** The page: wires what comes in (files, filters, the address) to what is shown. */

import { announce, byId } from "./dom.js";
import { hasFiles, takeFiles } from "./dropped.js";
import { formatFiles } from "./format.js";
import { Gallery } from "./gallery.js";
import { Live } from "./live.js";
import { UploadQueue } from "./queue.js";
import { Tray } from "./tray.js";
import { Viewer } from "./viewer.js";

const SEARCH_AFTER_MS = 200;
const ADD_AT_ONCE = 25;

const gallery = new Gallery();
const live = new Live();
const viewer = new Viewer(gallery, (address) => {
  gallery.remove(address);
  live.refreshSoon();
});
const queue = new UploadQueue(
  (upload) => tray.changed(upload),
  (record) => {
    gallery.add(record);
    live.refreshSoon();
  },
);
const tray = new Tray(queue);

/** Add files to the queue, a few at a time: the browser asks the disk for each one's size. */
async function take(files) {
  if (!files.length) return;
  viewer.close(); // it would hide the tray
  announce(`${formatFiles(files.length)} added.`);
  for (let from = 0; from < files.length; from += ADD_AT_ONCE) {
    tray.added(queue.add(files.slice(from, from + ADD_AT_ONCE)));
    await new Promise((resolve) => setTimeout(resolve));
  }
}

function choosing() {
  const chooser = byId("chooser");
  for (const id of ["choose", "choose-first"]) byId(id).addEventListener("click", () => chooser.click());
  chooser.addEventListener("change", () => {
    take([...chooser.files]);
    chooser.value = ""; // so that the same file can be chosen again
  });
}

function dropping() {
  const veil = byId("drop");
  let inside = 0; // dragenter and dragleave come for every element on the way
  const show = (depth) => {
    inside = Math.max(0, depth);
    veil.togglePopover(inside > 0); // in the top layer, above an open viewer
  };
  addEventListener("dragenter", (event) => hasFiles(event.dataTransfer) && show(inside + 1));
  addEventListener("dragleave", (event) => hasFiles(event.dataTransfer) && show(inside - 1));
  addEventListener("dragover", (event) => {
    if (!hasFiles(event.dataTransfer)) return;
    event.preventDefault();
    event.dataTransfer.dropEffect = "copy";
  });
  addEventListener("drop", async (event) => {
    show(0);
    if (!hasFiles(event.dataTransfer)) return;
    event.preventDefault();
    tray.leftOut(await takeFiles(event.dataTransfer, take));
  });
  addEventListener("paste", (event) => {
    if (hasFiles(event.clipboardData)) takeFiles(event.clipboardData, take);
  });
}

function filtering() {
  const search = byId("search");
  let timer = 0;
  byId("realms").addEventListener("change", (event) => gallery.show({ realm: event.target.value }));
  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => gallery.show({ name: search.value.trim() }), SEARCH_AFTER_MS);
  });
  byId("show-all").addEventListener("click", () => {
    search.value = "";
    byId("realms").querySelector("input").checked = true;
    gallery.show({ realm: "", name: "" });
    search.focus();
  });
}

addEventListener("beforeunload", (event) => {
  if (queue.uploads.some((upload) => upload.open)) event.preventDefault(); // the browser asks before uploads are lost
});
choosing();
dropping();
filtering();
live.refresh();
gallery.show({}).then(() => viewer.follow());
