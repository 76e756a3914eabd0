// The scatter plot of all neurons: any two scores, the selected ones marked, one that is searched for ringed.

(async () => {
  const data = await unpack("neurons-data");
  const section = document.getElementById("scatter");
  if (!data || !section) return;
  section.hidden = false;
  const form = section.querySelector("form").elements;
  const status = section.querySelector(".status");
  const selected = new Set(data.selected);
  const scores = { ...data.scores, "place in the list": data.neuron.map((_, i) => i) };
  const names = Object.keys(scores);
  for (const [select, chosen] of [[form.x, 0], [form.y, Math.min(1, names.length - 1)]]) {
    for (const name of names) select.add(new Option(name.replaceAll("_", " "), name));
    select.selectedIndex = chosen;
  }

  /** Logarithmic where all are positive and the selected ones, or most of them, span decades downwards. */
  function wantsLog(name) {
    const known = scores[name].filter((x) => x !== null).sort((a, b) => a - b);
    if (!known.length || known[0] <= 0) return false;
    const at = (q) => known[Math.floor(q * (known.length - 1))];
    const least = Math.min(...data.selected.map((i) => scores[name][i] ?? Infinity));
    return at(0.95) / at(0.05) > 100 || at(0.5) / least > 100;
  }
  // A share that is rounding noise for most and near 1 for the selected ones is read on its own scale.
  const isShare = (name) => scores[name].every((x) => x === null || (x >= 0 && x <= 1.001)) &&
    data.selected.some((i) => scores[name][i] > 0.1);
  const useLog = (name) => wantsLog(name) && !isShare(name);

  let found = null;
  const describe = (i) =>
    [data.neuron[i] + (selected.has(i) ? " (selected)" : ""),
     ...Object.keys(data.scores).map((name) => `${name.replaceAll("_", " ")} ${data.scores[name][i] ?? "none"}`)];

  function points(keep) {
    const [x, y] = [scores[form.x.value], scores[form.y.value]];
    const visible = (value, log) => value !== null && (!log || value > 0);
    return data.neuron
      .map((_, i) => ({ x: x[i], y: y[i], i }))
      .filter((p) => keep(p.i) && visible(p.x, form.xlog.checked) && visible(p.y, form.ylog.checked));
  }

  const labels = { // names beside the selected points, while they are few
    id: "labels",
    afterDatasetsDraw(chart) {
      const drawn = chart.getDatasetMeta(1).data;
      if (drawn.length > 14) return;
      const c = chart.ctx;
      c.save();
      c.font = "12px system-ui, sans-serif";
      c.fillStyle = colour("text");
      const taken = [];
      drawn.forEach((element, k) => {
        const text = data.neuron[chart.data.datasets[1].data[k].i];
        const width = c.measureText(text).width;
        const left = element.x + 9 + width > chart.chartArea.right ? element.x - 9 - width : element.x + 9;
        let top = element.y + 4;
        while (taken.some(([l, t, w]) => Math.abs(t - top) < 13 && left < l + w && l < left + width)) top += 13;
        taken.push([left, top, width]);
        c.fillText(text, left, top);
      });
      c.restore();
    },
  };

  const axis = () => ({
    type: "linear", title: { display: true, text: "", color: colour("text") },
    ticks: { color: colour("dim"), maxTicksLimit: 8 }, grid: { color: colour("line") },
  });
  const chart = new Chart(section.querySelector("canvas"), {
    type: "scatter",
    data: { datasets: [{ label: "others" }, { label: "selected" }, { label: "found" }] },
    options: {
      animation: false, maintainAspectRatio: false, scales: { x: axis(), y: axis() },
      interaction: { mode: "nearest", intersect: true },
      plugins: {
        legend: { labels: { usePointStyle: true, color: colour("text"), filter: (item) => item.text !== "found" || found !== null } },
        tooltip: { callbacks: { label: (item) => describe(item.raw.i) } },
      },
    },
    plugins: [labels],
  });

  function draw() {
    const text = colour("text");
    const [others, chosen, ringed] = chart.data.datasets;
    Object.assign(others, { data: points((i) => !selected.has(i)), backgroundColor: colour("others") + "99", borderWidth: 0, pointRadius: 3, pointHoverRadius: 6 });
    Object.assign(chosen, { data: points((i) => selected.has(i)), backgroundColor: colour("selected"), borderColor: text, borderWidth: 1, pointStyle: "rectRot", pointRadius: 7, pointHoverRadius: 9, order: -1 });
    Object.assign(ringed, { data: points((i) => i === found), backgroundColor: "transparent", borderColor: colour("link"), borderWidth: 3, pointRadius: 11, pointHoverRadius: 11, order: -2 });
    for (const [name, select, log] of [["x", form.x, form.xlog], ["y", form.y, form.ylog]]) {
      chart.options.scales[name] = { ...axis(), type: log.checked ? "logarithmic" : "linear" };
      if (log.checked) chart.options.scales[name].ticks.callback = (value) => Number(value).toExponential(0);
      chart.options.scales[name].title.text = select.selectedOptions[0].text;
    }
    chart.options.plugins.legend.labels.color = text;
    chart.update();
    const missing = data.neuron.length - others.data.length - chosen.data.length;
    const left = missing ? `${missing} without a place on these axes are left out (no value, or not positive). ` : "";
    status.textContent = left + (found === null ? "" : describe(found).join(", "));
  }

  function choose() {
    form.xlog.checked = useLog(form.x.value);
    form.ylog.checked = useLog(form.y.value);
    draw();
  }
  form.x.addEventListener("change", choose);
  form.y.addEventListener("change", choose);
  form.xlog.addEventListener("change", draw);
  form.ylog.addEventListener("change", draw);
  form.find.addEventListener("input", () => {
    const wanted = form.find.value.trim();
    const place = data.neuron.indexOf(wanted);
    found = place < 0 ? null : place;
    draw();
    if (wanted && found === null) status.textContent = `There is no ${wanted} here.`;
  });
  section.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("themechange", draw);
  choose();
})();
