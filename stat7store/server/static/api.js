/** The calls this page makes, and what it says when one fails. */

import { sentence } from "./format.js";

const EXTENSIONS = {
  "image/png": ".png", "image/jpeg": ".jpg", "image/gif": ".gif", "image/webp": ".webp", "image/avif": ".avif",
  "image/heic": ".heic", "image/heif": ".heif", "image/tiff": ".tif", "image/bmp": ".bmp",
  "video/mp4": ".mp4", "video/webm": ".webm", "video/quicktime": ".mov", "video/x-matroska": ".mkv",
  "video/x-msvideo": ".avi", "video/mpeg": ".mpg",
};

/** Why a call failed: an RFC 9457 problem document, or that no answer came (`status` 0). */
export class Problem extends Error {
  constructor({ title, detail = "", status = 0 }, retryAfter = null) {
    super(detail ? `${title}: ${detail}` : title);
    this.title = title;
    this.detail = detail;
    this.status = status;
    this.retryAfter = retryAfter;
  }

  /** Whether the same call may succeed later. */
  get passing() {
    return this.status === 0 || this.status === 429 || this.status >= 500;
  }

  /** Read the body of a failed answer, which need not be a problem document (a proxy's page, say). */
  static read(status, statusText, body, retryAfter = null) {
    try {
      const { title, detail } = JSON.parse(body);
      if (typeof title === "string") {
        return new Problem({ title, detail: typeof detail === "string" ? detail : "", status }, retryAfter);
      }
    } catch {
      // not JSON: the status line has to do
    }
    return new Problem({ title: `The server answered ${status} ${statusText}`.trim(), status }, retryAfter);
  }

  static noAnswer() {
    return new Problem({ title: "No answer from the server", detail: "Check that it runs and that you are connected." });
  }
}

/** What went wrong, and what to do, for the person who sees it. */
export function explain(error) {
  if (!(error instanceof Problem)) return `The page itself failed: ${sentence(error.message)} Load it again.`;
  const parts = [sentence(error.title)];
  if (error.detail) parts.push(sentence(error.detail));
  if (error.retryAfter) parts.push(`Try again in ${error.retryAfter} s.`);
  return parts.join(" ");
}

/** Fetch; resolves to an answer with a 2xx status, throws a Problem (or AbortError) otherwise. */
export async function call(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch (error) {
    throw error.name === "AbortError" ? error : Problem.noAnswer();
  }
  if (answer.ok) return answer;
  const body = await answer.text().catch(() => "");
  throw Problem.read(answer.status, answer.statusText, body, answer.headers.get("Retry-After"));
}

const json = async (path, options) => (await call(path, options)).json();

/** The page of stored files after `cursor`, newest first. */
export function listFiles({ realm, name }, cursor, limit, signal) {
  const query = new URLSearchParams({ limit: String(limit) });
  if (realm) query.set("realm", realm);
  if (name) query.set("name", name);
  if (cursor) query.set("cursor", cursor);
  return json(`/v1/files?${query}`, { signal });
}

export const metadataOf = (address, signal) => json(`/v1/files/${address}/metadata`, { signal });
export const timingOf = (requestId, signal) => json(`/v1/timings/${requestId}`, { signal, cache: "no-store" });
export const stats = () => json("/v1/stats", { cache: "no-store" });
export const deleteFile = (address) => call(`/v1/files/${address}`, { method: "DELETE" });

/** Where a file's bytes are; the extension only helps those who save it. */
export function fileUrl(record) {
  return `/v1/files/${record.address}${EXTENSIONS[record.media_type] ?? ""}`;
}

/** RFC 8187's `filename*`: every byte that is not an attr-char is percent-encoded. */
export function contentDisposition(name) {
  const encoded = encodeURIComponent(wellFormed(name)).replace(
    /['()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
  return `attachment; filename*=UTF-8''${encoded}`;
}

/** A file name may hold half a surrogate pair, which has no UTF-8. */
function wellFormed(text) {
  return new TextDecoder().decode(new TextEncoder().encode(text));
}

/** A name for one request, unique enough to find its record again. (`randomUUID` needs a secure context.) */
export function newRequestId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `page-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}
