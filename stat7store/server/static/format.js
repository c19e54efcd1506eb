/** The one place that writes sizes, durations and dates for people. */

const UNITS = ["B", "KB", "MB", "GB", "TB", "PB"];
const count = new Intl.NumberFormat("en");
const date = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

/** 1234 → "1,234" */
export const formatCount = (number) => count.format(number);

/** "1 file", "2 files" */
export const formatFiles = (number) => `${formatCount(number)} ${number === 1 ? "file" : "files"}`;

/** Three significant digits in decimal units, as disks are sold: 791555 → "792 KB". */
export function formatBytes(bytes) {
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < UNITS.length - 1) {
    value /= 1000;
    unit += 1;
  }
  const decimals = unit === 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return `${value.toFixed(decimals)} ${UNITS[unit]}`;
}

/** Milliseconds in the unit that reads best: 0.0013 → "1.3 µs", 12.34 → "12 ms", 2500 → "2.5 s". */
export function formatDuration(ms) {
  if (ms >= 1000) return `${short(ms / 1000)} s`;
  if (ms >= 0.0995) return `${short(ms)} ms`;
  return `${short(ms * 1000)} µs`;
}

function short(value) {
  return value >= 9.95 ? value.toFixed(0) : value >= 0.995 || value === 0 ? value.toFixed(1) : value.toFixed(2);
}

/** Seconds of playing time: 125 → "2:05", 3725 → "1:02:05". */
export function formatPlayingTime(seconds) {
  const whole = Math.round(seconds);
  const pad = (number) => String(number).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours ? `${hours}:${pad(minutes)}:${pad(whole % 60)}` : `${minutes}:${pad(whole % 60)}`;
}

/** An RFC 3339 time in the reader's own zone. */
export const formatDate = (text) => date.format(new Date(text));

/** A sentence: a capital at its start, a full stop at its end. */
export function sentence(text) {
  const begun = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(begun) ? begun : `${begun}.`;
}
