"use strict";
// What all sections use: theme, sortable tables, copying, printing, and unpacking of embedded data.

const root = document.documentElement;

/** Embedded data: JSON, gzipped, in base64; null where the browser cannot unpack it or there is none. */
async function unpack(id) {
  const element = document.getElementById(id);
  if (!element || typeof DecompressionStream === "undefined") return null;
  const bytes = Uint8Array.from(atob(element.textContent), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

/** An element with text: foreign text never becomes markup. */
function make(tag, text, properties = {}) {
  const element = Object.assign(document.createElement(tag), properties);
  if (text !== undefined && text !== null) element.textContent = text;
  return element;
}

/** "1 prompt", "3 prompts". */
function counted(n, noun) {
  return `${n} ${noun}${n === 1 ? "" : "s"}`;
}

function colour(name) {
  return getComputedStyle(root).getPropertyValue(`--${name}`).trim();
}

// -- theme: the system's unless chosen; listeners redraw what has colours of its own

const theme = document.getElementById("theme");
const systemDark = matchMedia("(prefers-color-scheme: dark)");

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches;
}

function themeChanged() {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", `Switch to ${isDark() ? "light" : "dark"} colours`);
  document.dispatchEvent(new Event("themechange"));
}

function remember(value) {
  try {
    if (value) localStorage.setItem("harness-theme", value);
    return localStorage.getItem("harness-theme");
  } catch {
    return value; // some browsers give files no storage
  }
}

const remembered = remember();
if (remembered === "dark" || remembered === "light") root.dataset.theme = remembered;
theme.hidden = false;
theme.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  remember(root.dataset.theme);
  themeChanged();
});
systemDark.addEventListener("change", themeChanged);
themeChanged();

// -- print: in light colours, with everything but the prompts' details unfolded

let before = null;
addEventListener("beforeprint", () => {
  const folded = [...document.querySelectorAll("section > details:not([open]), .verdict > details:not([open])")];
  before = { theme: root.dataset.theme, folded };
  for (const element of folded) element.open = true;
  root.dataset.theme = "light";
  themeChanged();
});
addEventListener("afterprint", () => {
  if (!before) return;
  for (const element of before.folded) element.open = false;
  if (before.theme) root.dataset.theme = before.theme;
  else delete root.dataset.theme;
  before = null;
  themeChanged();
});

// -- tables that are all on the page sort by any column, numbers by value

function keyOf(row, column) {
  const cell = row.cells[column];
  if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
  const text = cell.textContent.trim();
  const value = parseFloat(text);
  return text === "" || text === "-" ? null : Number.isNaN(value) ? text : value;
}

/** Order of two keys: numbers before text, nothing last in either direction. */
function compare(a, b, descending) {
  if (a === null || b === null) return (a === null) - (b === null);
  const sign = descending ? -1 : 1;
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  if (typeof a !== typeof b) return sign * (typeof a === "number" ? -1 : 1);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = make("button", head.textContent, { type: "button" });
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const body = table.tBodies[0];
      const rows = [...body.rows].map((row) => [keyOf(row, column), row]);
      rows.sort((a, b) => compare(a[0], b[0], descending));
      body.append(...rows.map(([, row]) => row));
    });
  });
}

// -- what is wider than its place says how much more there is

for (const box of document.querySelectorAll(".scroll, .picture")) {
  const hint = make("p", "", { className: "more", hidden: true });
  hint.setAttribute("aria-hidden", "true"); // for eyes: the region itself is named and reached by keyboard
  box.before(hint);
  const tell = () => {
    const edge = box.getBoundingClientRect().right + 1;
    const cells = [...(box.querySelector("thead tr")?.cells ?? [])];
    const beyond = cells.filter((cell) => cell.getBoundingClientRect().right > edge).length;
    const rest = box.scrollWidth - box.clientWidth - box.scrollLeft;
    hint.hidden = box.scrollWidth <= box.clientWidth + 1;
    hint.textContent = rest <= 1 ? "\u00a0" : beyond ? `${counted(beyond, "more column")} at the right →` : "scroll to the right →";
  };
  box.addEventListener("scroll", tell, { passive: true });
  new ResizeObserver(tell).observe(box);
  tell();
}

// -- pictures are enlarged by a click, where a dialog can be

for (const picture of document.querySelectorAll(".figures img")) {
  const button = make("button", null, { type: "button", className: "zoom" });
  button.setAttribute("aria-label", `Enlarge: ${picture.alt}`);
  picture.before(button);
  button.append(picture);
  button.addEventListener("click", () => {
    const dialog = make("dialog", null, { className: picture.height > picture.width ? "zoomed tall" : "zoomed" });
    const large = make("img", null, { src: picture.src, alt: picture.alt });
    dialog.append(large);
    document.body.append(dialog);
    dialog.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => dialog.remove());
    dialog.showModal();
  });
}

// -- copying

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.hidden = false;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source); // no clipboard for files in some browsers: one key is left to press
      button.textContent = "Selected";
    }
  });
}
