"use strict";
// What is under way, asked for again and again while somebody looks.
{
  const SECONDS = 2;
  const section = document.getElementById("live");
  const links = JSON.parse(document.getElementById("links-data").textContent);
  let version = JSON.parse(document.getElementById("runs-data").textContent).version;

  function show(running) {
    section.hidden = !running.length;
    section.querySelector("ul").replaceChildren(...running.map((one) => {
      const item = make("li", null, { className: one.still ? "still" : "" });
      const names = one.names.length > 3 ? `${one.names.slice(0, 3).join(", ")} and ${one.names.length - 3} more` : one.names.join(", ");
      item.append(make("strong", names));
      if (one.total && !one.still) {
        const bar = make("progress", null, { max: one.total, value: Math.min(one.done, one.total) });
        bar.setAttribute("aria-label", `${one.step}: ${one.done} of ${one.total}`);
        item.append(bar, make("span", `${one.done} of ${one.total}: `));
      } else item.append(": ");
      item.append(one.said);
      return item;
    }));
  }

  async function ask() {
    try {
      const told = await (await fetch(links.live[0])).json();
      show(told.running);
      if (told.version !== version) {
        const found = await (await fetch(links.live[1])).json();
        version = found.version;
        document.dispatchEvent(new CustomEvent("runschange", { detail: found }));
      }
      section.classList.remove("lost");
    } catch {
      if (!section.hidden) section.classList.add("lost"); // the server has ended; what it said last stays
    }
  }

  if (links.live) {
    ask();
    setInterval(() => document.hidden || ask(), 1000 * SECONDS);
    document.addEventListener("visibilitychange", () => document.hidden || ask());
  }
}
