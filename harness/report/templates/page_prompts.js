// The prompts: searched, filtered by transition and group, sorted by anything that was observed, a page at a time.

(async () => {
  const data = await unpack("prompts-data");
  const form = document.getElementById("prompt-controls");
  if (!data || !form) return;
  const table = document.getElementById("prompt-table");
  const status = document.getElementById("prompt-status");
  const pager = document.getElementById("prompt-pager");
  const [previous, next] = pager.querySelectorAll("button");
  const perPage = pager.querySelector("select");
  const { search, before, after, group, changed, sort, descending } = form.elements;
  const n = data.id.length;

  // Log-odds follow from the log-probabilities of two competing answers.
  const numbers = Object.values(data.numbers).map(({ label, values }) => ({ label, values }));
  for (const [a, b] of data.odds) {
    const odds = [0, 1].map((k) => data.numbers[a].values[k].map((x, i) => {
      const y = data.numbers[b].values[k][i];
      return x === null || y === null ? null : Number((x - y).toFixed(4));
    }));
    const name = (x) => x.replace("log_p_", "").toUpperCase();
    numbers.push({ label: `log(P_${name(a)}/P_${name(b)})`, values: odds });
  }
  const isOdds = (column) => column.label.startsWith("log(P_");
  const shown = [...numbers.filter((x) => !isOdds(x) && !x.label.startsWith("log P(")), ...numbers.filter(isOdds)].slice(0, 4);
  const [category] = Object.values(data.categories);
  const movedAt = (i) => (category ? category[0][i] !== category[1][i] : data.answers ? data.answers[0][i] !== data.answers[1][i] : false);
  const texts = data.id.map((id, i) => [id, data.text[i], ...(data.answers ?? []).map((x) => x[i]),
    ...Object.values(data.fields).map((x) => x[i])].join("\n").toLowerCase());

  // -- what there is to choose from

  const levels = category ? [...new Set([...category[0], ...category[1]])].sort() : [];
  for (const select of [before, after]) {
    for (const level of levels) select.add(new Option(level, level));
    select.closest("label").hidden = !category;
  }
  const [grouping] = data.groupings;
  if (grouping) {
    group.closest("label").firstChild.textContent = `${grouping.replaceAll("_", " ")} `;
    for (const level of [...new Set(data.fields[grouping])].sort()) group.add(new Option(level, level));
  }
  group.closest("label").hidden = !grouping;
  changed.closest("label").hidden = !category && !data.answers;

  const orders = { "order of the data": (i) => i, prompt: (i) => data.text[i] };
  if (data.answers) {
    orders["answer before"] = (i) => data.answers[0][i];
    orders["answer after"] = (i) => data.answers[1][i];
  }
  if (category) orders.class = (i) => `${category[0][i]} ${category[1][i]}`;
  for (const { label, values: [low, high] } of numbers) {
    const change = (i) => (low[i] === null || high[i] === null ? null : high[i] - low[i]);
    orders[`${label}, before`] = (i) => low[i];
    orders[`${label}, after`] = (i) => high[i];
    orders[`${label}, change`] = change;
    orders[`${label}, size of the change`] = (i) => (change(i) === null ? null : Math.abs(change(i)));
  }
  for (const name of Object.keys(orders)) sort.add(new Option(name, name));

  // -- the table

  const columns = [["prompt", "prompt"]];
  if (data.answers) columns.push(["answer before", "answer before"], ["answer after", "answer after"]);
  if (category) columns.push(["class", "class"]);
  for (const { label } of shown) columns.push([label, `${label}, change`]);
  const heads = columns.map(([title, order]) => {
    const head = make("th", undefined, { scope: "col" });
    const button = make("button", title, { type: "button" });
    button.addEventListener("click", () => {
      descending.checked = sort.value === order && !descending.checked;
      sort.value = order;
      refresh();
    });
    head.append(button);
    return head;
  });
  table.tHead.rows[0].replaceChildren(...heads);
  table.classList.add("live");

  function details(i) {
    const list = make("dl");
    const entry = (name, value) => list.append(make("dt", name.replaceAll("_", " ")), make("dd", value ?? "none"));
    entry("id", data.id[i]);
    for (const [name, column] of Object.entries(data.fields)) entry(name, String(column[i]));
    for (const { label, values } of numbers) entry(label, `${values[0][i] ?? "none"} → ${values[1][i] ?? "none"}`);
    return list;
  }

  function rowOf(i) {
    const row = make("tr");
    const cell = (title, text, name = "") => {
      const made = make("td", text, { className: name });
      made.dataset.label = title;
      row.append(made);
      return made;
    };
    const folded = make("details");
    const summary = make("summary");
    summary.append(make("span", data.text[i]));
    folded.append(summary);
    folded.addEventListener("toggle", () => {
      if (folded.open && folded.children.length === 1) folded.append(details(i));
    });
    cell("prompt").append(folded);
    if (data.answers) {
      cell("answer before", data.answers[0][i]);
      cell("answer after", data.answers[1][i], data.answers[0][i] !== data.answers[1][i] ? "moved" : "");
    }
    if (category) cell("class", `${category[0][i]}\u00a0→\u00a0${category[1][i]}`, movedAt(i) ? "moved" : "");
    for (const { label, values } of shown) {
      const noise = 1e-9 * Math.max(...values.map((x) => Math.abs(x[i] ?? 0)));  // rounding beside the other value
      const text = values.map((x) => (x[i] === null ? "-" : Math.abs(x[i]) < noise ? 0 : Number(x[i].toPrecision(4)))).join("\u00a0→\u00a0");
      cell(label, text, "num");
    }
    return row;
  }

  // -- filtering, sorting, paging

  let found = [];
  let page = 0;

  function refresh() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = [];
    for (let i = 0; i < n; i++) {
      if (before.value && category[0][i] !== before.value) continue;
      if (after.value && category[1][i] !== after.value) continue;
      if (group.value && data.fields[grouping][i] !== group.value) continue;
      if (changed.checked && !movedAt(i)) continue;
      if (words.every((word) => texts[i].includes(word))) found.push(i);
    }
    const order = orders[sort.value];
    const keys = new Map(found.map((i) => [i, order(i)]));
    found.sort((a, b) => compare(keys.get(a), keys.get(b), descending.checked) || a - b);
    columns.forEach(([, name], k) => {
      heads[k].removeAttribute("aria-sort");
      if (name === sort.value) heads[k].setAttribute("aria-sort", descending.checked ? "descending" : "ascending");
    });
    page = 0;
    draw();
  }

  function draw() {
    const size = Number(perPage.value);
    const last = Math.max(0, Math.ceil(found.length / size) - 1);
    page = Math.min(Math.max(page, 0), last);
    const rows = found.slice(page * size, (page + 1) * size);
    table.tBodies[0].replaceChildren(...rows.map(rowOf));
    const which = found.length ? `${page * size + 1} to ${page * size + rows.length} of ` : "";
    status.textContent = `${which}${counted(found.length, "prompt")}${found.length < n ? ` (${n} in all)` : ""}`;
    pager.querySelector("span").textContent = `page ${page + 1} of ${last + 1}`;
    previous.disabled = page === 0;
    next.disabled = page === last;
  }

  form.addEventListener("input", refresh);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(refresh)); // after the fields have been cleared
  previous.addEventListener("click", () => { page -= 1; draw(); });
  next.addEventListener("click", () => { page += 1; draw(); });
  perPage.addEventListener("change", draw);
  for (const button of document.querySelectorAll("button.cell")) {
    button.addEventListener("click", () => {
      form.reset();
      before.value = button.dataset.before;
      after.value = button.dataset.after;
      setTimeout(() => {
        before.value = button.dataset.before; // the reset above refreshes later, with what stands here then
        after.value = button.dataset.after;
        refresh();
        document.getElementById("prompts").scrollIntoView();
        search.focus({ preventScroll: true });
      });
    });
  }
  form.hidden = pager.hidden = false;
  refresh();
})();
