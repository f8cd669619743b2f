// Files that are dropped on the page or pasted, for whichever view is shown.

/** Views in the order in which they ask for files: { isShown, stage, taken }. */
const views = [];

/**
 * Lets a view have what is dropped and pasted while it is shown.
 *
 * @param {object} view `stage`, the element that says that files may be dropped, and `taken`, which is given a list of files;
 *   or `dropped`, which is given the event of a drop, where folders are to be read
 */
export function followDrops(view) {
  if (!views.length) listen();
  views.push(view);
}

// A view that is not shown has no size.
function shown() {
  return views.find(({ stage }) => stage.offsetParent !== null) ?? views[0];
}

function listen() {
  const area = document.documentElement;
  const carriesFiles = ({ dataTransfer }) => [...dataTransfer.types].includes("Files");
  area.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    shown().stage.classList.add("over");
  });
  area.addEventListener("dragleave", ({ relatedTarget }) => relatedTarget || shown().stage.classList.remove("over"));
  area.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    const { stage, taken, dropped } = shown();
    stage.classList.remove("over");
    if (dropped) dropped(event);
    else taken([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", ({ clipboardData }) => {
    if (clipboardData.files.length) shown().taken([...clipboardData.files]);
  });
}
