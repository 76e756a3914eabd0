// Control distributions: a stretch that is brushed (mouse, finger, arrow keys) says how many controls lie in it.

for (const drawing of document.querySelectorAll("svg.histogram")) {
  const bars = [...drawing.querySelectorAll(".bars rect")].map((bar) => ({
    bar, left: Number(bar.getAttribute("x")), right: Number(bar.getAttribute("x")) + Number(bar.getAttribute("width")),
    low: Number(bar.dataset.low), high: Number(bar.dataset.high), count: Number(bar.dataset.count),
  }));
  const total = bars.reduce((sum, one) => sum + one.count, 0);
  const said = make("p", "", { className: "brush" });
  said.setAttribute("role", "status");
  drawing.after(said);
  drawing.tabIndex = 0;
  drawing.setAttribute("aria-description", "Arrow keys brush the bars, with shift to widen the stretch, Escape ends it");
  let from = null, to = null, pressed = false;

  function show() {
    const [first, last] = from <= to ? [from, to] : [to, from];
    bars.forEach(({ bar }, i) => bar.classList.toggle("in", from !== null && i >= first && i <= last));
    if (from === null) {
      said.textContent = "";
      return;
    }
    const share = (rows) => {
      const n = rows.reduce((sum, one) => sum + one.count, 0);
      return `${n} of ${total} (${(100 * n / total).toPrecision(3)}%)`;
    };
    const unit = drawing.dataset.unit;
    const [low, high] = [bars[first].low, bars[last].high];
    said.textContent = `Random controls from ${low} to ${high}${unit}: ${share(bars.slice(first, last + 1))}; `
      + `above ${share(bars.slice(last + 1))}, below ${share(bars.slice(0, first))}.`;
  }

  function barAt(event) {
    const box = drawing.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * drawing.viewBox.baseVal.width;
    const distance = ({ left, right }) => Math.max(left - x, x - right, 0);
    return bars.reduce((best, one, i) => (distance(one) < distance(bars[best]) ? i : best), 0);
  }

  drawing.addEventListener("pointerdown", (event) => {
    pressed = true;
    drawing.setPointerCapture(event.pointerId);
    from = to = barAt(event);
    show();
  });
  drawing.addEventListener("pointermove", (event) => {
    if (!pressed) return;
    to = barAt(event);
    show();
  });
  for (const end of ["pointerup", "pointercancel"]) drawing.addEventListener(end, () => { pressed = false; });
  drawing.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (event.key === "Escape") from = to = null;
    else if (step) {
      to = to === null ? (step > 0 ? 0 : bars.length - 1) : Math.min(bars.length - 1, Math.max(0, to + step));
      if (from === null || !event.shiftKey) from = to;
      event.preventDefault();
    } else return;
    show();
  });
}
