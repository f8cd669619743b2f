// Names of classes, wherever they come from: people, folders, or a project that anybody may have made.

const LONGEST = 100; // characters

/** A name as it is kept: one line of whole characters, not too long; "" where nothing is left. */
export function cleanName(name) {
  return name.toWellFormed().replace(/\p{Cc}/gu, " ").trim().slice(0, LONGEST).trim().toWellFormed();
}

/** The class that a folder stands for. */
export function classOf(folder) {
  return cleanName(folder) || "unnamed";
}
