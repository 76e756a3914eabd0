"use strict";
// The list of runs: filters, order and ticks are in the address, so that a view can be sent and returned to.
{
  const $ = (id) => document.getElementById(id);
  const embedded = (id) => JSON.parse($(id).textContent);
  const links = embedded("links-data");
  const form = $("filters"), table = $("runs"), search = form.elements.q;
  const FILTERS = ["model", "task", "selector", "intervention"];
  const COUNTS = ["prompts", "controls", "seed"];
  const BOUNDS = ["least", "most"];
  const VALUE = 0, LOW = 1, HIGH = 2, MEAN = 3, Q05 = 4, Q95 = 5, P = 6, TEXT = 7, INTERVAL = 8, P_TEXT = 9, VERDICT = 10, FINDING = 11;
  const MOST = 6, FIRST = 100;
  let primary = embedded("runs-data"), every = null, listed = primary; // every: with all measures, once they are asked for
  let texts = new Map(), varying = new Set(), chosen = [];
  const state = { sort: "time", descending: true, ticked: new Set() };

  // -- what is asked for, which the address keeps

  function fromAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    search.value = given.get("q") ?? "";
    for (const name of BOUNDS) form.elements[name].value = given.get(name) ?? "";
    listed = given.has("every") && every ? every : primary;
    form.elements.every.checked = listed === every;
    prepare();
    for (const name of [...FILTERS, "verdict", "measure"]) choose(form.elements[name], given.get(name));
    choose(form.elements.sort, given.get("sort") ?? "time");
    state.sort = form.elements.sort.value;
    order(state.sort, given.has("sort") ? given.has("descending") : true);
    state.ticked = new Set(given.getAll("run").filter((name) => listed.runs.some((run) => run.folder === name)));
  }

  function choose(select, value) {
    const there = [...select.options].some((option) => option.value === value);
    select.value = there ? value : select.options[0]?.value ?? "";
  }

  function toAddress() {
    const kept = new URLSearchParams();
    if (search.value) kept.set("q", search.value);
    for (const name of [...FILTERS, "verdict"]) if (form.elements[name].value) kept.set(name, form.elements[name].value);
    for (const name of BOUNDS) if (form.elements[name].value) kept.set(name, form.elements[name].value);
    if (form.elements.every.checked) kept.set("every", "");
    if (form.elements.measure.selectedIndex > 0) kept.set("measure", form.elements.measure.value);
    if (state.sort !== "time" || !state.descending) {
      kept.set("sort", state.sort);
      if (state.descending) kept.set("descending", "");
    }
    for (const name of state.ticked) kept.append("run", name);
    const now = kept.toString();
    if (now !== location.hash.slice(1)) history.replaceState(null, "", now ? `#${now}` : location.pathname + location.search);
  }

  // -- which runs, in which order

  /** A component without its parameters. */
  const bare = (text) => text.split(":")[0];
  const keyOfFilter = (run, name) => (name === "model" ? run[name] : bare(run[name]));

  /** The place of the chosen measure; the first of several with one title that the run has. */
  function measured(run) {
    for (const i of chosen) if (run.measures[i]) return run.measures[i];
    return null;
  }

  function chosenMeasures() {
    return listed.measures.flatMap((measure, i) => (measure.title === form.elements.measure.value ? [i] : []));
  }

  function said(run) {
    const found = measured(run);
    return found && (run.exploratory && found[VERDICT] ? `exploratory: ${found[VERDICT]}` : found[VERDICT]);
  }

  function searched(run) {
    if (!texts.has(run)) {
      const verdicts = Object.values(run.measures).map((found) => found[VERDICT]);
      const parts = [run.name, run.folder, ...FILTERS.map((name) => run[name]), run.units, run.time, ...verdicts];
      texts.set(run, parts.join(" ").toLowerCase());
    }
    return texts.get(run);
  }

  function shown() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = FILTERS.filter((name) => form.elements[name].value);
    const verdict = form.elements.verdict.value;
    const [least, most] = BOUNDS.map((name) => form.elements[name].value);
    const within = (x) => x !== null && (least === "" || x >= Number(least)) && (most === "" || x <= Number(most));
    const found = listed.runs.filter((run) =>
      words.every((word) => searched(run).includes(word)) &&
      wanted.every((name) => keyOfFilter(run, name) === form.elements[name].value) &&
      (!verdict || measured(run)?.[VERDICT] === verdict) &&
      ((least === "" && most === "") || within(measured(run)?.[VALUE] ?? null)));
    const key = ORDERS[state.sort];
    return found
      .map((run) => [key(run), run])
      .sort((a, b) => compare(a[0], b[0], state.descending) || a[1].folder.localeCompare(b[1].folder, "en", { numeric: true }))
      .map(([, run]) => run);
  }

  // -- the picture: every run on one axis

  /** From where to where the axis goes. A few runs far out do not decide: they are drawn at the edge, as arrows. */
  function scaleOf(runs) {
    const ends = runs.flatMap((run) => {
      const found = measured(run);
      return found ? [VALUE, LOW, HIGH, Q05, Q95].map((i) => found[i]).filter((x) => x !== null) : [];
    }).sort((a, b) => a - b);
    if (!ends.length) return null;
    const at = (share) => ends[Math.round(share * (ends.length - 1))];
    let low = ends[0], high = ends[ends.length - 1];
    const reach = 3 * (at(.75) - at(.25));
    if (runs.length >= 8 && reach > 0) [low, high] = [Math.max(low, at(.25) - reach), Math.min(high, at(.75) + reach)];
    if (low === high) [low, high] = [low - 1, high + 1];
    const room = .04 * (high - low);
    return { low: low - room, high: high + room };
  }

  const place = (x, scale) => 100 * Math.min(1, Math.max(0, (x - scale.low) / (scale.high - scale.low)));

  function mark(kind, from, to, scale) {
    const span = make("span", null, { className: kind });
    span.style.left = `${place(from, scale).toFixed(2)}%`;
    if (to !== null) span.style.width = `${(place(to, scale) - place(from, scale)).toFixed(2)}%`;
    return span;
  }

  function plot(found, scale) {
    const box = make("span", null, { className: "plot" });
    box.setAttribute("aria-hidden", "true");
    if (!found || !scale) return box;
    if (scale.low < 0 && scale.high > 0) box.append(mark("zero", 0, null, scale));
    if (found[Q05] !== null && found[Q95] !== null) box.append(mark("band", found[Q05], found[Q95], scale));
    if (found[MEAN] !== null) box.append(mark("mean", found[MEAN], null, scale));
    if (found[LOW] !== null && found[HIGH] !== null) box.append(mark("line", found[LOW], found[HIGH], scale));
    const value = found[VALUE];
    if (value === null) return box;
    if (value >= scale.low && value <= scale.high) box.append(mark("dot", value, null, scale));
    else {
      const arrow = make("span", value < scale.low ? "◂" : "▸", { className: "out" });
      arrow.style[value < scale.low ? "left" : "right"] = "0";
      box.append(arrow);
    }
    box.title = `${found[TEXT]} (${found[INTERVAL]})` + (found[MEAN] === null ? "" : `; random units ${found[MEAN]} (${found[Q05]} to ${found[Q95]})`);
    return box;
  }

  // -- the table

  const several = (name) => varying.has(name);

  function cellOf(kind, label, ...content) {
    const cell = make("td", null, { className: kind });
    if (label) cell.dataset.label = label;
    cell.append(...content.filter((x) => x !== null));
    return cell;
  }

  const number = (i) => (run) => measured(run)?.[i] ?? null;
  const own = (name) => (run) => run[name];
  const ORDERS = { run: own("name"), value: number(VALUE), p: number(P), verdict: said, time: own("time") };
  for (const name of [...FILTERS, ...COUNTS]) ORDERS[name] = own(name);
  const COLUMNS = [["run", "name"], ["picture", "dots"], ["value", "value num"], ["p", "p num"], ["verdict", "found"], ["time", "when"]];
  const LABELS = { p: "adjusted p", time: "finished" };

  function head(scale) {
    const cells = COLUMNS.map(([name, kind]) => {
      const cell = make("th", null, { scope: "col", className: kind });
      if (name === "picture") {
        cell.append(axis(scale));
        return cell;
      }
      const button = make("button", LABELS[name] ?? name, { type: "button" });
      button.dataset.sort = name;
      if (state.sort === name) cell.setAttribute("aria-sort", state.descending ? "descending" : "ascending");
      cell.append(button);
      return cell;
    });
    const tick = make("th", null, { scope: "col", className: "tick" });
    tick.append(make("span", "✓", { title: "ticked runs are set side by side" }));
    table.tHead.rows[0].replaceChildren(tick, ...cells);
  }

  /** What is drawn, in which unit, and round numbers where they lie. */
  function axis(scale) {
    const box = make("span", null, { className: "axis" }), option = form.elements.measure.selectedOptions[0];
    if (!scale || !option) return box;
    const { title, unit } = option.dataset;
    const rough = (scale.high - scale.low) / 4, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((x) => x * power).find((x) => x >= rough);
    box.append(make("span", unit ? `${title}, ${unit}` : title, { className: "title" }));
    for (let i = Math.ceil(scale.low / step); i * step <= scale.high; i++) {
      const at = make("span", Number((i * step).toPrecision(12)).toString());
      at.style.left = `${place(i * step, scale).toFixed(2)}%`;
      box.append(at);
    }
    return box;
  }

  /** What tells a run from the others: its components and numbers, as far as they are not the same in all. */
  function setting(run) {
    const counts = { prompts: "prompt", controls: "control set" };
    const parts = [...FILTERS, ...COUNTS].filter(several).filter((name) => run[name] !== null);
    const text = parts.map((name) => (counts[name] ? counted(run[name], counts[name]) : name === "seed" ? `seed ${run[name]}` : run[name])).join(" · ");
    const small = make("small");
    for (const piece of text.split(/(?<=,)/)) small.append(piece, make("wbr")); // parameters break between, not within
    return small;
  }

  function row(run, scale) {
    const found = measured(run), line = make("tr");
    const box = make("input", null, { type: "checkbox", checked: state.ticked.has(run.folder) });
    box.setAttribute("aria-label", `Tick ${run.name}`);
    const link = make("a", run.name, { href: `${encodeURIComponent(run.folder)}/report.html` });
    line.dataset.folder = run.folder;
    if (!found) line.className = "without";
    line.append(
      cellOf("tick", null, box),
      cellOf("name", null, link, setting(run)),
      cellOf("dots", null, plot(found, scale)),
      cellOf("value num", null, found ? found[TEXT] : "-", found ? make("small", found[INTERVAL]) : null),
      cellOf("p num", LABELS.p, found ? found[P_TEXT] : "-"),
      cellOf("found", null, badge(run, found)),
      cellOf("when", LABELS.time, (run.time ?? "-").replace("T", " ").slice(0, 16)),
    );
    return line;
  }

  function badge(run, found) {
    if (!found || !found[VERDICT]) return "-";
    const about = listed.verdicts[found[VERDICT]] ?? { style: "unknown", sign: "" };
    const text = `${about.sign} ${said(run)}${found[FINDING] ? ", a finding" : ""}`;
    return make("span", text, { className: `badge ${about.style}` });
  }

  let waiting = null;

  /** The first rows now, the others when there is time for them. */
  function fillRows(runs, scale) {
    const rest = runs.slice(FIRST), body = table.tBodies[0];
    const append = (n) => body.append(...rest.splice(0, n).map((run) => row(run, scale)));
    body.replaceChildren(...runs.slice(0, FIRST).map((run) => row(run, scale)));
    waiting = append;
    const more = () => {
      if (waiting !== append || !rest.length) return;
      append(FIRST);
      setTimeout(more);
    };
    setTimeout(more);
  }

  addEventListener("beforeprint", () => waiting?.(Infinity));

  function render() {
    chosen = chosenMeasures();
    const runs = shown(), scale = scaleOf(runs);
    head(scale);
    fillRows(runs, scale);
    const all = counted(listed.runs.length, "run"), same = FILTERS.filter((name) => !several(name));
    const common = listed.runs.length > 1 && same.length ? `; in all: ${same.map((name) => `${name} ${listed.runs[0][name]}`).join(", ")}` : "";
    const none = "No run is finished here yet; one that finishes appears.";
    $("status").textContent = listed.runs.length ? `${runs.length === listed.runs.length ? all : `${runs.length} of ${all}`}${common}` : none;
    table.hidden = $("legend").hidden = $("keys").hidden = form.hidden = !listed.runs.length;
    tickedChanged();
    toAddress();
  }

  // -- choices, from what there is

  function fill(select, options, first) {
    const before = select.value;
    select.replaceChildren(...(first === undefined ? [] : [make("option", first, { value: "" })]), ...options);
    choose(select, before);
    select.closest("label").hidden = first !== undefined && options.length < 2;
  }

  function prepare() {
    texts = new Map();
    varying = new Set([...FILTERS, ...COUNTS].filter((name) => new Set(listed.runs.map((run) => run[name])).size > 1));
    const orders = Object.keys(ORDERS).filter((name) => ![...FILTERS, ...COUNTS].includes(name) || several(name));
    fill(form.elements.sort, orders.map((name) => make("option", LABELS[name] ?? name, { value: name })));
    const titles = new Map();
    for (const { title, unit, n, primary } of listed.measures) {
      const known = titles.get(title) ?? { unit, n: 0, primary: 0 };
      titles.set(title, { unit: known.unit, n: Math.max(known.n, n), primary: known.primary | primary });
    }
    const measures = [...titles].sort((a, b) => b[1].primary - a[1].primary || b[1].n - a[1].n).map(([title, { unit, n, primary }]) => {
      const option = make("option", n === listed.runs.length ? title : `${title} (${counted(n, "run")})`, { value: title });
      Object.assign(option.dataset, { title, unit: unit ?? "" });
      return [primary, option];
    });
    const groups = [["primary", 1], ["others", 0]].map(([label, of]) => {
      const group = make("optgroup", null, { label });
      group.append(...measures.filter(([primary]) => primary === of).map(([, option]) => option));
      return group;
    }).filter((group) => group.children.length);
    fill(form.elements.measure, groups.length > 1 ? groups : measures.map(([, option]) => option));
    for (const name of FILTERS) {
      const values = [...new Set(listed.runs.map((run) => keyOfFilter(run, name)))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
      fill(form.elements[name], values.map((value) => make("option", value, { value })), "all");
    }
    const verdicts = new Set(listed.runs.flatMap((run) => Object.values(run.measures).map((found) => found[VERDICT])));
    fill(form.elements.verdict, Object.keys(listed.verdicts).filter((word) => verdicts.has(word)).map((value) => make("option", value, { value })), "all");
    $("notes").replaceChildren(...listed.notes.map((note) => make("li", note)));
  }

  // -- ticked runs, side by side

  function tickedChanged() {
    const names = [...state.ticked], bar = $("ticked"), link = $("compare");
    bar.hidden = !names.length;
    if (!names.length) return;
    const same = (set) => set.length === names.length && set.every((name) => state.ticked.has(name));
    const ready = names.length >= 2 && names.length <= MOST;
    const query = names.map((name) => `run=${encodeURIComponent(name)}`).join("&");
    const address = links.compare ? `${links.compare}?${query}` : links.compared.find(([set]) => same(set))?.[1];
    link.hidden = !ready || !address;
    if (!link.hidden) link.href = address;
    const more = names.length < 2 ? "tick another one to set them side by side" : !ready ? `at most ${MOST} are set side by side` : address ? "" : `harness compare ${names.join(" ")} sets them side by side`;
    bar.querySelector("p").textContent = `${names.join(", ")}${more ? `: ${more}` : ""}`;
  }

  function tick(folder, on) {
    if (on) state.ticked.add(folder);
    else state.ticked.delete(folder);
    for (const line of table.tBodies[0].rows) if (line.dataset.folder === folder) line.querySelector("input").checked = on;
    tickedChanged();
    toAddress();
  }

  // -- hands

  function order(name, descending) {
    Object.assign(state, { sort: name, descending });
    form.elements.sort.value = name;
    form.elements.descending.checked = descending;
  }

  /** All measures of all runs, which are many: they are fetched, or read out of the page, when somebody asks for them. */
  async function withEvery() {
    if (every) return;
    $("status").textContent = "All measures are being read ...";
    every = $("every-data") ? embedded("every-data") : await (await fetch(links.every)).json();
  }

  /** What the address asks for, as soon as it is there. */
  async function show() {
    const asked = new URLSearchParams(location.hash.slice(1)).has("every");
    if (asked) await withEvery().catch(() => {}); // the server has ended: the primary ones are here
    fromAddress();
    render();
  }

  form.elements.every.addEventListener("input", (event) => {
    event.stopPropagation();
    toAddress();
    show();
  });
  form.addEventListener("input", (event) => {
    if (event.target === form.elements.sort) order(event.target.value, event.target.value === "time");
    if (event.target === form.elements.descending) order(state.sort, event.target.checked);
    render();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => {
    order("time", true);
    listed = primary;
    prepare();
    render();
  }));
  table.tHead.addEventListener("click", (event) => {
    const name = event.target.dataset?.sort;
    if (!name) return;
    order(name, state.sort === name ? !state.descending : name === "time");
    render();
    table.tHead.querySelector(`[data-sort="${name}"]`).focus();
  });
  table.tBodies[0].addEventListener("change", (event) => tick(event.target.closest("tr").dataset.folder, event.target.checked));
  $("untick").addEventListener("click", () => {
    state.ticked.clear();
    render();
  });
  addEventListener("hashchange", show);

  function move(step) {
    const here = document.activeElement.closest?.("#runs tbody tr"), lines = [...table.tBodies[0].rows];
    const next = here ? lines.indexOf(here) + step : step > 0 ? 0 : lines.length - 1;
    const link = lines[Math.min(Math.max(next, 0), lines.length - 1)]?.querySelector("a");
    link?.focus();
    link?.scrollIntoView({ block: "nearest" });
  }

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = document.activeElement, typing = at.matches?.("input:not([type=checkbox]), select, textarea");
    if (typing) {
      if (event.key === "Escape") at.blur();
      if (at === search && (event.key === "ArrowDown" || event.key === "Enter")) {
        event.preventDefault();
        move(1);
      }
      return;
    }
    const line = at.closest?.("#runs tbody tr");
    const acts = {
      "/": () => search.focus(),
      j: () => move(1),
      k: () => move(-1),
      ArrowDown: line && (() => move(1)),
      ArrowUp: line && (() => move(-1)),
      x: line && (() => tick(line.dataset.folder, !state.ticked.has(line.dataset.folder))),
      c: !$("compare").hidden && !$("ticked").hidden && (() => $("compare").click()),
    };
    if (!acts[event.key]) return;
    event.preventDefault();
    acts[event.key]();
  });

  document.addEventListener("runschange", async (event) => {
    const at = document.activeElement.closest?.("#runs tbody tr")?.dataset.folder;
    [primary, every] = [event.detail, null];
    await show();
    for (const line of table.tBodies[0].rows) if (at && line.dataset.folder === at) line.querySelector("a").focus();
  });

  form.elements.every.closest("label").hidden = !links.every && !$("every-data");
  show();
}
