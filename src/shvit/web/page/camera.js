// The camera of the visitor's device.

import { problem } from "./calls.js";

const WANTED = { video: { facingMode: { ideal: "environment" }, width: { ideal: 640 }, height: { ideal: 480 } }, audio: false };

const REFUSALS = {
  NotAllowedError: "The camera may not be used: allow it for this page in the browser's settings.",
  NotFoundError: "There is no camera.",
  NotReadableError: "The camera is in use by another program.",
};

/**
 * @returns {Promise<MediaStream>}
 * @throws {Error} kind "gone", where asking again may help, or "failed"
 */
export async function openStream() {
  if (!navigator.mediaDevices?.getUserMedia) {
    throw problem("failed", "The camera needs a page on localhost or over https.");
  }
  try {
    return await navigator.mediaDevices.getUserMedia(WANTED);
  } catch (error) {
    throw problem("gone", REFUSALS[error.name] ?? `The camera cannot be started: ${error.message}`);
  }
}

/** Waits for a playing video's next frame. */
export function nextFrame(video) {
  return new Promise((done) => {
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(done);
    else requestAnimationFrame(done);
  });
}
