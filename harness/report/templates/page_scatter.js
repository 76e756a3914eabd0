// The scatter plot of all neurons: any two scores, the selected ones marked, one that is searched for ringed.

const DECADES = 1e-8; // what is smaller than this share of the median is rounding of the sums that scores are made of

(async () => {
  const data = await unpack("neurons-data");
  const section = document.getElementById("scatter");
  if (!data || !section) return;
  section.hidden = false;
  const form = section.querySelector("form").elements;
  const status = section.querySelector(".status");
  const selected = new Set(data.selected);
  const scores = { ...data.scores };
  if (Object.keys(scores).length === 1) { // one score against where it stands: how far the selected ones are ahead
    const [[name, values]] = Object.entries(data.scores);
    const ordered = values.map((value, i) => [value, i]).filter(([value]) => value !== null).sort((a, b) => b[0] - a[0]);
    const rank = values.map(() => null);
    ordered.forEach(([, i], place) => { rank[i] = place + 1; });
    delete scores[name];
    scores[`rank by ${name}`] = rank;
    scores[name] = values;
  }
  const names = Object.keys(scores);
  for (const [select, chosen] of [[form.x, 0], [form.y, telling()]]) {
    for (const name of names) select.add(new Option(name.replaceAll("_", " "), name));
    select.selectedIndex = chosen;
  }

  /** The score to begin with: the second, or where the selected lie on each other in it, the one that parts all most. */
  function telling() {
    const reach = (values, trim) => {
      const known = values.filter((x) => x !== null).sort((a, b) => a - b);
      const at = (q) => known[Math.round(q * (known.length - 1))];
      return known.length > 1 ? at(1 - trim) - at(trim) : 0;
    };
    const own = (name) => reach(data.selected.map((i) => scores[name][i]), 0) / (reach(scores[name], 0) || 1);
    const parts = (name) => own(name) * reach(scores[name], 0.05) / (reach(scores[name], 0) || 1);
    const rest = names.slice(1);
    if (rest.length < 2 || own(rest[0]) > 0.02) return Math.min(1, names.length - 1);
    return names.indexOf(rest.reduce((best, name) => (parts(name) > parts(best) ? name : best)));
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

  /** On a logarithmic axis the value below which points stand at its edge: what is left of a sum that is 0 but for rounding. */
  const floorOf = (name) => {
    const known = scores[name].filter((x) => x > 0).sort((a, b) => a - b);
    const middle = known[Math.floor(known.length / 2)];
    return known.length && known[0] < middle * DECADES ? middle * DECADES : null;
  };

  let found = null;
  const describe = (i) =>
    [data.neuron[i] + (selected.has(i) ? " (selected)" : ""),
     ...Object.keys(data.scores).map((name) => `${name.replaceAll("_", " ")} ${data.scores[name][i] ?? "none"}`),
     ...Object.entries(data.notes?.[data.neuron[i]] ?? {}).map(([name, text]) => `${name.replaceAll("_", " ")}: ${text}`)];

  function points(keep) {
    const [x, y] = [scores[form.x.value], scores[form.y.value]];
    const [xFloor, yFloor] = [form.xlog.checked && floorOf(form.x.value), form.ylog.checked && floorOf(form.y.value)];
    const visible = (value, log) => value !== null && (!log || value > 0);
    const least = (value, floor) => (floor ? Math.max(value, floor) : value);
    return data.neuron
      .map((_, i) => ({ x: x[i], y: y[i], i }))
      .filter((p) => keep(p.i) && visible(p.x, form.xlog.checked) && visible(p.y, form.ylog.checked))
      .map((p) => ({ ...p, x: least(p.x, xFloor), y: least(p.y, yFloor) }));
  }

  /** Where to write names beside their points: the first of a ring of places that covers no name and leaves no axis. */
  function places(drawn, sizes, area) {
    const taken = drawn.map(({ x, y }) => [x - 8, y - 8, x + 8, y + 8]);
    return drawn.map(({ x, y }, k) => {
      const width = sizes[k];
      for (const reach of [10, 22, 36, 52, 70, 90]) {
        for (let turn = 0; turn < 16; turn += 1) {
          const angle = turn * Math.PI / 8;
          const centre = [x + Math.cos(angle) * (reach + width / 2), y + Math.sin(angle) * (reach + 2)];
          const box = [centre[0] - width / 2 - 2, centre[1] - 7, centre[0] + width / 2 + 2, centre[1] + 7];
          const inside = box[0] >= area.left && box[2] <= area.right && box[1] >= area.top && box[3] <= area.bottom;
          if (inside && !taken.some((one) => box[0] < one[2] && one[0] < box[2] && box[1] < one[3] && one[1] < box[3])) {
            taken.push(box);
            return { centre, far: reach > 22 };
          }
        }
      }
      return null; // no room: the table above has it
    });
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
      c.textAlign = "center";
      c.textBaseline = "middle";
      c.strokeStyle = colour("dim");
      const texts = chart.data.datasets[1].data.map((point) => data.neuron[point.i]);
      places(drawn, texts.map((text) => c.measureText(text).width), chart.chartArea).forEach((place, k) => {
        if (!place) return;
        if (place.far) {
          c.beginPath();
          c.moveTo(drawn[k].x, drawn[k].y);
          c.lineTo(...place.centre);
          c.stroke();
          c.save();
          c.fillStyle = colour("page");
          c.fillRect(place.centre[0] - c.measureText(texts[k]).width / 2 - 1, place.centre[1] - 7, c.measureText(texts[k]).width + 2, 14);
          c.restore();
        }
        c.fillText(texts[k], ...place.centre);
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
    Object.assign(chosen, { data: points((i) => selected.has(i)), backgroundColor: colour("selected"), borderColor: text, borderWidth: 1, pointStyle: "rectRot", clip: 12, pointRadius: 7, pointHoverRadius: 9, order: -1 });
    Object.assign(ringed, { data: points((i) => i === found), backgroundColor: "transparent", borderColor: colour("link"), borderWidth: 3, pointRadius: 11, pointHoverRadius: 11, order: -2 });
    for (const [name, select, log] of [["x", form.x, form.xlog], ["y", form.y, form.ylog]]) {
      chart.options.scales[name] = { ...axis(), type: log.checked ? "logarithmic" : "linear" };
      if (log.checked) chart.options.scales[name].ticks.callback = (value) => Number(value).toExponential(0);
      chart.options.scales[name].title.text = select.selectedOptions[0].text;
    }
    chart.options.plugins.legend.labels.color = text;
    chart.update();
    const floors = [[form.x, form.xlog], [form.y, form.ylog]].map(([select, log]) => [select.value, log.checked && floorOf(select.value)])
      .filter(([, floor]) => floor).map(([name, floor]) => `${name.replaceAll("_", " ")} below ${floor.toPrecision(2)} stands at the edge. `).join("");
    const missing = data.neuron.length - others.data.length - chosen.data.length;
    const left = missing ? `${missing} without a place on these axes are left out (no value, or not positive). ` : "";
    status.textContent = floors + left + (found === null ? "" : describe(found).join(", "));
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
