/** The seven coordinates of a file, and what else is known of it. */

import { make } from "./dom.js";
import { formatBytes, formatCount, formatDate, formatPlayingTime } from "./format.js";

const HORIZONS = ["genesis", "emergence", "peak", "decay", "crystallization"];

/** A list of the seven dimensions; the three that have a range are drawn in it. */
export function coordinateList({ realm, lineage, adjacency, horizon, resonance, velocity, density }) {
  const list = make("dl", { class: "facts coordinates" });
  const add = (name, ...content) => list.append(make("dt", {}, name), make("dd", { "data-dimension": name }, ...content));
  add("realm", realm);
  add("lineage", String(lineage));
  add("adjacency", ...(adjacency.length ? adjacency.map(neighbour) : ["none"]));
  add("horizon", horizon, steps(HORIZONS.indexOf(horizon)));
  add("resonance", signed(resonance), range(resonance, -1));
  add("velocity", signed(velocity), range(velocity, -1));
  add("density", density.toFixed(4), range(density, 0));
  return list;
}

/** Name, size, type, times, address and URI; the long ones with a button that copies them. */
export function factList(record) {
  const list = make("dl", { class: "facts" });
  const add = (name, ...content) => list.append(make("dt", {}, name), make("dd", {}, ...content));
  const { width, height, duration_s: seconds, frames, codec } = record.media;
  add("Address", make("code", { class: "address" }, record.address), copyButton("address", record.address));
  add("URI", make("code", {}, record.uri), copyButton("URI", record.uri));
  add("Name", record.filename);
  add("Size", `${formatBytes(record.size)} (${formatCount(record.size)} bytes)`);
  add("Type", [record.media_type, codec].filter(Boolean).join(", "));
  if (width && height) add("Pixels", `${width} × ${height}`);
  if (seconds) add("Length", `${formatPlayingTime(seconds)}${frames ? `, ${formatCount(frames)} frames` : ""}`);
  add("Stored", make("time", { datetime: record.stored_at }, formatDate(record.stored_at)));
  add("Tags", ...(record.tags.length ? record.tags.map((tag) => make("span", { class: "tag" }, tag)) : ["none"]));
  add("Revision", String(record.revision));
  return list;
}

function neighbour(address) {
  return make("a", { href: `#/${address}`, class: "neighbour" }, make("code", {}, `${address.slice(0, 12)}…`));
}

function signed(value) {
  return `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(2)}`;
}

/** A thin scale from `least` to 1 with a mark at the value; the number beside it says the same. */
function range(value, least) {
  const scale = make("span", { class: least < 0 ? "scale centred" : "scale", "aria-hidden": "true" });
  scale.style.setProperty("--at", String((value - least) / (1 - least)));
  return scale;
}

function steps(reached) {
  const dots = HORIZONS.map((_, place) => make("i", place === reached ? { class: "here" } : {}));
  return make("span", { class: "steps", "aria-hidden": "true" }, ...dots);
}

function copyButton(what, text) {
  const button = make("button", { type: "button", class: "quiet copy", "aria-label": `Copy ${what}` }, "Copy");
  button.addEventListener("click", async () => {
    const copied = await copy(text, button.previousElementSibling);
    button.textContent = copied ? "Copied" : "Selected";
    setTimeout(() => (button.textContent = "Copy"), 1600);
  });
  return button;
}

/** Without a secure context there is no clipboard to write to: select the text instead. */
async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return false;
  }
}
