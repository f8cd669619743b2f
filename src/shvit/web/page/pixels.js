// A file or a camera's frame to a network's input, in a worker.

import { apply, plan } from "./preprocess.js";
import { refuse } from "./runtime.js";

const MAX_PIXELS = 100_000_000;

let canvas = null;
let planned = null; // for the size of the last image: { width, height, preprocessing, todo }

/** An image to the network's input, `Uint8Array` (height, width, 3), RGB. */
export function prepare(bitmap, isFile, preprocessing) {
  const { width, height } = bitmap;
  if (planned?.width !== width || planned.height !== height || planned.preprocessing !== preprocessing) {
    planned = { width, height, preprocessing, todo: plan(width, height, preprocessing) };
  }
  const { todo } = planned;
  const pixels = read(bitmap, todo);
  return apply((isFile && hasTransparency(pixels) && readUnderTransparency(bitmap, todo)) || pixels, todo);
}

/** A file's content, or a camera's frame as it is, to a bitmap. */
export async function decode(image) {
  let bitmap = image;
  if (image instanceof Blob) {
    try {
      // Upright, as EXIF says, and otherwise the values that the file holds, as the runtime takes them.
      bitmap = await createImageBitmap(image, {
        imageOrientation: "from-image",
        premultiplyAlpha: "none",
        colorSpaceConversion: "none",
      });
    } catch {
      throw refuse("image", "not an image, or of a format that this browser does not read");
    }
  }
  const { width, height } = bitmap;
  if (width * height <= MAX_PIXELS) return bitmap;
  bitmap.close();
  throw refuse("image", `${width}×${height} pixels, at most ${MAX_PIXELS / 1e6} megapixels are accepted`);
}

function read(bitmap, { left, top, width, height }) {
  if (canvas?.width !== width || canvas.height !== height) canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.clearRect(0, 0, width, height);
  context.drawImage(bitmap, -left, -top);
  return context.getImageData(0, 0, width, height).data;
}

function hasTransparency(pixels) {
  for (let at = 3; at < pixels.length; at += 4) if (pixels[at] !== 255) return true;
  return false;
}

// The runtime drops transparency and keeps the colours under it, which a canvas has multiplied away. A texture has them.
function readUnderTransparency(bitmap, { left, top, width, height }) {
  const gl = new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl || Math.max(bitmap.width, bitmap.height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return null;
  const texture = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, texture);
  gl.pixelStorei(gl.UNPACK_PREMULTIPLY_ALPHA_WEBGL, false);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, texture, 0);
  const pixels = new Uint8Array(width * height * 4);
  gl.readPixels(left, top, width, height, gl.RGBA, gl.UNSIGNED_BYTE, pixels);
  const failed = gl.getError() !== gl.NO_ERROR;
  gl.getExtension("WEBGL_lose_context")?.loseContext();
  return failed ? null : pixels;
}
