// The rows of a board: searched by words, filtered by the values of columns; on a phone the filters are folded.

(() => {
  const table = document.getElementById("board"), form = document.getElementById("filters");
  const caption = document.getElementById("caption"), search = document.getElementById("search");
  const names = [...table.tHead.rows[0].cells].map((head) => head.dataset.name);
  const rows = [...table.tBodies[0].rows];

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = [...form.querySelectorAll("select")].filter((one) => one.value)
      .map((one) => [names.indexOf(one.dataset.name), one.value]);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !(words.every((word) => text.includes(word))
        && wanted.every(([column, value]) => row.cells[column].textContent === value));
      shown += !row.hidden;
    }
    caption.textContent = shown === rows.length ? counted(rows.length, "row") : `${shown} of ${counted(rows.length, "row")}`;
  }

  form.addEventListener("input", filter);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(filter));
  const folded = document.getElementById("narrow");
  folded.hidden = false;
  folded.open = matchMedia("(min-width: 44rem)").matches;
})();
