"use strict";
(() => {
  const list = document.getElementById("cases");
  const rows = Array.from(list.children);
  const search = document.getElementById("search");
  const order = document.getElementById("order");
  const turn = document.getElementById("turn");
  const shown = document.getElementById("shown");
  const none = document.getElementById("none");
  const chips = Array.from(document.querySelectorAll("button.chip"));
  const wanted = new Set();
  let reversed = false;

  const number = (row, name) => Number(row.dataset[name]);
  const nth = (row, position) => Number(row.dataset.numbers.split(" ")[position]);
  const orders = {
    priority: (a, b) => number(a, "rank") - number(b, "rank"),
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }),
    flags: (a, b) => number(b, "count") - number(a, "count") || orders.priority(a, b),
  };

  function compare() {
    const [kind, position] = order.value.split(" ");
    const by = kind === "number" ? (a, b) => nth(b, position) - nth(a, position) : orders[kind];
    return reversed ? (a, b) => by(b, a) : by;
  }

  function sort() {
    list.append(...rows.sort(compare()));
  }

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const flags = row.dataset.flags.split(" ");
      const text = row.dataset.name.toLowerCase();
      const fits = words.every((word) => text.includes(word)) && [...wanted].every((flag) => flags.includes(flag));
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = count === rows.length ? `${count} ${list.dataset.noun}` : `${count} of ${rows.length} ${list.dataset.noun}`;
    none.hidden = count > 0;
  }

  function reveal() {
    const row = document.getElementById(location.hash.slice(1));
    if (row instanceof HTMLDetailsElement) {
      row.open = true;
      row.scrollIntoView({ block: "start" });
    }
  }

  for (const chip of chips) {
    chip.addEventListener("click", () => {
      const flag = chip.dataset.flag;
      if (!wanted.delete(flag)) wanted.add(flag);
      chip.setAttribute("aria-pressed", String(wanted.has(flag)));
      filter();
    });
  }
  search.addEventListener("input", filter);
  order.addEventListener("change", sort);
  turn.addEventListener("click", () => {
    reversed = !reversed;
    turn.setAttribute("aria-pressed", String(reversed));
    sort();
  });
  document.getElementById("open").addEventListener("click", () => {
    const visible = rows.filter((row) => !row.hidden);
    const opening = visible.some((row) => !row.open);
    for (const row of visible) row.open = opening;
  });
  addEventListener("hashchange", reveal);
  document.body.classList.add("live");
  filter();
  reveal();
})();
