// Pictures by drop, paste and choice: made small enough to send, and kept as data: URLs.

const LONGEST = 1536; // pixels; the model sees fewer
const AS_THEY_ARE = ["image/jpeg", "image/png", "image/webp"];
const MOST_BYTES = 1_500_000;
const QUALITY = 0.9;

/** The pictures among files that were dropped, pasted or chosen. */
export function picturesIn(files) {
  return [...files].filter((file) => file.type.startsWith("image/"));
}

/**
 * A picture as a data: URL.
 * @param {File} file
 * @returns {Promise<string>}
 * @throws {Error} the browser cannot read it
 */
export async function pictureUrl(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Error(`${file.name || "The picture"} cannot be read by this browser.`);
  }
  const scale = Math.min(1, LONGEST / Math.max(bitmap.width, bitmap.height));
  if (scale === 1 && AS_THEY_ARE.includes(file.type) && file.size <= MOST_BYTES) return asUrl(file);
  return drawn(bitmap, scale);
}

function drawn(bitmap, scale) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const context = canvas.getContext("2d");
  context.fillStyle = "#fff"; // JPEG has no transparency
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL("image/jpeg", QUALITY);
}

function asUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Error(`${file.name || "The picture"} cannot be read.`));
    reader.readAsDataURL(file);
  });
}
