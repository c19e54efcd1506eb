/** Making elements. File names are hostile: text only ever becomes a text node, never markup. */

/**
 * Make an element; `text` children become text nodes.
 * @param {string} tag
 * @param {Record<string, string | number | boolean>} [attributes] true sets an empty attribute, false leaves it out
 * @param {...(Node | string)} children
 */
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== false) element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children);
  return element;
}

/** The element with this id; it is an error of the page if there is none. */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

/** A copy of the one element in a template. */
export function copyOf(templateId) {
  return byId(templateId).content.firstElementChild.cloneNode(true);
}

const GATHER_MS = 1000;
let waiting = [];
let timer = 0;

/** Tell people who listen instead of look. Sentences that come close together are said as one. */
export function announce(sentence) {
  waiting.push(sentence);
  timer ||= setTimeout(() => {
    // while a dialog is open, all outside of it is inert and may stay unsaid
    const announcer = document.querySelector("dialog[open] [aria-live]") ?? byId("announcer");
    announcer.textContent = waiting.join(" ");
    waiting = [];
    timer = 0;
  }, GATHER_MS);
}
