/** Files that come by drop, paste or choice; folders are walked. */

/**
 * Call `take` with files as they are found, a batch at a time, and return how many hidden files
 * (`.DS_Store` and the like) in folders were left out.
 * Must be called inside the event's own turn: the browser empties the transfer right after it.
 * @param {DataTransfer} transfer
 * @param {(files: File[]) => void} take
 */
export async function takeFiles(transfer, take) {
  const plain = [];
  const folders = [];
  for (const item of transfer.items) {
    if (item.kind !== "file") continue;
    const entry = item.webkitGetAsEntry?.();
    if (entry?.isDirectory) {
      folders.push(entry);
    } else {
      const file = item.getAsFile();
      if (file) plain.push(file);
    }
  }
  if (plain.length) take(plain);
  let hidden = 0;
  while (folders.length) {
    const children = await childrenOf(folders.pop());
    const shown = children.filter((child) => !child.name.startsWith("."));
    hidden += children.length - shown.length;
    folders.push(...shown.filter((child) => child.isDirectory));
    const files = await Promise.all(shown.filter((child) => child.isFile).map(fileOf));
    const readable = files.filter((file) => file !== null);
    if (readable.length) take(readable);
  }
  return hidden;
}

/** Whether a drag or paste carries files, which is all that can be known before the drop. */
export const hasFiles = (transfer) => Boolean(transfer?.types.includes("Files"));

async function childrenOf(folder) {
  const reader = folder.createReader();
  const children = [];
  // readEntries gives at most 100 at a time, and an empty list at the end
  for (;;) {
    const batch = await new Promise((resolve) => reader.readEntries(resolve, () => resolve([])));
    if (!batch.length) return children;
    children.push(...batch);
  }
}

const fileOf = (entry) => new Promise((resolve) => entry.file(resolve, () => resolve(null)));
